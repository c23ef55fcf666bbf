//! Deadlines, in order: what is due, and when to wake next.
//!
//! Nearly every deadline here is a guard that never fires: a sweep's or a link's is put off by each message, on hundreds
//! of links. A heap would pay its logarithm, and its scattered memory, on each of those; a wheel pays a list link. So:
//! nine levels of 64 slots, a slot of the lowest level 1.024 ms wide and each level 64 times coarser, which together span
//! every [`Instant`] there is. A deadline sits on the level of the highest 6-bit digit in which it differs from the
//! wheel's own time, and moves down as that digit comes to agree: at most eight moves in its life, mostly none.
//!
//! The slots decide only where to look. Each deadline keeps its exact microsecond: those of the current slot lie sorted
//! in `due`, and [`TimerWheel::next_deadline`] is exact, so a process that sleeps until then never wakes for nothing.
//! The wheel knows no clock and no callbacks; it holds as many timers as its owner puts in, and the owner bounds them.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::time::Instant;

/// Microseconds of a slot of the lowest level, as a power of two.
const TICK_BITS: u32 = 10;
/// Bits of the digit that each level stands for.
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// Enough digits for every tick, so that no deadline is too far away.
const LEVELS: usize = ((u64::BITS - TICK_BITS) / DIGIT_BITS) as usize;
/// No entry.
const NIL: u32 = u32::MAX;

const _: () = assert!(LEVELS as u32 * DIGIT_BITS + TICK_BITS == u64::BITS);

/// Names one timer, for good: after it has fired or been cancelled, its name means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    index: u32,
    number: u64,
}

/// Timers with their deadlines; see the module.
#[derive(Debug)]
pub struct TimerWheel<T> {
    entries: Vec<Entry<T>>,
    /// First of the free entries, linked by `next`.
    free: u32,
    /// Timers set so far: orders those of one deadline, and tells an entry's uses apart.
    set: u64,
    held: usize,
    /// The wheel's own time: everything up to this tick is in `due`, everything later in a slot.
    tick: u64,
    due: BTreeMap<(Instant, u64), u32>,
    levels: [Level; LEVELS],
    /// The earliest deadline in the slots, if known. Only a cache: finding it may take a walk along one slot.
    earliest: Cell<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Bit n is set if slot n is not empty.
    occupied: u64,
    /// First and last entry of each slot.
    slots: [(u32, u32); SLOTS],
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    deadline: Instant,
    place: Place,
    previous: u32,
    next: u32,
    /// `None` exactly if the entry is free.
    value: Option<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Due,
    Slot { level: u8, slot: u8 },
}

impl<T> Default for TimerWheel<T> {
    fn default() -> Self {
        TimerWheel::new()
    }
}

impl<T> TimerWheel<T> {
    /// No timers, at the beginning of time.
    pub fn new() -> TimerWheel<T> {
        TimerWheel {
            entries: Vec::new(),
            free: NIL,
            set: 0,
            held: 0,
            tick: 0,
            due: BTreeMap::new(),
            levels: [Level { occupied: 0, slots: [(NIL, NIL); SLOTS] }; LEVELS],
            earliest: Cell::new(None),
        }
    }

    /// Timers that have neither fired nor been cancelled.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Sets a timer. A deadline that has passed is due at once.
    ///
    /// # Panics
    ///
    /// At 2³² − 1 timers: the owner has lost its bound.
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerId {
        self.set += 1;
        let number = self.set;
        let entry = Entry { number, deadline, place: Place::Free, previous: NIL, next: NIL, value: Some(value) };
        let index = if self.free == NIL {
            let index = u32::try_from(self.entries.len()).ok().filter(|index| *index != NIL);
            self.entries.push(entry);
            index.expect("timers are bounded by their owner")
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.held += 1;
        self.place(index);
        TimerId { index, number }
    }

    /// Takes a timer back. `None` if it has fired or been cancelled before.
    pub fn cancel(&mut self, timer: TimerId) -> Option<T> {
        let entry = self.entries.get(timer.index as usize)?;
        if entry.number != timer.number {
            return None;
        }
        match entry.place {
            Place::Free => return None,
            Place::Due => {
                let key = (entry.deadline, entry.number);
                self.due.remove(&key);
            }
            Place::Slot { level, slot } => self.unlink(timer.index, level, slot),
        }
        self.release(timer.index)
    }

    /// The earliest deadline, exactly.
    pub fn next_deadline(&self) -> Option<Instant> {
        if let Some((&(deadline, _), _)) = self.due.first_key_value() {
            return Some(deadline);
        }
        if self.earliest.get().is_none() {
            let (level, slot) = self.first_slot()?;
            self.earliest.set(self.slot_entries(level, slot).map(|entry| entry.deadline).min());
        }
        self.earliest.get()
    }

    /// Takes the timer whose deadline is the earliest, if that is not after `now`; of equal deadlines, the one set first.
    /// A timer set meanwhile with a deadline not after `now` comes in its turn, so an owner that sets one for each that it
    /// takes must set it later than `now` to come to an end.
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let now_tick = tick_of(now);
        while self.due.is_empty() {
            let first = self.first_slot().map(|(level, slot)| (level, slot, self.slot_start(level, slot)));
            let Some((level, slot, start)) = first.filter(|(.., start)| *start <= now_tick) else {
                // Nothing lies in between, so what is set next is placed as finely as can be.
                self.tick = self.tick.max(now_tick);
                return None;
            };
            self.tick = start;
            self.empty_slot(level, slot);
        }
        let (&key, &index) = self.due.first_key_value()?;
        if key.0 > now {
            return None;
        }
        self.due.remove(&key);
        self.release(index)
    }

