//! A disk without room (spec section 16, "Writing"): nothing more is stored, what is stored is served, nothing acknowledged
//! is lost, and with room again everything is found.

use crate::clock::{HOUR, MINUTE, SECOND};
use crate::disk::{DiskFaults, Lost};
use crate::events::{Author, EventRef};
use crate::scenario;
use crate::setup::{OLD, Village, quiet, settle, village};
use crate::world::World;
use serde_json::json;

/// From now on the disk has so many bytes more.
fn leave_room(w: &mut World, bytes: u64) {
    let room = w.disk_used() + bytes;
    w.disk_faults(DiskFaults { room: Some(room), ..DiskFaults::default() });
}

fn storage(w: &World) -> (String, String) {
    let status = w.status();
    let word = |name: &str| status["storage"][name].as_str().unwrap_or_default().to_owned();
    (word("state"), word("why"))
}

/// What a client is told of an event that it publishes.
fn publishes(w: &mut World, client: usize, event: &EventRef) -> (bool, String) {
    w.client_publishes(client, event);
    w.run_until("an answer", 5 * SECOND, |w| w.client(client).ok(event).is_some());
    let (accepted, why) = w.client(client).ok(event).expect("it was there a moment ago");
    (accepted, why.to_owned())
}

/// What is stored is served, and more cannot be published.
fn serves_and_stores_nothing(w: &mut World, v: &Village, subscription: &str) {
    let client = w.connect_client();
    w.client_sends(client, &crate::client::req(subscription, &json!({"kinds": [30617]})));
    w.run_until("an answer", 5 * SECOND, |w| w.client(client).eose(subscription));
    assert_eq!(w.client(client).ids(subscription), std::slice::from_ref(&v.announcement.id));
    let issue = v.owner.issue(&v.repo, w.clock.wall(), subscription);
    let (accepted, why) = publishes(w, client, &issue);
    assert!(!accepted && why.starts_with("error: "), "{why}");
    assert!(publishes(w, client, &v.announcement).0, "it is stored already");
}

#[test]
fn a_disk_that_is_full_stops_nothing_but_storing() {
    scenario("a_disk_that_is_full_stops_nothing_but_storing", |w| {
        w.settings.limits.disk_free_bytes_min = 0;
        let v = village(w, 60);
        let issues = v.issues(300, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        w.run_until("the first event", MINUTE, |w| w.has(&v.announcement));
        leave_room(w, 64 << 10);
        w.run_until("no room", 5 * MINUTE, |w| storage(w).0 == "short");
        assert!(w.metric("grasp_sync_storage_short{reason=\"write\"}") == 1 || storage(w).1.contains("room"));
        assert!(w.metric("grasp_sync_commits_without_room_total") > 0);
        assert!(w.missing(&issues) > 0);
        for n in 0..5 {
            w.run_for(MINUTE);
            serves_and_stores_nothing(w, &v, &n.to_string());
        }
        assert_eq!(w.metric("ngit_sync_relays_connected_total"), 0);
        assert!(w.is_running() && w.endings.is_empty());
        w.disk_faults(DiskFaults::default());
        w.run_until("room", 11 * MINUTE, |w| storage(w).0 == "enough");
        quiet(w);
        assert_eq!(w.missing(&issues), 0);
        let client = w.connect_client();
        let last = v.owner.issue(&v.repo, w.clock.wall(), "at last");
        assert!(publishes(w, client, &last).0);
    });
}

#[test]
fn below_the_floor_relays_are_left_alone_and_what_came_meanwhile_is_found() {
    scenario("below_the_floor_relays_are_left_alone_and_what_came_meanwhile_is_found", |w| {
        let v = village(w, 60);
        w.hold_all("far", &v.issues(20, OLD + 60));
        settle(w);
        leave_room(w, 200 << 20);
        let issue = |w: &World, n: u64| v.owner.issue(&v.repo, w.clock.wall(), &format!("meanwhile {n}"));
        let last = issue(w, 0);
        w.publish("hub", &last);
        w.run_until("what is stored last", MINUTE, |w| w.has(&last));
        w.run_until("no room", MINUTE, |w| storage(w).0 == "short");
        assert!(storage(w).1.contains("disk_free_mib_min"), "{:?}", storage(w));
        let mut meanwhile = Vec::new();
        // Longer than the overlap, and with a restart.
        for n in 1..60 {
            w.run_for(MINUTE);
            let issue = issue(w, n);
            w.publish(["hub", "far"][n as usize % 2], &issue);
            meanwhile.push(issue);
            if n == 30 {
                w.stop();
                w.start();
            }
        }
        serves_and_stores_nothing(w, &v, "x");
        assert_eq!(w.missing(&meanwhile), meanwhile.len());
        assert_eq!(w.metric("grasp_sync_storage_short{reason=\"disk_free\"}"), 1);
        // A little more is not enough.
        leave_room(w, 300 << 20);
        w.run_for(MINUTE);
        assert_eq!((storage(w).0, w.missing(&meanwhile)), ("short".to_owned(), meanwhile.len()));
        leave_room(w, 400 << 20);
        w.run_until("everything", 5 * MINUTE, |w| w.missing(&meanwhile) == 0);
        assert_eq!(storage(w).0, "enough");
    });
}

#[test]
fn a_long_shortage_is_not_charged_to_the_relays() {
    scenario("a_long_shortage_is_not_charged_to_the_relays", |w| {
        let v = village(w, 60);
        settle(w);
        leave_room(w, 200 << 20);
        w.publish("hub", &v.owner.issue(&v.repo, w.clock.wall(), "the last"));
        w.run_for(50 * HOUR);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "after two days");
        w.publish("far", &issue);
        assert_eq!(storage(w).0, "short");
        w.disk_faults(DiskFaults::default());
        w.run_until("it is found", MINUTE, |w| w.has(&issue));
        for relay in ["hub", "far"] {
            assert_eq!(w.relay_status(relay)["health"], "healthy", "{relay}");
        }
    });
}

