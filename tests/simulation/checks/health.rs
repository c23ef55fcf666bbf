//! When a relay may be dialled again (spec section 7).

use super::Verdict;
use crate::clock::{DAY, HOUR, Micros, SECOND};

/// When a relay may be dialled again (spec section 7).
#[derive(Clone, Debug, Default)]
pub struct HealthCheck {
    failures: u32,
    first_failure: Micros,
    allowed_at: Micros,
    /// What the relay is was asked, and the dial that this began is to follow.
    dial_follows: bool,
    asked_at: Micros,
    /// The relay is not to be asked again before this.
    ask_at: Micros,
    dialled_at: Micros,
    /// How often anybody had been heard when a failure was last counted, and what was counted before.
    lives: u64,
    before: (u32, Micros),
    /// The relay has asked not to be dialled before this.
    busy_until: Micros,
    /// The dial will find no relay at its path, and whether it was the first try to.
    not_found: bool,
    other_form_tried: bool,
}

impl HealthCheck {
    pub fn on_dial(&mut self, at: Micros) -> Verdict {
        self.dialled_at = at;
        if at < self.busy_until {
            return Err(format!("dialled {} ms before it said", (self.busy_until - at).div_ceil(1_000)));
        }
        // Microseconds that a process loses by its own clock's beginning are no sin.
        if at < self.allowed_at {
            return Err(format!(
                "dialled after {} failures, {} ms too early",
                self.failures,
                (self.allowed_at - at).div_ceil(1_000)
            ));
        }
        Ok(())
    }

    /// The relay is asked what it is. `beside`: there is a link to it; else this is a dial, which is judged as well.
    pub fn on_inquiry(&mut self, at: Micros, beside: bool) -> Verdict {
        if at < self.ask_at {
            return Err("asked what it is twice in a day".to_owned());
        }
        self.dial_follows = !beside;
        self.asked_at = at;
        Ok(())
    }

    /// What came of that. Whoever cannot be reached may be asked at the next dial.
    pub fn on_inquiry_end(&mut self, reached: bool) {
        if reached {
            self.ask_at = self.asked_at + 22 * HOUR;
        } else {
            self.dial_follows = false;
        }
    }

    /// The relay has said when it wants to be dialled again.
    pub fn on_retry_after(&mut self, at: Micros, wait: Micros) {
        self.busy_until = self.busy_until.max(at + wait.min(HOUR));
    }

    /// A dial will find no relay at its path: one at the other form of it may follow at once.
    pub fn on_not_found(&mut self) {
        self.not_found = true;
    }

    /// The process has forgotten what it knew.
    pub fn forget_inquiry(&mut self) {
        self.ask_at = 0;
    }

    /// Whether a dial is the second half of one that has begun.
    pub fn goes_on(&mut self) -> bool {
        std::mem::take(&mut self.dial_follows)
    }

    /// The network of this side is back after an outage since `began`, when somebody had been heard for the `lives`th
    /// time: what was counted since is void, and so is that time.
    pub fn on_return(&mut self, began: Micros, at: Micros, lives: u64) {
        if self.lives == lives {
            (self.failures, self.first_failure) = self.before;
        }
        self.first_failure = (self.first_failure + (at - began)).min(at);
        // Whoever was failing before is visited hourly at most.
        let hourly = self.dialled_at + HOUR;
        self.allowed_at = if self.failures == 0 { at } else { self.allowed_at.min(hourly) };
    }

    /// A dial or link has ended. `lives`: how often anybody was heard before.
    pub fn on_end(&mut self, at: Micros, stable: bool, lives: u64) {
        let goes_on = std::mem::take(&mut self.not_found) && !self.other_form_tried;
        self.other_form_tried = goes_on;
        if goes_on {
            // What it is may be asked there, too.
            (self.dial_follows, self.ask_at) = (true, 0);
            return;
        }
        if stable {
            let HealthCheck { ask_at, busy_until, .. } = *self;
            *self = HealthCheck { allowed_at: at, ask_at, busy_until, ..HealthCheck::default() };
            return;
        }
        if self.lives != lives {
            self.lives = lives;
            self.before = (self.failures, self.first_failure);
        }
        if self.failures == 0 {
            self.first_failure = at;
        }
        let doubled = (5 * SECOND).saturating_mul(1 << self.failures.min(20)).min(HOUR);
        self.failures += 1;
        self.allowed_at = at + if at - self.first_failure >= DAY { DAY } else { doubled };
    }
}

#[test]
fn delays_double_to_an_hour_and_then_last_a_day() {
    let mut health = HealthCheck::default();
    let mut at = 0;
    let mut delays = Vec::new();
    while at < 2 * DAY {
        health.on_dial(at).expect("allowed");
        health.on_end(at, false, 1);
        assert!(health.on_dial(health.allowed_at - 1).is_err());
        delays.push((health.allowed_at - at) / SECOND);
        at = health.allowed_at;
    }
    assert_eq!(delays[..11], [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]);
    assert_eq!(*delays.last().expect("some"), 86_400);
    health.on_end(at, true, 1);
    health.on_dial(at).expect("at once after a success");
}

#[test]
fn what_an_outage_of_ours_counted_is_void() {
    let mut health = HealthCheck::default();
    for at in [0, 5, 15] {
        health.on_dial(at * SECOND).expect("allowed");
        health.on_end(at * SECOND, false, 1);
    }
    let mut failing = health.clone();
    health.lives = 2;
    health.before = (0, 0);
    health.on_return(0, 30 * HOUR, 2);
    health.on_dial(30 * HOUR).expect("at once");
    health.on_end(30 * HOUR, false, 3);
    assert_eq!(health.allowed_at, 30 * HOUR + 5 * SECOND, "the first failure");
    failing.on_return(15 * SECOND, 16 * SECOND, 2);
    assert_eq!(failing.allowed_at, 35 * SECOND, "it was failing before");
}