    /// Puts a held entry where its deadline belongs at the wheel's time.
    fn place(&mut self, index: u32) {
        let (deadline, number) = {
            let entry = &self.entries[index as usize];
            (entry.deadline, entry.number)
        };
        let tick = tick_of(deadline);
        if tick <= self.tick {
            self.entries[index as usize].place = Place::Due;
            self.due.insert((deadline, number), index);
            return;
        }
        let (level, slot) = position(tick, self.tick);
        let (first, last) = self.levels[level].slots[slot];
        let entry = &mut self.entries[index as usize];
        entry.place = Place::Slot { level: level as u8, slot: slot as u8 };
        entry.previous = last;
        entry.next = NIL;
        if last == NIL {
            self.levels[level].slots[slot] = (index, index);
            self.levels[level].occupied |= 1 << slot;
        } else {
            self.entries[last as usize].next = index;
            self.levels[level].slots[slot] = (first, index);
        }
        // An unknown earliest stays unknown: other entries may be earlier still.
        if self.earliest.get().is_some_and(|earliest| deadline < earliest) {
            self.earliest.set(Some(deadline));
        }
    }

    fn unlink(&mut self, index: u32, level: u8, slot: u8) {
        let level = &mut self.levels[usize::from(level)];
        let (mut first, mut last) = level.slots[usize::from(slot)];
        let Entry { previous, next, deadline, .. } = self.entries[index as usize];
        match previous {
            NIL => first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NIL => last = previous,
            next => self.entries[next as usize].previous = previous,
        }
        level.slots[usize::from(slot)] = (first, last);
        if first == NIL {
            level.occupied &= !(1 << slot);
        }
        if self.earliest.get() == Some(deadline) {
            self.earliest.set(None);
        }
    }

    /// Gives an entry that is in no list back to the free ones.
    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.place = Place::Free;
        entry.next = self.free;
        self.free = index;
        self.held -= 1;
        entry.value.take()
    }

    /// The occupied slot that holds the earliest deadline. A lower level is always earlier than a higher one, and no slot
    /// lies behind the wheel's time, so it is the first bit of the first level that has one.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        Some((level, self.levels[level].occupied.trailing_zeros() as usize))
    }

    /// The first tick of a slot.
    fn slot_start(&self, level: usize, slot: usize) -> u64 {
        let shift = level as u32 * DIGIT_BITS;
        let above = !0u64 << (shift + DIGIT_BITS);
        (self.tick & above) | ((slot as u64) << shift)
    }

    /// Places each entry of a slot anew, after the wheel's time has come to the slot's first tick.
    fn empty_slot(&mut self, level: usize, slot: usize) {
        let (mut index, _) = std::mem::replace(&mut self.levels[level].slots[slot], (NIL, NIL));
        self.levels[level].occupied &= !(1 << slot);
        self.earliest.set(None);
        while index != NIL {
            let next = self.entries[index as usize].next;
            self.place(index);
            index = next;
        }
    }

    fn slot_entries(&self, level: usize, slot: usize) -> impl Iterator<Item = &Entry<T>> {
        let (first, _) = self.levels[level].slots[slot];
        let entry = |index: u32| (index != NIL).then(|| &self.entries[index as usize]);
        std::iter::successors(entry(first), move |previous| entry(previous.next))
    }

    /// Checks what must hold between any two calls.
    ///
    /// # Panics
    ///
    /// If it does not: a bug of this module.
    pub fn assert_invariants(&self) {
        let mut placed = 0;
        for (&(deadline, number), &index) in &self.due {
            let entry = &self.entries[index as usize];
            assert!(entry.place == Place::Due && entry.deadline == deadline && entry.number == number);
            assert!(tick_of(deadline) <= self.tick, "due before its time");
            placed += 1;
        }
        let mut earliest: Option<Instant> = None;
        for level in 0..LEVELS {
            for slot in 0..SLOTS {
                let (first, last) = self.levels[level].slots[slot];
                assert_eq!(self.levels[level].occupied >> slot & 1 == 1, first != NIL, "occupancy of {level}/{slot}");
                let mut previous = NIL;
                let mut index = first;
                while index != NIL {
                    let entry = &self.entries[index as usize];
                    assert_eq!(entry.previous, previous, "links of {level}/{slot}");
                    assert_eq!(entry.place, Place::Slot { level: level as u8, slot: slot as u8 });
                    let tick = tick_of(entry.deadline);
                    assert!(tick > self.tick && position(tick, self.tick) == (level, slot), "in the wrong slot");
                    earliest = Some(earliest.map_or(entry.deadline, |known| known.min(entry.deadline)));
                    placed += 1;
                    (previous, index) = (index, entry.next);
                }
                assert_eq!(last, previous, "end of {level}/{slot}");
            }
        }
        assert!(
            self.earliest.get().is_none_or(|known| Some(known) == earliest),
            "the cached deadline is not the earliest"
        );
        assert_eq!(placed, self.held);
        let held = self.entries.iter().filter(|entry| entry.value.is_some()).count();
        let free = self.entries.iter().filter(|entry| entry.place == Place::Free).count();
        assert_eq!((held, free), (self.held, self.entries.len() - self.held));
    }
}

