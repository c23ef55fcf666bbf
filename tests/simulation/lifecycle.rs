//! Repos that come, change and go, and the relays that come and go with them.

use crate::clock::{MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};

#[test]
fn unlisting_the_last_repo_closes_a_relay_but_never_the_bootstrap() {
    scenario("unlisting_the_last_repo_closes_a_relay_but_never_the_bootstrap", |w| {
        let v = village(w, 60);
        settle(w);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 1));
        let moved = v.owner.announcement("alpha", &["wss://hub.example"], w.clock.wall());
        w.publish("hub", &moved);
        w.run_until("far is closed", 10 * SECOND, |w| w.links_to("far") == 0);
        let gone = v.owner.foreign_announcement("alpha", w.clock.wall() + 1);
        w.publish("hub", &gone);
        w.run_until("the last word", 2 * SECOND, |w| w.has(&gone));
        w.run_for(MINUTE);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 0));
        let client = w.connect_client();
        let late = v.owner.issue(&v.repo, w.clock.wall(), "too late");
        w.forbid(&late, "its repo is no longer followed");
        w.client_publishes(client, &late);
        w.run_until("the answer", SECOND, |w| w.client(client).ok(&late).is_some());
        // And back again, from the bootstrap relay that was never left.
        let back = v.owner.announcement("alpha", &["wss://far.example"], w.clock.wall());
        w.publish("hub", &back);
        w.run_until("far is dialled again", 10 * SECOND, |w| w.links_to("far") == 1);
        w.kill();
        settle(w);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 1));
    });
}

#[test]
fn a_relay_two_repos_share_stays_until_both_have_left() {
    scenario("a_relay_two_repos_share_stays_until_both_have_left", |w| {
        let v = village(w, 60);
        w.hold("hub", &v.owner.announcement("beta", &["wss://far.example"], OLD));
        settle(w);
        w.publish("hub", &v.owner.announcement("alpha", &[], w.clock.wall()));
        w.run_for(20 * SECOND);
        assert_eq!(w.links_to("far"), 1);
        w.publish("hub", &v.owner.announcement("beta", &[], w.clock.wall()));
        w.run_until("far is closed", 10 * SECOND, |w| w.links_to("far") == 0);
    });
}

#[test]
fn deleting_an_announcement_unfollows_its_repo() {
    scenario("deleting_an_announcement_unfollows_its_repo", |w| {
        let v = village(w, 60);
        settle(w);
        let by_stranger = Author::new(9).deletion(&[&v.announcement], &[&v.repo], w.clock.wall());
        w.publish("hub", &by_stranger);
        w.run_for(10 * SECOND);
        assert!(w.has(&v.announcement), "only its author may delete it");
        let deletion = v.owner.deletion(&[&v.announcement], &[&v.repo], w.clock.wall());
        w.publish("hub", &deletion);
        w.run_until("the deletion", 2 * SECOND, |w| w.has(&deletion) && !w.has(&v.announcement));
        w.forbid(&v.announcement, "it was deleted");
        w.run_until("far is closed", 10 * SECOND, |w| w.links_to("far") == 0);
        assert_eq!(w.links_to("hub"), 1);
        // The relay that deleted it forgets, and a copy comes along.
        w.relay("hub").config.keeps_everything = true;
        w.publish("hub", &v.announcement);
        w.kill();
        settle(w);
        w.run_for(MINUTE);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 0));
    });
}

#[test]
fn a_deleted_root_is_removed_and_kept_out() {
    scenario("a_deleted_root_is_removed_and_kept_out", |w| {
        let v = village(w, 60);
        let issues = v.issues(3, OLD + 60);
        w.hold_all("far", &issues);
        w.hold_all("hub", &issues);
        settle(w);
        let deletion = v.owner.deletion(&[&issues[1]], &[], w.clock.wall());
        w.publish("far", &deletion);
        w.run_until("the deletion", 2 * SECOND, |w| w.has(&deletion) && !w.has(&issues[1]));
        w.forbid(&issues[1], "it was deleted");
        w.kill();
        let restarted = w.clock.now();
        settle(w);
        assert!(w.has(&issues[0]) && w.has(&issues[2]));
        let asked = |w: &mut crate::world::World, e: &EventRef| {
            w.relay("far").reqs_since(restarted).any(|r| r.asks("e", &e.id))
        };
        assert!(asked(w, &issues[0]) && !asked(w, &issues[1]));
    });
}

#[test]
fn an_announcement_that_was_replaced_while_we_were_away_is_the_one_that_counts() {
    scenario("an_announcement_that_was_replaced_while_we_were_away_is_the_one_that_counts", |w| {
        let v = village(w, 60);
        w.add_relay("third", RelayConfig::strfry());
        settle(w);
        w.kill();
        let moved = v.owner.announcement("alpha", &["wss://third.example"], w.clock.wall());
        w.publish("hub", &moved);
        w.run_for(MINUTE);
        settle(w);
        assert_eq!((w.links_to("far"), w.links_to("third")), (0, 1));
        // The old version, from a relay that never heard of the new one, changes nothing.
        let client = w.connect_client();
        w.client_publishes(client, &v.announcement);
        w.run_for(20 * SECOND);
        assert_eq!((w.links_to("far"), w.links_to("third")), (0, 1));
    });
}

#[test]
fn a_refused_event_is_accepted_once_its_repo_is_followed() {
    scenario("a_refused_event_is_accepted_once_its_repo_is_followed", |w| {
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        let issue = v.owner.issue(&v.owner.repo("later"), w.clock.wall(), "too early");
        w.client_publishes(client, &issue);
        w.run_until("refused", SECOND, |w| w.client(client).ok(&issue).is_some_and(|o| !o.0));
        let again = v.owner.issue(&v.owner.repo("later"), w.clock.wall(), "also on a relay");
        w.hold("far", &again);
        let announcement = v.owner.announcement("later", &["wss://far.example"], w.clock.wall());
        w.client_publishes(client, &announcement);
        w.run_until("followed", SECOND, |w| w.client(client).ok(&announcement).is_some_and(|o| o.0));
        let other = w.connect_client();
        w.client_publishes(other, &issue);
        w.run_until("accepted", SECOND, |w| w.client(other).ok(&issue).is_some_and(|o| o.0));
        w.run_until("and found", 30 * SECOND, |w| w.has(&again));
        quiet(w);
    });
}
