//! What is kept: events with their indexes, deletions that hold, and how far the sync has come with each relay, in one
//! redb database (spec section 10).
//!
//! Changes are **staged** and take effect on disk together in [`Store::commit`], one transaction: progress is never
//! durable without the events that it speaks for. [`Store::known`], [`Store::verdict`] and [`Store::deletion_targets`]
//! see what is staged; queries and other readings see only what is committed, for nothing else may be shown to anyone.
//!
//! A commit writes events, and the indexes only once in a while: what these lack is held in memory, and found again in
//! the events after a crash.
//!
//! What the medium gives back is checked before it is used: a page that is not what was written ends the store with
//! [`StoreError::Corrupt`], save one of events, of which what holds is kept and the rest can be forgotten
//! ([`Store::forget_damaged`]).
//!
//! The store applies the rules of replacement (NIP-01), deletion (NIP-09) and expiration (NIP-40). It does not verify
//! signatures, and who may publish what is `policy`'s to say.

mod accounts;
mod batch;
mod blocks;
mod changes;
mod check;
mod damage;
mod error;
mod id_sets;
mod ids;
mod index;
mod ledger;
mod medium;
mod memtable;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
mod negative_cache;
mod pages;
mod places;
mod query;
mod reading;
mod reopening;
mod rules;
mod schema;
mod search;
mod snapshot;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

pub use accounts::{Charge, Holder, Usage};
pub use changes::{Change, ChangeMark};
pub use error::StoreError;
pub use id_sets::{SET_BLOCK_ITEMS, SetItem, SetSearch};
pub use ids::{Selected, Selection};
pub use places::PlaceSearch;
pub use query::{Query, QueryStep};
pub use search::{IdSearch, IdStep};
pub use verify::Findings;
pub use walk::{Pages, Salvaged, check_pages, salvage};

use crate::fault::shared;
use crate::limits::STORE_MEMTABLE_MAX;
use crate::protocol::canonical::Canonical;
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::RepoAddr;
use crate::time::UnixTime;
use batch::{Batch, IdChange};
use changes::Changes;
use medium::Watch;
use memtable::{Keys, Memtable};
use nostr::event::{Event, EventId};
use nostr::key::PublicKey;
use redb::{Database, StorageBackend};
use reopening::Opened;
use schema::Part;
use snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The order in which events were staged: from 1, never used twice, not without gaps.
pub type Seq = u64;

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
    /// Its JSON as stored.
    pub json: Box<str>,
}

impl StoredEvent {
    /// The event.
    pub fn event(&self) -> Event {
        schema::parse(&self.json).expect("the store has written it")
    }
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
    /// What is known of what the relay allows, as `sync` writes it.
    Budget {
        /// The relay.
        relay: RelayUrl,
        /// The record.
        record: String,
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
    /// `None` only if it could not be opened anew after a commit that found no room.
    db: Option<Database>,
    watch: Arc<Watch>,
    backend: Arc<dyn StorageBackend>,
    cache_bytes: usize,
    next_seq: Seq,
    /// Index entries that may wait in memory.
    memtable_max: usize,
    changes: Changes,
    /// Why no more is written.
    failed: Option<StoreError>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("next_seq", &self.next_seq).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store on `backend`, or makes a new one if the backend is empty or holds no more than the beginning of a
    /// new one. `cache_bytes` bounds redb's cache.
    ///
    /// # Errors
    ///
    /// If the backend holds something else, a damaged store or one of a newer version, is in use elsewhere, or fails.
    /// Nothing else is then changed, save for redb's own recovery of a store that was not closed.
    pub fn open(backend: impl StorageBackend, cache_bytes: usize) -> Result<Store, StoreError> {
        let backend: Arc<dyn StorageBackend> = Arc::new(backend);
        let Opened { snapshot, db, watch } = Opened::on(&backend, cache_bytes)?;
        Ok(Store {
            batch: Batch::default(),
            next_seq: snapshot.next_seq,
            snapshot: Some(snapshot),
            db: Some(db),
            watch,
            backend,
            cache_bytes,
            memtable_max: STORE_MEMTABLE_MAX,
            changes: Changes::default(),
            failed: None,
        })
    }

    /// The same with another bound than [`STORE_MEMTABLE_MAX`] on the index entries that wait in memory. With 0 every
    /// commit writes those of the one before.
    #[must_use]
    pub fn with_memtable_max(self, entries: usize) -> Store {
        Store { memtable_max: entries, ..self }
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
        shared(|| {
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
            let Some((seq, created_at)) = self.snapshot()?.id(id)? else { return Ok(None) };
            let created_at = UnixTime::from_secs(created_at);
            Ok(Some(match seq {
                schema::DELETED => Known::Deleted { created_at },
                seq => Known::Stored { seq, created_at },
            }))
        })
    }

    /// Puts an event into the batch and applies what follows from it: an older version goes, and so does what a kind 5
    /// deletes; what that names but we do not hold stays refused from now on.
    ///
    /// The event must have been verified and have the verdict [`Verdict::Fresh`]; `json` is what [`Canonical`] makes of
    /// it.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or has failed before. It takes no more writes then.
    pub fn stage_written(&mut self, event: &Event, json: &str) -> Result<Staged, StoreError> {
        self.change(|store| store.try_stage(event, json))
    }

    /// [`Store::stage_written`] for an event that nobody has written yet.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn stage(&mut self, event: Event) -> Result<Staged, StoreError> {
        let mut canonical = Canonical::default();
        canonical.write(&event);
        self.stage_written(&event, canonical.json())
    }

    /// Puts progress into the batch.
    pub fn stage_progress(&mut self, progress: Progress) {
        self.batch.progress(progress);
    }

