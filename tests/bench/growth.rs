//! How the cost of one event grows with how much there is: events, repos, relays and root events, each ten times as many.

use super::common::{Bench, micros, note, verify_alone};
use super::engine::{DOMAIN, Driven, relay_urls, settings, store_in};
use super::memory::state_bytes;
use crate::support::events::{Author, padding, unix_now};
use crate::support::process::{TempDir, cpu_time_of_thread};
use crate::support::world::{Shape, World};
use grasp_sync::contract::LinkId;
use nostr::event::Event;
use std::time::Duration;

/// What is there.
#[derive(Clone, Copy)]
struct Size {
    repos: usize,
    roots: usize,
    comments: usize,
    relays: usize,
}

const BASE: Size = Size { repos: 100, roots: 5_000, comments: 4_900, relays: 10 };
/// New events by which a size is measured.
const MEASURED: usize = 4_000;
/// Index entries that wait: the events by which a size is measured have theirs written once.
const MEMTABLE_MAX: usize = 30_000;
/// Events in one commit.
const BATCH: usize = 200;

pub fn run(bench: &mut Bench) {
    let limit = verify_alone();
    let base = cost(BASE);
    note(&format!("10,000 events, 100 repos, 5,000 root events, 10 relays: {:.1} µs for a new event", micros(base)));
    let grown = [
        ("events", Size { comments: 94_900, ..BASE }),
        ("repos", Size { repos: 1_000, ..BASE }),
        ("relays", Size { relays: 100, ..BASE }),
        ("root events", Size { roots: 50_000, ..BASE }),
    ];
    for (what, size) in grown {
        let cost = cost(size);
        let ratio = cost.as_secs_f64() / base.as_secs_f64();
        let apart = cost.saturating_sub(limit).as_secs_f64() / base.saturating_sub(limit).as_secs_f64();
        let row = format!(
            "ten times the {what}: {:.1} µs, {ratio:.2} x (at most 1.5; {apart:.2} x without verification)",
            micros(cost)
        );
        bench.check(ratio <= 1.5, &row);
    }
    let (small, large) = (state_bytes(1_000, 5_000), state_bytes(1_000, 50_000));
    let more_repos = state_bytes(10_000, 50_000);
    note(&format!(
        "state takes {} bytes more for a root event, {} bytes more for a repo with 5 relays",
        large.saturating_sub(small) / 45_000,
        more_repos.saturating_sub(large) / 9_000
    ));
}

/// Processor time for one new event, its share of a commit to a file among it.
fn cost(size: Size) -> Duration {
    let urls = relay_urls(size.relays);
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let shape = Shape {
        repos: size.repos,
        roots_per_repo: size.roots / size.repos,
        comments: size.comments,
        padding: 490,
        relays_per_repo: 2,
    };
    let now = unix_now();
    let world = World::new(shape, DOMAIN, &urls, now);
    let directory = TempDir::new("growth");
    let store = store_in(&directory.path().join("store")).with_memtable_max(MEMTABLE_MAX);
    let mut driven = Driven::new(settings(), now, store);
    let lines: Vec<String> = world.events.iter().map(Event::as_json).collect();
    driven.import(lines.iter().map(String::as_str));
    driven.pass_secs(120);

    let person = Author::from_seed(5_000);
    let messages: Vec<(LinkId, String)> = (0..MEASURED)
        .map(|n| {
            let n_root = (n * 17) % world.roots().len();
            // From a relay of its repo: any other is not asked for it.
            let (link, subscription) = driven.subscription_of(urls[n_root % size.repos * 2 % urls.len()]);
            let event = person.comment(&world.roots()[n_root], now, &padding((1 << 43) + n as u64, 490));
            (link, format!(r#"["EVENT","{subscription}",{}]"#, event.as_json()))
        })
        .collect();
    let before = cpu_time_of_thread("thread-self");
    driven.receive(&messages, BATCH);
    (cpu_time_of_thread("thread-self") - before) / MEASURED as u32
}
