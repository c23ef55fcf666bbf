//! What can be read of a store beside single ids: committed events and progress, whole or by filter.

use super::blocks;
use super::damage;
use super::schema;
use super::{Progress, Query, QueryStep, Seq, Store, StoreError, check};
use crate::fault::shared;
use crate::protocol::relay_url::{RelayUrl, RelayUrlError};
use crate::protocol::repo::RepoAddr;
use crate::time::UnixTime;
use nostr::key::PublicKey;
use std::ops::{Bound, ControlFlow};

impl Store {
    /// The last sequence number given to an event by the time of the last commit: all that are committed are up to it,
    /// all that are not are beyond it. 0 in a new store.
    pub fn last_seq(&self) -> Seq {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.next_seq - 1)
    }

    /// The JSON of a committed event; `None` if it is gone.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn event_json(&self, seq: Seq) -> Result<Option<String>, StoreError> {
        shared(|| Ok(self.snapshot()?.record_if_any(seq)?.map(|json| json.value().to_owned())))
    }

    /// Gives kind and JSON of every committed event of some kinds to `f`, in the order of sequence numbers; `f` says whether
    /// it was one. Expired ones are not left out; what does not hold is.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn for_each_of_kinds(
        &self,
        kinds: &[u16],
        f: &mut dyn FnMut(Seq, u16, &str) -> bool,
    ) -> Result<(), StoreError> {
        let snapshot = self.snapshot()?;
        let mut found: Vec<(Seq, u16)> = Vec::new();
        for kind in kinds {
            let prefix = kind.to_be_bytes();
            let from: [u8; schema::BY_KIND_LEN] = schema::index_key(&prefix, &schema::place_not_after(u64::MAX));
            let to: [u8; schema::BY_KIND_LEN] = schema::index_key(&prefix, &schema::place_not_before(0));
            let mut entries = snapshot.by_kind().range(Bound::Included(&from), &to)?;
            while let Some((key, _)) = entries.next()? {
                found.push((schema::place_seq(&schema::key_place(&key)), *kind));
            }
        }
        found.sort_unstable();
        for (seq, kind) in found {
            if let Some(json) = snapshot.record(seq)?
                && !f(seq, kind, json.value())
            {
                snapshot.note_damaged(seq);
            }
        }
        Ok(())
    }

    /// Gives every committed event to `f`, in the order of sequence numbers, until it breaks. What does not hold is left
    /// out, and [`Store::damage_found`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn for_each(&self, f: &mut dyn FnMut(Seq, &str) -> ControlFlow<()>) -> Result<(), StoreError> {
        let snapshot = self.snapshot()?;
        for text in snapshot.texts()? {
            let (seq, json) = text?;
            if !damage::is_record(json.value()) {
                if json.value() != damage::FORGOTTEN {
                    snapshot.note_damaged(seq);
                }
            } else if f(seq, json.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// All committed progress: first the relays' records, then what they allow, then what is confirmed, each in the order of their text.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn progress(&self) -> Result<Vec<Progress>, StoreError> {
        let snapshot = self.snapshot()?;
        // `None`: an earlier version took it for a relay's.
        let relay_url = |text: &str| match RelayUrl::parse(text) {
            Ok(url) => Ok(Some(url)),
            Err(RelayUrlError::BlockedPort) => Ok(None),
            Err(_) => Err(StoreError::Corrupt),
        };
        let mut all = Vec::new();
        for entry in snapshot.relays.range::<&str>(..)? {
            let (relay, times) = entry?;
            let Some(relay) = relay_url(relay.value())? else { continue };
            let (through, full_catchup) = times.value();
            all.push(Progress::Relay {
                relay,
                through: UnixTime::from_secs(through),
                full_catchup: UnixTime::from_secs(full_catchup),
            });
        }
        for entry in snapshot.budgets.range::<&str>(..)? {
            let (relay, record) = entry?;
            let Some(relay) = relay_url(relay.value())? else { continue };
            all.push(Progress::Budget { relay, record: record.value().to_owned() });
        }
        for entry in snapshot.confirmed.range::<(&str, &str)>(..)? {
            let (key, seq) = entry?;
            let (relay, repo) = key.value();
            let Some(relay) = relay_url(relay)? else { continue };
            all.push(Progress::Confirmed {
                relay,
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
        shared(|| query.step(self.snapshot()?, now, candidates_max, f))
    }

    /// Gives the next authors of committed events to `f`, each once, in the order of the keys, at most `max`: those after a
    /// key, or the first. Says whether there may be more.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn authors_after(
        &self,
        after: Option<&PublicKey>,
        max: usize,
        f: &mut dyn FnMut(PublicKey),
    ) -> Result<bool, StoreError> {
        let index = self.snapshot()?.by_author();
        let behind = |author: &[u8]| Bound::Excluded(schema::index_key(author, &[0xff; schema::PLACE_LEN]));
        let mut from: Bound<[u8; schema::BY_AUTHOR_LEN]> =
            after.map_or(Bound::Unbounded, |author| behind(author.as_bytes()));
        for _ in 0..max {
            let Some((key, _)) = index.range(from.as_ref(), &blocks::last_fence())?.next()? else { return Ok(false) };
            let mut author = [0; 32];
            author.copy_from_slice(&key[..32]);
            f(PublicKey::from_byte_array(author));
            from = behind(&author);
        }
        Ok(true)
    }

    /// Whether any event of this author is held, stored or in the batch: one lookup, and a look at the batch.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn has_any_of(&self, author: &PublicKey) -> Result<bool, StoreError> {
        shared(|| {
            let place = |byte| schema::index_key(author.as_bytes(), &[byte; schema::PLACE_LEN]);
            let (from, to): ([u8; schema::BY_AUTHOR_LEN], _) = (place(0), place(0xff));
            let mut stored = self.snapshot()?.by_author().range(Bound::Included(&from), &to)?;
            Ok(stored.next()?.is_some() || self.batch.has_any_of(author))
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
}
