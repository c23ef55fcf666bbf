//! Fifty times the design target, through the core as a library: 10,000 repos with 500 root events each on 500 relays.
//!
//! `BENCH_SCALE` is the share of it, 0.04 by default; the whole (`BENCH_SCALE=1`) signs and verifies five million events:
//! a quarter of an hour and 8 GB of disk. What a smaller share says of the whole is the slope between it and a quarter of
//! it. Each is measured in a process of its own, which has nothing else in its memory.

use super::common::{Bench, mib, note, run_alone};
use super::engine::{DOMAIN, Driven, relay_urls, settings};
use crate::support::events::{Author, padding, unix_now};
use crate::support::process::resident_bytes;
use grasp_sync::limits::STORE_UNINDEXED_MAX;
use nostr::event::Event;
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

/// The argument by which the bench is told to be the process that is measured; the share follows.
pub const ALONE: &str = "scale-alone";

/// What one share takes.
struct Measured {
    resident: f64,
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
    let output = run_alone(&[ALONE, &share.to_string()]);
    let numbers: Vec<f64> = output.split_whitespace().map(|text| text.parse().expect("a number")).collect();
    let &[resident, connect, window, stored, asked, news, asked_by_window] = &*numbers else {
        panic!("seven numbers, not {output}")
    };
    note(&format!(
        "{share} of the large scale, stored in {stored:.0} s: catch-ups asked {asked:.1} MB, the window of {news} root events {asked_by_window:.3} MB"
    ));
    let duration = Duration::from_secs_f64;
    Measured { resident, connect: duration(connect), window: duration(window) }
}

/// A share of the large scale in this process: what the parent reads.
pub fn alone(share: f64) -> String {
    let (repos, relays) = ((REPOS * share).ceil() as usize, (RELAYS * share).ceil() as usize);
    let now = unix_now();
    let begun = Instant::now();
    let mut driven = filled(repos, relays, now);
    let stored = begun.elapsed();

    driven.slowest_input = Duration::ZERO;
    driven.pass_secs(30);
    assert_eq!(driven.subscriptions.len(), relays);
    let connect = driven.slowest_input;
    let asked = driven.bytes_to_relays;

    // A new root event of every tenth repo: one window asks about all of them.
    let person = Author::from_seed(6_000);
    let owners = owners();
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
        connect.as_secs_f64(),
        window.as_secs_f64(),
        stored.as_secs_f64(),
        asked as f64 / 1e6,
        news.len(),
        asked_by_window as f64 / 1e6
    )
}

fn owners() -> Vec<Author> {
    (0..50).map(|n| Author::from_seed(1_000 + n)).collect()
}

fn root(person: &Author, owners: &[Author], repo: usize, n: usize, at: u64) -> Event {
    let address = owners[repo % owners.len()].repo(&format!("repo-{repo}"));
    person.root(1621, &[&address], "made", at, &padding(n as u64, 200))
}

/// An engine that has everything stored and has not asked anybody yet.
fn filled(repos: usize, relays: usize, now: u64) -> Driven {
    let (owners, person, urls) = (owners(), Author::from_seed(2_000), relay_urls(relays));
    let own = format!("wss://{DOMAIN}");
    let mut driven = Driven::new(settings(), now, true, STORE_UNINDEXED_MAX);
    let announcement = |repo: usize| {
        let mut listed = vec![own.as_str()];
        listed.extend((0..RELAYS_PER_REPO).map(|n| urls[(repo * RELAYS_PER_REPO + n) % relays].as_str()));
        owners[repo % owners.len()].announcement(&format!("repo-{repo}"), &[DOMAIN], &listed, now - 1_000_000).as_json()
    };
    let root = |n: usize| root(&person, &owners, n % repos, n, now - 900_000 + (n % 800_000) as u64).as_json();
    take_in(&mut driven, repos, &announcement);
    take_in(&mut driven, repos * ROOTS_PER_REPO, &root);
    assert_eq!(driven.last_seq(), (repos * (1 + ROOTS_PER_REPO)) as u64);
    driven
}

fn take_in(driven: &mut Driven, count: usize, make: &dyn Fn(usize) -> String) {
    for begin in (0..count).step_by(CHUNK) {
        let lines: Vec<String> = (begin..count.min(begin + CHUNK)).map(make).collect();
        driven.import(lines.iter().map(String::as_str));
    }
}
