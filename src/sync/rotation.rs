//! What does not fit live on a relay is asked in turn, each unit since its last turn (minus the overlap), so that
//! nothing is ever silently uncovered.
//!
//! The same turns, at a longer period, look whether a live subscription has missed anything: relays lose live
//! subscriptions and live events without a word.
//!
//! One unit has its turn at a time. A turn comes at most once a [`ROTATION_PERIOD`] per unit, and rotation as a whole
//! keeps within [`ROTATION_BYTES_PER_SEC`]: a large rotation turns slower, never heavier.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::{RECHECK_PERIOD_MAX, RECHECK_PERIOD_MIN, ROTATION_BYTES_PER_SEC, ROTATION_PERIOD};
use crate::state::RootId;
use crate::sync::filters::Unit;
use crate::time::{Duration, Instant, Now, UnixTime};

/// The units that take turns on one link.
#[derive(Debug)]
pub struct Rotation {
    /// Between two turns of one unit.
    period: Duration,
    waiting: VecDeque<Waiting>,
    turn: Option<Turn>,
    /// No turn before this: what earlier ones cost.
    paced_until: Instant,
}

#[derive(Debug)]
struct Waiting {
    unit: Unit,
    /// Complete up to this moment.
    covered: UnixTime,
    not_before: Instant,
}

/// A turn that is under way.
#[derive(Debug)]
struct Turn {
    unit: Unit,
    covered: UnixTime,
    began: Now,
    sweeps_left: usize,
    failed: bool,
    /// It has found something that should have come live.
    found: bool,
    /// The unit has no further turns.
    last: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation { period: ROTATION_PERIOD, waiting: VecDeque::new(), turn: None, paced_until: Instant::ZERO }
    }
}

impl Rotation {
    /// Turns that look after what is live.
    pub fn recheck() -> Rotation {
        Rotation { period: RECHECK_PERIOD_MAX, ..Rotation::default() }
    }

    /// The time between two turns of one unit.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// A turn found something that should have come live: the next ones come sooner, this one's unit included.
    pub fn on_gap(&mut self, now: Instant) {
        self.period = Duration::from_micros(self.period.as_micros() / 2).max(RECHECK_PERIOD_MIN);
        for waiting in &mut self.waiting {
            waiting.not_before = waiting.not_before.min(now + self.period);
        }
        if let Some(turn) = &mut self.turn {
            turn.found = true;
        }
    }

