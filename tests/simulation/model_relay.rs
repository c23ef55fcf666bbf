//! A relay as the world has it: some implementation (`flavour`), perhaps a liar, its store and its links, and the ways
//! in which a scenario may let it fail.

mod asking;
mod auth;
mod evidence;
mod flavour;
mod liar;
mod reconciling;
mod talk;
#[cfg(test)]
mod tests;

pub use evidence::{Breaks, Late, MaxLimit, Oddities, OnClose, Prompt, Spoiling};
pub use flavour::{Counted, Flavour, Limit, Quirk, Rate, Reconciling, Told};
pub use liar::Liar;
pub use reconciling::NegSeen;
pub use talk::{Act, Door, Reply, closed, event_text, notice};

use crate::clock::{Micros, SECOND, WALL_START};
use crate::events::{DumbFilter, EventRef};
use flavour::{Above, Cap, Idle};
use grasp_sync::contract::{CloseReason, RetryAfter};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use talk::{Bucket, Wire};

/// How one relay is set up.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    pub flavour: Flavour,
    /// Whether it keeps all versions of what NIP-01 says is replaced, and what its author deleted.
    pub keeps_everything: bool,
    pub liar: Option<Liar>,
    pub odd: Oddities,
}

impl RelayConfig {
    /// strfry, but for what its clock would do, and with reconciliation switched off: pages are what most scenarios are
    /// about.
    pub fn strfry() -> RelayConfig {
        let reconciling = Reconciling::Refused(Told::Closed("blocked: Negentropy sync is disabled"));
        let speaking = RelayConfig::reconciling();
        RelayConfig { flavour: Flavour { reconciling, info: None, ..speaking.flavour }, ..speaking }
    }

    /// The same with reconciliation.
    pub fn reconciling() -> RelayConfig {
        Flavour { pings: None, quirks: &[], ..Flavour::named("strfry") }.config()
    }

    /// The same with another cap.
    pub fn capped(cap: usize) -> RelayConfig {
        let strfry = RelayConfig::strfry();
        let cap = Cap { max: cap, absent: cap, above: Above::Gives(cap) };
        RelayConfig { flavour: Flavour { cap, ..strfry.flavour }, ..strfry }
    }

    pub fn lying(self, liar: Liar) -> RelayConfig {
        RelayConfig { liar: Some(liar), ..self }
    }

    pub fn odd(self, odd: Oddities) -> RelayConfig {
        RelayConfig { odd, ..self }
    }
}

/// What happens to someone who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Up,
    /// Nobody listens on the port.
    Refuses,
    /// Takes the WebSocket handshake and closes at once.
    HangsUp,
    /// Packets vanish: the connection never comes to be.
    BlackHole,
}

