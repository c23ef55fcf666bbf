//! The world's time: one true line of microseconds, from which each process sees its own monotonic clock (which begins
//! when the process does) and a wall clock that may be set.

use grasp_sync::time::{Instant, Now, UnixTime};

/// Where the wall clock of a new world stands: 2027-01-15T08:00:00Z.
pub const WALL_START: u64 = 1_800_000_000;

pub const MILLI: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// Microseconds since the world began.
pub type Micros = u64;

#[derive(Clone, Debug)]
pub struct Clock {
    now: Micros,
    /// Second of the wall clock at the world's beginning; changes when the wall clock is set.
    wall_base: u64,
    /// When it was last set, and what `wall_base` was before.
    set: (Micros, u64),
    was_set: bool,
}

impl Clock {
    pub fn new() -> Clock {
        Clock { now: 0, wall_base: WALL_START, set: (0, WALL_START), was_set: false }
    }

    pub fn now(&self) -> Micros {
        self.now
    }

    /// Moves on to `to`; time never runs backwards.
    pub fn advance_to(&mut self, to: Micros) {
        assert!(to >= self.now, "the world's clock would run backwards");
        self.now = to;
    }

    pub fn wall(&self) -> u64 {
        self.wall_base + self.now / SECOND
    }

    /// The least and the greatest that the wall clock has shown in the last second.
    pub fn wall_lately(&self) -> (u64, u64) {
        let (at, before) = self.set;
        let before = if self.now - at <= SECOND { before } else { self.wall_base };
        let (low, high) = (before.min(self.wall_base), before.max(self.wall_base));
        (low + (self.now / SECOND).saturating_sub(1), high + self.now / SECOND)
    }

    /// The machine slept until now: what was looked at last, was looked at that much earlier.
    pub fn on_sleep(&mut self, time: Micros) {
        self.set = (self.now, self.wall_base.saturating_sub(time / SECOND));
    }

    /// Whether anybody ever set the wall clock.
    pub fn was_set(&self) -> bool {
        self.was_set
    }

    /// How far the wall clock is from what it would show had nobody set it.
    pub fn wall_error(&self) -> i64 {
        self.wall_base as i64 - WALL_START as i64
    }

    /// Sets the wall clock forwards or backwards.
    pub fn jump_wall(&mut self, secs: i64) {
        self.set = (self.now, self.wall_base);
        self.was_set = true;
        self.wall_base = self.wall_base.checked_add_signed(secs).expect("the wall clock stays after 1970");
    }

    /// What a process that began at `started` reads.
    pub fn seen_by(&self, started: Micros) -> Now {
        Now { mono: Instant::from_micros(self.now - started), wall: UnixTime::from_secs(self.wall()) }
    }
}

#[test]
fn a_process_sees_its_own_monotonic_clock_and_the_common_wall_clock() {
    let mut clock = Clock::new();
    clock.advance_to(10 * SECOND);
    clock.jump_wall(-3);
    let now = clock.seen_by(4 * SECOND);
    assert_eq!(now.mono, Instant::from_micros(6 * SECOND));
    assert_eq!(now.wall, UnixTime::from_secs(WALL_START + 7));
}