#[test]
fn a_store_at_its_bound_takes_no_more() {
    scenario("a_store_at_its_bound_takes_no_more", |w| {
        w.settings.limits.store_bytes_max = 600 << 10;
        let v = village(w, 60);
        let issues = v.issues(1_000, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        w.run_until("no room", 10 * MINUTE, |w| storage(w).0 == "short");
        assert!(storage(w).1.contains("store_mib_max"), "{:?}", storage(w));
        w.run_for(10 * MINUTE);
        serves_and_stores_nothing(w, &v, "x");
        assert!(w.missing(&issues) > 0 && w.disk_used() < 2 << 20, "{}", w.disk_used());
        w.stop();
        w.settings.limits.store_bytes_max = 0;
        w.start();
        quiet(w);
        assert_eq!(w.missing(&issues), 0);
    });
}

#[test]
fn a_full_disk_and_crashes_lose_nothing() {
    scenario("a_full_disk_and_crashes_lose_nothing", |w| {
        w.settings.limits.disk_free_bytes_min = 0;
        let v = village(w, 60);
        let issues = v.issues(400, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        w.run_until("the first event", MINUTE, |w| w.has(&v.announcement));
        for life in 0..12 {
            let bytes = w.rng.below(96) << 10;
            leave_room(w, bytes);
            w.run_for(2 * MINUTE);
            let seed = w.rng.next_u64();
            w.kill_with([Lost::Nothing, Lost::All, Lost::Some(seed), Lost::Torn(seed)][life % 4]);
            w.start();
            w.run_for(30 * SECOND);
            assert!(w.is_running(), "{:?}", w.endings);
            assert!(w.has(&v.announcement));
        }
        w.disk_faults(DiskFaults::default());
        w.run_until("room", 11 * MINUTE, |w| storage(w).0 == "enough");
        quiet(w);
        assert_eq!(w.missing(&issues), 0);
    });
}

#[test]
fn quotas_are_for_clients_and_what_a_relay_has_is_taken() {
    scenario("quotas_are_for_clients_and_what_a_relay_has_is_taken", |w| {
        (w.settings.limits.author_events_max, w.settings.limits.repo_events_max) = (3, 5);
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        let stranger = |n: u64| Author::new(20 + n);
        let issue = |w: &World, of: u64, n: u64| stranger(of).issue(&v.repo, w.clock.wall(), &format!("{of} {n}"));
        let tries = [(0, 0, ""), (0, 1, ""), (0, 2, ""), (0, 3, "author"), (1, 0, ""), (1, 1, ""), (2, 0, "repo")];
        for (of, n, refused) in tries {
            let issue = issue(w, of, n);
            let (accepted, why) = publishes(w, client, &issue);
            assert_eq!(accepted, refused.is_empty(), "{of} {n}: {why}");
            assert!(accepted || (why.starts_with("blocked: quota ") && why.contains(refused)), "{why}");
        }
        // What was refused of a client, and more of it, is had from a relay, live and in the catch-up after a restart.
        let live: Vec<EventRef> = (3..10).map(|n| issue(w, 0, n)).chain((0..5).map(|n| issue(w, 2, n))).collect();
        live.iter().for_each(|event| w.publish("hub", event));
        w.run_until("live", MINUTE, |w| w.missing(&live) == 0);
        w.kill();
        let later: Vec<EventRef> = (10..40).map(|n| issue(w, 0, n)).collect();
        w.hold_all("far", &later);
        w.start();
        quiet(w);
        assert_eq!(w.missing(&later), 0);
        // None of it is charged to them, and the maintainer pays for nothing.
        let client = w.connect_client();
        let last = issue(w, 0, 99);
        let (accepted, why) = publishes(w, client, &last);
        assert!(!accepted && why.contains("quota of 3 events"), "{why}");
        for n in 0..10 {
            let own = v.owner.issue(&v.repo, w.clock.wall(), &format!("own {n}"));
            assert!(publishes(w, client, &own).0);
        }
    });
}
