//! What a relay's door says over HTTP before there is a link: nothing is at this path, or come back later.

use crate::clock::{DAY, HOUR, MINUTE, Micros, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, assert_at, quiet, settle, village};
use crate::world::World;
use grasp_sync::contract::RetryAfter;
use grasp_sync::time::{Duration, UnixTime};

/// A hub, on which repos are announced that list the relay `far`, found at `path` alone, by each of `forms`. An issue
/// that only `far` has.
fn elsewhere(w: &mut World, path: &'static str, forms: &[&str]) -> EventRef {
    let owner = Author::new(1);
    w.add_relay("hub", RelayConfig::strfry());
    w.bootstrap("hub");
    w.add_relay_at("far", path, RelayConfig::strfry());
    for (n, form) in forms.iter().enumerate() {
        w.hold("hub", &owner.announcement(&format!("repo-{n}"), &[form], OLD + n as u64));
    }
    let issue = owner.issue(&owner.repo("repo-0"), OLD + 60, "far away");
    w.hold("far", &issue);
    issue
}

#[test]
fn a_path_is_dialled_as_it_is_written() {
    scenario("a_path_is_dialled_as_it_is_written", |w| {
        // It answers 404 to `/relay`.
        let issue = elsewhere(w, "/relay/", &["wss://far.example/relay/"]);
        settle(w);
        assert!(w.has(&issue));
        assert_eq!((w.relay("far").paths_dialled.clone(), w.links_to("far")), (vec!["/relay/".to_owned()], 1));
    });
}

#[test]
fn a_relay_written_both_ways_is_one_relay() {
    scenario("a_relay_written_both_ways_is_one_relay", |w| {
        let issue = elsewhere(w, "/relay/", &["wss://far.example/relay/", "wss://far.example/relay"]);
        // Any path will do, so that a second dial would be seen.
        w.relay("far").path = None;
        settle(w);
        w.run_for(HOUR);
        assert!(w.has(&issue));
        assert_eq!((w.relay("far").dials.len(), w.links_to("far")), (1, 1));
    });
}

#[test]
fn a_relay_that_is_not_found_is_tried_at_the_other_form_of_its_path() {
    for (path, form) in [("/relay/", "wss://far.example/relay"), ("/relay", "wss://far.example/relay/")] {
        scenario("a_relay_that_is_not_found_is_tried_at_the_other_form_of_its_path", |w| {
            let issue = elsewhere(w, path, &[form]);
            w.relay("far").config.flavour.info = Some("{}");
            w.start();
            w.run_until("the issue", MINUTE, |w| w.has(&issue));
            quiet(w);
            let written = form.trim_start_matches("wss://far.example");
            assert_eq!(w.relay("far").paths_dialled, [written, path]);
            // What it is was asked where it was not, then where it is.
            assert_eq!(w.relay("far").inquiries, 2);
            // The form that answered is kept.
            w.run_for(2 * MINUTE);
            w.drop_links("far");
            w.run_for(MINUTE);
            assert_eq!(w.relay("far").paths_dialled[2..], [path]);
            // What is complete with it is remembered by its normal form, whatever it was dialled by.
            let sent = w.relay("far").events_sent();
            w.kill();
            w.run_for(MINUTE);
            settle(w);
            assert_eq!(w.relay("far").paths_dialled[3..], [written, path]);
            assert_eq!(w.relay("far").events_sent(), sent, "nothing is asked for again");
        });
    }
}

#[test]
fn a_relay_that_is_found_at_neither_form_is_down() {
    scenario("a_relay_that_is_found_at_neither_form_is_down", |w| {
        let issue = elsewhere(w, "/moved", &["wss://far.example/moved/"]);
        w.relay("far").path = Some("/nowhere");
        w.start();
        w.run_for(HOUR);
        let dialled = w.relay("far").paths_dialled.clone();
        assert!((18..=22).contains(&dialled.len()), "{} dials in an hour", dialled.len());
        assert!(dialled.chunks(2).all(|pair| pair == ["/moved/", "/moved"]), "{dialled:?}");
        w.relay("far").path = None;
        w.run_until("the issue", HOUR + MINUTE, |w| w.has(&issue));
    });
}

/// When a relay was dialled since `from`.
fn dials_since(w: &mut World, relay: &str, from: Micros) -> Vec<Micros> {
    w.relay(relay).dials.iter().filter(|at| **at >= from).map(|at| at - from).collect()
}

#[test]
fn a_busy_relay_is_not_dialled_before_it_says() {
    scenario("a_busy_relay_is_not_dialled_before_it_says", |w| {
        let v = village(w, 60);
        settle(w);
        w.run_for(2 * MINUTE);
        // It stands well, so it would be dialled at once, and then after 5 s.
        w.relay("far").busy = Some(RetryAfter::Wait(Duration::from_secs(600)));
        let from = w.clock.now();
        w.drop_links("far");
        w.run_for(15 * MINUTE);
        let dials = dials_since(w, "far", from);
        assert_eq!(dials.len(), 2, "{dials:?}");
        assert_at(dials[1], 600 * SECOND, SECOND, "the dial");
        w.relay("far").busy = None;
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "x");
        w.publish("far", &issue);
        w.run_until("the issue", 6 * MINUTE, |w| w.has(&issue));
    });
}

#[test]
fn a_busy_relay_may_say_when_by_the_clock_and_is_believed_for_an_hour() {
    scenario("a_busy_relay_may_say_when_by_the_clock_and_is_believed_for_an_hour", |w| {
        village(w, 60);
        let at = |w: &World, secs: u64| Some(RetryAfter::At(UnixTime::from_secs(w.clock.wall() + secs)));
        w.relay("far").busy = at(w, 1_800);
        w.start();
        // Asked what it is, it says so; it is not dialled as well.
        w.run_for(20 * MINUTE);
        assert_eq!((w.relay("far").dials.len(), w.relay("far").paths_dialled.len()), (1, 0));
        w.relay("far").busy = at(w, 10 * DAY / SECOND);
        w.run_until("it is asked again", 11 * MINUTE, |w| w.relay("far").dials.len() == 2);
        let from = w.clock.now();
        w.run_for(SECOND);
        w.relay("far").busy = at(w, 0);
        w.run_for(HOUR + MINUTE);
        // A time that is over is no wait: the backoff goes on.
        let dials = dials_since(w, "far", from + 1);
        assert_at(dials[0], HOUR, SECOND, "the hour");
        assert_at(dials[1] - dials[0], 20 * SECOND, SECOND, "the backoff");
    });
}
