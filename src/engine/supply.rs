//! What the relays' machines want to know and only the store and intake can tell.

use std::collections::BTreeSet;

use nostr::filter::Filter;
use slab::Slab;

use super::Entry;
use crate::intake::Intake;
use crate::limits::RECONCILE_IDS_MAX;
use crate::store::{IdSet, Store, StoreError};
use crate::sync::Cx;

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
    if let Some((reconciliation, mut ids)) = relays[key].relay.take_found() {
        let mut failed = None;
        ids.retain(|id| match intake.has_no_use_for(id, cx.now, store, cx.state) {
            Ok(useless) => !useless,
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        relays[key].relay.add_needed(reconciliation, ids, cx);
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
