//! Full catch-ups by reconciliation (NIP-77): what they cost, and that whatever a relay does instead of reconciling,
//! what it holds is found.

use crate::clock::{DAY, HOUR, MINUTE, Micros, SECOND};
use crate::events::{Author, DumbFilter, EventRef};
use crate::model_relay::{Flavour, Liar, Reconciling, Refusal, RelayConfig, Told};
use crate::scenario;
use crate::setup::{OLD, Village, quiet, settle, village};
use crate::world::World;
use grasp_sync::limits::FETCH_IDS_MAX;

/// A settled world whose relay `far` is set up like this and holds so many issues.
fn settled(w: &mut World, config: RelayConfig, issues: u64) -> Village {
    let v = village(w, 500);
    w.relay("far").config = config;
    w.hold_all("far", &v.issues(issues, OLD + 60));
    settle(w);
    w.run_until("the first full catch-up", HOUR, |w| w.relay_status("far")["last_full_catchup"].is_u64());
    quiet(w);
    v
}

/// Events that come to be on `far` without anyone being told, far outside any overlap.
fn slipped(w: &mut World, v: &Village, count: u64) -> Vec<EventRef> {
    let slipped: Vec<EventRef> =
        (0..count).map(|n| v.owner.issue(&v.repo, OLD + 7 + n / 3, &format!("slipped in {n}"))).collect();
    w.hold_all("far", &slipped);
    slipped
}

/// Runs until the next full catch-up with `far` has ended well, at most so long; how long it took.
fn next_full(w: &mut World, max: Micros) -> Micros {
    let before = w.relay_status("far")["last_full_catchup"].as_u64().unwrap_or(0);
    let from = w.clock.now();
    w.run_until("a full catch-up", max, |w| w.relay_status("far")["last_full_catchup"].as_u64() > Some(before));
    quiet(w);
    w.clock.now() - from
}

fn manner(w: &World) -> (String, String) {
    let status = w.relay_status("far");
    let text = |name: &str| status["full_catchups"][name].as_str().unwrap_or_default().to_owned();
    (text("by"), text("why"))
}

/// Pages of whole questions that `far` was asked since then: neither bounded in time nor by ids. Not those about root
/// events, which windows ask for as these come.
fn pages_since(w: &mut World, at: Micros) -> usize {
    let whole =
        |f: &DumbFilter| f.since.is_none() && f.ids.is_none() && !f.tags.keys().any(|name| name == "e" || name == "E");
    let of_roots = |f: &DumbFilter| f.tags.get("q").is_some_and(|ids| ids.iter().any(|id| id.len() == 64));
    let reqs = w.relay("far").reqs_since(at);
    reqs.filter(|req| req.filters.iter().any(|f| whole(f) && !of_roots(f))).count()
}

#[test]
fn an_identical_set_costs_little_and_no_event() {
    scenario("an_identical_set_costs_little_and_no_event", |w| {
        let v = settled(w, RelayConfig::reconciling(), 300);
        next_full(w, 2 * DAY);
        let (from, negs, sent) = (w.clock.now(), w.relay("far").negs.len(), w.relay("far").events_sent());
        next_full(w, 2 * DAY);
        assert_eq!(manner(w), ("negentropy".into(), "works".into()));
        assert_eq!(pages_since(w, from), 0);
        let far = w.relay("far");
        assert_eq!(far.events_sent(), sent, "not one event");
        assert!(far.negs.len() > negs && far.reconciling() == 0, "every one was closed");
        for neg in &far.negs[negs..] {
            assert!(neg.closed && neg.messages == 1, "{neg:?}");
            assert!(neg.bytes_in + neg.bytes_out < 2_000, "{neg:?}");
        }
        assert!(w.has(&v.announcement));
    });
}

#[test]
fn five_thousand_missing_events_come_past_a_cap_of_500() {
    scenario("five_thousand_missing_events_come_past_a_cap_of_500", |w| {
        let v = settled(w, RelayConfig::reconciling(), 50);
        let slipped = slipped(w, &v, 5_000);
        let (from, sent) = (w.clock.now(), w.relay("far").events_sent());
        next_full(w, 2 * DAY);
        assert_eq!(w.missing(&slipped), 0);
        assert_eq!(pages_since(w, from), 0, "no page was needed");
        let far = w.relay("far");
        assert!(
            far.reqs_since(from)
                .all(|req| req.filters.iter().all(|f| f.ids.as_ref().is_none_or(|ids| ids.len() <= FETCH_IDS_MAX)))
        );
        // What they bring, their windows ask for: as live subscriptions, and as sweeps that find nothing.
        let sent = far.events_sent() - sent;
        assert!(sent < 5_200, "{sent} events sent for 5,000");
    });
}

