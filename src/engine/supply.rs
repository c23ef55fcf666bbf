//! What the relays' machines want to know and only the store and intake can tell.

use nostr::event::EventId;
use slab::Slab;

use super::Entry;
use super::authors::Authors;
use super::sets::{SetLookup, Sets};
use super::threads::Threads;
use crate::fault::shared;
use crate::intake::Intake;
use crate::intake::recent::Recent;
use crate::limits::{CLAIM_HOLDS_FOR, CLAIMED_IDS_MAX, RECONCILE_IDS_MAX};
use crate::store::{Store, StoreError};
use crate::sync::Cx;
use crate::sync::agenda::pass::{ThreadPart, WantedThread};
use crate::sync::session::{Classified, Found};
use crate::time::Instant;

/// What spares the relays and the store work. Nothing depends on it.
#[derive(Debug, Default)]
pub(super) struct Hints {
    authors: Authors,
    claims: Claims,
    sets: Sets,
    threads: Threads,
}

impl Hints {
    /// A relay is forgotten; another may get its key.
    pub(super) fn forget(&mut self, key: usize) {
        self.threads.forget(key);
    }

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

/// Answers one question of a relay's machine; says whether there was one. Where the answer takes longer than one turn of the
/// loop may, it comes `later`, and the question is to be looked at again after [`LOOKUP_PAUSE`](crate::limits::LOOKUP_PAUSE).
/// The machine is isolated meanwhile; what belongs to all relays is not.
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
    later: &mut bool,
    cx: &mut Cx<'_>,
) -> Result<bool, StoreError> {
    let relay = &mut relays[key].relay;
    if relay.wants_authors() {
        if let Some(authors) = shared(|| hints.authors.of(store, cx.now.mono))? {
            relay.add_authors(&authors, cx);
            return Ok(true);
        }
        *later = true;
    }
    let is_early = |wanted: &WantedThread<'_>| wanted.may_wait && store.batch_events() > 0;
    let waits = |wanted: &WantedThread<'_>| is_early(wanted) || (wanted.is_begun && *later);
    if let Some(wanted) = relay.wanted_thread(cx).filter(|wanted| !waits(wanted)) {
        let part = shared(|| hints.threads.next(key, &wanted, store, cx.state, cx.now.wall))?;
        *later |= matches!(part, ThreadPart::More(_));
        relay.add_thread(part, cx);
        return Ok(true);
    }
    if let Some(Found { of, ids, may_wait }) = relay.take_found(cx.now.mono) {
        let classified = shared(|| sift(ids, may_wait, key, store, intake, hints, cx))?;
        relay.add_needed(of, classified, cx);
        return Ok(true);
    }
    if let Some(wanted) = relays[key].relay.wanted_set() {
        let held: usize = relays.iter().map(|(_, entry)| entry.relay.ids_held()).sum();
        let ids = match RECONCILE_IDS_MAX.saturating_sub(held) {
            0 => SetLookup::TooLarge,
            room => shared(|| hints.sets.of(key, &wanted, store, cx.state, cx.now, room))?,
        };
        let ids = match ids {
            SetLookup::Pending => {
                *later = true;
                return Ok(false);
            }
            SetLookup::TooLarge => None,
            SetLookup::Whole(ids) => Some(ids),
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
