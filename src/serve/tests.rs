//! The own relay as its clients see it: messages in, messages out, over a real store in memory.

use nostr::event::{Event, Kind, Signature, Tag, UnsignedEvent};
use nostr::key::PublicKey;
use nostr::types::Timestamp;

use super::*;
use crate::limits::{
    CLIENT_HELD_EVENTS_MAX, CLIENT_LIVE_BYTES, CLIENT_PAGE_BYTES, FANOUT_BACKLOG_MAX, FANOUT_STEP_COST,
    MESSAGE_BYTES_MAX, QUERY_LIMIT_MAX,
};
use crate::store::StoredEvent;
use crate::time::UnixTime;

mod asks;
mod isolation;

/// An event with its true id; who checks signatures is not the own relay.
fn event(author: u8, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap());
    let author = PublicKey::from_byte_array([author; 32]);
    let at = Timestamp::from_secs(created_at);
    let mut unsigned = UnsignedEvent::new(author, at, Kind::from_u16(kind), tags, content);
    let id = unsigned.id();
    Event::new(id, author, at, unsigned.kind, unsigned.tags, unsigned.content, Signature::from_byte_array([0; 64]))
}

fn note(created_at: u64) -> Event {
    event(1, 1, created_at, &[], "")
}

fn notes(n: u64) -> Vec<Event> {
    (1..=n).map(note).collect()
}

struct World {
    serve: Serve,
    store: Store,
    metrics: Metrics,
    now: Now,
}

impl World {
    /// An own relay with client 1 connected and these events stored.
    fn new(events: &[Event]) -> World {
        let mut world = World {
            serve: Serve::new(&Limits::default(), &Timing::default()),
            store: Store::in_memory(),
            metrics: Metrics::default(),
            now: Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000_000) },
        };
        world.publish(events);
        world.accept(1);
        world
    }

    fn accept(&mut self, client: u64) {
        self.serve.on_accepted(self.now, client, Account::of([127, 0, 0, 1].into()), &mut self.metrics);
    }

    /// Stores events in one batch and tells the own relay.
    fn publish(&mut self, events: &[Event]) {
        for event in events {
            self.store.stage(event.clone()).unwrap();
        }
        let stored = self.store.commit().unwrap();
        self.serve.on_committed(stored, &self.store, &mut self.metrics).unwrap();
        self.serve.assert_invariants();
    }

    fn say<'a>(&mut self, client: u64, text: &'a str) -> Option<RawEvent<'a>> {
        let published = self.serve.on_text(self.now, client, text, &self.store, &mut self.metrics);
        self.serve.assert_invariants();
        published
    }

    fn outputs(&mut self) -> Vec<ServeOutput> {
        let all = std::iter::from_fn(|| self.serve.poll_output());
        all.filter(|output| !matches!(output, ServeOutput::Hold { .. })).collect()
    }

    /// Steps until nothing more can be done without the clients reading; the messages to `client`.
    fn answers(&mut self, client: u64) -> Vec<String> {
        for _ in 0..100_000 {
            let more = self.serve.step(self.now, &self.store, &mut self.metrics).unwrap();
            self.serve.assert_invariants();
            if !more {
                return self
                    .outputs()
                    .into_iter()
                    .filter_map(|output| match output {
                        ServeOutput::Send { client: to, text } if to == client => Some(text),
                        _ => None,
                    })
                    .collect();
            }
        }
        panic!("the own relay never comes to rest");
    }

    /// What the client is told when it reads all that it is sent.
    fn all_answers(&mut self, client: u64) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let page = self.answers(client);
            if page.is_empty() {
                return all;
            }
            all.extend(page);
            self.serve.on_drained(client);
        }
    }

    fn ask(&mut self, text: &str) -> Vec<String> {
        assert_eq!(self.say(1, text), None);
        self.all_answers(1)
    }

    fn wait(&mut self, secs: u64) {
        self.now.mono = self.now.mono + Duration::from_secs(secs);
        self.serve.step(self.now, &self.store, &mut self.metrics).unwrap();
        self.serve.assert_invariants();
    }
}

fn sent(sub: &str, events: &[&Event]) -> Vec<String> {
    events.iter().map(|event| message::event_message(sub, &serde_json::to_string(event).unwrap())).collect()
}

