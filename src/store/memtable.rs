//! What the table of ids and the indexes lack.
//!
//! A commit writes its events and no more: their index entries would change almost every page of every index, each time
//! anew. They wait in memory and are written for many commits at once, one index at a time: that for which most waits.
//! So no commit is a long one, and it changes no more pages than redb holds until its end. What a crash leaves unwritten
//! is found again in the events themselves.

use super::blocks;
use super::negative_cache::NegativeCache;
use super::schema::{self, BY_AUTHOR_LEN, BY_KIND_LEN, BY_TAG_LEN, BY_TIME_LEN, IndexTable, Part, Place};
use super::{Seq, StoreError};
use nostr::event::Event;
use nostr::key::PublicKey;
use redb::{ReadTransaction, WriteTransaction};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

/// What waits to be written into each part.
pub(super) struct Memtable {
    /// In an order that is another in each process.
    pub ids: Waiting<HashMap<Key<32>, (Seq, u64)>>,
    pub by_time: Waiting<IndexEntries<BY_TIME_LEN>>,
    pub by_kind: Waiting<IndexEntries<BY_KIND_LEN>>,
    pub by_author: Waiting<IndexEntries<BY_AUTHOR_LEN>>,
    pub by_tag: Waiting<IndexEntries<BY_TAG_LEN>>,
    /// Ids that the table of ids lacks, those that wait for it or do not.
    pub negative_cache: NegativeCache,
}

/// Kinds of events by their keys in an index.
pub(super) type IndexEntries<const N: usize> = BTreeMap<Key<N>, u16>;

/// What one part lacks: the events from a sequence number on.
pub(super) struct Waiting<M> {
    pub first: Seq,
    pub entries: M,
}

impl Memtable {
    /// Nothing, in a database whose parts lack the events from the numbers on that it names.
    pub(super) fn nothing(txn: &ReadTransaction) -> Result<Memtable, StoreError> {
        Ok(Memtable {
            ids: Waiting::nothing(txn, Part::Ids)?,
            by_time: Waiting::nothing(txn, Part::ByTime)?,
            by_kind: Waiting::nothing(txn, Part::ByKind)?,
            by_author: Waiting::nothing(txn, Part::ByAuthor)?,
            by_tag: Waiting::nothing(txn, Part::ByTag)?,
            negative_cache: NegativeCache::nothing(),
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

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        Part::ALL.iter().all(|part| self.len(*part) == 0)
    }

    /// Takes in committed events, each for the parts that lack it.
    pub(super) fn add<'a>(&mut self, events: impl Iterator<Item = &'a Keys> + Clone) {
        for keys in events.clone().filter(|keys| keys.seq() >= self.ids.first) {
            let before = self.ids.entries.insert(keys.id, (keys.seq(), keys.created_at));
            assert!(before.is_none(), "an event was stored twice");
        }
        self.by_time.add(events.clone(), |keys| [keys.by_time()]);
        self.by_kind.add(events.clone(), |keys| [keys.by_kind()]);
        self.by_author.add(events.clone(), |keys| [keys.by_author()]);
        self.by_tag.add(events, Keys::by_tag);
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
        removed: &[Keys],
        first_new: Seq,
    ) -> Result<(), StoreError> {
        let is_due = |part| due.contains(&part);
        self.write_ids(txn, is_due(Part::Ids), removed)?;
        self.by_time.write(txn, schema::BY_TIME, is_due(Part::ByTime), removed, |keys| [keys.by_time()])?;
        self.by_kind.write(txn, schema::BY_KIND, is_due(Part::ByKind), removed, |keys| [keys.by_kind()])?;
        self.by_author.write(txn, schema::BY_AUTHOR, is_due(Part::ByAuthor), removed, |keys| [keys.by_author()])?;
        self.by_tag.write(txn, schema::BY_TAG, is_due(Part::ByTag), removed, Keys::by_tag)?;
        due.iter().try_for_each(|part| schema::write_unindexed(txn, *part, first_new))
    }

    fn write_ids(&self, txn: &WriteTransaction, is_due: bool, removed: &[Keys]) -> Result<(), StoreError> {
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
        for id in self.ids.written(is_due, removed, |keys| [keys.id]) {
            table.remove(&id)?;
        }
        Ok(())
    }

    /// What is lacking after such a commit of some new events.
    pub(super) fn after<'a>(
        mut self,
        due: &[Part],
        removed: &[Keys],
        new: impl Iterator<Item = &'a Keys> + Clone,
        first_new: Seq,
    ) -> Memtable {
        for part in due {
            match part {
                Part::Ids => {
                    // The memory stays: it would have to be found again in one piece.
                    self.ids.first = first_new;
                    self.ids.entries.clear();
                    self.negative_cache.clear();
                }
                Part::ByTime => self.by_time = Waiting::from(first_new),
                Part::ByKind => self.by_kind = Waiting::from(first_new),
                Part::ByAuthor => self.by_author = Waiting::from(first_new),
                Part::ByTag => self.by_tag = Waiting::from(first_new),
            }
        }
        removed.iter().for_each(|keys| self.take_out(keys));
        self.add(new);
        self
    }

