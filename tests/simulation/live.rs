//! While live: the window, incremental filters, consolidation, and how fast an event reaches a client.

use crate::client::req;
use crate::clock::{HOUR, MILLI, MINUTE, SECOND};
use crate::events::{Author, DumbFilter, EventRef};
use crate::link::Path;
use crate::model_relay::{Refusal, RelayConfig, notice};
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use crate::world::World;
use serde_json::json;
use std::ops::RangeInclusive;

#[test]
fn a_live_event_reaches_the_store_and_a_client_at_once() {
    scenario("a_live_event_reaches_the_store_and_a_client_at_once", |w| {
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        w.client_sends(client, &req("all", &json!({"kinds": [1621]})));
        w.run_until("EOSE", SECOND, |w| w.client(client).eose("all"));
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "now");
        let published = w.clock.now();
        w.publish("far", &issue);
        w.run_until("the client has it", SECOND, |w| w.client(client).got(&issue).is_some());
        assert!(w.clock.now() - published < 200 * MILLI);
        assert!(w.has(&issue));
    });
}

#[test]
fn the_own_relay_acknowledges_serves_and_refuses() {
    scenario("the_own_relay_acknowledges_serves_and_refuses", |w| {
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        let now = w.clock.wall();
        let (good, foreign) = (v.owner.issue(&v.repo, now, "x"), v.owner.issue(&v.owner.repo("nowhere"), now, "x"));
        w.forbid(&foreign, "its repo is not ours");
        w.client_publishes(client, &good);
        w.client_publishes(client, &foreign);
        w.run_until("both answers", SECOND, |w| {
            w.client(client).ok(&good).is_some() && w.client(client).ok(&foreign).is_some()
        });
        assert_eq!(w.client(client).ok(&good).map(|o| o.0), Some(true));
        assert_eq!(w.client(client).ok(&foreign).map(|o| o.0), Some(false));
        w.client_sends(client, &req("q", &json!({"ids": [good.id, foreign.id]})));
        w.run_until("EOSE", SECOND, |w| w.client(client).eose("q"));
        assert_eq!(w.client(client).ids("q"), std::slice::from_ref(&good.id));
        w.kill();
        assert!(w.has(&good));
    });
}

#[test]
fn the_own_relay_gives_the_newest_up_to_the_limit_and_nothing_expired() {
    scenario("the_own_relay_gives_the_newest_up_to_the_limit_and_nothing_expired", |w| {
        let v = village(w, 60);
        let issues = v.issues(5, OLD + 60);
        w.hold_all("far", &issues);
        settle(w);
        let now = w.clock.wall();
        let expires = (now + 30).to_string();
        let brief = v.owner.sign(1621, now, &[&["a", &v.repo], &["expiration", &expires]], "brief");
        let client = w.connect_client();
        w.client_publishes(client, &brief);
        w.run_until("it is taken", SECOND, |w| w.client(client).ok(&brief).is_some_and(|ok| ok.0));
        let asked = |w: &mut World, name: &'static str, filter: serde_json::Value| {
            w.client_sends(client, &req(name, &filter));
            w.run_until("EOSE", SECOND, |w| w.client(client).eose(name));
            w.client(client).ids(name)
        };
        let newest = |n: usize| issues.iter().rev().take(n).map(|e| e.id.clone());
        let expected: Vec<String> = std::iter::once(brief.id.clone()).chain(newest(2)).collect();
        assert_eq!(asked(w, "three", json!({"kinds": [1621], "limit": 3})), expected);
        assert_eq!(asked(w, "none", json!({"kinds": [1621], "limit": 0})), [""; 0]);
        w.checks.acknowledged.remove(&brief.id);
        w.run_for(31 * SECOND);
        assert!(w.has(&brief), "it is looked for once a minute");
        assert_eq!(asked(w, "later", json!({"kinds": [1621], "limit": 3})), newest(3).collect::<Vec<_>>());
        w.run_until("it leaves the disk", 2 * MINUTE, |w| !w.has(&brief));
    });
}

