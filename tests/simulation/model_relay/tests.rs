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
            Act::Ping | Act::Look => None,
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
            "khatru-auth" => vec![
                r#"["AUTH","a challenge"]"#.to_owned(),
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
    for liar in Liar::ALL {
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
