//! Relays that are down, flap, go silent, refuse or limit us.

use crate::clock::{DAY, HOUR, MILLI, MINUTE, Micros, SECOND};
use crate::events::EventRef;
use crate::model_relay::{Mode, Refusal, notice};
use crate::scenario;
use crate::setup::{OLD, assert_at, quiet, settle, village};
use crate::world::World;

/// Time between dials of a relay.
fn pauses(w: &mut World, relay: &str) -> Vec<Micros> {
    let dials = &w.relay(relay).dials;
    dials.windows(2).map(|d| d[1] - d[0]).collect()
}

#[test]
fn a_relay_that_is_down_from_the_start_is_tried_again_until_it_is_up() {
    scenario("a_relay_that_is_down_from_the_start_is_tried_again_until_it_is_up", |w| {
        let v = village(w, 60);
        let issue = v.owner.issue(&v.repo, OLD + 60, "x");
        w.hold("far", &issue);
        w.relay("far").mode = Mode::Refuses;
        w.start();
        w.run_for(3 * DAY);
        let seen = pauses(w, "far");
        let mut expected: Vec<u64> = vec![5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560];
        let (hours, days) = seen[10..].split_at(seen[10..].iter().position(|p| *p > 2 * HOUR).expect("dead at last"));
        expected.extend(hours.iter().map(|_| 3_600));
        expected.extend(days.iter().map(|_| 86_400));
        for (n, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            assert_at(*seen, expected * SECOND, SECOND, &format!("pause {n}"));
        }
        assert_eq!(hours.len(), 23, "hourly until a day is over");
        assert!(!days.is_empty());
        w.relay("far").mode = Mode::Up;
        w.run_until("the issue", DAY + MINUTE, |w| w.has(&issue));
    });
}

#[test]
fn a_bootstrap_relay_that_is_down_from_the_start_is_tried_again() {
    scenario("a_bootstrap_relay_that_is_down_from_the_start_is_tried_again", |w| {
        let v = village(w, 60);
        w.relay("hub").mode = Mode::BlackHole;
        w.start();
        w.run_for(5 * MINUTE);
        w.relay("hub").mode = Mode::Up;
        w.run_until("the announcement", 10 * MINUTE, |w| w.has(&v.announcement));
        assert!(w.relay("hub").dials.len() <= 7);
    });
}

#[test]
fn a_relay_that_takes_connections_and_hangs_up_is_not_hammered() {
    scenario("a_relay_that_takes_connections_and_hangs_up_is_not_hammered", |w| {
        let v = village(w, 60);
        let issue = v.owner.issue(&v.repo, OLD + 60, "x");
        w.hold("far", &issue);
        w.relay("far").mode = Mode::HangsUp;
        w.start();
        w.run_for(2 * HOUR);
        let dials = w.relay("far").dials.len();
        assert!((10..=12).contains(&dials), "{dials} dials in two hours");
        w.relay("far").mode = Mode::Up;
        w.run_until("the issue", HOUR + MINUTE, |w| w.has(&issue));
    });
}

#[test]
fn a_stable_link_that_drops_is_dialled_again_at_once() {
    scenario("a_stable_link_that_drops_is_dialled_again_at_once", |w| {
        let v = village(w, 60);
        settle(w);
        for n in 0..5 {
            w.run_for(90 * SECOND);
            let dropped = w.clock.now();
            w.drop_links("far");
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            w.run_until("the issue", 2 * SECOND, |w| w.has(&issue));
            let dialled = *w.relay("far").dials.last().expect("dialled");
            assert_at(dialled, dropped, 100 * MILLI, "the dial");
        }
    });
}

#[test]
fn what_a_relay_is_is_asked_before_the_first_dial_and_once_a_day_whatever_it_answers() {
    scenario("what_a_relay_is_is_asked_before_the_first_dial_and_once_a_day_whatever_it_answers", |w| {
        village(w, 60);
        w.relay("far").config.flavour.info = None;
        w.start();
        w.run_for(MINUTE);
        for _ in 0..3 {
            w.drop_links("far");
            w.run_for(HOUR);
        }
        let asked = |w: &mut World| (w.relay("hub").inquiries, w.relay("far").inquiries);
        assert_eq!(asked(w), (1, 1));
        let dials = w.relay("hub").dials.len();
        w.run_for(DAY);
        assert_eq!(asked(w), (2, 2));
        assert_eq!(w.relay("hub").dials.len(), dials, "the open link stays");
        assert_eq!(w.links_to("hub"), 1);
    });
}

#[test]
fn an_inquiry_that_is_never_answered_costs_the_dial_its_deadline_once() {
    scenario("an_inquiry_that_is_never_answered_costs_the_dial_its_deadline_once", |w| {
        let v = village(w, 60);
        w.start();
        w.run_until("the far relay is asked", MINUTE, |w| w.relay("far").dials.len() == 1);
        w.silence_links("far");
        w.run_until("the announcement of the far relay", MINUTE, |w| w.links_to("far") == 1);
        let pauses = pauses(w, "far");
        assert_eq!(pauses.len(), 1);
        assert_at(pauses[0], 35 * SECOND, SECOND, "the deadline and the backoff");
        assert_eq!(w.relay("far").inquiries, 0);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "x");
        w.publish("far", &issue);
        w.run_until("a live event", MINUTE, |w| w.has(&issue));
    });
}