#[test]
fn a_window_closes_exactly_five_seconds_after_its_first_change() {
    scenario("a_window_closes_exactly_five_seconds_after_its_first_change", |w| {
        w.path = Path { latency: 0, jitter: 0 };
        w.commit_took = 0;
        let v = village(w, 60);
        settle(w);
        w.run_for(1_234_567);
        let opened = w.clock.now();
        let mut issues: Vec<EventRef> = Vec::new();
        for n in 0..9 {
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            issues.push(issue);
            w.run_for(900 * MILLI);
        }
        w.run_for(20 * SECOND);
        let asked = |w: &mut World, e: &EventRef| w.relay("far").reqs.iter().find(|r| r.asks("e", &e.id)).map(|r| r.at);
        // Published at 0, 0.9, … 4.5 s; the seventh, at 5.4 s, opens the second window.
        for issue in &issues[..6] {
            assert_eq!(asked(w, issue), Some(opened + 5 * SECOND), "first window");
        }
        for issue in &issues[6..] {
            assert_eq!(asked(w, issue), Some(opened + 5_400 * MILLI + 5 * SECOND), "second window");
        }
    });
}

#[test]
fn each_window_asks_only_for_what_is_new() {
    scenario("each_window_asks_only_for_what_is_new", |w| {
        let v = village(w, 60);
        let old = v.issues(30, OLD + 60);
        w.hold_all("far", &old);
        settle(w);
        let before = w.clock.now();
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "new");
        let earlier = v.owner.comment(&issue, OLD + 1, "somehow older than its root");
        w.hold("far", &earlier);
        w.publish("far", &issue);
        w.run_until("the history of the new root", 30 * SECOND, |w| w.has(&earlier));
        quiet(w);
        for relay in ["hub", "far"] {
            let reqs: Vec<_> = w.relay(relay).reqs_since(before).cloned().collect();
            assert!(reqs.iter().any(|r| r.asks("e", &issue.id)), "{relay} was asked for the new root");
            for req in &reqs {
                assert!(!req.filters.iter().any(DumbFilter::is_layer_1), "layer 1 again");
                assert!(!old.iter().any(|e| req.asks("e", &e.id) || req.asks("E", &e.id)), "old roots again");
            }
        }
    });
}

#[test]
fn what_is_published_inside_the_window_arrives_after_it() {
    scenario("what_is_published_inside_the_window_arrives_after_it", |w| {
        let v = village(w, 60);
        settle(w);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "new");
        w.publish("far", &issue);
        w.run_for(SECOND);
        let comments: Vec<EventRef> =
            (0..3).map(|n| v.owner.comment(&issue, w.clock.wall() + n, &n.to_string())).collect();
        comments.iter().for_each(|c| w.publish("far", c));
        w.run_until("the comments", 10 * SECOND, |w| w.has_all(&comments));
    });
}

/// Times at which live subscriptions for everything were opened: at the start and at each consolidation.
fn minimal_sets(w: &mut World, relay: &str) -> Vec<u64> {
    let live = |f: &DumbFilter| f.is_layer_1() && f.since.is_some();
    w.relay(relay).reqs.iter().filter(|r| r.filters.iter().any(live)).map(|r| r.at).collect()
}

