//! A map of what came lately: it has a bound, and forgets the oldest beyond it.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// At most so many values by key, the last ones. A key that comes again keeps its place.
#[derive(Debug)]
pub struct Recent<K, V> {
    max: usize,
    /// Only ever asked by key: its order, another in each process, shows nowhere.
    values: HashMap<K, V>,
    /// In the order of their first coming, oldest first.
    order: VecDeque<K>,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// One that holds at most `max` keys.
    pub fn new(max: usize) -> Recent<K, V> {
        Recent { max, values: HashMap::new(), order: VecDeque::new() }
    }

    /// Remembers the last value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    /// The value of a key that has not been forgotten.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_what_comes_again_keeps_its_place() {
        let mut recent = Recent::new(2);
        recent.insert('a', 1);
        recent.insert('b', 2);
        recent.insert('a', 3);
        assert_eq!((recent.len(), recent.get(&'a'), recent.get(&'b')), (2, Some(&3), Some(&2)));
        recent.insert('c', 4);
        assert_eq!((recent.len(), recent.get(&'a'), recent.get(&'b'), recent.get(&'c')), (2, None, Some(&2), Some(&4)));
        assert_eq!(recent.values.len(), recent.order.len());
    }
}
