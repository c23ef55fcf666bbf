//! One machine against a relay that says anything at any moment: every wording of a refusal with every number, of every
//! subscription there is, was, or never was, among events, ends, windows, lost links and time. After each step the
//! invariants hold; in the end the relay means well, and everything it shares must be confirmed.
//!
//! `SIM_RUNS=n` plays more runs than a plain `cargo test`, `SIM_SEED=n` begins with another seed.

use std::collections::BTreeMap;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::Value;

use super::*;
use crate::fuzzing::refusals::{REFUSALS, refusal};
use crate::protocol::auth::AuthKey;
use crate::state::Changes;
use crate::store::testing::Random;
use crate::sync::agenda::pass::ThreadPart;
use crate::sync::session::{Classified, Found};
use crate::time::Duration;

/// Runs of a plain `cargo test`.
const RUNS: u64 = 2_000;
/// Steps of one run.
const STEPS: u64 = 60;
/// Outputs that may follow from one input.
const OUTPUTS_MAX: usize = 2_000;
/// Rounds in which a relay that means well must have been asked for everything, and the time that may take: it may have
/// been left alone for a day, and again.
const CALM_ROUNDS: usize = 2_000_000;
const CALM: Duration = Duration::from_secs(12 * 86_400);

/// A machine and the relay's end of its link.
struct Game {
    bench: Bench,
    relay: Relay,
    random: Random,
    /// Names that the relay has open: asked for, and closed by nobody.
    open: BTreeSet<String>,
    /// Every name of this link.
    used: BTreeSet<String>,
    /// REQs without EOSE.
    asked: BTreeMap<String, Value>,
    exchanges: BTreeMap<String, Exchange>,
    /// The event that answered a challenge, if there is one.
    auth: Option<EventId>,
    inquired: Option<LinkId>,
    dialled: Option<LinkId>,
    linked: Option<LinkId>,
    seq: Seq,
    roots: u32,
    changes: Changes,
}

/// An exchange that is open, with the message that waits for its answer.
struct Exchange {
    peer: Option<Negentropy<'static, NegentropyStorageVector>>,
    message: Option<String>,
}

