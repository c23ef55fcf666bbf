//! Two relays with real limits, the built binary, and as many events as its design target names.
//!
//! The normal run takes 200 repos. The full size, 1,000 repos with 50,000 root events and 25,000 comments, is
//!
//! ```text
//! GRASP_SYNC_SCALE=full cargo test --release --test scale -- --nocapture
//! ```
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]
#![allow(clippy::print_stdout, reason = "the figures are what a person runs the full size for")]

mod support;

use nostr::event::Event;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::events::unix_now;
use support::mock_relay::{Breaches, MockRelay, RelayData, RelayLimits};
use support::process::{Process, Setup};
use support::wait::{measure_over, wait_until};
use support::world::{Shape, World};

const DOMAIN: &str = "grasp.test";
const OUTAGE: Duration = Duration::from_secs(10);
const HEALED: Duration = Duration::from_secs(30);

struct Size {
    shape: Shape,
    /// Events published while the relays are down.
    later: usize,
    catch_up: Duration,
}

fn size() -> Size {
    if std::env::var("GRASP_SYNC_SCALE").is_ok_and(|v| v == "full") {
        Size { shape: Shape::TARGET, later: 100, catch_up: Duration::from_secs(600) }
    } else {
        let shape = Shape { repos: 200, roots_per_repo: 10, comments: 1_000, padding: 300, relays_per_repo: 2 };
        Size { shape, later: 4, catch_up: Duration::from_secs(120) }
    }
}

#[test]
fn two_capped_relays_are_complete_after_catch_up_outage_and_restart() {
    let Size { shape, later, catch_up } = size();
    let data = RelayData::default();
    let mut relays = [(); 2].map(|()| MockRelay::with(data.clone(), RelayLimits::default(), None));
    let urls = [relays[0].url(), relays[1].url()];
    let world = World::new(shape, DOMAIN, &[&urls[0], &urls[1]], unix_now());
    data.add(&world.events);
    let total = world.events.len();
    let bytes: usize = world.events.iter().map(|e| e.as_json().len()).sum();
    println!("{total} events of {} bytes on average, on two relays", bytes / total);

    let setup = Setup::new(DOMAIN).bootstrap(&urls[0]);
    let started = Instant::now();
    let process = setup.start();
    process.wait_stored(total, catch_up);
    process.wait_live(2, catch_up.saturating_sub(started.elapsed()).max(Duration::from_secs(30)));
    println!(
        "catch-up: {:.1} s, {:.1} s of processor, {:.1} MiB resident (peak {:.1})",
        started.elapsed().as_secs_f64(),
        process.cpu_time().as_secs_f64(),
        mib(process.resident_bytes()),
        mib(process.resident_bytes_peak()),
    );
    for relay in &relays {
        report(relay, total);
        let sent = relay.with_seen(|seen| seen.events_sent);
        assert!(sent <= 2 * total as u64, "{} sent {sent} events for {total}", relay.url());
    }

    let published = outage(&mut relays, &world, later, &process);
    assert!(process.stop_within(Duration::from_secs(5)).success());
    assert_no_breach(&relays);

    let expected: BTreeSet<_> = world.events.iter().chain(&published).map(|e| e.id).collect();
    let held = setup.exported_ids();
    assert_eq!(held.len(), expected.len(), "{} missing", expected.difference(&held).count());
    assert_eq!(held, expected);
    restart(&setup, &relays, total);
}

/// Takes the relays away for a while, publishes meanwhile, and waits for what was missed.
fn outage(relays: &mut [MockRelay; 2], world: &World, later: usize, process: &Process) -> Vec<Event> {
    relays.iter_mut().for_each(MockRelay::stop);
    let published = world.published_later(later, unix_now());
    relays[0].data().add(&published);
    measure_over(OUTAGE);
    relays.iter_mut().for_each(MockRelay::resume);
    let back = Instant::now();
    let mut client = process.client();
    let ids: Vec<String> = published.iter().map(|e| e.id.to_hex()).collect();
    wait_until("what was published during the outage is stored", HEALED, || {
        client.query(&json!({"ids": ids})).len() == published.len()
    });
    println!("outage of {} s: complete {:.1} s after it", OUTAGE.as_secs(), back.elapsed().as_secs_f64());
    process.wait_live(2, HEALED);
    published
}

/// Starts again on the same store and counts what is fetched again.
fn restart(setup: &Setup, relays: &[MockRelay; 2], total: usize) {
    relays.iter().for_each(MockRelay::forget_seen);
    let started = Instant::now();
    let process = setup.start();
    process.wait_live(2, Duration::from_secs(60));
    println!("restart: live after {:.1} s", started.elapsed().as_secs_f64());
    for relay in relays {
        report(relay, total);
        let sent = relay.with_seen(|seen| seen.events_sent);
        assert!(sent < total as u64 / 100, "{} sent {sent} of {total} events again", relay.url());
    }
    assert_no_breach(relays);
}

fn assert_no_breach(relays: &[MockRelay]) {
    for relay in relays {
        assert_eq!(relay.with_seen(|seen| seen.breaches), Breaches::default(), "{}", relay.url());
        assert_eq!(relay.with_seen(|seen| seen.filters_without_limit), 0, "{}", relay.url());
    }
}

fn report(relay: &MockRelay, total: usize) {
    relay.with_seen(|seen| {
        println!(
            "  {}: {} REQs, {} filters, {} events sent ({:.3} per event, {:.1} MB); at most {} subscriptions, {} filters, {} bytes in a REQ",
            relay.url(),
            seen.reqs,
            seen.filters,
            seen.events_sent,
            seen.events_sent as f64 / total as f64,
            seen.event_bytes_sent as f64 / 1e6,
            seen.subscriptions_peak,
            seen.filters_peak,
            seen.message_bytes_peak,
        );
    });
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
