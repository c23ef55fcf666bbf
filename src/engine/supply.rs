//! What the relays' machines want to know and only the store and intake can tell.

use std::collections::BTreeSet;

use nostr::event::EventId;
use slab::Slab;

use super::Entry;
use crate::intake::Intake;
use crate::intake::recent::Recent;
use crate::limits::{CLAIM_HOLDS_FOR, CLAIMED_IDS_MAX, RECONCILE_IDS_MAX};
use crate::protocol::repo::{ANNOUNCEMENT_KIND, DELETION_KIND, ROOT_KINDS, STATE_KIND, TAGGING_KINDS};
use crate::state::State;
use crate::store::{IdSet, Selection, Store, StoreError};
use crate::sync::Cx;
use crate::sync::filters::Subject;
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
    if let Some((subject, names_kinds)) = relays[key].relay.wanted_set() {
        let selection = selection(subject, names_kinds, cx.state);
        let held: usize = relays.iter().map(|(_, entry)| entry.relay.ids_held()).sum();
        let room = RECONCILE_IDS_MAX.saturating_sub(held);
        let mut ids = Vec::new();
        let set = store.for_each_id(&selection, cx.now.wall, room, &mut |created_at, id| ids.push((created_at, id)))?;
        relays[key].relay.add_set((set == IdSet::Whole && room > 0).then_some(ids), cx);
        return Ok(true);
    }
    Ok(false)
}

/// What we hold of what a filter of ours asks for ([`Subject::unbounded`]).
fn selection(subject: &Subject, names_kinds: bool, state: &State) -> Selection {
    let kinds: &[u16] = if names_kinds { &TAGGING_KINDS } else { &[] };
    match subject {
        Subject::Announcements => Selection::of_kinds(&[ANNOUNCEMENT_KIND, STATE_KIND]),
        Subject::RootKinds => Selection::of_kinds(&ROOT_KINDS),
        Subject::Everything => Selection::all(),
        Subject::Identifiers(repos) => {
            let identifiers = repos.iter().map(|repo| &state.addr(*repo).identifier);
            Selection::tagging('d', identifiers, &[ANNOUNCEMENT_KIND, STATE_KIND])
        }
        Subject::RepoTag(letter, repos) => {
            Selection::tagging(*letter, repos.iter().map(|repo| state.addr(*repo).to_string()), kinds)
        }
        Subject::RootTag(letter, roots) => {
            Selection::tagging_events(*letter, roots.iter().map(|root| state.root_event_id(*root)), kinds)
        }
        Subject::Deletions(authors) => Selection::of_kinds_by(&[DELETION_KIND], authors.iter().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{author, event};
    use crate::store::{Query, QueryStep};
    use crate::sync::filters::{Unit, chunk};
    use crate::sync::testing::{addr, announcement, root_id, settings};
    use crate::time::UnixTime;
    use nostr::filter::Filter;
    use std::ops::ControlFlow;

    /// Announcements, states, root events, comments of all letters, notes and deletions about `repos` and `roots`.
    fn store_about(repos: &[String], roots: &[String]) -> Store {
        let mut store = Store::in_memory().with_unindexed_max(60);
        let kinds = [30_617, 30_618, 1_617, 1_621, 1_111, 1, 5];
        for n in 0..200_u64 {
            let pick = |of: &[String], step: u64| of[(n / step) as usize % of.len()].clone();
            let letters = ["a", "A", "q", "e", "E", "q", "d", "t"];
            let letter = letters[n as usize % letters.len()];
            let value = match n as usize % letters.len() {
                0..=2 => pick(repos, 3),
                3..=5 => pick(roots, 5),
                _ => format!("repo-{}", n % 3),
            };
            let kind = kinds[n as usize % kinds.len()];
            store.stage(event(1 + (n % 3) as u8, kind, n, &[&[letter, &value]], "")).unwrap();
        }
        store.commit().unwrap();
        store
    }

    fn asked(store: &Store, filter: &str) -> BTreeSet<EventId> {
        let filter: Filter = serde_json::from_str(filter).unwrap();
        let mut query = Query::new(filter, store.last_seq(), usize::MAX);
        let mut found = BTreeSet::new();
        let mut take = |_, json: &str| {
            found.insert(nostr::event::Event::from_json(json).unwrap().id);
            ControlFlow::Continue(())
        };
        let step = store.query(&mut query, UnixTime::EPOCH, usize::MAX, &mut take).unwrap();
        assert_eq!(step, QueryStep::Done);
        found
    }

    fn selected(store: &Store, selection: &Selection) -> BTreeSet<EventId> {
        let mut found = BTreeSet::new();
        let set = store.for_each_id(selection, UnixTime::EPOCH, usize::MAX, &mut |_, id| _ = found.insert(id)).unwrap();
        assert_eq!(set, IdSet::Whole);
        found
    }

    #[test]
    fn what_is_selected_is_what_the_relay_is_asked_for() {
        let mut state = State::new(settings());
        for n in 0..4 {
            state.set_announcement(&announcement(1, &format!("repo-{n}"), &["one"]), n + 1);
        }
        for n in 0..6 {
            state.add_root(root_id(n), u64::from(n) + 10, &[addr(1, "repo-0")]);
        }
        let repos: Vec<_> = (0..4).map(|n| state.repo_id(&addr(1, &format!("repo-{n}"))).unwrap()).collect();
        let roots: Vec<_> = (0..6).map(|n| state.root_id(&root_id(n)).unwrap()).collect();
        let addresses: Vec<String> = repos.iter().map(|repo| state.addr(*repo).to_string()).collect();
        let ids: Vec<String> = roots.iter().map(|root| state.root_event_id(*root).to_hex()).collect();
        let store = store_about(&addresses, &ids);

        let repos = chunk(repos, 2).swap_remove(0);
        let units = [
            Unit::Announcements,
            Unit::Identifiers(repos.clone()),
            Unit::Everything,
            Unit::Repos(repos),
            Unit::Roots(chunk(roots, 4).swap_remove(0)),
        ];
        let mut subjects: Vec<Subject> = units.iter().flat_map(Unit::subjects).collect();
        subjects.extend([Subject::RootKinds, Subject::Deletions([author(1), author(2)].into())]);
        for subject in &subjects {
            for names_kinds in [false, true] {
                let asked = asked(&store, &subject.unbounded(names_kinds, &state));
                assert!(!asked.is_empty(), "{subject:?}");
                let selection = selection(subject, names_kinds, &state);
                assert_eq!(selected(&store, &selection), asked, "{subject:?} {names_kinds}");
            }
        }
    }
}