impl Game {
    fn new(seed: u64) -> Game {
        let mut random = Random(seed);
        let mut bench = Bench::new();
        bench.settings.limits.filter_values_max = [1, 2, 20, 100, 100][random.below(5) as usize];
        bench.settings.auth_key = random.chance(3).then(|| AuthKey::parse(&"01".repeat(32)).expect("a key"));
        let mut budget = Budget::default();
        if !random.chance(3) {
            let number = |random: &mut Random| {
                let numbers = [0, 1, 2, 3, 4, 5, 7, 10, 20, 200, u64::MAX];
                (!random.chance(3)).then(|| numbers[random.below(numbers.len() as u64) as usize])
            };
            budget.info = Some(RelayInfo {
                max_subscriptions: number(&mut random),
                max_limit: number(&mut random),
                max_message_length: number(&mut random).map(|n| n.saturating_mul(10_000)),
                supported_nips: [None, Some(vec![1]), Some(vec![1, 77])][random.below(3) as usize].clone(),
                is_grasp: random.chance(3),
                ..RelayInfo::default()
            });
        }
        let relay = Relay::new(relay("one"), RelayProgress::default(), budget, &mut bench.cx());
        let mut game = Game {
            bench,
            relay,
            random,
            open: BTreeSet::new(),
            used: BTreeSet::new(),
            asked: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            auth: None,
            inquired: None,
            dialled: None,
            linked: None,
            seq: 0,
            roots: 0,
            changes: Changes::default(),
        };
        for _ in 0..game.below(6) {
            game.change_state();
        }
        game
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    /// Lets the machine act, hears what it says, tells it what it wants to know, and looks whether all is well.
    fn act(&mut self, act: impl FnOnce(&mut Relay, &mut Cx<'_>)) {
        act(&mut self.relay, &mut self.bench.cx());
        self.hear();
        let mut told = 0;
        while self.supply() {
            self.hear();
            told += 1;
            assert!(told < OUTPUTS_MAX, "it must have enough at some time");
        }
        self.relay.assert_invariants(&self.bench.state);
        self.relay.assert_pumped(&mut self.bench.cx());
        let open = self.relay.session().map_or(0, Session::open_subscriptions);
        assert_eq!(self.open.len(), open, "what we count as open is open: {:?}", self.open);
    }

    fn supply(&mut self) -> bool {
        let now = self.bench.now.mono;
        if self.relay.wanted_thread(&self.bench.cx()).is_some() {
            let ids = |n: u64| (0..n as u32).map(|n| crate::sync::testing::root_id(900 + n)).collect();
            let part = match self.below(6) {
                0 => ThreadPart::TooLarge,
                1 => ThreadPart::More(ids(3)),
                n => ThreadPart::Last(ids(n - 1)),
            };
            self.relay.add_thread(part, &mut self.bench.cx());
        } else if self.relay.wants_authors() {
            let authors = if self.random.chance(2) { Vec::new() } else { vec![crate::sync::testing::author(1)] };
            self.relay.add_authors(&authors, &mut self.bench.cx());
        } else if let Some(Found { of, ids, .. }) = self.relay.take_found(now) {
            let mut classified = Classified::default();
            for id in ids {
                match self.below(4) {
                    0 => {}
                    1 => classified.elsewhere.push(id),
                    _ => classified.needed.push(id),
                }
            }
            self.relay.add_needed(of, classified, &mut self.bench.cx());
        } else if self.relay.wanted_set().is_some() {
            let held = match self.below(6) {
                0 => None,
                1 => Some(Vec::new()),
                n => Some((0..n as u32 * 3).map(|n| (time_of(n), root_id(n))).collect()),
            };
            self.relay.add_set(held, &mut self.bench.cx());
        } else {
            return false;
        }
        true
    }

    /// The relay's end takes in what was sent.
    fn hear(&mut self) {
        let outputs = std::mem::take(&mut self.bench.out);
        assert!(outputs.len() < OUTPUTS_MAX, "{} outputs", outputs.len());
        for output in outputs {
            match output {
                Output::Inquire { link, .. } => self.inquired = Some(link),
                Output::Dial { link, .. } => self.dialled = Some(link),
                Output::Close { link, .. } => self.forget(link),
                Output::Send { link, text } => {
                    assert_eq!(Some(link), self.linked, "sent on a link that is not open: {text}");
                    self.hear_text(&text);
                }
                Output::Ping { .. } | Output::Hold { .. } => {}
            }
        }
    }

    fn hear_text(&mut self, text: &str) {
        let name = text.split('"').nth(3).expect("a name").to_owned();
        match text.split('"').nth(1).expect("a message") {
            "REQ" => {
                assert!(self.used.insert(name.clone()), "a name is used twice: {text}");
                self.open.insert(name.clone());
                self.asked.insert(name, serde_json::from_str(text).expect("JSON"));
            }
            "CLOSE" => {
                assert!(self.open.remove(&name), "closes what is not open: {text}");
                self.asked.remove(&name);
            }
            "NEG-OPEN" => {
                assert!(self.used.insert(name.clone()), "a name is used twice: {text}");
                let message: Value = serde_json::from_str(text).expect("JSON");
                let peer = self.random.chance(2).then(|| self.draw_peer());
                let message = message[3].as_str().map(str::to_owned);
                self.exchanges.insert(name, Exchange { peer, message });
            }
            "NEG-MSG" => {
                let exchange = self.exchanges.get_mut(&name).expect("an exchange that is open");
                exchange.message = text.split('"').nth(5).map(str::to_owned);
            }
            "NEG-CLOSE" => assert!(self.exchanges.remove(&name).is_some(), "closes what is not open: {text}"),
            "AUTH" => {
                let message: Value = serde_json::from_str(text).expect("JSON");
                self.auth = EventId::from_hex(message[1]["id"].as_str().expect("an id")).ok();
            }
            _ => panic!("nothing that a relay expects: {text}"),
        }
    }

    /// Some of what the machine may hold, and more.
    fn draw_peer(&mut self) -> Negentropy<'static, NegentropyStorageVector> {
        let mut set = NegentropyStorageVector::new();
        let (from, count) = (self.below(12), self.below(40));
        for n in from as u32..(from + count) as u32 {
            set.insert(time_of(n).as_secs(), Id::from_byte_array(root_id(n).to_bytes())).expect("not sealed");
        }
        set.seal().expect("not sealed");
        Negentropy::owned(set, 4_096).expect("large enough")
    }

    fn forget(&mut self, link: LinkId) {
        self.inquired.take_if(|inquired| *inquired == link);
        self.dialled.take_if(|dialled| *dialled == link);
        if self.linked.take_if(|linked| *linked == link).is_some() {
            self.open.clear();
            self.used.clear();
            self.asked.clear();
            self.exchanges.clear();
            self.auth = None;
        }
    }

    // What happens.

    fn step(&mut self) {
        match self.below(32) {
            0..=5 => {
                let name = self.name();
                self.end(&name);
            }
            6..=10 => {
                let (name, why) = (self.name(), self.words());
                self.close(&name, &why);
            }
            11 | 12 => {
                let text = self.words();
                self.act(|relay, cx| relay.on_notice(&text, cx));
            }
            13 => {
                let (name, why) = (self.name(), self.words());
                let max = self.random.chance(3).then(|| self.random.next());
                self.exchanges.remove(&name);
                self.act(|relay, cx| relay.on_neg_err(&name, &why, max, cx));
            }
            14..=16 => self.send_events(),
            17..=19 => self.answer_exchange(),
            20 | 21 => {
                let secs = [0, 0, 1, 4, 5, 20, 60, 66, 600, 3_700, 90_000][self.below(11) as usize];
                self.bench.advance(secs);
                self.act(|relay, cx| relay.on_time(cx));
            }
            22 | 23 => self.pass_deadline(),
            24 => self.act(|relay, cx| relay.on_alive(cx)),
            25 => {
                let (id, accepted) = (self.auth.unwrap_or(root_id(1)), self.random.chance(2));
                self.act(|relay, cx| relay.on_ok(id, accepted, cx));
            }
            26 => self.act(|relay, cx| relay.on_challenge("challenge", cx)),
            27 => self.lose_link(),
            28 | 29 => self.change_state(),
            _ => self.close_window(),
        }
        self.open_links();
    }

    /// A subscription or an exchange that is open, one that was, or one that never was.
    fn name(&mut self) -> String {
        let names: Vec<&String> = match self.random.below(8) {
            0 => self.used.iter().collect(),
            1 => self.exchanges.keys().collect(),
            _ => self.open.iter().collect(),
        };
        if names.is_empty() || self.random.chance(20) {
            let n = self.random.below(200);
            return ["l", "b", "n", "", "nobody's "][n as usize % 5].to_owned() + &n.to_string();
        }
        names[self.random.below(names.len() as u64) as usize].clone()
    }

    fn words(&mut self) -> String {
        refusal(self.below(REFUSALS as u64) as usize)
    }

    fn end(&mut self, name: &str) {
        self.asked.remove(name);
        self.act(|relay, cx| relay.on_eose(name, cx));
    }

    fn close(&mut self, name: &str, why: &str) {
        self.open.remove(name);
        self.asked.remove(name);
        self.exchanges.remove(name);
        self.act(|relay, cx| relay.on_subscription_closed(name, why, cx));
    }

    fn send_events(&mut self) {
        let name = self.name();
        let count = [1, 1, 3, 12][self.below(4) as usize];
        let first = self.below(60) as u32;
        let ids = self.asked.get(&name).and_then(|asked| asked[2]["ids"].as_array().cloned()).unwrap_or_default();
        for n in 0..count {
            let fetched = ids.get(n as usize).and_then(|id| EventId::from_hex(id.as_str()?).ok());
            let id = fetched.unwrap_or(root_id(first + n));
            let fate = [Fate::New, Fate::New, Fate::Known, Fate::Refused, Fate::Unasked][self.below(5) as usize];
            let at = (!self.random.chance(6)).then(|| time_of(first + n / 4));
            let came = arrival(id, at, fate);
            self.act(|relay, cx| relay.on_event(&name, &came, cx));
        }
    }

    fn answer_exchange(&mut self) {
        let names: Vec<String> = self.exchanges.keys().cloned().collect();
        let Some(name) = names.get(self.below(names.len().max(1) as u64) as usize).cloned() else { return };
        let exchange = self.exchanges.get_mut(&name).expect("just looked at");
        let (peer, message) = (exchange.peer.as_mut(), exchange.message.take());
        let answer = match (peer, message.map(|message| bytes_of(&message))) {
            (Some(peer), Some(message)) => peer.reconcile(&message).ok().map(|answer| hex_of(&answer)),
            _ => None,
        };
        let garbage = ["", "61", "6", "zz", "62", "6100000201"][self.below(6) as usize];
        let answer = answer.unwrap_or_else(|| garbage.to_owned());
        self.act(|relay, cx| relay.on_neg_msg(&name, &answer, cx));
    }

    fn pass_deadline(&mut self) {
        let Some(at) = self.relay.next_deadline(&self.bench.cx()) else { return };
        let secs = at.since(self.bench.now.mono).as_micros().div_ceil(1_000_000);
        self.bench.advance(secs);
        self.act(|relay, cx| relay.on_time(cx));
    }

    fn lose_link(&mut self) {
        let Some(link) = self.linked.filter(|_| self.random.chance(2)) else { return };
        let reasons = [CloseReason::Peer(1006), CloseReason::Protocol, CloseReason::TooLarge];
        let reason = reasons[self.below(3) as usize];
        self.forget(link);
        self.act(|relay, cx| relay.on_closed(link, reason, cx));
    }

    /// What is being dialled mostly opens.
    fn open_links(&mut self) {
        if let Some(link) = self.inquired.take_if(|_| self.random.chance(2)) {
            let documents = [
                Err(CloseReason::Handshake(404)),
                Err(CloseReason::Connect),
                Ok("{}"),
                Ok("no document"),
                Ok(r#"{"limitation":{"max_subscriptions":1}}"#),
                Ok(r#"{"limitation":{"max_subscriptions":2,"max_limit":3},"supported_nips":[77]}"#),
                Ok(r#"{"limitation":{"max_subscriptions":0,"max_message_length":1},"supported_grasps":["GRASP-01"]}"#),
            ];
            let document = documents[self.below(documents.len() as u64) as usize];
            self.act(|relay, cx| relay.on_answer(link, document, cx));
        }
        if let Some(link) = self.dialled.take() {
            if self.random.chance(8) {
                return self.act(|relay, cx| relay.on_closed(link, CloseReason::Connect, cx));
            }
            self.open_link(link);
        }
    }

    fn open_link(&mut self, link: LinkId) {
        self.linked = Some(link);
        self.act(|relay, cx| relay.on_opened(link, cx));
    }

    // What is followed.

    /// Something about what is followed changes, as a batch would change it.
    fn change_state(&mut self) {
        self.seq += 1;
        let identifier = format!("repo-{}", self.below(5));
        let state = &mut self.bench.state;
        let changes = match self.random.below(6) {
            0 => state.remove_announcement(&addr(1, &identifier)),
            1 => {
                let mut announcement = announcement(1, &identifier, &["one"]);
                announcement.maintainers = vec![crate::sync::testing::author(2 + self.random.below(3) as u8)];
                state.set_announcement(&announcement, self.seq)
            }
            2 => state.set_announcement(&announcement(1, &identifier, &["other"]), self.seq),
            3 => state.set_announcement(&announcement(1, &identifier, &["one"]), self.seq),
            n => {
                let mut changes = Changes::default();
                for _ in 0..[1, 3, 150][self.random.below(3) as usize] {
                    self.roots += 1;
                    self.seq += 1;
                    changes.merge(state.add_root(root_id(self.roots), self.seq, &[addr(1, &identifier)]));
                }
                if n == 5 && self.roots > 0 {
                    state.remove_root(&root_id(1 + self.random.below(self.roots.into()) as u32));
                }
                changes
            }
        };
        let url = self.relay.url().clone();
        if let Some(repos) = changes.lost.get(&url) {
            self.relay.on_repos_lost(repos);
        }
        if let Some(repos) = changes.maintainers_changed.get(&url) {
            self.relay.on_maintainers_changed(repos);
        }
        self.changes.merge(changes);
    }

    fn close_window(&mut self) {
        self.bench.state.on_window_closed();
        let changes = std::mem::take(&mut self.changes);
        let of = |repos: &BTreeMap<_, BTreeSet<RepoId>>| repos.get(self.relay.url()).cloned().unwrap_or_default();
        let (gained, maintainers_changed) = (of(&changes.gained), of(&changes.maintainers_changed));
        let news = News { gained, maintainers_changed, roots: changes.roots, upto: self.seq };
        self.act(|relay, cx| relay.on_window(&news, cx));
    }

    // In the end.

    fn is_complete(&self) -> bool {
        let shared: BTreeSet<RepoId> = self.bench.state.repos_of(self.relay.url()).collect();
        let confirmed: BTreeSet<RepoId> = self.relay.progress().confirmed_repos().collect();
        // What has ended links before is gone around for a week.
        let goes_around = self.relay.budget().gaps.end_links() && confirmed.is_subset(&shared);
        let is_idle = self.relay.session().is_some_and(|session| session.round().is_over());
        self.relay.state_name() == StateName::Live && (shared == confirmed || goes_around && is_idle)
    }

    /// The relay means well from now on, and holds nothing.
    fn calm(&mut self) {
        self.close_window();
        let from = self.bench.now.mono;
        for _ in 0..CALM_ROUNDS {
            if self.is_complete() {
                return;
            }
            if let Some(link) = self.inquired.take() {
                self.act(|relay, cx| relay.on_answer(link, Err(CloseReason::Handshake(404)), cx));
            } else if let Some(link) = self.dialled.take() {
                self.open_link(link);
            } else if let Some((name, _)) = self.asked.pop_first() {
                self.act(|relay, cx| relay.on_eose(&name, cx));
            } else if let Some(name) = self.exchanges.keys().next().cloned() {
                self.exchanges.remove(&name);
                self.act(|relay, cx| relay.on_neg_err(&name, "blocked: Negentropy sync is disabled", None, cx));
            } else if let Some(id) = self.auth.take() {
                self.act(|relay, cx| relay.on_ok(id, true, cx));
            } else {
                self.pass_deadline();
                self.act(|relay, cx| relay.on_alive(cx));
            }
            let took = self.bench.now.mono.since(from);
            assert!(took <= CALM, "not complete after {} s: {:?}", took.as_secs(), self.relay.entered());
        }
        panic!("asked again and again: {:?}, {:?}", self.relay.entered(), self.relay.session());
    }
}

fn time_of(n: u32) -> UnixTime {
    UnixTime::from_secs(1_600_000_000 + u64::from(n) / 2)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).expect("hexadecimal")).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "the environment chooses the runs before they begin")]
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |given| given.parse().expect("a number"))
}

/// Prints the seed of a run that fails.
struct Seed(u64);

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "a failing run tells how to play it again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SIM_SEED={}", self.0);
        }
    }
}

#[test]
fn whatever_a_relay_says_its_machine_stays_whole() {
    let from = number("SIM_SEED", 1);
    for seed in from..from + number("SIM_RUNS", RUNS) {
        let seed = Seed(seed);
        let mut game = Game::new(seed.0);
        game.act(|relay, cx| relay.on_time(cx));
        for _ in 0..STEPS {
            game.step();
        }
        game.calm();
    }
}
