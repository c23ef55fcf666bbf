//! How often a relay deserves a try (spec section 7).
//!
//! Like a visitor at a door: who was let in last time walks straight back in; who was not waits 5 s, then 10 s, then
//! 20 s, up to an hour; who has heard nothing for a day comes by once a day. Only a *stable* connection counts as being
//! let in, so a relay that accepts and hangs up is a closed door; and who is shown out again and again after a first
//! word waits as long as one who was not let in, until a visit lasts. There is no jitter: the window already smooths, and
//! staggered dials would leave partial subscriptions behind.
//!
//! This module knows durations and outcomes. It does not know links, filters or why something failed.

use crate::limits::Timing;
use crate::time::{Duration, Instant};

/// How a relay has behaved lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The last connection was stable, or none was tried yet.
    Healthy,
    /// This many tries in a row have failed; the delay still grows.
    Backoff { failures: u32 },
    /// The delay has reached its cap.
    Hourly { failures: u32 },
    /// Nothing has worked for [`Timing::dead_after`].
    Dead { failures: u32 },
}

/// The dialling record of one relay.
#[derive(Clone, Debug)]
pub struct Health {
    standing: Standing,
    /// The last success, or the moment the relay became known.
    trusted_at: Instant,
    /// The last dial; a healthy relay is not dialled again sooner than [`Timing::backoff_base`] after it.
    dialled_at: Option<Instant>,
    /// Links in a row that were stable because the relay answered, and were lost before they had lived
    /// [`Timing::stable_after`], or by the relay's fault.
    short_lived: u32,
}

/// What is remembered of a relay that was failing when it was forgotten.
#[derive(Clone, Debug)]
pub struct Rest {
    /// Its dialling record.
    pub health: Health,
    /// No dial before this.
    pub until: Instant,
}

impl Health {
    /// A relay that was never tried.
    pub fn new(now: Instant) -> Self {
        Health { standing: Standing::Healthy, trusted_at: now, dialled_at: None, short_lived: 0 }
    }

    /// A dial begins.
    pub fn on_dial(&mut self, now: Instant) {
        self.dialled_at = Some(now);
    }

    /// The connection proved stable.
    pub fn on_stable(&mut self, now: Instant) {
        self.standing = Standing::Healthy;
        self.trusted_at = now;
    }

    /// A link that had been stable dropped; `lived`: for [`Timing::stable_after`]. Returns when to dial again: at once,
    /// unless the dial that made it was less than the base delay ago, so that a relay which answers and hangs up cannot
    /// spin us. One that does so again and again waits longer each time, as after failures.
    pub fn on_drop(&mut self, now: Instant, lived: bool, timing: &Timing) -> Instant {
        self.trusted_at = now;
        self.short_lived = if lived { 0 } else { self.short_lived.saturating_add(1) };
        if self.short_lived > 1 {
            return self.wait_after(self.short_lived - 1, now, timing);
        }
        self.dialled_at.map_or(now, |dialled| (dialled + timing.backoff_base).max(now))
    }

    /// A link that had been stable was lost because the relay broke a rule; `lived` as for [`Health::on_drop`]. Returns
    /// when to dial again. It is a failure, and answering before the next one does not make it undone.
    pub fn on_breach(&mut self, now: Instant, lived: bool, timing: &Timing) -> Instant {
        self.trusted_at = now;
        self.short_lived = if lived { 1 } else { self.short_lived.saturating_add(1) };
        self.wait_after(self.short_lived, now, timing)
    }

    fn wait_after(&mut self, failures: u32, now: Instant, timing: &Timing) -> Instant {
        let delay = delay_after(failures, timing);
        self.standing = match delay >= timing.backoff_max {
            true => Standing::Hourly { failures },
            false => Standing::Backoff { failures },
        };
        now + delay
    }

    /// A try failed, or its link dropped before it was stable. Returns when to dial again.
    pub fn on_failure(&mut self, now: Instant, timing: &Timing) -> Instant {
        let failures = self.failures().saturating_add(1);
        if now.since(self.trusted_at) >= timing.dead_after {
            self.standing = Standing::Dead { failures };
            return now + timing.dead_retry;
        }
        self.wait_after(failures, now, timing)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        match self.standing {
            Standing::Healthy => 0,
            Standing::Backoff { failures } | Standing::Hourly { failures } | Standing::Dead { failures } => failures,
        }
    }

