//! kill -9 of the built binary under load, life after life, on real files and loopback sockets: a relay full of events,
//! clients that publish and a client that reads. Each life ends at a drawn point. Whatever was acknowledged with OK true
//! or served before it is there in the next life; in the last, everything converges.
//!
//! `CRASH_LIVES=2000 CRASH_SEED=7 cargo test --test crash` is a long run under another seed; by default it is short.
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]
#![allow(clippy::print_stderr, reason = "the seed is printed, so that it can be used again")]

#[path = "simulation/rng.rs"]
mod rng;
mod support;

use nostr::event::{Event, EventId};
use rng::Rng;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::client::{ANSWER, Client};
use support::events::{Author, event_message, padding, unix_now};
use support::mock_relay::MockRelay;
use support::process::{Process, Setup};
use support::wait::wait_until;
use tungstenite::Message;

/// In the short run; a longer one begins anew after as many.
const LIVES: u64 = 20;
const SEED: u64 = 1;
const DOMAIN: &str = "grasp.test";
const SOON: Duration = Duration::from_secs(60);
/// New in each life: issues on the relay, and issues that a client publishes to us.
const ON_RELAY: u64 = 250;
const PUBLISHED: u64 = 500;
/// Events of a client that wait for their OK: a life ends in the middle of a batch.
const IN_FLIGHT: usize = 40;
/// Ids asked for in one query.
const IDS_PER_QUERY: usize = 400;

/// When a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// At once, maybe before it opened its store.
    AtOnce,
    /// As soon as the store's file is there.
    WithFile,
    /// After so many OKs.
    Acknowledged(u64),
    /// After a reader got so many events.
    Served(u64),
    /// After the relay has sent so many events.
    Sent(u64),
    /// As soon as it was told to stop.
    Stopping,
}

fn draw(rng: &mut Rng) -> End {
    match rng.below(8) {
        0 => End::AtOnce,
        1 => End::WithFile,
        2 | 3 => End::Acknowledged(1 + rng.below(PUBLISHED)),
        4 | 5 => End::Served(1 + rng.below(ON_RELAY)),
        6 => End::Sent(1 + rng.below(ON_RELAY)),
        _ => End::Stopping,
    }
}

struct Town {
    setup: Setup,
    relay: MockRelay,
    owner: Author,
    /// Announcements of all lives.
    announced: Vec<Event>,
    /// What must be there from now on.
    promised: BTreeSet<EventId>,
    /// What must be there in the end.
    expected: BTreeSet<EventId>,
}

impl Town {
    fn new() -> Town {
        let relay = MockRelay::start();
        Town {
            // The shortest window, so that the relay is asked while the clients publish.
            setup: Setup::new(DOMAIN).bootstrap(&relay.url()).toml("[timing]\nbatch_window_secs = 1"),
            relay,
            owner: Author::from_seed(1),
            announced: Vec::new(),
            promised: BTreeSet::new(),
            expected: BTreeSet::new(),
        }
    }

    fn live(&mut self, life: u64, end: End) {
        match end {
            End::AtOnce => self.setup.spawn().kill(),
            End::WithFile => {
                let process = self.setup.spawn();
                let file = self.setup.dir().path().join("data/store.redb");
                wait_until("the store's file is there", SOON, || file.exists());
                process.kill();
            }
            _ => {
                let process = self.setup.start();
                self.assert_kept(&process);
                self.load(process, life, end);
            }
        }
    }