#[test]
fn a_silently_dead_link_is_found_within_a_minute() {
    scenario("a_silently_dead_link_is_found_within_a_minute", |w| {
        let v = village(w, 60);
        settle(w);
        for n in 0..10 {
            let live = w.rng.below(2 * MINUTE);
            w.run_for(live);
            w.silence_links("far");
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            let silent = w.clock.now();
            w.run_until("another dial", 2 * MINUTE, |w| w.relay("far").dials.last().is_some_and(|t| *t > silent));
            let found = *w.relay("far").dials.last().expect("dialled") - silent;
            assert!(found <= 61 * SECOND, "found after {} s", found / SECOND);
            w.run_until("what was published into the silence", 5 * SECOND, |w| w.has(&issue));
        }
    });
}

/// Lets `first` REQs to the far relay through, answers the next as `refusal` says, and wants everything in the end.
fn refused_once(name: &'static str, first: usize, refusal: Refusal, within: Micros, dials: usize) {
    scenario(name, |w| {
        let v = village(w, 60);
        let issues = v.issues(130, OLD + 60);
        let comments: Vec<EventRef> =
            issues.iter().map(|i| v.owner.comment(i, i.created_at + 5, "a comment")).collect();
        w.hold_all("far", issues.iter().chain(&comments));
        w.relay("far").refusals.extend((0..first).map(|_| None).chain([Some(refusal)]));
        w.start();
        w.run_until("everything", within, |w| w.has_all(issues.iter().chain(&comments)));
        quiet(w);
        assert!(w.relay("far").dials.len() <= dials, "dialled {} times", w.relay("far").dials.len());
        let live = v.owner.comment(&issues[0], w.clock.wall(), "live");
        w.publish("far", &live);
        w.run_until("a live event", 2 * SECOND, |w| w.has(&live));
    });
}

#[test]
fn rate_limited_by_closed_cools_down_on_the_same_link() {
    for n in 0..6 {
        let refusal = Refusal::Closed("rate-limited: slow down there chief");
        refused_once("rate_limited_by_closed_cools_down_on_the_same_link", n, refusal, 10 * MINUTE, 1);
    }
}

#[test]
fn rate_limited_by_notice_cools_down_on_the_same_link() {
    for n in 0..6 {
        let refusal = Refusal::Notice("rate-limited: slow down");
        refused_once("rate_limited_by_notice_cools_down_on_the_same_link", n, refusal, 10 * MINUTE, 1);
    }
}

#[test]
fn too_many_reqs_in_a_closed_is_read() {
    for n in 0..6 {
        let refusal = Refusal::Closed("ERROR: too many concurrent REQs");
        refused_once("too_many_reqs_in_a_closed_is_read", n, refusal, 2 * HOUR, 3);
    }
}

#[test]
fn an_eose_that_never_comes_is_given_up_and_asked_again() {
    for n in 0..6 {
        refused_once("an_eose_that_never_comes_is_given_up_and_asked_again", n, Refusal::NoEose, 2 * HOUR, 3);
    }
}

#[test]
fn an_unanswered_req_is_given_up_and_asked_again() {
    for n in 0..6 {
        refused_once("an_unanswered_req_is_given_up_and_asked_again", n, Refusal::Nothing, 2 * HOUR, 3);
    }
}

#[test]
fn a_notice_while_live_is_a_cooldown_and_no_failure() {
    scenario("a_notice_while_live_is_a_cooldown_and_no_failure", |w| {
        let v = village(w, 60);
        settle(w);
        w.relay_says("far", &notice("rate limited"));
        w.run_for(SECOND);
        let cooled = w.clock.now() + 64 * SECOND;
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "during the cooldown");
        let old = v.owner.comment(&issue, OLD, "older than its root");
        w.hold("far", &old);
        w.publish("far", &issue);
        w.run_until("the live subscription goes on", 2 * SECOND, |w| w.has(&issue));
        w.run_until("the history after the cooldown", 2 * MINUTE, |w| w.has(&old));
        assert!(w.clock.now() >= cooled - SECOND);
        assert_eq!(w.relay("far").dials.len(), 1);
    });
}

#[test]
fn a_relay_that_closes_live_subscriptions_is_asked_again() {
    scenario("a_relay_that_closes_live_subscriptions_is_asked_again", |w| {
        let v = village(w, 60);
        settle(w);
        let open: Vec<(u64, String)> = w
            .relay("far")
            .sessions()
            .iter()
            .flat_map(|(s, session)| session.subscriptions.keys().map(|k| (*s, k.clone())))
            .collect();
        for (session, subscription) in open {
            w.relay("far").on_text(0, session, &format!("[\"CLOSE\",\"{subscription}\"]"));
            w.relay_says("far", &crate::model_relay::closed(&subscription, "error: shutting down idle subscription"));
        }
        w.run_for(SECOND);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "after the CLOSED");
        w.publish("far", &issue);
        w.run_until("the issue", 2 * HOUR, |w| w.has(&issue));
    });
}

