//! What does not fit live and is asked in turn: what comes late is found as if it were live, and nothing is sent over and
//! over.

use crate::clock::{HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::scenario;
use crate::setup::{OLD, Village, settle, village};
use crate::world::World;
use grasp_sync::time::Duration;

/// A village in which `far` gives so few subscriptions that some issues take turns: those, given back with it, that its
/// pages brought first. Nothing but turns brings what is said about them for a month.
fn crowded(w: &mut World) -> (Village, Vec<EventRef>) {
    let v = village(w, 500);
    w.settings.timing.daily_catchup = Duration::from_secs(30 * 86_400);
    let far = w.relay("far");
    far.config.flavour.subscriptions.max = 10;
    far.config.flavour.filters.max = 10;
    let mut issues = v.issues(2_600, OLD + 60);
    w.hold_all("far", &issues);
    settle(w);
    let status = w.relay_status("far");
    assert_eq!(status["coverage"], "polled");
    assert!(status["polled"]["root_events"].as_u64() >= Some(500), "{}", status["polled"]);
    (v, issues.split_off(2_400))
}

#[test]
fn what_comes_late_is_found_by_the_next_whole_turn() {
    scenario("what_comes_late_is_found_by_the_next_whole_turn", |w| {
        let (v, issues) = crowded(w);
        for issue in issues.iter().take(20) {
            w.run_for(3 * MINUTE + 7 * SECOND);
            let late = v.owner.comment(issue, w.clock.wall() - 890, "late");
            let fresh = v.owner.comment(issue, w.clock.wall(), "fresh");
            w.publish("far", &late);
            w.publish("far", &fresh);
            w.run_for(SECOND);
            assert!(!w.has(&fresh), "it does not come live");
            w.run_until("what is fresh", 2 * MINUTE, |w| w.has(&fresh));
            w.run_until("what was late", 17 * MINUTE, |w| w.has(&late));
        }
    });
}

#[test]
fn a_flood_in_one_repo_keeps_no_new_issue_of_another_waiting() {
    scenario("a_flood_in_one_repo_keeps_no_new_issue_of_another_waiting", |w| {
        let (v, _) = crowded(w);
        let (other, stranger) = (Author::new(8), Author::new(9));
        let listed = ["wss://hub.example", "wss://far.example"];
        w.publish("hub", &other.announcement("beta", &listed, w.clock.wall()));
        w.run_for(MINUTE);
        let mut issues = Vec::new();
        for n in 0..40 {
            for m in 0..40 {
                w.publish("far", &stranger.issue(&v.repo, w.clock.wall(), &format!("flood {n} {m}")));
            }
            if n % 4 == 0 {
                let issue = other.issue(&other.repo("beta"), w.clock.wall(), &format!("honest {n}"));
                w.publish("far", &issue);
                issues.push(issue);
            }
            w.run_for(7 * SECOND);
            let comments: Vec<EventRef> =
                issues.iter().map(|issue| other.comment(issue, w.clock.wall(), &format!("comment {n}"))).collect();
            comments.iter().for_each(|comment| w.publish("far", comment));
            w.run_for(2 * SECOND);
            assert_eq!(w.missing(&comments), 0, "live, however many others there are ({n})");
        }
        assert!(w.relay_status("far")["polled"]["root_events"].as_u64() >= Some(2_000));
    });
}

#[test]
fn what_comes_late_is_found_although_the_link_is_lost_after_a_quick_poll() {
    scenario("what_comes_late_is_found_although_the_link_is_lost_after_a_quick_poll", |w| {
        let (v, issues) = crowded(w);
        let mut overlooked = 0;
        for n in 0..12 {
            w.run_for(n * MINUTE);
            let late = v.owner.comment(&issues[n as usize], w.clock.wall() - 890, "late");
            w.publish("far", &late);
            w.run_for(3 * MINUTE);
            overlooked += u64::from(!w.has(&late));
            w.drop_links("far");
            w.run_until("what was late", 2 * MINUTE, |w| w.has(&late));
        }
        assert!(overlooked > 4, "quick polls do not reach back so far: {overlooked}");
    });
}

#[test]
fn what_takes_turns_is_sent_a_few_times_and_not_at_every_turn() {
    scenario("what_takes_turns_is_sent_a_few_times_and_not_at_every_turn", |w| {
        let (v, issues) = crowded(w);
        let mut said = Vec::new();
        let mut minute = |w: &mut World, n: usize| {
            let comments: Vec<EventRef> =
                (0..5).map(|i| v.owner.comment(&issues[(5 * n + i) % 200], w.clock.wall(), "said")).collect();
            comments.iter().for_each(|comment| w.publish("far", comment));
            said.extend(comments);
            w.run_for(MINUTE);
        };
        (0..30).for_each(|n| minute(w, n));
        let before = w.relay("far").events_sent();
        (30..150).for_each(|n| minute(w, n));
        let sent = w.relay("far").events_sent() - before;
        w.run_for(HOUR / 30);
        assert_eq!(w.missing(&said), 0);
        // Two filters match each, at one quick poll or two and one whole poll or two, and the oldest of a page come twice.
        assert!((4 * 600..=12 * 600).contains(&sent), "{sent}");
    });
}
