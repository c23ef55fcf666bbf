//! The own relay's answers: filters of every shape over 100,000 events.

use super::common::{Bench, DOMAIN, SHAPE, note, quantile};
use crate::support::client::Client;
use crate::support::events::unix_now;
use crate::support::process::{Process, Setup};
use crate::support::world::World;
use nostr::event::Event;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Queries of each shape.
const QUERIES: usize = 50;
/// A look at every event takes longer than this, whatever the machine.
const SCAN: Duration = Duration::from_millis(15);

pub fn run(bench: &mut Bench) {
    let world = World::new(SHAPE, DOMAIN, &["wss://a.test"], unix_now());
    let setup = Setup::new(DOMAIN).log("warn,grasp_sync=info");
    setup.import_events(&world.events, &[]);
    let process = setup.start();
    let mut client = process.client();
    let (mut slowest, mut scans) = (Duration::ZERO, Vec::new());
    for (name, filter) in shapes() {
        let seen = ask(&process, &mut client, &world, filter);
        note(&format!(
            "{name:<34} {:>6.0} events, first after {:.2} ms (99 %: {:.2}), {:.2} ms of processor",
            seen.events,
            millis(seen.first),
            millis(seen.first_p99),
            millis(seen.cpu)
        ));
        slowest = slowest.max(seen.first);
        if seen.events <= 500.0 && seen.cpu > SCAN {
            scans.push(name);
        }
    }
    let row = format!(
        "own relay: the first event of the slowest shape comes after {:.2} ms (median, at most 2)",
        millis(slowest)
    );
    bench.check(slowest <= Duration::from_millis(2), &row);
    let row = format!("own relay: no shape costs more than {} ms of processor: {scans:?}", SCAN.as_millis());
    bench.check(scans.is_empty(), &row);
}

/// Query number `n` of a shape.
type Ask = fn(&World, usize) -> Value;

fn shapes() -> Vec<(&'static str, Ask)> {
    fn comment(w: &World, n: usize) -> &Event {
        &w.comments()[n * 541 % w.comments().len()]
    }
    fn root(w: &World, n: usize) -> &Event {
        &w.roots()[n * 541 % w.roots().len()]
    }
    fn repo(w: &World, n: usize) -> &str {
        &w.addresses[n * 7 % w.addresses.len()]
    }
    vec![
        ("no condition, limit 500", |_, _| json!({"limit": 500})),
        ("one id", |w, n| json!({"ids": [comment(w, n).id]})),
        ("100 ids", |w, n| json!({"ids": (0..100).map(|k| comment(w, n + 31 * k).id).collect::<Vec<_>>()})),
        ("one author, limit 500", |w, n| json!({"authors": [comment(w, n).pubkey], "limit": 500})),
        (
            "40 authors, limit 500",
            |w, _| json!({"authors": (0..40).map(|k| root(w, k * 37).pubkey).collect::<Vec<_>>(), "limit": 500}),
        ),
        ("a frequent kind, limit 500", |_, _| json!({"kinds": [1111], "limit": 500})),
        ("a kind that no event has", |_, _| json!({"kinds": [7777], "limit": 500})),
        ("author and kind", |w, n| json!({"authors": [comment(w, n).pubkey], "kinds": [1111], "limit": 500})),
        (
            "author and a kind of which none",
            |w, n| json!({"authors": [comment(w, n).pubkey], "kinds": [1633], "limit": 500}),
        ),
        ("#a of a repo", |w, n| json!({"#a": [repo(w, n)]})),
        (
            "#a of 100 repos, limit 500",
            |w, n| json!({"#a": (0..100).map(|k| repo(w, n + k)).collect::<Vec<_>>(), "limit": 500}),
        ),
        ("#e of a root", |w, n| json!({"#e": [root(w, n).id]})),
        ("#E of 100 roots", |w, n| json!({"#E": (0..100).map(|k| root(w, n + k).id).collect::<Vec<_>>()})),
        ("#d and kind", |_, n| json!({"kinds": [30617], "#d": [format!("repo-{n}")]})),
        ("#p frequent, limit 500", |w, n| json!({"#p": [root(w, n).pubkey], "limit": 500})),
        ("#p that nobody has", |_, _| json!({"#p": ["ff".repeat(32)]})),
        ("#a and a kind of which none", |w, n| json!({"#a": [repo(w, n)], "kinds": [1633]})),
        ("#E and #p", |w, n| json!({"#E": [root(w, n).id], "#p": [root(w, n).pubkey]})),
        (
            "since, a day",
            |_, n| json!({"since": unix_now() - 86_400 * (n as u64 + 1), "until": unix_now() - 86_400 * n as u64}),
        ),
        ("until, kind, limit 1", |_, n| json!({"kinds": [1621], "until": unix_now() - 500_000 * n as u64, "limit": 1})),
        (
            "author, old until, limit 10",
            |w, n| json!({"authors": [comment(w, n).pubkey], "until": unix_now() - 500_000 * n as u64, "limit": 10}),
        ),
    ]
}

/// What queries of one shape took.
struct Asked {
    /// On average.
    events: f64,
    /// Until the first event, or EOSE if there is none.
    first: Duration,
    first_p99: Duration,
    /// Of the process, for one query, answer and all.
    cpu: Duration,
}

fn ask(process: &Process, client: &mut Client, world: &World, filter: Ask) -> Asked {
    let (mut firsts, mut events) = (Vec::with_capacity(QUERIES), 0);
    let cpu = process.cpu_time();
    for n in 0..QUERIES {
        let filter = filter(world, n);
        let begun = Instant::now();
        let subscription = client.subscribe(&[filter]);
        let mut first = None;
        loop {
            let message = client.next_matching(Duration::from_secs(20), |m| m[1] == *subscription).expect("an answer");
            first.get_or_insert_with(|| begun.elapsed());
            match message[0].as_str() {
                Some("EVENT") => events += 1,
                Some("EOSE") => break,
                _ => panic!("instead of EOSE: {message}"),
            }
        }
        firsts.extend(first);
        client.close(&subscription);
    }
    let cpu = (process.cpu_time() - cpu) / QUERIES as u32;
    let (first, first_p99) = (quantile(&mut firsts, 500), quantile(&mut firsts, 990));
    Asked { events: events as f64 / QUERIES as f64, first, first_p99, cpu }
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}
