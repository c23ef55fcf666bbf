//! Ids that the table of ids was found to lack. What is new is looked for several times before it is held: when each relay
//! lists it, when it comes, and when the store judges it. Only the first of these is a walk through the table.

use super::memtable::Key;
use crate::limits::STORE_NEGATIVE_CACHE_IDS;
use std::cell::Cell;

/// Some of the ids that the table lacks. Each has one place, where the last to come stays: whoever picks ids for theirs to
/// meet slows down the lookups of those alone.
pub(super) struct NegativeCache(Box<[Cell<Option<Key<32>>>]>);

impl NegativeCache {
    /// None.
    pub(super) fn nothing() -> NegativeCache {
        NegativeCache((0..STORE_NEGATIVE_CACHE_IDS).map(|_| Cell::new(None)).collect())
    }

    /// Whether the table is known to lack it.
    pub(super) fn contains(&self, id: &Key<32>) -> bool {
        self.place(id).get() == Some(*id)
    }

    /// The table lacks it.
    pub(super) fn add(&self, id: Key<32>) {
        self.place(&id).set(Some(id));
    }

    /// The table has it from now on.
    pub(super) fn remove(&self, id: &Key<32>) {
        if self.contains(id) {
            self.place(id).set(None);
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|place| place.set(None));
    }

    /// By its last bytes: the first are alike where work was put into an id (NIP-13).
    fn place(&self, id: &Key<32>) -> &Cell<Option<Key<32>>> {
        let tail: &[u8; 8] = id.0.last_chunk().expect("an id has 8 bytes");
        &self.0[(u64::from_be_bytes(*tail) % STORE_NEGATIVE_CACHE_IDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_those_with_one_place_is_known_and_no_other() {
        let id = |first: u8, last: u8| {
            let mut id = [0; 32];
            (id[0], id[31]) = (first, last);
            Key(id)
        };
        let negative_cache = NegativeCache::nothing();
        assert!(!negative_cache.contains(&id(0, 0)), "nothing is, not even the id of zeros");
        negative_cache.add(id(1, 1));
        negative_cache.add(id(1, 2));
        assert!(negative_cache.contains(&id(1, 1)) && negative_cache.contains(&id(1, 2)));
        negative_cache.add(id(2, 1));
        assert!(negative_cache.contains(&id(2, 1)) && !negative_cache.contains(&id(1, 1)), "the place is taken");
        negative_cache.remove(&id(1, 1));
        assert!(negative_cache.contains(&id(2, 1)), "another is removed");
        negative_cache.remove(&id(2, 1));
        assert!(!negative_cache.contains(&id(2, 1)) && negative_cache.contains(&id(1, 2)));
    }
}
