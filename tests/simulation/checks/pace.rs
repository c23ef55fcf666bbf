//! No busy loop: what the process does in an hour is bounded by what happened to it. Each bound is far above what honest
//! work needs and far below what a loop would do.

use super::Verdict;
use crate::clock::{HOUR, Micros};
use std::collections::BTreeMap;

/// REQs that one relay may get in an hour for no reason that is seen from outside: sweeps that are tried again, and
/// polls.
const REQS_FREE: u64 = 1_500;
/// REQs that one open link or one closed window may cause on one relay.
const REQS_PER_CAUSE: u64 = 40;
/// Dials of one relay in an hour that no lost link explains: the backoff's own.
const DIALS_FREE: u64 = 12;
/// Dials in an hour for each link that was lost: a stable relay that drops begins a backoff of its own.
const DIALS_PER_LOSS: u64 = 8;
/// Times that the process may wake in an hour beyond its inputs: for each relay a ping every half minute and its
/// deadlines, for itself its windows, batches and queries.
const WAKES_PER_RELAY: u64 = 500;
const WAKES_FREE: u64 = 5_000;

#[derive(Default)]
struct Hour {
    dials: u64,
    links_lost: u64,
    reqs: u64,
    answers: u64,
    opened: u64,
}

/// What happened in the current hour.
#[derive(Default)]
pub struct Pace {
    hour: u64,
    relays: BTreeMap<usize, Hour>,
    windows: u64,
    inputs: u64,
    wakes: u64,
}

impl Pace {
    pub fn on_dial(&mut self, relay: usize) {
        self.relays.entry(relay).or_default().dials += 1;
    }

    pub fn on_link_lost(&mut self, relay: usize) {
        self.relays.entry(relay).or_default().links_lost += 1;
    }

    pub fn on_opened(&mut self, relay: usize) {
        self.relays.entry(relay).or_default().opened += 1;
    }

    pub fn on_req(&mut self, relay: usize) {
        self.relays.entry(relay).or_default().reqs += 1;
    }

    /// EOSE, CLOSED or NOTICE: each may free a subscription.
    pub fn on_answer(&mut self, relay: usize) {
        self.relays.entry(relay).or_default().answers += 1;
    }

    pub fn on_window(&mut self) {
        self.windows += 1;
    }

    pub fn on_input(&mut self) {
        self.inputs += 1;
    }

    /// The process woke. At the end of each hour, what it did is judged.
    pub fn on_wake(&mut self, at: Micros, relays: usize) -> Verdict {
        let hour = at / HOUR;
        if hour != self.hour {
            let before = std::mem::replace(self, Pace { hour, ..Pace::default() });
            before.judge(relays)?;
        }
        self.wakes += 1;
        Ok(())
    }

    fn judge(&self, relays: usize) -> Verdict {
        let wakes_max = 2 * self.inputs + WAKES_FREE + WAKES_PER_RELAY * relays as u64;
        if self.wakes > wakes_max {
            return Err(format!("woke {} times in an hour with {} inputs", self.wakes, self.inputs));
        }
        for (relay, hour) in &self.relays {
            let reqs_max = 2 * hour.answers + REQS_PER_CAUSE * (hour.opened + self.windows) + REQS_FREE;
            if hour.reqs > reqs_max {
                return Err(format!("relay {relay}: {} REQs in an hour for {} answers", hour.reqs, hour.answers));
            }
            if hour.dials > DIALS_PER_LOSS * hour.links_lost + DIALS_FREE + self.windows {
                return Err(format!("relay {relay}: {} dials in an hour, {} links lost", hour.dials, hour.links_lost));
            }
        }
        Ok(())
    }
}

#[test]
fn an_hour_of_too_much_is_found() {
    let run = |act: &dyn Fn(&mut Pace)| {
        let mut pace = Pace::default();
        act(&mut pace);
        pace.on_wake(HOUR, 1)
    };
    run(&|p| (0..DIALS_FREE).for_each(|_| p.on_dial(0))).expect("the backoff's own");
    assert!(run(&|p| (0..DIALS_FREE + 1).for_each(|_| p.on_dial(0))).is_err());
    run(&|p| (0..REQS_FREE).for_each(|_| p.on_req(0))).expect("free");
    assert!(run(&|p| (0..REQS_FREE + 1).for_each(|_| p.on_req(0))).is_err());
    let wakes = WAKES_FREE + WAKES_PER_RELAY;
    run(&|p| (0..wakes).for_each(|_| p.on_wake(0, 1).expect("the same hour"))).expect("free");
    assert!(run(&|p| (0..wakes + 1).for_each(|_| p.on_wake(0, 1).expect("the same hour"))).is_err());
}
