//! What must hold at every step, judged from outside: from what the process puts out, from what reached it, and from the
//! bytes that a power cut would leave. Each check keeps its own small model and knows nothing of the program's.

use crate::clock::{DAY, HOUR, MINUTE, Micros, SECOND};
use crate::events::{DOMAIN, DumbFilter, EventRef, SimEvent};
use crate::link::Far;
use grasp_sync::limits;
use grasp_sync::protocol::relay_url::RelayUrl;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub type Verdict = Result<(), String>;

/// What we have put on one link to a relay.
#[derive(Default)]
pub struct LinkCheck {
    subscriptions: BTreeMap<String, Vec<DumbFilter>>,
    opened_at: Option<Micros>,
    reqs: usize,
    layer_1_ended: bool,
    /// Until when the relay must be left alone because it said that we ask too often.
    quiet_until: Micros,
}

/// An hour in which the process may not see more inputs than this: whatever the world did, it was asked for.
pub const TURNS_PER_HOUR_MAX: u64 = 200_000;

impl LinkCheck {
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
            _ => Err(format!("neither REQ nor CLOSE: {text}")),
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
        if self.subscriptions.len() >= limits::RELAY_SUBSCRIPTIONS_MAX {
            return fail(&format!("an eleventh subscription beside {:?}", self.subscriptions.keys()));
        }
        if filters.is_empty() || filters.len() > limits::REQ_FILTERS_MAX {
            return fail(&format!("{} filters", filters.len()));
        }
        if bytes > limits::REQ_BYTES_MAX {
            return fail(&format!("{bytes} bytes"));
        }
        if at < self.quiet_until {
            return fail("sent during the cooldown that the relay asked for");
        }
        if let Some(f) = filters.iter().find(|f| f.limit.is_none_or(|n| n == 0)) {
            return fail(&format!("a filter without an explicit limit: {}", f.json));
        }
        if let Some(f) = filters.iter().find(|f| !bounded(f)) {
            return fail(&format!("a filter with no or too many values: {}", f.json));
        }
        if self.subscriptions.values().any(|s| *s == filters) {
            return fail("the same filters are open under another id");
        }
        let live = filters.iter().any(|f| f.is_layer_1() && f.since.is_some_and(|s| s.abs_diff(wall - 900) <= 2));
        if self.reqs == 0 && !live {
            return fail("the first REQ of a connection is not the live one for layer 1");
        }
        self.reqs += 1;
        self.subscriptions.insert(id, filters);
        Ok(())
    }

    /// Learns from a message that has reached us.
    pub fn on_received(&mut self, at: Micros, text: &str) {
        // Events are many and teach nothing here.
        if text.starts_with("[\"EVENT\"") {
            return;
        }
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let id = message[1].as_str().unwrap_or("");
        let limited =
            |text: &Value| text.as_str().is_some_and(|t| t.contains("rate-limited") || t.contains("rate limited"));
        match message[0].as_str() {
            Some("EOSE") => {
                let layer_1 = self.subscriptions.get(id).is_some_and(|s| s.iter().any(DumbFilter::is_layer_1));
                self.layer_1_ended |= layer_1;
            }
            Some("CLOSED") => {
                self.subscriptions.remove(id);
                if limited(&message[2]) {
                    self.quiet_until = at + 65 * SECOND;
                }
            }
            Some("NOTICE") if limited(&message[1]) => self.quiet_until = at + 65 * SECOND,
            _ => {}
        }
    }
}

/// At most 100 values in a tag list, and something in every list.
fn bounded(filter: &DumbFilter) -> bool {
    let fits = |n: usize| (1..=100).contains(&n);
    filter.tags.values().all(|s| fits(s.len()))
        && filter.authors.as_ref().is_none_or(|s| fits(s.len()))
        && filter.ids.as_ref().is_none_or(|s| fits(s.len()))
        && filter.kinds.as_ref().is_none_or(|s| fits(s.len()))
}

/// When a relay may be dialled again (spec section 7).
#[derive(Clone, Debug, Default)]
pub struct HealthCheck {
    failures: u32,
    first_failure: Micros,
    allowed_at: Micros,
}

