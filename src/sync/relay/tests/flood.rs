//! What brings nothing costs the link when there is much of it, and costs it more each time.

use super::*;
use crate::limits::{
    FORGED_EVENTS_MAX, UNASKED_EVENTS_MIN, UNPRODUCTIVE_BYTES_HOURLY, USELESS_FRAMES_MAX, USELESS_FRAMES_PERIOD,
    VAIN_EVENT_FRAMES,
};
use crate::sync::unproductive::Unproductive;

fn live() -> Rig {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    rig
}

#[test]
fn frames_that_bring_nothing_cost_the_link_when_they_are_many_in_a_minute() {
    let mut rig = live();
    for n in 0..USELESS_FRAMES_MAX {
        match n % 2 {
            0 => rig.relay.on_alive(&mut rig.bench.cx()),
            _ => rig.relay.on_notice("hello", &mut rig.bench.cx()),
        }
    }
    assert_eq!(rig.state(), StateName::Live);
    rig.relay.on_alive(&mut rig.bench.cx());
    assert_eq!((rig.state(), rig.relay.entered().1), (StateName::Backoff, Why::Flood));
    assert_eq!(rig.relay.last_lost(), Some((Why::Flood, rig.bench.now.wall)));
    assert_eq!(rig.bench.metrics.relay_links_closed.count("flood"), 1);
    assert!(matches!(rig.bench.out.back(), Some(Output::Close { code: 1008, .. })));
}

