//! A relay as the world has it: NIP-01 as strfry answers it, with the caps and limits that one may set, and the ways in
//! which it may fail.

use crate::clock::Micros;
use crate::events::{DumbFilter, EventRef};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What one implementation allows.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Events that one filter is answered with at most; more are withheld without a word.
    pub cap: usize,
    pub subscriptions_max: usize,
    pub filters_max: usize,
    pub message_bytes_max: usize,
    /// Whether it keeps all versions of what NIP-01 says is replaced, and what its author deleted.
    pub keeps_everything: bool,
}

impl RelayConfig {
    /// strfry 1.1 as it comes out of the box.
    pub fn strfry() -> RelayConfig {
        RelayConfig {
            cap: 500,
            subscriptions_max: 200,
            filters_max: 200,
            message_bytes_max: 131_072,
            keeps_everything: false,
        }
    }

    /// The same with another cap.
    pub fn capped(cap: usize) -> RelayConfig {
        RelayConfig { cap, ..RelayConfig::strfry() }
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

/// One link's subscriptions.
#[derive(Default)]
pub struct Session {
    pub subscriptions: BTreeMap<String, Vec<DumbFilter>>,
}

pub struct ModelRelay {
    pub url: String,
    pub config: RelayConfig,
    pub mode: Mode,
    /// Newest first, ties by lowest id: the order of every answer.
    held: BTreeMap<(Reverse<u64>, String), EventRef>,
    sessions: BTreeMap<u64, Session>,
    /// Taken from the front, one for each REQ; `None` lets that REQ through.
    pub refusals: VecDeque<Option<Refusal>>,
    /// Never answers a REQ without `since`.
    pub ignores_history: bool,
    pub reqs: Vec<ReqSeen>,
    /// When someone dialled.
    pub dials: Vec<Micros>,
    /// How often each event was sent to anyone.
    pub sent: BTreeMap<String, u64>,
    pub received_close: Vec<(Micros, u64, String)>,
}

impl ModelRelay {
    pub fn new(url: &str, config: RelayConfig) -> ModelRelay {
        ModelRelay {
            url: url.to_owned(),
            config,
            mode: Mode::Up,
            held: BTreeMap::new(),
            sessions: BTreeMap::new(),
            refusals: VecDeque::new(),
            ignores_history: false,
            reqs: Vec::new(),
            dials: Vec::new(),
            sent: BTreeMap::new(),
            received_close: Vec::new(),
        }
    }

    pub fn open(&mut self, session: u64) {
        self.sessions.insert(session, Session::default());
    }

    pub fn close(&mut self, session: u64) {
        self.sessions.remove(&session);
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
        true
    }

    pub fn holds(&self, event: &EventRef) -> bool {
        self.held.contains_key(&(Reverse(event.created_at), event.id.clone()))
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

    /// Takes a published event: keeps it and says what to send to whom.
    pub fn publish(&mut self, event: &EventRef) -> Vec<(u64, String)> {
        if self.held.contains_key(&(Reverse(event.created_at), event.id.clone())) || !self.hold(event) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (session, s) in &self.sessions {
            for (subscription, filters) in &s.subscriptions {
                if filters.iter().any(|f| f.matches(event)) {
                    *self.sent.entry(event.id.clone()).or_default() += 1;
                    out.push((*session, event_text(subscription, event)));
                }
            }
        }
        out
    }

    /// Answers one text message.
    pub fn on_text(&mut self, at: Micros, session: u64, text: &str) -> Vec<String> {
        if !self.sessions.contains_key(&session) {
            return Vec::new();
        }
        if text.len() > self.config.message_bytes_max {
            return vec![notice("ERROR: bad msg: message too large")];
        }
        let message: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        let subscription = message.get(1).and_then(Value::as_str).unwrap_or("").to_owned();
        match message.first().and_then(Value::as_str) {
            Some("REQ") => self.on_req(at, session, subscription, &message[2..]),
            Some("CLOSE") => {
                self.received_close.push((at, session, subscription.clone()));
                if let Some(s) = self.sessions.get_mut(&session) {
                    s.subscriptions.remove(&subscription);
                }
                Vec::new()
            }
            _ => vec![notice("ERROR: bad msg: unknown cmd")],
        }
    }

    fn on_req(&mut self, at: Micros, session: u64, subscription: String, filters: &[Value]) -> Vec<String> {
        if filters.len() > self.config.filters_max {
            return vec![closed(&subscription, "ERROR: bad req: arr too big")];
        }
        let Some(filters) = filters.iter().map(DumbFilter::from_json).collect::<Option<Vec<_>>>() else {
            return vec![closed(&subscription, "ERROR: bad req: unrecognised filter item")];
        };
        let mut refusal = self.refusals.pop_front().flatten();
        if self.ignores_history && filters.iter().all(|f| f.since.is_none()) {
            refusal = Some(Refusal::Nothing);
        }
        let answer = match &refusal {
            Some(Refusal::Closed(_) | Refusal::Notice(_) | Refusal::Nothing) => Vec::new(),
            _ => self.answer(&filters),
        };
        self.reqs.push(ReqSeen { at, filters: filters.clone() });
        match refusal {
            Some(Refusal::Closed(reason)) => return vec![closed(&subscription, reason)],
            Some(Refusal::Notice(text)) => return vec![notice(text)],
            Some(Refusal::Nothing) => return Vec::new(),
            Some(Refusal::NoEose) | None => {}
        }
        let max = self.config.subscriptions_max;
        let s = self.sessions.get_mut(&session).expect("looked up by the caller");
        if s.subscriptions.len() >= max && !s.subscriptions.contains_key(&subscription) {
            return vec![notice("ERROR: too many concurrent REQs")];
        }
        s.subscriptions.insert(subscription.clone(), filters);
        let mut out = Vec::new();
        for event in &answer {
            *self.sent.entry(event.id.clone()).or_default() += 1;
            out.push(event_text(&subscription, event));
        }
        if !matches!(refusal, Some(Refusal::NoEose)) {
            out.push(json!(["EOSE", subscription]).to_string());
        }
        out
    }

    /// Each filter on its own, newest first, up to its limit and the cap; an event that several match comes once.
    fn answer(&self, filters: &[DumbFilter]) -> Vec<EventRef> {
        let mut sent: BTreeSet<&str> = BTreeSet::new();
        let mut out = Vec::new();
        for filter in filters {
            let limit = filter.limit.map_or(self.config.cap, |n| self.config.cap.min(n as usize));
            for event in self.held.values().filter(|e| filter.matches(e)).take(limit) {
                if sent.insert(&event.id) {
                    out.push(event.clone());
                }
            }
        }
        out
    }
}

pub fn event_text(subscription: &str, event: &EventRef) -> String {
    format!("[\"EVENT\",{},{}]", Value::from(subscription), event.json)
}

pub fn notice(text: &str) -> String {
    json!(["NOTICE", text]).to_string()
}

pub fn closed(subscription: &str, reason: &str) -> String {
    json!(["CLOSED", subscription, reason]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Author;

    fn relay(cap: usize) -> ModelRelay {
        let mut relay = ModelRelay::new("wss://r.example", RelayConfig::capped(cap));
        relay.open(1);
        relay
    }

    #[test]
    fn answers_newest_first_with_ties_by_lowest_id_up_to_the_cap_without_a_word() {
        let author = Author::new(1);
        let mut relay = relay(3);
        let mut events: Vec<EventRef> =
            [10, 20, 20, 30].iter().enumerate().map(|(n, at)| author.sign(1, *at, &[], &n.to_string())).collect();
        events.iter().for_each(|e| assert!(relay.hold(e)));
        events.sort_by_key(|e| (Reverse(e.created_at), e.id.clone()));
        let out = relay.on_text(0, 1, r#"["REQ","s",{"limit":10}]"#);
        let mut expected: Vec<String> = events[..3].iter().map(|e| event_text("s", e)).collect();
        expected.push(r#"["EOSE","s"]"#.to_owned());
        assert_eq!(out, expected);
    }

    #[test]
    fn a_limit_counts_for_each_filter_and_an_event_comes_once() {
        let author = Author::new(1);
        let mut relay = relay(100);
        (0..4).for_each(|n| assert!(relay.hold(&author.sign(1, n, &[], ""))));
        let out = relay.on_text(0, 1, r#"["REQ","s",{"limit":2},{"until":1,"limit":2},{"limit":1}]"#);
        assert_eq!(out.len(), 5);
    }

    #[test]
    fn a_subscription_is_live_until_closed() {
        let author = Author::new(1);
        let mut relay = relay(100);
        relay.on_text(0, 1, r#"["REQ","s",{"kinds":[1],"since":5,"limit":1}]"#);
        assert_eq!(relay.publish(&author.sign(1, 4, &[], "")).len(), 0);
        let event = author.sign(1, 6, &[], "");
        assert_eq!(relay.publish(&event), vec![(1, event_text("s", &event))]);
        assert_eq!(relay.publish(&event).len(), 0, "known");
        relay.on_text(0, 1, r#"["CLOSE","s"]"#);
        assert_eq!(relay.publish(&author.sign(1, 7, &[], "")).len(), 0);
    }

    #[test]
    fn replaces_and_deletes() {
        let author = Author::new(1);
        let mut relay = relay(100);
        let old = author.foreign_announcement("x", 1);
        assert!(relay.hold(&author.foreign_announcement("x", 2)) && !relay.hold(&old));
        assert!(relay.hold(&author.deletion(&[], &[&author.repo("x")], 3)));
        assert_eq!(relay.held.len(), 1, "the deletion alone");
    }

    #[test]
    fn refuses_as_strfry_does() {
        let mut relay = relay(100);
        relay.config.subscriptions_max = 1;
        relay.config.filters_max = 1;
        assert_eq!(relay.on_text(0, 1, r#"["REQ","a",{},{}]"#), [r#"["CLOSED","a","ERROR: bad req: arr too big"]"#]);
        assert_eq!(relay.on_text(0, 1, r#"["REQ","a",{}]"#).len(), 1);
        assert_eq!(relay.on_text(0, 1, r#"["REQ","b",{}]"#), [r#"["NOTICE","ERROR: too many concurrent REQs"]"#]);
        relay.refusals.push_back(Some(Refusal::Closed("rate-limited: wait")));
        assert_eq!(relay.on_text(0, 1, r#"["REQ","a",{}]"#), [r#"["CLOSED","a","rate-limited: wait"]"#]);
    }
}
