//! EOSE traps: what looks like the end of an answer and is none, and answers without an end.

use crate::clock::{DAY, HOUR, MINUTE, SECOND};
use crate::events::EventRef;
use crate::model_relay::{Breach, Flavour, Limit, Quirk, Refusal};
use crate::scenario;
use crate::setup::{OLD, Village, settle, village};
use crate::world::World;

/// A village whose second relay is of this flavour.
pub(super) fn village_on(w: &mut World, flavour: Flavour) -> Village {
    let v = village(w, 500);
    w.relay("far").config = flavour.config();
    v
}

/// Thirty issues on the second relay, each with a comment.
pub(super) fn thread(w: &mut World, v: &Village) -> Vec<EventRef> {
    let issues = v.issues(30, OLD + 60);
    let comments: Vec<EventRef> = issues.iter().map(|i| v.owner.comment(i, i.created_at + 5, "x")).collect();
    w.hold_all("far", issues.iter().chain(&comments));
    issues.into_iter().chain(comments).collect()
}

#[test]
fn a_store_error_is_a_notice_and_an_eose_with_nothing() {
    for n in 0..8 {
        scenario("a_store_error_is_a_notice_and_an_eose_with_nothing", |w| {
            let v = village_on(w, Flavour::named("khatru-postgres"));
            let all = thread(w, &v);
            let failure = Refusal::StoreError("pq: canceling statement due to user request");
            w.relay("far").refusals.extend((0..n).map(|_| None).chain([Some(failure)]));
            w.start();
            w.run_until("everything", 10 * MINUTE, |w| w.has_all(&all));
        });
    }
}

/// EOSE comes, then a NOTICE without an id: the newest subscription is taken for the one that is not live, and no more
/// are opened than the relay has shown to allow.
#[test]
fn a_live_subscription_refused_after_its_eose_is_asked_for_in_another_way() {
    scenario("a_live_subscription_refused_after_its_eose_is_asked_for_in_another_way", |w| {
        let strfry = Flavour::named("strfry");
        let few = Limit { max: 3, ..strfry.subscriptions };
        let v = village_on(w, Flavour { subscriptions: few, ..strfry });
        settle(w);
        let mut issues: Vec<EventRef> = Vec::new();
        for n in 0..4 {
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &n.to_string());
            w.publish("far", &issue);
            w.run_for(10 * SECOND);
            issues.push(issue);
        }
        w.run_for(3 * MINUTE);
        let comments: Vec<EventRef> = issues.iter().map(|i| v.owner.comment(i, w.clock.wall(), "x")).collect();
        comments.iter().for_each(|c| w.publish("far", c));
        w.run_until("every comment", 2 * MINUTE, |w| w.has_all(&comments));
        let passed = |w: &mut World| w.relay("far").breaches.get(&Breach::Subscriptions).copied().unwrap_or(0);
        let learning = passed(w);
        assert!((1..=7).contains(&learning), "{learning} refusals to learn from");
        w.run_for(2 * DAY);
        assert_eq!(passed(w), learning, "what was learned is never passed again");
    });
}

#[test]
fn a_third_element_of_eose_is_read_over() {
    scenario("a_third_element_of_eose_is_read_over", |w| {
        let v = village_on(w, Flavour { quirks: &[Quirk::HintsAtEnd], ..Flavour::named("strfry") });
        let all = thread(w, &v);
        settle(w);
        assert!(w.has_all(&all));
        assert_eq!(w.relay_status("far")["sweeps_failed"], false);
    });
}

#[test]
fn what_some_relays_never_answer_is_never_asked() {
    scenario("what_some_relays_never_answer_is_never_asked", |w| {
        let v = village_on(w, Flavour::named("nostr-rs-relay"));
        thread(w, &v);
        settle(w);
        w.run_for(25 * HOUR);
        for req in &w.relay("far").reqs {
            assert!(req.filters.iter().all(|f| f.ids.is_none() && f.limit.is_some_and(|n| n > 0)), "{req:?}");
        }
    });
}
