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
}

impl HealthCheck {
    pub fn on_dial(&self, at: Micros) -> Verdict {
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

    /// The relay is asked what it is. `beside`: there is a link to it; else this is a dial.
    pub fn on_inquiry(&mut self, at: Micros, beside: bool) -> Verdict {
        if at < self.ask_at {
            return Err("asked what it is twice in a day".to_owned());
        }
        self.dial_follows = !beside;
        self.asked_at = at;
        if beside { Ok(()) } else { self.on_dial(at) }
    }

    /// What came of that. Whoever cannot be reached may be asked at the next dial.
    pub fn on_inquiry_end(&mut self, reached: bool) {
        if reached {
            self.ask_at = self.asked_at + 22 * HOUR;
        } else {
            self.dial_follows = false;
        }
    }

    /// The process has forgotten what it knew.
    pub fn forget_inquiry(&mut self) {
        self.ask_at = 0;
    }

    /// Whether a dial is the second half of one that has begun.
    pub fn goes_on(&mut self) -> bool {
        std::mem::take(&mut self.dial_follows)
    }

    pub fn on_end(&mut self, at: Micros, stable: bool) {
        if stable {
            *self = HealthCheck { allowed_at: at, ask_at: self.ask_at, ..HealthCheck::default() };
            return;
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
        health.on_end(at, false);
        assert!(health.on_dial(health.allowed_at - 1).is_err());
        delays.push((health.allowed_at - at) / SECOND);
        at = health.allowed_at;
    }
    assert_eq!(delays[..11], [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]);
    assert_eq!(*delays.last().expect("some"), 86_400);
    health.on_end(at, true);
    health.on_dial(at).expect("at once after a success");
}
