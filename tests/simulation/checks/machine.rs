//! The machine of each relay, seen from outside: the program's log tells each change of state, and this table says which
//! there may be (spec section 6) and for what reason. New relays may only appear when a window closes, or another gives up
//! its place.

use super::Verdict;
use super::rules::Rules;
use crate::clock::{Micros, SECOND};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Machine {
    states: BTreeMap<String, String>,
    /// When a window last closed, or the process began.
    relays_changed: Micros,
    /// How many changes were heard.
    pub changes: u64,
}

impl Machine {
    /// A new process knows nothing.
    pub fn restart(&mut self, at: Micros) {
        self.states.clear();
        self.relays_changed = at;
    }

    pub fn on_window_closed(&mut self, at: Micros) {
        self.relays_changed = at;
    }

    /// The machine slept: what was to follow at once follows that much later.
    pub fn on_sleep(&mut self, at: Micros, time: Micros) {
        if at - self.relays_changed <= SECOND {
            self.relays_changed += time;
        }
    }

    /// Judges a line of the log, if it tells a change of state.
    pub fn on_line(&mut self, at: Micros, line: &str, rules: &Rules) -> Verdict {
        let Some((url, from, to, why)) = change(line) else { return Ok(()) };
        self.changes += 1;
        let fail = |what: &str| Err(format!("{what}: {line}"));
        match self.states.get(url) {
            Some(known) if known != from => return fail(&format!("it was {known}")),
            None if from != "Idle" => return fail("a relay that begins elsewhere than Idle"),
            None if at - self.relays_changed > SECOND => return fail("a new relay, but no window has just closed"),
            _ => {}
        }
        if !allowed(from, to, why) {
            return fail("no such change is allowed");
        }
        if to == "Closing" && why != "stopping" && rules.bootstrap.contains(url) {
            return fail("a bootstrap relay is dropped");
        }
        if why == "others come before it" {
            // Its place is another's, who may be new.
            self.relays_changed = at;
        }
        match to {
            "Closing" => _ = self.states.remove(url),
            _ => _ = self.states.insert(url.to_owned(), to.to_owned()),
        }
        Ok(())
    }
}

/// `wss://r.example: Idle -> Connecting (needed)` in its parts.
fn change(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (head, why) = line.strip_suffix(')')?.split_once(" (")?;
    let (head, to) = head.split_once(" -> ")?;
    let (url, from) = head.rsplit_once(": ")?;
    Some((url, from, to, why))
}

fn allowed(from: &str, to: &str, why: &str) -> bool {
    match (from, to) {
        ("Idle" | "Backoff" | "Connecting" | "Catchup" | "Live" | "Consolidating", "Closing") => {
            matches!(why, "no repo needs it" | "others come before it" | "stopping")
        }
        ("Idle", "Connecting" | "Backoff") => why == "needed",
        ("Backoff", "Connecting") => matches!(why, "wait is over" | "probing our own network"),
        ("Connecting", "Catchup") => why == "link open",
        ("Catchup", "Live") => why == "all sweeps finished",
        ("Live", "Catchup") => why == "daily turn",
        ("Live", "Consolidating") => matches!(why, "too many live filters" | "fewer repos" | "mostly events of others"),
        ("Consolidating", "Live") => why == "minimal set open",
        ("Connecting" | "Catchup" | "Live" | "Consolidating", "Backoff") => is_loss(why),
        ("Catchup" | "Live" | "Consolidating", "Connecting") => is_loss(why),
        _ => false,
    }
}

/// Whether a reason is one for which a link ends.
fn is_loss(why: &str) -> bool {
    !matches!(
        why,
        "needed"
            | "wait is over"
            | "probing our own network"
            | "link open"
            | "all sweeps finished"
            | "daily turn"
            | "too many live filters"
            | "fewer repos"
            | "mostly events of others"
            | "minimal set open"
            | "no repo needs it"
            | "others come before it"
            | "stopping"
    )
}

#[test]
fn changes_are_judged() {
    let rules = Rules { bootstrap: ["wss://b.example".to_owned()].into(), ..Rules::default() };
    let run = |lines: &[&str]| {
        let mut machine = Machine::default();
        lines.iter().try_for_each(|line| machine.on_line(0, line, &rules))
    };
    let begin = "wss://r.example: Idle -> Connecting (needed)";
    run(&[begin, "what a window asked for", "wss://r.example: Connecting -> Catchup (link open)"]).expect("as usual");
    assert!(run(&[begin, begin]).is_err(), "it is not Idle any more");
    assert!(run(&["wss://r.example: Live -> Catchup (daily turn)"]).is_err(), "from nowhere");
    assert!(run(&[begin, "wss://r.example: Connecting -> Live (link open)"]).is_err(), "past Catchup");
    assert!(run(&[begin, "wss://r.example: Connecting -> Backoff (daily turn)"]).is_err(), "not for that");
    run(&[begin, "wss://r.example: Connecting -> Closing (no repo needs it)", begin]).expect("it may come back");
    let bootstrap = "wss://b.example: Idle -> Connecting (needed)";
    for why in ["no repo needs it", "others come before it"] {
        assert!(run(&[bootstrap, &format!("wss://b.example: Connecting -> Closing ({why})")]).is_err());
    }
    let mut machine = Machine::default();
    assert!(machine.on_line(2 * SECOND, begin, &rules).is_err(), "no window has closed");
    machine.on_window_closed(2 * SECOND);
    machine.on_line(2 * SECOND, begin, &rules).expect("now");
    let other = "wss://other.example: Idle -> Connecting (needed)";
    assert!(machine.on_line(9 * SECOND, other, &rules).is_err(), "there is no place");
    let outranked = "wss://r.example: Connecting -> Closing (others come before it)";
    machine.on_line(9 * SECOND, outranked, &rules).expect("now there is");
    machine.on_line(9 * SECOND, other, &rules).expect("it takes it");
}
