//! What the table of ids and the indexes lack.
//!
//! A commit writes its events and no more: their index entries would change almost every page of every index, each time
//! anew. They wait in memory and are written for many commits at once, one index at a time: that for which most waits.
//! So no commit is a long one, and it changes no more pages than redb holds until its end. What a crash leaves unwritten
//! is found again in the events themselves.

use super::blocks;
use super::schema::{self, BY_AUTHOR_LEN, BY_KIND_LEN, BY_TAG_LEN, BY_TIME_LEN, IndexTable, Part};
use super::{Seq, StoreError};
use nostr::event::Event;
use redb::{ReadTransaction, WriteTransaction};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

/// A committed event that leaves the store.
pub(super) type RemovedEvent = (Seq, Event);

/// What waits to be written into each part.
pub(super) struct Unindexed {
    /// In an order that is another in each process.
    pub ids: Waiting<HashMap<Key<32>, (Seq, u64)>>,
    pub by_time: Waiting<IndexEntries<BY_TIME_LEN>>,
    pub by_kind: Waiting<IndexEntries<BY_KIND_LEN>>,
    pub by_author: Waiting<IndexEntries<BY_AUTHOR_LEN>>,
    pub by_tag: Waiting<IndexEntries<BY_TAG_LEN>>,
}

/// Kinds of events by their keys in an index.
pub(super) type IndexEntries<const N: usize> = BTreeMap<Key<N>, u16>;

/// What one part lacks: the events from a sequence number on.
pub(super) struct Waiting<M> {
    pub first: Seq,
    pub entries: M,
}

impl Unindexed {
    /// Nothing, in a database whose parts lack the events from the numbers on that it names.
    pub(super) fn nothing(txn: &ReadTransaction) -> Result<Unindexed, StoreError> {
        Ok(Unindexed {
            ids: Waiting::nothing(txn, Part::Ids)?,
            by_time: Waiting::nothing(txn, Part::ByTime)?,
            by_kind: Waiting::nothing(txn, Part::ByKind)?,
            by_author: Waiting::nothing(txn, Part::ByAuthor)?,
            by_tag: Waiting::nothing(txn, Part::ByTag)?,
        })
    }

    /// The first event that some part lacks, and the first that all of them do.
    pub(super) fn firsts(&self) -> (Seq, Seq) {
        let firsts = Part::ALL.map(|part| self.first(part));
        let least = firsts.iter().copied().min();
        let most = firsts.iter().copied().max();
        (least.expect("there are parts"), most.expect("there are parts"))
    }

    fn first(&self, part: Part) -> Seq {
        match part {
            Part::Ids => self.ids.first,
            Part::ByTime => self.by_time.first,
            Part::ByKind => self.by_kind.first,
            Part::ByAuthor => self.by_author.first,
            Part::ByTag => self.by_tag.first,
        }
    }

    fn len(&self, part: Part) -> usize {
        match part {
            Part::Ids => self.ids.entries.len(),
            Part::ByTime => self.by_time.entries.len(),
            Part::ByKind => self.by_kind.entries.len(),
            Part::ByAuthor => self.by_author.entries.len(),
            Part::ByTag => self.by_tag.entries.len(),
        }
    }

    /// Entries that an event makes at most.
    pub(super) fn most_of(event: &Event) -> usize {
        Part::ALL.len() - 1 + event.tags.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        Part::ALL.iter().all(|part| self.len(*part) == 0)
    }

    /// Takes in a committed event, for each part that lacks it.
    pub(super) fn add(&mut self, seq: Seq, event: &Event) {
        let (keys, kind) = (Keys::of(seq, event), event.kind.as_u16());
        if seq >= self.ids.first {
            let before = self.ids.entries.insert(keys.id, (seq, event.created_at.as_secs()));
            assert!(before.is_none(), "an event was stored twice");
        }
        self.by_time.add(seq, kind, [keys.by_time]);
        self.by_kind.add(seq, kind, [keys.by_kind]);
        self.by_author.add(seq, kind, [keys.by_author]);
        self.by_tag.add(seq, kind, keys.by_tag());
    }

    /// The parts that a commit of `new` more entries writes, if fewer than `max` may wait: those for which most does.
    pub(super) fn due(&self, new: usize, max: usize) -> Vec<Part> {
        let mut parts = Part::ALL.map(|part| (self.len(part), part));
        parts.sort_by_key(|(len, _)| Reverse(*len));
        let mut waiting = new + parts.iter().map(|(len, _)| len).sum::<usize>();
        let mut due = Vec::new();
        for (len, part) in parts {
            if waiting < max || len == 0 {
                break;
            }
            waiting -= len;
            due.push(part);
        }
        due
    }

