//! Whether there is room for what is to be stored (spec section 16, "Writing"): how much the store may take of the disk, and
//! how much of it stays free.
//!
//! Like a guest house that is full: who is there stays and is served, who comes is told to come again, and nobody is sent
//! for. A bed that is free for a moment is no vacancy; so there must be some more room than was wanting before it counts.
//!
//! It knows numbers and times. It does not know the disk: whoever can tell says how much there is.

use std::fmt;

use crate::limits::{DISK_FREE_MARGIN, Limits, ROOM_LOOK_PERIOD, ROOM_RETRY_MAX, ROOM_RETRY_MIN, STORE_MARGIN};
use crate::time::{Duration, Instant, Now, UnixTime};

/// What there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free on the disk, for this process.
    pub disk_free: u64,
    /// Taken by the store's file.
    pub store: u64,
}

/// Why nothing can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// A write found no room, whatever the disk says of itself: it may have quotas.
    Write,
    /// Less of the disk is free than `limits.disk_free_mib_min`.
    DiskFree,
    /// The store has reached `limits.store_mib_max`.
    StoreMax,
}

impl Shortage {
    /// All of them.
    pub const ALL: [Shortage; 3] = [Shortage::Write, Shortage::DiskFree, Shortage::StoreMax];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Shortage::Write => "write",
            Shortage::DiskFree => "disk_free",
            Shortage::StoreMax => "store_max",
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shortage::Write => "the disk has no room for the store",
            Shortage::DiskFree => "less of the disk is free than limits.disk_free_mib_min",
            Shortage::StoreMax => "the store has reached limits.store_mib_max",
        })
    }
}

/// What a look at the disk has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing can be stored from now on.
    Began(Shortage),
    /// There is room again, after so long.
    Ended(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Enough,
    Short {
        why: Shortage,
        began: Now,
        /// When it is next looked at the disk.
        look_at: Instant,
        /// Not tried again before.
        retry_at: Instant,
    },
}

/// Whether there is room.
#[derive(Debug)]
pub struct Room {
    disk_free_min: u64,
    /// 0: no bound.
    store_max: u64,
    state: State,
    space: Option<Space>,
    /// How long the next write waits that finds no room.
    retry_wait: Duration,
}

impl Room {
    /// There is room, until something else is told.
    pub fn new(limits: &Limits) -> Room {
        Room {
            disk_free_min: limits.disk_free_bytes_min,
            store_max: limits.store_bytes_max,
            state: State::Enough,
            space: None,
            retry_wait: ROOM_RETRY_MIN,
        }
    }

    /// So much there is now.
    pub fn on_space(&mut self, now: Now, space: Space) -> Option<Turn> {
        self.space = Some(space);
        let State::Short { began, look_at, retry_at, .. } = &mut self.state else {
            let why = self.wants(space, 0, 0)?;
            return self.begin(now, why, now.mono);
        };
        *look_at = now.mono + ROOM_LOOK_PERIOD;
        let (began, retry_at) = (*began, *retry_at);
        let still = self.wants(space, self.disk_free_min / DISK_FREE_MARGIN, self.store_max / STORE_MARGIN);
        if let (Some(still), State::Short { why, .. }) = (still, &mut self.state) {
            *why = still;
            return None;
        }
        if retry_at > now.mono {
            return None;
        }
        self.state = State::Enough;
        Some(Turn::Ended(now.mono.since(began.mono)))
    }

    /// A write found no room. Each that follows the last without one that succeeds between is put off twice as long.
    pub fn on_write_failed(&mut self, now: Now) -> Option<Turn> {
        let retry_at = now.mono + self.retry_wait;
        self.retry_wait = self.retry_wait.saturating_mul(2).min(ROOM_RETRY_MAX);
        self.begin(now, Shortage::Write, retry_at)
    }

    /// A write found room.
    pub fn on_written(&mut self) {
        self.retry_wait = ROOM_RETRY_MIN;
    }

    /// Whether something can be stored.
    pub fn is_there(&self) -> bool {
        self.shortage().is_none()
    }

    /// Why nothing can be stored; `None` if there is room.
    pub fn shortage(&self) -> Option<Shortage> {
        match self.state {
            State::Enough => None,
            State::Short { why, .. } => Some(why),
        }
    }

    /// Since when that is so.
    pub fn since(&self) -> Option<UnixTime> {
        match self.state {
            State::Enough => None,
            State::Short { began, .. } => Some(began.wall),
        }
    }

