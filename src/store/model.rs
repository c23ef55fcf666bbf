//! The store's rules once more, over plain lists and as the NIPs state them: what the store is compared with.

use super::Verdict;
use nostr::event::{Event, EventId};
use nostr::key::PublicKey;
use std::collections::{BTreeMap, BTreeSet};

/// The rules of NIP-01, NIP-09 and NIP-40 over plain lists.
#[derive(Clone, Default)]
pub(crate) struct Model {
    /// Events, as they came.
    pub(crate) held: Vec<Event>,
    /// Those that were held and are deleted, with their times.
    pub(crate) deleted: BTreeMap<EventId, u64>,
    /// What deletions named, and their authors.
    named: BTreeSet<(EventId, PublicKey)>,
    addresses: BTreeMap<String, u64>,
}

fn address_of(event: &Event) -> Option<String> {
    match event.kind.as_u16() {
        0 | 3 | 10_000..=19_999 => Some(format!("{}:{}:", event.kind, event.pubkey)),
        30_000..=39_999 => {
            Some(format!("{}:{}:{}", event.kind, event.pubkey, event.tags.identifier().unwrap_or_default()))
        }
        _ => None,
    }
}

impl Model {
    pub(crate) fn verdict(&self, event: &Event) -> Verdict {
        let address = address_of(event);
        if self.held.iter().any(|held| held.id == event.id) {
            Verdict::Duplicate
        } else if self.deleted.contains_key(&event.id)
            || (event.kind.as_u16() != 5 && self.named.contains(&(event.id, event.pubkey)))
            || address.as_ref().is_some_and(|address| {
                self.addresses.get(address).is_some_and(|up_to| event.created_at.as_secs() <= *up_to)
            })
        {
            Verdict::Deleted
        } else if address.is_some() && self.held.iter().any(|held| address_of(held) == address && held < event) {
            Verdict::Superseded
        } else {
            Verdict::Fresh
        }
    }

    pub(crate) fn is_target(deletion: &Event, held: &Event) -> bool {
        let address = address_of(held);
        held.pubkey == deletion.pubkey
            && held.kind.as_u16() != 5
            && deletion.tags.iter().any(|tag| match tag.kind() {
                "e" => tag.content() == Some(&held.id.to_hex()),
                "a" => address.as_deref() == tag.content() && held.created_at <= deletion.created_at,
                _ => false,
            })
    }

    pub(crate) fn stage(&mut self, event: &Event) -> BTreeSet<(EventId, bool)> {
        let address = address_of(event);
        let mut removed = BTreeSet::new();
        let is_deletion = event.kind.as_u16() == 5;
        self.held.retain(|held| {
            if address.is_some() && address_of(held) == address {
                removed.insert((held.id, true));
            } else if is_deletion && Model::is_target(event, held) {
                removed.insert((held.id, false));
                self.deleted.insert(held.id, held.created_at.as_secs());
            } else {
                return true;
            }
            false
        });
        for tag in event.tags.iter().filter(|_| is_deletion) {
            let value = tag.content().unwrap_or_default();
            if tag.kind() == "e" {
                self.named.insert((EventId::from_hex(value).unwrap(), event.pubkey));
            } else if value.contains(&event.pubkey.to_hex()) {
                let up_to = self.addresses.entry(value.to_owned()).or_default();
                *up_to = (*up_to).max(event.created_at.as_secs());
            }
        }
        self.held.push(event.clone());
        removed
    }

    /// Takes out what has expired at `now`.
    pub(crate) fn expire(&mut self, now: u64) -> BTreeSet<EventId> {
        let (expired, held) = std::mem::take(&mut self.held).into_iter().partition(|event| is_expired(event, now));
        self.held = held;
        expired.into_iter().map(|event: Event| event.id).collect()
    }
}

/// Whether the first `expiration` tag is a time not after `now` (NIP-40).
pub(crate) fn is_expired(event: &Event, now: u64) -> bool {
    let tag = event.tags.iter().find(|tag| tag.kind() == "expiration");
    tag.and_then(|tag| tag.content()?.parse::<u64>().ok()).is_some_and(|at| at <= now)
}
