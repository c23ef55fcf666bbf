//! Failures of other systems, each as a scenario that must not repeat it here.

use crate::clock::{HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::{RelayConfig, event_text};
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use std::collections::BTreeSet;
use std::rc::Rc;

#[test]
fn pages_are_counted_by_what_came_and_not_by_what_was_kept() {
    scenario("pages_are_counted_by_what_came_and_not_by_what_was_kept", |w| {
        let v = village(w, 60);
        w.relay("hub").config = RelayConfig::capped(60);
        // A thousand announcements of other services lie before the one that is ours.
        for n in 0..1_000 {
            let event = Author::new(100 + n % 7).foreign_announcement(&format!("foreign-{n}"), OLD + 100 + n);
            w.forbid(&event, "another service's");
            w.hold("hub", &event);
        }
        w.start();
        w.run_until("our announcement", 5 * MINUTE, |w| w.has(&v.announcement));
    });
}

#[test]
fn more_events_in_one_second_than_a_page_do_not_loop() {
    scenario("more_events_in_one_second_than_a_page_do_not_loop", |w| {
        let v = village(w, 60);
        let crowd: Vec<EventRef> = (0..75).map(|n| v.owner.issue(&v.repo, OLD + 500, &n.to_string())).collect();
        let before = v.issues(5, OLD + 60);
        let after: Vec<EventRef> = v.issues(5, OLD + 900);
        w.hold_all("far", crowd.iter().chain(&before).chain(&after));
        settle(w);
        assert!(w.has_all(before.iter().chain(&after)), "what lies behind the crowded second");
        assert!(w.missing(&crowd) <= 15, "all of the crowd that the relay would show");
        w.run_for(HOUR);
    });
}

#[test]
fn a_crowded_second_is_split_where_it_can_be() {
    scenario("a_crowded_second_is_split_where_it_can_be", |w| {
        let v = village(w, 60);
        let issues = v.issues(8, OLD + 60);
        let crowd: Vec<EventRef> =
            (0..240).map(|n| v.owner.comment(&issues[n % 8], OLD + 5_000, &n.to_string())).collect();
        w.hold_all("far", issues.iter().chain(&crowd));
        w.start();
        w.run_until("the whole crowd", 5 * MINUTE, |w| w.has_all(&crowd));
        quiet(w);
    });
}

#[test]
fn the_state_at_start_is_not_read_through_a_cap() {
    scenario("the_state_at_start_is_not_read_through_a_cap", |w| {
        let owner = Author::new(1);
        w.add_relay("hub", RelayConfig::strfry());
        w.bootstrap("hub");
        let repos: Vec<String> = (0..1_200).map(|n| format!("repo-{n}")).collect();
        let announce = |(n, d): (usize, &String)| owner.announcement(d, &["wss://hub.example"], OLD + n as u64 / 9);
        let all: Vec<EventRef> = repos.iter().enumerate().map(announce).collect();
        w.hold_all("hub", &all);
        settle(w);
        assert!(w.has_all(&all));
        w.kill();
        let restarted = w.clock.now();
        settle(w);
        let mut asked = BTreeSet::new();
        for req in w.relay("hub").reqs_since(restarted) {
            asked.extend(req.filters.iter().filter_map(|f| f.tags.get("a")).flatten().cloned());
        }
        let missing = repos.iter().filter(|d| !asked.contains(&owner.repo(d))).count();
        assert_eq!(missing, 0, "repos that were not asked for");
    });
}

#[test]
fn every_a_tag_counts_and_so_does_every_root_kind_and_colon() {
    scenario("every_a_tag_counts_and_so_does_every_root_kind_and_colon", |w| {
        let v = village(w, 60);
        let odd = v.owner.announcement("a:b:c", &["wss://far.example"], OLD);
        w.hold("hub", &odd);
        let repos = [Author::new(50).repo("unknown"), v.owner.repo("a:b:c"), v.repo.clone()];
        let tags: Vec<&str> = repos.iter().map(|r| &**r).collect();
        let roots: Vec<EventRef> =
            [1617, 1618, 1619, 1621].iter().map(|k| v.owner.root(*k, &tags, OLD + 60, "root")).collect();
        let comments: Vec<EventRef> = roots.iter().map(|r| v.owner.comment(r, OLD + 70, "on it")).collect();
        w.hold_all("far", roots.iter().chain(&comments));
        w.start();
        w.run_until("all", MINUTE, |w| w.has_all(roots.iter().chain(&comments)));
    });
}

#[test]
fn urls_that_differ_in_form_are_one_relay() {
    scenario("urls_that_differ_in_form_are_one_relay", |w| {
        let v = village(w, 60);
        for (n, form) in ["wss://far.example/", "wss://FAR.example:443", "WSS://far.example"].iter().enumerate() {
            w.hold("hub", &v.owner.announcement(&format!("form-{n}"), &[form], OLD + 1));
        }
        settle(w);
        assert_eq!(w.relay("far").dials.len(), 1);
    });
}

#[test]
fn only_relays_are_dialled_and_the_own_one_is_known_by_its_parts() {
    scenario("only_relays_are_dialled_and_the_own_one_is_known_by_its_parts", |w| {
        let v = village(w, 60);
        w.add_relay("evil-grasp", RelayConfig::strfry());
        // The clone URL's host and the own relay are not in the world: dialling them would fail the scenario.
        let forms = ["wss://grasp.example/", "wss://GRASP.example:443", "wss://evil-grasp.example"];
        w.hold("hub", &v.owner.announcement("beta", &forms, OLD));
        settle(w);
        assert_eq!(w.links_to("evil-grasp"), 1, "its name merely ends like ours");
    });
}

#[test]
fn a_relay_with_nothing_confirmed_yet_is_not_dropped() {
    scenario("a_relay_with_nothing_confirmed_yet_is_not_dropped", |w| {
        let v = village(w, 60);
        let slow = v.issues(40, OLD + 60);
        w.hold_all("far", &slow);
        // The live subscription and a few sweeps are let through; the rest gets no answer for a long time.
        w.relay("far").refusals.extend((0..60).map(|n| (n > 0).then_some(crate::model_relay::Refusal::Nothing)));
        w.start();
        w.run_for(10 * MINUTE);
        assert_eq!(w.links_to("far"), 1);
        w.relay("far").refusals.clear();
        w.run_until("all", 3 * HOUR, |w| w.has_all(&slow));
    });
}

#[test]
fn a_forged_event_is_refused_and_does_not_shut_out_the_true_one() {
    scenario("a_forged_event_is_refused_and_does_not_shut_out_the_true_one", |w| {
        let v = village(w, 60);
        settle(w);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "true");
        let forged = issue.json.replace("\"true\"", "\"forged\"");
        let bad_signature = issue.json.replace("\"sig\":\"", "\"sig\":\"00").replacen("00\"}", "\"}", 1);
        let subscriptions: Vec<String> =
            w.relay("far").sessions().values().flat_map(|s| s.subscriptions.keys().cloned()).collect();
        for json in [forged, bad_signature] {
            for subscription in &subscriptions {
                let copy = crate::events::SimEvent {
                    id: issue.id.clone(),
                    author: issue.author.clone(),
                    created_at: issue.created_at,
                    kind: issue.kind,
                    tags: issue.tags.clone(),
                    json: json.clone(),
                };
                w.relay_says("far", &event_text(subscription, &Rc::new(copy)));
            }
        }
        w.run_for(2 * SECOND);
        assert!(!w.has(&issue));
        w.publish("far", &issue);
        w.run_until("the true one", SECOND, |w| w.has(&issue));
        let text = issue.json.clone();
        assert!(w.durable().events[&issue.id].json.contains("true"), "{text}");
    });
}

