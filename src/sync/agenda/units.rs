//! What one link follows, in one table: each unit, up to when it is complete, and how it is asked about next. A unit is
//! live, or waits to be, or is polled: what does not fit live is asked about time and again, each unit since its last
//! poll, so that nothing is ever silently uncovered.
//!
//! A **whole** poll asks since the last whole one minus the overlap, and so finds what reached the relay that late. Each
//! unit has one per overlap. Between them are **quick** polls, which ask since the last poll of any sort minus
//! [`QUICK_POLL_OVERLAP_SECS`]: if every poll were whole, an event would be sent again by each of them until the overlap is
//! over.
//!
//! What comes later still is found by audits (`crate::sync::audit`).
//!
//! One unit is polled at a time, so that a flood in one delays only itself. A poll comes at most once a [`POLL_PERIOD`] per
//! unit.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::{POLL_PERIOD, QUICK_POLL_OVERLAP_SECS};
use crate::state::RootId;
use crate::sync::agenda::class::Number;
use crate::sync::agenda::pass::Pass;
use crate::sync::filters::Unit;
use crate::time::{Instant, Now, UnixTime};

/// The units that one link follows.
#[derive(Debug, Default)]
pub struct Units {
    /// Those that are live or wait to be.
    tracks: VecDeque<Track>,
    /// Those that are polled, the next first: it is asked with each event when that is due.
    polled: VecDeque<Track>,
    poll: Option<Poll>,
}

/// One unit.
#[derive(Debug)]
struct Track {
    unit: Unit,
    reached: Reached,
    follow: Follow,
}

/// How a unit is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    /// It is to be live, and waits for a subscription.
    Pending,
    /// By the live subscription of this number.
    Live(Number),
    /// It is polled, not before this.
    Polled(Instant),
}

/// Up to when a unit is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// With what comes as late as the overlap.
    pub complete: UnixTime,
    /// With what came in time.
    pub polled: UnixTime,
}

impl Reached {
    /// Both up to the same moment.
    pub fn both(moment: UnixTime) -> Reached {
        Reached { complete: moment, polled: moment }
    }

    /// As far as both.
    fn min(self, other: Reached) -> Reached {
        Reached { complete: self.complete.min(other.complete), polled: self.polled.min(other.polled) }
    }
}

/// A poll that is under way.
#[derive(Debug)]
struct Poll {
    unit: Unit,
    reached: Reached,
    whole: bool,
    began: Now,
    pass: Pass,
    failed: bool,
}

/// What is to be live.
impl Units {
    /// A unit is to be live; it is complete up to some moment.
    pub fn pend(&mut self, unit: Unit, complete: UnixTime) {
        self.tracks.push_back(Track { unit, reached: Reached::both(complete), follow: Follow::Pending });
    }

    /// Whether some unit waits to be live.
    pub fn has_pending(&self) -> bool {
        self.tracks.iter().any(|track| track.follow == Follow::Pending)
    }

    /// The units that wait to be live.
    pub fn pending(&self) -> impl Iterator<Item = &Unit> {
        self.tracks.iter().filter(|track| track.follow == Follow::Pending).map(|track| &track.unit)
    }

    /// Takes out the units that wait to be live, and the moment up to which all of them are complete.
    pub fn take_pending(&mut self) -> (Vec<Unit>, Option<UnixTime>) {
        self.take(Follow::Pending)
    }

    /// Some units are live by a subscription; they are complete up to some moment before it.
    pub fn follow_live(&mut self, number: Number, units: Vec<Unit>, complete: UnixTime) {
        let reached = Reached::both(complete);
        self.tracks.extend(units.into_iter().map(|unit| Track { unit, reached, follow: Follow::Live(number) }));
    }

    /// Takes out the units that were live by a subscription, and the moment up to which they were complete before it.
    pub fn take_live(&mut self, number: Number) -> (Vec<Unit>, Option<UnixTime>) {
        self.take(Follow::Live(number))
    }

    fn take(&mut self, follow: Follow) -> (Vec<Unit>, Option<UnixTime>) {
        let tracks = std::mem::take(&mut self.tracks).into_iter();
        let (taken, left): (VecDeque<Track>, VecDeque<Track>) = tracks.partition(|track| track.follow == follow);
        self.tracks = left;
        let complete = taken.iter().map(|track| track.reached.complete).min();
        (taken.into_iter().map(|track| track.unit).collect(), complete)
    }

