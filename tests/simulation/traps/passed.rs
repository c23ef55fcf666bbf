//! Limits that an operator has set lower than the program asks: each is passed, in each relay's words, and what follows.

use super::eose::{thread, village_on};
use crate::clock::{HOUR, MINUTE, SECOND};
use crate::events::EventRef;
use crate::model_relay::{Breach, Counted, Flavour, Limit, Rate, Reconciling, Told};
use crate::scenario;

/// Everything is had although a limit is passed, and what is published comes within minutes. How often it was passed. The
/// relay does not reconcile: pages ask for more at once.
fn passed(flavour: Flavour, breach: Breach, within: u64) -> u64 {
    let mut times = 0;
    let reconciling = Reconciling::Refused(Told::Closed("blocked: Negentropy sync is disabled"));
    let flavour = Flavour { reconciling, ..flavour };
    scenario("a_limit_is_passed", |w| {
        eprintln!("{}", flavour.name);
        let v = village_on(w, flavour);
        let all: Vec<EventRef> = thread(w, &v);
        w.start();
        w.run_until("everything", within, |w| w.has_all(&all));
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "live");
        w.publish("far", &issue);
        w.run_until("a live event", 5 * MINUTE, |w| w.has(&issue));
        let from = w.clock.now();
        w.run_for(HOUR);
        let reqs = w.relay("far").reqs_since(from).count();
        assert!(reqs <= 400, "{reqs} REQs in an hour");
        assert!(w.relay("far").dials.len() <= 12, "{} dials", w.relay("far").dials.len());
        times = w.relay("far").breaches.get(&breach).copied().unwrap_or(0);
    });
    times
}

/// Words for passing the limit of subscriptions: CLOSED, a NOTICE instead of an answer, a NOTICE after EOSE.
#[test]
fn too_many_subscriptions_delay_and_lose_nothing() {
    for name in ["strfry", "nostr-rs-relay", "chorus", "rnostr", "relay-builder", "netstr"] {
        let flavour = Flavour::named(name);
        let subscriptions = Limit { max: 3, ..flavour.subscriptions };
        assert!(passed(Flavour { subscriptions, ..flavour }, Breach::Subscriptions, 3 * HOUR) > 0, "{name}");
    }
}

#[test]
fn too_many_filters_in_a_req_delay_and_lose_nothing() {
    for name in ["strfry", "strfry-1.0", "rnostr", "netstr"] {
        let flavour = Flavour::named(name);
        let filters = Limit { max: 3, ..flavour.filters };
        assert!(passed(Flavour { filters, ..flavour }, Breach::Filters, 2 * HOUR) > 0, "{name}");
    }
}

/// Twelve at once, and then twelve a minute.
const fn twelve(of: Counted, told: Told) -> Rate {
    Rate { of, burst: 12, refill: 12, every: MINUTE, told }
}

const SLOW_DOWN: Told = Told::Closed("rate-limited: slow down there chief");
const FEW_FILTERS: &[Rate] = &[twelve(Counted::Filters, SLOW_DOWN)];
const FEW_SUBSCRIPTIONS: &[Rate] = &[twelve(Counted::Subscriptions, SLOW_DOWN)];
const FEW_MESSAGES: &[Rate] = &[twelve(Counted::Messages, Told::Notice("rate limited"))];
const FEW_DIALS: &[Rate] = &[Rate { of: Counted::Dials, burst: 2, refill: 1, every: 5 * MINUTE, told: Told::Nothing }];

#[test]
fn a_rate_is_waited_out() {
    for (name, rates) in [("khatru-badger", FEW_FILTERS), ("netstr", FEW_SUBSCRIPTIONS)] {
        let times = passed(Flavour { rates, ..Flavour::named(name) }, Breach::Rate(rates[0].of), 3 * HOUR);
        assert!(times > 0, "{name}");
    }
}

/// The messages that are dropped may be CLOSEs, of which nobody hears again.
#[test]
fn dropped_messages_are_waited_out() {
    let few = Flavour { rates: FEW_MESSAGES, ..Flavour::named("strfry") };
    assert!(passed(few, Breach::Rate(Counted::Messages), 3 * HOUR) > 0);
}

/// The first REQ is larger than the relay reads: it closes the link with 1009 each time.
#[test]
fn a_relay_that_reads_no_message_of_ours_is_not_hammered() {
    scenario("a_relay_that_reads_no_message_of_ours_is_not_hammered", |w| {
        let khatru = Flavour::named("khatru-badger");
        village_on(w, Flavour { message_bytes: Limit { max: 50, ..khatru.message_bytes }, ..khatru });
        w.start();
        w.run_for(2 * HOUR);
        let dials = w.relay("far").dials.len();
        assert!((10..=12).contains(&dials), "{dials} dials in two hours");
    });
}

#[test]
fn too_many_connections_are_answered_with_429_and_tried_again() {
    scenario("too_many_connections_are_answered_with_429_and_tried_again", |w| {
        let v = village_on(w, Flavour { rates: FEW_DIALS, ..Flavour::named("wot-relay") });
        w.start();
        w.run_for(2 * MINUTE);
        for _ in 0..4 {
            w.drop_links("far");
            w.run_for(20 * SECOND);
        }
        assert!(w.relay("far").breaches.contains_key(&Breach::Rate(Counted::Dials)));
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "while turned away");
        w.publish("far", &issue);
        w.run_until("the issue", 30 * MINUTE, |w| w.has(&issue));
        assert!(w.relay("far").dials.len() <= 14, "{} dials", w.relay("far").dials.len());
    });
}

/// More happens in one moment than a slow listener is told of. The relay says nothing.
#[test]
fn live_events_lost_under_lag_are_found_by_the_next_audit() {
    scenario("live_events_lost_under_lag_are_found_by_the_next_audit", |w| {
        let v = village_on(w, Flavour::named("relay-builder"));
        w.start();
        w.run_for(MINUTE);
        let now = w.clock.wall();
        let burst: Vec<EventRef> = (0..1_100).map(|n| v.owner.state(&format!("other-{n}"), now)).collect();
        let issue = v.owner.issue(&v.repo, now, "behind the burst");
        burst.iter().for_each(|e| w.forbid(e, "not ours"));
        burst.iter().for_each(|e| w.publish("far", e));
        w.publish("far", &issue);
        w.run_for(MINUTE);
        assert!(!w.has(&issue));
        w.run_until("the issue", 4 * HOUR, |w| w.has(&issue));
    });
}
