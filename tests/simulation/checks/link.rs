//! What may be put on one link to a relay (spec sections 5 and 6): how many subscriptions, of what form, in which order.

use super::Verdict;
use crate::clock::{MINUTE, Micros, SECOND};
use crate::events::DumbFilter;
use grasp_sync::limits;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a message of NIP-77: no relay that speaks it takes less.
const NEG_BYTES_MAX: usize = 131_072;

/// What we have put on one link to a relay.
#[derive(Default)]
pub struct LinkCheck {
    allowed: Allowed,
    subscriptions: BTreeMap<String, Vec<DumbFilter>>,
    /// By NIP-77.
    reconciliations: BTreeSet<String>,
    /// By NIP-42: the last challenge, whether something was refused for want of an answer, and whether there was one.
    challenge: Option<String>,
    auth_wanted: bool,
    auth_sent: bool,
    /// What came on a link before has ended that: what is live may begin now.
    after_break: bool,
    opened_at: Option<Micros>,
    reqs: usize,
    layer_1_ended: bool,
    /// Until when the relay must be left alone because it said that we ask too often.
    quiet_until: Micros,
}

/// What one relay may be asked: what it told, else what every relay is supposed to take.
#[derive(Clone, Copy)]
pub struct Allowed {
    pub subscriptions: usize,
    pub bytes: usize,
    pub values: usize,
}

impl Default for Allowed {
    fn default() -> Self {
        Allowed { subscriptions: limits::RELAY_SUBSCRIPTIONS_UNTOLD, bytes: limits::REQ_BYTES_UNTOLD, values: 100 }
    }
}

impl Allowed {
    /// By a NIP-11 document. What is no number there is not told.
    pub fn told(document: &str) -> Allowed {
        let document: Value = serde_json::from_str(document).unwrap_or_default();
        let number = |name: &str| document["limitation"][name].as_u64().filter(|n| *n > 0).map(|n| n as usize);
        let usual = Allowed::default();
        let bytes = number("max_message_length");
        Allowed {
            subscriptions: number("max_subscriptions").map_or(usual.subscriptions, |n| n.min(256)),
            bytes: bytes.map_or(usual.bytes, |n| n.clamp(16 << 10, 512 << 10)),
            values: if bytes.is_some() { 900 } else { usual.values },
        }
    }
}

impl LinkCheck {
    /// A link to a relay that allows so much.
    pub fn within(allowed: Allowed) -> LinkCheck {
        LinkCheck { allowed, ..LinkCheck::default() }
    }

    /// What came on some link before has ended that.
    pub fn after_break(mut self, yes: bool) -> LinkCheck {
        self.after_break = yes;
        self
    }

    pub fn opened(&mut self, at: Micros) {
        self.opened_at = Some(at);
    }

    /// Whether this connection counts as a success (spec section 7).
    pub fn stable(&self, at: Micros) -> bool {
        self.layer_1_ended || self.opened_at.is_some_and(|t| at - t >= MINUTE)
    }

    pub fn open_filters(&self) -> usize {
        self.subscriptions.values().map(Vec::len).sum()
    }

    /// Judges a message on its way to the relay.
    pub fn on_send(&mut self, at: Micros, wall: u64, text: &str) -> Verdict {
        if self.opened_at.is_none() {
            return Err(format!("sent before the link was open: {text}"));
        }
        let message: Vec<Value> = serde_json::from_str(text).map_err(|e| format!("not JSON ({e}): {text}"))?;
        let id = message.get(1).and_then(Value::as_str).unwrap_or("").to_owned();
        match message.first().and_then(Value::as_str) {
            Some("REQ") => self.on_req(at, wall, id, text.len(), &message[2..]),
            Some("CLOSE") => {
                self.subscriptions.remove(&id);
                Ok(())
            }
            Some("AUTH") => self.on_auth(text),
            Some("NEG-OPEN") => self.on_neg_open(at, id, text.len(), &message[2..]),
            Some("NEG-MSG") if self.reconciliations.contains(&id) => self.on_neg_frame(text.len()),
            Some("NEG-CLOSE") if self.reconciliations.remove(&id) => Ok(()),
            _ => Err(format!("nothing that a relay expects: {text}")),
        }
    }

