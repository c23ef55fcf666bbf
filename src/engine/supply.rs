//! What the relays' machines want to know and only the store and intake can tell.

use std::collections::BTreeSet;

use nostr::event::EventId;
use nostr::filter::Filter;
use slab::Slab;

use super::Entry;
use crate::intake::Intake;
use crate::intake::recent::Recent;
use crate::limits::{CLAIM_HOLDS_FOR, CLAIMED_IDS_MAX, RECONCILE_IDS_MAX};
use crate::store::{IdSet, Store, StoreError};
use crate::sync::Cx;
use crate::sync::session::{Found, Sifted};
use crate::time::Instant;

/// Which relay was found to have what first, so that it is fetched from one. A claim is a hint: whoever loses patience
/// fetches all the same.
#[derive(Debug)]
pub(super) struct Claims(Recent<EventId, (usize, Instant)>);

impl Default for Claims {
    fn default() -> Self {
        Claims(Recent::new(CLAIMED_IDS_MAX))
    }
}

impl Claims {
    fn claim(&mut self, id: EventId, key: usize, now: Instant) {
        self.0.insert(id, (key, now));
    }

    /// Whether it is being fetched from another relay, or waits for that.
    fn is_of_another(&self, id: &EventId, key: usize, now: Instant) -> bool {
        self.0.get(id).is_some_and(|(of, at)| *of != key && now.since(*at) <= CLAIM_HOLDS_FOR)
    }
}

/// Answers one question of a relay's machine; says whether there was one.
///
/// # Errors
///
/// If the store cannot be read.
pub(super) fn supply(
    relays: &mut Slab<Entry>,
    key: usize,
    store: &Store,
    intake: &Intake,
    claims: &mut Claims,
    cx: &mut Cx<'_>,
) -> Result<bool, StoreError> {
    if relays[key].relay.wants_authors() {
        let mut authors = BTreeSet::new();
        store.authors(&mut |author| {
            authors.insert(author);
        })?;
        relays[key].relay.add_deletions(authors, cx);
        return Ok(true);
    }
    if let Some(Found { of, ids, may_wait }) = relays[key].relay.take_found(cx.now.mono) {
        let mut sifted = Sifted::default();
        for id in ids {
            if intake.has_no_use_for(&id, cx.now, store, cx.state)? {
                continue;
            }
            match may_wait && claims.is_of_another(&id, key, cx.now.mono) {
                true => sifted.elsewhere.push(id),
                false => {
                    claims.claim(id, key, cx.now.mono);
                    sifted.needed.push(id);
                }
            }
        }
        relays[key].relay.add_needed(of, sifted, cx);
        return Ok(true);
    }
    if let Some(filter) = relays[key].relay.wanted_set(cx) {
        let filter: Filter = serde_json::from_str(&filter).expect("we ask with filters");
        let held: usize = relays.iter().map(|(_, entry)| entry.relay.ids_held()).sum();
        let room = RECONCILE_IDS_MAX.saturating_sub(held);
        let mut ids = Vec::new();
        let set = store.for_each_id(&filter, cx.now.wall, room, &mut |created_at, id| ids.push((created_at, id)))?;
        relays[key].relay.add_set((set == IdSet::Whole && room > 0).then_some(ids), cx);
        return Ok(true);
    }
    Ok(false)
}
