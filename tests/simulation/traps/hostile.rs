//! What strangers may write into events, and what must not be done with it.

use super::eose::village_on;
use super::flavours::Hamlet;
use crate::clock::{DAY, HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef, SimEvent};
use crate::model_relay::{Flavour, Liar, RelayConfig};
use crate::scenario;
use crate::setup::{OLD, settle, village};
use std::rc::Rc;

#[test]
fn an_announcement_of_thousands_of_relays_costs_sixteen() {
    scenario("an_announcement_of_thousands_of_relays_costs_sixteen", |w| {
        village(w, 60);
        let mut urls: Vec<String> = Vec::new();
        for n in 0..16 {
            let name = format!("r{n}");
            w.add_relay(&name, RelayConfig::strfry());
            urls.push(format!("wss://{name}.example"));
        }
        // Only the first sixteen are in the world: dialling any other would fail the scenario.
        urls.extend((16..5_000).map(|n| format!("wss://r{n}.example")));
        let urls: Vec<&str> = urls.iter().map(|u| &**u).collect();
        let greedy = Author::new(66).announcement("greedy", &urls, OLD);
        w.settings.limits.event_bytes_max = 1 << 20;
        w.hold("hub", &greedy);
        settle(w);
        assert!(w.has(&greedy));
        assert!((0..16).all(|n| !w.relay(&format!("r{n}")).dials.is_empty()));
        w.run_for(HOUR);
    });
}

#[test]
fn a_tie_is_won_by_the_lowest_id_whichever_relay_says_it_first() {
    scenario("a_tie_is_won_by_the_lowest_id_whichever_relay_says_it_first", |w| {
        let v = village_on(w, Flavour::named("chorus"));
        let state = |head: &str| v.owner.sign(30618, OLD + 9, &[&["d", "alpha"], &["HEAD", head]], "");
        let (one, other) = (state("ref: refs/heads/a"), state("ref: refs/heads/b"));
        let (low, high) = if one.id < other.id { (one, other) } else { (other, one) };
        w.hold("hub", &high);
        w.hold("far", &low);
        settle(w);
        assert!(w.has(&low) && !w.has(&high));
        w.run_for(25 * HOUR);
        assert!(w.has(&low) && !w.has(&high), "the other comes again with the daily turn");
    });
}

#[test]
fn what_is_deleted_expired_or_protected_does_not_come_back_from_a_relay_that_keeps_it() {
    scenario("what_is_deleted_expired_or_protected_does_not_come_back_from_a_relay_that_keeps_it", |w| {
        let v = village_on(w, Flavour::named("nostr-rs-relay"));
        w.relay("far").config.keeps_everything = true;
        let repo: &str = &v.repo;
        let deleted = v.owner.issue(repo, OLD + 60, "deleted");
        let deletion = v.owner.deletion(&[&deleted], &[], OLD + 90);
        let past = (w.clock.wall() - 5).to_string();
        let expired = v.owner.sign(1621, OLD + 70, &[&["a", repo], &["expiration", &past]], "");
        let protected = v.owner.sign(1621, OLD + 80, &[&["a", repo], &["-"]], "");
        w.forbid(&expired, "expired");
        w.forbid(&protected, "protected");
        w.hold_all("far", [&deleted, &expired, &protected]);
        settle(w);
        assert!(w.has(&deleted));
        w.hold("far", &deletion);
        w.run_until("the deletion", 25 * HOUR, |w| w.has(&deletion));
        w.run_for(2 * DAY);
        assert!(!w.has(&deleted));
        let sent = w.relay("far").events_sent();
        assert!(sent <= 3 * 4 * 12, "{sent} events sent in three days, of which two are new");
    });
}

#[test]
fn events_from_long_ago_are_as_good_as_any() {
    scenario("events_from_long_ago_are_as_good_as_any", |w| {
        let v = village_on(w, Flavour::named("relay-builder"));
        let old: Vec<EventRef> = [0, 1, 86_400].map(|at| v.owner.issue(&v.repo, at, "long ago")).into();
        w.hold_all("far", &old);
        w.start();
        w.run_until("all of them", MINUTE, |w| w.has_all(&old));
    });
}

#[test]
fn an_altered_copy_of_what_is_stored_changes_nothing() {
    scenario("an_altered_copy_of_what_is_stored_changes_nothing", |w| {
        let v = village(w, 60);
        let issue = v.owner.issue(&v.repo, OLD + 60, "true");
        w.hold("far", &issue);
        settle(w);
        assert!(w.has(&issue));
        let json = issue.json.replace("\"true\"", "\"altered\"");
        let copy: EventRef = Rc::new(SimEvent::from_json(&json).expect("readable"));
        assert_eq!(copy.id, issue.id);
        let subscriptions: Vec<String> =
            w.relay("far").sessions().values().flat_map(|s| s.subscriptions.keys().cloned()).collect();
        for subscription in subscriptions {
            w.relay_says("far", &crate::model_relay::event_text(&subscription, &copy));
        }
        w.run_for(10 * SECOND);
        assert!(w.durable().events[&issue.id].json.contains("\"true\""));
        assert_eq!(w.relay_status("far")["state"], "Live");
    });
}

#[test]
fn a_relay_that_refuses_anything_in_any_words_costs_nobody_else_anything() {
    for flavour in ["strfry", "khatru-negentropy", "rnostr", "chorus", "relay-builder"] {
        scenario("a_relay_that_refuses_anything_in_any_words_costs_nobody_else_anything", |w| {
            let hamlet = Hamlet::build(w, Flavour::named(flavour).config().lying(Liar::Refuser));
            w.start();
            for hour in 0..6 {
                w.run_for(HOUR);
                w.forget_questions();
                let owner = &hamlet.owners[0];
                let issue = owner.issue(&owner.repo("alpha"), w.clock.wall(), &hour.to_string());
                w.publish("hub", &issue);
                w.run_until("what is live elsewhere", 3 * SECOND, |w| w.has(&issue));
            }
            assert_eq!(w.relay_status("hub")["state"], "Live", "{flavour}");
        });
    }
}
