//! Relays with which the program cannot be complete before it learns from them (issue 4), and those that waste its time:
//! what holds until then. Nothing false is claimed where the relay says a word, and nothing is asked for ever faster.

use super::flavours::Hamlet;
use crate::clock::{HOUR, MINUTE, Micros};
use crate::events::{Author, EventRef};
use crate::model_relay::{Flavour, Liar, RelayConfig};
use crate::world::World;
use std::collections::BTreeMap;

/// A hamlet two hours later, and how many events of each kind are missing.
struct Later {
    w: World,
    hamlet: Hamlet,
    missing: BTreeMap<u16, usize>,
    reqs_last_hour: usize,
}

fn two_hours_with(name: &'static str, config: RelayConfig) -> Later {
    let mut w = World::new(name, crate::seed());
    eprintln!("{name}: SIM_SEED={}", w.seed);
    let hamlet = Hamlet::build(&mut w, config);
    w.start();
    w.run_for(HOUR);
    let from = w.clock.now();
    w.run_for(HOUR);
    let reqs_last_hour = w.relay("far").reqs_since(from).count();
    let mut missing = BTreeMap::new();
    for event in &hamlet.all {
        if !w.has(event) {
            *missing.entry(event.kind).or_default() += 1;
        }
    }
    assert!(w.relay("far").known_breaches().is_empty());
    Later { w, hamlet, missing, reqs_last_hour }
}

impl Later {
    /// Kinds of which so many are missing, whether the status says that something is, and at most so many REQs an hour.
    #[track_caller]
    fn is(&mut self, missing: &[(u16, usize)], admitted: bool, reqs_max: usize) {
        assert_eq!(self.missing, missing.iter().copied().collect());
        assert_eq!(self.w.relay_status("far")["sweeps_failed"], admitted);
        assert!(self.reqs_last_hour <= reqs_max, "{} REQs in an hour", self.reqs_last_hour);
        assert_eq!(self.w.relay("far").dials.len(), 1);
    }

    /// An issue is published on the relay and is here within so long.
    #[track_caller]
    fn hears_within(&mut self, max: Micros) {
        let now = self.w.clock.wall();
        let issue: EventRef = self.hamlet.owners[1].issue(&self.hamlet.owners[1].repo("alpha"), now, "live");
        self.w.publish("far", &issue);
        self.w.run_until("the live issue", max, |w| w.has(&issue));
    }
}

/// What a relay does not take in the usual form is asked in another, which its status admits.
fn is_reduced(name: &'static str, flavour: &str, reqs_max: usize) -> Later {
    let mut later = two_hours_with(name, Flavour::named(flavour).config());
    later.is(&[], false, reqs_max);
    assert_eq!(later.w.relay_status("far")["coverage"], "reduced");
    later.hears_within(MINUTE / 20);
    later
}

/// `far` answers filters of kinds alone, and those without kinds, with EOSE and nothing else, and is not live for them.
#[test]
fn limit_scrapers_is_found_out_by_what_identifiers_bring() {
    is_reduced("limit_scrapers_is_found_out_by_what_identifiers_bring", "nostr-rs-relay-limit-scrapers", 60);
}

#[test]
fn one_pattern_of_all_values_finds_lone_values_only_until_chunks_shrink() {
    let name = "one_pattern_of_all_values_finds_lone_values_only_until_chunks_shrink";
    let mut later = two_hours_with(name, Flavour::named("khatru-mysql").config());
    // The first repo was asked for alone, in a window of its own.
    later.is(&[(1111, 120), (1621, 80)], false, 60);
    later.hears_within(MINUTE);
}

/// Without a key to authenticate with there is nothing to be had: it is asked once a day.
#[test]
fn a_relay_that_wants_auth_is_left_alone_for_a_day() {
    let mut w = World::new("a_relay_that_wants_auth_is_left_alone_for_a_day", crate::seed());
    Hamlet::build(&mut w, Flavour::named("khatru-auth").config());
    w.start();
    w.run_for(3 * HOUR);
    let status = w.relay_status("far");
    assert_eq!((&status["state"], &status["why"]), (&"Backoff".into(), &"it wants us to authenticate".into()));
    w.run_for(3 * crate::clock::DAY);
    let far = w.relay("far");
    assert!((3..=5).contains(&far.dials.len()), "{} dials", far.dials.len());
    assert!(far.reqs.len() <= 6 * far.dials.len(), "{} REQs", far.reqs.len());
}

/// One refused filter closes the REQ that layer 1 is in too, until every filter names kinds.
#[test]
fn a_relay_against_sync_bots_is_asked_by_kinds() {
    let mut later = is_reduced("a_relay_against_sync_bots_is_asked_by_kinds", "khatru-anti-sync-bots", 60);
    let now = later.w.clock.wall();
    let announcement = Author::new(9).announcement("new", &["wss://far.example"], now);
    later.w.publish("far", &announcement);
    later.w.run_until("layer 1, live", MINUTE / 20, |w| w.has(&announcement));
}

