//! Whose turn it is, where many want more than there is (start-time fair queueing; Goyal, Vin and Cheng, 1996).
//!
//! Like a queue at a counter that everybody has to join again after each thing he wants, at the place where those stand who
//! have had as much as he: who wants little is served next, however many want all they can get, and nobody waits for ever.

use std::collections::BTreeSet;

/// A moment on the clock that turns go by: it moves on by what one of those who wait takes, however many take as much
/// meanwhile.
type Moment = u64;

/// Where somebody stands: from when it is his turn; of several who could be next, who has taken least; and who came first.
type Place = (Moment, Moment, u64);

/// Those who wait, each named once by a key.
#[derive(Debug)]
pub struct Turns<K> {
    waiting: BTreeSet<(Place, K)>,
    came: u64,
    now: Moment,
    ahead: u64,
}

/// What somebody has taken, and his place among those who wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Up to when it is paid for.
    paid: Moment,
    /// The last place he had.
    place: Place,
}

impl<K: Copy + Ord> Turns<K> {
    /// Nobody waits. Whoever has taken no more than `ahead` beyond his share counts as one who has taken nothing.
    pub fn new(ahead: u64) -> Turns<K> {
        Turns { waiting: BTreeSet::new(), came: 0, now: 0, ahead }
    }

    /// Somebody waits, unless he does already.
    pub fn push(&mut self, key: K, share: &mut Share) {
        if !self.has(key, share) {
            self.came += 1;
            share.place = (self.now.max(share.paid.saturating_sub(self.ahead)), share.paid, self.came);
            self.waiting.insert((share.place, key));
        }
    }

    /// He does not wait any more.
    pub fn remove(&mut self, key: K, share: &Share) {
        self.waiting.remove(&(share.place, key));
    }

    /// The same by looking at everybody, if it is not known which place he has.
    pub fn forget(&mut self, key: K) {
        self.waiting.retain(|(_, other)| *other != key);
    }

    /// Whether he waits.
    pub fn has(&self, key: K, share: &Share) -> bool {
        self.waiting.contains(&(share.place, key))
    }

    /// Whose turn it is: he waits no more.
    pub fn pop(&mut self) -> Option<K> {
        let ((from, ..), key) = self.waiting.pop_first()?;
        self.now = from;
        Some(key)
    }

    /// He has taken so much.
    pub fn note(&mut self, key: K, share: &mut Share, took: u64) {
        share.paid = share.paid.max(self.now).saturating_add(took);
        if self.has(key, share) {
            self.remove(key, share);
            self.push(key, share);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Who waits.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.waiting.iter().map(|(_, key)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those who wait are served, each of whom wants as much again, until `me` is; how many that was.
    fn waits(turns: &mut Turns<usize>, shares: &mut [Share], me: usize, takes: u64) -> usize {
        turns.push(me, &mut shares[me]);
        for n in 0.. {
            let key = turns.pop().expect("somebody waits");
            if key == me {
                return n;
            }
            turns.push(key, &mut shares[key]);
            turns.note(key, &mut shares[key], takes);
        }
        unreachable!("the loop has no end")
    }

    #[test]
    fn who_takes_no_more_than_his_share_is_next_however_many_take_all_they_get() {
        let mut turns = Turns::new(2_000);
        let mut shares = [Share::default(); 100];
        (1..100).for_each(|key| turns.push(key, &mut shares[key]));
        assert_eq!(waits(&mut turns, &mut shares, 0, 5_000), 99, "nobody has taken anything yet");
        // A hundred times 50 is what each of the others takes at once.
        let mut waited = 0;
        for _ in 0..1_000 {
            waited += usize::from(waits(&mut turns, &mut shares, 0, 5_000) > 0);
            turns.note(0, &mut shares[0], 50);
        }
        assert!(waited <= 12, "{waited}");
        // Who takes more waits until the others have had as much.
        turns.note(0, &mut shares[0], 50_000);
        assert!((500..1_500).contains(&waits(&mut turns, &mut shares, 0, 5_000)));
    }

    #[test]
    fn what_was_taken_while_nobody_waited_is_not_held_against_anybody() {
        let mut turns = Turns::new(0);
        let mut shares = [Share::default(); 2];
        for _ in 0..1_000 {
            assert_eq!(waits(&mut turns, &mut shares, 0, 0), 0);
            turns.note(0, &mut shares[0], 1_000);
        }
        turns.push(1, &mut shares[1]);
        assert!(waits(&mut turns, &mut shares, 0, 100) <= 11);
    }

    #[test]
    fn each_waits_once_and_who_has_gone_does_not() {
        let mut turns = Turns::new(0);
        let mut shares = [Share::default(); 3];
        (0..3).for_each(|key| turns.push(key, &mut shares[key]));
        (0..3).for_each(|key| turns.push(key, &mut shares[key]));
        turns.remove(1, &shares[1]);
        assert_eq!((turns.len(), turns.has(1, &shares[1])), (2, false));
        assert_eq!((turns.pop(), turns.pop(), turns.pop()), (Some(0), Some(2), None));
        turns.push(2, &mut Share::default());
        turns.forget(2);
        assert!(turns.is_empty() && turns.keys().next().is_none());
    }
}
