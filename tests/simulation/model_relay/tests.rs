//! Each relay's exact replies.

use super::*;
use crate::events::Author;

fn relay(flavour: Flavour) -> ModelRelay {
    let mut relay = ModelRelay::new("wss://r.example", flavour.config());
    relay.open(0, 1);
    relay
}

fn capped(cap: usize) -> ModelRelay {
    relay(RelayConfig::capped(cap).flavour)
}

/// What is said to a message, closes as `close CODE`.
fn says(relay: &mut ModelRelay, text: &str) -> Vec<String> {
    said(relay.on_text(0, 1, text))
}

fn said(replies: Vec<Reply>) -> Vec<String> {
    replies
        .into_iter()
        .filter_map(|r| match r.act {
            Act::Say(text) => Some(text),
            Act::Close(code) => Some(format!("close {code}")),
            Act::SayIfOpen(..) | Act::Break(_) | Act::Ping | Act::Look => None,
        })
        .collect()
}

#[test]
fn answers_newest_first_with_ties_by_lowest_id_up_to_the_cap_without_a_word() {
    let author = Author::new(1);
    let mut relay = capped(3);
    let mut events: Vec<EventRef> =
        [10, 20, 20, 30].iter().enumerate().map(|(n, at)| author.sign(1, *at, &[], &n.to_string())).collect();
    events.iter().for_each(|e| assert!(relay.hold(e)));
    events.sort_by_key(|e| (Reverse(e.created_at), e.id.clone()));
    let mut expected: Vec<String> = events[..3].iter().map(|e| event_text("s", e)).collect();
    expected.push(r#"["EOSE","s"]"#.to_owned());
    assert_eq!(says(&mut relay, r#"["REQ","s",{"limit":10}]"#), expected);
}

#[test]
fn a_limit_counts_for_each_filter_and_an_event_comes_once() {
    let author = Author::new(1);
    let mut relay = capped(100);
    (0..4).for_each(|n| assert!(relay.hold(&author.sign(1, n, &[], ""))));
    assert_eq!(says(&mut relay, r#"["REQ","s",{"limit":2},{"until":1,"limit":2},{"limit":1}]"#).len(), 5);
}

#[test]
fn a_subscription_is_live_until_closed() {
    let author = Author::new(1);
    let mut relay = capped(100);
    says(&mut relay, r#"["REQ","s",{"kinds":[1],"since":5,"limit":1}]"#);
    assert_eq!(relay.publish(0, &author.sign(1, 4, &[], "")).len(), 0);
    let event = author.sign(1, 6, &[], "");
    assert_eq!(said(relay.publish(0, &event)), [event_text("s", &event)]);
    assert_eq!(relay.publish(0, &event).len(), 0, "known");
    says(&mut relay, r#"["CLOSE","s"]"#);
    assert_eq!(relay.publish(0, &author.sign(1, 7, &[], "")).len(), 0);
}

#[test]
fn replaces_and_deletes() {
    let author = Author::new(1);
    let mut relay = capped(100);
    let old = author.foreign_announcement("x", 1);
    assert!(relay.hold(&author.foreign_announcement("x", 2)) && !relay.hold(&old));
    assert!(relay.hold(&author.deletion(&[], &[&author.repo("x")], 3)));
    assert_eq!(relay.held.len(), 1, "the deletion alone");
}

#[test]
fn every_flavour_answers_what_it_was_asked_for_in_its_own_words() {
    for flavour in Flavour::ALL {
        assert_eq!(Flavour::named(flavour.name).name, flavour.name);
        let author = Author::new(1);
        let issue = author.issue(&author.repo("x"), WALL_START - 9, "");
        let mut relay = relay(flavour.clone());
        assert!(relay.hold(&issue));
        let req = format!("[\"REQ\",\"s\",{{\"#a\":[\"{}\"],\"limit\":500}}]", author.repo("x"));
        let said = says(&mut relay, &req);
        let expected = match flavour.name {
            "nostr-rs-relay-limit-scrapers" => vec![EOSE.to_owned()],
            "khatru-auth" | "khatru-members" => vec![
                r#"["AUTH","challenge 1"]"#.to_owned(),
                r#"["CLOSED","s","auth-required: all requests must be authenticated"]"#.to_owned(),
            ],
            "khatru-anti-sync-bots" => {
                vec![closed("s", "blocked: an author must be specified to get their kind:1 notes")]
            }
            _ => vec![event_text("s", &issue), EOSE.to_owned()],
        };
        assert_eq!(said, expected, "{}", flavour.name);
        assert_eq!(relay.known_breaches(), []);
    }
}

const EOSE: &str = r#"["EOSE","s"]"#;

#[test]
fn every_liar_says_more_or_says_it_later() {
    for liar in Liar::OF_ANSWERS.into_iter().chain(Liar::OF_RECONCILIATIONS) {
        let author = Author::new(1);
        let announcement = author.announcement("x", &[], WALL_START - 9);
        let mut relay = ModelRelay::new("wss://r.example", Flavour::named("strfry").config().lying(liar));
        relay.open(0, 1);
        relay.hold(&announcement);
        let req = r#"["REQ","s",{"kinds":[30617,30618],"until":1,"limit":500}]"#;
        let replies = relay.on_text(0, 1, req);
        let late = replies.iter().any(|r| r.after > 0);
        let said = said(replies);
        let truth = [EOSE.to_owned()];
        match liar {
            Liar::Trickler => assert!(late),
            Liar::SlowClock => assert!(relay.publish(0, &author.issue("x", WALL_START, "")).is_empty()),
            // These need something to alter or repeat.
            Liar::Forger | Liar::Alterer | Liar::Flooder => assert_eq!(said, truth),
            Liar::Endless => assert_eq!(said, [event_text("s", &announcement), EOSE.to_owned()]),
            // To NEG-OPEN alone.
            Liar::NegGhosts | Liar::NegLoses | Liar::NegSilent | Liar::NegGarbage | Liar::NegEndless => {
                assert_eq!(said, truth);
            }
            _ => assert!(said.len() > 1 && !late, "{liar:?}: {said:?}"),
        }
        let held = says(&mut relay, r#"["REQ","s",{"kinds":[30617,30618],"limit":500}]"#);
        let copies = held.iter().filter(|t| t.contains(&announcement.id)).count();
        match liar {
            Liar::Forger | Liar::Alterer | Liar::Confused => assert_eq!(copies, 2, "{liar:?}"),
            Liar::Flooder => assert_eq!(copies, 10_001),
            _ => assert_eq!(copies, 1, "{liar:?}"),
        }
        assert!(held.contains(&event_text("s", &announcement)), "{liar:?} says the true thing too");
    }
}

/// What is said when a limit is passed, to the letter: `relay-facts.md`, "What is sent when a limit is passed".
#[test]
fn a_passed_limit_is_told_in_the_relays_own_words() {
    let subscriptions = [
        ("strfry", vec![EOSE, r#"["NOTICE","ERROR: too many concurrent REQs"]"#]),
        ("nostr-rs-relay", vec![r#"["NOTICE","Subscription error: Maximum concurrent subscription count reached"]"#]),
        ("chorus", vec![r#"["CLOSED","s","blocked: No more than 128 subscriptions are allowed at any one time"]"#]),
        ("rnostr", vec![r#"["CLOSED","s","Number of subscriptions exceeds limit"]"#]),
        ("relay-builder", vec![r#"["CLOSED","s","rate-limited: too many REQs"]"#]),
        ("netstr", vec![r#"["CLOSED","s","invalid: too many subscriptions"]"#]),
    ];
    for (name, expected) in subscriptions {
        let mut relay = relay(Flavour { rates: &[], ..Flavour::named(name) });
        for n in 0..relay.config.flavour.subscriptions.max {
            assert_eq!(says(&mut relay, &format!("[\"REQ\",\"{n}\",{{\"kinds\":[{n}],\"limit\":1}}]")).len(), 1);
        }
        assert_eq!(says(&mut relay, r#"["REQ","s",{"kinds":[70],"authors":["x"],"limit":1}]"#), expected, "{name}");
        assert_eq!(relay.known_breaches(), [(&Breach::Subscriptions, &1)]);
    }
    let filters = [
        ("strfry", 201, r#"["CLOSED","s","ERROR: bad req: arr too big"]"#),
        ("strfry-1.0", 21, r#"["NOTICE","ERROR: bad req: arr too big"]"#),
        ("rnostr", 11, r#"["CLOSED","s","invalid: limitation.max_filters 10"]"#),
        ("netstr", 21, r#"["CLOSED","s","invalid: too many filters"]"#),
    ];
    for (name, n, expected) in filters {
        let req = format!("[\"REQ\",\"s\"{}]", ",{}".repeat(n));
        assert_eq!(says(&mut relay(Flavour::named(name)), &req), [expected], "{name}");
    }
    let bytes = [
        ("nostr-rs-relay", 262_145, r#"["NOTICE","message too large (262145 > 262144)"]"#),
        ("khatru-badger", 512_001, "close 1009"),
        ("rnostr", 524_289, r#"["NOTICE","payload reached size limit."]"#),
    ];
    for (name, n, expected) in bytes {
        assert_eq!(says(&mut relay(Flavour::named(name)), &" ".repeat(n)), [expected], "{name}");
    }
    let values = |n: usize| -> String {
        let ids: Vec<String> = (0..n).map(|i| format!("\"{i:064x}\"")).collect();
        format!("[\"REQ\",\"s\",{{\"#e\":[{}],\"limit\":1}}]", ids.join(","))
    };
    let notice_and_eose = vec![r#"["NOTICE","too many tag values"]"#, EOSE];
    for (name, n, expected) in [
        ("strfry", 2_048, vec![r#"["CLOSED","s","ERROR: bad req: total filter items too large"]"#]),
        ("khatru-postgres", 101, notice_and_eose),
        ("khatru-mysql", 101, vec![EOSE]),
        ("chorus", 991, vec![EOSE]),
    ] {
        let mut relay =
            relay(Flavour { message_bytes: Limit { max: 1 << 20, told: Told::Nothing }, ..Flavour::named(name) });
        assert_eq!(says(&mut relay, &values(n - 1)), [EOSE], "{name}");
        assert_eq!(says(&mut relay, &values(n)), expected, "{name}");
    }
}

#[test]
fn caps_and_orders_are_each_relays_own() {
    let author = Author::new(1);
    let events: Vec<EventRef> = (0..600).map(|n| author.sign(1, 1_000 + n, &[], "")).collect();
    let cases = [
        ("strfry", "", 500, 1_599),
        ("strfry", ",\"limit\":5000", 500, 1_599),
        ("nostr-rs-relay", "", 600, 1_000),
        ("nostr-rs-relay", ",\"limit\":7", 7, 1_599),
        ("khatru-badger", "", 250, 1_599),
        ("khatru-badger", ",\"limit\":1001", 250, 1_599),
        ("khatru-badger", ",\"limit\":500", 500, 1_599),
        ("khatru-lmdb", "", 375, 1_599),
        ("khatru-sqlite", ",\"limit\":500", 100, 1_599),
        ("rnostr", ",\"limit\":500", 300, 1_599),
        ("relay-builder", "", 500, 1_599),
        ("nostream", "", 500, 1_000),
    ];
    for (name, limit, count, first) in cases {
        let mut relay = relay(Flavour { rates: &[], ..Flavour::named(name) });
        events.iter().for_each(|e| assert!(relay.hold(e)));
        let said = says(&mut relay, &format!("[\"REQ\",\"s\",{{\"kinds\":[1]{limit}}}]"));
        assert_eq!(said.len() - 1, count, "{name} {limit}");
        assert!(said[0].contains(&format!("\"created_at\":{first}")), "{name} {limit}: {}", said[0]);
    }
    let too_high = says(&mut relay(Flavour::named("netstr")), r#"["REQ","s",{"limit":1001}]"#);
    assert_eq!(too_high, [r#"["CLOSED","s","invalid: filter limit is too high"]"#]);
}

#[test]
fn silences_and_closes_are_each_relays_own() {
    let mut nostr_rs = relay(Flavour::named("nostr-rs-relay"));
    assert!(says(&mut nostr_rs, r#"["REQ","a",{"kinds":[1],"limit":0}]"#).is_empty());
    assert_eq!(says(&mut nostr_rs, r#"["REQ","b",{"kinds":[1],"limit":1}]"#).len(), 1);
    assert!(says(&mut nostr_rs, r#"["REQ","c",{"kinds":[1],"limit":1}]"#).is_empty(), "the same filters");

    let mut chorus = ModelRelay::new("wss://r.example", Flavour::named("chorus").config());
    assert_eq!(said(chorus.open(0, 1)), [r#"["AUTH","challenge 1"]"#]);
    let scraper = r#"["REQ","s",{"kinds":[30617],"limit":500}]"#;
    let refused = r#"["CLOSED","s","invalid: Filter is underspecified. Scrapers are not allowed"]"#;
    assert_eq!(says(&mut chorus, scraper), [refused]);
    assert_eq!(says(&mut chorus, r#"["REQ","m",{"kinds":[30617],"limit":100}]"#), [r#"["EOSE","m"]"#]);
    assert_eq!(says(&mut chorus, scraper), [refused]);
    assert_eq!(says(&mut chorus, r#"["REQ","i",{"ids":["00"]}]"#), [r#"["CLOSED","i",""]"#]);
    let last = [refused, r#"["NOTICE","Closing due to error(s)"]"#, "close 1008"];
    assert_eq!(says(&mut chorus, scraper), last);
    says(&mut chorus, r#"["CLOSE","m"]"#);
    assert_eq!(said(chorus.on_look(59 * SECOND, 1)), [""; 0]);
    assert_eq!(said(chorus.on_look(60 * SECOND, 1)), ["close 1008"]);

    let mut builder = relay(Flavour::named("relay-builder"));
    let ids_only = says(&mut builder, r#"["REQ","i",{"ids":["00"]}]"#);
    assert_eq!(ids_only, [r#"["EOSE","i"]"#, r#"["CLOSED","i",""]"#]);
    assert_eq!(says(&mut builder, "nonsense"), ["close 1006"]);

    let mut khatru = relay(Flavour::named("khatru-anti-sync-bots"));
    let both = r##"["REQ","s",{"kinds":[30617],"limit":1},{"#a":["x"],"limit":1}]"##;
    assert_eq!(says(&mut khatru, both).len(), 1, "CLOSED");
    let announcement = Author::new(1).announcement("x", &[], WALL_START);
    assert_eq!(said(khatru.publish(0, &announcement)), [event_text("s", &announcement)], "and yet it listens");

    let mut twice = relay(Flavour::named("khatru-badger"));
    says(&mut twice, r#"["REQ","s",{"kinds":[30617],"limit":1},{"since":1,"limit":1}]"#);
    assert_eq!(twice.publish(0, &announcement).len(), 2, "once for each filter");

    let mut rate = relay(Flavour::named("wot-relay"));
    for _ in 0..30 {
        assert_eq!(says(&mut rate, r#"["REQ","s",{"kinds":[1],"limit":1}]"#).len(), 1);
    }
    let bug = "rate-limited: there is a bug in the client, no one should be making so many requests";
    assert_eq!(says(&mut rate, r#"["REQ","s",{"kinds":[1],"limit":1}]"#), [closed("s", bug)]);
    assert_eq!(said(rate.on_text(12 * SECOND, 1, r#"["REQ","s",{"kinds":[1],"limit":1}]"#)), [EOSE]);
    (0..29).for_each(|_| assert_eq!(rate.on_dial(0, "/"), Door::Mode(Mode::Up)));
    assert_eq!([rate.on_dial(0, "/"), rate.on_dial(0, "/")], [Door::Mode(Mode::Up), Door::Status(429, None)]);
}
