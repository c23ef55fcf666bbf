//! How often an account may do something: one token bucket for each.

use std::collections::BTreeMap;

use crate::limits::{BUCKETS_MAX, Rate};
use crate::time::Instant;

/// The buckets of one rate. Of a key without one, the bucket is full.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    /// When each is full again.
    full_at: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Buckets<K> {
    /// All are full.
    pub fn new(rate: Rate) -> Buckets<K> {
        Buckets { rate, full_at: BTreeMap::new() }
    }

    /// Whether something may be done now.
    pub fn has(&self, key: &K, now: Instant) -> bool {
        let full_at = self.full_at.get(key).copied().unwrap_or(now).max(now);
        full_at + self.rate.interval <= now + self.rate.interval.saturating_mul(self.rate.burst)
    }

    /// Counts what is done now, if it may be. Whether it may.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        if !self.has(&key, now) {
            return false;
        }
        if self.full_at.len() >= BUCKETS_MAX && !self.full_at.contains_key(&key) {
            self.make_room(now);
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        *full_at = (*full_at).max(now) + self.rate.interval;
        true
    }

    /// Forgets the full ones; if that is not enough, the fuller half of the others.
    fn make_room(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() > BUCKETS_MAX / 2 {
            let mut moments: Vec<Instant> = self.full_at.values().copied().collect();
            let (_, median, _) = moments.select_nth_unstable(BUCKETS_MAX / 2);
            let median = *median;
            self.full_at.retain(|_, full_at| *full_at > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    const RATE: Rate = Rate::per_second(2, 5);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_and_then_one_in_each_interval() {
        let mut buckets = Buckets::new(RATE);
        let taken = |buckets: &mut Buckets<u32>, now| (0..10).filter(|_| buckets.take(1, now)).count();
        assert_eq!(taken(&mut buckets, at(10_000)), 5);
        assert_eq!(taken(&mut buckets, at(10_499)), 0);
        assert_eq!(taken(&mut buckets, at(10_500)), 1);
        assert_eq!(taken(&mut buckets, at(12_000)), 3);
        assert!(buckets.take(2, at(12_000)), "another one's bucket is its own");
        assert_eq!(taken(&mut buckets, at(60_000)), 5, "no more than full");
    }

    #[test]
    fn buckets_are_bounded_and_the_emptiest_are_kept() {
        let mut buckets = Buckets::new(RATE);
        (0..5).for_each(|_| assert!(buckets.take(u32::MAX, at(0))));
        for key in 0..3 * BUCKETS_MAX as u32 {
            assert!(buckets.take(key, at(0)));
            assert!(buckets.full_at.len() <= BUCKETS_MAX);
        }
        assert!(!buckets.take(u32::MAX, at(0)), "it is still empty");
    }
}