/// Messages with their events reduced to `created_at`, for long lists.
fn times(messages: &[String]) -> Vec<u64> {
    messages
        .iter()
        .filter_map(|text| {
            let message: serde_json::Value = serde_json::from_str(text).unwrap();
            message[2]["created_at"].as_u64()
        })
        .collect()
}

fn eose(sub: &str) -> String {
    format!(r#"["EOSE","{sub}"]"#)
}

#[test]
fn a_published_event_is_handed_up_and_acknowledged_only_when_told() {
    let mut world = World::new(&[]);
    let event = note(1);
    let text = format!(r#"["EVENT",{}]"#, serde_json::to_string(&event).unwrap());
    let raw = world.say(1, &text).expect("an event is handed up");
    assert_eq!(raw.id, event.id);
    assert!(world.answers(1).is_empty());
    world.serve.acknowledge(1, &event.id, true, "");
    assert_eq!(world.answers(1), [format!(r#"["OK","{}",true,""]"#, event.id)]);
    world.serve.acknowledge(1, &event.id, false, "blocked: no");
    assert_eq!(world.answers(1), [format!(r#"["OK","{}",false,"blocked: no"]"#, event.id)]);
    world.serve.acknowledge(99, &event.id, true, "");
    assert!(world.outputs().is_empty());
}

#[test]
fn every_filter_field_selects() {
    let id = "ab".repeat(32);
    let events = [
        event(1, 1, 10, &[], "a"),
        event(2, 1, 20, &[&["e", &id]], "b"),
        event(1, 1621, 30, &[&["a", "30617:x:y:z"], &["t", "bug"]], "c"),
        event(2, 7, 40, &[&["E", &id]], "d"),
    ];
    let [a, b, c, d] = &events;
    let mut world = World::new(&events);
    let author = PublicKey::from_byte_array([2; 32]).to_string();
    for (filter, expected) in [
        ("{}".to_owned(), vec![d, c, b, a]),
        (format!(r#"{{"ids":["{}","{}"]}}"#, c.id, a.id), vec![c, a]),
        (format!(r#"{{"authors":["{author}"]}}"#), vec![d, b]),
        (r#"{"kinds":[1]}"#.to_owned(), vec![b, a]),
        (format!(r##"{{"#e":["{id}"]}}"##), vec![b]),
        (format!(r##"{{"#E":["{id}"]}}"##), vec![d]),
        (r##"{"#a":["30617:x:y:z"],"#t":["bug","other"]}"##.to_owned(), vec![c]),
        (r##"{"#a":["30617:x:y:z"],"#t":["other"]}"##.to_owned(), vec![]),
        (r#"{"since":20}"#.to_owned(), vec![d, c, b]),
        (r#"{"until":20}"#.to_owned(), vec![b, a]),
        (r#"{"since":20,"until":30}"#.to_owned(), vec![c, b]),
        (r#"{"limit":2}"#.to_owned(), vec![d, c]),
        (r#"{"limit":0}"#.to_owned(), vec![]),
        (r#"{"ids":[]}"#.to_owned(), vec![]),
        (format!(r#"{{"kinds":[1],"authors":["{author}"],"since":15}}"#), vec![b]),
    ] {
        let mut expected = sent("s", &expected);
        expected.push(eose("s"));
        assert_eq!(world.ask(&format!(r#"["REQ","s",{filter}]"#)), expected, "{filter}");
    }
    assert_eq!(world.serve.subscriptions(), 1, "each REQ replaced the one before");
}

#[test]
fn several_filters_are_united_each_with_its_own_limit() {
    let events = notes(10);
    let mut world = World::new(&events);
    let got = world.ask(r#"["REQ","s",{"limit":2},{"until":3},{"kinds":[1],"limit":4},{"limit":0}]"#);
    assert_eq!(times(&got), [10, 9, 3, 2, 1, 8, 7]);
    assert_eq!(got.last().unwrap(), &eose("s"));
    assert_eq!(got.len(), 8);
}

#[test]
fn a_limit_is_capped_whether_asked_for_or_not() {
    let mut world = World::new(&notes(QUERY_LIMIT_MAX as u64 + 20));
    for filter in ["{}", r#"{"limit":100000}"#] {
        let got = world.ask(&format!(r#"["REQ","s",{filter}]"#));
        assert_eq!(times(&got).len(), QUERY_LIMIT_MAX);
        assert_eq!(got.last().unwrap(), &eose("s"));
    }
}

#[test]
fn events_stored_around_the_snapshot_come_exactly_once_and_the_later_ones_after_eose() {
    for steps_before in 0..4 {
        let mut world = World::new(&notes(450));
        world.say(1, r#"["REQ","s",{}]"#);
        for client in 2..12 {
            // Others take their share of each turn, so that the query spans several.
            world.accept(client);
            world.say(client, r#"["REQ","x",{}]"#);
        }
        for _ in 0..steps_before {
            world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
        }
        world.publish(&[note(451), note(452)]);
        let mut got = world.all_answers(1);
        let live = got.split_off(got.iter().position(|text| *text == eose("s")).unwrap());
        let stored: Vec<u64> = (1..=450).rev().collect();
        assert_eq!(times(&got), stored);
        assert_eq!(times(&live), [451, 452]);
        assert_eq!(live.len(), 3);
    }
}

#[test]
fn what_is_replaced_before_its_turn_is_skipped() {
    let mut events = notes(300);
    events.push(event(1, 10_002, 0, &[], "old"));
    let mut world = World::new(&events);
    world.say(1, r#"["REQ","s",{}]"#);
    world.publish(&[event(1, 10_002, 5, &[], "new")]);
    let got = world.all_answers(1).concat();
    assert!(!got.contains("old"));
    assert_eq!(got.matches("new").count(), 1);
}

#[test]
fn a_live_event_reaches_each_matching_subscription_once() {
    let mut world = World::new(&[]);
    world.accept(2);
    let issue = event(3, 1621, 50, &[&["a", "30617:x:y"], &["a", "30617:x:z"]], "");
    for (sub, filters) in [
        ("any", "{}"),
        ("twice", r##"{"kinds":[1621]},{"#a":["30617:x:y","30617:x:z"]}"##),
        ("tag", r##"{"#a":["30617:x:z"],"limit":0}"##),
        ("since", r#"{"since":50}"#),
        ("until", r#"{"until":50}"#),
        ("no-kind", r#"{"kinds":[1,1622]}"#),
        ("no-tag", r##"{"#a":["30617:x:q"]}"##),
        ("no-letter", r##"{"#A":["30617:x:y"]}"##),
        ("no-both", r##"{"kinds":[1],"#a":["30617:x:y"]}"##),
        ("no-since", r#"{"since":51}"#),
        ("no-until", r#"{"until":49}"#),
        ("no-empty", r#"{"kinds":[]}"#),
    ] {
        assert_eq!(world.ask(&format!(r#"["REQ","{sub}",{filters}]"#)), [eose(sub)]);
    }
    world.say(2, &format!(r#"["REQ","id",{{"ids":["{}"]}}]"#, issue.id));
    world.say(2, &format!(r#"["REQ","author",{{"authors":["{}"]}}]"#, issue.pubkey));
    world.answers(2);
    world.publish(std::slice::from_ref(&issue));
    let outputs = world.outputs();
    let subs: Vec<String> = outputs
        .iter()
        .map(|output| {
            let ServeOutput::Send { client, text } = output else { panic!("{output:?}") };
            let message: serde_json::Value = serde_json::from_str(text).unwrap();
            format!("{client} {}", message[1].as_str().unwrap())
        })
        .collect();
    assert_eq!(subs, ["1 any", "1 twice", "1 tag", "1 since", "1 until", "2 id", "2 author"]);
    assert_eq!(world.metrics.client_events_live, 7);
}

#[test]
fn a_closed_or_replaced_subscription_is_silent() {
    let mut world = World::new(&notes(5));
    assert_eq!(world.ask(r#"["REQ","s",{"kinds":[1]}]"#).len(), 6);
    assert_eq!(world.ask(r#"["REQ","s",{"kinds":[2]}]"#), [eose("s")]);
    world.publish(&[note(6)]);
    assert!(world.outputs().is_empty(), "replaced");
    world.publish(&[event(1, 2, 7, &[], "")]);
    assert_eq!(world.outputs().len(), 1);
    assert!(world.ask(r#"["CLOSE","s"]"#).is_empty());
    assert!(world.ask(r#"["CLOSE","never"]"#).is_empty());
    world.publish(&[event(1, 2, 8, &[], "")]);
    assert!(world.outputs().is_empty(), "closed");
    assert_eq!((world.serve.subscriptions(), world.serve.bytes_most()), (0, 0));
}

#[test]
fn closing_in_the_middle_of_a_query_ends_it() {
    let mut world = World::new(&notes(400));
    world.say(1, r#"["REQ","s",{}]"#);
    world.say(1, r#"["REQ","t",{"limit":1}]"#);
    for client in 2..12 {
        world.accept(client);
        world.say(client, r#"["REQ","x",{}]"#);
    }
    world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
    world.outputs();
    world.say(1, r#"["CLOSE","s"]"#);
    assert_eq!(world.all_answers(1).len(), 2);
}

#[test]
fn a_query_pauses_after_a_page_until_the_link_has_drained() {
    let body = "x".repeat(10_000);
    let events: Vec<Event> = (1..=200).map(|at| event(1, 1, at, &[], &body)).collect();
    let mut world = World::new(&events);
    world.say(1, r#"["REQ","s",{}]"#);
    let mut got = Vec::new();
    let mut pages = 0;
    loop {
        let page = world.answers(1);
        assert!(page.iter().map(String::len).sum::<usize>() < CLIENT_PAGE_BYTES + 11_000);
        if page.is_empty() {
            break;
        }
        assert!(world.answers(1).is_empty(), "nothing more before it drained");
        assert!(!world.serve.has_work());
        pages += 1;
        got.extend(page);
        world.serve.on_drained(1);
    }
    // A page ends with the event that fills it.
    assert_eq!(pages, 200_usize.div_ceil(CLIENT_PAGE_BYTES.div_ceil(got[0].len())));
    assert_eq!(times(&got), (1..=200).rev().collect::<Vec<u64>>());
    assert_eq!(got.last().unwrap(), &eose("s"));
}

#[test]
fn a_client_that_does_not_read_gets_live_events_later_in_order_and_once() {
    let body = "x".repeat(100_000);
    let mut world = World::new(&[]);
    world.accept(2);
    world.ask(r#"["REQ","s",{}]"#);
    world.say(2, r#"["REQ","other",{"kinds":[2]}]"#);
    world.answers(2);
    let events: Vec<Event> = (1..=20).map(|at| event(1, 1, at, &[], &body)).collect();
    for event in &events {
        world.publish(std::slice::from_ref(event));
    }
    world.publish(&[event(1, 5, 30, &[&["e", &events[9].id.to_string()]], "")]);
    assert!(world.serve.held_most() > 0);
    let got = world.all_answers(1);
    let mut expected: Vec<u64> = (1..=20).filter(|at| *at != 10).collect();
    expected.push(30);
    assert_eq!(times(&got), expected, "the deleted one is skipped");
    assert_eq!(world.serve.held_most(), 0);
}

#[test]
fn answers_to_a_client_that_does_not_read_pause_its_queries() {
    let mut world = World::new(&notes(10));
    world.say(1, r#"["REQ","s",{}]"#);
    let id = note(1).id;
    for _ in 0..=CLIENT_PAGE_BYTES / 80 {
        world.serve.acknowledge(1, &id, true, "");
        world.serve.assert_invariants();
    }
    assert!(!world.serve.has_work());
    world.outputs();
    world.serve.on_drained(1);
    assert_eq!(world.all_answers(1).len(), 11);
}

#[test]
fn a_client_too_far_behind_is_closed_and_others_are_not() {
    let mut world = World::new(&[]);
    world.accept(2);
    world.ask(r#"["REQ","s",{}]"#);
    world.say(2, r#"["REQ","s",{"kinds":[2]}]"#);
    world.answers(2);
    let big = event(1, 1, 1, &[], &"x".repeat(CLIENT_LIVE_BYTES));
    world.publish(&[big]);
    let stored = StoredEvent { seq: 2, json: note(2).as_json().into() };
    for seq in 0..=CLIENT_HELD_EVENTS_MAX as u64 {
        let stored = StoredEvent { seq: 2 + seq, ..stored.clone() };
        world.serve.on_committed(vec![stored], &world.store, &mut world.metrics).unwrap();
    }
    let outputs = world.outputs();
    assert_eq!(outputs.last(), Some(&ServeOutput::Close { client: 1, code: 1013 }));
    assert_eq!(outputs.len(), 2, "the first event and the end");
    assert_eq!(world.metrics.clients_closed.count("slow"), 1);
    assert_eq!(world.serve.clients(), 1);
    world.serve.assert_invariants();
}

#[test]
fn clients_take_turns() {
    let mut world = World::new(&notes(500));
    for client in 1..=20 {
        if client > 1 {
            world.accept(client);
        }
        world.say(client, r#"["REQ","s",{}]"#);
    }
    world.outputs();
    for first in [1, 11] {
        assert!(world.serve.step(world.now, &world.store, &mut world.metrics).unwrap());
        let mut counts = BTreeMap::new();
        for output in world.outputs() {
            let ServeOutput::Send { client, .. } = output else { panic!() };
            *counts.entry(client).or_insert(0) += 1;
        }
        assert!(counts.values().sum::<usize>() <= QUERY_STEP_CANDIDATES);
        assert_eq!(counts.keys().copied().collect::<Vec<u64>>(), (first..first + 10).collect::<Vec<u64>>());
    }
}

#[test]
fn a_small_question_does_not_wait_for_the_answers_to_many_large_ones() {
    let mut world = World::new(&notes(500));
    for client in 1..=200 {
        if client > 1 {
            world.accept(client);
        }
        world.say(client, r#"["REQ","s",{}]"#);
    }
    // Until each of them has had something.
    for _ in 0..25 {
        let _ = world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
    }
    world.accept(999);
    for _ in 0..20 {
        world.outputs();
        world.say(999, r#"["REQ","small",{"kinds":[1],"limit":1}]"#);
        let _ = world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
        assert_eq!(texts_to(&world.outputs(), 999), 2, "an event and EOSE");
        world.say(999, r#"["CLOSE","small"]"#);
        world.serve.on_drained(999);
    }
}

#[test]
fn bad_messages_are_answered_with_notice_and_counted() {
    let mut world = World::new(&[]);
    for (text, reason) in [
        ("nonsense", "not_json"),
        (r#"["REQ","s",{}"#, "not_json"),
        ("{}", "not_a_message"),
        ("[]", "not_a_message"),
        (r#"["AUTH","s",{}]"#, "unknown_type"),
        (r#"["REQ"]"#, "bad_arguments"),
        (r#"["EVENT",{"id":"short"}]"#, "bad_arguments"),
        (r#"["CLOSE",7]"#, "bad_arguments"),
        (r#"["REQ","",{}]"#, "subscription_id"),
    ] {
        let before = world.metrics.messages_refused.count(reason);
        let got = world.ask(text);
        assert!(got.len() == 1 && got[0].starts_with(r#"["NOTICE","invalid: "#), "{text}: {got:?}");
        assert_eq!(world.metrics.messages_refused.count(reason), before + 1, "{text}");
    }
    assert_eq!(world.ask("nonsense"), [r#"["NOTICE","invalid: not JSON"]"#]);
    let long = "é".repeat(SUBSCRIPTION_ID_CHARS_MAX + 1);
    let notice = r#"["NOTICE","invalid: a subscription id has 1 to 64 characters"]"#;
    assert_eq!(world.ask(&format!(r#"["REQ","{long}",{{}}]"#)), [notice]);
    let longest = "é".repeat(SUBSCRIPTION_ID_CHARS_MAX);
    assert_eq!(world.ask(&format!(r#"["REQ","{longest}",{{}}]"#)), [eose(&longest)]);
    assert_eq!(world.serve.subscriptions(), 1);
}

#[test]
fn an_event_that_is_none_is_answered_under_the_id_that_it_claims() {
    let mut world = World::new(&[]);
    let id = "ab".repeat(32);
    let upper = id.to_uppercase();
    let twice = format!(r#"{{"id":"{id}","id":"{upper}"}}"#);
    for (event, claimed) in [(format!(r#"{{"id":"{upper}"}}"#), &upper), (twice, &id)] {
        let ok =
            format!(r#"["OK","{claimed}",false,"invalid: an event has one id, of 64 lower-case hexadecimal digits"]"#);
        assert_eq!(world.ask(&format!(r#"["EVENT",{event}]"#)), [ok]);
    }
    assert_eq!(world.metrics.messages_refused.count("event_id"), 2);
}

#[test]
fn a_bad_filter_closes_its_subscription() {
    let mut world = World::new(&[]);
    for (filters, why) in [
        (r#"{"kinds":["one"]}"#.to_owned(), "invalid: missing or wrong arguments"),
        (r#"{"ids":["short"]}"#.to_owned(), "invalid: missing or wrong arguments"),
        (vec!["{}"; CLIENT_FILTERS_MAX + 1].join(","), "invalid: too many filters, at most 20 in a REQ"),
        (
            format!(
                r##"{{"#t":[{}]}}"##,
                (0..=CLIENT_FILTER_VALUES_MAX).map(|n| format!(r#""{n}""#)).collect::<Vec<_>>().join(",")
            ),
            "invalid: too many values, at most 2000 in a filter",
        ),
    ] {
        assert_eq!(world.ask(r#"["REQ","s",{}]"#), [eose("s")]);
        assert_eq!(world.ask(&format!(r#"["REQ","s",{filters}]"#)), [format!(r#"["CLOSED","s","{why}"]"#)]);
        assert_eq!(world.serve.subscriptions(), 0, "CLOSED ends the one it would have replaced");
    }
}

#[test]
fn subscriptions_are_bounded_by_number_and_bytes_and_replacing_is_free() {
    let mut world = World::new(&[]);
    for n in 0..CLIENT_SUBSCRIPTIONS_MAX {
        assert_eq!(world.ask(&format!(r#"["REQ","{n}",{{}}]"#)), [eose(&n.to_string())]);
    }
    let closed = r#"["CLOSED","more","blocked: too many subscriptions, at most 64 at once"]"#;
    assert_eq!(world.ask(r#"["REQ","more",{}]"#), [closed]);
    assert_eq!(world.ask(r#"["REQ","0",{"kinds":[1]}]"#), [eose("0")]);
    assert!(world.ask(r#"["CLOSE","1"]"#).is_empty());
    assert_eq!(world.ask(r#"["REQ","more",{}]"#), [eose("more")]);

    let mut world = World::new(&[]);
    let large = "x".repeat(MESSAGE_BYTES_MAX - 1_000);
    for n in 0..8 {
        assert_eq!(world.ask(&format!(r##"["REQ","{n}",{{"#t":["{large}"]}}]"##)), [eose(&n.to_string())]);
    }
    let got = world.ask(&format!(r##"["REQ","more",{{"#t":["{large}"]}}]"##));
    assert_eq!(got, [r#"["CLOSED","more","blocked: open subscriptions take too much memory, close some first"]"#]);
    assert!(world.serve.bytes_most() <= CLIENT_BYTES_MAX);
    world.serve.on_closed(1);
    world.serve.assert_invariants();
    assert_eq!((world.serve.clients(), world.serve.bytes_most()), (0, 0));
}

#[test]
fn clients_past_the_bound_are_turned_away() {
    let mut world = World::new(&[]);
    world.serve = Serve::new(&Limits { clients_max: 1, ..Limits::default() }, &Timing::default());
    world.accept(1);
    world.accept(2);
    assert_eq!(world.outputs(), [ServeOutput::Close { client: 2, code: 1013 }]);
    assert_eq!(world.metrics.clients_closed.count("full"), 1);
    assert_eq!(world.say(2, r#"["REQ","s",{}]"#), None);
    assert!(world.outputs().is_empty());
}

#[test]
fn a_silent_client_is_pinged_and_closed_within_sixty_seconds() {
    let mut world = World::new(&[]);
    world.wait(29);
    assert!(world.outputs().is_empty());
    assert_eq!(world.serve.next_deadline(), Some(Instant::ZERO + Duration::from_secs(30)));
    world.wait(1);
    assert_eq!(world.outputs(), [ServeOutput::Ping { client: 1 }]);
    world.wait(29);
    assert!(world.outputs().is_empty());
    world.wait(1);
    assert_eq!(world.outputs(), [ServeOutput::Close { client: 1, code: 1008 }]);
    assert_eq!(world.metrics.clients_closed.count("silent"), 1);
    assert_eq!(world.serve.next_deadline(), None);
}

#[test]
fn any_word_of_a_client_shows_that_it_lives() {
    let mut world = World::new(&[]);
    world.wait(30);
    assert_eq!(world.outputs(), [ServeOutput::Ping { client: 1 }]);
    world.wait(20);
    world.serve.on_alive(world.now, 1);
    world.wait(10);
    assert!(world.outputs().is_empty());
    world.wait(19);
    assert!(world.outputs().is_empty());
    world.wait(1);
    assert_eq!(world.outputs(), [ServeOutput::Ping { client: 1 }], "30 s after the last word");
    world.say(1, r#"["CLOSE","s"]"#);
    world.wait(30);
    assert_eq!(world.outputs(), [ServeOutput::Ping { client: 1 }]);
}

#[test]
fn late_words_of_a_client_that_has_gone_are_ignored() {
    let mut world = World::new(&notes(3));
    world.say(1, r#"["REQ","s",{}]"#);
    world.serve.on_closed(1);
    world.serve.on_closed(1);
    world.serve.on_drained(1);
    world.serve.on_alive(world.now, 1);
    assert_eq!(world.say(1, r#"["REQ","s",{}]"#), None);
    world.publish(&[note(9)]);
    assert!(world.answers(1).is_empty());
}

#[test]
fn an_address_has_its_rate_of_reqs_and_events_over_all_its_clients_and_this_machine_none() {
    let stranger = Account::of([192, 0, 2, 1].into());
    let mut world = World::new(&[]);
    for client in [2, 3] {
        world.serve.on_accepted(world.now, client, stranger, &mut world.metrics);
    }
    let event = note(1);
    let publish = format!(r#"["EVENT",{}]"#, event.as_json());
    let mut taken = [0, 0];
    for n in 0..EVENT_RATE.burst.max(REQ_RATE.burst) {
        for client in [2, 3] {
            taken[0] += u64::from(world.say(client, &publish).is_some());
            world.say(client, &format!(r#"["REQ","s{}",{{"limit":0}}]"#, n % 2));
        }
        taken[1] += world.outputs().iter().filter(|output| text_of(output).contains("EOSE")).count() as u64;
    }
    assert_eq!(taken, [EVENT_RATE.burst, REQ_RATE.burst]);
    assert!(world.say(2, &publish).is_none());
    let refused =
        format!(r#"["OK","{}",false,"rate-limited: too many EVENTs from this address, slow down"]"#, event.id);
    assert_eq!(texts_of(&world.outputs()), [refused]);
    world.say(2, r#"["REQ","s",{"limit":0}]"#);
    let closed = r#"["CLOSED","s","rate-limited: too many REQs from this address, slow down"]"#;
    assert_eq!(texts_of(&world.outputs()), [closed]);
    for _ in 0..2 * EVENT_RATE.burst {
        assert!(world.say(1, &publish).is_some());
    }
    world.now.mono = world.now.mono + EVENT_RATE.interval;
    assert!(world.say(3, &publish).is_some() && world.say(2, &publish).is_none());
}

fn text_of(output: &ServeOutput) -> &str {
    match output {
        ServeOutput::Send { text, .. } => text,
        _ => "",
    }
}

fn texts_to(outputs: &[ServeOutput], client: u64) -> usize {
    outputs.iter().filter(|output| matches!(output, ServeOutput::Send { client: to, .. } if *to == client)).count()
}

fn texts_of(outputs: &[ServeOutput]) -> Vec<&str> {
    outputs.iter().map(text_of).collect()
}

/// A client with so many live subscriptions of 20 costly filters, each of which matches what has the tag `t` of the value
/// `hit`.
fn subscribe_costly(world: &mut World, client: u64, subscriptions: usize) {
    world.accept(client);
    for n in 0..subscriptions {
        let values: Vec<String> = (0..100).map(|value| format!("\"{n} {value}\"")).collect();
        let filter = format!(r##"{{"#t":["hit"],"#x":[{},"hit"],"limit":0}}"##, values.join(","));
        world.say(client, &format!(r#"["REQ","{n}",{}]"#, vec![filter; 20].join(",")));
    }
    world.outputs();
}

/// An event that matches all of them, with many tags beside.
fn with_many_tags(n: u64) -> Event {
    let values: Vec<String> = (0..2_000).map(|value| value.to_string()).collect();
    let mut tags: Vec<[&str; 2]> = values.iter().map(|value| ["x", value.as_str()]).collect();
    tags.extend([["t", "hit"], ["x", "hit"]]);
    let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
    event(1, 1, n, &tags, "")
}

#[test]
fn an_event_goes_to_costly_subscriptions_a_part_at_a_time_and_to_each_once() {
    const CLIENTS: u64 = 4;
    const SUBSCRIPTIONS: usize = 30;
    let mut world = World::new(&[]);
    (2..2 + CLIENTS).for_each(|client| subscribe_costly(&mut world, client, SUBSCRIPTIONS));
    let (first, second) = (with_many_tags(1), note(2));
    world.say(1, r#"["REQ","all",{"limit":0}]"#);
    world.outputs();
    world.publish(&[first.clone(), second.clone()]);
    let mut sent = world.outputs();
    let at_once = sent.len();
    let costs = (20 * (100 + 1 + 1)) as usize;
    assert!(at_once > 0 && at_once <= FANOUT_STEP_COST as usize / costs + 2, "{at_once}");
    assert!(world.serve.has_work() && world.serve.spreading() == 2);
    // What comes meanwhile waits behind it, and whoever asks now has it as stored.
    let third = note(3);
    world.publish(std::slice::from_ref(&third));
    world.accept(99);
    world.say(99, r#"["REQ","all",{}]"#);
    let mut steps = 0;
    while world.serve.has_work() {
        world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
        world.serve.assert_invariants();
        sent.extend(world.outputs());
        (1..=99).for_each(|client| world.serve.on_drained(client));
        steps += 1;
    }
    assert!(steps > 2, "{steps}");
    let to = |client: u64| {
        let of = |output: &ServeOutput| match output {
            ServeOutput::Send { client: to, text } if *to == client && text.starts_with("[\"EVENT\"") => {
                [&first, &second, &third].iter().position(|event| text.contains(&event.id.to_hex()))
            }
            _ => None,
        };
        sent.iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(to(1), [0, 1, 2], "in their order");
    for client in 2..2 + CLIENTS {
        assert_eq!(to(client), vec![0; SUBSCRIPTIONS]);
    }
    let mut as_stored = to(99);
    as_stored.sort_unstable();
    assert_eq!(as_stored, [0, 1, 2]);
}

#[test]
fn when_too_much_waits_the_costliest_client_goes() {
    let mut world = World::new(&[]);
    subscribe_costly(&mut world, 2, 1);
    subscribe_costly(&mut world, 3, 60);
    world.say(1, r#"["REQ","all",{"limit":0}]"#);
    world.outputs();
    world.publish(&(1..=4).map(with_many_tags).collect::<Vec<_>>());
    assert!(world.serve.spreading() > 0);
    let stored = StoredEvent { seq: 1_000_000, json: note(9).as_json().into() };
    let more = (0..=FANOUT_BACKLOG_MAX as u64).map(|n| StoredEvent { seq: 1_000_000 + n, ..stored.clone() });
    world.serve.on_committed(more.collect(), &world.store, &mut world.metrics).unwrap();
    assert!(world.outputs().contains(&ServeOutput::Close { client: 3, code: 1013 }));
    assert_eq!((world.metrics.clients_closed.count("costly"), world.serve.clients()), (1, 2));
    world.serve.assert_invariants();
}

#[test]
fn a_req_that_looks_at_too_much_is_closed_with_a_reason_and_what_it_found_was_sent() {
    let mut world = World::new(&[]);
    let events: Vec<Event> = (1..=600).map(|n| event(1, if n == 590 { 7 } else { 1 }, n, &[&["t", "x"]], "")).collect();
    world.publish(&events);
    world.serve.scan_max = 500;
    let found = r##"["REQ","found",{"#t":["x"],"kinds":[7],"limit":1}]"##;
    assert_eq!(world.ask(found).len(), 2, "an event and EOSE");
    let answers = world.ask(r##"["REQ","scan",{"#t":["x"],"kinds":[7]},{"kinds":[9]}]"##);
    assert!(answers[0].starts_with("[\"EVENT\",\"scan\""), "{answers:?}");
    assert_eq!(answers[1..], [r#"["CLOSED","scan","error: too much to look through, ask for something narrower"]"#]);
    assert_eq!(world.metrics.messages_refused.count("long_scan"), 1);
    assert_eq!(world.serve.subscriptions(), 1);
    let several = world.ask(r##"["REQ","several",{"#t":["x"],"kinds":[8],"since":300},{"#t":["x"],"kinds":[9],"since":300},{"kinds":[9]}]"##);
    assert!(several[0].starts_with("[\"CLOSED\""), "all its filters together: {several:?}");
}
