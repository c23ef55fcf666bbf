//! Fifty times the design target, through the core as a library: 10,000 repos with 500 root events each on 500 relays.
//!
//! `BENCH_SCALE` is the share of it, 0.04 by default; the whole (`BENCH_SCALE=1`) signs and verifies five million events:
//! a quarter of an hour and 8 GB of disk. What a smaller share says of the whole is the slope between it and a quarter of
//! it. One process stores it all; another starts on that store, as the daemon does, and is measured.

use super::common::{Bench, mib, note, run_alone};
use super::engine::{DOMAIN, Driven, relay_urls, settings, store_in};
use crate::support::events::{Author, padding, unix_now};
use crate::support::process::{TempDir, resident_bytes};
use nostr::event::Event;
use std::path::Path;
use std::time::{Duration, Instant};

const REPOS: f64 = 10_000.0;
const ROOTS_PER_REPO: usize = 500;
const RELAYS: f64 = 500.0;
const RELAYS_PER_REPO: usize = 2;
/// Events made and taken in at a time: what is made must not fill the process that is measured.
const CHUNK: usize = 1_000;
/// The longest that the loop may be kept from anything else.
const TURN: Duration = Duration::from_millis(100);
/// Resident memory of the whole.
const MIB_MAX: f64 = 512.0;

/// The arguments by which the bench is told to be the process that stores, or the one that is measured. The share and the
/// store's file follow.
pub const FILL: &str = "scale-fill";
pub const ALONE: &str = "scale-alone";

/// What one share takes.
struct Measured {
    resident: f64,
    start: Duration,
    connect: Duration,
    window: Duration,
}

pub fn run(bench: &mut Bench) {
    let share: f64 = std::env::var("BENCH_SCALE").map_or(0.04, |text| text.parse().expect("BENCH_SCALE is a number"));
    let measured = measure(share);
    for (what, took) in [("the start and end of a full catch-up", measured.connect), ("a window", measured.window)] {
        let row = format!(
            "{what} at {share} of the large scale keeps the loop for {:.1} ms at most (at most {})",
            took.as_secs_f64() * 1e3,
            TURN.as_millis()
        );
        bench.check(took <= TURN, &row);
    }
    note(&format!("the start on that store took {:.1} s", measured.start.as_secs_f64()));
    let (whole, how) = match share < 1.0 {
        true => {
            let part = share / 4.0;
            let less = measure(part);
            let slope = (measured.resident - less.resident) / (share - part);
            (measured.resident + slope * (1.0 - share), format!(", which makes {:.0} MiB more a whole", slope))
        }
        false => (measured.resident, String::new()),
    };
    let row = format!(
        "{:.1} MiB resident at {share} of the large scale{how}: {whole:.0} at the whole (at most {MIB_MAX:.0})",
        measured.resident
    );
    bench.check(whole <= MIB_MAX, &row);
}

fn measure(share: f64) -> Measured {
    let directory = TempDir::new("scale");
    let store = directory.path().join("store");
    let store = store.to_str().expect("the directory's name is text");
    let stored = run_alone(&[FILL, &share.to_string(), store]);
    let output = run_alone(&[ALONE, &share.to_string(), store]);
    let numbers: Vec<f64> = output.split_whitespace().map(|text| text.parse().expect("a number")).collect();
    let &[resident, start, connect, window, asked, news, asked_by_window] = &*numbers else {
        panic!("seven numbers, not {output}")
    };
    note(&format!(
        "{share} of the large scale, stored in {} s: catch-ups asked {asked:.1} MB, the window of {news} root events {asked_by_window:.3} MB",
        stored.trim()
    ));
    let duration = Duration::from_secs_f64;
    Measured { resident, start: duration(start), connect: duration(connect), window: duration(window) }
}

/// Stores a share of the large scale; says how many seconds that took.
pub fn fill(share: &str, file: &str) -> String {
    let (repos, relays) = size(share);
    let begun = Instant::now();
    let (owners, person, urls, now) = (owners(), Author::from_seed(2_000), relay_urls(relays), unix_now());
    let own = format!("wss://{DOMAIN}");
    let mut driven = Driven::new(settings(), now, store_in(Path::new(file)));
    let announcement = |repo: usize| {
        let mut listed = vec![own.as_str()];
        listed.extend((0..RELAYS_PER_REPO).map(|n| urls[(repo * RELAYS_PER_REPO + n) % relays].as_str()));
        owners[repo % owners.len()].announcement(&format!("repo-{repo}"), &[DOMAIN], &listed, now - 1_000_000).as_json()
    };
    let root = |n: usize| root(&person, &owners, n % repos, n, now - 900_000 + (n % 800_000) as u64).as_json();
    take_in(&mut driven, repos, &announcement);
    take_in(&mut driven, repos * ROOTS_PER_REPO, &root);
    assert_eq!(driven.last_seq(), (repos * (1 + ROOTS_PER_REPO)) as u64);
    driven.engine.close().expect("the store works");
    begun.elapsed().as_secs().to_string()
}

/// Starts on such a store in this process: what the parent reads.
pub fn alone(share: &str, file: &str) -> String {
    let (repos, relays) = size(share);
    let (now, begun) = (unix_now(), Instant::now());
    let mut driven = Driven::new(settings(), now, store_in(Path::new(file)));
    let start = begun.elapsed();
    driven.pass_secs(30);
    assert_eq!(driven.subscriptions.len(), relays);
    let connect = driven.slowest_input;
    let asked = driven.bytes_to_relays;

    // A new root event of every tenth repo: one window asks about all of them.
    let (person, owners) = (Author::from_seed(6_000), owners());
    let news: Vec<String> =
        (0..repos.div_ceil(10)).map(|n| root(&person, &owners, n * 10 % repos, (1 << 44) + n, now).as_json()).collect();
    driven.slowest_input = Duration::ZERO;
    driven.import(news.iter().map(String::as_str));
    driven.pass_secs(10);
    let window = driven.slowest_input;
    let asked_by_window = driven.bytes_to_relays - asked;
    assert!(asked_by_window > 0, "the window asks about the new root events");
    format!(
        "{} {} {} {} {} {} {}",
        mib(resident_bytes("self")),
        start.as_secs_f64(),
        connect.as_secs_f64(),
        window.as_secs_f64(),
        asked as f64 / 1e6,
        news.len(),
        asked_by_window as f64 / 1e6
    )
}

/// Repos and relays of a share.
fn size(share: &str) -> (usize, usize) {
    let share: f64 = share.parse().expect("a number");
    ((REPOS * share).ceil() as usize, (RELAYS * share).ceil() as usize)
}

fn owners() -> Vec<Author> {
    (0..50).map(|n| Author::from_seed(1_000 + n)).collect()
}

fn root(person: &Author, owners: &[Author], repo: usize, n: usize, at: u64) -> Event {
    let address = owners[repo % owners.len()].repo(&format!("repo-{repo}"));
    person.root(1621, &[&address], "made", at, &padding(n as u64, 200))
}

fn take_in(driven: &mut Driven, count: usize, make: &dyn Fn(usize) -> String) {
    for begin in (0..count).step_by(CHUNK) {
        let lines: Vec<String> = (begin..count.min(begin + CHUNK)).map(make).collect();
        driven.import(lines.iter().map(String::as_str));
    }
}
