//! What does not fit live on a relay is asked in turn, each unit since its last turn, so that nothing is ever silently
//! uncovered.
//!
//! A **whole** turn asks since the last whole one minus the overlap, and so finds what reached the relay that late. Each
//! unit has one per overlap. Between them are **glances**, which ask since the last turn of any sort minus
//! [`GLANCE_OVERLAP_SECS`]: if every turn were whole, an event would be sent again at each of them until the overlap is
//! over.
//!
//! What comes later still is found by audits (`crate::sync::audit`).
//!
//! One unit has its turn at a time. A turn comes at most once a [`ROTATION_PERIOD`] per unit, and rotation as a whole
//! keeps within [`ROTATION_BYTES_PER_SEC`]: a large rotation turns slower, never heavier.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::{GLANCE_OVERLAP_SECS, ROTATION_BYTES_PER_SEC, ROTATION_PERIOD};
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
    reached: Reached,
    not_before: Instant,
}

/// How far the turns of a unit have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// It is complete up to this moment, with what comes as late as the overlap.
    pub covered: UnixTime,
    /// Up to this moment what came in time has been asked for.
    pub glanced: UnixTime,
}

impl Reached {
    /// Both up to the same moment.
    pub fn both(moment: UnixTime) -> Reached {
        Reached { covered: moment, glanced: moment }
    }

    /// As far as both.
    fn min(self, other: Reached) -> Reached {
        Reached { covered: self.covered.min(other.covered), glanced: self.glanced.min(other.glanced) }
    }
}

/// A turn that is under way.
#[derive(Debug)]
struct Turn {
    unit: Unit,
    reached: Reached,
    whole: bool,
    began: Now,
    sweeps_left: usize,
    failed: bool,
}

impl Rotation {
    /// Adds a unit that is complete up to `covered`. Few root events join the last unit as long as there is room.
    pub fn add(&mut self, unit: Unit, covered: UnixTime, now: Now, values_max: usize) {
        let reached = Reached::both(covered);
        if let (Unit::Roots(new), Some(Waiting { unit: Unit::Roots(last), reached: before, .. })) =
            (&unit, self.waiting.back_mut())
            && last.len() + new.len() <= values_max
        {
            *last = last.iter().chain(new.iter()).copied().collect::<Rc<[RootId]>>();
            *before = before.min(reached);
            return;
        }
        self.waiting.push_back(Waiting { unit, reached, not_before: now.mono + ROTATION_PERIOD });
    }

    /// Begins a turn if one is due: what to sweep, and since when.
    pub fn begin_turn(&mut self, now: Now, overlap_secs: u64) -> Option<(Unit, UnixTime)> {
        if self.next_turn_at()? > now.mono {
            return None;
        }
        let Waiting { unit, reached, .. } = self.waiting.pop_front()?;
        // What lies ahead was noted by a clock that was wrong.
        let whole = now.wall >= reached.covered.plus_secs(overlap_secs) || reached.covered > now.wall;
        let since = match whole {
            true => reached.covered.min(now.wall).minus_secs(overlap_secs),
            false => reached.glanced.min(now.wall).minus_secs(GLANCE_OVERLAP_SECS.min(overlap_secs)),
        };
        let sweeps_left = unit.filter_count();
        self.turn = Some(Turn { unit: unit.clone(), reached, whole, began: now, sweeps_left, failed: false });
        Some((unit, since))
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
        let Turn { unit, reached, whole, began, failed, .. } = self.turn.take().expect("just looked at");
        let reached = match (failed, whole) {
            (true, _) => reached,
            (false, true) => Reached::both(began.wall),
            (false, false) => Reached { glanced: began.wall, ..reached },
        };
        self.waiting.push_back(Waiting { unit, reached, not_before: began.mono + ROTATION_PERIOD });
    }

    /// Sweeps of the turn that have not ended.
    pub fn sweeps_left(&self) -> usize {
        self.turn.as_ref().map_or(0, |turn| turn.sweeps_left)
    }

    /// A REQ of a turn, or of an audit, cost this many bytes.
    pub fn on_bytes(&mut self, now: Instant, bytes: usize) {
        let micros = bytes as u64 * 1_000_000 / ROTATION_BYTES_PER_SEC as u64;
        self.paced_until = self.paced_until.max(now) + Duration::from_micros(micros);
    }

