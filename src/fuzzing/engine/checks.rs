//! What must hold of everything the engine puts out, judged from its outputs alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::contract::{LinkId, Output};
use crate::limits::{
    FETCH_IDS_MAX, RELAY_SUBSCRIPTIONS_UNTOLD, REQ_BYTES_UNTOLD, REQ_FILTERS_MAX, SUBSCRIPTION_ID_CHARS_MAX,
};
use crate::protocol::filter::Filter;
use crate::settings::Settings;
use crate::time::Now;

/// A link that the engine has dialled.
pub struct Far {
    pub url: String,
    pub is_open: bool,
    /// Open subscriptions by their id.
    pub subscriptions: BTreeMap<String, Asked>,
    /// Reconciliations that were opened and not closed by us.
    pub exchanges: BTreeSet<String>,
    /// Before this the relay is not to be asked anything: it said that we ask too fast.
    pub quiet_until: u64,
}

/// One REQ.
pub struct Asked {
    pub filters: Vec<Filter>,
    /// As it was sent, without its id.
    said: Vec<Value>,
    pub is_answered: bool,
}

/// Both kinds of links, and what clients were told.
#[derive(Default)]
pub struct Checks {
    pub relays: BTreeMap<u64, Far>,
    pub clients: BTreeSet<u64>,
    /// Relays that are being asked what they are, by link.
    pub inquiries: BTreeMap<u64, String>,
    /// The last number that a link to a relay got.
    last: Option<u64>,
    /// Ids that were handed in and may be in the batch.
    pub uncommitted: BTreeSet<String>,
    /// Ids that a client was told are kept.
    pub acknowledged: BTreeSet<String>,
}

impl Checks {
    /// Of a process that has just begun: what was promised before still holds.
    pub fn restarted(self) -> Checks {
        Checks { acknowledged: self.acknowledged, ..Checks::default() }
    }

    pub fn judge(&mut self, output: &Output, now: Now, settings: &Settings) {
        match output {
            Output::Dial { link: LinkId::Relay(n), url } => {
                self.judge_number(*n);
                let url = url.as_str().to_owned();
                assert!(self.relays.values().all(|far| far.url != url), "a second link to {url}");
                assert!(self.inquiries.values().all(|asked| *asked != url), "{url} is dialled while it is asked");
                let (subscriptions, exchanges) = Default::default();
                let far = Far { url, is_open: false, subscriptions, exchanges, quiet_until: 0 };
                self.relays.insert(*n, far);
            }
            Output::Inquire { link: LinkId::Relay(n), url } => {
                self.judge_number(*n);
                let url = url.as_str().to_owned();
                assert!(self.inquiries.values().all(|asked| *asked != url), "{url} is asked twice at once");
                let dialling = self.relays.values().any(|far| far.url == url && !far.is_open);
                assert!(!dialling, "{url} is asked while it is dialled");
                self.inquiries.insert(*n, url);
            }
            Output::Send { link: LinkId::Relay(n), text } => {
                let far = self.relays.get_mut(n).expect("what is sent goes to a link that is there");
                assert!(far.is_open, "what is sent goes to an open link");
                far.judge(text, now, settings);
            }
            Output::Send { link: LinkId::Client(n), text } => {
                assert!(self.clients.contains(n), "what is sent goes to a client that is there");
                self.judge_answer(text);
            }
            Output::Ping { link: LinkId::Relay(n) } => assert!(self.relays[n].is_open, "a ping goes to an open link"),
            Output::Ping { link: LinkId::Client(n) } | Output::Hold { link: LinkId::Client(n), .. } => {
                assert!(self.clients.contains(n));
            }
            Output::Hold { link: LinkId::Relay(_), .. } => panic!("nothing is said of what a relay's link holds"),
            Output::Close { link: LinkId::Relay(n), .. } => {
                let was_there = self.relays.remove(n).is_some() || self.inquiries.remove(n).is_some();
                assert!(was_there, "what is closed was there");
            }
            Output::Close { link: LinkId::Client(n), .. } => {
                assert!(self.clients.remove(n), "who is closed was there");
            }
            Output::Dial { link: LinkId::Client(_), .. } | Output::Inquire { link: LinkId::Client(_), .. } => {
                panic!("a client is dialled")
            }
        }
    }

    fn judge_number(&mut self, n: u64) {
        assert!(self.last.is_none_or(|last| last < n), "link number {n} is used twice");
        self.last = Some(n);
    }

    fn judge_answer(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).expect("what a client is sent is JSON");
        let id = match message[0].as_str() {
            Some("EVENT") => &message[2]["id"],
            Some("OK") if message[2] == true => &message[1],
            Some("OK" | "EOSE" | "CLOSED" | "NOTICE") => return,
            _ => panic!("not a relay's message: {text}"),
        };
        let id = id.as_str().expect("an id");
        assert!(!self.uncommitted.contains(id), "shown before it was durable: {text}");
        if message[0] == "OK" {
            self.acknowledged.insert(id.to_owned());
        }
    }
}

impl Far {
    fn judge(&mut self, text: &str, now: Now, settings: &Settings) {
        let message: Vec<Value> = serde_json::from_str(text).expect("what a relay is sent is a message");
        let [kind, id, said @ ..] = &message[..] else { panic!("too short: {text}") };
        let id = id.as_str().expect("a subscription has an id");
        if kind == "CLOSE" {
            assert!(self.subscriptions.remove(id).is_some(), "what is closed was open: {text}");
            return;
        }
        match kind.as_str() {
            Some("NEG-CLOSE") => return assert!(self.exchanges.remove(id), "what is closed was open: {text}"),
            Some("NEG-MSG") => return assert!(self.exchanges.contains(id), "what goes on was open: {text}"),
            _ => {}
        }
        assert!(now.mono.as_micros() >= self.quiet_until, "asked while it should rest: {text}");
        assert!(!id.is_empty() && id.len() <= SUBSCRIPTION_ID_CHARS_MAX);
        assert!(text.len() <= REQ_BYTES_UNTOLD);
        if kind == "NEG-OPEN" {
            assert!(self.exchanges.insert(id.to_owned()), "the id is in use: {text}");
            return;
        }
        assert_eq!(kind, "REQ");
        assert!(self.subscriptions.len() < RELAY_SUBSCRIPTIONS_UNTOLD, "too many subscriptions");
        assert!((1..=REQ_FILTERS_MAX).contains(&said.len()), "too many filters: {text}");
        assert!(said.iter().all(|filter| is_modest(filter, settings.limits.filter_values_max)), "{text}");
        assert!(self.subscriptions.values().all(|other| other.said != said), "the same twice: {text}");
        let filters = said.iter().map(|filter| serde_json::from_value(filter.clone()).expect("a filter")).collect();
        let asked = Asked { filters, said: said.to_vec(), is_answered: false };
        assert!(self.subscriptions.insert(id.to_owned(), asked).is_none(), "the id is in use: {text}");
    }
}

/// Whether a filter has a limit, and something but not too much in each of its lists.
fn is_modest(filter: &Value, values_max: usize) -> bool {
    let fields = filter.as_object().expect("a filter is an object");
    let named = fields.iter().filter(|(name, _)| *name != "kinds");
    let mut lists = named.filter_map(|(name, value)| Some((name, value.as_array()?)));
    let most = |name: &str| if name == "ids" { FETCH_IDS_MAX } else { values_max.max(2) };
    fields.get("limit").and_then(Value::as_u64).is_some_and(|limit| limit > 0)
        && lists.all(|(name, list)| (1..=most(name)).contains(&list.len()))
}
