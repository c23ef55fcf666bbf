//! Resident memory, and how seldom an idle process wakes.

use super::common::{Bench, DOMAIN, LONG, SHAPE, mib, run_alone, settle};
use super::engine::{relay_urls, settings};
use crate::support::certs::{Authority, Validity};
use crate::support::client::Client;
use crate::support::events::unix_now;
use crate::support::mock_relay::{MockRelay, RelayData, RelayLimits};
use crate::support::process::{Setup, resident_bytes};
use crate::support::wait::measure_over;
use crate::support::world::{Shape, World};
use grasp_sync::protocol::repo::Announcement;
use grasp_sync::state::State;
use nostr::event::EventId;
use serde_json::json;
use std::time::Duration;

const CONNECTIONS: usize = 100;

const CLIENTS: usize = 10;

/// Resident memory at the design target: everything stored, a hundred relays connected over TLS, the own relay serving.
pub fn run(bench: &mut Bench) {
    let shape = Shape { relays_per_repo: 5, ..SHAPE };
    let authority = Authority::new();
    let tls = authority.server_config("127.0.0.1", Validity::Valid);
    let relay = MockRelay::with(RelayData::default(), RelayLimits::default(), Some(tls));
    let urls: Vec<String> = (0..CONNECTIONS).map(|n| format!("wss://{}/{n}", relay.address())).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let world = World::new(shape, DOMAIN, &urls, unix_now());
    relay.data().add(&world.events);
    let setup = Setup::new(DOMAIN);
    let ca_file = setup.dir().write("ca.pem", authority.pem());
    let setup = setup.toml(&format!("ca_file = {:?}", ca_file.to_str().expect("a readable path")));
    setup.import_events(&world.events, &[]);
    drop(world);
    let process = setup.start();
    process.wait_live(CONNECTIONS, LONG);
    assert_eq!(relay.connections(), CONNECTIONS);
    // The own relay serves: each client has read stored events and stays for new ones.
    let filters = [json!({"kinds": [1111], "limit": 500}), json!({"kinds": [1621], "limit": 500})];
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| process.client()).collect();
    for client in &mut clients {
        let subscription = client.subscribe(&filters);
        assert_eq!(client.stored(&subscription).len(), 1_000);
    }
    measure_over(Duration::from_secs(3));
    let (resident, peak) = (process.resident_bytes(), process.resident_bytes_peak());
    let state = state_bytes(1_000, 50_000);
    let row = format!(
        "{:.1} MiB resident with 1,000 repos, 50,000 root events, {} events stored, {CONNECTIONS} TLS connections, {CLIENTS} clients (at most 48; peak {:.1})",
        mib(resident),
        shape.events(),
        mib(peak)
    );
    bench.check(mib(resident) <= 48.0, &row);
    let row =
        format!("{:.1} MiB of it is state, as a process that has nothing else grows by it (at most 6)", mib(state));
    bench.check(mib(state) <= 6.0, &row);
}

/// What the state of so many repos with so many root events takes of a process that has nothing else.
pub fn state_bytes(repos: usize, roots: usize) -> u64 {
    run_alone(&[STATE_ALONE, &repos.to_string(), &roots.to_string()]).trim().parse().expect("a number of bytes")
}

/// The argument by which the bench is told to be that process; the numbers follow.
pub const STATE_ALONE: &str = "state-alone";

/// Bytes by which this process grows when it builds a state.
pub fn state_alone(repos: usize, roots: usize) -> u64 {
    let relays = relay_urls(CONNECTIONS);
    let relays: Vec<&str> = relays.iter().map(String::as_str).collect();
    let shape = Shape { repos, roots_per_repo: 0, comments: 0, padding: 0, relays_per_repo: 5 };
    let world = World::new(shape, DOMAIN, &relays, unix_now());
    let parse = |event| Announcement::from_event(event, 16).expect("an announcement");
    let announcements: Vec<Announcement> = world.announcements().iter().map(parse).collect();
    let before = resident_bytes("self");
    let mut state = State::new(settings());
    for (n, announcement) in announcements.iter().enumerate() {
        state.set_announcement(announcement, n as u64 + 1);
    }
    for n in 0..roots {
        let mut id = [0; 32];
        // Spread as ids are: multiples of a large odd number.
        id[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let repo = std::slice::from_ref(&announcements[n % repos].addr);
        state.add_root(EventId::from_byte_array(id), (repos + n) as u64 + 1, repo);
    }
    let after = resident_bytes("self");
    assert_eq!(state.roots_held(), roots);
    after - before
}

/// Wake-ups of an idle process with a hundred connections, against the pings it has to send.
pub fn idle(bench: &mut Bench) {
    const WINDOW: Duration = Duration::from_secs(90);
    let shape = Shape { repos: CONNECTIONS, roots_per_repo: 2, comments: 100, padding: 100, relays_per_repo: 1 };
    let relay = MockRelay::start();
    let urls: Vec<String> = (0..CONNECTIONS).map(|n| format!("{}/{n}", relay.url())).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let world = World::new(shape, DOMAIN, &urls, unix_now());
    relay.data().add(&world.events);
    let setup = Setup::new(DOMAIN);
    setup.import_events(&world.events, &[]);
    let process = setup.start();
    process.wait_live(CONNECTIONS, LONG);
    settle(&process);
    let (switches, cpu, pings) = (process.voluntary_switches(), process.cpu_time(), relay.with_seen(|seen| seen.pings));
    measure_over(WINDOW);
    let woken = process.voluntary_switches() - switches;
    let pings = relay.with_seen(|seen| seen.pings) - pings;
    let spent = process.cpu_time() - cpu;
    // A ping needs one wake-up to be sent and one for its answer; one is left for whatever was on the way at the edges.
    bench.check(
        woken <= 2 * pings + 1,
        &format!(
            "idle for {} s with {CONNECTIONS} connections: {woken} wake-ups for {pings} pings (at most two each), {} ms of processor",
            WINDOW.as_secs(),
            spent.as_millis()
        ),
    );
}
