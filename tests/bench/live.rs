//! Events that appear on a relay while we follow it: how long until a subscriber of the own relay has them, and how many
//! a second for how long.

use super::common::{Bench, DOMAIN, LONG, mean, mib, note, number, quantile, quarter, settle, verify_alone};
use crate::support::client::Client;
use crate::support::events::{Author, padding, unix_now};
use crate::support::mock_relay::MockRelay;
use crate::support::process::{Process, Setup};
use crate::support::wait::{measure_over, wait_at_most};
use crate::support::world::{Shape, World};
use nostr::event::{Event, EventId};
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Few enough root events that all are followed live.
const SHAPE: Shape = Shape { repos: 100, roots_per_repo: 5, comments: 1_000, padding: 490, relays_per_repo: 1 };

/// An instance that follows one relay live.
struct Following {
    relay: MockRelay,
    world: World,
    setup: Setup,
    process: Process,
}

fn following() -> Following {
    let relay = MockRelay::start();
    let world = World::new(SHAPE, DOMAIN, &[&relay.url()], unix_now());
    relay.data().add(&world.events);
    let setup = Setup::new(DOMAIN).bootstrap(&relay.url()).log("warn,grasp_sync=info");
    setup.import_events(&world.events, &[]);
    let process = setup.start();
    process.wait_live(1, LONG);
    settle(&process);
    Following { relay, world, setup, process }
}

impl Following {
    /// Comment number `n` on one of the root events: it makes nothing new to be asked about.
    fn comment(&self, n: u64) -> Event {
        let person = Author::from_seed(4_000 + n % 10);
        let roots = self.world.roots();
        person.comment(&roots[(n as usize * 17) % roots.len()], unix_now(), &padding((1 << 42) + n, SHAPE.padding))
    }
}

/// A live event from relay to subscriber on an idle machine.
pub fn latency(bench: &mut Bench) {
    const EVENTS: u64 = 1_000;
    // Nearer to each other, an event waits for the share of time that commits may take.
    const APART: Duration = Duration::from_millis(50);
    let following = following();
    let events: Vec<Event> = (0..EVENTS).map(|n| following.comment(n)).collect();
    let mut client = following.process.client();
    let subscription = client.subscribe(&[json!({"kinds": [1111], "limit": 0})]);
    client.stored(&subscription);
    let reader = std::thread::spawn(move || arrivals(client, &subscription, EVENTS as usize));
    let mut published = HashMap::new();
    for event in &events {
        published.insert(event.id, Instant::now());
        following.relay.data().add([event]);
        measure_over(APART);
    }
    let arrived = reader.join().expect("the reader does not panic");
    let mut took: Vec<Duration> = arrived.iter().map(|(id, at)| *at - published[id]).collect();
    let mut synced = disk_alone(following.setup.dir().path());
    let (median, p99, most) = (quantile(&mut took, 500), quantile(&mut took, 990), quantile(&mut took, 1_000));
    note(&format!(
        "limit: this disk alone takes {:.2} ms to write and sync 4 KiB (median; 99 % within {:.2} ms)",
        millis(quantile(&mut synced, 500)),
        millis(quantile(&mut synced, 990))
    ));
    let metrics = following.process.metrics();
    let commits = metrics.sum("grasp_sync_commit_seconds_count", &[]);
    note(&format!(
        "{commits:.0} commits of {:.2} ms on average",
        1e3 * metrics.sum("grasp_sync_commit_seconds_sum", &[]) / commits.max(1.0)
    ));
    note(&format!("{} of {EVENTS} events came, the slowest after {:.1} ms", took.len(), millis(most)));
    let row = format!("a live event reaches a subscriber in {:.2} ms (median, at most 3)", millis(median));
    bench.check(took.len() == events.len() && median <= Duration::from_millis(3), &row);
    let row = format!("99 % of live events reach a subscriber in {:.2} ms (at most 30)", millis(p99));
    bench.check(took.len() == events.len() && p99 <= Duration::from_millis(30), &row);
}

