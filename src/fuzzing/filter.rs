//! Filters against a matcher that reads NIP-01 off the JSON and shares nothing with the program: our reading of a filter,
//! our matching, the fan-out's index and the store's queries must all agree with it.

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::rc::Rc;

use nostr::event::Event;
use serde_json::{Map, Value, json};

use crate::protocol::filter::{EventTags, Filter};
use crate::protocol::message::{ClientMessage, parse_client_message};
use crate::serve::fanout::{Fanout, SubscriptionKey};
use crate::store::testing::{Random, author, event};
use crate::store::{Query, QueryStep, Store};
use crate::time::UnixTime;

/// Bytes of one filter: its lists then stay below what a client may ask for, where reading becomes lenient.
const FILTER_BYTES_MAX: usize = 4_000;
/// Events that every filter is tried on.
const EVENTS: u64 = 80;
const AUTHORS: u64 = 4;
const KINDS: [u16; 6] = [1, 5, 1_621, 1_111, 30_617, 65_535];
const LETTERS: [&str; 6] = ["e", "E", "a", "p", "t", "z"];
/// Seconds over which the events lie, so that many share one.
const SECONDS: u64 = 16;
/// Candidates that one step of a query may look at; few of them make many steps, which cost the most.
const CANDIDATES: [usize; 8] = [1_000, 1_000, 1_000, 40, 40, 10, 3, 1];
/// When some of the events expire (NIP-40).
const EXPIRES: u64 = 50;

/// What every filter is tried on: made once, never changed.
struct Shelf {
    store: Store,
    /// As stored, by sequence number.
    events: Vec<Event>,
    /// As JSON, with the sequence number, in the order in which a relay gives them.
    newest_first: Vec<(u64, Value)>,
}

