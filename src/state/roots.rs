//! The root events, held so that millions of them fit into a small host: some 60 bytes each, all told.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use nostr::event::EventId;

use super::{RepoId, RootId};
use crate::store::Seq;

/// In place of the one repo of a root event: it has several, or was removed.
const NOT_ONE: RepoId = RepoId(u32::MAX);

/// Every root event by its number, and its number by its id.
#[derive(Default)]
pub(super) struct Roots {
    ids: Vec<EventId>,
    seqs: Vec<Seq>,
    /// The one repo of each, or [`NOT_ONE`].
    repos: Vec<RepoId>,
    /// The repos of those that have several.
    several: BTreeMap<RootId, Box<[RepoId]>>,
    /// The numbers of those that were not removed, by the hash of their ids.
    numbers: HashTable<u32>,
    /// Keyed anew in every process, so that nobody can make ids that meet in the table. No order depends on it.
    hasher: RandomState,
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roots").field("held", &self.len()).finish_non_exhaustive()
    }
}

impl Roots {
    /// Gives a root event the next number, unless it is there already.
    pub fn add(&mut self, id: EventId, seq: Seq, repos: &[RepoId]) -> Option<RootId> {
        if self.number(&id).is_some() {
            return None;
        }
        let number = u32::try_from(self.ids.len()).expect("the store holds fewer than 2^32 root events");
        push(&mut self.ids, id);
        push(&mut self.seqs, seq);
        match repos {
            [repo] => push(&mut self.repos, *repo),
            _ => {
                push(&mut self.repos, NOT_ONE);
                self.several.insert(RootId(number), repos.into());
            }
        }
        let (ids, hasher) = (&self.ids, &self.hasher);
        let hash = |number: &u32| hash_of(hasher, &ids[*number as usize]);
        self.numbers.insert_unique(hash(&number), number, hash);
        Some(RootId(number))
    }

    /// One that is there belongs to one more repo.
    pub fn add_repo(&mut self, root: RootId, repo: RepoId) {
        let mut repos = self.repos(root).to_vec();
        if let Err(at) = repos.binary_search(&repo) {
            repos.insert(at, repo);
            self.repos[root.0 as usize] = NOT_ONE;
            self.several.insert(root, repos.into());
        }
    }

    /// Removes one, whose number is not used again. Returns it and the repos that it belonged to.
    pub fn remove(&mut self, id: &EventId) -> Option<(RootId, Vec<RepoId>)> {
        let hash = hash_of(&self.hasher, id);
        let entry = self.numbers.find_entry(hash, |number| self.ids[*number as usize] == *id).ok()?;
        let root = RootId(entry.remove().0);
        let repos = self.repos(root).to_vec();
        self.repos[root.0 as usize] = NOT_ONE;
        self.several.remove(&root);
        Some((root, repos))
    }

    /// The number of one that was not removed.
    pub fn number(&self, id: &EventId) -> Option<RootId> {
        let hash = hash_of(&self.hasher, id);
        self.numbers.find(hash, |number| self.ids[*number as usize] == *id).map(|number| RootId(*number))
    }

    /// The repos it belongs to; none after it was removed.
    pub fn repos(&self, root: RootId) -> &[RepoId] {
        let one = &self.repos[root.0 as usize];
        match *one {
            NOT_ONE => self.several.get(&root).map_or(&[], |repos| repos),
            _ => std::slice::from_ref(one),
        }
    }

    /// Its id.
    pub fn id(&self, root: RootId) -> &EventId {
        &self.ids[root.0 as usize]
    }

    /// Its store sequence number.
    pub fn seq(&self, root: RootId) -> Seq {
        self.seqs[root.0 as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }
}

fn hash_of(hasher: &RandomState, id: &EventId) -> u64 {
    // Ids are hashes: a part tells as much as the whole.
    hasher.hash_one(u64::from_be_bytes(*id.as_bytes().first_chunk().expect("an id has 32 bytes")))
}

/// Adds to a list that grows by an eighth where others double: half of it would be empty on average.
pub(super) fn push<T>(list: &mut Vec<T>, value: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 8 + 8);
    }
    list.push(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::root_id;

    #[test]
    fn roots_are_found_by_id_and_number_until_they_are_removed() {
        let mut roots = Roots::default();
        let (a, b) = (RepoId(0), RepoId(7));
        let numbers: Vec<RootId> =
            (0..1_000).map(|n| roots.add(root_id(n), u64::from(n) + 5, &[b]).expect("it is new")).collect();
        assert_eq!(roots.add(root_id(3), 2_000, &[a]), None);
        let several = roots.add(root_id(5_000), 3_000, &[a, b]).expect("it is new");
        for (n, number) in numbers.iter().enumerate() {
            let id = root_id(n as u32);
            assert_eq!((roots.number(&id), roots.id(*number)), (Some(*number), &id));
            assert_eq!((roots.seq(*number), roots.repos(*number)), (n as u64 + 5, &[b][..]));
        }
        assert_eq!((roots.repos(several), roots.len()), (&[a, b][..], 1_001));
        assert_eq!(roots.remove(&root_id(5_000)), Some((several, vec![a, b])));
        assert_eq!(roots.remove(&root_id(9)), Some((numbers[9], vec![b])));
        assert_eq!(roots.remove(&root_id(9)), None);
        for gone in [several, numbers[9]] {
            assert!(roots.repos(gone).is_empty());
        }
        assert_eq!((roots.number(&root_id(9)), roots.len()), (None, 999));
        let again = roots.add(root_id(9), 4_000, &[a]).expect("it is new again");
        assert!(again > several, "no number is used twice");
    }
}