    /// The units that are live by one subscription.
    pub fn live_by(&self, number: Number) -> impl Iterator<Item = &Unit> {
        self.tracks.iter().filter(move |track| track.follow == Follow::Live(number)).map(|track| &track.unit)
    }

    /// The moment up to which the units of a live subscription were complete before it.
    pub fn complete_before(&self, number: Number) -> Option<UnixTime> {
        let of = self.tracks.iter().filter(|track| track.follow == Follow::Live(number));
        of.map(|track| track.reached.complete).min()
    }

    /// The units that are live.
    pub fn live(&self) -> impl Iterator<Item = &Unit> {
        self.tracks.iter().filter(|track| matches!(track.follow, Follow::Live(_))).map(|track| &track.unit)
    }

    /// Every unit that is followed, and whether it is live.
    pub fn all(&self) -> impl Iterator<Item = (&Unit, bool)> {
        let is_live = |track: &Track| matches!(track.follow, Follow::Live(_));
        let followed = self.tracks.iter().map(move |track| (&track.unit, is_live(track)));
        followed.chain(self.polled().map(|unit| (unit, false)))
    }
}

/// What is polled.
impl Units {
    /// A unit is polled from now on; it is complete up to some moment. Few root events join the last unit as long as there is
    /// room.
    pub fn poll(&mut self, unit: Unit, complete: UnixTime, now: Now, values_max: usize) {
        let reached = Reached::both(complete);
        let last = self.polled.back_mut();
        if let (Unit::Roots(new), Some(Track { unit: Unit::Roots(last), reached: before, .. })) = (&unit, last)
            && last.len() + new.len() <= values_max
        {
            *last = last.iter().chain(new.iter()).copied().collect::<Rc<[RootId]>>();
            *before = before.min(reached);
            return;
        }
        self.polled.push_back(Track { unit, reached, follow: Follow::Polled(now.mono + POLL_PERIOD) });
    }

    /// Begins a poll if one is due: what to sweep, and since when.
    pub fn begin_poll(&mut self, now: Now, overlap_secs: u64) -> Option<(Unit, UnixTime)> {
        self.next_poll_at().filter(|at| *at <= now.mono)?;
        let Track { unit, reached, .. } = self.polled.pop_front()?;
        // What lies ahead was noted by a clock that was wrong.
        let whole = now.wall >= reached.complete.plus_secs(overlap_secs) || reached.complete > now.wall;
        let since = match whole {
            true => reached.complete.min(now.wall).minus_secs(overlap_secs),
            false => reached.polled.min(now.wall).minus_secs(QUICK_POLL_OVERLAP_SECS.min(overlap_secs)),
        };
        let mut pass = Pass::default();
        pass.add_sweeps(unit.filter_count());
        self.poll = Some(Poll { unit: unit.clone(), reached, whole, began: now, pass, failed: false });
        Some((unit, since))
    }

    /// When the next poll is due; `None` while one is under way or nothing is polled.
    pub fn next_poll_at(&self) -> Option<Instant> {
        match self.polled.front().filter(|_| self.poll.is_none())?.follow {
            Follow::Polled(due) => Some(due),
            Follow::Pending | Follow::Live(_) => None,
        }
    }

    /// So many sweeps join the poll: one was split.
    pub fn add_sweeps(&mut self, sweeps: usize) {
        if let Some(poll) = &mut self.poll {
            poll.pass.add_sweeps(sweeps);
        }
    }

    /// A sweep of the poll ended.
    pub fn on_sweep_end(&mut self, ok: bool) {
        let Some(poll) = &mut self.poll else { return };
        poll.failed |= !ok;
        poll.pass.on_sweep_end();
        if !poll.pass.is_over() {
            return;
        }
        let Poll { unit, reached, whole, began, failed, .. } = self.poll.take().expect("just looked at");
        let reached = match (failed, whole) {
            (true, _) => reached,
            (false, true) => Reached::both(began.wall),
            (false, false) => Reached { polled: began.wall, ..reached },
        };
        self.polled.push_back(Track { unit, reached, follow: Follow::Polled(began.mono + POLL_PERIOD) });
    }

    /// Sweeps of the poll that have not ended.
    pub fn sweeps_left(&self) -> usize {
        self.poll.as_ref().map_or(0, |poll| poll.pass.left())
    }

