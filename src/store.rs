//! What is kept: events with their indexes, deletions that hold, and how far the sync has come with each relay, in one
//! redb database (spec section 10).
//!
//! Changes are **staged** and take effect on disk together in [`Store::commit`], one transaction: progress is never
//! durable without the events that it speaks for. [`Store::known`], [`Store::verdict`] and [`Store::deletion_targets`]
//! see what is staged; queries and other readings see only what is committed, for nothing else may be shown to anyone.
//!
//! The store applies the rules of replacement (NIP-01), deletion (NIP-09) and expiration (NIP-40). It does not verify
//! signatures, and who may publish what is `policy`'s to say.

mod batch;
mod check;
mod error;
mod query;
mod schema;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use query::{Query, QueryStep, matches_nothing};

use crate::protocol::event_id;
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::RepoAddr;
use crate::time::UnixTime;
use batch::{Batch, IdChange, Version};
use nostr::event::{Event, EventId};
use nostr::key::PublicKey;
use redb::Database;
use schema::{AddressKey, Snapshot};
use std::borrow::Cow;
use std::ops::{Bound, ControlFlow};

/// The order in which events were staged: from 1, never used twice, not without gaps.
pub type Seq = u64;

/// The kind of deletion requests (NIP-09).
const DELETION_KIND: u16 = 5;

/// What the store knows of an id. It speaks of a verified event: an id that was only seen is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Committed.
    Stored {
        /// Its sequence number.
        seq: Seq,
        /// Its `created_at`.
        created_at: UnixTime,
    },
    /// In the batch.
    Pending {
        /// Its `created_at`.
        created_at: UnixTime,
    },
    /// Deleted by its author; stays refused.
    Deleted {
        /// Its `created_at`.
        created_at: UnixTime,
    },
}

/// What the store would do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be staged.
    Fresh,
    /// It is held already.
    Duplicate,
    /// Its author has deleted it (NIP-09).
    Deleted,
    /// A newer version, or one as old with a lower id, is held (NIP-01).
    Superseded,
}

/// An event that left the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its id.
    pub id: EventId,
    /// Its kind.
    pub kind: u16,
    /// Its author.
    pub author: PublicKey,
    /// The `d` tag of an addressable event, empty if it has none; `None` for all others.
    pub identifier: Option<String>,
    /// Whether a newer version took its place; otherwise it was deleted or has expired.
    pub superseded: bool,
}

/// The outcome of [`Store::stage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The sequence number of the event.
    pub seq: Seq,
    /// What it replaced or deleted.
    pub removed: Vec<Removed>,
}

/// An event that has just become durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its sequence number.
    pub seq: Seq,
    /// The event.
    pub event: Event,
    /// Its JSON as stored.
    pub json: Box<str>,
}

/// How far the sync has come with a relay (spec section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The sweeps of `repo` on `relay` have finished for everything stored up to `seq`.
    Confirmed {
        /// The relay.
        relay: RelayUrl,
        /// The repo.
        repo: RepoAddr,
        /// The sequence number.
        seq: Seq,
    },
    /// The relay's own record.
    Relay {
        /// The relay.
        relay: RelayUrl,
        /// The last moment at which it was live with every sweep finished.
        through: UnixTime,
        /// The end of the last full catch-up; [`UnixTime::EPOCH`] if there was none.
        full_catchup: UnixTime,
    },
    /// The repo is no longer followed on the relay.
    ForgetRepo {
        /// The relay.
        relay: RelayUrl,
        /// The repo.
        repo: RepoAddr,
    },
    /// The relay is no longer followed: its own record and those of its repos go.
    ForgetRelay {
        /// The relay.
        relay: RelayUrl,
    },
}

/// The events, their indexes and the sync progress, in one redb database.
pub struct Store {
    batch: Batch,
    /// What is committed; `None` only if it could not be read after a commit. Dropped before `db`.
    snapshot: Option<Snapshot>,
    db: Database,
    next_seq: Seq,
    /// Why no more is written.
    failed: Option<StoreError>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("next_seq", &self.next_seq).field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// Why an event leaves the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Superseded,
    Deleted,
    Expired,
}

impl Store {
    /// Opens the store on `backend`, or makes a new one if the backend is empty. `cache_bytes` bounds redb's cache.
    ///
    /// # Errors
    ///
    /// If the backend holds something else, a damaged store or one of a newer version, is in use elsewhere, or fails.
    /// Nothing but an empty backend is then changed, save for redb's own recovery of a store that was not closed.
    pub fn open(backend: impl redb::StorageBackend, cache_bytes: usize) -> Result<Store, StoreError> {
        let db = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?;
        schema::prepare(&db)?;
        let snapshot = Snapshot::take(&db)?;
        let next_seq = snapshot.next_seq;
        Ok(Store { batch: Batch::default(), snapshot: Some(snapshot), db, next_seq, failed: None })
    }

