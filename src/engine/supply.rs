//! What the relays' machines want to know and only the store and intake can tell.

use std::collections::BTreeSet;

use nostr::event::EventId;
use slab::Slab;

use super::Entry;
use super::sets::{Sets, thread_of};
use crate::fault::shared;
use crate::intake::Intake;
use crate::intake::recent::Recent;
use crate::limits::{CLAIM_HOLDS_FOR, CLAIMED_IDS_MAX, RECONCILE_IDS_MAX};
use crate::store::{Store, StoreError};
use crate::sync::Cx;
use crate::sync::session::{Classified, Found};
use crate::time::Instant;

/// What spares the relays and the store work. Nothing depends on it.
#[derive(Debug, Default)]
pub(super) struct Hints {
    claims: Claims,
    sets: Sets,
}

impl Hints {
    /// Events that were held are not: sets that count with them are of no use.
    pub(super) fn on_events_lost(&mut self) {
        self.sets = Sets::default();
    }
}

/// Which relay was found to have what first, so that it is fetched from one. A claim is a hint: whoever loses patience
/// fetches all the same.
#[derive(Debug)]
struct Claims(Recent<EventId, (usize, Instant)>);

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

/// Answers one question of a relay's machine; says whether there was one. The machine is isolated meanwhile; what belongs to
/// all relays is not.
///
/// # Errors
///
/// If the store cannot be read.
pub(super) fn supply(
    relays: &mut Slab<Entry>,
    key: usize,
    store: &Store,
    intake: &Intake,
    hints: &mut Hints,
    cx: &mut Cx<'_>,
) -> Result<bool, StoreError> {
    if relays[key].relay.wants_authors() {
        let mut authors = BTreeSet::new();
        shared(|| {
            store.authors(&mut |author| {
                authors.insert(author);
            })
        })?;
        relays[key].relay.add_authors(authors, cx);
        return Ok(true);
    }
    let pending = store.batch_events() > 0;
    if let Some(wanted) = relays[key].relay.wanted_thread(cx).filter(|wanted| !(wanted.may_wait && pending)) {
        let ids = shared(|| thread_of(&wanted, store, cx.state, cx.now.wall))?;
        relays[key].relay.add_thread(ids, cx);
        return Ok(true);
    }
    if let Some(Found { of, ids, may_wait }) = relays[key].relay.take_found(cx.now.mono) {
        let classified = shared(|| sift(ids, may_wait, key, store, intake, hints, cx))?;
        relays[key].relay.add_needed(of, classified, cx);
        return Ok(true);
    }
    if let Some(wanted) = relays[key].relay.wanted_set() {
        let held: usize = relays.iter().map(|(_, entry)| entry.relay.ids_held()).sum();
        let ids = match RECONCILE_IDS_MAX.saturating_sub(held) {
            0 => None,
            room => shared(|| hints.sets.of(&wanted, store, cx.state, cx.now, room))?,
        };
        relays[key].relay.add_set(ids, cx);
        return Ok(true);
    }
    Ok(false)
}

/// Which of the ids that a relay was found to have are to be fetched from it.
fn sift(
    ids: Vec<EventId>,
    may_wait: bool,
    key: usize,
    store: &Store,
    intake: &Intake,
    hints: &mut Hints,
    cx: &Cx<'_>,
) -> Result<Classified, StoreError> {
    let mut classified = Classified::default();
    for id in ids {
        if intake.has_no_use_for(&id, cx.now, store, cx.state)? {
            continue;
        }
        match may_wait && hints.claims.is_of_another(&id, key, cx.now.mono) {
            true => classified.elsewhere.push(id),
            false => {
                hints.claims.claim(id, key, cx.now.mono);
                classified.needed.push(id);
            }
        }
    }
    Ok(classified)
}
