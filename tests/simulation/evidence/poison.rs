//! What broke the link is asked around (spec section 6): one event cannot be sent without the link ending. Everything
//! else that the relay holds is held in the end, for few links and bytes, and the place is named.

use super::minutely;
use crate::clock::{DAY, HOUR, MINUTE};
use crate::events::EventRef;
use crate::model_relay::{Breaks, RelayConfig};
use crate::scenario;
use crate::setup::{OLD, Village, quiet};
use crate::world::World;

/// Issues besides the poison.
const ISSUES: u64 = 70;
/// Of these, how many are newer than it.
const NEWER: u64 = 20;
/// Links that one such place may cost.
const LINKS_MAX: usize = 16;

/// What the relay has: issues a minute apart, and poisons among them.
struct Poisoned {
    v: Village,
    issues: Vec<EventRef>,
    poisons: Vec<EventRef>,
}

/// What a scenario comes to.
#[derive(Debug, Default)]
struct Cost {
    links: usize,
    bytes: u64,
}

impl Poisoned {
    /// `newer`: how many issues are newer, for each poison.
    fn build(w: &mut World, config: RelayConfig, newer: &[u64], breaks: Breaks) -> Poisoned {
        let v = Village::alone(w, config);
        let mut poisoned = Poisoned { v, issues: Vec::new(), poisons: Vec::new() };
        poisoned.fill(w, newer, breaks);
        poisoned
    }

    fn fill(&mut self, w: &mut World, newer: &[u64], breaks: Breaks) {
        self.issues = self.v.issues(ISSUES, minutely(1));
        w.hold_all("hub", &self.issues);
        for newer in newer {
            let poison = self.at(minutely(ISSUES - newer) + 30);
            w.relay("hub").poison(&poison, breaks);
            w.hold("hub", &poison);
            self.poisons.push(poison);
        }
    }

    fn at(&self, at: u64) -> EventRef {
        self.v.owner.issue(&self.v.repo, at, "poison")
    }

    /// Everything but the poisons is held, and each of these is said to be missing.
    #[track_caller]
    fn judge(&self, w: &mut World, breaks: Breaks) {
        let coverage = w.relay_status("hub")["coverage"].clone();
        let (held, links) = (self.issues.len() - w.missing(&self.issues), w.relay("hub").dials.len());
        assert_eq!(held, self.issues.len(), "after {links} links, with coverage {coverage}");
        if !self.poisons.is_empty() {
            let (gaps, confirmed) = (w.metric("grasp_sync_sweep_gaps_total"), w.is_confirmed("hub", &self.v.repo));
            let admits_a_gap = gaps > 0 && coverage != "full" && !confirmed;
            assert!(admits_a_gap, "{gaps} gaps, coverage {coverage}, confirmed: {confirmed}, after {links} links");
        }
        for poison in &self.poisons {
            assert_named(w, poison, breaks);
        }
    }
}

/// `/status.json` names the second of an event as a gap, and why it cannot be had.
#[track_caller]
fn assert_named(w: &World, poison: &EventRef, breaks: Breaks) {
    let gaps = w.relay_status("hub")["gaps"].clone();
    let at = poison.created_at;
    let is_it = |gap: &&serde_json::Value| gap["from"] == at && gap["to"] == at;
    let gap = gaps.as_array().into_iter().flatten().find(is_it);
    let gap = gap.unwrap_or_else(|| panic!("no gap at {at}: {gaps:#}"));
    assert_eq!(gap["reason"], *breaks.reason().to_string());
    assert!(gap["what"].is_string(), "{gap:#}");
}

/// The whole course: half a day, by which all is found, and three days in which nothing is tried again.
fn run(w: &mut World, poisoned: &Poisoned, breaks: Breaks) -> Cost {
    w.run_for(12 * HOUR);
    poisoned.judge(w, breaks);
    let bytes = w.relay("hub").bytes;
    w.run_for(3 * DAY);
    poisoned.judge(w, breaks);
    Cost { links: w.relay("hub").dials.len(), bytes }
}

/// What `build` begins with these poisons costs no more than it may, compared with the same without.
fn bounded(name: &'static str, newer: &[u64], breaks: Breaks, build: impl Fn(&mut World, &[u64], Breaks) -> Poisoned) {
    let cost = |newer: &[u64]| {
        let mut cost = Cost::default();
        scenario(name, |w| {
            let poisoned = build(w, newer, breaks);
            cost = run(w, &poisoned, breaks);
        });
        cost
    };
    let (usual, poisoned) = (cost(&[]), cost(newer));
    assert!(poisoned.links <= LINKS_MAX * newer.len(), "{breaks:?}: {poisoned:?}, without {usual:?}");
    // Each place is met once in a catch-up, which is then begun anew.
    assert!(poisoned.bytes <= (1 + newer.len() as u64) * usual.bytes, "{breaks:?}: {poisoned:?}, without {usual:?}");
}

