//! Oddities that deprive a page of its meaning as evidence (spec section 6, "The end of a sweep needs evidence"): events
//! that cannot be placed in time, bounds and limits that mean something else, events that come after EOSE, and events
//! whose sending ends the link. Any of them can be combined with any flavour and with each other.

use super::talk::{Act, Wire};
use super::{Held, ModelRelay};
use crate::checks::rules::ROOT_KINDS;
use crate::clock::Micros;
use crate::events::{DumbFilter, EventRef, SimEvent};
use grasp_sync::contract::CloseReason;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::rc::Rc;

/// What is odd about a relay; by default nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Each root event brings so many copies along that are spoiled in this way and bear its time.
    pub spoils: Option<(Spoiling, usize)>,
    pub max_limit: Option<MaxLimit>,
    /// `until` excludes its own second. Live subscriptions are not concerned.
    pub until_exclusive: bool,
    /// `since` excludes its own second. Live subscriptions are not concerned.
    pub since_exclusive: bool,
    /// Every answer begins with the oldest event, so that a limit or cap keeps the oldest.
    pub oldest_first: bool,
    pub late: Option<Late>,
    /// The first root event that the relay gets breaks every link on which it is sent.
    pub poison: Option<Breaks>,
}

/// A defect by which an event does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoiling {
    /// The signature is not the author's.
    Signature,
    /// The id is not the hash of the event.
    Id,
    /// `created_at` is half a second later than any integer.
    Fraction,
    /// `created_at` is a string of digits.
    Text,
    /// `created_at` is missing.
    Untimed,
}

impl Spoiling {
    pub const ALL: [Spoiling; 5] =
        [Spoiling::Signature, Spoiling::Id, Spoiling::Fraction, Spoiling::Text, Spoiling::Untimed];
    /// Events that have a time, which nobody vouches for.
    pub const FORGED: [Spoiling; 2] = [Spoiling::Signature, Spoiling::Id];

    /// A spoiled copy of an event. It matches the same filters, and the relay files it under the same second.
    pub fn spoil(self, event: &SimEvent) -> EventRef {
        let mut json: Value = serde_json::from_str(&event.json).expect("an event");
        let at = event.created_at;
        match self {
            Spoiling::Signature => json["sig"] = rotated(json["sig"].as_str().expect("a signature"), 1).into(),
            Spoiling::Id => json["id"] = rotated(&event.id, 1).into(),
            Spoiling::Fraction => json["created_at"] = json!(at as f64 + 0.5),
            Spoiling::Text => json["created_at"] = at.to_string().into(),
            Spoiling::Untimed => _ = json.as_object_mut().expect("an event").remove("created_at"),
        }
        let id = json["id"].as_str().expect("an id").to_owned();
        let (author, tags) = (event.author.clone(), event.tags.clone());
        Rc::new(SimEvent { id, author, created_at: at, kind: event.kind, tags, json: json.to_string() })
    }
}

/// Hexadecimal digits in another order.
fn rotated(digits: &str, by: usize) -> String {
    let (head, tail) = digits.split_at(by % digits.len());
    [tail, head].concat()
}

/// Events that one filter is answered with at most, whatever the flavour allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxLimit {
    /// The NIP-11 document says so.
    Advertised(usize),
    Silent(usize),
}

impl MaxLimit {
    fn max(self) -> usize {
        match self {
            MaxLimit::Advertised(max) | MaxLimit::Silent(max) => max,
        }
    }
}

/// EOSE comes at once, and the rest of the answer this much later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub by: Micros,
    pub prompt: Prompt,
    pub on_close: OnClose,
}

/// Which events of an answer come before EOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The first so many.
    First(usize),
    /// One of so many, the first of all among them.
    OneOf(usize),
}

impl Prompt {
    fn has(self, n: usize) -> bool {
        match self {
            Prompt::First(count) => n < count,
            Prompt::OneOf(count) => n.is_multiple_of(count),
        }
    }
}