/// A filter on every event, alone and as a query. Two bytes choose how it is asked; the rest is the filter, as JSON or as
/// choices.
pub fn filter(data: &[u8]) {
    thread_local!(static SHELF: Shelf = Shelf::new());
    let [asked, steps, rest @ ..] = data else { return };
    let is_json = rest.first() == Some(&b'{');
    let Ok(text) = (if is_json { String::from_utf8(rest.to_vec()) } else { Ok(chosen(rest).to_string()) }) else {
        return;
    };
    // What is JSON to us and not to a full parse is too deep, or has half a surrogate in what we skip.
    let Ok(Value::Object(said)) = serde_json::from_str(&text) else { return };
    if text.len() > FILTER_BYTES_MAX {
        return;
    }
    let message = format!(r#"["REQ","s",{text}]"#);
    match parse_client_message(&message) {
        Ok(ClientMessage::Req { filters, .. }) => {
            assert!(is_filter(&said), "taken for a filter: {text}");
            SHELF.with(|shelf| shelf.compare(&said, &filters[0], *asked, *steps));
        }
        // A field twice is wrong too, but only the text shows it.
        refused => assert!(is_json || !is_filter(&said), "{refused:?}: {text}"),
    }
}

impl Shelf {
    fn new() -> Shelf {
        let mut store = Store::in_memory();
        let mut events = Vec::new();
        for n in 0..EVENTS {
            let event = nth_event(n);
            let staged = store.stage(event.clone()).expect("memory works");
            assert_eq!(staged.seq, n + 1);
            events.push(event);
            if n % 37 == 36 {
                store.commit().expect("memory works");
            }
        }
        store.commit().expect("memory works");
        let values = events.iter().map(|event| serde_json::to_value(event).expect("an event is JSON"));
        let mut newest_first: Vec<_> = (1..).zip(values).collect();
        newest_first
            .sort_by_key(|(_, event)| (Reverse(event["created_at"].as_u64()), event["id"].as_str().map(str::to_owned)));
        Shelf { store, events, newest_first }
    }

    fn compare(&self, said: &Map<String, Value>, filter: &Filter, asked: u8, steps: u8) {
        let now = u64::from(asked & 1) * EXPIRES;
        let limit_max = [500, 7][usize::from(asked >> 1 & 1)];
        let max_seq = if asked >> 2 & 1 == 0 { u64::MAX } else { u64::from(asked >> 3) * 4 };
        let limit = said.get("limit").and_then(Value::as_u64).map_or(limit_max, |limit| limit.min(limit_max));

        let mut fanout = Fanout::default();
        let key = SubscriptionKey { client: 1, number: 2 };
        if !filter.matches_nothing() {
            fanout.insert(key, &[Rc::new(filter.clone())]);
        }
        let mut expected = Vec::new();
        for (seq, value) in &self.newest_first {
            let event = &self.events[*seq as usize - 1];
            let wanted = matches(said, value);
            assert_eq!(filter.matches(event), wanted, "{said:?} {value}");
            assert_eq!(filter.matches_tags(&EventTags::of(event)), wanted, "{said:?} {value}");
            assert!(!wanted || fanout.candidates(&EventTags::of(event)).contains(&key), "{said:?} {value}");
            if wanted && *seq <= max_seq && !has_expired(value, now) {
                expected.push(*seq);
            }
        }
        expected.truncate(limit as usize);

        let mut query = Query::new(filter.clone(), max_seq, limit_max as usize);
        let candidates_max = CANDIDATES[usize::from(steps & 7)];
        let breaks_off = steps >> 3 & 7 == 7;
        let mut given = Vec::new();
        loop {
            let before = given.len();
            let step = self.store.query(&mut query, UnixTime::from_secs(now), candidates_max, &mut |seq, _| {
                given.push(seq);
                if breaks_off { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(given.len() - before <= if breaks_off { 1 } else { candidates_max });
            if step.expect("memory works") == QueryStep::Done {
                break;
            }
        }
        assert_eq!(given, expected, "{said:?} up to {max_seq}, at most {limit_max}");
    }
}

/// A value that tags of this letter have, or nearly have.
fn tag_value(letter: &str, n: u64) -> String {
    match (letter, n % 6) {
        (_, 0) => String::new(),
        ("e" | "E", n) => format!("{n:064x}"),
        ("a", n) => format!("30617:{}:repo-{n}", author((n % AUTHORS) as u8 + 1)),
        ("p", n) => author((n % AUTHORS) as u8 + 1).to_hex(),
        (_, n) => ["é", "\"quoted\"", "x", "X", " x"][n as usize - 1].to_owned(),
    }
}

/// The `n`th event. The store leaves signatures to the intake.
fn nth_event(n: u64) -> Event {
    let mut random = Random(n);
    let mut tags = vec![vec!["d".to_owned(), n.to_string()]];
    for k in 0..random.below(4) {
        let letter = LETTERS[random.below(LETTERS.len() as u64) as usize];
        tags.push(vec![letter.to_owned(), tag_value(letter, random.next()), tag_value(letter, k + 1)]);
    }
    if random.chance(8) {
        tags.push(vec!["e".to_owned()]);
    }
    if random.chance(8) {
        tags.push(vec!["expiration".to_owned(), EXPIRES.to_string()]);
    }
    if random.chance(8) {
        tags.push(vec!["tt".to_owned(), tag_value("t", random.next())]);
    }
    let tags: Vec<Vec<&str>> = tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    let kind = KINDS[random.below(KINDS.len() as u64) as usize];
    event(random.below(AUTHORS) as u8 + 1, kind, random.below(SECONDS), &tags, "")
}

/// A filter from bytes: which field, and which value of a list, a byte each.
fn chosen(choices: &[u8]) -> Value {
    let mut filter = Map::new();
    for choice in choices.chunks_exact(2) {
        let (field, n) = (choice[0], u64::from(choice[1]));
        let (name, value) = match field % 16 {
            0 => ("ids".to_owned(), json!(nth_event(n % (EVENTS + 1)).id.to_hex())),
            1 => ("authors".to_owned(), json!(author((n % (AUTHORS + 1)) as u8 + 1).to_hex())),
            2 | 3 => ("kinds".to_owned(), json!(KINDS[n as usize % KINDS.len()])),
            4 => {
                filter.insert("since".to_owned(), json!(n % (SECONDS + 1)));
                continue;
            }
            5 => {
                let until = if n == 255 { u64::MAX } else { n % (SECONDS + 1) };
                filter.insert("until".to_owned(), json!(until));
                continue;
            }
            6 => {
                filter.insert("limit".to_owned(), json!(n));
                continue;
            }
            // What no filter may hold, and what is ignored.
            7 => match n {
                0..8 => {
                    (["ids", "authors", "kinds", "#e", "#ee", "#", "#1", "since"][n as usize].to_owned(), json!("no"))
                }
                8..16 => (["search", "", "IDS"][n as usize % 3].to_owned(), json!({"a": [n]})),
                _ => continue,
            },
            _ => {
                let letter = LETTERS[usize::from(field) % LETTERS.len()];
                (format!("#{letter}"), json!(tag_value(letter, n)))
            }
        };
        let list = filter.entry(name).or_insert_with(|| json!([]));
        // One in some begins its list and leaves it empty.
        if let Some(list) = list.as_array_mut().filter(|_| n != 254) {
            list.push(value);
        }
    }
    Value::Object(filter)
}

/// Whether this is a filter as NIP-01 has them, strictly; `null` counts as not said.
fn is_filter(said: &Map<String, Value>) -> bool {
    let list = |value: &Value, fits: &dyn Fn(&Value) -> bool| {
        value.is_null() || value.as_array().is_some_and(|values| values.iter().all(fits))
    };
    let is_hex = |value: &Value| {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        value.as_str().is_some_and(|text| text.len() == 64 && text.chars().all(is_digit))
    };
    said.iter().all(|(name, value)| match name.as_str() {
        "ids" | "authors" => list(value, &is_hex),
        "kinds" => list(value, &|kind| kind.as_u64().is_some_and(|kind| kind <= 65_535)),
        "since" | "until" | "limit" => value.is_null() || value.is_u64(),
        name => match name.strip_prefix('#') {
            Some(letter) => {
                letter.len() == 1 && letter.chars().all(|c| c.is_ascii_alphabetic()) && list(value, &Value::is_string)
            }
            None => true,
        },
    })
}

/// NIP-01: every condition that is said is met; a list is met by any of its values.
fn matches(said: &Map<String, Value>, event: &Value) -> bool {
    said.iter().filter(|(_, condition)| !condition.is_null()).all(|(name, condition)| {
        let listed = |value: &Value| condition.as_array().is_some_and(|list| list.contains(value));
        match name.as_str() {
            "ids" => listed(&event["id"]),
            "authors" => listed(&event["pubkey"]),
            "kinds" => listed(&event["kind"]),
            "since" => event["created_at"].as_u64() >= condition.as_u64(),
            "until" => event["created_at"].as_u64() <= condition.as_u64(),
            name => name.strip_prefix('#').is_none_or(|letter| {
                let tags = event["tags"].as_array().expect("an event has tags");
                tags.iter().any(|tag| tag[0] == letter && listed(&tag[1]))
            }),
        }
    })
}

fn has_expired(event: &Value, now: u64) -> bool {
    let tags = event["tags"].as_array().expect("an event has tags");
    let expiration = tags.iter().find(|tag| tag[0] == "expiration").and_then(|tag| tag[1].as_str());
    expiration.is_some_and(|at| at.parse::<u64>().is_ok_and(|at| at <= now))
}