impl HealthCheck {
    pub fn on_dial(&self, at: Micros) -> Verdict {
        // Microseconds that a process loses by its own clock's beginning are no sin.
        if at < self.allowed_at {
            return Err(format!(
                "dialled after {} failures, {} ms too early",
                self.failures,
                (self.allowed_at - at).div_ceil(1_000)
            ));
        }
        Ok(())
    }

    pub fn on_end(&mut self, at: Micros, stable: bool) {
        if stable {
            *self = HealthCheck { allowed_at: at, ..HealthCheck::default() };
            return;
        }
        if self.failures == 0 {
            self.first_failure = at;
        }
        let doubled = (5 * SECOND).saturating_mul(1 << self.failures.min(20)).min(HOUR);
        self.failures += 1;
        self.allowed_at = at + if at - self.first_failure >= DAY { DAY } else { doubled };
    }
}

/// What the disk would hold after a power cut, read at leisure.
#[derive(Default)]
pub struct Durable {
    pub events: BTreeMap<String, EventRef>,
}

impl Durable {
    pub fn has(&self, event: &EventRef) -> bool {
        self.events.contains_key(&event.id)
    }

    /// The relays that a followed repo needs: those that a current announcement on our service lists.
    pub fn needed_relays(&self) -> BTreeSet<String> {
        let mut current: BTreeMap<(&str, &str), &EventRef> = BTreeMap::new();
        for event in self.events.values().filter(|e| e.kind == 30617) {
            let slot = current.entry((&event.author, event.identifier())).or_insert(event);
            if event.supersedes(slot) {
                *slot = event;
            }
        }
        current.values().filter(|e| lists_us(e)).flat_map(|e| relays(e)).collect()
    }

    /// Whether some other stored event is a newer version of this one.
    pub fn superseded(&self, event: &SimEvent) -> bool {
        let key = event.replace_key();
        key.is_some() && self.events.values().any(|e| e.supersedes(event) && e.replace_key() == key)
    }

    /// Whether some stored deletion names this one.
    pub fn deleted(&self, event: &SimEvent) -> bool {
        let address = format!("{}:{}:{}", event.kind, event.author, event.identifier());
        self.events.values().filter(|d| d.kind == 5 && d.author == event.author).any(|d| {
            d.values("e").any(|id| id == event.id)
                || (d.created_at >= event.created_at && d.values("a").any(|a| a == address))
        })
    }
}

/// The relays of an announcement in the form that dials use.
pub fn relays(announcement: &SimEvent) -> Vec<String> {
    let tag = announcement.tags.iter().find(|t| t.first().is_some_and(|n| n == "relays"));
    tag.into_iter().flat_map(|t| &t[1..]).map(|r| plain(r)).collect()
}

fn plain(url: &str) -> String {
    let url = url.trim_end_matches('/').to_ascii_lowercase();
    url.strip_suffix(":443").filter(|u| u.starts_with("wss:")).map_or(url.clone(), str::to_owned)
}

fn lists_us(announcement: &SimEvent) -> bool {
    let clone = announcement.tags.iter().find(|t| t.first().is_some_and(|n| n == "clone"));
    clone.is_some_and(|t| t[1..].iter().any(|u| u.starts_with(&format!("https://{DOMAIN}/"))))
        && relays(announcement).contains(&format!("wss://{DOMAIN}"))
}

/// One dial at a time to each relay, and none too early.
#[derive(Default)]
pub struct Checks {
    pub links: BTreeMap<u64, LinkCheck>,
    pub health: BTreeMap<usize, HealthCheck>,
    /// When a repo last needed each relay.
    pub needed_at: BTreeMap<String, Micros>,
    /// Ids that were answered with `OK true` or served: never to be lost.
    pub acknowledged: BTreeMap<String, EventRef>,
    /// Ids that must never be stored.
    pub forbidden: BTreeMap<String, &'static str>,
    /// Ids of everything that was ever really signed.
    pub genuine: BTreeMap<String, EventRef>,
}

impl Checks {
    /// Judges a dial to relay `n` at `url`.
    pub fn on_dial(&mut self, at: Micros, n: usize, url: &str, bootstrap: bool, busy: &[Far]) -> Verdict {
        if busy.contains(&Far::Relay(n)) {
            return Err(format!("a second link to {url}"));
        }
        self.health.entry(n).or_default().on_dial(at).map_err(|e| format!("{url}: {e}"))?;
        // A relay is let go when the window closes, up to 5 s after its last repo went.
        let needed = self.needed_at.get(url).is_some_and(|t| at - t <= 6 * SECOND);
        if !bootstrap && !needed {
            return Err(format!("no followed repo needs {url}"));
        }
        Ok(())
    }