/// A root a window, each with a comment that the relay had before it, until consolidation has taken place.
fn roots_window_by_window(w: &mut World, windows: u64, sets: RangeInclusive<usize>) {
    let v = village(w, 60);
    settle(w);
    let (mut issues, mut comments, mut published) = (Vec::new(), Vec::new(), Vec::new());
    let (mut most, mut reopened_with) = (0, Vec::new());
    for n in 0..windows {
        let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
        let comment = v.owner.comment(&issue, OLD + n, "older than its root");
        w.hold("far", &comment);
        published.push(w.clock.now());
        w.publish("far", &issue);
        for _ in 0..60 {
            w.run_for(100 * MILLI);
            most = most.max(w.relay("far").live_filters());
            let consolidated = minimal_sets(w, "far").len() - 1;
            if consolidated > reopened_with.len() && w.clock.now() > w.last_asked() + SECOND {
                reopened_with.push(w.open_filters("far"));
            }
        }
        issues.push(issue);
        comments.push(comment);
    }
    quiet(w);
    assert!(w.has_all(&issues) && w.has_all(&comments));
    let seen = minimal_sets(w, "far");
    assert!(sets.contains(&(seen.len() - 1)), "consolidated {} times", seen.len() - 1);
    assert!(most <= 100, "{most} filters open at once");
    assert!(!reopened_with.is_empty() && reopened_with.iter().all(|n| *n == 7), "reopened with {reopened_with:?}");
    // What the minimal set replaces had been read to its end before.
    for (issue, at) in issues.iter().zip(&published).filter(|(_, at)| **at + 10 * SECOND < seen[1]) {
        let swept = |f: &DumbFilter| f.asks("e", &issue.id) && f.since.is_none();
        let sweep = w.relay("far").reqs.iter().find(|r| r.filters.iter().any(swept)).map(|r| r.at);
        assert!(sweep.is_some_and(|t| t < seen[1]), "the issue of {at} was not swept before {}", seen[1]);
    }
    // Live for the first and the last.
    for root in [&issues[0], &issues[issues.len() - 1]] {
        let comment = v.owner.comment(root, w.clock.wall(), "live");
        w.publish("far", &comment);
        w.run_until("a live comment", 2 * SECOND, |w| w.has(&comment));
    }
}

#[test]
fn consolidation_when_no_subscription_is_free_sweeps_before_it_reopens_the_minimal_set() {
    scenario("consolidation_when_no_subscription_is_free_sweeps_before_it_reopens_the_minimal_set", |w| {
        roots_window_by_window(w, 40, 2..=6);
    });
}

#[test]
fn consolidation_above_so_many_filters_sweeps_before_it_reopens_the_minimal_set() {
    scenario("consolidation_above_so_many_filters_sweeps_before_it_reopens_the_minimal_set", |w| {
        // Four without roots, then seven; each window adds three: above 20 at the sixth, the eleventh, the sixteenth.
        w.settings.limits.consolidate_above_filters = 20;
        roots_window_by_window(w, 20, 3..=3);
    });
}

#[test]
fn nothing_published_during_consolidation_is_missed() {
    scenario("nothing_published_during_consolidation_is_missed", |w| {
        let v = village(w, 60);
        settle(w);
        let mut all: Vec<EventRef> = Vec::new();
        for n in 0..200u64 {
            let now = w.clock.wall();
            let event = match all.len() {
                0 => v.owner.issue(&v.repo, now, "0"),
                _ if n % 4 == 0 => v.owner.issue(&v.repo, now, &n.to_string()),
                _ => v.owner.comment(&all[0], now, &n.to_string()),
            };
            w.publish("far", &event);
            all.push(event);
            let pause = w.rng.below(2 * SECOND);
            w.run_for(pause);
        }
        w.run_until("all", MINUTE, |w| w.has_all(&all));
    });
}

#[test]
fn an_idle_hour_costs_no_more_than_its_pings() {
    scenario("an_idle_hour_costs_no_more_than_its_pings", |w| {
        village(w, 60);
        settle(w);
        w.run_for(MINUTE);
        let (turns, commits) = (w.turns, w.commits);
        w.run_for(60 * MINUTE);
        let woke = w.turns - turns;
        // Two links, each with a ping and its pong every 30 s at most, and `through` kept now and then.
        assert!(woke <= 2 * 120 * 2 + 24, "woke {woke} times in an hour");
        assert!(w.commits - commits <= 24, "committed {} times in an hour", w.commits - commits);
    });
}

#[test]
fn a_maintainers_announcement_is_taken_and_a_strangers_is_not() {
    scenario("a_maintainers_announcement_is_taken_and_a_strangers_is_not", |w| {
        w.add_relay("hub", RelayConfig::strfry());
        w.bootstrap("hub");
        let (owner, helper) = (Author::new(1), Author::new(2));
        let listed = ["relays", "wss://grasp.example", "wss://hub.example"];
        let repo = owner.announcement_on("alpha", &owner.clone_url("alpha"), &listed, &[&helper.hex], OLD);
        let elsewhere = helper.foreign_announcement("alpha", OLD + 1);
        let stranger = Author::new(3).foreign_announcement("alpha", OLD + 2);
        w.forbid(&stranger, "neither on our service nor by a maintainer");
        w.hold_all("hub", [&repo, &elsewhere, &stranger]);
        w.start();
        w.run_until("both", MINUTE, |w| w.has(&repo) && w.has(&elsewhere));
        quiet(w);
    });
}

