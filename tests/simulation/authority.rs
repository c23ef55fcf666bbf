//! Who may speak for a repository (spec section 15): roles, invitations and their acceptance, and what follows when either
//! comes or ends while relays have had the states all along.

use crate::clock::{MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::scenario;
use crate::setup::{OLD, Village, quiet, settle, village};
use crate::world::World;

const LISTED: [&str; 4] = ["relays", "wss://grasp.example", "wss://hub.example", "wss://far.example"];

/// The village's repo as its owner announces it with these tags.
fn alpha(v: &Village, tags: &[&[&str]], at: u64) -> EventRef {
    v.owner.announcement_with("alpha", &v.owner.clone_url("alpha"), &LISTED, tags, at)
}

/// Whether our own relay takes an event that a client publishes.
fn takes(w: &mut World, event: &EventRef) -> bool {
    let client = w.connect_client();
    w.client_publishes(client, event);
    w.run_until("an answer", SECOND, |w| w.client(client).ok(event).is_some());
    w.client(client).ok(event).is_some_and(|(ok, _)| ok)
}

#[test]
fn role_tags_say_who_maintains_a_repository() {
    scenario("role_tags_say_who_maintains_a_repository", |w| {
        let v = village(w, 60);
        let [lead, helper, moderator, former, copied, stranger] = [2, 3, 4, 5, 6, 7].map(Author::new);
        let roles: [&[&str]; 7] = [
            &["maintainers", &stranger.hex, &moderator.hex],
            &["M", &lead.hex],
            &["m", &v.owner.hex, "100"],
            &["m", &helper.hex, "100", "200", "300"],
            &["o", &moderator.hex, "100"],
            &["m", &former.hex, "100", "200"],
            &["m", &copied.hex, "100", "defer"],
        ];
        w.hold("hub", &alpha(&v, &roles, OLD + 1));
        let acceptance = |author: &Author| {
            let roles: [&[&str]; 2] = [&["M", &v.owner.hex, "400"], &["m", &author.hex, "400"]];
            author.announcement_with("alpha", "https://other.example/a.git", &["relays"], &roles, OLD + 2)
        };
        let good: Vec<EventRef> = [&lead, &helper].map(|a| [acceptance(a), a.state("alpha", OLD + 3)]).concat();
        let bad =
            [&moderator, &former, &copied, &stranger].map(|a| [acceptance(a), a.state("alpha", OLD + 3)]).concat();
        bad.iter().for_each(|event| w.forbid(event, "its author is no maintainer"));
        w.hold_all("far", good.iter().chain(&bad));
        w.start();
        w.run_until("what maintainers published", MINUTE, |w| w.has_all(&good));
        assert!(takes(w, &v.owner.state("alpha", OLD)), "he is one of his own");
        quiet(w);
    });
}

#[test]
fn who_is_invited_speaks_as_soon_as_he_has_accepted() {
    scenario("who_is_invited_speaks_as_soon_as_he_has_accepted", |w| {
        let v = village(w, 60);
        let helper = Author::new(2);
        w.hold("hub", &alpha(&v, &[&["m", &helper.hex]], OLD + 1));
        let (state, undecided) = (helper.state("alpha", OLD + 60), helper.foreign_announcement("alpha", OLD + 61));
        w.hold_all("far", [&state, &undecided]);
        settle(w);
        assert!(w.has(&undecided), "how else would he accept");
        let issue = v.owner.issue(&helper.repo("alpha"), OLD, "of the invited");
        assert!(takes(w, &issue));
        assert!(!w.has(&state) && !takes(w, &helper.state("alpha", OLD + 59)), "he speaks for nobody yet");
        w.publish("far", &helper.acceptance("alpha", &[&v.owner], w.clock.wall()));
        w.run_until("what was refused before", 10 * SECOND, |w| w.has(&state));
        assert!(takes(w, &helper.state("alpha", w.clock.wall())));
    });
}

#[test]
fn who_is_confirmed_through_another_is_asked_for_when_that_one_accepts() {
    scenario("who_is_confirmed_through_another_is_asked_for_when_that_one_accepts", |w| {
        let v = village(w, 60);
        let (helper, friend) = (Author::new(2), Author::new(3));
        w.add_relay("other", crate::model_relay::RelayConfig::strfry());
        // A second repo of that name, whose relay has what the friend of the first one's helper published.
        let fork = Author::new(4).announcement("alpha", &["wss://other.example"], OLD);
        w.hold_all("hub", [&alpha(&v, &[&["m", &helper.hex], &["m", &friend.hex]], OLD + 1), &fork]);
        let state = friend.state("alpha", OLD + 60);
        w.hold_all("other", [&state, &friend.acceptance("alpha", &[&helper], OLD)]);
        settle(w);
        assert!(!w.has(&state), "he answers one who has not accepted");
        w.publish("hub", &helper.acceptance("alpha", &[&v.owner], w.clock.wall()));
        w.run_until("what the friend published", 10 * SECOND, |w| w.has(&state));
    });
}

#[test]
fn who_is_listed_no_longer_or_has_left_is_not_believed_any_more() {
    scenario("who_is_listed_no_longer_or_has_left_is_not_believed_any_more", |w| {
        let v = village(w, 60);
        let (helper, friend) = (Author::new(2), Author::new(3));
        w.hold("hub", &alpha(&v, &[&["m", &helper.hex], &["m", &friend.hex]], OLD + 1));
        let held = [helper.state("alpha", OLD + 60), friend.state("alpha", OLD + 60)];
        w.hold_all("far", &held);
        w.hold_all("far", [&helper, &friend].map(|a| a.acceptance("alpha", &[&v.owner], OLD)).iter());
        settle(w);
        assert!(w.has_all(&held));
        let at = w.clock.wall();
        let left: [&[&str]; 2] = [&["M", &v.owner.hex], &["m", &friend.hex, "100", "200"]];
        w.publish("far", &friend.announcement_with("alpha", "", &["relays"], &left, at));
        w.publish("hub", &alpha(&v, &[&["m", &helper.hex, "100", "200"], &["m", &friend.hex]], at));
        quiet(w);
        for author in [&helper, &friend] {
            let state = author.state("alpha", w.clock.wall());
            w.forbid(&state, "its author has ceased to be a maintainer");
            w.publish("far", &state);
            assert!(!takes(w, &state));
        }
        assert!(w.has_all(&held), "what was taken stays");
        w.publish("hub", &alpha(&v, &[&["M", &helper.hex], &["m", &v.owner.hex, "100", "200"]], at + 60));
        quiet(w);
        assert!(!takes(w, &v.owner.state("alpha", OLD + 70)), "he has left his own");
        assert!(takes(w, &v.owner.issue(&v.repo, OLD, "it is followed all the same")));
    });
}

#[test]
fn maintainers_beyond_what_one_announcement_and_one_identifier_allow_are_counted() {
    scenario("maintainers_beyond_what_one_announcement_and_one_identifier_allow_are_counted", |w| {
        let v = village(w, 60);
        let helpers: Vec<Author> = (100..100 + 4 * 65).map(Author::new).collect();
        for (helpers, n) in helpers.chunks(65).zip(10..) {
            let owner = Author::new(n);
            let hexes: Vec<&str> = helpers.iter().map(|helper| &*helper.hex).collect();
            w.hold("hub", &owner.announcement_on("beta", &owner.clone_url("beta"), &LISTED, &hexes, OLD));
            let accepts = |(helper, second): (&Author, u64)| helper.acceptance("beta", &[&owner], OLD + second);
            let accepted: Vec<EventRef> = helpers.iter().zip(0..).map(accepts).collect();
            w.forbid(&accepted[64], "he is the 65th that is listed");
            w.hold_all("far", &accepted);
        }
        w.hold("hub", &v.announcement);
        settle(w);
        assert_eq!(w.metric("grasp_sync_maintainers_refused_total{reason=\"announcement\"}"), 4);
        let (last, owner) = (Author::new(500), Author::new(501));
        let at = w.clock.wall();
        w.publish("hub", &owner.announcement_on("beta", &owner.clone_url("beta"), &LISTED, &[&last.hex], at));
        w.publish("hub", &last.acceptance("beta", &[&owner], at));
        quiet(w);
        assert_eq!(w.metric("grasp_sync_maintainers_refused_total{reason=\"identifier\"}"), 1);
        assert!(takes(w, &helpers[0].state("beta", OLD)) && takes(w, &owner.state("beta", OLD)));
        assert!(!takes(w, &last.state("beta", OLD)), "all places are taken");
    });
}
