//! How long one turn of the loop takes while two relays send all they have and one client reads nothing: as the loop counts
//! it, and as another client feels it that asks the smallest question again and again.

use super::common::{Bench, LONG, SHAPE, note, quantile, setup_with, sum_seen, two_relays, world_on};
use crate::support::client::Client;
use crate::support::mock_relay::RelayLimits;
use crate::support::wait::measure_over;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn run(bench: &mut Bench) {
    let relays = two_relays(RelayLimits::default(), None);
    let world = world_on(&relays, SHAPE);
    let process = setup_with(&relays).start();
    // Its answers fill its link until the link is given up.
    let mut deaf = process.client();
    deaf.subscribe(&[json!({"limit": 500})]);
    let done = Arc::new(AtomicBool::new(false));
    let (client, of_thread) = (process.client(), Arc::clone(&done));
    let asker = std::thread::spawn(move || ask_until(client, &of_thread));
    process.wait_stored(world.events.len(), LONG);
    done.store(true, Ordering::SeqCst);
    let mut waits = asker.join().expect("the asker does not panic");
    drop(deaf);

    let metrics = process.metrics();
    let turns = metrics.sum("grasp_sync_loop_turns_total", &[]);
    let slow = metrics.sum("grasp_sync_loop_slow_turns_total", &[]);
    assert!(turns > 0.0 && metrics.has("grasp_sync_loop_slow_turns_total", &[]), "the metrics count turns");
    let row = format!("{slow} of {turns} turns of the loop took more than 50 ms, commits left out (at most 1 %)");
    bench.check(slow <= turns / 100.0, &row);
    let commits = metrics.sum("grasp_sync_commit_seconds_count", &[]);
    let commit_secs = metrics.sum("grasp_sync_commit_seconds_sum", &[]);
    note(&format!(
        "{commits:.0} commits of {:.1} ms on average while {} events came",
        1e3 * commit_secs / commits.max(1.0),
        sum_seen(&relays, |seen| seen.events_sent)
    ));
    let asked = waits.len();
    let (median, p99, most) = (quantile(&mut waits, 500), quantile(&mut waits, 990), quantile(&mut waits, 1_000));
    // Commits are in it: what cannot be told apart from outside.
    note(&format!(
        "a client's question meanwhile is answered within {:.1} ms (99 % of {asked}, commits included), half within {:.1} ms, all within {:.1} ms",
        p99.as_secs_f64() * 1e3,
        median.as_secs_f64() * 1e3,
        most.as_secs_f64() * 1e3
    ));
}

/// How long the answers to a question took that matches nothing.
fn ask_until(mut client: Client, done: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    while !done.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let subscription = client.subscribe(&[json!({"ids": ["00".repeat(32)]})]);
        client.stored(&subscription);
        waits.push(begun.elapsed());
        client.close(&subscription);
        measure_over(Duration::from_millis(3));
    }
    waits
}
