//! The daily full catch-up with a relay that has just what we have, by negentropy: what it costs to learn that.

use super::common::{Bench, LONG, NIP_77, SHAPE, note, settle, setup_with, world_on};
use crate::support::mock_relay::{MockRelay, RelayData, RelayLimits};
use crate::support::process::Process;
use crate::support::wait::{wait_at_most, wait_until};
use std::time::{Duration, Instant};

/// Long enough that the process sleeps between two.
const DAY_SECS: u64 = 30;
/// How long a catch-up asks nothing before it counts as ended.
const QUIET: Duration = Duration::from_millis(1_500);
/// A GRASP holds git events only, so that it may be asked for everything.
const GRASP: &str = r#"{"name":"bench","supported_nips":[1,11,77],"supported_grasps":["GRASP-01"]}"#;

pub fn run(bench: &mut Bench) {
    let day = daily(NIP_77);
    let ratio = day.neg_bytes as f64 / day.filter_bytes as f64;
    day.print("by chunk filters");
    let row =
        format!("identical 100,000 by chunk filters: {ratio:.3} x the bytes of the filters themselves (at most 1.2)");
    bench.check(ratio <= 1.2 && day.fetched == 0, &row);

    let day = daily(GRASP);
    day.print("as one set");
    let row = format!("identical 100,000 as one set: {:.1} ms of processor (at most 50)", day.cpu.as_secs_f64() * 1e3);
    bench.check(day.cpu <= Duration::from_millis(50), &row);
    let each = (day.neg_bytes - day.filter_bytes) / day.reconciliations.max(1);
    let row = format!("identical 100,000 as one set: {each} bytes a set beyond its filter, on average (at most 2,000)");
    bench.check(each <= 2_000 && day.fetched == 0 && day.reconciliations > 0, &row);
}

/// One daily catch-up of a process that was asleep.
struct Day {
    cpu: Duration,
    /// Negentropy's messages both ways.
    neg_bytes: u64,
    /// The filters in them.
    filter_bytes: u64,
    reconciliations: u64,
    fetched: u64,
    /// All other messages both ways: live subscriptions that are opened anew.
    other_bytes: u64,
}

impl Day {
    fn print(&self, how: &str) {
        note(&format!(
            "{how}: {} reconciliations, {} bytes of negentropy of which {} are filters, {} other bytes, {:.1} ms of processor",
            self.reconciliations,
            self.neg_bytes,
            self.filter_bytes,
            self.other_bytes,
            self.cpu.as_secs_f64() * 1e3
        ));
    }
}

fn daily(document: &str) -> Day {
    let relays = [MockRelay::with(RelayData::default(), RelayLimits::default().reconciling(), None)];
    relays[0].set_info(document);
    let world = world_on(&relays, SHAPE);
    let setup = setup_with(&relays).toml(&format!("[timing]\ndaily_catchup_secs = {DAY_SECS}"));
    setup.import_events(&world.events, &[]);
    drop(world);
    let process = setup.start();
    process.wait_live(1, LONG);
    settle(&process);
    relays[0].forget_seen();
    let cpu = process.cpu_time();
    wait_until("the next day begins", LONG, || opened(&relays[0]) > 0);
    wait_day_end(&relays[0]);
    day(&relays[0], &process, cpu)
}

fn opened(relay: &MockRelay) -> u64 {
    relay.with_seen(|seen| seen.received.get("NEG-OPEN").map_or(0, |traffic| traffic.messages))
}

fn wait_day_end(relay: &MockRelay) {
    let (mut last, mut since) = (0, Instant::now());
    let ended = wait_at_most(LONG, || {
        let bytes = relay.with_seen(|seen| seen.message_bytes_received);
        if bytes != last {
            (last, since) = (bytes, Instant::now());
        }
        (since.elapsed() >= QUIET).then_some(())
    });
    assert!(ended.is_some(), "the daily catch-up has no end");
}

fn day(relay: &MockRelay, process: &Process, cpu_before: Duration) -> Day {
    let cpu = process.cpu_time() - cpu_before;
    relay.with_seen(|seen| {
        let received: u64 =
            seen.received.iter().filter(|(kind, _)| kind.starts_with("NEG-")).map(|(_, t)| t.bytes).sum();
        let sent: u64 = seen.said.iter().filter(|(kind, _)| kind.starts_with("NEG-")).map(|(_, t)| t.bytes).sum();
        let all = seen.bytes();
        Day {
            cpu,
            neg_bytes: received + sent,
            filter_bytes: seen.neg_filter_bytes,
            reconciliations: seen.received.get("NEG-OPEN").map_or(0, |t| t.messages),
            fetched: seen.events_sent,
            other_bytes: all.0 + all.1 - received - sent,
        }
    })
}
