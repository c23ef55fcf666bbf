//! How a relay takes what it is asked: which limits it passes, what is said then, and what the store answers.

use super::auth::NOT_A_MEMBER;
use super::flavour::{Above, Counted, Limit, Quirk, Told, Values};
use super::talk::{Reply, Wire, closed, notice};
use super::{Breach, Liar, ModelRelay, Refusal, ReqSeen};
use crate::clock::Micros;
use crate::events::{DumbFilter, EventRef, SimEvent};
use serde_json::Value;
use std::collections::BTreeSet;

/// What becomes of a REQ.
enum Verdict {
    Answered,
    /// Answered, but nobody will be told of what comes later.
    NotLive(Told),
    Refused(Told),
}

impl ModelRelay {
    /// Answers one text message.
    pub fn on_text(&mut self, at: Micros, session: u64, text: &str) -> Vec<Reply> {
        let Some(s) = self.sessions.get_mut(&session) else { return Vec::new() };
        s.heard_at = at;
        self.bytes += text.len() as u64;
        let mut wire = Wire::new(session);
        let limit = self.config.flavour.message_bytes;
        if text.len() > limit.max {
            self.breach(Breach::MessageBytes);
            self.tell_limit(limit, text.len(), "", &mut wire);
        } else if !self.take(Counted::Messages, at, 1) {
            self.pass_rate(Counted::Messages, "", &mut wire);
        } else if !self.take(Counted::Bytes, at, text.len() as u64) {
            self.pass_rate(Counted::Bytes, "", &mut wire);
        } else {
            self.on_message(at, text, &mut wire);
        }
        self.tell(at, wire)
    }

    fn on_message(&mut self, at: Micros, text: &str, wire: &mut Wire) {
        let message: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        let subscription = message.get(1).and_then(Value::as_str).unwrap_or("").to_owned();
        match message.first().and_then(Value::as_str) {
            Some("REQ") if message.len() > 2 => self.on_req(at, subscription, &message[2..], wire),
            Some("CLOSE") => {
                self.received_close.push((at, wire.session(), subscription.clone()));
                self.end_subscription(at, wire.session(), &subscription);
            }
            Some("AUTH") if self.challenges() => self.on_auth(at, &message[1], wire),
            Some(kind) if kind.starts_with("NEG-") => self.on_negentropy(at, &message, wire),
            _ if self.config.flavour.has(Quirk::HangsUpOnNonsense) => wire.hang_up(1006),
            _ => wire.say(notice("ERROR: bad msg: unknown cmd")),
        }
    }