    /// Takes `removed` out of what is written already, and writes all that waits for the parts that are `due`: they lack
    /// the events from `first_new` on then.
    pub(super) fn write(
        &self,
        txn: &WriteTransaction,
        due: &[Part],
        removed: &[RemovedEvent],
        first_new: Seq,
    ) -> Result<(), StoreError> {
        let removed: Vec<(Seq, Keys)> = removed.iter().map(|(seq, event)| (*seq, Keys::of(*seq, event))).collect();
        let is_due = |part| due.contains(&part);
        let keys = || removed.iter().map(|(seq, keys)| (*seq, keys));
        self.write_ids(txn, is_due(Part::Ids), keys().map(|(seq, keys)| (seq, keys.id)))?;
        let gone = keys().map(|(seq, keys)| (seq, keys.by_time));
        self.by_time.write(txn, schema::BY_TIME, is_due(Part::ByTime), gone)?;
        let gone = keys().map(|(seq, keys)| (seq, keys.by_kind));
        self.by_kind.write(txn, schema::BY_KIND, is_due(Part::ByKind), gone)?;
        let gone = keys().map(|(seq, keys)| (seq, keys.by_author));
        self.by_author.write(txn, schema::BY_AUTHOR, is_due(Part::ByAuthor), gone)?;
        let gone = keys().flat_map(|(seq, keys)| keys.by_tag().map(move |key| (seq, key)));
        self.by_tag.write(txn, schema::BY_TAG, is_due(Part::ByTag), gone)?;
        due.iter().try_for_each(|part| schema::write_unindexed(txn, *part, first_new))
    }

    fn write_ids(
        &self,
        txn: &WriteTransaction,
        is_due: bool,
        removed: impl Iterator<Item = (Seq, Key<32>)>,
    ) -> Result<(), StoreError> {
        let mut table = txn.open_table(schema::IDS)?;
        if is_due {
            // Neighbours share the pages they change.
            let mut sorted: Vec<_> = self.ids.entries.iter().collect();
            sorted.sort_unstable_by_key(|(id, _)| **id);
            for (id, place) in sorted {
                let before = table.insert(&id.0, place)?;
                assert!(before.is_none(), "an event was stored twice");
            }
        }
        for id in self.ids.written(is_due, removed) {
            table.remove(&id)?;
        }
        Ok(())
    }

    /// What is lacking after such a commit of some new events.
    pub(super) fn after<'a>(
        mut self,
        due: &[Part],
        removed: &[RemovedEvent],
        new: impl Iterator<Item = (Seq, &'a Event)>,
        first_new: Seq,
    ) -> Unindexed {
        for part in due {
            match part {
                Part::Ids => self.ids = Waiting { first: first_new, entries: HashMap::new() },
                Part::ByTime => self.by_time = Waiting::from(first_new),
                Part::ByKind => self.by_kind = Waiting::from(first_new),
                Part::ByAuthor => self.by_author = Waiting::from(first_new),
                Part::ByTag => self.by_tag = Waiting::from(first_new),
            }
        }
        removed.iter().for_each(|(seq, event)| self.take_out(*seq, event));
        new.for_each(|(seq, event)| self.add(seq, event));
        self
    }

    fn take_out(&mut self, seq: Seq, event: &Event) {
        let keys = Keys::of(seq, event);
        self.ids.entries.remove(&keys.id);
        self.by_time.entries.remove(&keys.by_time);
        self.by_kind.entries.remove(&keys.by_kind);
        self.by_author.entries.remove(&keys.by_author);
        for key in keys.by_tag() {
            self.by_tag.entries.remove(&key);
        }
    }
}

impl<M: Default> Waiting<M> {
    fn nothing(txn: &ReadTransaction, part: Part) -> Result<Waiting<M>, StoreError> {
        Ok(Waiting::from(schema::unindexed(txn, part)?))
    }

    fn from(first: Seq) -> Waiting<M> {
        Waiting { first, entries: M::default() }
    }
}

impl<M> Waiting<M> {
    /// The keys of removed events that the part's table has, or has once what waits is written; in order.
    fn written<const N: usize>(&self, is_due: bool, removed: impl Iterator<Item = (Seq, Key<N>)>) -> Vec<[u8; N]> {
        let mut keys: Vec<[u8; N]> =
            removed.filter(|(seq, _)| is_due || *seq < self.first).map(|(_, key)| key.0).collect();
        keys.sort_unstable();
        keys
    }
}

impl<const N: usize> Waiting<IndexEntries<N>> {
    fn add(&mut self, seq: Seq, kind: u16, keys: impl IntoIterator<Item = Key<N>>) {
        if seq >= self.first {
            self.entries.extend(keys.into_iter().map(|key| (key, kind)));
        }
    }

    fn write(
        &self,
        txn: &WriteTransaction,
        index: IndexTable<N>,
        is_due: bool,
        removed: impl Iterator<Item = (Seq, Key<N>)>,
    ) -> Result<(), StoreError> {
        let new: Vec<blocks::Entry<N>> = match is_due {
            true => self.entries.iter().map(|(key, kind)| (key.0, *kind)).collect(),
            false => Vec::new(),
        };
        blocks::write(&mut txn.open_table(index)?, &new, &self.written(is_due, removed))
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

/// The keys of one event.
struct Keys {
    id: Key<32>,
    by_time: Key<BY_TIME_LEN>,
    by_kind: Key<BY_KIND_LEN>,
    by_author: Key<BY_AUTHOR_LEN>,
    tags: Vec<schema::TagPrefix>,
}

impl Keys {
    fn of(seq: Seq, event: &Event) -> Keys {
        let place = schema::place(event.created_at.as_secs(), &event.id, seq);
        Keys {
            id: Key(event.id.to_bytes()),
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