#[test]
fn what_a_new_maintainer_published_before_is_asked_for_again() {
    scenario("what_a_new_maintainer_published_before_is_asked_for_again", |w| {
        let v = village(w, 60);
        let (helper, friend) = (Author::new(2), Author::new(3));
        let listed = ["relays", "wss://grasp.example", "wss://hub.example", "wss://far.example"];
        let early = [
            helper.acceptance("alpha", &[&v.owner, &friend], OLD),
            friend.acceptance("alpha", &[&helper], OLD),
            helper.state("alpha", OLD + 5),
            friend.state("alpha", OLD + 6),
        ];
        w.hold_all("far", &early);
        settle(w);
        assert_eq!(w.missing(&early), 4, "not maintainers yet");
        let at = w.clock.wall();
        w.publish("hub", &v.owner.announcement_on("alpha", &v.owner.clone_url("alpha"), &listed, &[&helper.hex], at));
        w.run_until("all that they published", MINUTE, |w| w.has_all(&early));
    });
}

#[test]
fn a_live_subscription_takes_the_place_of_a_page() {
    scenario("a_live_subscription_takes_the_place_of_a_page", |w| {
        let v = village(w, 60);
        settle(w);
        let mut all: Vec<EventRef> = Vec::new();
        // The relay answers what is live and leaves the pages open until their deadline.
        w.relay("far").ignores_history = true;
        for n in 0..10 {
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            w.run_for(6 * SECOND);
            all.push(issue);
        }
        let live = v.owner.comment(&all[9], w.clock.wall(), "live");
        w.publish("far", &live);
        // What found no place waits until the pages have been given up, one deadline after the other.
        w.run_until("the last window is covered", HOUR, |w| w.has(&live));
        w.relay("far").ignores_history = false;
        let comments: Vec<EventRef> = all.iter().map(|e| v.owner.comment(e, OLD, "older than its root")).collect();
        w.hold_all("far", &comments);
        w.run_until("the histories", 25 * HOUR, |w| w.has_all(all.iter().chain(&comments)));
    });
}

#[test]
fn consolidation_waits_for_the_end_of_a_cooldown() {
    for pass in 0..8 {
        scenario("consolidation_waits_for_the_end_of_a_cooldown", |w| {
            w.settings.limits.consolidate_above_filters = 20;
            let v = village(w, 60);
            settle(w);
            let mut all: Vec<EventRef> = Vec::new();
            for n in 0..14 {
                if n % 5 == 0 {
                    let limited = Some(Refusal::Closed("rate-limited: slow down there chief"));
                    w.relay("far").refusals = (0..pass).map(|_| None).chain([limited]).collect();
                }
                let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
                let comment = v.owner.comment(&issue, OLD + n, "older than its root");
                w.hold("far", &comment);
                w.publish("far", &issue);
                w.run_for(6 * SECOND);
                all.extend([issue, comment]);
            }
            w.run_until("everything", 10 * MINUTE, |w| w.has_all(&all));
            assert_eq!(w.relay("far").dials.len(), 1);
        });
    }
}

#[test]
fn a_quick_reconnect_never_sends_the_same_req_twice() {
    scenario("a_quick_reconnect_never_sends_the_same_req_twice", |w| {
        // Links that live no longer than they do here are given less and less.
        w.settings.timing.stable_after = grasp_sync::time::Duration::from_secs(5);
        w.add_relay("hub", RelayConfig::strfry());
        w.bootstrap("hub");
        settle(w);
        for _ in 0..20 {
            let pause = 6 * SECOND + w.rng.below(SECOND);
            w.run_for(pause);
            w.relay_says("hub", &notice("welcome"));
            w.run_for(50 * MILLI);
            w.drop_links("hub");
        }
        assert!(w.relay("hub").dials.len() > 15);
    });
}
