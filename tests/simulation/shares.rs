//! No stranger costs more than his share (spec section 16): what keeps the rules and is much.

use crate::clock::{MINUTE, SECOND};
use crate::events::{Author, EventRef, SimEvent};
use crate::model_relay::{RelayConfig, event_text};
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use crate::world::World;
use std::rc::Rc;

/// Issues of `alpha` that also name `beta`, which somebody else announces later and which lists the relay `two`; and there,
/// comments on them.
struct Later {
    other: Author,
    comments: Vec<EventRef>,
}

impl Later {
    fn announce(&self, w: &mut World) {
        let relays = ["wss://hub.example", "wss://two.example"];
        let announcement = self.other.announcement("beta", &relays, w.clock.wall());
        w.publish("hub", &announcement);
    }
}

fn issues_before(w: &mut World, issues: u64) -> Later {
    let v = village(w, 500);
    w.add_relay("two", RelayConfig::strfry());
    let other = Author::new(2);
    let beta = other.repo("beta");
    let issue = |n: u64| v.owner.root(1621, &[&beta, &v.repo], OLD + 60 + n, &n.to_string());
    let issues: Vec<EventRef> = (0..issues).map(issue).collect();
    w.hold_all("hub", &issues);
    let comment = |(n, issue): (usize, &EventRef)| v.owner.comment(issue, OLD + 90_000 + n as u64, "there alone");
    let comments: Vec<EventRef> = issues.iter().enumerate().step_by(50).map(comment).collect();
    w.hold_all("two", &comments);
    settle(w);
    assert!(w.has_all(&issues));
    Later { other, comments }
}

#[test]
fn issues_before_an_announcement_belong_to_its_repo() {
    scenario("issues_before_an_announcement_belong_to_its_repo", |w| {
        let later = issues_before(w, 3);
        later.announce(w);
        w.run_until("what is said of them elsewhere", MINUTE, |w| w.has_all(&later.comments));
    });
}

#[test]
fn they_do_after_a_restart_too() {
    scenario("they_do_after_a_restart_too", |w| {
        let later = issues_before(w, 3);
        w.kill();
        w.start();
        w.run_for(MINUTE);
        later.announce(w);
        w.run_until("what is said of them elsewhere", MINUTE, |w| w.has_all(&later.comments));
        w.kill();
        w.start();
        w.run_for(MINUTE);
        assert_eq!(w.relay_status("two")["root_events"], 3);
    });
}

#[test]
fn they_do_if_they_are_more_than_one_look_finds() {
    scenario("they_do_if_they_are_more_than_one_look_finds", |w| {
        let later = issues_before(w, 2_500);
        later.announce(w);
        w.run_until("what is said of them elsewhere", 5 * MINUTE, |w| w.has_all(&later.comments));
        quiet(w);
        assert_eq!(w.relay_status("two")["root_events"], 2_500);
    });
}

/// An announcement that nobody has signed.
fn forged(event: &SimEvent, n: u64) -> EventRef {
    let json =
        event.json.replace(&format!("\"created_at\":{}", event.created_at), &format!("\"created_at\":{}", OLD + n));
    assert_ne!(json, event.json);
    let SimEvent { id, author, created_at, kind, tags, .. } = event;
    let (id, author, tags) = (id.clone(), author.clone(), tags.clone());
    Rc::new(SimEvent { id, author, created_at: *created_at, kind: *kind, tags, json })
}

#[test]
fn a_relay_that_forges_without_end_is_cut_and_others_are_heard() {
    scenario("a_relay_that_forges_without_end_is_cut_and_others_are_heard", |w| {
        let v = village(w, 60);
        settle(w);
        let subscriptions: Vec<String> =
            w.relay("far").sessions().values().flat_map(|s| s.subscriptions.keys().cloned()).collect();
        let genuine = Author::new(9).announcement("gamma", &["wss://far.example"], OLD + 5_000_000);
        for n in 0..300 {
            w.relay_says("far", &event_text(&subscriptions[0], &forged(&genuine, n)));
        }
        w.run_for(2 * SECOND);
        assert!(!w.has(&genuine));
        assert_eq!(w.relay_status("far")["last_lost"]["why"], "too many forged events");
        assert!(w.metric("grasp_sync_events_refused_total{reason=\"forged\"}") <= 110);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "an honest one");
        w.publish("hub", &issue);
        w.run_until("what others send", SECOND, |w| w.has(&issue));
        w.run_until("it is asked again, later", MINUTE, |w| w.links_to("far") == 1);
    });
}