/// What becomes of events that are late when their subscription is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    Sends,
    Drops,
}

/// How sending an event ends the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    TooLarge,
    NotUtf8,
    Protocol,
}

impl Breaks {
    pub const ALL: [Breaks; 3] = [Breaks::TooLarge, Breaks::NotUtf8, Breaks::Protocol];

    /// As the process hears of it.
    pub fn reason(self) -> CloseReason {
        match self {
            Breaks::TooLarge => CloseReason::TooLarge,
            // Text that is not UTF-8 is a breach of the protocol (RFC 6455, section 8.1).
            Breaks::NotUtf8 | Breaks::Protocol => CloseReason::Protocol,
        }
    }
}

impl Oddities {
    /// A filter as the relay understands it; `None`: nothing matches.
    pub(super) fn understood(&self, filter: &DumbFilter) -> Option<DumbFilter> {
        let mut filter = filter.clone();
        if self.until_exclusive
            && let Some(until) = filter.until
        {
            filter.until = Some(until.checked_sub(1)?);
        }
        if self.since_exclusive {
            filter.since = filter.since.map(|since| since.saturating_add(1));
        }
        Some(filter)
    }

    pub(super) fn cap(&self, cap: usize) -> usize {
        self.max_limit.map_or(cap, |limit| limit.max().min(cap))
    }

    /// The NIP-11 document that tells the limit.
    pub(super) fn info(&self) -> Option<Rc<str>> {
        let Some(MaxLimit::Advertised(max)) = self.max_limit else { return None };
        Some(json!({ "limitation": { "max_limit": max } }).to_string().into())
    }
}

impl ModelRelay {
    /// The relay stores an event that does not count.
    pub fn hold_spoiled(&mut self, event: &EventRef) {
        self.spoiled.insert((Reverse(event.created_at), event.json.clone()), event.clone());
    }

    /// Sending this event ends the link.
    pub fn poison(&mut self, event: &SimEvent, breaks: Breaks) {
        self.poisons.insert(event.id.clone(), breaks);
    }

    /// Whether an event cannot be had from this relay at all.
    pub fn is_poisoned(&self, event: &SimEvent) -> bool {
        self.poisons.contains_key(&event.id)
    }

    /// What an event that the relay gets brings along.
    pub(super) fn on_new(&mut self, event: &EventRef) {
        if !ROOT_KINDS.contains(&event.kind) {
            return;
        }
        if let Some((spoiling, copies)) = self.config.odd.spoils {
            for n in 1..=copies {
                // Their ids differ, so that each is an event of its own.
                let json = event.json.replacen(&event.id, &rotated(&event.id, 2 * n), 1);
                let sibling = SimEvent::from_json(&json).expect("an event");
                self.hold_spoiled(&spoiling.spoil(&sibling));
            }
        }
        if let Some(breaks) = self.config.odd.poison.filter(|_| self.poisons.is_empty()) {
            self.poison(event, breaks);
        }
    }

    /// Everything stored of the time that a filter asks for, newest first.
    pub(super) fn stored_within<'a>(
        &'a self,
        filter: &DumbFilter,
    ) -> Box<dyn DoubleEndedIterator<Item = &'a EventRef> + 'a> {
        let good = within(&self.held, filter);
        if self.spoiled.is_empty() {
            return Box::new(good);
        }
        let mut all: Vec<&EventRef> = good.chain(within(&self.spoiled, filter)).collect();
        all.sort_by_key(|event| (Reverse(event.created_at), &event.id));
        Box::new(all.into_iter())
    }

    /// Events of one second, those included that do not count.
    pub fn in_second(&self, at: u64) -> usize {
        let at = DumbFilter { since: Some(at), until: Some(at), ..DumbFilter::default() };
        within(&self.held, &at).count() + within(&self.spoiled, &at).count()
    }

    /// Sends the `n`th event of an answer, at once or late.
    pub(super) fn give(&mut self, n: usize, subscription: &str, event: &EventRef, wire: &mut Wire) {
        let late = self.config.odd.late.filter(|late| !late.prompt.has(n));
        let act = match self.poisons.get(&event.id) {
            Some(breaks) => Act::Break(breaks.reason()),
            None => {
                *self.sent.entry(event.id.clone()).or_default() += 1;
                let text = super::event_text(subscription, event);
                match late.map(|late| late.on_close) {
                    Some(OnClose::Drops) => Act::SayIfOpen(subscription.to_owned(), text),
                    Some(OnClose::Sends) | None => Act::Say(text),
                }
            }
        };
        wire.later(late.map_or(0, |late| late.by), act);
    }
}

