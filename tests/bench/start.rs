//! From the start of the process to the first question to a relay, with a full store.

use super::common::{Bench, LONG, SHAPE, note, settle, setup_with, two_relays, world_on};
use super::engine::{Driven, settings, store_in};
use crate::support::events::unix_now;
use crate::support::mock_relay::{MockRelay, RelayLimits};
use crate::support::process::{Process, Setup};
use crate::support::wait::wait_until;
use nostr::event::Event;
use std::time::{Duration, Instant};

const STARTS: usize = 5;
/// Events whose index entries waited in memory when the process was killed: nearly the most that may.
const MEMTABLE: usize = 25_000;

pub fn run(bench: &mut Bench) {
    let relays = two_relays(RelayLimits::default(), None);
    let world = world_on(&relays, SHAPE);
    let setup = setup_with(&relays);
    let (indexed, memtable) = world.events.split_at(world.events.len() - MEMTABLE);
    setup.import_events(indexed, &[]);
    import_unindexed(&setup, memtable);
    drop(world);
    let (cpu, _) = best_start(&setup, &relays, Process::kill);
    note(&format!(
        "{:.0} ms of processor to the first REQ after a crash that left {MEMTABLE} of them out of the indexes",
        cpu.as_secs_f64() * 1e3
    ));

    // What a relay has been asked already is stored as well, and read at start.
    let process = setup.start();
    process.wait_live(relays.len(), LONG);
    settle(&process);
    stop(process);
    let (cpu, wall) = best_start(&setup, &relays, stop);
    note(&format!("{:.0} ms on the clock; the best of {STARTS} starts", wall.as_secs_f64() * 1e3));
    let row = format!(
        "start with 100,000 events stored: {:.0} ms of processor to the first REQ (at most 200)",
        cpu.as_secs_f64() * 1e3
    );
    bench.check(cpu <= Duration::from_millis(200), &row);
}

/// Takes in events and ends as in a crash: they are durable, and the indexes lack them.
fn import_unindexed(setup: &Setup, events: &[Event]) {
    let lines: Vec<String> = events.iter().map(Event::as_json).collect();
    let store = store_in(&setup.store_file()).with_memtable_max(usize::MAX);
    let mut driven = Driven::new(settings(), unix_now(), store);
    let before = driven.last_seq();
    driven.import(lines.iter().map(String::as_str));
    assert_eq!(driven.last_seq() - before, events.len() as u64);
}

fn stop(process: Process) {
    assert!(process.stop_within(Duration::from_secs(30)).success(), "it ends cleanly");
}

/// The least of several starts: processor time, and time on the clock.
fn best_start(setup: &Setup, relays: &[MockRelay], end: impl Fn(Process)) -> (Duration, Duration) {
    let start = |_| {
        // What the one before has sent may still be read.
        wait_until("the relays are alone", LONG, || relays.iter().all(|relay| relay.connections() == 0));
        relays.iter().for_each(MockRelay::forget_seen);
        let begun = Instant::now();
        let process = setup.spawn();
        wait_until("the first REQ is out", LONG, || relays.iter().any(|r| r.with_seen(|seen| seen.reqs > 0)));
        let took = (process.cpu_time(), begun.elapsed());
        end(process);
        took
    };
    (0..STARTS).map(start).min().expect("several starts")
}