    /// Forgets every unit.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.turn = None;
    }

    /// Forgets some units; one that has its turn ends it.
    pub fn remove(&mut self, units: &[Unit]) {
        self.waiting.retain(|waiting| !units.contains(&waiting.unit));
        if let Some(turn) = &mut self.turn {
            turn.last |= units.contains(&turn.unit);
        }
    }

    /// Adds a unit that is complete up to `covered`. Few root events join the last unit as long as there is room.
    pub fn add(&mut self, unit: Unit, covered: UnixTime, now: Now, values_max: usize) {
        if let (Unit::Roots(new), Some(Waiting { unit: Unit::Roots(last), covered: before, .. })) =
            (&unit, self.waiting.back_mut())
            && last.len() + new.len() <= values_max
        {
            *last = last.iter().chain(new.iter()).copied().collect::<Rc<[RootId]>>();
            *before = covered.min(*before);
            return;
        }
        self.waiting.push_back(Waiting { unit, covered, not_before: now.mono + self.period });
    }

    /// Begins a turn if one is due: what to sweep, and up to when it is already complete.
    pub fn begin_turn(&mut self, now: Now) -> Option<(Unit, UnixTime)> {
        if self.next_turn_at()? > now.mono {
            return None;
        }
        let Waiting { unit, covered, .. } = self.waiting.pop_front()?;
        let sweeps_left = unit.filter_count();
        let turn =
            Turn { unit: unit.clone(), covered, began: now, sweeps_left, failed: false, found: false, last: false };
        self.turn = Some(turn);
        Some((unit, covered))
    }

    /// When the next turn is due; `None` while one is under way or nothing rotates.
    pub fn next_turn_at(&self) -> Option<Instant> {
        let next = self.waiting.front().filter(|_| self.turn.is_none())?;
        Some(next.not_before.max(self.paced_until))
    }

    /// A sweep of the turn was split in two.
    pub fn on_sweep_split(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.sweeps_left += 1;
        }
    }

    /// A sweep of the turn ended.
    pub fn on_sweep_end(&mut self, ok: bool) {
        let Some(turn) = &mut self.turn else { return };
        turn.failed |= !ok;
        turn.sweeps_left -= 1;
        if turn.sweeps_left > 0 {
            return;
        }
        let Turn { unit, covered, began, failed, found, last, .. } = self.turn.take().expect("just looked at");
        if !found && self.period > ROTATION_PERIOD {
            let longer = Duration::from_micros(self.period.as_micros() / 4 * 5);
            self.period = longer.min(RECHECK_PERIOD_MAX);
        }
        if last {
            return;
        }
        let covered = if failed { covered } else { began.wall };
        self.waiting.push_back(Waiting { unit, covered, not_before: began.mono + self.period });
    }

    /// A REQ of the turn cost this many bytes.
    pub fn on_bytes(&mut self, now: Instant, bytes: usize) {
        let micros = bytes as u64 * 1_000_000 / ROTATION_BYTES_PER_SEC as u64;
        self.paced_until = self.paced_until.max(now) + Duration::from_micros(micros);
    }

    /// The moment up to which every unit is complete; `None` if nothing rotates.
    pub fn covered(&self) -> Option<UnixTime> {
        self.units().map(|(_, covered)| covered).min()
    }

    /// Every unit and the moment up to which it is complete.
    pub fn units(&self) -> impl Iterator<Item = (&Unit, UnixTime)> {
        let waiting = self.waiting.iter().map(|waiting| (&waiting.unit, waiting.covered));
        waiting.chain(self.turn.iter().map(|turn| (&turn.unit, turn.covered)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_brings_the_next_look_forward_and_quiet_ones_put_it_off_again() {
        let mut recheck = Rotation::recheck();
        recheck.add(Unit::Announcements, now(0).wall, now(0), 0);
        let first = now(0).mono + RECHECK_PERIOD_MAX;
        assert_eq!(recheck.next_turn_at(), Some(first));
        let then = now(RECHECK_PERIOD_MAX.as_secs());
        recheck.begin_turn(then).unwrap();
        recheck.on_gap(then.mono);
        recheck.on_sweep_end(true);
        let half = Duration::from_micros(RECHECK_PERIOD_MAX.as_micros() / 2);
        assert_eq!((recheck.period(), recheck.next_turn_at()), (half, Some(then.mono + half)));
        for _ in 0..20 {
            recheck.on_gap(then.mono);
        }
        assert_eq!(recheck.period(), RECHECK_PERIOD_MIN);
        for turn in 1..40 {
            recheck.begin_turn(now(10 * turn * RECHECK_PERIOD_MAX.as_secs())).unwrap();
            recheck.on_sweep_end(true);
        }
        assert_eq!(recheck.period(), RECHECK_PERIOD_MAX);
    }

    #[test]
    fn what_is_live_no_more_is_not_looked_after() {
        let mut recheck = Rotation::recheck();
        recheck.add(Unit::Announcements, now(0).wall, now(0), 0);
        recheck.begin_turn(now(RECHECK_PERIOD_MAX.as_secs())).unwrap();
        recheck.remove(&[Unit::Announcements]);
        recheck.on_sweep_end(true);
        assert_eq!(recheck.units().count(), 0);
    }

    fn now(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000_000 + secs) }
    }

    #[test]
    fn a_turn_asks_since_the_last_and_moves_what_is_covered_only_when_it_succeeds() {
        let mut rotation = Rotation::default();
        rotation.add(Unit::Announcements, now(0).wall, now(0), 100);
        assert!(rotation.begin_turn(now(59)).is_none());
        assert_eq!(rotation.begin_turn(now(60)), Some((Unit::Announcements, now(0).wall)));
        assert_eq!(rotation.next_turn_at(), None, "one at a time");
        rotation.on_sweep_end(false);
        assert_eq!(rotation.covered(), Some(now(0).wall), "a failed turn covers nothing");
        assert_eq!(rotation.begin_turn(now(120)), Some((Unit::Announcements, now(0).wall)));
        rotation.on_sweep_split();
        rotation.on_sweep_end(true);
        assert_eq!(rotation.covered(), Some(now(0).wall));
        rotation.on_sweep_end(true);
        assert_eq!(rotation.covered(), Some(now(120).wall));
    }

    #[test]
    fn turns_keep_within_their_bytes() {
        let mut rotation = Rotation::default();
        rotation.add(Unit::Announcements, now(0).wall, now(0), 100);
        rotation.on_bytes(now(0).mono, ROTATION_BYTES_PER_SEC * 100);
        assert_eq!(rotation.next_turn_at(), Some(now(100).mono));
    }
}