#[test]
fn a_burst_is_no_disconnect() {
    scenario("a_burst_is_no_disconnect", |w| {
        let v = village(w, 500);
        settle(w);
        let burst: Vec<EventRef> =
            (0..2_000).map(|n| v.owner.issue(&v.repo, w.clock.wall() - n % 60, &n.to_string())).collect();
        burst.iter().for_each(|e| w.publish("far", e));
        w.run_until("the burst", 10 * SECOND, |w| w.has_all(&burst));
        assert_eq!(w.relay("far").dials.len(), 1);
    });
}

#[test]
fn a_jump_of_the_wall_clock_moves_no_cursor_past_what_was_read() {
    scenario("a_jump_of_the_wall_clock_moves_no_cursor_past_what_was_read", |w| {
        let v = village(w, 60);
        settle(w);
        // An hour ahead while the relay says nothing, then the link drops, and the clock is set right again.
        w.clock.jump_wall(3_600);
        w.run_for(10 * SECOND);
        w.drop_links("far");
        w.run_for(10 * MINUTE);
        w.clock.jump_wall(-3_600);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "in the right time");
        w.publish("far", &issue);
        w.run_for(MINUTE);
        w.drop_links("far");
        let next = v.owner.issue(&v.repo, w.clock.wall() + 1, "while away");
        w.publish("far", &next);
        w.run_until("both", 30 * MINUTE, |w| w.has(&issue) && w.has(&next));
    });
}
