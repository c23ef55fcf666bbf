//! NIP-77 as relays speak it, or refuse to: what of the store a reconciliation covers, and what is said when one is too
//! large, one too many, forgotten or badly asked for.

use super::flavour::{Counted, Limit, Reconciling, Spoken, Told};
use super::talk::{Wire, notice};
use super::{Breach, Liar, ModelRelay};
use crate::clock::Micros;
use crate::events::DumbFilter;
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One reconciliation as the relay saw it.
#[derive(Clone, Debug)]
pub struct NegSeen {
    pub at: Micros,
    pub session: u64,
    pub filter: DumbFilter,
    /// Messages that came for it, NEG-OPEN included.
    pub messages: u64,
    /// Bytes of the frames that came, and of those that went out, before they became hexadecimal.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Whether it was ended by NEG-CLOSE.
    pub closed: bool,
}

/// One reconciliation that is open.
pub(super) struct Open {
    items: NegentropyStorageVector,
    heard_at: Micros,
    /// Its place in what the relay has seen.
    seen: usize,
}

/// Ids that are listed without being held.
const GHOSTS: u64 = 20;
/// Of the events held, those that are lost: one in so many, always the same.
const LOST_ONE_IN: u8 = 3;

/// What is no frame of the protocol.
const GARBAGE: [&str; 7] = ["", "zz", "6", "61ff", "00", "6100000210ffff", "610000027f"];

impl ModelRelay {
    /// Answers a message whose type begins with `NEG-`.
    pub(super) fn on_negentropy(&mut self, at: Micros, message: &[Value], wire: &mut Wire) {
        let text = |n: usize| message.get(n).and_then(Value::as_str).unwrap_or("").to_owned();
        let id = text(1);
        let spoken = match self.config.flavour.reconciling {
            Reconciling::Refused(told) => return tell(told, &id, None, wire),
            Reconciling::Spoken(spoken) => spoken,
        };
        self.forget_idle(at, spoken, wire);
        match &*text(0) {
            "NEG-OPEN" => {
                if self.config.liar == Some(Liar::NegSilent) {
                    return;
                }
                let (filter, frame) = (message.get(2).and_then(DumbFilter::from_json), from_hex(&text(3)));
                match (filter, frame) {
                    (Some(filter), Some(frame)) => self.on_neg_open(at, spoken, id, filter, &frame, wire),
                    _ => tell(spoken.nonsense, &id, None, wire),
                }
            }
            "NEG-MSG" => match from_hex(&text(2)) {
                Some(frame) => self.on_neg_frame(at, spoken, &id, &frame, wire),
                None => tell(spoken.nonsense, &id, None, wire),
            },
            "NEG-CLOSE" => {
                if let Some(open) = self.reconciliations(wire.session()).and_then(|r| r.remove(&id)) {
                    self.negs[open.seen].closed = true;
                }
            }
            _ => tell(spoken.nonsense, &id, None, wire),
        }
    }

    fn reconciliations(&mut self, session: u64) -> Option<&mut BTreeMap<String, Open>> {
        self.sessions.get_mut(&session).map(|s| &mut s.reconciliations)
    }

    /// What nobody spoke of for too long is forgotten; some relays say so.
    fn forget_idle(&mut self, at: Micros, spoken: Spoken, wire: &mut Wire) {
        let Some(open) = self.reconciliations(wire.session()) else { return };
        let idle = |o: &Open| at.saturating_sub(o.heard_at) > spoken.forgets_after;
        let forgotten: Vec<String> = open.iter().filter(|(_, o)| idle(o)).map(|(id, _)| id.clone()).collect();
        for id in forgotten {
            open.remove(&id);
            tell(spoken.forgotten, &id, None, wire);
        }
    }

