//! The core as a library, without sockets: for what cannot be seen from outside, or would take too many of them.
#![allow(dead_code, reason = "each bench compiles this module and uses its own part of it")]

use crate::support::process::Metrics;
use grasp_sync::contract::{CloseReason, Input, LinkId, Output};
use grasp_sync::engine::{Engine, Settings};
use grasp_sync::intake::Rules;
use grasp_sync::limits::STORE_CACHE_BYTES;
use grasp_sync::protocol::relay_url::{RelayUrl, Service};
use grasp_sync::store::Store;
use grasp_sync::time::{Duration, Instant, Now, UnixTime};
use redb::backends::FileBackend;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

/// The service of the worlds.
pub const DOMAIN: &str = "grasp.test";

/// An instance for the service of the worlds.
pub fn settings() -> Settings {
    Settings::of(Service::parse(DOMAIN).expect("a service"))
}

/// An engine whose relays take every connection, answer every REQ with EOSE, and say nothing of themselves; its clients
/// read at once.
pub struct Driven {
    pub engine: Engine,
    now: Now,
    /// Open subscriptions of each link, in the order in which they were opened.
    pub subscriptions: BTreeMap<LinkId, Vec<String>>,
    links: BTreeMap<String, LinkId>,
    /// EVENT messages to clients.
    pub events_to_clients: u64,
    /// EOSE messages to clients.
    pub answers_to_clients: u64,
    /// Bytes of messages to relays.
    pub bytes_to_relays: u64,
    /// The longest that one input took on the real clock.
    pub slowest_input: std::time::Duration,
}

impl Driven {
    /// An engine on a store.
    pub fn new(settings: Settings, wall: u64, store: Store) -> Driven {
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(wall) };
        Driven {
            engine: Engine::new(store, settings, now).expect("the store can be read"),
            now,
            subscriptions: BTreeMap::new(),
            links: BTreeMap::new(),
            events_to_clients: 0,
            answers_to_clients: 0,
            bytes_to_relays: 0,
            slowest_input: std::time::Duration::ZERO,
        }
    }

    /// Takes in events as `import` does, and commits.
    pub fn import<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) {
        for line in lines {
            self.engine.import(self.now, line, Rules::All).expect("the store works");
            if self.engine.commit_due(self.now, false) {
                self.commit();
            }
        }
        self.commit();
    }

    /// Takes in new events, each a message on its link, in commits of so many; all of them are to be stored.
    pub fn receive(&mut self, messages: &[(LinkId, String)], commit: usize) {
        let stored = self.last_seq();
        for batch in messages.chunks(commit) {
            batch.iter().for_each(|(link, text)| self.give(Input::Text { link: *link, text }));
            self.commit();
        }
        assert_eq!(self.last_seq() - stored, messages.len() as u64);
    }

    /// One input, and everything that follows from it.
    pub fn give(&mut self, input: Input<'_>) {
        self.handle(input);
        self.carry_out();
    }

    fn handle(&mut self, input: Input<'_>) {
        let begun = std::time::Instant::now();
        self.engine.handle(self.now, input).expect("the store works");
        self.slowest_input = self.slowest_input.max(begun.elapsed());
    }

    /// Makes what waits durable, if anything does.
    pub fn commit(&mut self) {
        self.engine.commit(self.now).expect("the store works");
        self.carry_out();
    }

    /// Lets time pass and says so, as often as something is due.
    pub fn pass(&mut self, time: Duration) {
        /// Turns in which as much is done as one may do.
        const TURNS_MAX: usize = 1_000;
        self.now.mono = self.now.mono + time;
        self.now.wall = self.now.wall.plus_secs(time.as_secs());
        for _ in 0..TURNS_MAX {
            self.give(Input::Tick);
            if self.engine.commit_due(self.now, true) {
                self.commit();
            }
            if self.engine.next_deadline().is_none_or(|at| at > self.now.mono) {
                break;
            }
        }
    }

    /// Lets seconds pass, one by one.
    pub fn pass_secs(&mut self, secs: u64) {
        for _ in 0..secs {
            self.pass(Duration::from_secs(1));
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Dial { link, url } => {
                    self.links.insert(url.as_str().to_owned(), link);
                    self.subscriptions.insert(link, Vec::new());
                    self.handle(Input::Opened { link });
                }
                Output::Inquire { link, .. } => {
                    self.handle(Input::Info { link, document: Err(CloseReason::Handshake(404)) });
                }
                Output::Send { link: link @ LinkId::Relay(_), text } => self.on_asked(link, &text),
                Output::Send { link, text } => {
                    self.handle(Input::Drained { link });
                    self.events_to_clients += u64::from(text.starts_with(r#"["EVENT""#));
                    self.answers_to_clients += u64::from(text.starts_with(r#"["EOSE""#));
                }
                Output::Ping { link } => self.handle(Input::Alive { link }),
                Output::Close { link, .. } => _ = self.subscriptions.remove(&link),
                Output::Hold { .. } => {}
            }
        }
    }

    /// A relay was asked something.
    fn on_asked(&mut self, link: LinkId, text: &str) {
        self.bytes_to_relays += text.len() as u64;
        let mut words = text.split('"');
        let (kind, id) = (words.nth(1).unwrap_or_default(), words.nth(1).unwrap_or_default().to_owned());
        let Some(open) = self.subscriptions.get_mut(&link) else { return };
        match kind {
            "REQ" => {
                let eose = format!(r#"["EOSE","{id}"]"#);
                open.push(id);
                self.handle(Input::Text { link, text: &eose });
            }
            "CLOSE" => open.retain(|open| *open != id),
            _ => {}
        }
    }

    /// The link of a relay, and a subscription that is open on it.
    pub fn subscription_of(&self, url: &str) -> (LinkId, &str) {
        let link = self.links[url];
        let open = self.subscriptions.get(&link).and_then(|open| open.first());
        (link, open.expect("it is asked something"))
    }

    /// Number of the last event stored.
    pub fn last_seq(&self) -> u64 {
        Metrics::parse(&self.engine.metrics_text()).sum("grasp_sync_store_last_seq", &[]) as u64
    }
}

/// A store in a file, as the daemon has it.
pub fn store_in(file: &Path) -> Store {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file);
    let backend = FileBackend::new(file.expect("the directory is writable")).expect("nobody else has it open");
    Store::open(backend, STORE_CACHE_BYTES).expect("it is a store or empty")
}

/// Relays by number.
pub fn relay_urls(count: usize) -> Vec<String> {
    let urls: Vec<String> = (0..count).map(|n| format!("wss://relay-{n}.test")).collect();
    assert!(urls.iter().all(|url| RelayUrl::parse(url).is_ok()));
    urls
}