/// When each event came; ends when all have, or none comes for a while.
fn arrivals(mut client: Client, subscription: &str, count: usize) -> Vec<(EventId, Instant)> {
    let mut arrived = Vec::with_capacity(count);
    while arrived.len() < count {
        let Some(event) = client.next_event(subscription, Duration::from_secs(10)) else { break };
        arrived.push((event.id, Instant::now()));
    }
    arrived
}

/// What it takes to write 4 KiB to the end of a file and sync it.
fn disk_alone(dir: &Path) -> Vec<Duration> {
    let mut file = File::create(dir.join("sync-alone")).expect("the directory is writable");
    let mut once = || {
        let start = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("the disk takes it");
        start.elapsed()
    };
    (0..300).map(|_| once()).collect()
}

/// Many live events a second for long: `BENCH_SUSTAINED_SECS` (20 by default, 600 for the claim) at
/// `BENCH_SUSTAINED_RATE` a second (5,250).
pub fn sustained(bench: &mut Bench) {
    let seconds = number("BENCH_SUSTAINED_SECS", 20);
    let rate = number("BENCH_SUSTAINED_RATE", 5_250);
    let limit = verify_alone();
    let following = following();
    let (cpu, begun) = (following.process.cpu_time(), Instant::now());
    let already = following.process.events_stored();
    let mut memory = Vec::new();
    let mut published = 0;
    let mut fresh = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        let batch: Vec<Event> = (published..due).map(|n| following.comment(n)).collect();
        following.relay.data().add(&batch);
        published = due;
        fresh.extend(batch.iter().map(|event| event.id));
        forget_old(&following.relay, &mut fresh);
        if begun.elapsed() >= Duration::from_secs(seconds) * memory.len() as u32 / SAMPLES {
            memory.push(following.process.resident_bytes());
        }
        measure_over(Duration::from_millis(5));
    }
    let behind = Instant::now();
    let stored = || following.process.events_stored() - already;
    let all = wait_at_most(Duration::from_secs(60), || (stored() >= published).then_some(()));
    let (took, late) = (begun.elapsed(), behind.elapsed());
    let cpu = following.process.cpu_time() - cpu;
    report_sustained(bench, &memory, (stored(), published), took, late);
    note(&format!(
        "{:.1} µs of processor an event, {:.2} x the limit",
        cpu.as_secs_f64() * 1e6 / published as f64,
        cpu.as_secs_f64() / published as f64 / limit.as_secs_f64()
    ));
    bench.check(all.is_some(), "every live event published was stored");
}

/// Looks at memory over a run: many, as the store fills and empties its tables in memory every few seconds.
const SAMPLES: u32 = 400;

fn report_sustained(bench: &mut Bench, memory: &[u64], stored: (u64, u64), took: Duration, late: Duration) {
    let (stored, published) = stored;
    let per_second = stored as f64 / took.as_secs_f64();
    let row = format!(
        "{stored} of {published} live events stored in {:.1} s: {per_second:.0} a second (at least 5,000), the last {:.2} s after it was published",
        took.as_secs_f64(),
        late.as_secs_f64()
    );
    bench.check(per_second >= 5_000.0, &row);
    let text: Vec<String> = memory.iter().step_by(20).map(|bytes| format!("{:.1}", mib(*bytes))).collect();
    note(&format!("MiB resident over the run: {}", text.join(" ")));
    // The store's cache and the buffers fill in the first quarter.
    let of_quarter = |n| mean(quarter(memory, n), |bytes| *bytes as f64);
    let (second, last) = (of_quarter(1), of_quarter(3));
    let row = format!(
        "resident memory {:.1} MiB in the second quarter and {:.1} MiB in the last (at most 5 % more)",
        mib(second as u64),
        mib(last as u64)
    );
    bench.check(last <= second * 1.05, &row);
}

/// Takes out of the relay what it sent a while ago, so that hours of events do not fill this process.
fn forget_old(relay: &MockRelay, fresh: &mut Vec<EventId>) {
    const KEPT: usize = 50_000;
    if fresh.len() > 2 * KEPT {
        fresh.drain(..KEPT).for_each(|id| relay.data().remove(&id));
        relay.forget_seen();
    }
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}
