//! First catch-up, gaps, restarts and the daily turn: what is asked, how often, and that nothing is left out.

use crate::clock::{DAY, HOUR, MILLI, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::link::Path;
use crate::model_relay::{Mode, RelayConfig};
use crate::scenario;
use crate::setup::{OLD, assert_at, quiet, settle, village};
use crate::world::World;

#[test]
fn first_catch_up_finds_the_second_relay_and_reads_past_its_cap_and_ties() {
    scenario("first_catch_up_finds_the_second_relay_and_reads_past_its_cap_and_ties", |w| {
        let v = village(w, 60);
        // Fifty issues share one second, so that the end of a page falls among them.
        let issues: Vec<EventRef> = (0..150u64)
            .map(|n| v.owner.issue(&v.repo, OLD + 100 + if (30..80).contains(&n) { 30 } else { n }, &n.to_string()))
            .collect();
        let comments: Vec<EventRef> = (0..300u64)
            .map(|n| v.owner.comment(&issues[n as usize / 2], OLD + 1_000 + n / 3, &n.to_string()))
            .collect();
        w.hold_all("far", &issues);
        w.hold_all("far", &comments);
        w.start();
        w.run_until("the announcement", 10 * SECOND, |w| w.has(&v.announcement));
        let announced = w.clock.now();
        w.run_until("the second relay is dialled", 10 * SECOND, |w| !w.relay("far").dials.is_empty());
        assert_at(w.relay("far").dials[0], announced + 5 * SECOND - 20_000, 40_000, "the window before the dial");
        w.run_until("all issues", 5 * MINUTE, |w| w.has_all(&issues));
        w.run_until("all comments", 5 * MINUTE, |w| w.has_all(&comments));
        quiet(w);
        let sent = w.relay("far").events_sent();
        assert!(sent <= 3 * 451, "{sent} events sent for 451");
    });
}

#[test]
fn a_chain_of_relays_is_followed_to_its_end() {
    scenario("a_chain_of_relays_is_followed_to_its_end", |w| {
        let v = village(w, 500);
        w.add_relay("third", RelayConfig::strfry());
        let beta = Author::new(2).announcement("beta", &["wss://third.example"], OLD);
        w.hold("far", &beta);
        let issue = Author::new(3).issue(&Author::new(2).repo("beta"), OLD + 5, "at the end");
        w.hold("third", &issue);
        w.start();
        w.run_until("the issue at the chain's end", 2 * MINUTE, |w| w.has(&issue));
        assert!(w.has(&v.announcement));
    });
}

#[test]
fn a_state_that_comes_before_its_announcement_is_asked_for_again() {
    scenario("a_state_that_comes_before_its_announcement_is_asked_for_again", |w| {
        let v = village(w, 500);
        // Newer than the announcement, so the relay sends it first.
        let state = v.owner.state("alpha", OLD + 100);
        let helper = Author::new(7);
        let listed = ["relays", "wss://grasp.example", "wss://hub.example"];
        let beta = v.owner.announcement_on("beta", &v.owner.clone_url("beta"), &listed, &[&helper.hex], OLD);
        let helpers_state = helper.state("beta", OLD + 200);
        let strangers_state = Author::new(8).state("beta", OLD + 300);
        let acceptance = helper.acceptance("beta", &[&v.owner], OLD + 150);
        w.hold_all("hub", [&state, &beta, &acceptance, &helpers_state, &strangers_state]);
        w.forbid(&strangers_state, "its author is no maintainer");
        w.start();
        w.run_until("the states", MINUTE, |w| w.has(&state) && w.has(&helpers_state));
    });
}

#[test]
fn a_live_state_that_overtakes_its_announcement_is_asked_for_again() {
    scenario("a_live_state_that_overtakes_its_announcement_is_asked_for_again", |w| {
        let v = village(w, 500);
        settle(w);
        let now = w.clock.wall();
        let state = v.owner.state("gamma", now);
        w.publish("hub", &state);
        w.run_for(SECOND);
        w.publish("hub", &v.owner.announcement("gamma", &["wss://hub.example"], now));
        w.run_until("the state", MINUTE, |w| w.has(&state));
    });
}

#[test]
fn after_a_gap_only_what_was_published_meanwhile_is_read() {
    scenario("after_a_gap_only_what_was_published_meanwhile_is_read", |w| {
        let v = village(w, 60);
        let issues = v.issues(100, OLD + 60);
        w.hold_all("far", &issues);
        settle(w);
        assert!(w.has_all(&issues));
        w.run_for(HOUR);
        let before = w.relay("far").events_sent();
        w.relay("far").mode = Mode::Refuses;
        w.drop_links("far");
        let now = w.clock.wall();
        let meanwhile: Vec<EventRef> =
            (0..5).map(|n| v.owner.issue(&v.repo, now + n, &format!("meanwhile {n}"))).collect();
        w.publish("far", &v.owner.comment(&issues[3], now + 2, "to an old root"));
        meanwhile.iter().for_each(|e| w.publish("far", e));
        w.run_for(12 * SECOND);
        w.relay("far").mode = Mode::Up;
        let back = w.clock.now();
        w.run_until("what was published meanwhile", MINUTE, |w| w.has_all(&meanwhile));
        quiet(w);
        let again = w.relay("far").events_sent() - before;
        // Live and swept, by repo and by root: a few times each of the six, none of the hundred.
        assert!(again <= 6 * 4, "{again} events sent again");
        let through = now - 1;
        for req in w.relay("far").reqs_since(back) {
            for filter in req
                .filters
                .iter()
                .filter(|f| !meanwhile.iter().any(|e| f.asks("e", &e.id) || f.asks("E", &e.id) || f.asks("q", &e.id)))
            {
                let since = filter.since.unwrap_or(0);
                assert!(since >= through - 900 - 60, "asked from {since}: {}", filter.json);
                assert!(since <= now + 60 - 900, "asked from {since} only: {}", filter.json);
            }
        }
    });
}

#[test]
fn a_gap_longer_than_the_overlap_is_closed() {
    scenario("a_gap_longer_than_the_overlap_is_closed", |w| {
        let v = village(w, 60);
        settle(w);
        w.relay("far").mode = Mode::Refuses;
        w.drop_links("far");
        let now = w.clock.wall();
        let meanwhile: Vec<EventRef> = (0..200).map(|n| v.owner.issue(&v.repo, now + 30 * n, &n.to_string())).collect();
        for event in &meanwhile {
            w.run_for(30 * SECOND);
            w.publish("far", event);
        }
        w.relay("far").mode = Mode::Up;
        w.run_until("two hours of issues", 2 * HOUR, |w| w.has_all(&meanwhile));
    });
}

#[test]
fn a_kill_during_catch_up_loses_nothing_and_claims_nothing() {
    scenario("a_kill_during_catch_up_loses_nothing_and_claims_nothing", |w| {
        let v = village(w, 60);
        let issues = v.issues(300, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        for _ in 0..20 {
            let some = 5 * SECOND + w.rng.below(2 * SECOND);
            w.run_for(some);
            w.kill();
            let down = w.rng.below(20 * SECOND);
            w.run_for(down);
            w.start();
        }
        w.run_until("all issues", 10 * MINUTE, |w| w.has_all(&issues));
    });
}

#[test]
fn a_kill_just_before_the_last_commit_of_a_catch_up_claims_nothing() {
    scenario("a_kill_just_before_the_last_commit_of_a_catch_up_claims_nothing", |w| {
        // Answers are quick and the disk is slow: what a catch-up brought waits for its commit when it ends.
        w.path = Path { latency: MILLI, jitter: 0 };
        w.commit_took = 700 * MILLI;
        let v = village(w, 500);
        let issues = v.issues(30, OLD + 60);
        let comments: Vec<EventRef> = issues.iter().map(|i| v.owner.comment(i, i.created_at + 5, "")).collect();
        w.hold_all("far", issues.iter().chain(&comments));
        let mut lost = 0;
        for n in 0..8 {
            w.start();
            let sweeps_left = |w: &World| w.relay_status("far")["sweeps_left"].as_u64();
            // After the catch-up, or after the window that follows on it.
            for _ in 0..1 + n % 2 {
                w.run_until("sweeps begin", MINUTE, |w| sweeps_left(w).is_some_and(|n| n > 0) || w.has_all(&comments));
                w.run_until("sweeps end", MINUTE, |w| sweeps_left(w).is_none_or(|n| n == 0));
            }
            lost += w.missing(issues.iter().chain(&comments));
            w.kill();
        }
        assert!(lost > 0, "no kill came before a commit");
        settle(w);
        assert!(w.has_all(issues.iter().chain(&comments)));
    });
}

#[test]
fn a_restart_fetches_almost_nothing_again() {
    scenario("a_restart_fetches_almost_nothing_again", |w| {
        let v = village(w, 60);
        let issues = v.issues(300, OLD + 60);
        w.hold_all("far", &issues);
        settle(w);
        for hard in [true, false] {
            w.run_for(10 * MINUTE);
            let before = (w.relay("far").events_sent(), w.relay("hub").events_sent());
            if hard {
                w.kill()
            } else {
                w.stop()
            }
            let down = w.clock.wall();
            let missed = v.owner.issue(&v.repo, down, &format!("while down {hard}"));
            w.publish("far", &missed);
            w.run_for(MINUTE);
            settle(w);
            assert!(w.has(&missed));
            let again = w.relay("far").events_sent() - before.0 + w.relay("hub").events_sent() - before.1;
            assert!(again <= 8, "{again} of 302 events sent again");
            assert!(w.has_all(&issues));
        }
    });
}

/// Full catch-ups a relay has seen: sweeps of layer 1 that ask for everything.
fn full_catch_ups(w: &mut World, relay: &str) -> Vec<u64> {
    let full = |f: &crate::events::DumbFilter| f.is_layer_1() && f.since.is_none() && f.until.is_none();
    w.relay(relay).reqs.iter().filter(|r| r.filters.iter().any(full)).map(|r| r.at).collect()
}

#[test]
fn the_daily_full_catch_up_finds_what_came_late() {
    scenario("the_daily_full_catch_up_finds_what_came_late", |w| {
        let v = village(w, 60);
        settle(w);
        let late = v.owner.issue(&v.repo, OLD + 7, "took a month to get here");
        w.hold("far", &late);
        w.run_until("the late event", DAY + 10 * MINUTE, |w| w.has(&late));
        let turns = full_catch_ups(w, "far");
        assert_eq!(turns.len(), 2, "{turns:?}");
        // The time of the last one is kept in whole seconds.
        assert_at(turns[1] + SECOND, turns[0] + DAY, MINUTE, "the daily turn");
        // Live again afterwards.
        quiet(w);
        let now = v.owner.issue(&v.repo, w.clock.wall(), "now");
        w.publish("far", &now);
        w.run_until("a live event", 2 * SECOND, |w| w.has(&now));
    });
}

#[test]
fn the_daily_turn_is_remembered_across_a_restart() {
    scenario("the_daily_turn_is_remembered_across_a_restart", |w| {
        let v = village(w, 60);
        settle(w);
        w.run_for(18 * HOUR);
        let late = v.owner.issue(&v.repo, OLD + 7, "took a month to get here");
        w.hold("far", &late);
        w.kill();
        w.run_for(MINUTE);
        settle(w);
        assert_eq!(full_catch_ups(w, "far").len(), 1, "a restart is no reason to read everything");
        w.run_until("the late event", 6 * HOUR, |w| w.has(&late));
        let turns = full_catch_ups(w, "far");
        // The time of the last one is kept in whole seconds.
        assert_at(turns[1] + SECOND, turns[0] + DAY, MINUTE, "the daily turn");
    });
}

#[test]
fn the_daily_turn_finds_deletions_of_what_is_no_root() {
    scenario("the_daily_turn_finds_deletions_of_what_is_no_root", |w| {
        let v = village(w, 60);
        let issue = v.owner.issue(&v.repo, OLD + 60, "issue");
        let helper = Author::new(5);
        let comment = helper.comment(&issue, OLD + 120, "regretted");
        w.hold_all("far", [&issue, &comment]);
        settle(w);
        assert!(w.has(&comment));
        let deletion = helper.deletion(&[&comment], &[], w.clock.wall());
        w.publish("far", &deletion);
        w.run_until("the deletion", DAY + 10 * MINUTE, |w| w.has(&deletion));
        assert!(!w.has(&comment));
    });
}

#[test]
fn the_same_seed_gives_the_same_outputs_and_another_seed_others() {
    let run = |seed| {
        let mut w = World::new("the_same_seed_gives_the_same_outputs_and_another_seed_others", seed);
        let v = village(&mut w, 60);
        let issues = v.issues(100, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        w.run_for(20 * SECOND);
        w.kill();
        w.start();
        w.run_for(MINUTE);
        w.drop_links("far");
        w.run_for(MINUTE);
        assert!(w.has_all(&issues));
        w.outputs_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2), "the seed draws the jitter");
}
