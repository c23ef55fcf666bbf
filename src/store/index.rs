//! The table of ids and the indexes, and what they still lack.
//!
//! A commit writes its events and no more: their index entries would change almost every page of every index, each time
//! anew. They are held in memory and written for many commits at once. What a crash leaves unwritten is found again in
//! the events themselves.

use super::schema::{self, BY_AUTHOR_LEN, BY_KIND_LEN, BY_TAG_LEN, BY_TIME_LEN};
use super::{Seq, StoreError};
use nostr::event::Event;
use redb::{Range, ReadOnlyTable, WriteTransaction};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, btree_map};
use std::hash::{Hash, Hasher};
use std::ops::Bound;

/// The events from a sequence number on: they are in the table of events, and here instead of in the indexes.
pub(super) struct Unindexed {
    pub first: Seq,
    pub entries: IndexEntries,
}

/// Where a commit puts what it changes in the indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indexing {
    /// Into memory.
    Later,
    /// Into the tables, with all that has been in memory so far.
    Now,
}

/// A committed event that leaves the store.
pub(super) type RemovedEvent = (Seq, Event);

impl Unindexed {
    /// What to do with a commit of `new` more entries, if fewer than `max` may be held back.
    pub(super) fn indexing(&self, new: usize, max: usize) -> Indexing {
        match self.entries.len() + new >= max {
            true => Indexing::Now,
            false => Indexing::Later,
        }
    }

    /// Writes what a commit changes in the tables, and what the indexes lack after it.
    pub(super) fn write<'a>(
        &self,
        txn: &WriteTransaction,
        indexing: Indexing,
        removed: &[RemovedEvent],
        new: impl Iterator<Item = (Seq, &'a Event)>,
        next_seq: Seq,
    ) -> Result<(), StoreError> {
        let mut old = IndexEntries::default();
        match indexing {
            Indexing::Later => {
                removed.iter().filter(|(seq, _)| *seq < self.first).for_each(|(seq, e)| old.add(*seq, e))
            }
            Indexing::Now => {
                self.entries.insert_into(txn)?;
                removed.iter().for_each(|(seq, event)| old.add(*seq, event));
            }
        }
        old.remove_from(txn)?;
        if indexing == Indexing::Now {
            let mut entries = IndexEntries::default();
            new.for_each(|(seq, event)| entries.add(seq, event));
            entries.insert_into(txn)?;
            schema::write_unindexed(txn, next_seq)?;
        }
        Ok(())
    }

    /// What the indexes lack after such a commit, if the next sequence number is `next_seq` then.
    pub(super) fn after<'a>(
        mut self,
        indexing: Indexing,
        removed: &[RemovedEvent],
        new: impl Iterator<Item = (Seq, &'a Event)>,
        next_seq: Seq,
    ) -> Unindexed {
        match indexing {
            Indexing::Now => Unindexed { first: next_seq, entries: IndexEntries::default() },
            Indexing::Later => {
                let here = removed.iter().filter(|(seq, _)| *seq >= self.first);
                here.for_each(|(seq, event)| self.entries.take_out(*seq, event));
                new.for_each(|(seq, event)| self.entries.add(seq, event));
                self
            }
        }
    }
}

/// A key of at least 8 bytes, in the order of its bytes. The first of them nearly always tell, and comparing them as a
/// number spares the call that comparing slices is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<const N: usize>(pub [u8; N]);

impl<const N: usize> Key<N> {
    fn head(&self) -> u64 {
        u64::from_be_bytes(*self.0.first_chunk().expect("a key has 8 bytes"))
    }
}

impl<const N: usize> Ord for Key<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head().cmp(&other.head()).then_with(|| self.0[8..].cmp(&other.0[8..]))
    }
}

/// By its first bytes, which of an id are as good as all.
impl<const N: usize> Hash for Key<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.head());
    }
}

impl<const N: usize> PartialOrd for Key<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What the table of ids and the indexes say of some events.
#[derive(Default)]
pub(super) struct IndexEntries {
    /// In an order that is another in each process.
    pub ids: HashMap<Key<32>, (Seq, u64)>,
    pub by_time: BTreeMap<Key<BY_TIME_LEN>, u16>,
    pub by_kind: BTreeMap<Key<BY_KIND_LEN>, u16>,
    pub by_author: BTreeMap<Key<BY_AUTHOR_LEN>, u16>,
    pub by_tag: BTreeMap<Key<BY_TAG_LEN>, u16>,
}

/// The keys of one event.
struct Keys {
    by_time: Key<BY_TIME_LEN>,
    by_kind: Key<BY_KIND_LEN>,
    by_author: Key<BY_AUTHOR_LEN>,
    tags: Vec<schema::TagPrefix>,
}

impl Keys {
    fn of(seq: Seq, event: &Event) -> Keys {
        let place = schema::place(event.created_at.as_secs(), &event.id, seq);
        Keys {
            by_time: Key(place),
            by_kind: Key(schema::index_key(&event.kind.as_u16().to_be_bytes(), &place)),
            by_author: Key(schema::index_key(event.pubkey.as_bytes(), &place)),
            tags: schema::tag_prefixes(&event.tags),
        }
    }

    fn by_tag(&self) -> impl Iterator<Item = Key<BY_TAG_LEN>> {
        self.tags.iter().map(|prefix| Key(schema::index_key(prefix, &self.by_time.0)))
    }
}