#[test]
fn as_many_in_a_longer_time_cost_nothing() {
    let mut rig = live();
    for _ in 0..4 {
        (0..USELESS_FRAMES_MAX / 2).for_each(|_| rig.relay.on_alive(&mut rig.bench.cx()));
        rig.bench.advance(USELESS_FRAMES_PERIOD.as_secs() / 2);
    }
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn a_relay_that_breaks_the_rules_again_and_again_waits_longer_though_it_answers() {
    let mut rig = live();
    let mut waits = Vec::new();
    for reason in [CloseReason::TooLarge, CloseReason::Protocol, CloseReason::TooLarge] {
        rig.lose_link(reason);
        assert_eq!(rig.state(), StateName::Backoff);
        waits.push(wait_and_open(&mut rig));
    }
    assert_eq!(waits, [5, 10, 20]);
    rig.bench.advance(61);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.drop_link();
    assert_eq!(rig.state(), StateName::Connecting, "a link that has lived makes up for all");
}

/// So many events come on the live subscription, of which every `nth` was not asked for.
fn after_unasked(nth: u64) -> Rig {
    let mut rig = live();
    for n in 0..2 * UNASKED_EVENTS_MIN {
        let fate = if n % nth == 0 { Fate::Unasked } else { Fate::Known };
        rig.relay.on_event("l0", &arrival(root_id(n as u32), None, fate), &mut rig.bench.cx());
    }
    rig
}

#[test]
fn a_relay_that_sends_mostly_what_was_not_asked_for_loses_its_link() {
    let rig = after_unasked(1);
    assert_eq!((rig.state(), rig.relay.entered().1), (StateName::Backoff, Why::Unasked));
    assert_eq!(rig.relay.health().failures(), 1);
    assert!(rig.bench.out.iter().any(|output| matches!(output, Output::Close { code: 1008, .. })));
}

#[test]
fn a_share_of_events_that_were_not_asked_for_costs_nothing() {
    // Some stores take a filter for less than it says.
    let rig = after_unasked(3);
    assert_eq!((rig.state(), rig.relay.health().failures()), (StateName::Live, 0));
}

/// Live events of these fates, again and again, until one costs the link: how many came, at most `max`.
fn until_lost(rig: &mut Rig, fates: &[Fate], max: u64) -> u64 {
    for n in 0..max {
        if rig.relay.session().is_none() {
            return n;
        }
        let fate = fates[n as usize % fates.len()];
        rig.relay.on_event("l0", &arrival(root_id(n as u32), None, fate), &mut rig.bench.cx());
    }
    max
}

#[test]
fn a_relay_that_forges_loses_its_link_past_a_hundred_events_and_waits_longer_each_time() {
    let mut rig = live();
    let mut waits = Vec::new();
    for _ in 0..3 {
        assert_eq!(until_lost(&mut rig, &[Fate::Forged], 10_000), FORGED_EVENTS_MAX + 1);
        assert_eq!((rig.state(), rig.relay.entered().1), (StateName::Backoff, Why::Forged));
        assert!(matches!(rig.bench.out.back(), Some(Output::Close { code: 1008, .. })));
        waits.push(wait_and_open(&mut rig));
    }
    assert_eq!(waits, [5, 10, 20]);
    assert_eq!(rig.bench.metrics.relay_links_closed.count("forged"), 3);
}

#[test]
fn some_forged_events_among_many_cost_nothing_and_more_than_half_do() {
    let mostly_good = [Fate::Forged, Fate::Known, Fate::New];
    assert_eq!(until_lost(&mut live(), &mostly_good, 3_000), 3_000);
    let mostly_forged = [Fate::Forged, Fate::Known, Fate::Forged];
    assert!(until_lost(&mut live(), &mostly_forged, 3_000) < 2 * FORGED_EVENTS_MAX);
    let mut rig = live();
    until_lost(&mut rig, &[Fate::Known], 10_000);
    rig.bench.advance(USELESS_FRAMES_PERIOD.as_secs());
    let came = until_lost(&mut rig, &[Fate::Forged], 10_000);
    assert_eq!(came, FORGED_EVENTS_MAX + 1, "what was good long ago makes up for nothing");
    let mut rig = live();
    for _ in 0..10 {
        assert_eq!(until_lost(&mut rig, &[Fate::Forged], FORGED_EVENTS_MAX), FORGED_EVENTS_MAX);
        rig.bench.advance(USELESS_FRAMES_PERIOD.as_secs());
        rig.relay.on_alive(&mut rig.bench.cx());
    }
    assert_eq!(rig.state(), StateName::Live, "few at a time cost us little");
}

#[test]
fn live_events_that_are_verified_in_vain_are_a_flood_sooner_than_frames() {
    let mut rig = live();
    let most = u64::from(USELESS_FRAMES_MAX / VAIN_EVENT_FRAMES);
    assert_eq!(until_lost(&mut rig, &[Fate::Refused], 100_000), most + 1);
    assert_eq!(rig.relay.entered().1, Why::Flood);
    assert_eq!(until_lost(&mut live(), &[Fate::New, Fate::Known], 100_000), 100_000, "what is taken in is no flood");
}

#[test]
fn a_relay_whose_pages_bring_nothing_is_asked_for_no_more_than_an_hours_worth_in_an_hour() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let mut page = page_open(&rig.bench.sent());
    let at = |n: u32| Place::At(UnixTime::from_secs(1_000_000 - u64::from(n)));
    let known = |bytes, n| Arrival { id: root_id(n), place: at(n), bytes, fate: Fate::Known };
    let mut pages = 1;
    for n in (0..).take_while(|n| u64::from(*n) * (64 << 20) < UNPRODUCTIVE_BYTES_HOURLY) {
        rig.relay.on_event(&page, &known(64 << 20, n), &mut rig.bench.cx());
        rig.relay.on_event(&page, &Arrival { bytes: 10, ..known(10, n) }, &mut rig.bench.cx());
        rig.relay.on_eose(&page, &mut rig.bench.cx());
        let sent = rig.bench.sent();
        if sent.iter().all(|text| !text.starts_with("[\"REQ\"")) {
            break;
        }
        page = page_open(&sent);
        pages += 1;
    }
    assert_eq!(pages, UNPRODUCTIVE_BYTES_HOURLY / (64 << 20));
    assert_eq!((rig.state(), rig.bench.metrics.sweep_pauses), (StateName::Catchup, 1));
    let paused_until = |rig: &Rig| rig.relay.session().unwrap().paused_until();
    let until = paused_until(&rig).expect("it is used up");
    assert!(rig.relay.next_deadline(&rig.bench.cx()).unwrap() <= until, "it wakes up for it");
    rig.relay.on_event("l0", &known(10, 99), &mut rig.bench.cx());
    rig.tick();
    assert_eq!(reqs(&rig.bench.sent()).len(), 0, "live goes on, pages wait");
    rig.bench.advance(until.since(rig.bench.now.mono).as_secs() + 1);
    rig.tick();
    assert!(!reqs(&rig.bench.sent()).is_empty());
    assert_eq!(paused_until(&rig), None);
}

#[test]
fn pages_with_something_new_are_free_and_what_was_used_outlives_the_link() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let page = page_open(&rig.bench.sent());
    let arrival = Arrival { id: root_id(1), place: Place::At(UnixTime::from_secs(9)), bytes: 1 << 20, fate: Fate::New };
    rig.relay.on_event(&page, &arrival, &mut rig.bench.cx());
    rig.relay.on_eose(&page, &mut rig.bench.cx());
    assert_eq!(rig.relay.budget().unproductive, Unproductive::default());
    rig.answer_all();
    let used = rig.relay.budget().unproductive;
    assert_ne!(used, Unproductive::default(), "the other pages were empty");
    rig.drop_link();
    assert_eq!(rig.relay.budget().unproductive, used);
}

/// The name of the last page among some texts.
fn page_open(texts: &[String]) -> String {
    let page = texts.iter().rfind(|text| text.starts_with("[\"REQ\"") && !text.contains("\"since\"")).expect("a page");
    page.split('"').nth(3).expect("its name").to_owned()
}

/// Waits until the relay is dialled again, and answers everything. How many seconds that took.
fn wait_and_open(rig: &mut Rig) -> u64 {
    let wait = rig.relay.next_deadline(&rig.bench.cx()).unwrap().since(rig.bench.now.mono).as_secs();
    rig.bench.advance(wait);
    rig.open();
    rig.answer_all();
    wait
}