/// What a relay does with a REQ instead of answering it.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// CLOSED for that subscription, for this reason.
    Closed(&'static str),
    /// NOTICE with this text, the subscription is not opened.
    Notice(&'static str),
    /// The store fails: NOTICE with this text, and EOSE as if nothing were held.
    StoreError(&'static str),
    /// The events, but no EOSE.
    NoEose,
    /// No answer at all.
    Nothing,
}

/// A REQ as it reached the relay.
#[derive(Clone, Debug)]
pub struct ReqSeen {
    pub at: Micros,
    pub filters: Vec<DumbFilter>,
}

impl ReqSeen {
    /// Whether any filter asks for `value` in the tag `name`.
    pub fn asks(&self, name: &str, value: &str) -> bool {
        self.filters.iter().any(|f| f.asks(name, value))
    }
}

/// A limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    Subscriptions,
    Filters,
    Values,
    Limit,
    MessageBytes,
    Reconciliations,
    /// The relay tells nobody of these before they are passed.
    Rate(Counted),
}

/// One link.
#[derive(Default)]
pub struct Session {
    pub subscriptions: BTreeMap<String, Vec<DumbFilter>>,
    /// Whether the client has proved who it is (NIP-42).
    known: bool,
    /// By NIP-77. Their ids are no subscriptions'.
    reconciliations: BTreeMap<String, reconciling::Open>,
    /// When the last frame came.
    heard_at: Micros,
    /// Since when there has been no subscription.
    bare_since: Micros,
    /// Tenths of the errors that end the link.
    errors: u64,
    /// When the last message of a trickle leaves.
    trickles_until: Micros,
}

/// Newest first, ties by lowest id: the order of every answer.
type Held = BTreeMap<(Reverse<u64>, String), EventRef>;

pub struct ModelRelay {
    pub url: String,
    pub config: RelayConfig,
    pub mode: Mode,
    /// The only path at which it is found; `None`: at any.
    pub path: Option<&'static str>,
    /// It answers nobody, but says when to come back.
    pub busy: Option<RetryAfter>,
    /// Paths for which someone dialled, found or not.
    pub paths_dialled: Vec<String>,
    held: Held,
    /// What it stores besides and serves among the others, though it is no event.
    spoiled: Held,
    /// By id, events whose sending ends the link.
    poisons: BTreeMap<String, Breaks>,
    sessions: BTreeMap<u64, Session>,
    buckets: BTreeMap<Counted, Bucket>,
    /// Taken from the front, one for each REQ; `None` lets that REQ through.
    pub refusals: VecDeque<Option<Refusal>>,
    /// Never answers a REQ without `since`.
    pub ignores_history: bool,
    pub reqs: Vec<ReqSeen>,
    /// Every AUTH, and whether it proved who the client is.
    pub auths: Vec<(Micros, bool)>,
    /// Every NEG-OPEN that could be read, refused ones included.
    pub negs: Vec<NegSeen>,
    /// When someone dialled.
    pub dials: Vec<Micros>,
    /// How often someone asked what it is, and was answered.
    pub inquiries: u64,
    dial_begun: bool,
    /// How often each event was sent to anyone.
    pub sent: BTreeMap<String, u64>,
    /// Bytes of text in both directions.
    pub bytes: u64,
    pub received_close: Vec<(Micros, u64, String)>,
    /// How often each limit was passed.
    pub breaches: BTreeMap<Breach, u64>,
    /// REQs refused for what they ask, not for how much.
    pub refused: u64,
    /// Live events of this moment.
    burst: (Micros, usize),
    answers: u64,
    /// Times at which a liar might have lied.
    lies: u64,
}

impl ModelRelay {
    pub fn new(url: &str, config: RelayConfig) -> ModelRelay {
        ModelRelay {
            url: url.to_owned(),
            config,
            mode: Mode::Up,
            path: None,
            busy: None,
            paths_dialled: Vec::new(),
            held: BTreeMap::new(),
            spoiled: BTreeMap::new(),
            poisons: BTreeMap::new(),
            sessions: BTreeMap::new(),
            buckets: BTreeMap::new(),
            refusals: VecDeque::new(),
            ignores_history: false,
            reqs: Vec::new(),
            auths: Vec::new(),
            negs: Vec::new(),
            dials: Vec::new(),
            inquiries: 0,
            dial_begun: false,
            sent: BTreeMap::new(),
            bytes: 0,
            received_close: Vec::new(),
            breaches: BTreeMap::new(),
            refused: 0,
            burst: (0, 0),
            answers: 0,
            lies: 0,
        }
    }

    /// Someone asks what it is, at a path.
    pub fn on_inquiry(&mut self, path: &str) -> Result<Rc<str>, CloseReason> {
        self.inquiries += 1;
        if let Some(retry) = self.busy {
            return Err(CloseReason::RetryAfter { status: 503, retry });
        }
        if !self.is_at(path) {
            return Err(CloseReason::Handshake(404));
        }
        let info = self.config.odd.info().or(self.config.flavour.info.map(Rc::from));
        info.ok_or(CloseReason::Handshake(404))
    }

    /// Someone begins a dial with that question.
    pub fn begin_dial(&mut self, at: Micros) {
        self.dials.push(at);
        self.dial_begun = true;
    }

    /// Nothing follows on it.
    pub fn end_dial(&mut self) {
        self.dial_begun = false;
    }

    fn is_at(&self, path: &str) -> bool {
        self.path.is_none_or(|own| own == path)
    }

    /// Someone dials, or goes on with a dial that has begun.
    pub fn on_dial(&mut self, at: Micros, path: &str) -> Door {
        if !std::mem::take(&mut self.dial_begun) {
            self.dials.push(at);
        }
        self.paths_dialled.push(path.to_owned());
        if self.mode == Mode::Up && self.busy.is_some() {
            return Door::Status(429, self.busy);
        }
        if self.mode == Mode::Up && !self.is_at(path) {
            return Door::Status(404, None);
        }
        if self.mode == Mode::Up && !self.take(Counted::Dials, at, 1) {
            return Door::Status(429, None);
        }
        Door::Mode(self.mode)
    }

    /// A link is open.
    pub fn open(&mut self, at: Micros, session: u64) -> Vec<Reply> {
        self.sessions.insert(session, Session { heard_at: at, bare_since: at, ..Session::default() });
        let mut wire = Wire::new(session);
        if self.config.flavour.has(Quirk::Challenges) {
            wire.challenge();
        }
        if let Some(after) = self.config.flavour.pings {
            wire.later(after, Act::Ping);
        }
        if let Idle::Unsubscribed(after) | Idle::Quiet(after) = self.config.flavour.idle {
            wire.later(after, Act::Look);
        }
        wire.into_replies()
    }

    pub fn close(&mut self, session: u64) {
        self.sessions.remove(&session);
    }

    /// A frame came that is no message.
    pub fn on_beat(&mut self, at: Micros, session: u64) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.heard_at = at;
        }
    }

    /// The relay pings, and would do so again.
    pub fn on_pinged(&self, session: u64) -> Option<Reply> {
        let after = self.config.flavour.pings.filter(|_| self.sessions.contains_key(&session))?;
        Some(Reply { session, after, act: Act::Ping })
    }

    /// A time has passed after which a link may be idle.
    pub fn on_look(&mut self, at: Micros, session: u64) -> Vec<Reply> {
        let Some(s) = self.sessions.get(&session) else { return Vec::new() };
        let mut wire = Wire::new(session);
        let (due, code, bare) = match self.config.flavour.idle {
            Idle::Never => return Vec::new(),
            Idle::Unsubscribed(max) => (s.bare_since + max, 1008, s.subscriptions.is_empty()),
            Idle::Quiet(max) => (s.heard_at + max, 1006, true),
        };
        match bare && due <= at {
            true => wire.hang_up(code),
            false => wire.later(due.saturating_sub(at).max(SECOND), Act::Look),
        }
        wire.into_replies()
    }

    /// The time by the relay's own clock.
    fn wall(&self, at: Micros) -> u64 {
        let slow = if self.config.liar == Some(Liar::SlowClock) { liar::CLOCK_SLOW_SECS } else { 0 };
        WALL_START + at / SECOND - slow
    }

    fn breach(&mut self, breach: Breach) {
        *self.breaches.entry(breach).or_default() += 1;
    }

    /// Takes from a bucket, if there is such a limit; whether there was enough.
    fn take(&mut self, of: Counted, at: Micros, n: u64) -> bool {
        let Some(rate) = self.config.flavour.rate(of) else { return true };
        let enough = self.buckets.entry(of).or_insert_with(|| Bucket::full(rate)).take(rate, at, n);
        if !enough {
            self.breach(Breach::Rate(of));
        }
        enough
    }

    /// Reconciliations now open, over all sessions.
    pub fn reconciling(&self) -> usize {
        self.sessions.values().map(|s| s.reconciliations.len()).sum()
    }

    pub fn sessions(&self) -> &BTreeMap<u64, Session> {
        &self.sessions
    }

    /// Filters now open, over all sessions.
    pub fn live_filters(&self) -> usize {
        self.sessions.values().flat_map(|s| s.subscriptions.values()).map(Vec::len).sum()
    }

    /// Events sent so far, every copy counted.
    pub fn events_sent(&self) -> u64 {
        self.sent.values().sum()
    }

    pub fn reqs_since(&self, at: Micros) -> impl Iterator<Item = &ReqSeen> {
        self.reqs.iter().filter(move |r| r.at >= at)
    }

    /// Limits passed but those that nobody is told of before: what comes in a time, and reconciliations.
    pub fn known_breaches(&self) -> Vec<(&Breach, &u64)> {
        self.breaches.iter().filter(|(b, _)| !matches!(b, Breach::Rate(_) | Breach::Reconciliations)).collect()
    }

    /// Puts an event into the relay's store without telling its subscribers, as if it had been there before them.
    /// Whether it is kept: an older version of something held is not.
    pub fn hold(&mut self, event: &EventRef) -> bool {
        if !self.config.keeps_everything {
            if let Some(key) = event.replace_key() {
                let same =
                    |e: &&EventRef| e.kind == key.0 && e.author == key.1 && e.replace_key().as_ref() == Some(&key);
                let old = self.held.values().find(same).cloned();
                match old {
                    Some(old) if !event.supersedes(&old) => return false,
                    Some(old) => self.forget(&old.id),
                    None => {}
                }
            }
            if event.kind == 5 {
                self.delete(event);
            }
        }
        self.held.insert((Reverse(event.created_at), event.id.clone()), event.clone());
        self.on_new(event);
        true
    }

    /// Whether it holds an event.
    pub fn holds(&self, event: &EventRef) -> bool {
        self.held.contains_key(&(Reverse(event.created_at), event.id.clone()))
    }

    /// Everything it holds, newest first.
    pub fn held(&self) -> impl Iterator<Item = &EventRef> {
        self.held.values()
    }

    /// Whether an event lies in a second that holds as much as one answer does: what is behind cannot be asked for.
    pub fn hides(&self, event: &EventRef) -> bool {
        self.in_second(event.created_at) >= self.page_max().min(250)
    }

    /// Events that one filter is answered with at most.
    pub fn page_max(&self) -> usize {
        self.config.odd.cap(self.config.flavour.cap.max)
    }

    pub fn forget(&mut self, id: &str) {
        self.held.retain(|_, e| e.id != id);
    }

    fn delete(&mut self, deletion: &EventRef) {
        let ids: BTreeSet<&str> = deletion.values("e").collect();
        let addresses: BTreeSet<&str> = deletion.values("a").collect();
        self.held.retain(|_, e| {
            let address = format!("{}:{}:{}", e.kind, e.author, e.identifier());
            let named = ids.contains(&*e.id)
                || (addresses.contains(&*address) && e.created_at <= deletion.created_at && e.kind >= 30_000);
            !(named && e.author == deletion.author)
        });
    }

    /// Takes a published event: keeps it and tells its subscribers.
    pub fn publish(&mut self, at: Micros, event: &EventRef) -> Vec<Reply> {
        if self.holds(event) || self.is_future(at, event) || !self.hold(event) || self.is_lost(at) {
            return Vec::new();
        }
        let alone = self.config.flavour.has(Quirk::FiltersAlone);
        let mut out = Vec::new();
        for (session, s) in &self.sessions {
            let mut wire = Wire::new(*session);
            for (subscription, filters) in &s.subscriptions {
                let matching = filters.iter().filter(|f| f.matches(event)).count();
                for _ in 0..if alone { matching } else { matching.min(1) } {
                    if let Some(breaks) = self.poisons.get(&event.id) {
                        wire.later(0, Act::Break(breaks.reason()));
                        continue;
                    }
                    *self.sent.entry(event.id.clone()).or_default() += 1;
                    wire.event(subscription, event);
                }
            }
            out.push(wire);
        }
        out.into_iter().flat_map(|wire| self.tell(at, wire)).collect()
    }

    /// Whether it is too far ahead of the relay's clock to be taken.
    fn is_future(&self, at: Micros, event: &EventRef) -> bool {
        let flavour = self.config.flavour.quirks.iter().find_map(|q| match q {
            Quirk::RefusesFuture(secs) => Some(*secs),
            _ => None,
        });
        let ahead = flavour.or((self.config.liar == Some(Liar::SlowClock)).then_some(900));
        ahead.is_some_and(|secs| event.created_at > self.wall(at) + secs)
    }

    /// Whether too much happens at this moment for subscribers to be told.
    fn is_lost(&mut self, at: Micros) -> bool {
        self.burst = if self.burst.0 == at { (at, self.burst.1 + 1) } else { (at, 1) };
        self.config.flavour.quirks.iter().any(|q| matches!(q, Quirk::LosesBehind(n) if self.burst.1 > *n))
    }

    /// What goes out, as a liar would have it, within the bytes that the relay allows itself.
    fn tell(&mut self, at: Micros, mut wire: Wire) -> Vec<Reply> {
        if self.config.flavour.rate(Counted::Bytes).is_some() && !self.take_unfilled(wire.bytes()) {
            wire = Wire::new(wire.session());
            self.pass_rate(Counted::Bytes, "", &mut wire);
        }
        if self.config.flavour.has(Quirk::HintsAtEnd) {
            wire.hint();
        }
        self.bytes += wire.bytes();
        self.lie(at, wire).into_replies()
    }
}
