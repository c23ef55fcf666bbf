//! A store that finds no room for a commit is opened anew, with its batch, and goes on: redb takes no more of a file once
//! a write to it has failed, not even a read, and what it finds when it opens the file is one whole commit or the one
//! before.

use super::medium::{Medium, Watch};
use super::schema;
use super::snapshot::Snapshot;
use super::{Store, StoreError, StoredEvent};
use redb::{Database, StorageBackend};
use std::sync::Arc;

/// A database and what it holds.
pub(super) struct Opened {
    pub snapshot: Snapshot,
    pub db: Database,
    pub watch: Arc<Watch>,
}

impl Opened {
    /// Opens what the backend holds, or makes a new store on it.
    pub(super) fn on(backend: &Arc<dyn StorageBackend>, cache_bytes: usize) -> Result<Opened, StoreError> {
        let watch = Arc::new(Watch::default());
        let medium = Medium::new(backend.clone(), watch.clone());
        let db = Database::builder().set_cache_size(cache_bytes).create_with_backend(medium)?;
        watch.on_opened();
        schema::prepare(&db)?;
        let snapshot = Snapshot::open(&db, &watch)?;
        Ok(Opened { snapshot, db, watch })
    }
}

impl Store {
    /// Opens the store anew on the same medium, after a commit that ended with [`StoreError::Full`]. It can be read then,
    /// and takes writes. Takes as long as a start after a crash: redb looks at every page.
    ///
    /// `None`: the batch waits for the next commit, as it was before. `Some`: the commit has become durable all the same, for
    /// redb found the whole of it, and these are its events, as [`Store::commit`] gives them.
    ///
    /// # Errors
    ///
    /// If the store cannot be opened; it can neither be read nor written then.
    ///
    /// # Panics
    ///
    /// If no commit has ended so.
    pub fn reopen(&mut self) -> Result<Option<Vec<StoredEvent>>, StoreError> {
        assert_eq!(self.failed, Some(StoreError::Full), "only a commit without room can be tried again");
        // The locks of the one go before the other takes its own.
        self.snapshot = None;
        self.db = None;
        let Opened { snapshot, db, watch } = Opened::on(&self.backend, self.cache_bytes)?;
        let is_durable = self.holds_batch(&snapshot)?;
        if snapshot.next_seq > self.next_seq || (is_durable && snapshot.next_seq != self.next_seq) {
            return Err(StoreError::Corrupt);
        }
        (self.snapshot, self.db, self.watch, self.failed) = (Some(snapshot), Some(db), watch, None);
        if !is_durable {
            return Ok(None);
        }
        let batch = std::mem::take(&mut self.batch);
        Ok(Some(batch.into_events().map(|(seq, json)| StoredEvent { seq, json }).collect()))
    }

    /// Whether what is committed has the batch in it. One that neither adds nor removes an event can be written twice.
    fn holds_batch(&self, snapshot: &Snapshot) -> Result<bool, StoreError> {
        Ok(match (self.batch.first_new(), self.batch.first_removed()) {
            (Some(seq), _) => snapshot.has(seq)?,
            (None, Some(seq)) => !snapshot.has(seq)?,
            (None, None) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Disk, event};
    use super::*;
    use nostr::event::Event;
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::ops::ControlFlow;

    const CACHE: usize = 1 << 20;

    fn issue(n: u64) -> Event {
        event(1, 1_621, 100 + n, &[&["t", "x"]], &"y".repeat(500))
    }

    fn stage(store: &mut Store, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| _ = store.stage(event).unwrap());
    }

    fn held(store: &Store) -> BTreeSet<u64> {
        let mut held = BTreeSet::new();
        store
            .for_each(&mut |_, json| {
                held.insert(schema::parse(json).unwrap().created_at.as_secs() - 100);
                ControlFlow::Continue(())
            })
            .unwrap();
        held
    }

    /// A store of ten events and a batch that adds ten and deletes two, on a disk.
    fn scene() -> (Disk, Store) {
        let disk = Disk::default();
        let mut store = Store::open(disk.clone(), CACHE).unwrap().with_memtable_max(20);
        stage(&mut store, (0..10).map(issue));
        store.commit().unwrap();
        stage(&mut store, (10..20).map(issue));
        let deletion: Vec<String> = [issue(3), issue(12)].iter().map(|event| event.id.to_hex()).collect();
        stage(&mut store, [event(1, 5, 200, &[&["e", &deletion[0]], &["e", &deletion[1]]], "")]);
        (disk, store)
    }

    fn expected() -> BTreeSet<u64> {
        (0..20).filter(|n| ![3, 12].contains(n)).chain([100]).collect()
    }

    #[test]
    fn a_commit_that_fails_anywhere_for_want_of_room_is_made_once_there_is_some() {
        let (mut waited, mut durable) = (0, 0);
        for good in 0.. {
            let (disk, mut store) = scene();
            disk.fail_after(good, ErrorKind::StorageFull);
            match store.commit() {
                Ok(_) => break,
                Err(error) => assert_eq!(error, StoreError::Full),
            }
            disk.heal();
            let stored = match store.reopen().unwrap() {
                Some(stored) => {
                    durable += 1;
                    stored
                }
                None => {
                    waited += 1;
                    assert_eq!(held(&store), (0..10).collect(), "after {good}");
                    assert!(store.known(&issue(15).id).unwrap().is_some(), "it waits still");
                    store.commit().unwrap()
                }
            };
            assert_eq!(stored.len(), 10);
            assert_eq!(held(&store), expected(), "after {good}");
            store.assert_invariants().unwrap();
            stage(&mut store, [issue(30)]);
            store.commit().unwrap();
            drop(store);
            let store = Store::open(disk, CACHE).unwrap();
            assert!(held(&store).contains(&30));
            store.assert_invariants().unwrap();
        }
        assert!(waited > 3 && durable > 0, "{waited} {durable}");
    }

    #[test]
    fn a_batch_that_only_removes_is_told_from_one_that_was_made() {
        for good in 0.. {
            let disk = Disk::default();
            let mut store = Store::open(disk.clone(), CACHE).unwrap();
            let fleeting = event(1, 1, 100, &[&["expiration", "150"]], "");
            stage(&mut store, [fleeting, issue(1)]);
            store.commit().unwrap();
            let now = crate::time::UnixTime::from_secs(200);
            assert_eq!(store.expire(now, 10).unwrap().len(), 1);
            disk.fail_after(good, ErrorKind::StorageFull);
            if store.commit().is_ok() {
                return;
            }
            disk.heal();
            if store.reopen().unwrap().is_none() {
                store.commit().unwrap();
            }
            assert_eq!(held(&store), [1].into());
            store.assert_invariants().unwrap();
        }
    }

    #[test]
    fn a_full_disk_is_read_and_waits_for_room() {
        let (disk, mut store) = scene();
        stage(&mut store, (100..3_000).map(issue));
        disk.fill();
        for _ in 0..3 {
            assert_eq!(store.commit(), Err(StoreError::Full));
            assert_eq!(store.reopen().unwrap(), None);
            assert_eq!(held(&store), (0..10).collect());
        }
        disk.heal();
        assert_eq!(store.commit().unwrap().len(), 2_910);
        store.assert_invariants().unwrap();
    }
}