    fn on_neg_open(
        &mut self,
        at: Micros,
        spoken: Spoken,
        id: String,
        filter: DumbFilter,
        frame: &[u8],
        wire: &mut Wire,
    ) {
        let seen = self.negs.len();
        self.negs.push(NegSeen {
            at,
            session: wire.session(),
            filter: filter.clone(),
            messages: 0,
            bytes_in: 0,
            bytes_out: 0,
            closed: false,
        });
        if !self.take(Counted::Reconciliations, at, 1) {
            let told = self.config.flavour.rate(Counted::Reconciliations).map_or(Told::Nothing, |r| r.told);
            return tell(told, &id, None, wire);
        }
        let items = self.items(&filter, spoken);
        let Some(open) = self.reconciliations(wire.session()) else { return };
        // The same id again takes the place of the one before.
        open.remove(&id);
        if open.len() >= spoken.at_once.max {
            self.breach(Breach::Reconciliations);
            return tell(spoken.at_once.told, &id, None, wire);
        }
        let Limit { max, told } = spoken.events;
        if items.len() > max {
            return tell(told, &id, spoken.names_max.then_some(max), wire);
        }
        let mut storage = NegentropyStorageVector::with_capacity(items.len());
        items.into_iter().for_each(|(time, id)| storage.insert(time, id).expect("not sealed"));
        storage.seal().expect("not sealed");
        open.insert(id.clone(), Open { items: storage, heard_at: at, seen });
        self.on_neg_frame(at, spoken, &id, frame, wire);
    }

    fn on_neg_frame(&mut self, at: Micros, spoken: Spoken, id: &str, frame: &[u8], wire: &mut Wire) {
        let liar = self.config.liar;
        let Some(open) = self.reconciliations(wire.session()).and_then(|r| r.get_mut(id)) else {
            return tell(spoken.unknown, id, None, wire);
        };
        open.heard_at = at;
        let seen = open.seen;
        let mut server = Negentropy::borrowed(&open.items, spoken.frame).expect("no flavour's frame is too small");
        let answer = server.reconcile(frame);
        let said = &mut self.negs[seen];
        said.messages += 1;
        said.bytes_in += frame.len() as u64;
        let Ok(mut answer) = answer else {
            self.reconciliations(wire.session()).and_then(|r| r.remove(id));
            return tell(spoken.nonsense, id, None, wire);
        };
        match liar {
            Some(Liar::NegGarbage) => {
                let text = GARBAGE[said.messages as usize % GARBAGE.len()];
                return wire.say(json!(["NEG-MSG", id, text]).to_string());
            }
            Some(Liar::NegEndless) => answer = never_the_same(said.messages),
            _ => {}
        }
        said.bytes_out += answer.len() as u64;
        wire.say(json!(["NEG-MSG", id, to_hex(&answer)]).to_string());
    }

    /// What the relay says that it holds of a filter.
    fn items(&self, filter: &DumbFilter, spoken: Spoken) -> Vec<(u64, Id)> {
        let time = |secs: u64| if spoken.in_ticks { secs * TICKS_PER_SECOND + TICKS_OF_1970 } else { secs };
        let bytes = |id: &str| Id::from_slice(&from_hex(id).expect("an id")).expect("an id");
        let understood = self.config.odd.understood(filter);
        let held = understood.iter().flat_map(|f| self.stored_within(f).filter(|e| self.finds(f, e)));
        let mut items: Vec<(u64, Id)> = held.map(|e| (time(e.created_at), bytes(&e.id))).collect();
        match self.config.liar {
            Some(Liar::NegLoses) => items.retain(|(_, id)| !id.to_bytes()[31].is_multiple_of(LOST_ONE_IN)),
            Some(Liar::NegGhosts) => {
                let newest = filter.until.unwrap_or(self.held.keys().next().map_or(0, |(at, _)| at.0));
                items.extend((0..GHOSTS).map(|n| (time(newest.saturating_sub(n)), ghost(n))));
            }
            _ => {}
        }
        items
    }
}

/// 100 ns, since the year 1: one relay hands these to the protocol in place of seconds.
const TICKS_PER_SECOND: u64 = 10_000_000;
const TICKS_OF_1970: u64 = 621_355_968_000_000_000;

