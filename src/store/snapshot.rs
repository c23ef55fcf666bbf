//! What is committed, as every reader sees it: one read transaction with its tables open, so that a lookup costs the
//! lookup alone, and beside it what the indexes lack.

use super::accounts::{ACCOUNT_LEN, Charge, Holder, Usage};
use super::damage;
use super::index::Index;
use super::medium::Watch;
use super::memtable::{Key, Keys, Memtable};
use super::schema::{self, BY_AUTHOR_LEN, BY_KIND_LEN, BY_TAG_LEN, BY_TIME_LEN, Place};
use super::{Seq, StoreError};
use nostr::event::{Event, EventId};
use redb::{AccessGuard, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// A sequence number and the text that stands under it.
pub(super) type Record = (Seq, AccessGuard<'static, &'static str>);
type OpenIndex<const N: usize> = ReadOnlyTable<&'static [u8; N], &'static [u8]>;

/// An id with `(seq, created_at)`.
type PlacedId = (EventId, Seq, u64);

pub(super) struct Snapshot {
    pub next_seq: Seq,
    events: ReadOnlyTable<u64, &'static str>,
    pub replaceable: ReadOnlyTable<&'static [u8; 66], (u64, &'static [u8; 32], u64)>,
    pub deleted_ids: ReadOnlyTable<&'static [u8; 64], ()>,
    pub deleted_addresses: ReadOnlyTable<&'static [u8; 66], u64>,
    pub expirations: ReadOnlyTable<(u64, u64), ()>,
    pub confirmed: ReadOnlyTable<(&'static str, &'static str), u64>,
    pub relays: ReadOnlyTable<&'static str, (u64, u64)>,
    pub budgets: ReadOnlyTable<&'static str, &'static str>,
    pub charges: ReadOnlyTable<&'static [u8; ACCOUNT_LEN], &'static [u8]>,
    pub accounts: ReadOnlyTable<&'static [u8; ACCOUNT_LEN], &'static [u8]>,
    pub memtable: Memtable,
    watch: Arc<Watch>,
    ids: ReadOnlyTable<&'static [u8; 32], (u64, u64)>,
    by_time: OpenIndex<BY_TIME_LEN>,
    by_kind: OpenIndex<BY_KIND_LEN>,
    by_author: OpenIndex<BY_AUTHOR_LEN>,
    by_tag: OpenIndex<BY_TAG_LEN>,
}

impl Snapshot {
    /// The first of a database that was just opened: finds what its indexes lack.
    pub(super) fn open(db: &Database, watch: &Arc<Watch>) -> Result<Snapshot, StoreError> {
        let memtable = Memtable::nothing(&db.begin_read()?)?;
        let (first, last) = memtable.firsts();
        let mut snapshot = Snapshot::take(db, watch, memtable)?;
        if last > snapshot.next_seq {
            return Err(StoreError::Corrupt);
        }
        for entry in snapshot.events.range(first..)? {
            let (seq, json) = entry?;
            if !damage::is_record(json.value()) {
                continue;
            }
            let event = schema::parse(json.value())?;
            let is_listed = seq.value() < snapshot.memtable.ids.first;
            if seq.value() >= snapshot.next_seq || snapshot.id(&event.id)?.is_some() != is_listed {
                return Err(StoreError::Corrupt);
            }
            snapshot.memtable.add([Keys::of(seq.value(), &event)].iter());
        }
        Ok(snapshot)
    }

    /// What is committed now, if the indexes lack `memtable`.
    pub(super) fn take(db: &Database, watch: &Arc<Watch>, memtable: Memtable) -> Result<Snapshot, StoreError> {
        let txn: ReadTransaction = db.begin_read()?;
        Ok(Snapshot {
            next_seq: schema::next_seq(&txn)?,
            events: txn.open_table(schema::EVENTS)?,
            replaceable: txn.open_table(schema::REPLACEABLE)?,
            deleted_ids: txn.open_table(schema::DELETED_IDS)?,
            deleted_addresses: txn.open_table(schema::DELETED_ADDRESSES)?,
            expirations: txn.open_table(schema::EXPIRATIONS)?,
            confirmed: txn.open_table(schema::CONFIRMED)?,
            relays: txn.open_table(schema::RELAYS)?,
            budgets: txn.open_table(schema::BUDGETS)?,
            charges: txn.open_table(schema::CHARGES)?,
            accounts: txn.open_table(schema::ACCOUNTS)?,
            memtable,
            watch: watch.clone(),
            ids: txn.open_table(schema::IDS)?,
            by_time: txn.open_table(schema::BY_TIME)?,
            by_kind: txn.open_table(schema::BY_KIND)?,
            by_author: txn.open_table(schema::BY_AUTHOR)?,
            by_tag: txn.open_table(schema::BY_TAG)?,
        })
    }

    /// The record under `seq`, which something names; `None` if it was forgotten. One that is not there, or is no event's,
    /// is noted as damaged and counts as forgotten.
    pub(super) fn record(&self, seq: Seq) -> Result<Option<AccessGuard<'static, &'static str>>, StoreError> {
        let Some(json) = self.events.get(seq)? else {
            self.note_damaged(seq);
            return Ok(None);
        };
        if damage::is_record(json.value()) {
            return Ok(Some(json));
        }
        if json.value() != damage::FORGOTTEN {
            self.note_damaged(seq);
        }
        Ok(None)
    }

    /// The record under `seq`, which may have been removed since it was named.
    pub(super) fn record_if_any(&self, seq: Seq) -> Result<Option<AccessGuard<'static, &'static str>>, StoreError> {
        Ok(self.events.get(seq)?.filter(|json| damage::is_record(json.value())))
    }