#[test]
fn a_tight_cap_on_ids_is_met() {
    scenario("a_tight_cap_on_ids_is_met", |w| {
        let capped = RelayConfig::capped(60).flavour.cap;
        let config = RelayConfig::reconciling();
        let flavour = Flavour { cap: capped, ..config.flavour };
        let v = settled(w, RelayConfig { flavour, ..config }, 50);
        let slipped = slipped(w, &v, 1_000);
        next_full(w, 2 * DAY);
        assert_eq!(w.missing(&slipped), 0);
    });
}

#[test]
fn what_a_relays_reconciling_loses_is_found_within_the_week() {
    scenario("what_a_relays_reconciling_loses_is_found_within_the_week", |w| {
        let v = settled(w, RelayConfig::reconciling().lying(Liar::NegLoses), 50);
        let slipped = slipped(w, &v, 60);
        next_full(w, 2 * DAY);
        let lost = w.missing(&slipped);
        assert!(lost > 0 && lost < 60, "{lost} of 60 lost by the first");
        w.run_until("the rest", 8 * DAY, |w| w.missing(&slipped) == 0);
    });
}

#[test]
fn what_is_listed_and_not_served_holds_nothing_up_and_is_not_asked_for_every_day() {
    scenario("what_is_listed_and_not_served_holds_nothing_up_and_is_not_asked_for_every_day", |w| {
        let v = settled(w, RelayConfig::reconciling().lying(Liar::NegGhosts), 50);
        let slipped = slipped(w, &v, 60);
        next_full(w, 2 * DAY);
        assert_eq!(w.missing(&slipped), 0);
        next_full(w, 2 * DAY);
        let from = w.clock.now();
        next_full(w, 2 * DAY);
        assert!(w.relay("far").reqs_since(from).all(|req| req.filters.iter().all(|f| f.ids.is_none())));
        assert_eq!(pages_since(w, from), 0);
    });
}

#[test]
fn liars_cost_no_more_than_pages() {
    for liar in [Liar::NegSilent, Liar::NegGarbage, Liar::NegEndless] {
        scenario("liars_cost_no_more_than_pages", |w| {
            let v = settled(w, RelayConfig::reconciling().lying(liar), 50);
            let slipped = slipped(w, &v, 600);
            next_full(w, 2 * DAY);
            assert_eq!(w.missing(&slipped), 0, "{liar:?}");
            assert_eq!(manner(w).0, "pages", "{liar:?}");
            let negs = w.relay("far").negs.len();
            next_full(w, 2 * DAY);
            assert_eq!(w.relay("far").negs.len(), negs, "{liar:?} is not tried every day");
            assert_eq!(w.relay("far").dials.len(), 1, "{liar:?} costs no link");
        });
    }
}

#[test]
fn every_refusal_goes_on_by_pages() {
    use Told::{Closed, Hangup, Nothing, Notice};
    for (told, why) in [
        (Closed("blocked: Negentropy sync is disabled"), "unsupported"),
        (Notice("failed to parse envelope: unknown envelope label"), "unsupported"),
        (Notice("could not parse command"), "unsupported"),
        (Notice("Unsupported message"), "unsupported"),
        (Notice("ERROR: bad msg: negentropy disabled"), "unsupported"),
        (Closed("closed: you took too long to respond"), "ended"),
        (Closed("PROTOCOL-ERROR"), "broken"),
        (Closed("blocked: you are not special"), "refused"),
        (Nothing, "silent"),
        (Hangup(1006), "link_lost"),
    ] {
        scenario("every_refusal_goes_on_by_pages", |w| {
            let strfry = RelayConfig::reconciling();
            let flavour = Flavour { reconciling: Reconciling::Refused(told), ..strfry.flavour };
            let v = settled(w, RelayConfig { flavour, ..strfry }, 50);
            let slipped = slipped(w, &v, 600);
            next_full(w, 2 * DAY);
            assert_eq!(w.missing(&slipped), 0, "{told:?}");
            assert_eq!(manner(w), ("pages".into(), why.into()), "{told:?}");
        });
    }
}

#[test]
fn a_set_that_is_too_large_is_paged_and_the_others_are_not() {
    scenario("a_set_that_is_too_large_is_paged_and_the_others_are_not", |w| {
        let mut config = RelayConfig::reconciling();
        if let Reconciling::Spoken(spoken) = &mut config.flavour.reconciling {
            spoken.events.max = 100;
        }
        let v = settled(w, config, 50);
        let slipped = slipped(w, &v, 600);
        next_full(w, 2 * DAY);
        assert_eq!(w.missing(&slipped), 0);
        assert_eq!(manner(w).0, "negentropy");
    });
}

