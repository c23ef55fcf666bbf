//! Who finds a place while strangers hold as many as they can.

use crate::stranger::{DOMAIN, Scene, Stranger};
use crate::support::process::{Setup, free_port};
use crate::support::wait::{measure_over, wait_until};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MIB_MAX: u64 = 128;

/// As if the clients came from elsewhere: this machine itself is not bound by what goes by address otherwise.
fn setup() -> Setup {
    Setup::new(DOMAIN).toml("[limits]\nloopback_exempt = false")
}

#[test]
fn one_address_holds_its_share_of_clients_and_no_more() {
    let mut scene = Scene::new(&setup().toml("clients_per_address = 100"));
    let strangers: Vec<_> = (0..150).filter_map(|_| Stranger::connect(scene.process.relay()).ok()).collect();
    assert_eq!(strangers.len(), 99, "one is the innocent client");
    // The rest of the places is for others; here there is only one address, so one of its own has to go.
    drop(strangers.into_iter().next());
    scene.judge("150 idle clients of one address", MIB_MAX);
}

#[test]
fn half_heads_do_not_close_the_door() {
    for setup in [setup(), Setup::new(DOMAIN)] {
        let mut scene = Scene::new(&setup);
        let mut halves = Vec::new();
        for _ in 0..400 {
            halves.push(Stranger::ask(scene.process.relay(), "GET / HTT").expect("a connection"));
        }
        scene.judge("400 half heads", MIB_MAX);
        drop(halves);
    }
}

/// A way to ourselves that does not show: as a proxy or a router gives under a name that is not the service's.
#[test]
fn names_that_lead_to_ourselves_are_not_links_and_take_no_places_of_clients() {
    const NAMES: usize = 300;
    static DIALS: AtomicUsize = AtomicUsize::new(0);
    let (here, there) = (free_port(), TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let port = there.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        for socket in there.incoming().flatten() {
            let Ok(onward) = TcpStream::connect(("127.0.0.1", here)) else { continue };
            DIALS.fetch_add(1, Ordering::SeqCst);
            let pairs = [(socket.try_clone(), onward.try_clone()), (Ok(onward), Ok(socket))];
            for (from, to) in pairs {
                let (mut from, mut to) = (from.expect("a socket"), to.expect("a socket"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    let names = (0..NAMES).map(|n| format!("ws://127.0.0.1:{port}/{n}"));
    let setup = names.fold(Setup::new(DOMAIN).listen_on(here), |setup, name| setup.bootstrap(&name));
    let mut scene = Scene::new(&setup);
    let own = |scene: &Scene| {
        let labels = ["side=\"relay\"", "reason=\"own_address\""];
        scene.process.metrics().sum("grasp_sync_links_closed_total", &labels) as usize
    };
    wait_until("all are found out", Duration::from_secs(120), || own(&scene) == NAMES);
    let dials = DIALS.load(Ordering::SeqCst);
    // Whoever was refused would be dialled again after 5 s.
    measure_over(Duration::from_secs(7));
    assert_eq!(DIALS.load(Ordering::SeqCst), dials, "none is dialled again soon");
    assert_eq!(scene.process.metrics().sum("grasp_sync_clients", &[]) as usize, 1, "the innocent client");
    scene.judge("300 names that lead to ourselves", MIB_MAX);
}