    /// How far every polled unit has come; `None` if nothing is polled.
    pub fn reached(&self) -> Option<Reached> {
        let polled = self.polled.iter().map(|track| track.reached);
        polled.chain(self.poll.iter().map(|poll| poll.reached)).reduce(Reached::min)
    }

    /// The moment up to which every polled unit is complete; `None` if nothing is polled.
    pub fn complete(&self) -> Option<UnixTime> {
        self.reached().map(|reached| reached.complete)
    }

    /// The units that wait for their next poll, and when that may begin.
    pub fn due(&self) -> impl Iterator<Item = (&Unit, Instant)> {
        self.polled.iter().filter_map(|track| match track.follow {
            Follow::Polled(due) => Some((&track.unit, due)),
            Follow::Pending | Follow::Live(_) => None,
        })
    }

    /// Every polled unit.
    pub fn polled(&self) -> impl Iterator<Item = &Unit> {
        self.polled.iter().map(|track| &track.unit).chain(self.poll.iter().map(|poll| &poll.unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use crate::sync::testing::{addr, root_id, settings};
    use crate::time::Duration;

    const OVERLAP: u64 = 900;

    fn now(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000_000 + secs) }
    }

    #[test]
    fn a_poll_asks_since_the_last_and_moves_what_is_complete_only_when_it_succeeds() {
        let mut units = Units::default();
        units.poll(Unit::Announcements, now(0).wall, now(0), 100);
        assert!(units.begin_poll(now(59), 0).is_none());
        assert_eq!(units.begin_poll(now(60), 0), Some((Unit::Announcements, now(0).wall)));
        assert_eq!(units.next_poll_at(), None, "one at a time");
        units.on_sweep_end(false);
        assert_eq!(units.complete(), Some(now(0).wall), "a failed poll completes nothing");
        assert_eq!(units.begin_poll(now(120), 0), Some((Unit::Announcements, now(0).wall)));
        units.add_sweeps(1);
        units.on_sweep_end(true);
        assert_eq!(units.complete(), Some(now(0).wall));
        units.on_sweep_end(true);
        assert_eq!(units.complete(), Some(now(120).wall));
    }

    /// Polls, and says since when it asked.
    fn poll(units: &mut Units, at: Now, ok: bool) -> UnixTime {
        let (_, since) = units.begin_poll(at, OVERLAP).expect("it is due");
        units.on_sweep_end(ok);
        since
    }

    #[test]
    fn quick_polls_ask_since_the_last_poll_and_a_whole_one_since_the_last_that_was() {
        let mut units = Units::default();
        units.poll(Unit::Announcements, now(0).wall, now(0), 100);
        let since: Vec<UnixTime> = (1..=17).map(|n| poll(&mut units, now(60 * n), n != 3)).collect();
        let quick = |last: u64| now(last).wall.minus_secs(QUICK_POLL_OVERLAP_SECS);
        assert_eq!(since[..4], [quick(0), quick(60), quick(120), quick(120)], "the third failed");
        assert!((4..14).all(|n| since[n] == quick(60 * n as u64)), "{since:?}");
        assert_eq!(since[14], now(0).wall.minus_secs(OVERLAP), "the overlap is over");
        assert_eq!(since[15..], [quick(900), quick(960)]);
        assert_eq!(units.reached(), Some(Reached { complete: now(900).wall, polled: now(1_020).wall }));
    }

    #[test]
    fn a_clock_that_was_ahead_is_followed_by_a_whole_poll() {
        let mut units = Units::default();
        units.poll(Unit::Announcements, now(5_000).wall, now(0), 100);
        assert_eq!(poll(&mut units, now(60), true), now(60).wall.minus_secs(OVERLAP));
        assert_eq!(units.reached(), Some(Reached::both(now(60).wall)));
    }

    #[test]
    fn what_joins_a_unit_sets_it_back() {
        let mut state = State::new(settings());
        let mut roots = |n: u32| {
            let changes = state.add_root(root_id(n), n.into(), &[addr(1, "repo")]);
            Unit::Roots(changes.roots.into_iter().collect())
        };
        let mut units = Units::default();
        units.poll(roots(1), now(50).wall, now(50), 100);
        units.poll(roots(2), now(20).wall, now(50), 100);
        assert_eq!((units.polled().count(), units.reached()), (1, Some(Reached::both(now(20).wall))));
    }
}
