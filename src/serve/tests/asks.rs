//! COUNT (NIP-45) and reconciliations (NIP-77) as clients see them.

use std::collections::BTreeSet;

use ::negentropy::{Id, Negentropy, NegentropyStorageVector};

use super::*;
use crate::limits::{
    CLIENT_COUNTS_MAX, CLIENT_RECONCILIATION_IDLE, CLIENT_RECONCILIATIONS_MAX, CLIENT_SETS_BYTES_MAX,
    READY_SET_KEPT_FOR,
};
use crate::protocol::hex_bytes;

/// What a client holds, as the crate's storage.
fn storage_of(events: &[Event]) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::new();
    for event in events {
        storage.insert(event.created_at.as_secs(), Id::from_byte_array(event.id.to_bytes())).unwrap();
    }
    storage.seal().unwrap();
    storage
}

fn hex(bytes: &[u8]) -> String {
    faster_hex::hex_string(bytes)
}

/// The payload of the only message, which must be a NEG-MSG of this name.
fn payload(answers: &[String], name: &str) -> Vec<u8> {
    let [answer] = answers else { panic!("one answer: {answers:?}") };
    let payload = answer.strip_prefix(&format!(r#"["NEG-MSG","{name}",""#)).unwrap_or_else(|| panic!("{answer}"));
    hex_bytes(payload.strip_suffix("\"]").unwrap()).unwrap()
}

/// Reconciles what a client holds; the ids that he has more, and those that he has less.
fn reconcile(world: &mut World, client: u64, filter: &str, held: &[Event]) -> [BTreeSet<EventId>; 2] {
    let storage = storage_of(held);
    let mut theirs = Negentropy::borrowed(&storage, 60_000).unwrap();
    let mut text = format!(r#"["NEG-OPEN","n",{filter},"{}"]"#, hex(&theirs.initiate().unwrap()));
    let (mut have, mut need) = (Vec::new(), Vec::new());
    loop {
        assert_eq!(world.say(client, &text), None);
        let answer = payload(&world.answers(client), "n");
        world.serve.on_drained(client);
        match theirs.reconcile_with_ids(&answer, &mut have, &mut need).unwrap() {
            Some(next) => text = format!(r#"["NEG-MSG","n","{}"]"#, hex(&next)),
            None => break,
        }
    }
    world.say(client, r#"["NEG-CLOSE","n"]"#);
    [have, need].map(|ids| ids.into_iter().map(|id| EventId::from_byte_array(id.to_bytes())).collect())
}

fn ids(events: &[Event]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.id).collect()
}

#[test]
fn a_client_finds_what_he_lacks_and_what_we_lack() {
    let all = notes(3_000);
    let mut world = World::new(&all[..2_900]);
    for filter in ["{}", r#"{"kinds":[1]}"#, r#"{"since":1}"#, r#"{"kinds":[1,2],"until":5000,"limit":100000}"#] {
        let got = reconcile(&mut world, 1, filter, &all[100..]);
        assert_eq!(got, [ids(&all[2_900..]), ids(&all[..100])], "{filter}");
    }
    assert_eq!(reconcile(&mut world, 1, r#"{"kinds":[7]}"#, &all[..9])[0].len(), 9);
    assert_eq!(reconcile(&mut world, 1, r#"{"limit":10}"#, &[])[1], ids(&all[2_890..2_900]), "the newest");
    assert_eq!(world.serve.reconciliations(), 0);
    assert_eq!(world.metrics.client_reconciliations.count("closed"), 6);
}

#[test]
fn a_set_stays_as_it_was_and_the_next_one_is_up_to_date() {
    let all = notes(2_000);
    let mut world = World::new(&all[..1_000]);
    let nothing = hex(&Negentropy::borrowed(&storage_of(&[]), 0).unwrap().initiate().unwrap());
    for (name, filter) in [("ready", "{}"), ("own", r#"{"since":1}"#)] {
        world.say(1, &format!(r#"["NEG-OPEN","{name}",{filter},"{nothing}"]"#));
        payload(&world.answers(1), name);
        world.serve.on_drained(1);
    }
    world.publish(&all[1_000..]);
    let deletion = event(1, 5, 5_000, &[&["e", &all[7].id.to_hex()]], "");
    world.publish(std::slice::from_ref(&deletion));
    for name in ["ready", "own"] {
        world.say(1, &format!(r#"["NEG-MSG","{name}","{nothing}"]"#));
        let listed = payload(&world.answers(1), name);
        assert!(listed.len() > 32 * 1_000 && listed.len() < 32 * 1_001, "{name}: {}", listed.len());
        world.serve.on_drained(1);
    }
    world.accept(2);
    let mut now_held = all.clone();
    now_held[7] = deletion;
    assert_eq!(reconcile(&mut world, 2, "{}", &[])[1], ids(&now_held));
    assert_eq!(reconcile(&mut world, 2, r#"{"kinds":[1]}"#, &[])[1].len(), 1_999);
    assert_eq!(reconcile(&mut world, 2, r#"{"kinds":[5]}"#, &[])[1].len(), 1, "nobody used the other set");
    assert_eq!(reconcile(&mut world, 2, r#"{"kinds":[1],"since":1990}"#, &[])[1].len(), 11);
}

#[test]
fn reconciliations_are_bounded_and_a_name_used_again_begins_anew() {
    let mut world = World::new(&notes(10));
    for n in 0..CLIENT_RECONCILIATIONS_MAX {
        payload(&world.ask(&format!(r#"["NEG-OPEN","{n}",{{}},"61"]"#)), &n.to_string());
    }
    let full = r#"["NEG-ERR","more","blocked: too many concurrent NEG requests, at most 8 at once"]"#;
    assert_eq!(world.ask(r#"["NEG-OPEN","more",{},"61"]"#), [full]);
    payload(&world.ask(r#"["NEG-OPEN","3",{"kinds":[1]},"61"]"#), "3");
    assert_eq!(world.metrics.client_reconciliations.count("replaced"), 1);
    world.ask(r#"["NEG-CLOSE","4"]"#);
    payload(&world.ask(r#"["NEG-OPEN","more",{},"61"]"#), "more");
    assert_eq!(world.serve.reconciliations(), CLIENT_RECONCILIATIONS_MAX);
    assert_eq!(world.ask(r#"["NEG-OPEN","3",{},"6"]"#).len(), 1, "refused, and the old one is gone");
    assert_eq!(world.serve.reconciliations(), CLIENT_RECONCILIATIONS_MAX - 1);
    world.serve.on_closed(1);
    assert_eq!(world.serve.reconciliations(), 0);
}

#[test]
fn bad_words_have_answers_that_clients_know() {
    let mut world = World::new(&notes(10));
    for (ask, answer, reason) in [
        (r#"["NEG-MSG","n","61"]"#, "closed: unknown subscription handle", "unknown_reconciliation"),
        (r#"["NEG-OPEN","n",{},"6"]"#, "invalid: PROTOCOL-ERROR, the payload is not hexadecimal", "negentropy"),
        (r#"["NEG-OPEN","n",{},"6g"]"#, "invalid: PROTOCOL-ERROR, the payload is not hexadecimal", "negentropy"),
        (r#"["NEG-OPEN","n",{},""]"#, "invalid: PROTOCOL-ERROR, empty", "negentropy"),
        (r#"["NEG-OPEN","n",{},"00"]"#, "invalid: PROTOCOL-ERROR, no protocol version", "negentropy"),
        (r#"["NEG-OPEN","n",{},"610000"]"#, "invalid: PROTOCOL-ERROR, ends too early", "negentropy"),
        (
            r#"["NEG-OPEN","n",{},"61050109000101080000"]"#,
            "invalid: PROTOCOL-ERROR, bounds are out of order",
            "negentropy",
        ),
        (r#"["NEG-OPEN","n",{"kinds":["x"]},"61"]"#, "invalid: missing or wrong arguments", "bad_arguments"),
        (r#"["NEG-OPEN","n",{}]"#, "invalid: missing or wrong arguments", "bad_arguments"),
    ] {
        let before = world.metrics.messages_refused.count(reason);
        assert_eq!(world.ask(ask), [format!(r#"["NEG-ERR","n","{answer}"]"#)], "{ask}");
        assert_eq!(world.metrics.messages_refused.count(reason), before + 1, "{ask}");
        assert_eq!(world.serve.reconciliations(), 0);
    }
    let ranges = format!(r#"["NEG-OPEN","n",{{}},"61{}"]"#, "010000".repeat(50_000));
    assert_eq!(world.ask(&ranges), [r#"["NEG-ERR","n","invalid: PROTOCOL-ERROR, too many ranges"]"#]);
    for version in ["60", "62"] {
        assert_eq!(
            payload(&world.ask(&format!(r#"["NEG-OPEN","n",{{}},"{version}"]"#)), "n"),
            [0x61],
            "our own version"
        );
    }
    assert_eq!(
        world.ask(r#"["NEG-OPEN","",{},"61"]"#),
        [r#"["NOTICE","invalid: a subscription id has 1 to 64 characters"]"#]
    );
    assert!(world.ask(r#"["NEG-CLOSE","other"]"#).is_empty());
    // Two messages at once.
    world.say(1, r#"["NEG-MSG","n","61"]"#);
    world.say(1, r#"["NEG-MSG","n","61"]"#);
    let answers = world.answers(1);
    assert!(answers[0].contains("the last message has not been answered"), "{answers:?}");
}

#[test]
fn who_says_nothing_for_a_minute_is_told_that_it_is_over() {
    let mut world = World::new(&notes(10));
    payload(&world.ask(r#"["NEG-OPEN","a",{},"61"]"#), "a");
    world.wait(20);
    world.serve.on_alive(world.now, 1);
    payload(&world.ask(r#"["NEG-OPEN","b",{"since":3},"61"]"#), "b");
    world.wait(25);
    world.serve.on_alive(world.now, 1);
    payload(&world.ask(r#"["NEG-MSG","a","61"]"#), "a");
    world.wait(CLIENT_RECONCILIATION_IDLE.as_secs() - 25);
    let over = |name: &str| format!(r#"["NEG-ERR","{name}","closed: you took too long to respond"]"#);
    assert_eq!(texts_of(&world.outputs()).last(), Some(&&*over("b")));
    world.serve.on_alive(world.now, 1);
    world.wait(25);
    assert_eq!(texts_of(&world.outputs()).last(), Some(&&*over("a")));
    assert_eq!((world.serve.reconciliations(), world.metrics.client_reconciliations.count("idle")), (0, 2));
    assert!(world.serve.ready_bytes() > 0);
    for _ in 0..READY_SET_KEPT_FOR.as_secs() / 20 + 1 {
        world.serve.on_alive(world.now, 1);
        world.wait(20);
    }
    assert_eq!(world.serve.ready_bytes(), 0, "and the set goes");
}

#[test]
fn a_set_that_is_too_large_is_refused_with_the_number_that_fits() {
    let mut world = World::new(&notes(2_000));
    let fits = CLIENT_SETS_BYTES_MAX / 40;
    world.say(1, r#"["NEG-OPEN","n",{"limit":1500},"61"]"#);
    payload(&world.answers(1), "n");
    assert!(fits > 400_000);
    // A set of its own that leaves room for few more.
    world.serve.sessions.get_mut(&1).unwrap().asks.as_mut().unwrap().reconciliations.set_room(1_600 * 40);
    let got = world.ask(r#"["NEG-OPEN","m",{"limit":1900},"61"]"#);
    assert!(got[0].starts_with(r#"["NEG-ERR","m","blocked: too many query results","#), "{got:?}");
    assert_eq!(world.metrics.messages_refused.count("set_too_large"), 1);
    // What is a part of a set for all is taken from there.
    payload(&world.ask(r#"["NEG-OPEN","m",{"since":2},"61"]"#), "m");
    // Two that are searched for at the same time have one room.
    world.say(1, r#"["NEG-CLOSE","n"]"#);
    world.say(1, r#"["NEG-OPEN","o",{"limit":1200},"61"]"#);
    world.say(1, r#"["NEG-OPEN","p",{"limit":1201},"61"]"#);
    let got = world.answers(1);
    assert_eq!(got.iter().filter(|text| text.contains("too many query results")).count(), 1, "{got:?}");
    assert_eq!(got.iter().filter(|text| text.starts_with(r#"["NEG-MSG""#)).count(), 1, "{got:?}");
}

#[test]
fn many_clients_wait_for_one_search_and_all_are_answered() {
    let all = notes(1_500);
    let mut world = World::new(&all);
    let nothing = hex(&Negentropy::borrowed(&storage_of(&[]), 0).unwrap().initiate().unwrap());
    for client in 1..=50 {
        if client > 1 {
            world.accept(client);
        }
        world.say(client, &format!(r#"["NEG-OPEN","n",{{}},"{nothing}"]"#));
    }
    world.serve.on_closed(50);
    let mut answered = 0;
    while world.serve.has_work() {
        world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
        answered += texts_of(&world.outputs()).iter().filter(|text| text.starts_with(r#"["NEG-MSG""#)).count();
        world.serve.assert_invariants();
    }
    assert_eq!(answered, 49);
}

#[test]
fn counts_are_exact() {
    let mut events: Vec<Event> = (1..=300).map(|n| event((n % 3) as u8, 1, n, &[&["t", "x"]], "")).collect();
    events.extend((1..=50).map(|n| event(1, 7, n, &[&["t", "x"], &["t", "y"]], "")));
    let mut world = World::new(&events);
    let author = PublicKey::from_byte_array([1; 32]).to_hex();
    for (filters, count) in [
        ("{}".to_owned(), 350),
        (r#"{"kinds":[1]}"#.to_owned(), 300),
        (r#"{"kinds":[1],"limit":5}"#.to_owned(), 300),
        (r##"{"#t":["x","y"]}"##.to_owned(), 350),
        (r##"{"#t":["y"]},{"kinds":[7]}"##.to_owned(), 50),
        (r#"{"kinds":[7]},{"kinds":[1],"since":291}"#.to_owned(), 60),
        (format!(r##"{{"authors":["{author}"],"#t":["x"]}}"##), 150),
        (r#"{"kinds":[]}"#.to_owned(), 0),
    ] {
        assert_eq!(
            world.ask(&format!(r#"["COUNT","c",{filters}]"#)),
            [format!(r#"["COUNT","c",{{"count":{count}}}]"#)]
        );
    }
    assert_eq!(world.metrics.client_counts, 8);
    assert_eq!(
        world.ask(r#"["COUNT","c",{"kinds":["x"]}]"#),
        [r#"["CLOSED","c","invalid: missing or wrong arguments"]"#]
    );
}

#[test]
fn counts_are_bounded_and_may_be_given_up() {
    let mut world = World::new(&notes(100));
    for n in 0..CLIENT_COUNTS_MAX {
        world.say(1, &format!(r#"["COUNT","{n}",{{}}]"#));
    }
    world.say(1, r#"["COUNT","more",{}]"#);
    assert_eq!(texts_of(&world.outputs()), [r#"["CLOSED","more","blocked: too many COUNTs, at most 16 at once"]"#]);
    world.say(1, r#"["CLOSE","3"]"#);
    assert_eq!(world.answers(1).len(), CLIENT_COUNTS_MAX - 1);
    assert_eq!(world.metrics.messages_refused.count("too_many_counts"), 1);
}

#[test]
fn a_hundred_clients_that_count_everything_delay_nobody() {
    let mut world = World::new(&notes(20_000));
    for client in 2..=101 {
        world.accept(client);
        world.say(client, r#"["COUNT","c",{}]"#);
    }
    world.say(1, r#"["REQ","s",{"limit":3}]"#);
    let mut steps = 0;
    loop {
        world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
        steps += 1;
        if texts_of(&world.outputs()).contains(&&*eose("s")) {
            break;
        }
    }
    assert!(steps <= 11, "its turn comes once a round: {steps}");
    assert!(world.serve.has_work());
    while world.serve.has_work() {
        world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
    }
    assert_eq!(world.metrics.client_counts, 100);
}