fn tick_of(time: Instant) -> u64 {
    time.as_micros() >> TICK_BITS
}

/// Level and slot of a tick that lies ahead of the wheel's.
fn position(tick: u64, wheel: u64) -> (usize, usize) {
    debug_assert!(tick > wheel);
    let highest = u64::BITS - 1 - (tick ^ wheel).leading_zeros();
    let level = highest / DIGIT_BITS;
    (level as usize, (tick >> (level * DIGIT_BITS)) as usize % SLOTS)
}

/// The wheel beside the same by looking through everything, for tests and the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model {
    use super::{TimerId, TimerWheel};
    use crate::time::{Duration, Instant};

    /// Names remembered for cancelling, those of timers that are gone included. Beyond: the older half is forgotten.
    const NAMES_MAX: usize = 1_024;

    /// One thing to do to both. Lengths are in microseconds.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Step {
        Insert { ahead: u64 },
        InsertPast { behind: u64 },
        Cancel { pick: usize },
        Advance { by: u64 },
    }

    #[derive(Default)]
    pub(crate) struct Model {
        wheel: TimerWheel<u64>,
        naive: Vec<(Instant, u64)>,
        names: Vec<(TimerId, u64)>,
        set: u64,
        now: Instant,
    }

    impl Model {
        /// Takes one step with both and compares all that can be seen.
        pub(crate) fn step(&mut self, step: Step) {
            match step {
                Step::Insert { ahead } => self.insert(self.now + Duration::from_micros(ahead)),
                Step::InsertPast { behind } => {
                    self.insert(Instant::from_micros(self.now.as_micros().saturating_sub(behind)));
                }
                Step::Cancel { pick } => self.cancel(pick),
                Step::Advance { by } => self.advance(by),
            }
            assert_eq!(self.wheel.next_deadline(), self.naive.iter().min().map(|timer| timer.0));
            assert_eq!(self.wheel.len(), self.naive.len());
        }

        pub(crate) fn assert_invariants(&self) {
            self.wheel.assert_invariants();
        }

        fn insert(&mut self, deadline: Instant) {
            self.set += 1;
            self.names.push((self.wheel.insert(deadline, self.set), self.set));
            self.naive.push((deadline, self.set));
            if self.names.len() > NAMES_MAX {
                self.names.drain(..NAMES_MAX / 2);
            }
        }

        fn cancel(&mut self, pick: usize) {
            if self.names.is_empty() {
                return;
            }
            let (name, value) = self.names[pick % self.names.len()];
            let held = self.naive.iter().position(|timer| timer.1 == value);
            assert_eq!(self.wheel.cancel(name), held.map(|held| self.naive.remove(held).1));
        }

        fn advance(&mut self, by: u64) {
            self.now = self.now + Duration::from_micros(by);
            self.naive.sort();
            let fired = self.naive.partition_point(|timer| timer.0 <= self.now);
            for (_, value) in self.naive.drain(..fired) {
                assert_eq!(self.wheel.pop_expired(self.now), Some(value));
            }
            assert_eq!(self.wheel.pop_expired(self.now), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    fn expired<T>(wheel: &mut TimerWheel<T>, now: Instant) -> Vec<T> {
        std::iter::from_fn(|| wheel.pop_expired(now)).collect()
    }

    #[test]
    fn fires_in_order_of_deadline_then_of_setting() {
        let mut wheel = TimerWheel::new();
        for (deadline, name) in [(2_000, 'c'), (1_001, 'a'), (2_000, 'd'), (1_002, 'b'), (90_000_000_000, 'e')] {
            wheel.insert(at(deadline), name);
        }
        assert_eq!(expired(&mut wheel, at(1_000)), Vec::<char>::new());
        assert_eq!(wheel.next_deadline(), Some(at(1_001)));
        assert_eq!(expired(&mut wheel, at(1_001)), ['a']);
        assert_eq!(expired(&mut wheel, at(2_000)), ['b', 'c', 'd']);
        assert_eq!(wheel.next_deadline(), Some(at(90_000_000_000)));
        assert_eq!(expired(&mut wheel, at(89_999_999_999)), Vec::<char>::new());
        assert_eq!(expired(&mut wheel, at(u64::MAX)), ['e']);
        assert_eq!((wheel.next_deadline(), wheel.len()), (None, 0));
    }

    #[test]
    fn a_name_means_one_timer_only() {
        let mut wheel = TimerWheel::new();
        let first = wheel.insert(at(5_000), "first");
        assert_eq!(wheel.cancel(first), Some("first"));
        assert_eq!(wheel.cancel(first), None);
        let second = wheel.insert(at(5_000), "second");
        assert_eq!(wheel.cancel(first), None, "the entry is in use again");
        assert_eq!(wheel.pop_expired(at(5_000)), Some("second"));
        assert_eq!(wheel.cancel(second), None);
        wheel.assert_invariants();
    }

    #[test]
    fn a_timer_for_the_past_is_due_at_once_and_first() {
        let mut wheel = TimerWheel::new();
        wheel.insert(at(10_000_000), 1);
        assert_eq!(expired(&mut wheel, at(10_000_000)), [1]);
        wheel.insert(at(10_000_001), 3);
        wheel.insert(at(1), 2);
        let cancelled = wheel.insert(at(0), 0);
        assert_eq!(wheel.next_deadline(), Some(at(0)));
        assert_eq!(wheel.cancel(cancelled), Some(0));
        assert_eq!(wheel.next_deadline(), Some(at(1)));
        assert_eq!(expired(&mut wheel, at(20_000_000)), [2, 3]);
    }

    #[test]
    fn the_farthest_deadline_has_a_place() {
        let mut wheel = TimerWheel::new();
        wheel.insert(at(u64::MAX), ());
        wheel.insert(Instant::ZERO + Duration::from_secs(u64::MAX), ());
        wheel.assert_invariants();
        assert_eq!(wheel.next_deadline(), Some(at(u64::MAX)));
        assert_eq!(wheel.pop_expired(at(u64::MAX - 1)), None);
        wheel.assert_invariants();
        assert_eq!(expired(&mut wheel, at(u64::MAX)).len(), 2);
    }

    /// A small generator (SplitMix64), so that a seed gives the same run for ever.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: u64) -> u64 {
            self.next() % bound
        }

        /// Lengths of all magnitudes up to `bits` bits, with round ones often.
        fn length(&mut self, bits: u64) -> u64 {
            let length = self.next() >> (64 - bits + self.below(bits));
            if self.below(4) == 0 { length & !0xffff } else { length }
        }
    }

    #[test]
    fn agrees_with_a_naive_model() {
        use model::{Model, Step};
        // Ranges from a few slots to all of time, so that every level comes to be used; and time that mostly stands, so
        // that hundreds of timers pile up, or mostly moves.
        for (seed, bits) in [(1, 12), (2, 18), (3, 24), (4, 33), (5, 40), (6, 52), (7, 63)] {
            for moves in [1, 4, 16] {
                let mut random = Random(seed);
                let mut model = Model::default();
                for step in 0..10_000 {
                    model.step(match random.below(12 + moves) {
                        0..=6 => Step::Insert { ahead: random.length(bits) },
                        7 => Step::InsertPast { behind: random.length(bits) },
                        8..=11 => Step::Cancel { pick: random.next() as usize },
                        _ => Step::Advance { by: random.length(bits) >> random.below(8) },
                    });
                    if step % 64 == 0 {
                        model.assert_invariants();
                    }
                }
            }
        }
    }
}