    fn on_req(&mut self, at: Micros, wall: u64, id: String, bytes: usize, filters: &[Value]) -> Verdict {
        let filters: Vec<DumbFilter> = filters
            .iter()
            .map(|f| DumbFilter::from_json(f).ok_or_else(|| format!("not a filter: {f}")))
            .collect::<Result<_, _>>()?;
        let fail = |what: &str| Err(format!("REQ {id}: {what}"));
        if id.is_empty() || id.chars().count() > limits::SUBSCRIPTION_ID_CHARS_MAX {
            return fail("the subscription id is empty or too long");
        }
        if self.subscriptions.contains_key(&id) {
            return fail("the subscription id is still in use");
        }
        if self.subscriptions.len() >= self.allowed.subscriptions {
            return fail(&format!("a subscription too many beside {:?}", self.subscriptions.keys()));
        }
        if filters.is_empty() || filters.len() > limits::REQ_FILTERS_MAX {
            return fail(&format!("{} filters", filters.len()));
        }
        if bytes > self.allowed.bytes {
            return fail(&format!("{bytes} bytes"));
        }
        if at < self.quiet_until {
            return fail("sent during the cooldown that the relay asked for");
        }
        if let Some(f) = filters.iter().find(|f| f.limit.is_none_or(|n| n == 0)) {
            return fail(&format!("a filter without an explicit limit: {}", f.json));
        }
        if let Some(f) = filters.iter().find(|f| !bounded(f, self.allowed.values)) {
            return fail(&format!("a filter with no or too many values: {}", f.json));
        }
        if self.subscriptions.values().any(|s| *s == filters) {
            return fail("the same filters are open under another id");
        }
        let begins = |since: u64| since.abs_diff(wall - 900) <= 2 || self.after_break && since.abs_diff(wall) <= 2;
        let live = filters.iter().any(|f| f.holds_layer_1() && f.since.is_some_and(begins));
        if self.reqs == 0 && !live {
            return fail("the first REQ of a connection is not the live one for layer 1");
        }
        self.reqs += 1;
        self.subscriptions.insert(id, filters);
        Ok(())
    }

    fn on_auth(&mut self, text: &str) -> Verdict {
        let challenge = self.challenge.as_deref().filter(|challenge| text.contains(*challenge));
        if challenge.is_none() {
            return Err(format!("not the answer to the last challenge: {text}"));
        }
        if !self.auth_wanted || self.auth_sent {
            return Err("AUTH that nothing was refused for the want of, or a second one".to_owned());
        }
        self.auth_sent = true;
        Ok(())
    }

    fn on_neg_open(&mut self, at: Micros, id: String, bytes: usize, rest: &[Value]) -> Verdict {
        let fail = |what: &str| Err(format!("NEG-OPEN {id}: {what}"));
        if id.is_empty() || id.chars().count() > limits::SUBSCRIPTION_ID_CHARS_MAX {
            return fail("the id is empty or too long");
        }
        if self.subscriptions.contains_key(&id) || self.reconciliations.contains(&id) {
            return fail("the id is still in use");
        }
        if rest.len() != 2
            || DumbFilter::from_json(&rest[0]).is_none_or(|f| !bounded(&f, limits::FILTER_VALUES_WIDE_MAX))
            || !rest[1].is_string()
        {
            return fail("not a filter within bounds and a frame");
        }
        if at < self.quiet_until {
            return fail("sent during the cooldown that the relay asked for");
        }
        self.reconciliations.insert(id);
        self.on_neg_frame(bytes)
    }

    fn on_neg_frame(&self, bytes: usize) -> Verdict {
        let fits = bytes <= NEG_BYTES_MAX;
        fits.then_some(()).ok_or_else(|| format!("{bytes} bytes of a reconciliation"))
    }

    /// Learns from a message that has reached us.
    pub fn on_received(&mut self, at: Micros, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let id = message[1].as_str().unwrap_or("");
        let limited =
            |text: &Value| text.as_str().is_some_and(|t| t.contains("rate-limited") || t.contains("rate limited"));
        // One relay says so of the number of subscriptions.
        let limited = |text: &Value| {
            limited(text) && !text.as_str().is_some_and(|t| t.starts_with("rate-limited: too many REQs"))
        };
        match message[0].as_str() {
            Some("EOSE") => {
                let layer_1 = self.subscriptions.get(id).is_some_and(|s| s.iter().any(DumbFilter::holds_layer_1));
                self.layer_1_ended |= layer_1;
            }
            Some("AUTH") => self.challenge = Some(id.to_owned()),
            Some("NEG-ERR") => _ = self.reconciliations.remove(id),
            Some("CLOSED") => {
                self.subscriptions.remove(id);
                self.auth_wanted |= message[2].as_str().is_some_and(|why| why.starts_with("auth-required:"));
                if limited(&message[2]) {
                    self.quiet_until = at + 65 * SECOND;
                }
            }
            Some("NOTICE") if limited(&message[1]) => self.quiet_until = at + 65 * SECOND,
            _ => {}
        }
    }
}

