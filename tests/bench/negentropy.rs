//! New events by negentropy.

use super::common::{Bench, NIP_77, SHAPE, micros, note, sum_seen, two_relays, verify_alone};
use super::pages::catch_up;
use crate::support::mock_relay::RelayLimits;

/// 100,000 new events from two relays that reconcile.
pub fn run(bench: &mut Bench) {
    let relays = two_relays(RelayLimits::default().reconciling(), Some(NIP_77));
    let limit = verify_alone();
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
    let ratio = run.cpu_each.as_secs_f64() / limit.as_secs_f64();
    let row = format!(
        "new events by negentropy cost {:.1} µs each, {ratio:.2} x the limit (at most 1.4)",
        micros(run.cpu_each)
    );
    bench.check(ratio <= 1.4, &row);
    let share = run.per_second * limit.as_secs_f64();
    let row = format!(
        "by negentropy {:.0} events/s, {share:.2} of what verification alone does (at least 9/14: 0.64)",
        run.per_second
    );
    bench.check(share >= 9.0 / 14.0, &row);
    let row = format!("by negentropy {:.2} downloads per event over both relays (at most 2.1)", run.downloads);
    bench.check(run.downloads <= 2.1, &row);
}