    /// What an account has.
    pub(super) fn usage(&self, holder: &Holder) -> Result<Usage, StoreError> {
        self.accounts.get(holder.name())?.map_or(Ok(Usage::default()), |entry| Usage::of_bytes(entry.value()))
    }

    /// What the event under `seq` is charged with.
    pub(super) fn charge(&self, seq: Seq) -> Result<Option<Charge>, StoreError> {
        self.charges.get(&schema::charge_key(seq))?.map(|entry| Charge::of_bytes(entry.value())).transpose()
    }

    /// Whether anything stands under `seq`.
    pub(super) fn has(&self, seq: Seq) -> Result<bool, StoreError> {
        Ok(self.events.get(seq)?.is_some())
    }

    /// What stands under every sequence number, in their order: records, and what is none any more.
    pub(super) fn texts(&self) -> Result<impl Iterator<Item = Result<Record, StoreError>>, StoreError> {
        Ok(self.events.range::<u64>(..)?.map(|entry| {
            let (seq, json) = entry?;
            Ok((seq.value(), json))
        }))
    }

    /// The event under `seq`; otherwise as [`Snapshot::record`].
    pub(super) fn event(&self, seq: Seq) -> Result<Option<Event>, StoreError> {
        Ok(self.record(seq)?.and_then(|json| self.parse(seq, json.value())))
    }

    /// The event of a record; one that is none is noted as damaged.
    pub(super) fn parse(&self, seq: Seq, json: &str) -> Option<Event> {
        let event = schema::parse(json).ok();
        if event.is_none() {
            self.note_damaged(seq);
        }
        event
    }

    /// What `seq` names does not hold.
    #[cold]
    pub(super) fn note_damaged(&self, seq: Seq) {
        self.watch.damage.note(seq, None);
    }

    /// The ids of some events by their sequence numbers, as far as the table of ids has them. Looks at all of it.
    pub(super) fn ids_of(&self, seqs: &BTreeSet<Seq>) -> Result<BTreeMap<Seq, EventId>, StoreError> {
        let mut found = BTreeMap::new();
        for entry in self.ids()? {
            let (id, seq, _) = entry?;
            if seqs.contains(&seq) {
                found.insert(seq, id);
            }
        }
        Ok(found)
    }

    /// `(seq, created_at)` of an event; a seq of [`schema::DELETED`] if it is deleted.
    pub(super) fn id(&self, id: &EventId) -> Result<Option<(Seq, u64)>, StoreError> {
        let id = Key(id.to_bytes());
        // What came lately is asked about most, while much comes: several relays and several tags lead to it.
        if let Some(place) = self.memtable.ids.entries.get(&id) {
            return Ok(Some(*place));
        }
        if self.memtable.negative_cache.contains(&id) {
            return Ok(None);
        }
        let place = self.ids.get(&id.0)?.map(|entry| entry.value());
        if place.is_none() {
            self.memtable.negative_cache.add(id);
        }
        Ok(place)
    }

    /// Every id with `(seq, created_at)`, in no particular order.
    pub(super) fn ids(&self) -> Result<impl Iterator<Item = Result<PlacedId, StoreError>>, StoreError> {
        Ok(self.written_ids(None)?.chain(self.waiting_ids().map(Ok)))
    }

    /// Those that are written, after an id, in the order of ids.
    pub(super) fn written_ids(
        &self,
        after: Option<&EventId>,
    ) -> Result<impl Iterator<Item = Result<PlacedId, StoreError>> + use<>, StoreError> {
        let after = after.map(|id| id.to_bytes());
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.ids.range::<&[u8; 32]>((from, Bound::Unbounded))?.map(|entry| {
            let (id, value) = entry?;
            let (seq, created_at) = value.value();
            Ok((EventId::from_byte_array(*id.value()), seq, created_at))
        }))
    }

    /// The id at a place, and its `created_at`, if the table of ids has it.
    pub(super) fn id_at(&self, place: &Place) -> Result<Option<(EventId, u64)>, StoreError> {
        let (mut from, mut to) = ([0; 32], [0xff; 32]);
        let prefix = schema::place_id_prefix(place);
        from[..prefix.len()].copy_from_slice(prefix);
        to[..prefix.len()].copy_from_slice(prefix);
        for entry in self.ids.range::<&[u8; 32]>(&from..=&to)? {
            let (id, value) = entry?;
            let (seq, created_at) = value.value();
            if seq == schema::place_seq(place) {
                return Ok(Some((EventId::from_byte_array(*id.value()), created_at)));
            }
        }
        Ok(None)
    }

    /// Those that wait to be written.
    pub(super) fn waiting_ids(&self) -> impl Iterator<Item = PlacedId> {
        let memtable = self.memtable.ids.entries.iter();
        memtable.map(|(id, (seq, at))| (EventId::from_byte_array(id.0), *seq, *at))
    }

    /// How many ids there are, those of deleted events included.
    pub(super) fn ids_len(&self) -> Result<u64, StoreError> {
        Ok(self.ids.len()? + self.memtable.ids.entries.len() as u64)
    }

    pub(super) fn by_time(&self) -> Index<'_, BY_TIME_LEN> {
        Index { table: &self.by_time, memtable: &self.memtable.by_time.entries }
    }

    pub(super) fn by_kind(&self) -> Index<'_, BY_KIND_LEN> {
        Index { table: &self.by_kind, memtable: &self.memtable.by_kind.entries }
    }

    pub(super) fn by_author(&self) -> Index<'_, BY_AUTHOR_LEN> {
        Index { table: &self.by_author, memtable: &self.memtable.by_author.entries }
    }

    pub(super) fn by_tag(&self) -> Index<'_, BY_TAG_LEN> {
        Index { table: &self.by_tag, memtable: &self.memtable.by_tag.entries }
    }
}
