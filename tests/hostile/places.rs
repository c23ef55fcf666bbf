//! Who finds a place while strangers hold as many as they can.

use crate::stranger::{DOMAIN, Scene, Stranger};
use crate::support::process::Setup;

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