impl IndexEntries {
    /// Entries that an event makes at most.
    pub(super) fn most_of(event: &Event) -> usize {
        4 + event.tags.len()
    }

    pub(super) fn add(&mut self, seq: Seq, event: &Event) {
        let (keys, kind) = (Keys::of(seq, event), event.kind.as_u16());
        let before = self.ids.insert(Key(event.id.to_bytes()), (seq, event.created_at.as_secs()));
        assert!(before.is_none(), "an event was stored twice");
        self.by_time.insert(keys.by_time, kind);
        self.by_kind.insert(keys.by_kind, kind);
        self.by_author.insert(keys.by_author, kind);
        self.by_tag.extend(keys.by_tag().map(|key| (key, kind)));
    }

    fn take_out(&mut self, seq: Seq, event: &Event) {
        let keys = Keys::of(seq, event);
        self.ids.remove(&Key(event.id.to_bytes()));
        self.by_time.remove(&keys.by_time);
        self.by_kind.remove(&keys.by_kind);
        self.by_author.remove(&keys.by_author);
        for key in keys.by_tag() {
            self.by_tag.remove(&key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What is in all of them together.
    fn len(&self) -> usize {
        // One of each event but for its tags.
        4 * self.ids.len() + self.by_tag.len()
    }

    /// Writes each table in the order of its keys: neighbours share the pages they change.
    fn insert_into(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut ids = txn.open_table(schema::IDS)?;
        let mut sorted: Vec<_> = self.ids.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        for (id, place) in sorted {
            let before = ids.insert(&id.0, place)?;
            assert!(before.is_none(), "an event was stored twice");
        }
        insert_all(txn, schema::BY_TIME, &self.by_time)?;
        insert_all(txn, schema::BY_KIND, &self.by_kind)?;
        insert_all(txn, schema::BY_AUTHOR, &self.by_author)?;
        insert_all(txn, schema::BY_TAG, &self.by_tag)
    }

    fn remove_from(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut ids = txn.open_table(schema::IDS)?;
        let mut sorted: Vec<_> = self.ids.keys().collect();
        sorted.sort_unstable();
        for id in sorted {
            ids.remove(&id.0)?;
        }
        remove_all(txn, schema::BY_TIME, &self.by_time)?;
        remove_all(txn, schema::BY_KIND, &self.by_kind)?;
        remove_all(txn, schema::BY_AUTHOR, &self.by_author)?;
        remove_all(txn, schema::BY_TAG, &self.by_tag)
    }
}

fn insert_all<const N: usize>(
    txn: &WriteTransaction,
    index: schema::IndexTable<N>,
    entries: &BTreeMap<Key<N>, u16>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(index)?;
    for (key, kind) in entries {
        table.insert(&key.0, kind)?;
    }
    Ok(())
}

fn remove_all<const N: usize>(
    txn: &WriteTransaction,
    index: schema::IndexTable<N>,
    entries: &BTreeMap<Key<N>, u16>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(index)?;
    for key in entries.keys() {
        table.remove(&key.0)?;
    }
    Ok(())
}

/// An index as it was committed: its table, and what it lacks. No key is in both.
pub(super) struct Index<'a, const N: usize> {
    pub table: &'a ReadOnlyTable<&'static [u8; N], u16>,
    pub unindexed: &'a BTreeMap<Key<N>, u16>,
}

impl<'a, const N: usize> Index<'a, N> {
    /// The entries within bounds, in the order of their keys.
    pub(super) fn range(&self, from: Bound<&[u8; N]>, to: Bound<&[u8; N]>) -> Result<Entries<'a, N>, StoreError> {
        let mut table = self.table.range::<&[u8; N]>((from, to))?;
        let mut unindexed = self.unindexed.range((from.map(|key| Key(*key)), to.map(|key| Key(*key))));
        let heads = (next_of(&mut table)?, unindexed.next());
        Ok(Entries { table, unindexed, heads })
    }
}

/// A walk over an index.
pub(super) struct Entries<'a, const N: usize> {
    table: Range<'static, &'static [u8; N], u16>,
    unindexed: btree_map::Range<'a, Key<N>, u16>,
    /// The next of each.
    heads: (Option<Entry<N>>, Option<(&'a Key<N>, &'a u16)>),
}

/// The key of an event in an index of keys of `N` bytes, and the event's kind.
type Entry<const N: usize> = ([u8; N], u16);

impl<const N: usize> Entries<'_, N> {
    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Entry<N>>, StoreError> {
        let from_table = match self.heads {
            (Some((stored, _)), Some((unindexed, _))) => stored < unindexed.0,
            (stored, _) => stored.is_some(),
        };
        if from_table {
            let next = next_of(&mut self.table)?;
            return Ok(std::mem::replace(&mut self.heads.0, next));
        }
        let next = std::mem::replace(&mut self.heads.1, self.unindexed.next());
        Ok(next.map(|(key, kind)| (key.0, *kind)))
    }
}

fn next_of<const N: usize>(range: &mut Range<'static, &'static [u8; N], u16>) -> Result<Option<Entry<N>>, StoreError> {
    match range.next() {
        Some(entry) => {
            let (key, kind) = entry?;
            Ok(Some((*key.value(), kind.value())))
        }
        None => Ok(None),
    }
}