    pub fn is_open(&self, session: u64, subscription: &str) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.subscriptions.contains_key(subscription))
    }

    pub(super) fn end_subscription(&mut self, at: Micros, session: u64, subscription: &str) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.subscriptions.remove(subscription);
        if s.subscriptions.is_empty() {
            s.bare_since = at;
        }
    }

    fn on_req(&mut self, at: Micros, subscription: String, filters: &[Value], wire: &mut Wire) {
        let limit = self.config.flavour.filters;
        if filters.len() > limit.max {
            self.breach(Breach::Filters);
            return self.tell_limit(limit, filters.len(), &subscription, wire);
        }
        let Some(filters) = filters.iter().map(DumbFilter::from_json).collect::<Option<Vec<_>>>() else {
            return wire.say(closed(&subscription, "ERROR: bad req: unrecognised filter item"));
        };
        self.reqs.push(ReqSeen { at, filters: filters.clone() });
        let refusal = self.refusals.pop_front().flatten();
        match &refusal {
            Some(Refusal::Closed(reason)) => return wire.say(closed(&subscription, reason)),
            Some(Refusal::Notice(text)) => return wire.say(notice(text)),
            Some(Refusal::StoreError(text)) => {
                return self.tell_refused(Told::NoticeAndEose(text), &subscription, filters, wire);
            }
            Some(Refusal::Nothing) => return,
            Some(Refusal::NoEose) | None => {}
        }
        if self.ignores_history && filters.iter().all(|f| f.since.is_none()) {
            return;
        }
        let verdict = self.judge(at, &subscription, &filters, wire);
        self.answers += 1;
        let cut_off = self
            .config
            .flavour
            .quirks
            .iter()
            .any(|q| matches!(q, Quirk::CutsOff(n) if self.answers.is_multiple_of(*n)));
        match verdict {
            Verdict::Refused(told) => self.tell_refused(told, &subscription, filters, wire),
            Verdict::NotLive(told) => {
                self.answer(&subscription, &filters, wire);
                wire.eose(&subscription);
                if let Told::NoticeAfterEose(text) = told {
                    wire.say(notice(text));
                }
            }
            Verdict::Answered => {
                self.answer(&subscription, &filters, wire);
                self.subscribe(wire.session(), &subscription, filters);
                if !cut_off && !matches!(refusal, Some(Refusal::NoEose)) {
                    wire.eose(&subscription);
                }
            }
        }
    }

    fn subscribe(&mut self, session: u64, subscription: &str, filters: Vec<DumbFilter>) {
        let adds = self.config.flavour.has(Quirk::FiltersAlone);
        let s = self.sessions.get_mut(&session).expect("looked up by the caller");
        let held = s.subscriptions.entry(subscription.to_owned()).or_default();
        if !adds {
            held.clear();
        }
        held.extend(filters);
    }

    /// Every rule that a REQ may break, in the order in which relays look at them.
    fn judge(&mut self, at: Micros, subscription: &str, filters: &[DumbFilter], wire: &mut Wire) -> Verdict {
        if !self.take(Counted::Subscriptions, at, 1) {
            return Verdict::Refused(self.config.flavour.rate(Counted::Subscriptions).expect("just taken from").told);
        }
        if let Some(told) = self.too_much(filters) {
            return Verdict::Refused(told);
        }
        for (n, filter) in filters.iter().enumerate() {
            let limited = !self.take(Counted::Filters, at, 1);
            let told = match limited {
                true => self.config.flavour.rate(Counted::Filters).map(|r| r.told),
                false => self.unwelcome(at, filter, wire),
            };
            if let Some(told) = told {
                if self.config.flavour.has(Quirk::FiltersAlone) && n > 0 {
                    self.subscribe(wire.session(), subscription, filters[..n].to_vec());
                }
                return Verdict::Refused(told);
            }
        }
        self.judge_as_a_whole(subscription, filters, wire)
    }

    fn judge_as_a_whole(&mut self, subscription: &str, filters: &[DumbFilter], wire: &mut Wire) -> Verdict {
        let flavour = &self.config.flavour;
        let s = &self.sessions[&wire.session()];
        for quirk in flavour.quirks {
            match quirk {
                Quirk::SameFilters(told) if s.subscriptions.values().any(|held| held == filters) => {
                    return Verdict::Refused(*told);
                }
                Quirk::LimitZeroUnanswered if filters.iter().all(|f| f.limit == Some(0)) => {
                    self.subscribe(wire.session(), subscription, filters.to_vec());
                    return Verdict::Refused(Told::Nothing);
                }
                Quirk::LimitScrapers if filters.iter().any(is_scraper) => return Verdict::Refused(Told::EoseAlone),
                Quirk::IdsOnlyClosed { after_eose } if filters.iter().all(is_ids_only) => {
                    if *after_eose {
                        self.answer(subscription, filters, wire);
                        wire.eose(subscription);
                    }
                    return Verdict::Refused(Told::Closed(""));
                }
                _ => {}
            }
        }
        let limit = flavour.subscriptions;
        let replaces = s.subscriptions.contains_key(subscription) && !flavour.has(Quirk::ReplacementCounts);
        if s.subscriptions.len() < limit.max || replaces {
            return Verdict::Answered;
        }
        self.breach(Breach::Subscriptions);
        match limit.told {
            told @ Told::NoticeAfterEose(_) => Verdict::NotLive(told),
            told => Verdict::Refused(told),
        }
    }

    /// Limits on what one filter may hold.
    fn too_much(&mut self, filters: &[DumbFilter]) -> Option<Told> {
        let flavour = &self.config.flavour;
        for filter in filters {
            if let (Some(n), Above::Refuses(why)) = (filter.limit, flavour.cap.above)
                && n as usize > flavour.cap.max
            {
                self.breach(Breach::Limit);
                return Some(Told::Closed(why));
            }
            let passed = match flavour.values {
                Values::Any => None,
                Values::Wraps(max) => {
                    // Nobody is told; `answer` looks at a few of them.
                    (values_of(filter) > max).then(|| self.breach(Breach::Values));
                    return None;
                }
                Values::InFilter(limit) => (values_of(filter) > limit.max).then_some(limit),
                Values::BytesOfTag(limit, tags_max) => {
                    let decoded = |v: &String| if is_hex_id(v) { 32 } else { v.len() };
                    let largest = filter.tags.values().map(|s| s.iter().map(decoded).sum::<usize>()).max();
                    (largest.unwrap_or(0) > limit.max || filter.tags.len() > tags_max).then_some(limit)
                }
            };
            if let Some(limit) = passed {
                self.breach(Breach::Values);
                return Some(limit.told);
            }
        }
        None
    }

    /// What some relays will not be asked at all.
    fn unwelcome(&mut self, at: Micros, filter: &DumbFilter, wire: &mut Wire) -> Option<Told> {
        let wall = self.wall(at);
        let kinds = filter.kinds.as_ref().map_or(0, BTreeSet::len);
        let named = kinds + filter.ids.as_ref().map_or(0, BTreeSet::len);
        let named = named + filter.authors.as_ref().map_or(0, BTreeSet::len) + values_of(filter);
        for quirk in self.config.flavour.quirks {
            let told = match quirk {
                Quirk::LowerCaseTags => {
                    let upper = filter.tags.keys().any(|name| name.chars().any(char::is_uppercase));
                    upper.then_some(Told::Notice("invalid: \"[2].#A\" is not allowed"))
                }
                Quirk::NoEmptyFilters => (named == 0).then_some(Told::Closed("blocked: can't handle empty filters")),
                Quirk::NoComplexFilters => {
                    let complex = filter.tags.len() + kinds > 4 && filter.tags.len() > 2;
                    complex.then_some(Told::Closed("blocked: too many things to filter for"))
                }
                Quirk::AntiSyncBots => {
                    let may_be_1 = filter.kinds.as_ref().is_none_or(|k| k.contains(&1));
                    let why = "blocked: an author must be specified to get their kind:1 notes";
                    (may_be_1 && filter.authors.is_none()).then_some(Told::Closed(why))
                }
                Quirk::AuthRequired if !self.knows(wire.session()) => {
                    wire.challenge();
                    Some(Told::Closed("auth-required: all requests must be authenticated"))
                }
                Quirk::MembersOnly { .. } => Some(Told::Closed(NOT_A_MEMBER)),
                Quirk::NoScrapers => self.scrapes(wall, filter, wire),
                _ => None,
            };
            if told.is_some() {
                self.refused += 1;
                return told;
            }
        }
        None
    }

    fn scrapes(&mut self, wall: u64, filter: &DumbFilter, wire: &Wire) -> Option<Told> {
        let precise = !filter.tags.is_empty() || filter.authors.is_some() || filter.ids.is_some();
        let range = filter.until.unwrap_or(wall).saturating_sub(filter.since.unwrap_or(0));
        if precise || filter.limit.is_some_and(|n| n <= 100) || range <= 7_200 {
            return None;
        }
        let s = self.sessions.get_mut(&wire.session()).expect("looked up by the caller");
        s.errors += 4;
        let why = "invalid: Filter is underspecified. Scrapers are not allowed";
        Some(Told::Closed(why))
    }

    fn tell_limit(&self, limit: Limit, n: usize, subscription: &str, wire: &mut Wire) {
        let text = |t: &str| t.replace("{n}", &n.to_string()).replace("{max}", &limit.max.to_string());
        match limit.told {
            Told::Nothing => {}
            Told::Notice(t) | Told::NoticeAfterEose(t) => wire.say(notice(&text(t))),
            Told::NoticeAndEose(t) => {
                wire.say(notice(&text(t)));
                wire.eose(subscription);
            }
            Told::EoseAlone => wire.eose(subscription),
            Told::Closed(t) => wire.say(closed(subscription, &text(t))),
            Told::Hangup(code) => wire.hang_up(code),
            Told::NoticeAndHangup(t, code) => {
                wire.say(notice(&text(t)));
                wire.hang_up(code);
            }
        }
    }

    pub(super) fn pass_rate(&self, of: Counted, subscription: &str, wire: &mut Wire) {
        if let Some(rate) = self.config.flavour.rate(of) {
            self.tell_limit(Limit { max: rate.burst as usize, told: rate.told }, 0, subscription, wire);
        }
    }

    /// Bytes that go out; nothing comes back for them until the client sends.
    pub(super) fn take_unfilled(&mut self, bytes: u64) -> bool {
        let Some(rate) = self.config.flavour.rate(Counted::Bytes) else { return true };
        let enough = self.buckets.get_mut(&Counted::Bytes).is_none_or(|b| b.take_unfilled(rate, bytes));
        if !enough {
            self.breach(Breach::Rate(Counted::Bytes));
        }
        enough
    }

    fn tell_refused(&mut self, told: Told, subscription: &str, filters: Vec<DumbFilter>, wire: &mut Wire) {
        // A store that cannot answer still listens.
        let listens =
            matches!(told, Told::NoticeAndEose(_)) || (told == Told::EoseAlone && !filters.iter().any(is_scraper));
        if listens {
            self.subscribe(wire.session(), subscription, filters);
        }
        let max = self.config.flavour.subscriptions.max;
        self.tell_limit(Limit { max, told: named(told) }, 0, subscription, wire);
        if self.sessions.get(&wire.session()).is_some_and(|s| s.errors >= 10) {
            wire.say(notice("Closing due to error(s)"));
            wire.hang_up(1008);
        }
    }

    /// Each filter on its own, up to its limit and the cap; but for some relays, an event that several match comes once.
    fn answer(&mut self, subscription: &str, filters: &[DumbFilter], wire: &mut Wire) {
        let alone = self.config.flavour.has(Quirk::FiltersAlone);
        let mut found: Vec<EventRef> = Vec::new();
        let mut sent: BTreeSet<String> = BTreeSet::new();
        for filter in filters {
            for event in self.query(filter) {
                if alone || sent.insert(event.id.clone()) {
                    found.push(event);
                }
            }
        }
        for (n, event) in found.iter().enumerate() {
            self.give(n, subscription, event, wire);
        }
    }

    fn query(&self, filter: &DumbFilter) -> Vec<EventRef> {
        let cap = self.config.flavour.cap;
        let most = match (filter.limit, cap.above) {
            (None, _) => cap.absent,
            (Some(n), Above::Gives(other)) if n as usize > cap.max => other,
            (Some(n), _) => n as usize,
        };
        let most = self.config.odd.cap(most);
        let Some(mut filter) = self.config.odd.understood(filter) else { return Vec::new() };
        if self.config.liar == Some(Liar::Endless) {
            filter.until = None;
        }
        if let Values::Wraps(max) = self.config.flavour.values {
            for values in filter.tags.values_mut().filter(|v| v.len() > max) {
                *values = values.iter().take(values.len() % max).cloned().collect();
            }
        }
        let found = self.stored_within(&filter).filter(|e| self.finds(&filter, e));
        let oldest_first = filter.limit.is_none() && self.config.flavour.has(Quirk::OldestFirst);
        match oldest_first || self.config.odd.oldest_first {
            true => found.rev().take(most).cloned().collect(),
            false => found.take(most).cloned().collect(),
        }
    }

    /// Whether the store finds the event, which is not always what the filter says.
    pub(super) fn finds(&self, filter: &DumbFilter, event: &SimEvent) -> bool {
        let flavour = &self.config.flavour;
        if flavour.has(Quirk::OnePattern) && filter.tags.values().any(|v| v.len() > 1) {
            return false;
        }
        if flavour.has(Quirk::TagNameIgnored) && !filter.tags.is_empty() {
            let anywhere = |value: &String| event.tags.iter().flatten().any(|item| item.contains(&**value));
            let rest = DumbFilter { tags: Default::default(), ..filter.clone() };
            return rest.matches(event) && filter.tags.values().all(|values| values.iter().any(anywhere));
        }
        filter.matches(event)
    }
}

/// The text of a limit that is told after EOSE is told at once where nothing is answered.
fn named(told: Told) -> Told {
    match told {
        Told::NoticeAfterEose(text) => Told::Notice(text),
        other => other,
    }
}

fn values_of(filter: &DumbFilter) -> usize {
    filter.tags.values().map(BTreeSet::len).sum()
}

fn is_hex_id(value: &str) -> bool {
    value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_ids_only(filter: &DumbFilter) -> bool {
    filter.ids.is_some() && filter.authors.is_none() && filter.kinds.is_none() && filter.tags.is_empty()
}

/// Fewer than two of authors, kinds and tags.
fn is_scraper(filter: &DumbFilter) -> bool {
    let parts = [filter.authors.is_some(), filter.kinds.is_some(), !filter.tags.is_empty()];
    filter.ids.is_none() && parts.into_iter().filter(|p| *p).count() < 2
}
