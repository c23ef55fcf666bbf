//! Known events received again: a full catch-up by pages when the store has everything.

use super::common::{Bench, LONG, SHAPE, micros, note, setup_with, sum_seen, two_relays, verify_alone, world_on};
use crate::support::mock_relay::RelayLimits;
use crate::support::wait::wait_until;

pub fn run(bench: &mut Bench) {
    let relays = two_relays(RelayLimits::default(), None);
    let limit = verify_alone();
    let world = world_on(&relays, SHAPE);
    let total = world.events.len();
    let setup = setup_with(&relays);
    setup.import_events(&world.events, &[]);
    drop(world);
    // Nothing has been asked of the relays yet, so the first catch-up is a full one.
    let process = setup.start();
    // Reading the store at start is not part of the claim; the first thousand events mark its end.
    let sent = || sum_seen(&relays, |seen| seen.events_sent);
    wait_until("the full catch-up has begun", LONG, || sent() >= 1_000);
    let (cpu_before, sent_before) = (process.cpu_time(), sent());
    wait_until("every event was sent by both again", LONG, || {
        relays.iter().all(|relay| relay.with_seen(|seen| seen.sent.len() >= total))
    });
    let (cpu, received) = (process.cpu_time() - cpu_before, sent() - sent_before);
    let known = cpu / u32::try_from(received).expect("fewer than four billion events");
    note(&format!("{received} known events received with {:.2} s of processor", cpu.as_secs_f64()));
    let row = format!(
        "known events cost {:.2} µs each (at most 3), a {:.1}th of the limit for new ones",
        micros(known),
        limit.as_secs_f64() / known.as_secs_f64()
    );
    bench.check(micros(known) <= 3.0, &row);
}