    /// Everything promised is served.
    fn assert_kept(&self, process: &Process) {
        let mut client = process.client();
        let promised: Vec<EventId> = self.promised.iter().copied().collect();
        for ids in promised.chunks(IDS_PER_QUERY) {
            let hex: Vec<String> = ids.iter().map(EventId::to_hex).collect();
            let served: BTreeSet<EventId> = client.query(&json!({"ids": hex})).iter().map(|e| e.id).collect();
            let lost: Vec<_> = ids.iter().filter(|id| !served.contains(id)).collect();
            assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), self.promised.len(), lost[0]);
        }
    }

    /// A new repo, of which the relay has the one half of the issues and a client publishes the other.
    fn load(&mut self, process: Process, life: u64, end: End) {
        let name = format!("repo-{life}");
        let (address, relay_url) = (self.owner.repo(&name), self.relay.url());
        let relays = ["wss://grasp.test", relay_url.as_str()];
        let announcement = self.owner.announcement(&name, &[DOMAIN], &relays, unix_now());
        let issue = |n: u64| {
            let text = padding(life << 20 | n, 500);
            self.owner.root(1621, &[&address], &format!("{life} {n}"), unix_now() - 50_000 + n, &text)
        };
        let issues: Vec<Event> = (0..ON_RELAY + PUBLISHED).map(issue).collect();
        let (on_relay, published) = issues.split_at(ON_RELAY as usize);
        self.expected.extend(on_relay.iter().map(|e| e.id));
        self.expected.insert(announcement.id);
        self.announced.push(announcement.clone());
        self.relay.data().add(on_relay);
        self.relay.forget_seen();

        let mut reader = process.client();
        reader.subscribe(&[json!({"kinds": [1621], "limit": 20})]);
        let mut client = process.client();
        client.publish_ok(&announcement);
        self.promised.insert(announcement.id);
        let oks = AtomicU64::new(0);
        let acknowledged = std::thread::scope(|scope| {
            let publisher = scope.spawn(|| publish_until_cut(client, published, &oks));
            match end {
                End::Acknowledged(n) => wait_until("so many OKs", SOON, || oks.load(Ordering::SeqCst) >= n),
                End::Served(n) => (0..n).for_each(|_| self.served(&mut reader).expect("an event")),
                End::Sent(n) => wait_until("so many are sent", SOON, || self.relay.with_seen(|s| s.events_sent) >= n),
                End::Stopping => process.terminate(),
                End::AtOnce | End::WithFile => unreachable!("not under load"),
            }
            process.kill();
            publisher.join().expect("the publisher does not panic")
        });
        self.promised.extend(acknowledged);
        // What it said before it was killed, and nobody has read yet, was said all the same.
        while self.served(&mut reader).is_some() {}
    }

    /// Takes the next event that the reader was sent.
    fn served(&mut self, reader: &mut Client) -> Option<()> {
        let message = reader.next_matching(ANSWER, |m| m[0] == "EVENT")?;
        let id = message[2]["id"].as_str().expect("an event has an id");
        self.promised.insert(EventId::from_hex(id).expect("an id"));
        Some(())
    }

    /// One life without a crash.
    fn converge(mut self) {
        let process = self.setup.start();
        self.assert_kept(&process);
        let mut client = process.client();
        self.announced.iter().for_each(|announcement| client.publish_ok(announcement));
        self.expected.append(&mut self.promised);
        let expected: Vec<String> = self.expected.iter().map(EventId::to_hex).collect();
        for ids in expected.chunks(IDS_PER_QUERY) {
            wait_until("it converges", SOON, || client.query(&json!({"ids": ids})).len() == ids.len());
        }
        assert!(process.stop_within(SOON).success());
        let held = self.setup.exported_ids();
        assert!(self.expected.is_subset(&held));
    }
}

/// Publishes until the link is cut; gives what was acknowledged.
fn publish_until_cut(mut client: Client, events: &[Event], oks: &AtomicU64) -> BTreeSet<EventId> {
    let mut acknowledged = BTreeSet::new();
    let mut sent = 0;
    loop {
        while sent < events.len() && sent < acknowledged.len() + IN_FLIGHT {
            // An error is the cut, which the read below finds as well, after what was said before it.
            let _ = client.try_send(Message::text(event_message(&events[sent])));
            sent += 1;
        }
        let Some(ok) = client.next_matching(ANSWER, |m| m[0] == "OK") else { return acknowledged };
        assert_eq!(ok[2], true, "{ok}");
        acknowledged.insert(EventId::from_hex(ok[1].as_str().expect("an id")).expect("an id"));
        oks.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn kill_9_under_load_loses_nothing_and_it_converges() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |s| s.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (lives, seed) = (number("CRASH_LIVES", LIVES), number("CRASH_SEED", SEED));
    eprintln!("CRASH_LIVES={lives} CRASH_SEED={seed}");
    let mut rng = Rng::new(seed);
    for first in (0..lives).step_by(LIVES as usize) {
        let mut town = Town::new();
        for life in first..lives.min(first + LIVES) {
            let end = draw(&mut rng);
            eprintln!("life {life}: {end:?}, {} promised", town.promised.len());
            town.live(life, end);
        }
        assert!(town.promised.len() > LIVES as usize, "it was under load");
        town.converge();
    }
}
