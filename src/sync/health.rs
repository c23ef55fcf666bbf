//! How often a relay deserves a try (spec section 7).
//!
//! Like a visitor at a door: who was let in last time walks straight back in; who was not waits 5 s, then 10 s, then
//! 20 s, up to an hour; who has heard nothing for a day comes by once a day. Only a *stable* connection counts as being
//! let in, so a relay that accepts and hangs up is a closed door; and who is shown out again and again after a first
//! word waits as long as one who was not let in, until a visit lasts. There is no jitter: the window already smooths, and
//! staggered dials would leave partial subscriptions behind.
//!
//! What failed while our own network was down says nothing of the door: it is undone when that turns out
//! ([`super::network`]), and the time counts for nobody.
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
    /// What it was before failures that may turn out to be our own.
    before: Option<Before>,
}

/// A record as it was before failures that may turn out to be our own.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// When the first of them came.
    at: Instant,
    standing: Standing,
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
        Health { standing: Standing::Healthy, trusted_at: now, dialled_at: None, short_lived: 0, before: None }
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
        self.soonest(now, timing)
    }

    /// A link that had been stable was lost because the relay broke a rule; `lived` as for [`Health::on_drop`]. Returns
    /// when to dial again. It is a failure, and answering before the next one does not make it undone.
    pub fn on_breach(&mut self, now: Instant, lived: bool, timing: &Timing) -> Instant {
        self.trusted_at = now;
        self.short_lived = if lived { 1 } else { self.short_lived.saturating_add(1) };
        self.wait_after(self.short_lived, now, timing)
    }

    /// A link that had been stable was dropped because it was silent. Returns when to dial again: as after a drop, but it
    /// counts for nothing.
    pub fn on_idle_drop(&mut self, now: Instant, timing: &Timing) -> Instant {
        self.trusted_at = now;
        self.soonest(now, timing)
    }

    fn soonest(&self, now: Instant, timing: &Timing) -> Instant {
        self.dialled_at.map_or(now, |dialled| (dialled + timing.backoff_base).max(now))
    }

    /// What is about to be counted may turn out to be our own fault, if nobody has given a sign of life since `proven_at`.
    pub fn remember(&mut self, now: Instant, proven_at: Instant) {
        if self.before.is_none_or(|before| before.at < proven_at) {
            self.before = Some(Before { at: now, standing: self.standing, short_lived: self.short_lived });
        }
    }

    /// What is about to be counted is the relay's own fault, and with it all before it.
    pub fn blame(&mut self) {
        self.before = None;
    }

    /// What was counted since `proven_at` was our own fault.
    pub fn excuse(&mut self, proven_at: Instant) {
        if let Some(before) = self.before.take().filter(|before| before.at >= proven_at) {
            (self.standing, self.short_lived) = (before.standing, before.short_lived);
        }
    }

    /// Our own network was down for so long until now: that is no time without a success.
    pub fn on_return(&mut self, now: Instant, outage: Duration) {
        self.trusted_at = (self.trusted_at + outage).min(now);
    }

    /// When to dial after an outage of our own, at the earliest `next`: a relay that was failing by itself before goes on
    /// waiting until `until`, but for no longer than between hourly visits.
    pub fn after_return(&self, next: Instant, until: Instant, timing: &Timing) -> Instant {
        match (self.standing, self.dialled_at) {
            (Standing::Healthy, _) | (_, None) => next,
            (_, Some(dialled)) => until.min(dialled + timing.backoff_max).max(next),
        }
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

    /// Whether the last connection was stable, or none was tried yet.
    pub fn is_healthy(&self) -> bool {
        self.standing == Standing::Healthy
    }

    /// The last dial.
    pub fn dialled_at(&self) -> Option<Instant> {
        self.dialled_at
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

    #[test]
    fn what_was_our_own_fault_is_undone() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        health.on_failure(at(10), &timing);
        health.on_failure(at(20), &timing);
        // The last sign of life from anybody was at 30.
        for secs in [40, 60, 100] {
            health.remember(at(secs), at(30));
            health.on_failure(at(secs), &timing);
        }
        health.excuse(at(30));
        assert_eq!((health.failures(), health.name()), (2, "backoff"), "as it was at 30");
        health.excuse(at(30));
        assert_eq!(health.failures(), 2);
    }

    #[test]
    fn what_came_before_a_sign_of_life_is_not_excused() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        health.remember(at(10), at(0));
        health.on_failure(at(10), &timing);
        health.excuse(at(11));
        assert_eq!(health.failures(), 1, "somebody was there at 11");
        health.remember(at(20), at(11));
        health.on_failure(at(20), &timing);
        health.blame();
        health.on_failure(at(30), &timing);
        health.excuse(at(11));
        assert_eq!(health.failures(), 3, "it answered at 30, and that was a failure of its own");
    }

    #[test]
    fn an_early_drop_that_was_our_own_fault_is_undone() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        for secs in [100, 200, 300] {
            health.on_dial(at(secs));
            health.on_stable(at(secs));
            health.remember(at(secs + 10), at(secs + 9));
            health.on_drop(at(secs + 10), false, &timing);
            health.excuse(at(secs + 9));
        }
        assert_eq!((health.name(), health.short_lived), ("healthy", 0));
    }

    #[test]
    fn the_time_of_an_outage_counts_for_nobody() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        health.on_dial(at(5));
        health.on_stable(at(10));
        let back = at(200_000);
        let next = back + Duration::from_secs(1);
        let outage = Duration::from_secs(199_000);
        health.on_return(back, outage);
        assert_eq!(health.after_return(next, back, &timing), next, "at once");
        health.on_failure(back, &timing);
        assert!(!health.is_dead(), "a day without a success is a day of ours");
        assert_eq!(health.on_failure(at(200_010), &timing), at(200_020));
    }

    #[test]
    fn who_was_failing_before_an_outage_comes_forward_to_an_hourly_visit_at_most() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        health.on_dial(at(86_400));
        let until = health.on_failure(at(86_400), &timing);
        assert!(health.is_dead());
        let soon = at(86_400 + 600);
        let hourly = at(86_400 + 3_600);
        assert_eq!(health.after_return(soon, until, &timing), hourly);
        let late = at(86_400 + 7_200);
        assert_eq!(health.after_return(late, until, &timing), late);
    }

    #[test]
    fn a_drop_for_silence_counts_for_nothing() {
        let timing = Timing::default();
        let mut health = Health::new(Instant::ZERO);
        for secs in (100..2_000).step_by(25) {
            health.on_dial(at(secs));
            health.on_stable(at(secs));
            assert_eq!(health.on_idle_drop(at(secs + 25), &timing), at(secs + 25));
        }
        health.on_dial(at(2_000));
        assert_eq!(health.on_idle_drop(at(2_001), &timing), at(2_005), "not sooner than any other");
        assert_eq!((health.name(), health.short_lived), ("healthy", 0));
    }
}
