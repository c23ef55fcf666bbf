//! What strangers who keep the rules make the loop do, and how long one piece of it takes.

use crate::support::events::{Author, tag};
use crate::support::process::cpu_time_of_thread;
use grasp_sync::contract::{CloseReason, Input, LinkId, Output};
use grasp_sync::engine::{Engine, Settings};
use grasp_sync::protocol::relay_url::Service;
use grasp_sync::shares::Account;
use grasp_sync::store::Store;
use grasp_sync::time::{Duration, Instant, Now, UnixTime};
use nostr::event::{Event, EventId, Kind, Signature, Tag};
use nostr::key::PublicKey;
use nostr::nips::nip19::ToBech32;
use nostr::types::Timestamp;
use serde_json::{Value, json};

const DOMAIN: &str = "grasp.test";
const NOW: u64 = 1_800_000_000;

/// The most processor time that one piece of something took.
pub struct Figure {
    pub what: &'static str,
    pub longest: std::time::Duration,
}

/// An engine with clients that read at once, and relays that answer every REQ with EOSE; `reconciles`: and say that they
/// know NIP-77.
struct Loop {
    engine: Engine,
    now: Now,
    longest: std::time::Duration,
    reconciles: bool,
    clients: u64,
    said: Vec<String>,
}

impl Loop {
    fn new(store: Store) -> Loop {
        let settings = Settings::of(Service::parse(DOMAIN).expect("a service"));
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(NOW) };
        let engine = Engine::new(store, settings, now).expect("the store can be read");
        Loop { engine, now, longest: std::time::Duration::ZERO, reconciles: false, clients: 0, said: Vec::new() }
    }

    fn timed<R>(&mut self, act: impl FnOnce(&mut Engine, Now) -> R) -> R {
        let begun = cpu_time_of_thread("self");
        let done = act(&mut self.engine, self.now);
        self.longest = self.longest.max(cpu_time_of_thread("self") - begun);
        done
    }

    fn give(&mut self, input: Input<'_>) {
        self.timed(|engine, now| engine.handle(now, input)).expect("the store works");
        self.carry_out();
    }

    fn client(&mut self) -> LinkId {
        self.clients += 1;
        let link = LinkId::Client(self.clients);
        self.give(Input::Accepted { link, account: Account::of([127, 0, 0, 1].into()) });
        link
    }

    fn say(&mut self, link: LinkId, text: &str) {
        self.give(Input::Text { link, text });
    }

    fn publish(&mut self, link: LinkId, event: &Event) {
        self.say(link, &format!(r#"["EVENT",{}]"#, event.as_json()));
        if self.engine.commit_due(self.now, false) {
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.timed(|engine, now| engine.commit(now)).expect("the store works");
        self.carry_out();
    }

    /// Goes on until nothing is due, for at most so many seconds.
    fn pass(&mut self, secs: u64) {
        let end = self.now.mono + Duration::from_secs(secs);
        loop {
            self.give(Input::Tick);
            if self.engine.commit_due(self.now, true) {
                self.commit();
            }
            match self.engine.next_deadline().filter(|at| *at <= end) {
                None => break,
                Some(at) if at > self.now.mono => {
                    self.now.wall = self.now.wall.plus_secs(at.since(self.now.mono).as_secs());
                    self.now.mono = at;
                }
                Some(_) => {}
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Hold { .. } => {}
                Output::Dial { link, .. } => self.give(Input::Opened { link }),
                Output::Inquire { link, .. } if self.reconciles => {
                    self.give(Input::Info { link, document: Ok(r#"{"supported_nips":[1,77]}"#) });
                }
                Output::Inquire { link, .. } => {
                    self.give(Input::Info { link, document: Err(CloseReason::Handshake(404)) });
                }
                Output::Send { link: link @ LinkId::Relay(_), text } => {
                    let mut words = text.split('"');
                    let (kind, id) = (words.nth(1).unwrap_or_default(), words.nth(1).unwrap_or_default());
                    match kind {
                        "REQ" => self.say(link, &format!(r#"["EOSE","{id}"]"#)),
                        // Nothing differs.
                        "NEG-OPEN" => self.say(link, &format!(r#"["NEG-MSG","{id}","61"]"#)),
                        _ => {}
                    }
                    self.said.push(text.chars().take(40).collect());
                }
                Output::Send { link, .. } => self.give(Input::Drained { link }),
                Output::Ping { link } => self.give(Input::Alive { link }),
                Output::Close { .. } => {}
            }
        }
    }

    /// What took longest since this was last asked.
    fn figure(&mut self, what: &'static str) -> Figure {
        Figure { what, longest: std::mem::take(&mut self.longest) }
    }
}

fn author(n: u64) -> PublicKey {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    PublicKey::from_byte_array(bytes)
}

/// An event that nobody verifies: the store takes it as it is.
fn unsigned(by: PublicKey, kind: u16, created_at: u64, tags: &[Vec<String>]) -> Event {
    let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).expect("a tag")).collect();
    let (created_at, kind) = (Timestamp::from_secs(created_at), Kind::from_u16(kind));
    let tags: nostr::event::Tags = tags.into_iter().collect();
    let id = EventId::compute(&by, &created_at, &kind, &tags, "");
    Event::new(id, by, created_at, kind, tags, "", Signature::from_byte_array([0; 64]))
}

/// A store of these events.
fn store_of(events: impl Iterator<Item = Event>) -> Store {
    let mut store = Store::in_memory();
    for (n, event) in events.enumerate() {
        store.stage(event).expect("memory works");
        if n % 5_000 == 4_999 {
            store.commit().expect("memory works");
        }
    }
    store.commit().expect("memory works");
    store
}

/// Announcements of ours by author `n` with so many maintainers and relays.
fn announcement(author: &Author, d: &str, maintainers: &[String], relays: &[String], created_at: u64) -> Event {
    let mut listed = vec!["maintainers".to_owned()];
    listed.extend_from_slice(maintainers);
    let mut all = vec!["relays".to_owned(), format!("wss://{DOMAIN}")];
    all.extend_from_slice(relays);
    let tags = vec![tag(["d", d]), vec!["clone".to_owned(), author.clone_url(DOMAIN, d)], all, listed];
    author.sign(30617, created_at, tags, "")
}

fn keys(first: u64, count: u64) -> Vec<String> {
    (first..first + count).map(|n| author(n).to_hex()).collect()
}

/// Events of 104 KB that repeat `a` tags, after 150 announcements with 1,850 maintainers each.
pub fn references() -> Vec<Figure> {
    let mut it = Loop::new(Store::in_memory());
    let client = it.client();
    let owners: Vec<Author> = (0..150).map(Author::from_seed).collect();
    for (n, owner) in owners.iter().enumerate() {
        it.publish(client, &announcement(owner, "d", &keys(n as u64 * 2_000, 1_850), &[], NOW - 100));
    }
    it.commit();
    let mut figures = vec![it.figure("one of 150 announcements with 1,850 maintainers")];
    let stranger = Author::from_seed(999);
    for (kind, what) in [(1111, "a comment of 104 KB that repeats tags"), (1621, "an issue that does")] {
        let addresses = |n: usize| vec![tag(["a", &format!("30617:{}:d", author(500_000 + n as u64 % 150).to_hex())])];
        for n in 0..12 {
            let tags: Vec<Vec<String>> = (0..1_050).flat_map(addresses).collect();
            it.publish(client, &stranger.sign(kind, NOW - 50 + n, tags, ""));
        }
        it.commit();
        figures.push(it.figure(what));
        for n in 0..12 {
            let tags = (0..1_050).map(|n| tag(["a", &owners[n % 150].repo("d")])).collect();
            it.publish(client, &stranger.sign(kind, NOW - 50 + n, tags, "x"));
        }
        it.commit();
        figures.push(it.figure("the same of repos that are followed"));
    }
    figures
}

/// One event of 128 KB with many tags against the subscriptions of 4, 30 and 400 clients.
pub fn fan_out() -> Vec<Figure> {
    let owner = Author::from_seed(1);
    [(4, 64, "4 clients"), (30, 64, "30 clients"), (400, 60, "400 clients")]
        .map(|(clients, subscriptions, what)| {
            let mut it = Loop::new(Store::in_memory());
            let publisher = it.client();
            it.publish(publisher, &announcement(&owner, "d", &[], &[], NOW - 100));
            it.commit();
            for _ in 0..clients {
                let client = it.client();
                for n in 0..subscriptions {
                    let filter =
                        |m: usize| json!({"#a": [owner.repo("d")], "#t": [format!("{n}.{m}"), "u"], "limit": 0});
                    let mut req = vec![json!("REQ"), json!(n.to_string())];
                    req.extend((0..20).map(filter));
                    it.say(client, &Value::from(req).to_string());
                }
            }
            it.longest = std::time::Duration::ZERO;
            let mut tags = vec![tag(["a", &owner.repo("d")])];
            tags.extend((0..11_000).map(|n| tag(["t", &n.to_string()])));
            it.publish(publisher, &owner.sign(1111, NOW, tags, ""));
            it.commit();
            it.pass(1);
            it.figure(what)
        })
        .into()
}

/// States by strangers, of an identifier that 100 announcements with 1,800 maintainers share.
pub fn states() -> Vec<Figure> {
    let mut it = Loop::new(Store::in_memory());
    let client = it.client();
    for n in 0..100 {
        let listed = keys(n * 2_000, 1_800);
        it.publish(client, &announcement(&Author::from_seed(n), "d", &listed, &[], NOW - 100));
    }
    it.commit();
    it.longest = std::time::Duration::ZERO;
    (0..200).for_each(|n| it.publish(client, &Author::from_seed(1_000 + n).state("d", "0", NOW - 50)));
    vec![it.figure("a state by a stranger")]
}

/// 8,000 announcements of one identifier, each with a new maintainer and 15 relays.
pub fn announcements() -> Vec<Figure> {
    let mut it = Loop::new(Store::in_memory());
    let client = it.client();
    let relays: Vec<String> = (0..15).map(|n| format!("wss://relay-{n}.test")).collect();
    let announce = |it: &mut Loop, n: u64| {
        let listed = keys(n + 1_000_000, 1);
        it.publish(client, &announcement(&Author::from_seed(n), "d", &listed, &relays, NOW - 100));
    };
    (0..7_900).for_each(|n| announce(&mut it, n));
    let mut figures = vec![it.figure("announcements of one identifier, up to 7,900")];
    it.commit();
    figures.push(it.figure("their commit"));
    it.pass(30);
    figures.push(it.figure("their window and what follows"));
    (7_900..8_000).for_each(|n| announce(&mut it, n));
    figures.push(it.figure("the hundred after that"));
    figures
}

/// 40,000 comments that tag one unknown id, then copies of the event of that id, then of others.
pub fn tagged() -> Vec<Figure> {
    let owner = Author::from_seed(1);
    let repo = owner.repo("d");
    let unknown: Vec<Event> = (0..10).map(|n| Author::from_seed(5 + n).sign(1, NOW - 10, Vec::new(), "")).collect();
    let comment = |n: u64| {
        let mut tags = vec![tag(["a", &repo])];
        tags.extend(unknown.iter().map(|unknown| tag(["e", &unknown.id.to_hex()])));
        unsigned(author(n), 1111, NOW - 1_000_000 + n, &tags)
    };
    let first = announcement(&owner, "d", &[], &[], NOW - 100);
    let mut it = Loop::new(store_of(std::iter::once(first).chain((0..40_000).map(comment))));
    let client = it.client();
    (0..10).for_each(|_| it.publish(client, &unknown[0]));
    let copies = it.figure("a copy of an event that 40,000 comments tag");
    unknown.iter().for_each(|event| it.publish(client, event));
    vec![copies, it.figure("ten of them")]
}

/// A full catch-up when 200,000 authors are held, by pages and by reconciling.
pub fn catch_up() -> Vec<Figure> {
    let owner = Author::from_seed(1);
    let repo = owner.repo("d");
    [(false, "a full catch-up by pages with 200,000 authors"), (true, "by reconciling, with as many events")]
        .map(|(reconciles, what)| {
            let first = announcement(&owner, "d", &[], &["wss://relay.test".to_owned()], NOW - 100);
            let comment = |n: u64| unsigned(author(n), 1111, NOW - 1_000_000 + n, &[tag(["a", &repo])]);
            let mut it = Loop::new(store_of(std::iter::once(first).chain((0..200_000).map(comment))));
            it.reconciles = reconciles;
            it.pass(20);
            let opened = it.said.iter().filter(|text| text.contains("NEG-OPEN")).count();
            assert!(!reconciles || opened > 3, "{:?}", it.said);
            it.figure(what)
        })
        .into()
}

/// The pages of the admin port with 100,000 root events of a repo that 15 relays share.
pub fn status() -> Vec<Figure> {
    let owner = Author::from_seed(1);
    let repo = owner.repo("d");
    let relays: Vec<String> = (0..15).map(|n| format!("wss://relay-{n}.test")).collect();
    let first = announcement(&owner, "d", &[], &relays, NOW - 100);
    let issue = |n: u64| unsigned(author(n), 1621, NOW - 1_000_000 + n, &[tag(["a", &repo])]);
    let mut it = Loop::new(store_of(std::iter::once(first).chain((0..100_000).map(issue))));
    it.timed(|engine, now| _ = engine.status_json(now));
    let status = it.figure("/status.json over 1.5 million pairs");
    it.timed(|engine, _| _ = engine.metrics_text());
    vec![status, it.figure("/metrics")]
}

/// Filters of clients that match nothing among 200,000 events.
pub fn scan() -> Vec<Figure> {
    let owner = Author::from_seed(1);
    let repo = owner.repo("d");
    let comment = |n: u64| unsigned(author(n), 1111, NOW - 1_000_000 + n, &[tag(["a", &repo])]);
    let mut it = Loop::new(store_of((0..200_000).map(comment)));
    let filters: [Value; 3] = [
        json!({"kinds": [1111], "authors": [author(1 << 40).to_hex()], "#a": [repo]}),
        json!({"authors": (0..1_990).map(|n| author(n).to_hex()).collect::<Vec<_>>(), "#a": [repo], "kinds": [1]}),
        json!({"authors": (0..1_990).map(|n| author(n).to_hex()).collect::<Vec<_>>(), "kinds": [1]}),
    ];
    for _ in 0..20 {
        let client = it.client();
        for n in 0..20 {
            let req = json!(["REQ", n.to_string(), filters[0], filters[1], filters[2]]);
            it.say(client, &req.to_string());
        }
    }
    (0..300).for_each(|_| it.give(Input::Tick));
    vec![it.figure("a step of 20 clients' scans")]
}

/// 100,000 relays that announcements list, of which the most that are followed are.
pub fn places() -> Vec<Figure> {
    let announcement = |n: u64| {
        let by = author(n);
        let mut relays = vec!["relays".to_owned(), format!("wss://{DOMAIN}")];
        relays.extend((0..15).map(|m| format!("wss://relay-{n}-{m}.test")));
        let npub = by.to_bech32().expect("a public key has a bech32 form");
        let clone = vec!["clone".to_owned(), format!("https://{DOMAIN}/{npub}/d.git")];
        unsigned(by, 30617, NOW - 100, &[tag(["d", "d"]), clone, relays])
    };
    let mut it = Loop::new(store_of((0..6_667).map(announcement)));
    it.pass(30);
    let mut figures = vec![it.figure("of 100,000 relays that are listed some are followed")];
    let client = it.client();
    let owner = Author::from_seed(1);
    it.publish(client, &self::announcement(&owner, "d", &[], &["wss://another.test".to_owned()], NOW - 50));
    it.commit();
    it.pass(30);
    figures.push(it.figure("one more is listed"));
    figures
}
