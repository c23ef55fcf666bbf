//! A bug of ours: the machine of one relay or of one client panics. Its link ends, everybody else goes on, and it comes
//! back complete.

use crate::client::req;
use crate::clock::{MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use serde_json::json;

const OF_RELAYS: &str = "grasp_sync_faults_total{side=\"relay\"}";
const OF_CLIENTS: &str = "grasp_sync_faults_total{side=\"client\"}";

#[test]
fn a_fault_of_one_relay_ends_its_link_alone() {
    scenario("a_fault_of_one_relay_ends_its_link_alone", |w| {
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        w.client_sends(client, &req("all", &json!({"kinds": [1621]})));
        w.run_until("EOSE", SECOND, |w| w.client(client).eose("all"));
        // An event is read, judged and told to the machine: each may fail.
        for times in 1..=3 {
            w.fail_relay("far", times);
            let last = v.owner.issue(&v.repo, w.clock.wall(), &format!("the last before fault {times}"));
            w.publish("far", &last);
            w.run_until("the fault", SECOND, |w| w.faults_to_come == 0);
            assert_eq!((w.links_to("far"), w.links_to("hub")), (0, 1));
            assert_eq!(w.relay_status("far")["state"], "Backoff");
            let missed = v.owner.issue(&v.repo, w.clock.wall(), &format!("missed {times}"));
            w.publish("far", &missed);
            let other = v.owner.issue(&v.repo, w.clock.wall(), &format!("of another relay {times}"));
            w.publish("hub", &other);
            w.run_until("others go on", SECOND, |w| w.client(client).got(&other).is_some());
            quiet(w);
            assert_eq!(w.relay_status("far")["state"], "Live");
            assert!(w.has_all([&last, &missed]));
            assert_eq!((w.metric(OF_RELAYS), w.metric(OF_CLIENTS)), (u64::from(times), 0));
        }
        assert!(w.client(client).closed.is_none() && w.endings.is_empty());
    });
}

#[test]
fn a_relay_that_fails_again_and_again_in_its_catch_up_comes_complete() {
    scenario("a_relay_that_fails_again_and_again_in_its_catch_up_comes_complete", |w| {
        let v = village(w, 20);
        let issues = v.issues(200, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        for times in [1, 2, 30, 5, 80, 200, 13] {
            w.run_until("far is open", 10 * MINUTE, |w| w.relay_status("far")["state"] == "Catchup");
            w.fail_relay("far", times);
            w.run_until("the fault", MINUTE, |w| w.faults_to_come == 0);
            assert_eq!((w.links_to("far"), w.links_to("hub")), (0, 1));
        }
        w.run_until("everything", 20 * MINUTE, |w| w.has_all(&issues));
        quiet(w);
        assert_eq!(w.relay_status("far")["state"], "Live");
        assert!(w.is_confirmed("far", &v.repo));
        assert_eq!(w.metric(OF_RELAYS), 7);
    });
}

#[test]
fn what_a_window_is_to_ask_for_is_asked_for_after_a_fault() {
    scenario("what_a_window_is_to_ask_for_is_asked_for_after_a_fault", |w| {
        let v = village(w, 60);
        let helper = Author::new(2);
        let listed = ["relays", "wss://grasp.example", "wss://hub.example", "wss://far.example"];
        let invites: [&[&str]; 1] = [&["m", &helper.hex]];
        w.hold("hub", &v.owner.announcement_with("alpha", &v.owner.clone_url("alpha"), &listed, &invites, OLD + 1));
        let state = helper.state("alpha", OLD + 60);
        w.hold("far", &state);
        settle(w);
        assert!(!w.has(&state) && w.is_confirmed("far", &v.repo), "he has not accepted");
        // Before the window closes, and while it does.
        let acceptance = helper.acceptance("alpha", &[&v.owner], w.clock.wall());
        w.publish("hub", &acceptance);
        w.run_until("he accepts", SECOND, |w| w.has(&acceptance));
        assert!(!w.is_confirmed("far", &v.repo));
        w.fail_relay("far", 1);
        w.publish("far", &v.owner.issue(&v.repo, w.clock.wall(), "the last"));
        w.run_until("the fault", SECOND, |w| w.faults_to_come == 0);
        w.run_until("what was refused before", MINUTE, |w| w.has(&state));
        quiet(w);
        assert!(w.is_confirmed("far", &v.repo));
    });
}

#[test]
fn a_fault_while_a_window_closes_loses_nothing_of_it() {
    scenario("a_fault_while_a_window_closes_loses_nothing_of_it", |w| {
        let v = village(w, 60);
        let issues: Vec<EventRef> =
            (0..5).map(|n| v.owner.issue(&v.owner.repo("beta"), OLD + n, &format!("of beta {n}"))).collect();
        w.hold_all("far", &issues);
        settle(w);
        let beta = v.owner.announcement("beta", &["wss://far.example"], w.clock.wall());
        w.publish("hub", &beta);
        w.run_until("it is here", SECOND, |w| w.has(&beta));
        w.fail_relay("far", 1);
        w.run_until("the fault", 10 * SECOND, |w| w.faults_to_come == 0);
        assert_eq!((w.links_to("far"), w.links_to("hub")), (0, 1));
        w.run_until("everything", MINUTE, |w| w.has_all(&issues));
        quiet(w);
    });
}

#[test]
fn a_fault_while_a_relay_is_dialled_is_a_failure() {
    scenario("a_fault_while_a_relay_is_dialled_is_a_failure", |w| {
        let v = village(w, 60);
        w.add_relay("slow", RelayConfig::strfry());
        w.hold("hub", &v.owner.announcement("beta", &["wss://slow.example"], OLD));
        settle(w);
        w.cut_links("slow");
        w.run_until("it is dialled", MINUTE, |w| w.relay_status("slow")["state"] == "Connecting");
        w.fail_relay("slow", 1);
        w.run_until("the fault", MINUTE, |w| w.faults_to_come == 0);
        assert_eq!(w.links_to("slow"), 0, "what was about to open is closed");
        quiet(w);
        assert_eq!(w.relay_status("slow")["state"], "Live");
    });
}

#[test]
fn what_was_about_to_be_dialled_at_a_fault_is_not() {
    scenario("what_was_about_to_be_dialled_at_a_fault_is_not", |w| {
        village(w, 60);
        w.start();
        w.run_until("it is asked what it is", SECOND, |w| w.relay_status("hub")["state"] == "Connecting");
        assert_eq!(w.relay("hub").paths_dialled.len(), 0, "and not dialled yet");
        w.fail_relay("hub", 1);
        w.run_until("the fault", SECOND, |w| w.faults_to_come == 0);
        assert_eq!(w.relay("hub").paths_dialled.len(), 0);
        quiet(w);
        assert_eq!(w.relay_status("hub")["state"], "Live");
    });
}

#[test]
fn a_fault_of_one_client_ends_its_link_alone() {
    scenario("a_fault_of_one_client_ends_its_link_alone", |w| {
        let v = village(w, 60);
        w.hold_all("far", &v.issues(5, OLD + 60));
        settle(w);
        let all = req("all", &json!({"kinds": [1621]}));
        let other = w.connect_client();
        w.client_sends(other, &all);
        w.run_until("EOSE", SECOND, |w| w.client(other).eose("all"));
        // Its coming, its REQ and each of the steps that answer it may fail.
        for times in 1..=4 {
            let client = w.connect_client();
            w.fail_client(client, times);
            w.client_sends(client, &all);
            w.run_until("the fault", SECOND, |w| w.faults_to_come == 0 && w.client(client).closed == Some(1011));
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("after fault {times}"));
            w.publish("far", &issue);
            w.run_until("the other client goes on", SECOND, |w| w.client(other).got(&issue).is_some());
            assert_eq!((w.metric(OF_RELAYS), w.metric(OF_CLIENTS)), (0, u64::from(times)));
        }
        assert_eq!((w.metric("grasp_sync_clients"), w.metric("grasp_sync_client_subscriptions")), (1, 1));
        assert_eq!((w.links_to("far"), w.links_to("hub"), w.client(other).closed), (1, 1, None));
    });
}

#[test]
fn what_a_client_has_published_is_kept_though_its_link_fails() {
    scenario("what_a_client_has_published_is_kept_though_its_link_fails", |w| {
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        w.run_for(SECOND);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "published");
        // The event is read, judged, and then acknowledged.
        w.fail_client(client, 3);
        w.client_publishes(client, &issue);
        w.run_until("the fault", SECOND, |w| w.faults_to_come == 0);
        assert!(w.client(client).ok(&issue).is_none());
        assert!(w.has(&issue));
    });
}

#[test]
fn a_fault_in_judging_what_a_client_publishes_ends_its_link_alone() {
    scenario("a_fault_in_judging_what_a_client_publishes_ends_its_link_alone", |w| {
        let v = village(w, 60);
        settle(w);
        let (client, other) = (w.connect_client(), w.connect_client());
        w.run_for(SECOND);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "published");
        w.fail_client(client, 2);
        w.client_publishes(client, &issue);
        w.run_until("the fault", SECOND, |w| w.faults_to_come == 0);
        w.run_until("the end of the link", SECOND, |w| w.client(client).closed.is_some());
        assert!(!w.has(&issue));
        // Nothing of it is left: whoever sends it again is answered as if it had never come.
        w.client_publishes(other, &issue);
        w.run_until("the answer", SECOND, |w| w.client(other).ok(&issue).is_some_and(|(accepted, _)| accepted));
        assert_eq!((w.metric(OF_RELAYS), w.metric(OF_CLIENTS)), (0, 1));
    });
}
