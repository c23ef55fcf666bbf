//! A GRASP service that holds more of ours than its subscriptions carry: it is asked for everything it has at once.

use crate::clock::{DAY, HOUR, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, Village, quiet, settle, village};
use crate::world::World;

const GRASP: &str = r#"{"supported_grasps":["GRASP-01"],"limitation":{"max_subscriptions":10}}"#;

/// So many issues that chunks of five do not carry them live, a comment each, on a GRASP service.
fn grasp(w: &mut World) -> (Village, Vec<EventRef>, Vec<EventRef>) {
    w.settings.limits.filter_values_max = 5;
    let v = village(w, 60);
    w.relay("far").config.flavour.info = Some(GRASP);
    let issues = v.issues(300, OLD + 60);
    let comments: Vec<EventRef> = issues.iter().map(|i| v.owner.comment(i, i.created_at + 5, "x")).collect();
    w.hold_all("far", issues.iter().chain(&comments));
    settle(w);
    (v, issues, comments)
}

#[test]
fn a_grasp_that_does_not_fit_is_followed_with_one_filter() {
    scenario("a_grasp_that_does_not_fit_is_followed_with_one_filter", |w| {
        let (v, issues, comments) = grasp(w);
        assert!(w.has_all(issues.iter().chain(&comments)));
        let status = w.relay_status("far");
        assert_eq!((&status["filtering"], &status["coverage"]), (&"none".into(), &"full".into()));
        let live = v.owner.comment(&issues[0], w.clock.wall(), "on the oldest");
        w.publish("far", &live);
        w.run_until("a live comment", 2 * SECOND, |w| w.has(&live));

        // What it holds of others is not ours to keep, and no reason to leave.
        let stranger = Author::new(9);
        let foreign: Vec<EventRef> =
            (0..20).map(|n| stranger.issue(&stranger.repo("theirs"), w.clock.wall(), &n.to_string())).collect();
        foreign.iter().for_each(|event| w.publish("far", event));
        w.run_for(HOUR);
        assert_eq!(w.missing(&foreign), foreign.len());
        assert_eq!(w.relay("far").dials.len(), 1);
        let from = w.clock.now();
        w.run_for(HOUR);
        let reqs = w.relay("far").reqs_since(from).count();
        assert!(reqs <= 10, "{reqs} REQs in an hour");
    });
}

#[test]
fn what_comes_late_to_a_grasp_is_found_by_its_daily_turn_in_three_stages() {
    scenario("what_comes_late_to_a_grasp_is_found_by_its_daily_turn_in_three_stages", |w| {
        let (v, issues, _) = grasp(w);
        let from = w.clock.now();
        // A repo, its issue and a comment on that, all unknown until the turn asks for them in this order.
        let neighbour = Author::new(8);
        let announcement = neighbour.announcement("beta", &["wss://far.example"], OLD);
        let issue = neighbour.issue(&neighbour.repo("beta"), OLD + 9, "late");
        let late = [neighbour.comment(&issue, OLD + 10, "late"), v.owner.comment(&issues[7], OLD + 11, "late"), issue];
        w.hold("far", &announcement);
        w.hold_all("far", &late);
        w.run_until("the daily turn", DAY + HOUR, |w| w.has_all(&late));
        quiet(w);
        let status = w.relay_status("far");
        assert_eq!((&status["filtering"], &status["sweeps_failed"]), (&"none".into(), &false.into()));
        let wide =
            w.relay("far").reqs_since(from).filter(|req| req.filters.iter().any(|f| f.asks_everything())).count();
        assert!((10..=40).contains(&wide), "{wide} pages of everything");
        w.kill();
        settle(w);
        assert!(w.has_all(&late));
    });
}

#[test]
fn a_grasp_that_holds_mostly_what_is_not_ours_is_asked_for_ours() {
    scenario("a_grasp_that_holds_mostly_what_is_not_ours_is_asked_for_ours", |w| {
        w.settings.limits.filter_values_max = 2;
        let v = village(w, 500);
        w.relay("far").config.flavour.info = Some(GRASP);
        let issues = v.issues(90, OLD + 60);
        let stranger = Author::new(9);
        let foreign = |n| stranger.issue(&stranger.repo("theirs"), OLD + n, &format!("theirs {n}"));
        let foreign: Vec<EventRef> = (0..1_200).map(foreign).collect();
        w.hold_all("far", issues.iter().chain(&foreign));
        settle(w);
        w.run_until("ours", HOUR, |w| w.has_all(&issues));
        // The first turn asks layer by layer as it learns of them; the next, for everything.
        w.run_for(DAY + HOUR);
        quiet(w);
        let status = w.relay_status("far");
        assert_eq!(status["limits"]["learned"]["crowded"], true);
        assert_eq!((&status["filtering"], &status["coverage"]), (&"by_tag".into(), &"polled".into()));
        let from = w.clock.now();
        let live = v.owner.comment(&issues[0], w.clock.wall(), "on the oldest");
        w.publish("far", &live);
        w.run_until("a live comment", HOUR, |w| w.has(&live));
        w.run_for(DAY);
        let wide = w.relay("far").reqs_since(from).filter(|req| req.filters.iter().any(|f| f.asks_everything()));
        assert_eq!(wide.count(), 0);
        assert_eq!(w.missing(&foreign), foreign.len());
    });
}

#[test]
fn a_grasp_that_has_nothing_new_is_compared_as_one_set() {
    scenario("a_grasp_that_has_nothing_new_is_compared_as_one_set", |w| {
        let v = village_that_reconciles(w);
        let turn = |w: &mut World| {
            let before = w.relay_status("far")["last_full_catchup"].as_u64();
            // Audits ask since a day ago.
            let whole = |w: &mut World| w.relay("far").negs.iter().filter(|neg| neg.filter.since.is_none()).count();
            let negs = whole(w);
            w.run_until("a daily turn", 2 * DAY, |w| whole(w) > negs);
            quiet(w);
            assert!(w.relay_status("far")["last_full_catchup"].as_u64() > before);
            whole(w) - negs
        };
        turn(w);
        assert_eq!(w.relay_status("far")["filtering"], "none");
        assert_eq!(turn(w), 1, "everything, once");

        // A repo, its issue and a comment on that: each is known to be ours after the one before.
        let neighbour = Author::new(8);
        let announcement = neighbour.announcement("beta", &["wss://far.example"], OLD);
        let issue = neighbour.issue(&neighbour.repo("beta"), OLD + 9, "late");
        let late = [v.owner.comment(&issue, OLD + 10, "late"), neighbour.issue(&v.repo, OLD + 12, "later"), issue];
        w.hold("far", &announcement);
        w.hold_all("far", &late);
        assert!(turn(w) > 1);
        assert!(w.has_all(&late) && w.has(&announcement));
        assert_eq!(turn(w), 1);
    });
}

/// As [`grasp`], on one that speaks NIP-77.
fn village_that_reconciles(w: &mut World) -> Village {
    w.settings.limits.filter_values_max = 5;
    let v = village(w, 500);
    w.relay("far").config = RelayConfig::reconciling();
    w.relay("far").config.flavour.info = Some(GRASP_77);
    let issues = v.issues(300, OLD + 60);
    w.hold_all("far", &issues);
    settle(w);
    assert!(w.has_all(&issues));
    v
}

const GRASP_77: &str =
    r#"{"supported_nips":[1,11,77],"supported_grasps":["GRASP-01"],"limitation":{"max_subscriptions":10}}"#;