#[test]
fn a_link_that_is_lost_in_the_middle_and_a_kill_lose_nothing() {
    scenario("a_link_that_is_lost_in_the_middle_and_a_kill_lose_nothing", |w| {
        let v = settled(w, RelayConfig::reconciling(), 50);
        let slipped = slipped(w, &v, 2_000);
        w.run_until("the catch-up is under way", 2 * DAY, |w| w.missing(&slipped) < 2_000);
        assert!(w.missing(&slipped) > 0);
        w.drop_links("far");
        w.run_until("it goes on", HOUR, |w| w.missing(&slipped) < 1_000);
        w.kill();
        w.run_for(10 * SECOND);
        w.start();
        w.run_until("everything", HOUR, |w| w.missing(&slipped) == 0);
    });
}

#[test]
fn relays_that_reconcile_as_others_do_are_caught_up_with() {
    for name in ["strfry", "khatru-negentropy", "relay-builder", "netstr"] {
        scenario("relays_that_reconcile_as_others_do_are_caught_up_with", |w| {
            let v = settled(w, Flavour::named(name).config(), 50);
            let slipped = slipped(w, &v, 1_200);
            next_full(w, 2 * DAY);
            assert_eq!(w.missing(&slipped), 0, "{name}");
            assert_eq!(manner(w).0, "negentropy", "{name}");
        });
    }
}

/// A world in which `hub` and `far` hold the same issues, and each is set up like this.
fn twins(w: &mut World, configs: [RelayConfig; 2], issues: u64) -> Vec<EventRef> {
    let v = village(w, 500);
    let issues = v.issues(issues, OLD + 60);
    for (name, config) in ["hub", "far"].into_iter().zip(configs) {
        w.relay(name).config = config;
        w.hold_all(name, &issues);
    }
    w.hold_all("far", &[v.announcement]);
    w.start();
    issues
}

#[test]
fn what_two_relays_have_is_fetched_from_one() {
    scenario("what_two_relays_have_is_fetched_from_one", |w| {
        let known = twins(w, [(); 2].map(|()| RelayConfig::reconciling()), 50);
        w.run_until("what is there", HOUR, |w| w.has_all(&known));
        quiet(w);
        w.kill();
        let owner = Author::new(1);
        let late = |n: u64| owner.issue(&owner.repo("alpha"), OLD + 9 + n / 3, &format!("late {n}"));
        let late: Vec<EventRef> = (0..2_000).map(late).collect();
        ["hub", "far"].into_iter().for_each(|name| w.hold_all(name, &late));
        // The daily turn of both is due when it starts.
        w.run_for(DAY + HOUR);
        let sent = |w: &mut World| ["hub", "far"].map(|name| w.relay(name).events_sent());
        let before: u64 = sent(w).iter().sum();
        w.start();
        w.run_until("everything", HOUR, |w| w.missing(&late) == 0);
        quiet(w);
        let after = sent(w);
        assert!(
            after.iter().sum::<u64>() < before + 2_300,
            "{after:?} events sent, {before} of them before these 2,000"
        );
        assert_eq!(manner(w), ("negentropy".into(), "works".into()));
    });
}

#[test]
fn a_relay_that_lists_what_it_does_not_serve_keeps_nobody_from_fetching_it_elsewhere() {
    for liar in [Liar::NegGhosts, Liar::Trickler] {
        scenario("a_relay_that_lists_what_it_does_not_serve_keeps_nobody_from_fetching_it_elsewhere", |w| {
            let slow = RelayConfig::reconciling().lying(liar);
            let issues = twins(w, [RelayConfig::reconciling(), slow], 600);
            w.run_until("everything", 10 * MINUTE, |w| w.missing(&issues) == 0);
        });
    }
}

/// What a relay listed while it failed every REQ counted as not served, for as long as nothing new was followed: seeds
/// 20011 and 20022.
#[test]
fn what_was_not_served_because_every_req_failed_is_asked_for_again() {
    scenario("what_was_not_served_because_every_req_failed_is_asked_for_again", |w| {
        let v = settled(w, RelayConfig::reconciling(), 20);
        next_full(w, 2 * DAY);
        let slipped = slipped(w, &v, 3);
        let failing = Refusal::Closed("error: could not connect to the database");
        w.relay("far").refusals = std::iter::repeat_n(Some(failing), 10_000).collect();
        let negs = w.relay("far").negs.len();
        let whole = |w: &mut World| w.relay("far").negs[negs..].iter().any(|neg| neg.filter.since.is_none());
        w.run_until("the daily turn", 2 * DAY, whole);
        w.run_for(10 * MINUTE);
        assert_eq!(w.missing(&slipped), 3);
        w.relay("far").refusals.clear();
        w.run_until("what slipped", 3 * HOUR, |w| w.missing(&slipped) == 0);
    });
}