    /// Whether the relay is tried only once a day.
    pub fn is_dead(&self) -> bool {
        matches!(self.standing, Standing::Dead { .. })
    }

    /// The value of `ngit_sync_relay_status`: 1 healthy, 2 backoff, 3 dead.
    pub fn status_code(&self) -> u8 {
        match self.standing {
            Standing::Healthy => 1,
            Standing::Backoff { .. } | Standing::Hourly { .. } => 2,
            Standing::Dead { .. } => 3,
        }
    }

    /// One word for people.
    pub fn name(&self) -> &'static str {
        match self.standing {
            Standing::Healthy => "healthy",
            Standing::Backoff { .. } => "backoff",
            Standing::Hourly { .. } => "hourly",
            Standing::Dead { .. } => "dead",
        }
    }
}

/// 5 s, 10 s, 20 s … at most the cap.
fn delay_after(failures: u32, timing: &Timing) -> Duration {
    let doublings = failures.saturating_sub(1).min(63);
    timing.backoff_base.saturating_mul(1u64 << doublings).min(timing.backoff_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn delays_double_from_five_seconds_to_an_hour_and_stay_hourly() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut delays = Vec::new();
        for _ in 0..13 {
            let next = health.on_failure(now, &timing);
            delays.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
        assert_eq!(health.name(), "hourly");
        assert_eq!(health.status_code(), 2);
    }

    #[test]
    fn dead_after_a_day_without_success_then_daily() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        let mut now = Instant::ZERO;
        while !health.is_dead() {
            now = health.on_failure(now, &timing);
            assert!(now <= at(3 * 86_400), "must die");
        }
        let tried = now;
        assert_eq!(health.on_failure(tried, &timing).since(tried).as_secs(), 86_400);
        assert_eq!(health.status_code(), 3);
        health.on_stable(tried);
        assert_eq!((health.name(), health.failures()), ("healthy", 0));
        assert_eq!(health.on_failure(tried, &timing).since(tried).as_secs(), 5);
    }

    #[test]
    fn a_long_success_does_not_count_as_time_without_one() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        health.on_dial(at(0));
        health.on_stable(at(1));
        assert_eq!(health.on_drop(at(200_000), true, &timing), at(200_000), "reconnects at once");
        health.on_failure(at(200_001), &timing);
        assert!(!health.is_dead(), "the day counts from the drop");
    }

    #[test]
    fn answering_and_hanging_up_does_not_spin() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        health.on_dial(at(100));
        health.on_stable(at(100));
        assert_eq!(health.on_drop(at(100), false, &timing), at(105));
    }

    /// Delays after links that each answered and were lost a second later.
    fn delays(times: usize, lost: impl Fn(&mut Health, Instant) -> Instant) -> Vec<u64> {
        let mut health = Health::new(Instant::ZERO);
        let mut now = at(100);
        let again = |_| {
            health.on_dial(now);
            health.on_stable(now);
            let dropped = now + Duration::from_secs(1);
            now = lost(&mut health, dropped);
            now.since(dropped).as_secs()
        };
        (0..times).map(again).collect()
    }

    #[test]
    fn answering_and_hanging_up_again_and_again_is_given_less_and_less() {
        let timing = Timing::default();
        let dropped = delays(13, |health, at| health.on_drop(at, false, &timing));
        assert_eq!(dropped, [4, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        let broken = delays(4, |health, at| health.on_breach(at, false, &timing));
        assert_eq!(broken, [5, 10, 20, 40], "breaking a rule is a failure from the first time on");
    }

    #[test]
    fn a_link_that_lives_makes_up_for_those_that_did_not() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        for _ in 0..5 {
            health.on_stable(at(100));
            health.on_drop(at(100), false, &timing);
        }
        assert_eq!(health.name(), "backoff");
        health.on_stable(at(200));
        assert_eq!(health.on_drop(at(300), true, &timing), at(300));
        health.on_stable(at(300));
        assert_eq!(health.on_drop(at(301), false, &timing), at(301), "once is nothing");
        assert_eq!(health.on_breach(at(500), true, &timing), at(505), "nor is a long life an excuse");
    }
}