/// They are there before the program begins.
fn stored(name: &'static str, config: &RelayConfig, newer: &[u64], breaks: Breaks) {
    bounded(name, newer, breaks, |w, newer, breaks| {
        let poisoned = Poisoned::build(w, config.clone(), newer, breaks);
        w.start();
        poisoned
    });
}

#[test]
fn what_breaks_the_link_is_paged_around() {
    for breaks in Breaks::ALL {
        stored("what_breaks_the_link_is_paged_around", &RelayConfig::strfry(), &[NEWER], breaks);
    }
}

#[test]
fn what_breaks_the_link_is_reconciled_around() {
    for breaks in Breaks::ALL {
        stored("what_breaks_the_link_is_reconciled_around", &RelayConfig::reconciling(), &[NEWER], breaks);
    }
}

/// What a daily turn finds by its id is fetched by its id.
#[test]
fn what_breaks_the_link_when_it_is_fetched_is_asked_around() {
    let name = "what_breaks_the_link_when_it_is_fetched_is_asked_around";
    for breaks in Breaks::ALL {
        bounded(name, &[NEWER], breaks, |w, newer, breaks| {
            let v = Village::alone(w, RelayConfig::reconciling());
            w.start();
            w.run_for(DAY + HOUR);
            let mut poisoned = Poisoned { v, issues: Vec::new(), poisons: Vec::new() };
            poisoned.fill(w, newer, breaks);
            // Audits ask since a day ago.
            let whole = |w: &mut World| w.relay("hub").negs.iter().filter(|neg| neg.filter.since.is_none()).count();
            let before = whole(w);
            w.run_until("the daily turn", DAY + HOUR, |w| whole(w) > before);
            poisoned
        });
    }
}

#[test]
fn two_that_break_the_link_are_asked_around() {
    for config in [RelayConfig::strfry(), RelayConfig::reconciling()] {
        stored("two_that_break_the_link_are_asked_around", &config, &[NEWER, 45], Breaks::TooLarge);
    }
}

#[test]
fn what_breaks_the_link_at_the_very_end_is_asked_around() {
    for config in [RelayConfig::strfry(), RelayConfig::reconciling()] {
        stored("what_breaks_the_link_at_the_very_end_is_asked_around", &config, &[ISSUES], Breaks::NotUtf8);
    }
}

/// It reaches subscribers first, and then lies within the overlap of each new link.
#[test]
fn what_breaks_the_link_among_live_events_is_asked_around() {
    let name = "what_breaks_the_link_among_live_events_is_asked_around";
    for config in [RelayConfig::strfry(), RelayConfig::reconciling()] {
        bounded(name, &[0], Breaks::Protocol, |w, poisons, breaks| {
            let mut poisoned = Poisoned::build(w, config.clone(), &[], breaks);
            w.start();
            quiet(w);
            assert!(w.has_all(&poisoned.issues));
            for n in 0..6 {
                let live = poisoned.v.owner.issue(&poisoned.v.repo, w.clock.wall(), &format!("live {n}"));
                w.publish("hub", &live);
                poisoned.issues.push(live);
                w.run_for(MINUTE);
                if n == 2 && !poisons.is_empty() {
                    let poison = poisoned.at(w.clock.wall());
                    w.relay("hub").poison(&poison, breaks);
                    w.publish("hub", &poison);
                    poisoned.poisons.push(poison);
                    w.run_for(MINUTE);
                }
            }
            poisoned
        });
    }
}

#[test]
fn what_breaks_the_link_in_one_of_two_repos_leaves_the_other_whole() {
    let name = "what_breaks_the_link_in_one_of_two_repos_leaves_the_other_whole";
    for breaks in Breaks::ALL {
        scenario(name, |w| {
            // Both repos are asked for in one filter.
            let poisoned = Poisoned::build(w, RelayConfig::capped(30), &[NEWER], breaks);
            let (owner, other) = (&poisoned.v.owner, poisoned.v.owner.repo("beta"));
            w.hold("hub", &owner.announcement("beta", &["wss://hub.example"], OLD));
            let issues: Vec<EventRef> =
                (0..ISSUES).map(|n| owner.issue(&other, minutely(n) + 20, &format!("beta {n}"))).collect();
            w.hold_all("hub", &issues);
            w.start();
            w.run_for(12 * HOUR);
            poisoned.judge(w, breaks);
            assert_eq!(w.missing(&issues), 0);
            assert!(w.is_confirmed("hub", &other), "nothing of it is missing");
        });
    }
}