/// The upper-case lists `#A` and `#E` are refused by a NOTICE, with every REQ that they are in.
#[test]
fn a_relay_without_upper_case_tags_is_asked_for_the_others() {
    is_reduced("a_relay_without_upper_case_tags_is_asked_for_the_others", "nostream", 60);
}

#[test]
fn a_page_of_ten_thousand_events_fails_and_everything_else_goes_on() {
    let name = "a_page_of_ten_thousand_events_fails_and_everything_else_goes_on";
    let mut later = two_hours_with(name, RelayConfig::strfry().lying(Liar::Flooder));
    later.is(&[], true, 60);
    later.hears_within(MINUTE / 20);
}

#[test]
fn a_relay_that_closes_every_subscription_is_polled() {
    let name = "a_relay_that_closes_every_subscription_is_polled";
    let mut later = two_hours_with(name, RelayConfig::strfry().lying(Liar::Closer));
    later.is(&[], false, 800);
    later.hears_within(3 * MINUTE);
}

#[test]
fn what_is_no_message_and_what_comes_from_tomorrow_changes_nothing() {
    for liar in [Liar::Babbler, Liar::Prophet] {
        let name = "what_is_no_message_and_what_comes_from_tomorrow_changes_nothing";
        let mut later = two_hours_with(name, RelayConfig::strfry().lying(liar));
        later.is(&[], false, 60);
        later.hears_within(MINUTE / 20);
    }
}

#[test]
fn a_relay_whose_clock_is_slow_gives_what_it_took() {
    let name = "a_relay_whose_clock_is_slow_gives_what_it_took";
    let mut later = two_hours_with(name, RelayConfig::strfry().lying(Liar::SlowClock));
    later.is(&[], false, 60);
    let now = later.w.clock.wall();
    let issue = later.hamlet.owners[1].issue(&later.hamlet.owners[1].repo("alpha"), now, "refused there");
    let earlier = later.hamlet.owners[1].issue(&later.hamlet.owners[1].repo("alpha"), now - 10_800, "taken there");
    later.w.publish("far", &issue);
    later.w.publish("far", &earlier);
    later.w.publish("hub", &issue);
    later.w.run_until("each from the relay that has it", 25 * HOUR, |w| w.has(&issue) && w.has(&earlier));
}

/// What is asked live reaches back a day then, which with kinds alone the relay takes for a scraper's question.
#[test]
fn a_first_contact_with_a_clock_that_is_behind_does_not_cost_the_notes() {
    for flavour in ["chorus", "nostr-rs-relay"] {
        let mut w = World::new("a_first_contact_with_a_clock_that_is_behind", crate::seed());
        let hamlet = Hamlet::build(&mut w, Flavour::named(flavour).config());
        w.clock.jump_wall(-86_400);
        w.start();
        w.run_for(10 * MINUTE);
        assert_eq!(w.relay_status("far")["coverage"], "full", "{flavour}");
        w.clock.jump_wall(86_400);
        w.run_for(HOUR);
        let owner = &hamlet.owners[1];
        let issue = owner.issue(&owner.repo("alpha"), w.clock.wall(), "live");
        let note = owner.sign(1, w.clock.wall(), &[&["e", &issue.id]], "a note about it");
        w.publish("far", &issue);
        w.run_for(MINUTE);
        w.publish("far", &note);
        w.run_until("the note", MINUTE, |w| w.has(&note));
    }
}

/// Half of what it sends comes after the minute in which a sweep wants to hear something.
#[test]
fn a_trickle_is_neither_waited_for_nor_asked_for_faster() {
    let name = "a_trickle_is_neither_waited_for_nor_asked_for_faster";
    let mut later = two_hours_with(name, RelayConfig::strfry().lying(Liar::Trickler));
    assert!(later.reqs_last_hour <= 400, "{} REQs in an hour", later.reqs_last_hour);
    assert_eq!(later.w.relay("far").dials.len(), 1);
    assert_eq!(later.w.relay_status("hub")["state"], "Live");
}

/// The link is lost after layer 1 was answered, so it counts as a success each time; but no success lasts.
#[test]
fn a_relay_that_answers_and_then_breaks_the_link_is_given_less_and_less() {
    let mut w = World::new("a_relay_that_answers_and_then_breaks_the_link", crate::seed());
    Hamlet::build(&mut w, RelayConfig::strfry().lying(Liar::Giant));
    w.start();
    w.run_for(10 * MINUTE);
    let dials = w.relay("far").dials.len();
    assert!((6..=8).contains(&dials), "{dials} dials in ten minutes");
    let status = w.relay_status("far");
    assert_eq!(status["health"], "backoff");
    assert_eq!(status["last_lost"]["why"], "message too large");
    w.relay("far").config.liar = None;
    w.run_until("it is given another chance", HOUR, |w| w.relay_status("far")["state"] == "Live");
    w.run_for(2 * MINUTE);
    let before = w.relay("far").dials.len();
    w.drop_links("far");
    w.run_for(MINUTE / 60);
    assert_eq!(w.relay("far").dials.len(), before + 1, "a link that has lived makes up for all");
    assert_eq!(w.relay_status("hub")["state"], "Live");
}