#[test]
fn a_live_subscription_that_never_came_to_be_is_noticed() {
    scenario("a_live_subscription_that_never_came_to_be_is_noticed", |w| {
        let v = village(w, 60);
        w.relay("far").refusals.push_back(Some(Refusal::Nothing));
        settle(w);
        w.run_for(5 * MINUTE);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "nobody listens");
        w.publish("far", &issue);
        w.run_until("the issue", 10 * MINUTE, |w| w.has(&issue));
    });
}

#[test]
fn what_was_published_into_a_silent_link_is_read_however_long_it_was_silent() {
    scenario("what_was_published_into_a_silent_link_is_read_however_long_it_was_silent", |w| {
        // Far longer than the overlap.
        w.settings.timing.ping = grasp_sync::time::Duration::from_secs(7_200);
        let v = village(w, 60);
        settle(w);
        w.silence_links("far");
        w.run_for(5 * MINUTE);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "into the silence");
        w.publish("far", &issue);
        w.run_until("the issue", 2 * HOUR + MINUTE, |w| w.has(&issue));
    });
}

/// Lets a proxy before the far relay cut links after so much silence, and half a day pass, with an event now and then.
fn behind_a_proxy(name: &'static str, cuts: Micros, drops: usize) {
    scenario(name, |w| {
        let v = village(w, 60);
        w.proxies.insert(1, cuts);
        w.start();
        w.run_for(10 * MINUTE);
        assert_eq!(w.relay_status("far")["state"], "Live");
        assert!(w.relay("far").dials.len() <= 1 + drops, "dialled {} times", w.relay("far").dials.len());
        for n in 0..24 {
            let pause = w.rng.below(HOUR);
            w.run_for(pause);
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            w.run_until("a live event", 2 * SECOND, |w| w.has(&issue));
        }
        let status = w.relay_status("far");
        assert_eq!((&status["state"], &status["health"]), (&"Live".into(), &"healthy".into()), "{status}");
        assert!(w.relay("far").dials.len() <= 1 + drops, "dialled {} times", w.relay("far").dials.len());
    });
}

#[test]
fn a_relay_behind_an_idle_proxy_is_pinged_in_time() {
    for cuts in [8, 15, 25, 29] {
        behind_a_proxy("a_relay_behind_an_idle_proxy_is_pinged_in_time", cuts * SECOND, 3);
    }
}

#[test]
fn a_proxy_that_is_patient_is_never_met() {
    behind_a_proxy("a_proxy_that_is_patient_is_never_met", 32 * SECOND, 0);
}

#[test]
fn an_idle_proxy_is_remembered_by_the_next_process() {
    scenario("an_idle_proxy_is_remembered_by_the_next_process", |w| {
        village(w, 60);
        w.proxies.insert(1, 25 * SECOND);
        w.start();
        w.run_for(10 * MINUTE);
        assert_eq!(w.relay_status("far")["idle_drop_secs"], 25);
        w.stop();
        w.start();
        let dials = w.relay("far").dials.len();
        w.run_for(HOUR);
        assert_eq!(w.relay("far").dials.len(), dials + 1, "one dial by the new process, no drop");
    });
}

#[test]
fn a_relay_that_drops_whatever_we_send_is_not_taken_for_a_proxy_for_long() {
    scenario("a_relay_that_drops_whatever_we_send_is_not_taken_for_a_proxy_for_long", |w| {
        village(w, 60);
        settle(w);
        let from = w.clock.now();
        for _ in 0..400 {
            w.run_for(25 * SECOND);
            if w.links_to("far") > 0 {
                w.drop_links("far");
            }
        }
        let dials = w.relay("far").dials.iter().filter(|t| **t >= from).count();
        assert!(dials <= 20, "{dials} dials in {} minutes", (w.clock.now() - from) / MINUTE);
    });
}

#[test]
fn a_silently_dead_link_behind_an_idle_proxy_is_found_within_a_minute() {
    scenario("a_silently_dead_link_behind_an_idle_proxy_is_found_within_a_minute", |w| {
        let v = village(w, 60);
        w.proxies.insert(1, 25 * SECOND);
        w.start();
        w.run_for(10 * MINUTE);
        for n in 0..5 {
            let live = w.rng.below(2 * MINUTE);
            w.run_for(live);
            w.silence_links("far");
            let silent = w.clock.now();
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            w.run_until("another dial", 46 * SECOND, |w| w.relay("far").dials.last().is_some_and(|t| *t > silent));
            w.run_until("what was published into the silence", 5 * SECOND, |w| w.has(&issue));
        }
    });
}
