//! What the README claims about speed and memory, measured on this machine: `cargo bench`, or `cargo bench -- NAME…` for
//! some of `verify`, `catchup`, `memory` and `idle`. Ends with 1 if a claim does not hold.
//!
//! Every speed is a ratio to the machine's own limit, taken in the same run: parsing and verifying an event (BIP-340) on
//! one core with the crate that the daemon uses.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real clock")]
#![allow(clippy::print_stdout, reason = "the figures are the purpose")]

#[path = "../support/mod.rs"]
mod support;

use nostr::event::Event;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::events::unix_now;
use support::mock_relay::{MockRelay, RelayData, RelayLimits};
use support::process::{Process, Setup, cpu_time};
use support::wait::{measure_over, wait_until};
use support::world::{Shape, World};

const DOMAIN: &str = "grasp.test";
const LONG: Duration = Duration::from_secs(600);
const CONNECTIONS: usize = 100;

/// 100,000 events of about 1.1 kB.
const SHAPE: Shape = Shape { repos: 1_000, roots_per_repo: 50, comments: 49_000, padding: 490, relays_per_repo: 2 };

fn main() -> ExitCode {
    // Cargo adds flags of its own, such as `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let mut claims = Claims::default();
    if wanted("verify") || wanted("catchup") {
        let limit = verify_alone();
        if wanted("catchup") {
            catch_up(limit, &mut claims);
        }
    }
    if wanted("memory") {
        memory(&mut claims);
    }
    if wanted("idle") {
        idle(&mut claims);
    }
    claims.finish()
}

#[derive(Default)]
struct Claims {
    rows: Vec<(bool, String)>,
}

impl Claims {
    fn check(&mut self, holds: bool, row: String) {
        println!("{}  {row}", if holds { "pass" } else { "FAIL" });
        self.rows.push((holds, row));
    }

    fn finish(self) -> ExitCode {
        let failed = self.rows.iter().filter(|(holds, _)| !holds).count();
        println!("\n{} claims, {failed} failed", self.rows.len());
        ExitCode::from(u8::from(failed > 0))
    }
}

/// The machine's limit: processor time to parse and verify one event of the world, on one core.
fn verify_alone() -> Duration {
    const EVENTS: usize = 20_000;
    let shape = Shape { repos: 200, roots_per_repo: 50, comments: EVENTS - 10_200, relays_per_repo: 2, ..SHAPE };
    let world = World::new(shape, DOMAIN, &["wss://a.test", "wss://b.test"], unix_now());
    let lines: Vec<String> = world.events.iter().map(Event::as_json).collect();
    let bytes: usize = lines.iter().map(String::len).sum();
    let best = (0..3)
        .map(|_| {
            let start = cpu_time("self");
            for line in &lines {
                let event = Event::from_json(line).expect("an event");
                event.verify().expect("a signed event");
            }
            cpu_time("self") - start
        })
        .min()
        .expect("three runs");
    let each = best / EVENTS as u32;
    println!(
        "      verify: {:.1} µs to parse and verify an event of {} bytes: {:.0} a second on one core",
        micros(each),
        bytes / EVENTS,
        1.0 / each.as_secs_f64()
    );
    each
}

/// 100,000 new events from two relays, and then the same when all are known.
fn catch_up(limit: Duration, claims: &mut Claims) {
    let data = RelayData::default();
    let relays = [(); 2].map(|()| MockRelay::with(data.clone(), RelayLimits::default(), None));
    let world = World::new(SHAPE, DOMAIN, &[&relays[0].url(), &relays[1].url()], unix_now());
    data.add(&world.events);
    let total = world.events.len();
    let setup = Setup::new(DOMAIN).bootstrap(&relays[0].url()).log("warn,grasp_sync=info");

    let start = Instant::now();
    let process = setup.start();
    process.wait_stored(total, LONG);
    process.wait_live(2, LONG);
    let (cpu, elapsed, received) = (process.cpu_time(), start.elapsed(), sent(&relays));
    let new = cpu / total as u32;
    let ratio = new.as_secs_f64() / limit.as_secs_f64();
    println!(
        "      catch-up: {total} new events, {received} received, in {:.1} s with {:.1} s of processor ({:.1} MiB peak)",
        elapsed.as_secs_f64(),
        cpu.as_secs_f64(),
        mib(process.resident_bytes_peak())
    );
    claims.check(
        ratio <= 2.0,
        format!("new events cost {:.1} µs each, {ratio:.2} x parse and verify (at most 2)", micros(new)),
    );
    assert!(process.stop_within(Duration::from_secs(5)).success(), "it ends cleanly");

    known_again(&setup.toml("[timing]\ndaily_catchup_secs = 1"), &relays, total, new, claims);
}