    /// A store that lives as long as its value, for tests and simulations.
    pub fn in_memory() -> Store {
        // Memory neither fails nor holds anything yet.
        Store::open(redb::backends::InMemoryBackend::new(), crate::limits::STORE_CACHE_BYTES)
            .expect("an empty memory backend opens")
    }

    /// What is known of an id: one lookup, no parse.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn known(&self, id: &EventId) -> Result<Option<Known>, StoreError> {
        if let Some(change) = self.batch.id(id) {
            return Ok(match change {
                IdChange::Pending { created_at, .. } => {
                    Some(Known::Pending { created_at: UnixTime::from_secs(created_at) })
                }
                IdChange::Deleted { created_at } => {
                    Some(Known::Deleted { created_at: UnixTime::from_secs(created_at) })
                }
                IdChange::Gone => None,
            });
        }
        let Some((seq, created_at)) = self.snapshot()?.ids.get(id.as_bytes())?.map(|entry| entry.value()) else {
            return Ok(None);
        };
        let created_at = UnixTime::from_secs(created_at);
        Ok(Some(match seq {
            schema::DELETED => Known::Deleted { created_at },
            seq => Known::Stored { seq, created_at },
        }))
    }

    /// What the store would do with a verified event.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn verdict(&self, event: &Event) -> Result<Verdict, StoreError> {
        match self.known(&event.id)? {
            Some(Known::Deleted { .. }) => return Ok(Verdict::Deleted),
            Some(_) => return Ok(Verdict::Duplicate),
            None => {}
        }
        // A deletion cannot be deleted (NIP-09).
        if event.kind.as_u16() != DELETION_KIND && self.is_id_deleted(&event.id, &event.pubkey)? {
            return Ok(Verdict::Deleted);
        }
        let Some(address) = schema::event_address(event) else {
            return Ok(Verdict::Fresh);
        };
        let created_at = event.created_at.as_secs();
        if self.address_deleted(&address)?.is_some_and(|up_to| created_at <= up_to) {
            return Ok(Verdict::Deleted);
        }
        let held = self.version(&address)?;
        if held.is_some_and(|held| held.wins_over(created_at, &event.id)) {
            return Ok(Verdict::Superseded);
        }
        Ok(Verdict::Fresh)
    }

    /// Whether a deletion (kind 5) refers to something of its author's that we hold and that it may delete. False for
    /// any other kind.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn deletion_targets(&self, event: &Event) -> Result<bool, StoreError> {
        if event.kind.as_u16() != DELETION_KIND {
            return Ok(false);
        }
        for tag in event.tags.iter() {
            let has_target = match Target::of_tag(tag, &event.pubkey) {
                Some(Target::Id(id)) => self.held(&id)?.is_some_and(|(_, held)| is_deletable_by(&held, &event.pubkey)),
                Some(Target::Address(address)) => {
                    self.version(&address)?.is_some_and(|held| held.created_at <= event.created_at.as_secs())
                }
                None => false,
            };
            if has_target {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts an event into the batch and applies what follows from it: an older version goes, and so does what a kind 5
    /// deletes; what that names but we do not hold stays refused from now on.
    ///
    /// The event must have been verified and have the verdict [`Verdict::Fresh`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or has failed before. It takes no more writes then.
    pub fn stage(&mut self, event: Event) -> Result<Staged, StoreError> {
        self.change(|store| store.try_stage(event))
    }

    /// Remembers a verified event whose verdict is [`Verdict::Deleted`], so that its id alone refuses it next time.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or has failed before. It takes no more writes then.
    pub fn remember_deleted(&mut self, event: &Event) -> Result<(), StoreError> {
        self.change(|store| {
            assert_eq!(store.verdict(event)?, Verdict::Deleted, "only what is deleted is remembered as such");
            if store.known(&event.id)?.is_none() {
                store.batch.remember_deleted(event.id, event.created_at.as_secs());
            }
            Ok(())
        })
    }

    /// Puts progress into the batch.
    pub fn stage_progress(&mut self, progress: Progress) {
        self.batch.progress(progress);
    }

    /// Events in the batch.
    pub fn batch_events(&self) -> usize {
        self.batch.events()
    }

    /// Bytes of the batch: its events' JSON, and a flat sum for every other entry.
    pub fn batch_bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Whether there is nothing to commit: no event, no removal, no progress.
    pub fn batch_is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Makes the batch durable, in one transaction, and returns its events in the order of their sequence numbers. An
    /// event that was superseded or deleted in the same batch is neither stored nor returned.
    ///
    /// # Errors
    ///
    /// If the store cannot be written, or has failed before. Nothing of the batch may be acknowledged; the store takes
    /// no more writes, and reopening it gives the last committed state.
    pub fn commit(&mut self) -> Result<Vec<StoredEvent>, StoreError> {
        self.change(|store| {
            if store.batch.is_empty() {
                return Ok(Vec::new());
            }
            // A reader that stays behind would keep pages that this commit could use.
            store.snapshot = None;
            let written = store.write_batch();
            // Also after a failure, so that what was committed before can still be read if the medium allows it.
            store.snapshot = Some(Snapshot::take(&store.db)?);
            written?;
            let batch = std::mem::take(&mut store.batch);
            Ok(batch
                .into_events()
                .map(|(seq, pending)| StoredEvent { seq, event: pending.event, json: pending.json })
                .collect())
        })
    }

    /// The last sequence number given to an event by the time of the last commit: all that are committed are up to it,
    /// all that are not are beyond it. 0 in a new store.
    pub fn last_seq(&self) -> Seq {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.next_seq - 1)
    }

    /// The JSON of a committed event.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn event_json(&self, seq: Seq) -> Result<Option<String>, StoreError> {
        Ok(self.snapshot()?.events.get(seq)?.map(|json| json.value().to_owned()))
    }

    /// Gives every committed event of some kinds to `f`: kind by kind in the order given, newest first within each.
    /// Expired ones are not left out.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn for_each_of_kinds(&self, kinds: &[u16], f: &mut dyn FnMut(Seq, Event)) -> Result<(), StoreError> {
        let snapshot = self.snapshot()?;
        for kind in kinds {
            let prefix = kind.to_be_bytes();
            let from: [u8; schema::BY_KIND_LEN] = schema::index_key(&prefix, &schema::place_not_after(u64::MAX));
            let to: [u8; schema::BY_KIND_LEN] = schema::index_key(&prefix, &schema::place_not_before(0));
            for entry in snapshot.by_kind.range::<&[u8; schema::BY_KIND_LEN]>(&from..=&to)? {
                let (key, _) = entry?;
                let seq = schema::place_seq(&schema::key_place(key.value()));
                f(seq, snapshot.event(seq)?.ok_or(StoreError::Corrupt)?);
            }
        }
        Ok(())
    }

    /// Gives every committed event to `f`, in the order of sequence numbers, until it breaks.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn for_each(&self, f: &mut dyn FnMut(Seq, &str) -> ControlFlow<()>) -> Result<(), StoreError> {
        for entry in self.snapshot()?.events.range::<u64>(..)? {
            let (seq, json) = entry?;
            if f(seq.value(), json.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// All committed progress: first the relays' records, then what is confirmed, each in the order of their text.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn progress(&self) -> Result<Vec<Progress>, StoreError> {
        let snapshot = self.snapshot()?;
        let relay_url = |text: &str| RelayUrl::parse(text).map_err(|_| StoreError::Corrupt);
        let mut all = Vec::new();
        for entry in snapshot.relays.range::<&str>(..)? {
            let (relay, times) = entry?;
            let (through, full_catchup) = times.value();
            all.push(Progress::Relay {
                relay: relay_url(relay.value())?,
                through: UnixTime::from_secs(through),
                full_catchup: UnixTime::from_secs(full_catchup),
            });
        }
        for entry in snapshot.confirmed.range::<(&str, &str)>(..)? {
            let (key, seq) = entry?;
            let (relay, repo) = key.value();
            all.push(Progress::Confirmed {
                relay: relay_url(relay)?,
                repo: RepoAddr::parse(repo).ok_or(StoreError::Corrupt)?,
                seq: seq.value(),
            });
        }
        Ok(all)
    }

    /// Takes a query one step on: gives committed, unexpired events to `f`, newest first and the lowest id first within
    /// a second, and looks at no more than `candidates_max` of them. It goes on where it stopped, also when `f` broke
    /// off: what `f` was given counts as delivered.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn query(
        &self,
        query: &mut Query,
        now: UnixTime,
        candidates_max: usize,
        f: &mut dyn FnMut(Seq, &str) -> ControlFlow<()>,
    ) -> Result<QueryStep, StoreError> {
        query.step(self.snapshot()?, now, candidates_max, f)
    }

    /// Gives every author of a committed event to `f`, once, in the order of the keys.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn authors(&self, f: &mut dyn FnMut(PublicKey)) -> Result<(), StoreError> {
        let index = &self.snapshot()?.by_author;
        let mut from: Bound<[u8; schema::BY_AUTHOR_LEN]> = Bound::Unbounded;
        loop {
            let next = index.range::<&[u8; schema::BY_AUTHOR_LEN]>((from.as_ref(), Bound::Unbounded))?.next();
            let Some(entry) = next else { return Ok(()) };
            let (key, _) = entry?;
            let mut author = [0; 32];
            author.copy_from_slice(&key.value()[..32]);
            f(PublicKey::from_byte_array(author));
            from = Bound::Excluded(schema::index_key(&author, &[0xff; schema::PLACE_LEN]));
        }
    }

    /// Removes up to `max` events that have expired (NIP-40), stored or in the batch, soonest first.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or has failed before. It takes no more writes then.
    pub fn expire(&mut self, now: UnixTime, max: usize) -> Result<Vec<Removed>, StoreError> {
        self.change(|store| {
            let now = now.as_secs();
            let mut due = Vec::new();
            for entry in store.snapshot()?.expirations.range::<(u64, u64)>(..=(now, Seq::MAX))? {
                let (at, seq) = entry?.0.value();
                if due.len() == max {
                    break;
                }
                if !store.batch.is_removed(seq) {
                    due.push((at, seq));
                }
            }
            due.extend(store.batch.expirations().take_while(|(at, _)| *at <= now).take(max));
            due.sort_unstable();
            due.truncate(max);
            let mut removed = Vec::with_capacity(due.len());
            for (_, seq) in due {
                let event = store.event(seq)?.into_owned();
                removed.push(store.remove(seq, &event, Cause::Expired));
            }
            Ok(removed)
        })
    }

    /// When the next event expires, stored or in the batch.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn next_expiration(&self) -> Result<Option<UnixTime>, StoreError> {
        let mut next = self.batch.expirations().next().map(|(at, _)| at);
        for entry in self.snapshot()?.expirations.range::<(u64, u64)>(..)? {
            let (at, seq) = entry?.0.value();
            if !self.batch.is_removed(seq) {
                next = Some(next.map_or(at, |next| next.min(at)));
                break;
            }
        }
        Ok(next.map(UnixTime::from_secs))
    }

    /// Reads everything committed and panics where its tables disagree. For tests and simulations: it takes as long as
    /// the store is large.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn assert_invariants(&self) -> Result<(), StoreError> {
        check::assert_consistent(self.snapshot()?)
    }

    // The rules.

    /// Runs a change, unless one has failed before. A change that fails may have been applied in part, so nothing of the
    /// batch may be written any more.
    fn change<T>(&mut self, change: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        change(self).inspect_err(|error| self.failed = Some(*error))
    }

    fn try_stage(&mut self, event: Event) -> Result<Staged, StoreError> {
        debug_assert_eq!(self.verdict(&event), Ok(Verdict::Fresh), "only a fresh event is staged");
        let mut removed = Vec::new();
        if let Some(address) = schema::event_address(&event)
            && let Some(older) = self.version(&address)?
        {
            assert!(!older.wins_over(event.created_at.as_secs(), &event.id), "a superseded event was staged");
            removed.push(self.remove_by_seq(older.seq, Cause::Superseded)?);
        }
        if event.kind.as_u16() == DELETION_KIND {
            self.apply_deletion(&event, &mut removed)?;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.batch.add(seq, event);
        Ok(Staged { seq, removed })
    }

    fn apply_deletion(&mut self, deletion: &Event, removed: &mut Vec<Removed>) -> Result<(), StoreError> {
        let author = &deletion.pubkey;
        let up_to = deletion.created_at.as_secs();
        for tag in deletion.tags.iter() {
            match Target::of_tag(tag, author) {
                Some(Target::Id(id)) => match self.held(&id)? {
                    Some((seq, held)) if is_deletable_by(&held, author) => {
                        let held = held.into_owned();
                        removed.push(self.remove(seq, &held, Cause::Deleted));
                    }
                    // Held and not theirs, or a deletion itself: the id will never be another event's.
                    Some(_) => {}
                    None => self.batch.delete_id(schema::id_author_key(&id, author)),
                },
                Some(Target::Address(address)) => {
                    if let Some(held) = self.version(&address)?
                        && held.created_at <= up_to
                    {
                        removed.push(self.remove_by_seq(held.seq, Cause::Deleted)?);
                    }
                    let before = self.address_deleted(&address)?;
                    self.batch.delete_address(address, before.map_or(up_to, |before| before.max(up_to)));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn remove_by_seq(&mut self, seq: Seq, cause: Cause) -> Result<Removed, StoreError> {
        let event = self.event(seq)?.into_owned();
        Ok(self.remove(seq, &event, cause))
    }

    fn remove(&mut self, seq: Seq, event: &Event, cause: Cause) -> Removed {
        let change = match cause {
            Cause::Deleted => IdChange::Deleted { created_at: event.created_at.as_secs() },
            Cause::Superseded | Cause::Expired => IdChange::Gone,
        };
        self.batch.remove(seq, event, change);
        let kind = event.kind.as_u16();
        Removed {
            id: event.id,
            kind,
            author: event.pubkey,
            identifier: schema::is_addressable(kind).then(|| schema::identifier(event).to_owned()),
            superseded: cause == Cause::Superseded,
        }
    }

    fn write_batch(&self) -> Result<(), StoreError> {
        let txn = self.db.begin_write()?;
        self.batch.write(&txn, self.next_seq)?;
        txn.commit()?;
        Ok(())
    }

    // Lookups that see the batch.

    fn snapshot(&self) -> Result<&Snapshot, StoreError> {
        self.snapshot.as_ref().ok_or(self.failed.unwrap_or(StoreError::Failed))
    }

    /// The event that stands under `seq`, in the batch or committed.
    fn event(&self, seq: Seq) -> Result<Cow<'_, Event>, StoreError> {
        debug_assert!(!self.batch.is_removed(seq));
        match self.batch.pending(seq) {
            Some(event) => Ok(Cow::Borrowed(event)),
            None => self.snapshot()?.event(seq)?.map(Cow::Owned).ok_or(StoreError::Corrupt),
        }
    }

    fn held(&self, id: &EventId) -> Result<Option<(Seq, Cow<'_, Event>)>, StoreError> {
        let seq = match self.batch.id(id) {
            Some(IdChange::Pending { seq, .. }) => seq,
            Some(IdChange::Deleted { .. } | IdChange::Gone) => return Ok(None),
            None => match self.snapshot()?.ids.get(id.as_bytes())?.map(|entry| entry.value().0) {
                Some(schema::DELETED) | None => return Ok(None),
                Some(seq) => seq,
            },
        };
        Ok(Some((seq, self.event(seq)?)))
    }

    fn version(&self, address: &AddressKey) -> Result<Option<Version>, StoreError> {
        if let Some(version) = self.batch.version(address) {
            return Ok(version);
        }
        Ok(self.snapshot()?.replaceable.get(address)?.map(|entry| {
            let (created_at, id, seq) = entry.value();
            Version { created_at, id: EventId::from_byte_array(*id), seq }
        }))
    }

    fn is_id_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool, StoreError> {
        let key = schema::id_author_key(id, author);
        Ok(self.batch.is_id_deleted(&key) || self.snapshot()?.deleted_ids.get(&key)?.is_some())
    }

    fn address_deleted(&self, address: &AddressKey) -> Result<Option<u64>, StoreError> {
        match self.batch.address_deleted(address) {
            Some(up_to) => Ok(Some(up_to)),
            None => Ok(self.snapshot()?.deleted_addresses.get(address)?.map(|entry| entry.value())),
        }
    }
}

/// When an event expires (NIP-40): at this second it is expired. A malformed `expiration` tag counts as none.
pub fn expiration(event: &Event) -> Option<UnixTime> {
    schema::expiration(event).map(UnixTime::from_secs)
}

/// What one tag of a deletion asks to delete (NIP-09).
enum Target {
    Id(EventId),
    Address(AddressKey),
}

impl Target {
    /// `None` for other tags, malformed values, and addresses of another author.
    fn of_tag(tag: &nostr::event::Tag, author: &PublicKey) -> Option<Target> {
        match tag.kind() {
            "e" => event_id(tag.content()?).map(Target::Id),
            "a" => schema::own_address(tag.content()?, author).map(Target::Address),
            _ => None,
        }
    }
}

fn is_deletable_by(event: &Event, author: &PublicKey) -> bool {
    event.pubkey == *author && event.kind.as_u16() != DELETION_KIND
}
