//! What does not fit live on a relay is asked in turn, each unit since its last turn (minus the overlap), so that
//! nothing is ever silently uncovered.
//!
//! One unit has its turn at a time. A turn comes at most once a [`ROTATION_PERIOD`] per unit, and rotation as a whole
//! keeps within [`ROTATION_BYTES_PER_SEC`]: a large rotation turns slower, never heavier.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::{ROTATION_BYTES_PER_SEC, ROTATION_PERIOD};
use crate::state::RootId;
use crate::sync::filters::Unit;
use crate::time::{Duration, Instant, Now, UnixTime};

/// The units that take turns on one link.
#[derive(Debug, Default)]
pub struct Rotation {
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
}

impl Rotation {
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
        self.waiting.push_back(Waiting { unit, covered, not_before: now.mono + ROTATION_PERIOD });
    }

    /// Begins a turn if one is due: what to sweep, and up to when it is already complete.
    pub fn begin_turn(&mut self, now: Now) -> Option<(Unit, UnixTime)> {
        if self.next_turn_at()? > now.mono {
            return None;
        }
        let Waiting { unit, covered, .. } = self.waiting.pop_front()?;
        let sweeps_left = unit.filter_count();
        self.turn = Some(Turn { unit: unit.clone(), covered, began: now, sweeps_left, failed: false });
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
        let Turn { unit, covered, began, failed, .. } = self.turn.take().expect("just looked at");
        let covered = if failed { covered } else { began.wall };
        self.waiting.push_back(Waiting { unit, covered, not_before: began.mono + ROTATION_PERIOD });
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
