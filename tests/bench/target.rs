//! The world that the design aims at, 76,000 events on two relays that cap their answers at 500 events and allow 20
//! subscriptions: once by pages, once by negentropy. `tests/scale.rs` goes on from there with an outage and a restart.

use super::common::{Bench, NIP_77, micros, note, two_relays, verify_alone};
use super::pages::catch_up;
use crate::support::mock_relay::RelayLimits;
use crate::support::world::Shape;
use std::time::Duration;

const WALL: Duration = Duration::from_secs(60);
const WINDOWS: Duration = Duration::from_secs(15);

pub fn run(bench: &mut Bench) {
    let limit = verify_alone();
    let pages = RelayLimits::default();
    for (way, limits, document, downloads_max) in
        [("pages", pages, None, 4.0), ("negentropy", pages.reconciling(), Some(NIP_77), 2.1)]
    {
        let relays = two_relays(limits, document);
        let run = catch_up(&relays, Shape::TARGET);
        let breaches: u64 = relays.iter().map(|relay| relay.with_seen(|seen| seen.breaches.total())).sum();
        note(&format!(
            "by {way} an event takes {:.1} µs of processor, {:.2} x the limit",
            micros(run.cpu_each),
            run.cpu_each.as_secs_f64() / limit.as_secs_f64()
        ));
        let row = format!(
            "the target by {way}: {} events complete and live after {:.1} s (at most {}), {:.1} of them windows (at most {})",
            run.events,
            run.elapsed.as_secs_f64(),
            WALL.as_secs(),
            run.windows.as_secs_f64(),
            WINDOWS.as_secs()
        );
        bench.check(run.elapsed <= WALL && run.windows <= WINDOWS, &row);
        let row = format!(
            "the target by {way}: {:.2} downloads per event over both relays (at most {downloads_max}), {breaches} limits broken",
            run.downloads
        );
        bench.check(run.downloads <= downloads_max && breaches == 0, &row);
    }
}