    /// Whether something was read that does not hold, since [`Store::forget_damaged`] was last called.
    pub fn damage_found(&self) -> bool {
        self.watch.damage.is_found()
    }

    /// Puts into the batch that what was read and does not hold is held no more: its ids are not known from now on, and no
    /// relay counts as caught up in full, so that each is asked for everything again. Returns how many records that are.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or has failed before. It takes no more writes then.
    pub fn forget_damaged(&mut self) -> Result<usize, StoreError> {
        self.change(|store| {
            let damaged = store.watch.damage.take().into_iter().filter(|(seq, _)| !store.batch.is_gone(*seq));
            let mut damaged: BTreeMap<Seq, Option<EventId>> = damaged.collect();
            let snapshot = store.snapshot.as_ref().ok_or(StoreError::Failed)?;
            for (seq, seems) in &mut damaged {
                // What is left of the record may name another's id, or none.
                let Some(id) = seems.take() else { continue };
                *seems = snapshot.id(&id)?.filter(|(of, _)| of == seq).map(|_| id);
            }
            let unread: BTreeSet<Seq> = damaged.iter().filter(|(_, id)| id.is_none()).map(|(seq, _)| *seq).collect();
            if !unread.is_empty() {
                damaged.extend(snapshot.ids_of(&unread)?.into_iter().map(|(seq, id)| (seq, Some(id))));
            }
            for (seq, id) in &damaged {
                store.batch.uncharge(snapshot, *seq)?;
                store.batch.forget(*seq, *id);
            }
            Ok(damaged.len())
        })
    }

    /// Whether commits remember from now on what they change, for [`Store::changes_since`].
    pub fn watch_changes(&self, is_watched: bool) {
        self.changes.watch(is_watched);
    }

    /// A mark of what is committed now.
    pub fn change_mark(&self) -> ChangeMark {
        self.changes.mark()
    }

    /// What commits have removed and added since a mark, in their order; `None` if that is more than was remembered.
    pub fn changes_since(&self, mark: ChangeMark) -> Option<impl ExactSizeIterator<Item = &Change>> {
        self.changes.since(mark)
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
    /// no more writes, and opening it elsewhere gives the last committed state. After [`StoreError::Full`] alone it may be
    /// [reopened](Store::reopen) with its batch.
    pub fn commit(&mut self) -> Result<Vec<StoredEvent>, StoreError> {
        if self.batch.is_empty() && self.failed.is_none() {
            return Ok(Vec::new());
        }
        self.change(|store| store.try_commit(store.memtable_max))
    }

    /// Writes what the indexes lack, so that the next start has nothing to look for. The batch must be empty. A store
    /// that is dropped instead has lost nothing.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`].
    pub fn close(mut self) -> Result<(), StoreError> {
        debug_assert!(self.batch.is_empty(), "the last commit comes first");
        if !self.snapshot()?.memtable.is_empty() {
            self.change(|store| store.try_commit(0))?;
        }
        Ok(())
    }

    fn try_commit(&mut self, memtable_max: usize) -> Result<Vec<StoredEvent>, StoreError> {
        // A reader that stays behind would keep pages that this commit could use.
        let Snapshot { mut memtable, next_seq: first_new, .. } = self.snapshot.take().ok_or(StoreError::Failed)?;
        self.batch.forgotten_ids().for_each(|id| _ = memtable.ids.entries.remove(&id));
        let due = memtable.due(self.batch.index_entries(), memtable_max);
        match self.write_batch(&memtable, &due, first_new) {
            Ok(removed) => {
                let batch = std::mem::take(&mut self.batch);
                self.changes.on_commit(&removed, batch.new_keys(), !batch.forgets());
                let memtable = memtable.after(&due, &removed, batch.new_keys(), first_new);
                batch.marked_ids().for_each(|(id, _)| memtable.negative_cache.remove(&id));
                self.snapshot = Some(Snapshot::take(self.db()?, &self.watch, memtable)?);
                Ok(batch.into_events().map(|(seq, json)| StoredEvent { seq, json }).collect())
            }
            Err(error) => {
                // What was committed before can still be read if the medium allows it.
                self.snapshot = self.db().and_then(|db| Snapshot::take(db, &self.watch, memtable)).ok();
                Err(error)
            }
        }
    }

    fn write_batch(&self, memtable: &Memtable, due: &[Part], first_new: Seq) -> Result<Vec<Keys>, StoreError> {
        let txn = self.db()?.begin_write()?;
        schema::write_next_seq(&txn, self.next_seq)?;
        let removed = self.batch.write_events(&txn)?;
        memtable.write(&txn, due, &removed, first_new)?;
        // After the ids of what is removed have gone: some of them stay known as deleted.
        self.batch.write_rest(&txn)?;
        txn.commit()?;
        Ok(removed)
    }

    /// Runs a change, unless one has failed before. A change that fails may have been applied in part, so nothing of the
    /// batch may be written any more.
    fn change<T>(&mut self, change: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        change(self).inspect_err(|error| self.failed = Some(*error))
    }

    fn db(&self) -> Result<&Database, StoreError> {
        self.db.as_ref().ok_or(self.failed.unwrap_or(StoreError::Failed))
    }

    // Lookups that see the batch.

    fn snapshot(&self) -> Result<&Snapshot, StoreError> {
        self.snapshot.as_ref().ok_or(self.failed.unwrap_or(StoreError::Failed))
    }

    /// The event that stands under `seq`, in the batch or committed; `None` if it does not hold.
    fn event(&self, seq: Seq) -> Result<Option<Event>, StoreError> {
        debug_assert!(!self.batch.is_removed(seq));
        match self.batch.pending(seq) {
            Some(json) => schema::parse(json).map(Some),
            None => self.snapshot()?.event(seq),
        }
    }
}