/// A full catch-up with both relays when the store already has everything: due at once, because the last is a second old.
fn known_again(setup: &Setup, relays: &[MockRelay; 2], total: usize, new: Duration, claims: &mut Claims) {
    relays.iter().for_each(MockRelay::forget_seen);
    let process = setup.start();
    // Reading the store at start is not part of the claim; the first thousand events mark its end.
    wait_until("the full catch-up has begun", LONG, || sent(relays) >= 1_000);
    let (cpu_before, sent_before) = (process.cpu_time(), sent(relays));
    wait_until("every event was sent by both again", LONG, || {
        relays.iter().all(|relay| relay.with_seen(|seen| seen.sent.len() >= total))
    });
    let (cpu, received) = (process.cpu_time() - cpu_before, sent(relays) - sent_before);
    let known = cpu / u32::try_from(received).expect("fewer than four billion events");
    let factor = new.as_secs_f64() / known.as_secs_f64();
    println!("      catch-up: {received} known events received with {:.1} s of processor", cpu.as_secs_f64());
    claims.check(
        factor >= 10.0,
        format!("known events cost {:.2} µs each, {factor:.1} x less than new ones (at least 10)", micros(known)),
    );
}

/// Resident memory at the design target: everything stored, a hundred relays connected.
fn memory(claims: &mut Claims) {
    let shape = Shape { relays_per_repo: 5, ..SHAPE };
    let relay = MockRelay::start();
    let urls: Vec<String> = (0..CONNECTIONS).map(|n| format!("{}/{n}", relay.url())).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let world = World::new(shape, DOMAIN, &urls, unix_now());
    relay.data().add(&world.events);
    let setup = Setup::new(DOMAIN);
    setup.import_events(&world.events, &[]);
    drop(world);
    let process = setup.start();
    process.wait_live(CONNECTIONS, LONG);
    assert_eq!(relay.connections(), CONNECTIONS);
    measure_over(Duration::from_secs(3));
    let (resident, peak) = (process.resident_bytes(), process.resident_bytes_peak());
    claims.check(
        mib(resident) <= 64.0,
        format!(
            "{:.1} MiB resident with 1,000 repos, 50,000 root events, {} events stored, {CONNECTIONS} connections (at most 64; peak {:.1})",
            mib(resident),
            shape.events(),
            mib(peak)
        ),
    );
}

/// Wake-ups of an idle process with a hundred connections, against the pings it has to send.
fn idle(claims: &mut Claims) {
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
    claims.check(
        woken <= 2 * pings + 1,
        format!(
            "idle for {} s with {CONNECTIONS} connections: {woken} wake-ups for {pings} pings (at most two each), {} ms of processor",
            WINDOW.as_secs(),
            spent.as_millis()
        ),
    );
}

/// Waits until nothing has woken the process for two seconds, or the first pings have gone out.
fn settle(process: &Process) {
    wait_until("it goes to sleep", Duration::from_secs(60), || {
        let before = process.voluntary_switches();
        measure_over(Duration::from_secs(2));
        process.voluntary_switches() == before
    });
}

fn sent(relays: &[MockRelay]) -> u64 {
    relays.iter().map(|relay| relay.with_seen(|seen| seen.events_sent)).sum()
}

fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
