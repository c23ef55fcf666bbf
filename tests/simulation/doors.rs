//! What a relay's door says over HTTP before there is a link: that nothing is at this path.

use crate::clock::{HOUR, MINUTE};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, quiet, settle};
use crate::world::World;

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