    fn take_out(&mut self, keys: &Keys) {
        self.ids.entries.remove(&keys.id);
        self.by_time.entries.remove(&keys.by_time());
        self.by_kind.entries.remove(&keys.by_kind());
        self.by_author.entries.remove(&keys.by_author());
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
    fn written<'a, const N: usize, I: IntoIterator<Item = Key<N>>>(
        &self,
        is_due: bool,
        removed: &'a [Keys],
        of: impl Fn(&'a Keys) -> I,
    ) -> Vec<[u8; N]> {
        let here = removed.iter().filter(|keys| is_due || keys.seq() < self.first);
        let mut keys: Vec<[u8; N]> = here.flat_map(|keys| of(keys).into_iter().map(|key| key.0)).collect();
        keys.sort_unstable();
        keys
    }
}

impl<const N: usize> Waiting<IndexEntries<N>> {
    fn add<'a, I: IntoIterator<Item = Key<N>>>(
        &mut self,
        events: impl Iterator<Item = &'a Keys>,
        of: impl Fn(&'a Keys) -> I,
    ) {
        let lacking = events.filter(|keys| keys.seq() >= self.first);
        let mut new: Vec<(Key<N>, u16)> = Vec::new();
        lacking.for_each(|keys| new.extend(of(keys).into_iter().map(|key| (key, keys.kind))));
        // One after the other they go to places that are near each other.
        new.sort_unstable();
        self.entries.extend(new);
    }

    fn write<'a, I: IntoIterator<Item = Key<N>>>(
        &self,
        txn: &WriteTransaction,
        index: IndexTable<N>,
        is_due: bool,
        removed: &'a [Keys],
        of: impl Fn(&'a Keys) -> I,
    ) -> Result<(), StoreError> {
        // One by one: among many small pieces of memory the room for all of them would be found at its end alone.
        let mut new = is_due.then(|| self.entries.iter().map(|(key, kind)| (key.0, *kind))).into_iter().flatten();
        blocks::write(&mut txn.open_table(index)?, &mut new, &self.written(is_due, removed, of))
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

/// What the table of ids and the indexes say of one event.
pub(super) struct Keys {
    pub id: Key<32>,
    pub created_at: u64,
    kind: u16,
    author: [u8; 32],
    place: Place,
    tags: Vec<schema::TagPrefix>,
}

impl Keys {
    pub(super) fn of(seq: Seq, event: &Event) -> Keys {
        let created_at = event.created_at.as_secs();
        Keys {
            id: Key(event.id.to_bytes()),
            created_at,
            kind: event.kind.as_u16(),
            author: event.pubkey.to_bytes(),
            place: schema::place(created_at, &event.id, seq),
            tags: schema::tag_prefixes(&event.tags),
        }
    }

    /// Whether the event is of this author.
    pub(super) fn is_of(&self, author: &PublicKey) -> bool {
        self.author == *author.as_bytes()
    }

    pub(super) fn kind(&self) -> u16 {
        self.kind
    }

    fn seq(&self) -> Seq {
        schema::place_seq(&self.place)
    }

    /// How many entries they are.
    pub(super) fn len(&self) -> usize {
        Part::ALL.len() - 1 + self.tags.len()
    }

    pub(super) fn by_time(&self) -> Key<BY_TIME_LEN> {
        Key(self.place)
    }

    pub(super) fn by_kind(&self) -> Key<BY_KIND_LEN> {
        Key(schema::index_key(&self.kind.to_be_bytes(), &self.place))
    }

    pub(super) fn by_author(&self) -> Key<BY_AUTHOR_LEN> {
        Key(schema::index_key(&self.author, &self.place))
    }

    pub(super) fn by_tag(&self) -> impl Iterator<Item = Key<BY_TAG_LEN>> {
        self.tags.iter().map(|prefix| Key(schema::index_key(prefix, &self.place)))
    }
}