    /// How far every unit has come; `None` if nothing rotates.
    pub fn reached(&self) -> Option<Reached> {
        let waiting = self.waiting.iter().map(|waiting| waiting.reached);
        waiting.chain(self.turn.iter().map(|turn| turn.reached)).reduce(Reached::min)
    }

    /// The moment up to which every unit is complete; `None` if nothing rotates.
    pub fn covered(&self) -> Option<UnixTime> {
        self.reached().map(|reached| reached.covered)
    }

    /// Every unit.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        let waiting = self.waiting.iter().map(|waiting| &waiting.unit);
        waiting.chain(self.turn.iter().map(|turn| &turn.unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use crate::sync::testing::{addr, root_id, settings};

    const OVERLAP: u64 = 900;

    fn now(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000_000 + secs) }
    }

    #[test]
    fn a_turn_asks_since_the_last_and_moves_what_is_covered_only_when_it_succeeds() {
        let mut rotation = Rotation::default();
        rotation.add(Unit::Announcements, now(0).wall, now(0), 100);
        assert!(rotation.begin_turn(now(59), 0).is_none());
        assert_eq!(rotation.begin_turn(now(60), 0), Some((Unit::Announcements, now(0).wall)));
        assert_eq!(rotation.next_turn_at(), None, "one at a time");
        rotation.on_sweep_end(false);
        assert_eq!(rotation.covered(), Some(now(0).wall), "a failed turn covers nothing");
        assert_eq!(rotation.begin_turn(now(120), 0), Some((Unit::Announcements, now(0).wall)));
        rotation.on_sweep_split();
        rotation.on_sweep_end(true);
        assert_eq!(rotation.covered(), Some(now(0).wall));
        rotation.on_sweep_end(true);
        assert_eq!(rotation.covered(), Some(now(120).wall));
    }

    /// Has a turn, and says since when it asked.
    fn turn(rotation: &mut Rotation, at: Now, ok: bool) -> UnixTime {
        let (_, since) = rotation.begin_turn(at, OVERLAP).expect("it is due");
        rotation.on_sweep_end(ok);
        since
    }

    #[test]
    fn glances_ask_since_the_last_turn_and_a_whole_one_since_the_last_that_was() {
        let mut rotation = Rotation::default();
        rotation.add(Unit::Announcements, now(0).wall, now(0), 100);
        let since: Vec<UnixTime> = (1..=17).map(|n| turn(&mut rotation, now(60 * n), n != 3)).collect();
        let glance = |last: u64| now(last).wall.minus_secs(GLANCE_OVERLAP_SECS);
        assert_eq!(since[..4], [glance(0), glance(60), glance(120), glance(120)], "the third failed");
        assert!((4..14).all(|n| since[n] == glance(60 * n as u64)), "{since:?}");
        assert_eq!(since[14], now(0).wall.minus_secs(OVERLAP), "the overlap is over");
        assert_eq!(since[15..], [glance(900), glance(960)]);
        assert_eq!(rotation.reached(), Some(Reached { covered: now(900).wall, glanced: now(1_020).wall }));
    }

    #[test]
    fn a_clock_that_was_ahead_is_followed_by_a_whole_turn() {
        let mut rotation = Rotation::default();
        rotation.add(Unit::Announcements, now(5_000).wall, now(0), 100);
        assert_eq!(turn(&mut rotation, now(60), true), now(60).wall.minus_secs(OVERLAP));
        assert_eq!(rotation.reached(), Some(Reached::both(now(60).wall)));
    }

    #[test]
    fn what_joins_a_unit_sets_it_back() {
        let mut state = State::new(settings());
        let mut roots = |n: u32| {
            let changes = state.add_root(root_id(n), n.into(), &[addr(1, "repo")]);
            Unit::Roots(changes.roots.into_iter().collect())
        };
        let mut rotation = Rotation::default();
        rotation.add(roots(1), now(50).wall, now(50), 100);
        rotation.add(roots(2), now(20).wall, now(50), 100);
        assert_eq!((rotation.units().count(), rotation.reached()), (1, Some(Reached::both(now(20).wall))));
    }

    #[test]
    fn turns_keep_within_their_bytes() {
        let mut rotation = Rotation::default();
        rotation.add(Unit::Announcements, now(0).wall, now(0), 100);
        rotation.on_bytes(now(0).mono, ROTATION_BYTES_PER_SEC * 100);
        assert_eq!(rotation.next_turn_at(), Some(now(100).mono));
    }
}