    /// What was told last.
    pub fn space(&self) -> Option<Space> {
        self.space
    }

    /// When it is to be told again how much there is: while there is too little.
    pub fn look_at(&self) -> Option<Instant> {
        match self.state {
            State::Enough => None,
            State::Short { look_at, .. } => Some(look_at),
        }
    }

    fn begin(&mut self, now: Now, why: Shortage, retry_at: Instant) -> Option<Turn> {
        self.state = State::Short { why, began: now, look_at: now.mono + ROOM_LOOK_PERIOD, retry_at };
        Some(Turn::Began(why))
    }

    /// What is wanting, with so much to spare.
    fn wants(&self, space: Space, spare_of_disk: u64, spare_of_store: u64) -> Option<Shortage> {
        if space.disk_free < self.disk_free_min.saturating_add(spare_of_disk) {
            Some(Shortage::DiskFree)
        } else if self.store_max > 0 && space.store >= self.store_max - spare_of_store {
            Some(Shortage::StoreMax)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room() -> Room {
        Room::new(&Limits { disk_free_bytes_min: 100 * MIB, store_bytes_max: 1_600 * MIB, ..Limits::default() })
    }

    fn at(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000 + secs) }
    }

    fn tell(room: &mut Room, secs: u64, disk_free_mib: u64, store_mib: u64) -> Option<Turn> {
        room.on_space(at(secs), Space { disk_free: disk_free_mib * MIB, store: store_mib * MIB })
    }

    #[test]
    fn a_disk_that_gets_full_and_empty_is_short_from_the_floor_to_a_quarter_above_it() {
        let mut room = room();
        assert_eq!(tell(&mut room, 1, 100, 5), None);
        assert_eq!(tell(&mut room, 2, 99, 5), Some(Turn::Began(Shortage::DiskFree)));
        assert_eq!((room.shortage(), room.since()), (Some(Shortage::DiskFree), Some(at(2).wall)));
        assert_eq!(room.look_at(), Some(at(7).mono));
        assert_eq!(tell(&mut room, 7, 124, 5), None);
        assert_eq!((room.shortage(), room.look_at()), (Some(Shortage::DiskFree), Some(at(12).mono)));
        assert_eq!(tell(&mut room, 12, 125, 5), Some(Turn::Ended(Duration::from_secs(10))));
        assert_eq!((room.shortage(), room.look_at()), (None, None));
    }

    #[test]
    fn a_store_is_short_from_its_bound_to_a_sixteenth_below_it() {
        let mut room = room();
        assert_eq!(tell(&mut room, 1, 500, 1_599), None);
        assert_eq!(tell(&mut room, 2, 500, 1_600), Some(Turn::Began(Shortage::StoreMax)));
        assert_eq!(tell(&mut room, 7, 90, 1_400), None);
        assert_eq!(room.shortage(), Some(Shortage::DiskFree), "it is said what is wanting now");
        assert_eq!(tell(&mut room, 12, 500, 1_500), None);
        assert!(matches!(tell(&mut room, 17, 500, 1_499), Some(Turn::Ended(_))));
    }

    #[test]
    fn without_bounds_nothing_is_ever_wanting() {
        let none = Limits { disk_free_bytes_min: 0, store_bytes_max: 0, ..Limits::default() };
        let mut room = Room::new(&none);
        assert_eq!(tell(&mut room, 1, 0, u64::MAX / MIB), None);
    }

    #[test]
    fn a_write_that_fails_is_tried_again_ever_more_seldom_until_one_succeeds() {
        let mut room = room();
        let mut waits = Vec::new();
        let mut secs = 10;
        for _ in 0..10 {
            assert_eq!(room.on_write_failed(at(secs)), Some(Turn::Began(Shortage::Write)));
            let failed = secs;
            // The disk says that all is well.
            while tell(&mut room, secs, 1_000, 5).is_none() {
                secs += 5;
            }
            waits.push(secs - failed);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
        room.on_written();
        room.on_write_failed(at(secs));
        assert!(tell(&mut room, secs + 5, 1_000, 5).is_some());
    }

    #[test]
    fn a_write_that_failed_waits_for_the_floor_too() {
        let mut room = room();
        room.on_write_failed(at(10));
        assert_eq!(tell(&mut room, 100, 0, 5), None);
        assert_eq!(room.shortage(), Some(Shortage::DiskFree));
        assert_eq!(tell(&mut room, 200, 124, 5), None);
        assert!(tell(&mut room, 205, 125, 5).is_some());
    }
}
