//! New events by pages, and what negentropy shares with it: one catch-up from nothing.

use super::common::{Bench, LONG, SHAPE, mib, micros, note, setup_with, sum_seen, two_relays, verify_alone, world_on};
use crate::support::mock_relay::{MockRelay, RelayLimits};
use crate::support::process::Process;
use crate::support::wait::wait_at_most;
use crate::support::world::Shape;
use std::time::{Duration, Instant};

/// 100,000 new events by pages of 500, from two relays.
pub fn run(bench: &mut Bench) {
    let relays = two_relays(RelayLimits::default(), None);
    let limit = verify_alone();
    let run = catch_up(&relays, SHAPE);
    let ratio = run.cpu_each.as_secs_f64() / limit.as_secs_f64();
    let row =
        format!("new events by pages cost {:.1} µs each, {ratio:.2} x the limit (at most 2)", micros(run.cpu_each));
    bench.check(ratio <= 2.0, &row);
    let row = format!("by pages {:.2} downloads per event over both relays (at most 4)", run.downloads);
    bench.check(run.downloads <= 4.0, &row);
}

/// What a catch-up from nothing took.
pub struct CaughtUp {
    pub cpu_each: Duration,
    /// Events per second while any came: the windows in which changes are gathered are left out.
    pub per_second: f64,
    /// Events received for each that is new.
    pub downloads: f64,
    pub events: u64,
    /// Until everything is stored and followed live.
    pub elapsed: Duration,
    /// Of it, the time in which no event came: windows.
    pub windows: Duration,
}

/// Catches up with `relays`, which are given a world of `shape` first. Panics if it does not become complete.
pub fn catch_up(relays: &[MockRelay], shape: Shape) -> CaughtUp {
    let events = world_on(relays, shape).events.len();
    let setup = setup_with(relays);
    let start = Instant::now();
    let process = setup.start();
    let busy = wait_stored_watching(&process, relays, events);
    process.wait_live(relays.len(), LONG);
    let (cpu, elapsed) = (process.cpu_time(), start.elapsed());
    let received = sum_seen(relays, |seen| seen.events_sent);
    let (up, down) = (sum_seen(relays, |seen| seen.bytes().0), sum_seen(relays, |seen| seen.bytes().1));
    let run = CaughtUp {
        cpu_each: cpu / events as u32,
        per_second: events as f64 / busy.as_secs_f64(),
        downloads: received as f64 / events as f64,
        events: events as u64,
        elapsed,
        windows: elapsed.saturating_sub(busy),
    };
    note(&format!(
        "{events} new events in {:.1} s, of which {:.1} s outside of windows, with {:.2} s of processor ({:.1} MiB peak)",
        elapsed.as_secs_f64(),
        busy.as_secs_f64(),
        cpu.as_secs_f64(),
        mib(process.resident_bytes_peak())
    ));
    note(&format!(
        "{:.1} MB sent to the relays, {:.1} MB received, {received} events among it",
        up as f64 / 1e6,
        down as f64 / 1e6
    ));
    let metrics = process.metrics();
    let lines = metrics.text().lines().filter(|line| line.starts_with("grasp_sync_reconciliations_total{"));
    lines.for_each(note);
    run
}

/// Waits until everything is stored; gives the time during which events came.
fn wait_stored_watching(process: &Process, relays: &[MockRelay], events: usize) -> Duration {
    let mut busy = Duration::ZERO;
    let (mut before, mut at, mut looked) = (0, Instant::now(), Instant::now());
    let stored = wait_at_most(LONG, || {
        let (sent, now) = (sum_seen(relays, |seen| seen.events_sent), Instant::now());
        if now - at >= SLICE {
            busy += if sent > before { now - at } else { Duration::ZERO };
            (before, at) = (sent, now);
        }
        if now - looked < LOOK {
            return None;
        }
        looked = now;
        (process.events_stored() >= events as u64).then_some(())
    });
    assert!(stored.is_some(), "{} of {events} events stored", process.events_stored());
    busy
}

/// A time in which nothing came is part of a window.
const SLICE: Duration = Duration::from_millis(50);
/// Between two looks at the metrics, which cost the process time.
const LOOK: Duration = Duration::from_millis(250);
