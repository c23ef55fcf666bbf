//! EOSE traps: what looks like the end of an answer and is none, and answers without an end.

use crate::clock::MINUTE;
use crate::events::EventRef;
use crate::model_relay::{Flavour, Refusal};
use crate::scenario;
use crate::setup::{OLD, Village, village};
use crate::world::World;

/// A village whose second relay is of this flavour.
fn village_on(w: &mut World, flavour: Flavour) -> Village {
    let v = village(w, 500);
    w.relay("far").config = flavour.config();
    v
}

/// Thirty issues on the second relay, each with a comment.
fn thread(w: &mut World, v: &Village) -> Vec<EventRef> {
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
