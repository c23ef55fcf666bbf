//! New events by negentropy.

use super::common::{Bench, NIP_77, SHAPE, micros, note, sum_seen, two_relays, verify_alone};
use super::pages::{CaughtUp, catch_up};
use crate::support::mock_relay::RelayLimits;
use std::time::Duration;

/// The limit is the best of several runs, and so is this: on a machine with neighbours a single run of ten seconds would be
/// compared with the luckiest second.
const RUNS: usize = 3;

/// 100,000 new events from two relays that reconcile.
pub fn run(bench: &mut Bench) {
    let runs: Vec<(Duration, CaughtUp)> = (0..RUNS).map(|_| (verify_alone(), one_run())).collect();
    let limit = runs.iter().map(|(limit, _)| *limit).min().expect("several runs");
    let cpu_each = runs.iter().map(|(_, run)| run.cpu_each).min().expect("several runs");
    let per_second = runs.iter().map(|(_, run)| run.per_second).fold(0.0, f64::max);
    let downloads = runs.iter().map(|(_, run)| run.downloads).fold(0.0, f64::max);
    let ratio = cpu_each.as_secs_f64() / limit.as_secs_f64();
    let row = format!(
        "new events by negentropy cost {:.1} µs each, {ratio:.2} x the limit (at most 1.4); the best of {RUNS} runs each",
        micros(cpu_each)
    );
    bench.check(ratio <= 1.4, &row);
    let share = per_second * limit.as_secs_f64();
    let row = format!(
        "by negentropy {per_second:.0} events/s, {share:.2} of what verification alone does (at least 9/14: 0.64)"
    );
    bench.check(share >= 9.0 / 14.0, &row);
    let row = format!("by negentropy {downloads:.2} downloads per event over both relays (at most 2.1)");
    bench.check(downloads <= 2.1, &row);
}

fn one_run() -> CaughtUp {
    let relays = two_relays(RelayLimits::default().reconciling(), Some(NIP_77));
    let run = catch_up(&relays, SHAPE);
    let fetched = sum_seen(&relays, |seen| seen.events_fetched);
    let neg = |seen: &crate::support::mock_relay::Seen| {
        let received = seen.received.iter().filter(|(kind, _)| kind.starts_with("NEG-")).map(|(_, t)| t.bytes);
        received.sum::<u64>() + seen.said.get("NEG-MSG").map_or(0, |t| t.bytes)
    };
    note(&format!(
        "{:.1} % of the events were fetched by id; negentropy itself took {:.1} MB both ways",
        100.0 * fetched as f64 / (run.downloads * run.events as f64),
        sum_seen(&relays, neg) as f64 / 1e6
    ));
    run
}