/// An id that no event has.
fn ghost(n: u64) -> Id {
    let mut id = [0xee; 32];
    id[24..].copy_from_slice(&n.to_be_bytes());
    Id::from_byte_array(id)
}

/// A frame that says of the whole range that it is different (protocol version 1: one bound at infinity, mode
/// fingerprint), whatever the other side holds.
fn never_the_same(n: u64) -> Vec<u8> {
    let mut frame = vec![0x61, 0, 0, 1];
    frame.extend([n.to_be_bytes(), n.to_le_bytes()].concat());
    frame
}

/// `Closed` is NEG-ERR here.
fn tell(told: Told, id: &str, max: Option<usize>, wire: &mut Wire) {
    match told {
        Told::Notice(text) => wire.say(notice(text)),
        Told::Closed(reason) => {
            let mut message = vec![json!("NEG-ERR"), json!(id), json!(reason)];
            message.extend(max.map(|n| json!(n)));
            wire.say(Value::from(message).to_string());
        }
        Told::Hangup(code) => wire.hang_up(code),
        Told::NoticeAndHangup(text, code) => {
            wire.say(notice(text));
            wire.hang_up(code);
        }
        Told::Nothing | Told::NoticeAfterEose(_) | Told::NoticeAndEose(_) | Told::EoseAlone => {}
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|d| d[0] * 16 + d[1]).collect())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use crate::events::{Author, EventRef};
    use crate::model_relay::{Act, Flavour, RelayConfig, Reply};
    use std::collections::BTreeSet;

    const UNKNOWN_ID: &str = "closed: unknown subscription handle";

    /// A relay that holds so many notes, and their ids from the oldest on.
    fn relay(config: RelayConfig, notes: u64) -> (ModelRelay, Vec<EventRef>) {
        let mut relay = ModelRelay::new("wss://r.example", config);
        relay.open(0, 1);
        let author = Author::new(1);
        let events: Vec<EventRef> = (0..notes).map(|n| author.sign(1, 1_000 + n, &[], "")).collect();
        events.iter().for_each(|e| assert!(relay.hold(e)));
        (relay, events)
    }

    fn said(replies: Vec<Reply>) -> Vec<String> {
        let text = |r: Reply| match r.act {
            Act::Say(text) => Some(text),
            Act::Close(code) => Some(format!("close {code}")),
            Act::SayIfOpen(..) | Act::Break(_) | Act::Ping | Act::Look => None,
        };
        replies.into_iter().filter_map(text).collect()
    }

    fn says(relay: &mut ModelRelay, at: Micros, message: Value) -> Vec<String> {
        said(relay.on_text(at, 1, &message.to_string()))
    }

    fn neg_err(id: &str, reason: &str) -> Vec<String> {
        vec![json!(["NEG-ERR", id, reason]).to_string()]
    }

    /// Our side of a reconciliation of kind 1.
    struct Asker {
        items: NegentropyStorageVector,
    }

    /// Ids that they have and we have not, and how many frames it took; or what else was said.
    type Outcome = Result<(BTreeSet<String>, u64), Vec<String>>;

    impl Asker {
        fn holding(events: &[EventRef]) -> Asker {
            let mut items = NegentropyStorageVector::new();
            for event in events {
                let id = Id::from_slice(&from_hex(&event.id).expect("hex")).expect("an id");
                items.insert(event.created_at, id).expect("not sealed");
            }
            items.seal().expect("not sealed");
            Asker { items }
        }

        fn asks(&self, relay: &mut ModelRelay) -> Outcome {
            let mut client = Negentropy::borrowed(&self.items, 60_000).expect("large enough");
            let first = to_hex(&client.initiate().expect("once"));
            let mut message = json!(["NEG-OPEN", "n", {"kinds": [1]}, first]);
            let (mut have, mut need) = (Vec::new(), Vec::new());
            for frames in 1..1_000 {
                let answers = says(relay, 0, message);
                let answer: Value = answers.first().map_or(Value::Null, |t| serde_json::from_str(t).expect("JSON"));
                let frame = answer[2].as_str().filter(|_| answer[0] == "NEG-MSG" && answer[1] == "n");
                let Some(frame) = frame.and_then(from_hex) else { return Err(answers) };
                match client.reconcile_with_ids(&frame, &mut have, &mut need) {
                    Ok(Some(next)) => message = json!(["NEG-MSG", "n", to_hex(&next)]),
                    Ok(None) => {
                        assert!(says(relay, 0, json!(["NEG-CLOSE", "n"])).is_empty());
                        return Ok((need.iter().map(|id| to_hex(&id.to_bytes())).collect(), frames));
                    }
                    Err(_) => return Err(answers),
                }
            }
            Err(vec!["without end".to_owned()])
        }
    }

    fn ids(events: &[EventRef]) -> BTreeSet<String> {
        events.iter().map(|e| e.id.clone()).collect()
    }

    #[test]
    fn what_is_missing_here_is_named() {
        for name in ["strfry", "khatru-negentropy", "relay-builder"] {
            let (mut relay, events) = relay(Flavour::named(name).config(), 5_000);
            let (need, _) = Asker::holding(&events[..4_000]).asks(&mut relay).expect("a reconciliation");
            assert_eq!(need, ids(&events[4_000..]), "{name}");
            let (need, frames) = Asker::holding(&events).asks(&mut relay).expect("a reconciliation");
            assert_eq!((need.len(), frames), (0, 1), "{name}: equal sets");
            assert_eq!(relay.reconciling(), 0);
            let seen = &relay.negs[1];
            assert_eq!((seen.at, seen.session, seen.messages, seen.closed), (0, 1, 1, true));
            assert!(seen.filter.kinds.is_some() && seen.bytes_in + seen.bytes_out < 1_000, "{seen:?}");
        }
    }

    /// Times in other units: what is held on both sides is named too.
    #[test]
    fn netstr_names_everything() {
        let (mut relay, events) = relay(Flavour::named("netstr").config(), 300);
        let (need, _) = Asker::holding(&events[..200]).asks(&mut relay).expect("a reconciliation");
        assert!(need.is_superset(&ids(&events[200..])) && need.is_subset(&ids(&events)), "{}", need.len());
        assert!(need.len() > 200, "{}", need.len());
    }

    /// `relay-facts.md`, section 3.
    #[test]
    fn who_does_not_speak_it_says_so_in_its_own_words() {
        let open = || json!(["NEG-OPEN", "n", {"kinds": [1]}, "61000000"]);
        let parse = vec![json!(["NOTICE", "failed to parse envelope: unknown envelope label"]).to_string()];
        for (name, expected) in [
            ("nostr-rs-relay", vec![r#"["NOTICE","could not parse command"]"#.to_owned()]),
            ("khatru-badger", parse.clone()),
            ("ngit-relay", parse.clone()),
            ("wot-relay", parse),
            ("chorus", neg_err("n", "blocked: Negentropy sync is disabled")),
            ("rnostr", vec![r#"["NOTICE","Unsupported message"]"#.to_owned()]),
            ("nostream", vec![]),
        ] {
            let (mut relay, _) = relay(Flavour::named(name).config(), 0);
            assert_eq!(says(&mut relay, 0, open()), expected, "{name}");
            assert_eq!(says(&mut relay, 0, json!(["NEG-CLOSE", "n"])), expected, "{name}");
            assert_eq!(relay.known_breaches(), []);
        }
    }

    #[test]
    fn too_large_too_many_unknown_and_nonsense_are_told() {
        let open = |id: &str| json!(["NEG-OPEN", id, {"kinds": [1]}, "61000000"]);
        let with = |name: &str, change: fn(&mut Spoken)| {
            let mut flavour = Flavour::named(name);
            if let Reconciling::Spoken(spoken) = &mut flavour.reconciling {
                change(spoken);
            }
            relay(flavour.config(), 10).0
        };
        let mut strfry = with("strfry", |s| s.events.max = 9);
        let too_large = r#"["NEG-ERR","n","blocked: too many query results",9]"#;
        assert_eq!(says(&mut strfry, 0, open("n")), [too_large]);
        let mut strfry = with("strfry", |s| s.at_once.max = 2);
        assert_eq!([says(&mut strfry, 0, open("a")).len(), says(&mut strfry, 0, open("b")).len()], [1, 1]);
        let full = r#"["NOTICE","ERROR: too many concurrent NEG requests"]"#;
        assert_eq!(says(&mut strfry, 0, open("c")), [full]);
        assert_eq!(strfry.breaches.get(&Breach::Reconciliations), Some(&1));
        assert_eq!(says(&mut strfry, 0, json!(["NEG-MSG", "c", "61"])), neg_err("c", UNKNOWN_ID));
        assert_eq!(says(&mut strfry, 0, json!(["NEG-MSG", "a", "6100000210"])), neg_err("a", "PROTOCOL-ERROR"));
        assert_eq!(strfry.reconciling(), 1, "the error ends it");
        strfry.close(1);
        assert_eq!(strfry.reconciling(), 0);

        let mut builder = with("relay-builder", |_| {});
        assert_eq!(says(&mut builder, 0, json!(["NEG-OPEN", "n", {}, "zz"])), ["close 1006"]);

        let mut khatru = with("khatru-negentropy", |_| {});
        assert_eq!(says(&mut khatru, 0, open("n")).len(), 1);
        assert_eq!(says(&mut khatru, 7 * SECOND, json!(["NEG-MSG", "n", "61"])), [r#"["NEG-MSG","n","61"]"#]);
        assert_eq!(says(&mut khatru, 15 * SECOND, json!(["NEG-MSG", "n", "61"])), neg_err("n", "CLOSED"));

        let mut netstr = with("netstr", |_| {});
        assert_eq!(says(&mut netstr, 0, open("a")).len(), 1);
        assert_eq!(says(&mut netstr, 0, open("b")), neg_err("b", "invalid: too many subscriptions"));
        (0..3).for_each(|_| assert_eq!(says(&mut netstr, 0, open("a")).len(), 1, "in place of the same"));
        assert_eq!(says(&mut netstr, 0, open("a")), neg_err("a", "rate-limited: slow down there chief"));
    }

    #[test]
    fn liars_lie_in_their_own_way() {
        let strfry = |liar| relay(RelayConfig::reconciling().lying(liar), 300);
        let (mut ghosts, events) = strfry(Liar::NegGhosts);
        let (need, _) = Asker::holding(&events).asks(&mut ghosts).expect("a reconciliation");
        assert_eq!(need.len(), GHOSTS as usize);
        assert!(need.is_disjoint(&ids(&events)));

        let (mut loses, events) = strfry(Liar::NegLoses);
        let (need, _) = Asker::holding(&[]).asks(&mut loses).expect("a reconciliation");
        assert!(need.is_subset(&ids(&events)) && (100..280).contains(&need.len()), "{}", need.len());
        assert_eq!(Asker::holding(&[]).asks(&mut loses).expect("another").0, need, "the same ones each time");
        let all = says(&mut loses, 0, json!(["REQ", "s", {"kinds": [1], "limit": 500}]));
        assert_eq!(all.len(), 301, "and REQ gives them");

        let (mut silent, _) = strfry(Liar::NegSilent);
        assert_eq!(Asker::holding(&[]).asks(&mut silent), Err(vec![]));
        let (mut garbage, _) = strfry(Liar::NegGarbage);
        let message = Asker::holding(&[]).asks(&mut garbage).expect_err("garbage");
        assert!(message[0].starts_with(r#"["NEG-MSG","n",""#), "{message:?}");
        for n in 0..50 {
            let (mut endless, events) = strfry(Liar::NegEndless);
            let ours = &events[..n * 6];
            assert_eq!(Asker::holding(ours).asks(&mut endless), Err(vec!["without end".to_owned()]), "{n}");
        }
    }
}