/// Not too many values in a tag list, and something in every list.
fn bounded(filter: &DumbFilter, values_max: usize) -> bool {
    let fits = |n: usize| (1..=values_max).contains(&n);
    filter.tags.values().all(|s| fits(s.len()))
        && filter.authors.as_ref().is_none_or(|s| fits(s.len()))
        && filter.ids.as_ref().is_none_or(|s| (1..=limits::FETCH_IDS_MAX).contains(&s.len()))
        && filter.kinds.as_ref().is_none_or(|s| fits(s.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WALL_START;

    fn live() -> String {
        format!(r#"["REQ","l",{{"kinds":[30617,30618],"since":{},"limit":500}}]"#, WALL_START - 900)
    }

    fn open() -> LinkCheck {
        let mut link = LinkCheck::default();
        link.opened(0);
        link
    }

    #[test]
    fn the_first_req_must_be_live() {
        let sweep = r#"["REQ","s",{"kinds":[30617,30618],"limit":500}]"#;
        assert!(open().on_send(0, WALL_START, sweep).is_err());
        let mut link = open();
        link.on_send(0, WALL_START, &live()).expect("live first");
        link.on_send(0, WALL_START, sweep).expect("then sweeps");
        assert_eq!(link.open_filters(), 2);
    }

    #[test]
    fn ids_limits_and_counts_are_watched() {
        let mut link = open();
        assert!(LinkCheck::default().on_send(0, WALL_START, &live()).is_err(), "not open yet");
        link.on_send(0, WALL_START, &live()).expect("live");
        assert!(link.on_send(0, WALL_START, &live()).is_err(), "id in use");
        link.on_send(0, WALL_START, r#"["CLOSE","l"]"#).expect("closes");
        link.on_send(0, WALL_START, &live()).expect("free again");
        link.on_received(0, r#"["CLOSED","l",""]"#);
        link.on_send(0, WALL_START, &live()).expect("closed by the relay");
        assert!(link.on_send(0, WALL_START, r#"["REQ","x",{"kinds":[5]}]"#).is_err(), "no limit");
        assert!(link.on_send(0, WALL_START, r##"["REQ","x",{"#e":[],"limit":5}]"##).is_err(), "no values");
        assert!(link.on_send(0, WALL_START, r#"["EVENT",{}]"#).is_err(), "not ours to say");
        for n in 1..10 {
            link.on_send(0, WALL_START, &format!(r#"["REQ","{n}",{{"kinds":[{n}],"limit":5}}]"#)).expect("fits");
        }
        assert!(link.on_send(0, WALL_START, r#"["REQ","x",{"limit":5}]"#).is_err(), "one too many");
    }

    #[test]
    fn a_challenge_is_answered_once_and_only_after_a_refusal() {
        let mut link = open();
        let auth = r#"["AUTH",{"tags":[["challenge","c 1"]]}]"#;
        assert!(link.on_send(0, WALL_START, auth).is_err(), "no challenge");
        link.on_received(0, r#"["AUTH","c 1"]"#);
        assert!(link.on_send(0, WALL_START, auth).is_err(), "nothing was refused");
        link.on_received(0, r#"["CLOSED","l","auth-required: who are you?"]"#);
        link.on_send(0, WALL_START, auth).expect("wanted");
        assert!(link.on_send(0, WALL_START, auth).is_err(), "twice");
    }

    #[test]
    fn reconciliations_are_watched() {
        let mut link = open();
        let neg_open = r#"["NEG-OPEN","n",{"kinds":[5]},"61000000"]"#;
        assert!(link.on_send(0, WALL_START, r#"["NEG-MSG","n","61"]"#).is_err(), "not open");
        link.on_send(0, WALL_START, neg_open).expect("opens");
        assert!(link.on_send(0, WALL_START, neg_open).is_err(), "in use");
        link.on_send(0, WALL_START, r#"["NEG-MSG","n","61"]"#).expect("goes on");
        let large = format!(r#"["NEG-MSG","n","{}"]"#, "61".repeat(NEG_BYTES_MAX / 2));
        assert!(link.on_send(0, WALL_START, &large).is_err(), "too large");
        link.on_send(0, WALL_START, r#"["NEG-CLOSE","n"]"#).expect("closes");
        link.on_send(0, WALL_START, neg_open).expect("free again");
        link.on_received(0, r#"["NEG-ERR","n","closed: "]"#);
        assert!(link.on_send(0, WALL_START, r#"["NEG-CLOSE","n"]"#).is_err(), "closed by the relay");
        assert!(link.on_send(0, WALL_START, r#"["NEG-OPEN","n",{"kinds":[5]}]"#).is_err(), "no frame");
        assert!(link.on_send(0, WALL_START, r##"["NEG-OPEN","n",{"#e":[]},"61"]"##).is_err(), "no values");
    }

    #[test]
    fn a_cooldown_is_watched() {
        let mut link = open();
        link.on_received(SECOND, r#"["NOTICE","rate-limited: slow down"]"#);
        assert!(link.on_send(65 * SECOND, WALL_START + 65, &live().replace("1799999100", "1799999165")).is_err());
        link.on_send(66 * SECOND, WALL_START, &live()).expect("over");
    }

    #[test]
    fn stable_after_layer_1_or_a_minute() {
        let mut link = open();
        assert!(!link.stable(59 * SECOND));
        assert!(link.stable(60 * SECOND));
        link.on_send(0, WALL_START, &live()).expect("live");
        link.on_received(0, r#"["EOSE","other"]"#);
        assert!(!link.stable(1));
        link.on_received(0, r#"["EOSE","l"]"#);
        assert!(link.stable(1));
    }
}
