//! Answers remembered until their time is over. A value; time comes in.

use std::collections::{BTreeMap, BTreeSet};

use super::Answer;
use crate::time::Instant;

/// Answers by name, at most `names_max`.
#[derive(Debug)]
pub(super) struct Cache {
    names_max: usize,
    entries: BTreeMap<String, (Instant, Answer)>,
    /// The same names by the end of their time, soonest first.
    by_end: BTreeSet<(Instant, String)>,
}

impl Cache {
    pub(super) fn new(names_max: usize) -> Self {
        assert!(names_max > 0, "a cache without room");
        Cache { names_max, entries: BTreeMap::new(), by_end: BTreeSet::new() }
    }

    /// The answer for `name`, unless its time is over.
    pub(super) fn find(&self, now: Instant, name: &str) -> Option<&Answer> {
        self.entries.get(name).filter(|(end, _)| now < *end).map(|(_, answer)| answer)
    }

    /// Remembers `answer` until `end`. Without room, the name that would go first goes now.
    pub(super) fn insert(&mut self, name: &str, answer: Answer, end: Instant) {
        if let Some((old_end, _)) = self.entries.insert(name.to_owned(), (end, answer)) {
            self.by_end.remove(&(old_end, name.to_owned()));
        }
        self.by_end.insert((end, name.to_owned()));
        if self.entries.len() > self.names_max
            && let Some((_, soonest)) = self.by_end.pop_first()
        {
            self.entries.remove(&soonest);
        }
        assert_eq!(self.entries.len(), self.by_end.len(), "two views of one cache");
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.by_end.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ResolveError;
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_micros(secs * 1_000_000)
    }

    fn answer(n: u8) -> Answer {
        Ok(vec![[1, 1, 1, n].into()])
    }

    #[test]
    fn forgets_when_time_is_over() {
        let mut cache = Cache::new(2);
        cache.insert("a", answer(1), at(10));
        assert_eq!(cache.find(at(9), "a"), Some(&answer(1)));
        assert_eq!(cache.find(at(10), "a"), None);
        assert_eq!(cache.find(at(9), "b"), None);
    }

    #[test]
    fn a_newer_answer_replaces_the_older() {
        let mut cache = Cache::new(2);
        cache.insert("a", answer(1), at(10));
        cache.insert("a", Err(ResolveError::NoSuchName), at(20));
        assert_eq!(cache.find(at(15), "a"), Some(&Err(ResolveError::NoSuchName)));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn without_room_the_soonest_to_end_goes() {
        let mut cache = Cache::new(2);
        cache.insert("a", answer(1), at(30));
        cache.insert("b", answer(2), at(10));
        cache.insert("c", answer(3), at(20));
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.find(at(0), "b"), None);
        assert!(cache.find(at(0), "a").is_some() && cache.find(at(0), "c").is_some());
        for n in 0..100 {
            cache.insert(&format!("n{n}"), answer(n), at(100 + u64::from(n)));
            assert_eq!(cache.len(), 2);
        }
        cache.clear();
        assert_eq!(cache.len(), 0);
    }
}
