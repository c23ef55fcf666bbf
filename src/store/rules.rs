//! Replacement (NIP-01), deletion (NIP-09) and expiration (NIP-40): what an event does to those that are held, stored or
//! in the batch alike.

use super::batch::{IdChange, Version};
use super::schema::{self, AddressKey};
use super::{Known, Removed, Seq, Staged, Store, StoreError, Verdict};
use crate::fault::shared;
use crate::protocol::event_id;
use crate::protocol::reference::{Address, Reference, is_addressable};
use crate::protocol::repo::DELETION_KIND;
use crate::time::UnixTime;
use nostr::event::{Event, EventId, Tag};
use nostr::key::PublicKey;

/// Why an event leaves the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Superseded,
    Deleted,
    Expired,
}

impl Store {
    /// What the store would do with a verified event.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn verdict(&self, event: &Event) -> Result<Verdict, StoreError> {
        shared(|| {
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
        })
    }

    /// Whether a deletion (kind 5) refers to something of its author's that we hold and that it may delete. False for
    /// any other kind.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn deletion_targets(&self, event: &Event) -> Result<bool, StoreError> {
        shared(|| {
            if event.kind.as_u16() != DELETION_KIND {
                return Ok(false);
            }
            for tag in event.tags.iter() {
                let has_target = match Target::of_tag(tag, &event.pubkey) {
                    Some(Target::Id(id)) => {
                        self.held(&id)?.is_some_and(|(_, held)| is_deletable_by(&held, &event.pubkey))
                    }
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
        })
    }

    /// What a reference leads to, stored or in the batch.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn referred(&self, reference: &Reference<'_>) -> Result<Option<Event>, StoreError> {
        shared(|| match reference {
            Reference::Event(id) => Ok(self.held(id)?.map(|(_, event)| event)),
            Reference::Address(address) => match self.version(&schema::address_key(address))? {
                Some(held) => self.event(held.seq),
                None => Ok(None),
            },
        })
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
            for (at, seq) in due {
                match store.event(seq)? {
                    Some(event) => removed.push(store.remove(seq, &event, Cause::Expired)?),
                    None => store.batch.lapse(at, seq),
                }
            }
            Ok(removed)
        })
    }

    pub(super) fn try_stage(&mut self, event: &Event, json: &str) -> Result<Staged, StoreError> {
        debug_assert_eq!(self.verdict(event), Ok(Verdict::Fresh), "only a fresh event is staged");
        let mut removed = Vec::new();
        if let Some(address) = schema::event_address(event)
            && let Some(older) = self.version(&address)?
        {
            assert!(!older.wins_over(event.created_at.as_secs(), &event.id), "a superseded event was staged");
            removed.extend(self.remove_by_seq(older.seq, Cause::Superseded)?);
        }
        if event.kind.as_u16() == DELETION_KIND {
            self.apply_deletion(event, &mut removed)?;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.batch.add(seq, event, json.into());
        Ok(Staged { seq, removed })
    }

    fn apply_deletion(&mut self, deletion: &Event, removed: &mut Vec<Removed>) -> Result<(), StoreError> {
        let author = &deletion.pubkey;
        let up_to = deletion.created_at.as_secs();
        for tag in deletion.tags.iter() {
            match Target::of_tag(tag, author) {
                Some(Target::Id(id)) => match self.held(&id)? {
                    Some((seq, held)) if is_deletable_by(&held, author) => {
                        removed.push(self.remove(seq, &held, Cause::Deleted)?);
                    }
                    // Held and not theirs, or a deletion itself: the id will never be another event's.
                    Some(_) => {}
                    None => self.batch.delete_id(schema::id_author_key(&id, author)),
                },
                Some(Target::Address(address)) => {
                    if let Some(held) = self.version(&address)?
                        && held.created_at <= up_to
                    {
                        removed.extend(self.remove_by_seq(held.seq, Cause::Deleted)?);
                    }
                    let before = self.address_deleted(&address)?;
                    self.batch.delete_address(address, before.map_or(up_to, |before| before.max(up_to)));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// `None` if it was forgotten, or is about to be: nothing of it is held.
    fn remove_by_seq(&mut self, seq: Seq, cause: Cause) -> Result<Option<Removed>, StoreError> {
        self.event(seq)?.map(|event| self.remove(seq, &event, cause)).transpose()
    }

    fn remove(&mut self, seq: Seq, event: &Event, cause: Cause) -> Result<Removed, StoreError> {
        let change = match cause {
            Cause::Deleted => IdChange::Deleted { created_at: event.created_at.as_secs() },
            Cause::Superseded | Cause::Expired => IdChange::Gone,
        };
        let snapshot = self.snapshot.as_ref().ok_or(StoreError::Failed)?;
        self.batch.uncharge(snapshot, seq)?;
        self.batch.remove(seq, event, change);
        let kind = event.kind.as_u16();
        Ok(Removed {
            id: event.id,
            kind,
            author: event.pubkey,
            identifier: Address::of(event).filter(|at| is_addressable(at.kind)).map(|at| at.identifier.to_owned()),
            superseded: cause == Cause::Superseded,
        })
    }

    fn held(&self, id: &EventId) -> Result<Option<(Seq, Event)>, StoreError> {
        let seq = match self.batch.id(id) {
            Some(IdChange::Pending { seq, .. }) => seq,
            Some(IdChange::Deleted { .. } | IdChange::Gone) => return Ok(None),
            None => match self.snapshot()?.id(id)? {
                Some((schema::DELETED, _)) | None => return Ok(None),
                Some((seq, _)) => seq,
            },
        };
        Ok(self.event(seq)?.map(|event| (seq, event)))
    }

    pub(super) fn version(&self, address: &AddressKey) -> Result<Option<Version>, StoreError> {
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

/// What one tag of a deletion asks to delete (NIP-09).
enum Target {
    Id(EventId),
    Address(AddressKey),
}

impl Target {
    /// `None` for other tags, malformed values, and addresses of another author.
    fn of_tag(tag: &Tag, author: &PublicKey) -> Option<Target> {
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