/// What lies in the time that a filter asks for, newest first.
pub(super) fn within<'a>(
    held: &'a Held,
    filter: &DumbFilter,
) -> impl DoubleEndedIterator<Item = &'a EventRef> + use<'a> {
    let newest = (Reverse(filter.until.unwrap_or(u64::MAX)), String::new());
    // Behind every id, which is of hexadecimal digits, and every JSON object.
    let oldest = (Reverse(filter.since.unwrap_or(0)), "~".to_owned());
    // A filter that asks for nothing is no range.
    let range = (newest <= oldest).then(|| held.range(newest..=oldest));
    range.into_iter().flatten().map(|(_, event)| event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLI;
    use crate::events::Author;
    use crate::model_relay::{RelayConfig, Reply};

    /// A relay that holds issues of these times, and their ids.
    fn relay(odd: Oddities, times: &[u64]) -> (ModelRelay, Vec<EventRef>) {
        let config = RelayConfig::reconciling().odd(odd);
        let mut relay = ModelRelay::new("wss://r.example", config);
        relay.open(0, 1);
        let author = Author::new(1);
        let issues: Vec<EventRef> =
            times.iter().enumerate().map(|(n, at)| author.issue("30617:x:y", *at, &n.to_string())).collect();
        issues.iter().for_each(|issue| assert!(relay.hold(issue)));
        (relay, issues)
    }

    fn asks(relay: &mut ModelRelay, filter: &str) -> Vec<Reply> {
        relay.on_text(0, 1, &format!(r#"["REQ","s",{filter}]"#))
    }

    /// The times of the events that an answer has, `None` for one that has no such time.
    fn times(replies: &[Reply]) -> Vec<Option<u64>> {
        let event = |reply: &Reply| match &reply.act {
            Act::Say(text) | Act::SayIfOpen(_, text) => serde_json::from_str::<Value>(text).ok(),
            _ => None,
        };
        let events = replies.iter().filter_map(event).filter(|message| message[0] == "EVENT");
        events.map(|message| message[2]["created_at"].as_u64()).collect()
    }

    #[test]
    fn what_is_spoiled_comes_among_the_others_and_is_no_event() {
        for spoiling in Spoiling::ALL {
            let (mut relay, issues) = relay(Oddities::default(), &[10, 20, 30]);
            let spoiled = spoiling.spoil(&Author::new(1).issue("30617:x:y", 20, "spoiled"));
            let real = serde_json::from_str::<nostr::event::Event>(&spoiled.json);
            assert!(real.is_err() || real.is_ok_and(|event| event.verify().is_err()), "{spoiling:?}");
            relay.hold_spoiled(&spoiled);
            let answer = times(&asks(&mut relay, r##"{"#a":["30617:x:y"],"limit":10}"##));
            let unplaced = !Spoiling::FORGED.contains(&spoiling);
            assert_eq!(answer.iter().filter(|at| at.is_none()).count(), usize::from(unplaced), "{spoiling:?}");
            assert_eq!((answer.len(), answer[0], answer[3]), (4, Some(30), Some(10)), "{spoiling:?}");
            assert_eq!((relay.in_second(20), relay.held().count()), (2, issues.len()));
        }
    }

    #[test]
    fn root_events_bring_spoiled_copies_along() {
        let (mut relay, _) = relay(Oddities { spoils: Some((Spoiling::Id, 3)), ..Oddities::default() }, &[10, 20]);
        assert_eq!(times(&asks(&mut relay, "{}")).len(), 8);
        assert_eq!(relay.in_second(20), 4);
    }

    #[test]
    fn a_limit_of_the_relay_holds_whether_it_is_told_or_not() {
        for limit in [MaxLimit::Advertised(2), MaxLimit::Silent(2)] {
            let (mut relay, _) = relay(Oddities { max_limit: Some(limit), ..Oddities::default() }, &[1, 2, 3]);
            assert_eq!(times(&asks(&mut relay, r#"{"limit":10}"#)), [Some(3), Some(2)]);
            let told = relay.on_inquiry("/").expect("a document").contains(r#""max_limit":2"#);
            assert_eq!(told, limit == MaxLimit::Advertised(2));
        }
    }

    #[test]
    fn bounds_and_order_are_as_odd_as_they_are_said_to_be() {
        let asked = |odd: Oddities, filter: &str| times(&asks(&mut relay(odd, &[1, 2, 3, 4]).0, filter));
        let usual = Oddities::default();
        let until = Oddities { until_exclusive: true, ..usual.clone() };
        assert_eq!(asked(until.clone(), r#"{"until":3}"#), [Some(2), Some(1)]);
        assert_eq!(asked(until, r#"{"until":0}"#), []);
        let since = Oddities { since_exclusive: true, ..usual.clone() };
        assert_eq!(asked(since, r#"{"since":3}"#), [Some(4)]);
        let oldest = Oddities { oldest_first: true, ..usual };
        assert_eq!(asked(oldest, r#"{"since":2,"limit":2}"#), [Some(2), Some(3)]);
    }

    #[test]
    fn late_events_come_after_eose() {
        for on_close in [OnClose::Sends, OnClose::Drops] {
            let late = Late { by: 300 * MILLI, prompt: Prompt::First(1), on_close };
            let (mut relay, _) = relay(Oddities { late: Some(late), ..Oddities::default() }, &[1, 2, 3]);
            let answer = asks(&mut relay, r#"{"limit":10}"#);
            let after: Vec<Micros> = answer.iter().map(|reply| reply.after).collect();
            assert_eq!(after, [0, 300 * MILLI, 300 * MILLI, 0], "EOSE is the last that was put on the wire");
            assert_eq!(times(&answer), [Some(3), Some(2), Some(1)]);
            let depends = answer.iter().filter(|reply| matches!(reply.act, Act::SayIfOpen(..))).count();
            assert_eq!(depends, if on_close == OnClose::Drops { 2 } else { 0 });
            assert!(relay.is_open(1, "s"));
            relay.on_text(0, 1, r#"["CLOSE","s"]"#);
            assert!(!relay.is_open(1, "s"));
        }
    }

    #[test]
    fn a_poison_breaks_whatever_would_hold_it() {
        for breaks in Breaks::ALL {
            let (mut relay, issues) = relay(Oddities::default(), &[1, 2, 3]);
            relay.poison(&issues[1], breaks);
            let by_id = format!(r#"{{"ids":["{}"]}}"#, issues[1].id);
            for (filter, before) in [("{}", 1), (r#"{"until":2}"#, 0), (&by_id, 0)] {
                let answer = asks(&mut relay, filter);
                let broken = answer.iter().position(|reply| reply.act == Act::Break(breaks.reason()));
                assert_eq!(broken, Some(before), "{filter}");
            }
            let answer = asks(&mut relay, r#"{"since":3}"#);
            assert!(!answer.iter().any(|reply| matches!(reply.act, Act::Break(_))));
            let live = Author::new(1).issue("30617:x:y", 4, "live");
            relay.poison(&live, breaks);
            assert!(matches!(relay.publish(0, &live)[..], [Reply { act: Act::Break(_), .. }]));
        }
    }
}