    /// Judges what is durable now.
    pub fn on_durable(&mut self, durable: &Durable) -> Verdict {
        for id in durable.events.keys() {
            if !self.genuine.contains_key(id) {
                return Err(format!("stored {id}, which nobody signed"));
            }
            if let Some(why) = self.forbidden.get(id) {
                return Err(format!("stored {id}: {why}"));
            }
        }
        for (id, event) in &self.acknowledged {
            if !durable.events.contains_key(id) && !durable.superseded(event) && !durable.deleted(event) {
                return Err(format!("lost {id}, which was acknowledged"));
            }
        }
        Ok(())
    }

    /// Remembers which of the relays at `urls` the followed repos need now. One that none needs is forgotten with its
    /// failures.
    pub fn note_needed(&mut self, at: Micros, durable: &Durable, urls: &[&str], bootstrap: &[RelayUrl]) {
        let needed = durable.needed_relays();
        for (n, url) in urls.iter().enumerate() {
            if needed.contains(*url) {
                self.needed_at.insert((*url).to_owned(), at);
            } else if !bootstrap.iter().any(|b| b.as_str() == *url) {
                self.health.remove(&n);
            }
        }
    }

    /// Judges a message on its way to a client: nothing is shown or acknowledged before it is durable.
    pub fn on_client_send(&mut self, durable: &Durable, text: &str) -> Verdict {
        let message: Value = serde_json::from_str(text).map_err(|e| format!("not JSON ({e}): {text}"))?;
        let id = match message[0].as_str() {
            Some("OK") if message[2] == true => message[1].as_str(),
            Some("EVENT") => message[2]["id"].as_str(),
            _ => return Ok(()),
        };
        let id = id.ok_or_else(|| format!("no id: {text}"))?;
        let event = self.genuine.get(id).ok_or_else(|| format!("an event nobody signed: {text}"))?;
        if !durable.has(event) && !durable.superseded(event) && !durable.deleted(event) {
            return Err(format!("acknowledged or served before it was durable: {text}"));
        }
        self.acknowledged.insert(id.to_owned(), event.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WALL_START;
    use crate::events::Author;

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

    #[test]
    fn delays_double_to_an_hour_and_then_last_a_day() {
        let mut health = HealthCheck::default();
        let mut at = 0;
        let mut delays = Vec::new();
        while at < 2 * DAY {
            health.on_dial(at).expect("allowed");
            health.on_end(at, false);
            assert!(health.on_dial(health.allowed_at - 1).is_err());
            delays.push((health.allowed_at - at) / SECOND);
            at = health.allowed_at;
        }
        assert_eq!(delays[..11], [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]);
        assert_eq!(*delays.last().expect("some"), 86_400);
        health.on_end(at, true);
        health.on_dial(at).expect("at once after a success");
    }

    #[test]
    fn needed_relays_come_from_current_announcements_on_our_service() {
        let author = Author::new(1);
        let mut durable = Durable::default();
        let mut add = |e: EventRef| durable.events.insert(e.id.clone(), e);
        add(author.announcement("x", &["wss://old.example"], 1));
        add(author.announcement("x", &["wss://R.example:443/"], 2));
        add(author.foreign_announcement("y", 1));
        assert_eq!(durable.needed_relays().into_iter().collect::<Vec<_>>(), ["wss://grasp.example", "wss://r.example"]);
    }

    #[test]
    fn an_early_ok_is_found() {
        let author = Author::new(1);
        let event = author.issue(&author.repo("x"), 1, "");
        let mut checks = Checks::default();
        checks.genuine.insert(event.id.clone(), event.clone());
        let ok = format!(r#"["OK","{}",true,""]"#, event.id);
        assert!(checks.on_client_send(&Durable::default(), &ok).is_err());
        let mut durable = Durable::default();
        durable.events.insert(event.id.clone(), event.clone());
        checks.on_client_send(&durable, &ok).expect("durable");
        assert!(checks.on_durable(&Durable::default()).is_err(), "lost again");
    }
}
