//! What tags repos and root events in the store, and may be tagged in turn (spec section 8, one generation further). Of one
//! repo there may be any number of events, so they are looked up and handed over a part at a time.

use std::collections::BTreeMap;

use crate::limits::{SEARCH_STEP_ENTRIES, THREAD_ENTRIES_MAX};
use crate::state::State;
use crate::store::{IdSearch, IdStep, Selected, Selection, Store, StoreError};
use crate::sync::agenda::pass::{ThreadPart, WantedThread};
use crate::sync::filters::{REPO_TAG_LETTERS, ROOT_TAG_LETTERS, Unit};
use crate::time::UnixTime;

/// The searches under way, by the key of the relay that asks.
#[derive(Debug, Default)]
pub(super) struct Threads(BTreeMap<usize, IdSearch>);

impl Threads {
    /// The next of the events that tag some repos or root events and are no root events themselves.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn next(
        &mut self,
        key: usize,
        wanted: &WantedThread<'_>,
        store: &Store,
        state: &State,
        now: UnixTime,
    ) -> Result<ThreadPart, StoreError> {
        let going_on = self.0.remove(&key).filter(|_| wanted.is_begun);
        let Some(mut search) = going_on.or_else(|| search(wanted, state)) else {
            return Ok(ThreadPart::Last(Vec::new()));
        };
        let mut ids = Vec::new();
        let mut note = |selected: Selected| {
            if state.root_id(&selected.id).is_none() {
                ids.push(selected.id);
            }
        };
        let step = search.step(store, now, SEARCH_STEP_ENTRIES, &mut note)?;
        ids.sort_unstable();
        ids.dedup();
        Ok(match step {
            IdStep::More => {
                self.0.insert(key, search);
                ThreadPart::More(ids)
            }
            IdStep::Whole => ThreadPart::Last(ids),
            IdStep::TooLarge => ThreadPart::TooLarge,
        })
    }

    /// A relay is forgotten.
    pub(super) fn forget(&mut self, key: usize) {
        self.0.remove(&key);
    }
}

fn search(wanted: &WantedThread<'_>, state: &State) -> Option<IdSearch> {
    let tagging = match wanted.unit {
        Unit::Repos(repos) => {
            Selection::tagging(&REPO_TAG_LETTERS, repos.iter().map(|repo| state.addr(*repo).to_string()), &[])
        }
        Unit::Roots(roots) => {
            Selection::tagging_events(&ROOT_TAG_LETTERS, roots.iter().map(|root| state.root_event_id(*root)), &[])
        }
        Unit::Announcements | Unit::Identifiers(_) | Unit::Everything => return None,
    };
    let tagging = tagging.since(wanted.since.unwrap_or(UnixTime::EPOCH));
    Some(IdSearch::new(tagging, THREAD_ENTRIES_MAX).as_it_goes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::event;
    use crate::sync::testing::{addr, announcement, settings};
    use nostr::event::EventId;
    use std::collections::BTreeSet;

    #[test]
    fn a_thread_is_what_tags_repos_and_root_events_but_not_the_root_events() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "repo", &["one"]), 1);
        let address = addr(1, "repo").to_string();
        let root = event(1, 1_621, 50, &[&["a", &address]], "");
        state.add_root(root.id, 2, &[addr(1, "repo")]);
        let id = root.id.to_hex();
        let old = event(2, 1_111, 10, &[&["E", &id]], "");
        let both = event(2, 1_630, 20, &[&["a", &address], &["e", &id]], "");
        let quote = event(2, 1, 30, &[&["q", &address]], "");
        let mut store = Store::in_memory();
        for event in [&root, &old, &both, &quote, &event(2, 1, 40, &[&["t", &address]], "")] {
            store.stage(event.clone()).unwrap();
        }
        store.commit().unwrap();
        let units = [
            Unit::Announcements,
            Unit::Repos([state.repo_id(&addr(1, "repo")).unwrap()].into()),
            Unit::Roots([state.root_id(&root.id).unwrap()].into()),
        ];
        let found = |unit: &Unit, since: Option<u64>| -> BTreeSet<EventId> {
            let since = since.map(UnixTime::from_secs);
            let wanted = WantedThread { unit, since, may_wait: false, is_begun: false };
            match Threads::default().next(0, &wanted, &store, &state, UnixTime::EPOCH).unwrap() {
                ThreadPart::Last(ids) => ids.into_iter().collect(),
                part => panic!("few: {part:?}"),
            }
        };
        assert_eq!(
            units.each_ref().map(|unit| found(unit, None)),
            [BTreeSet::new(), BTreeSet::from([both.id, quote.id]), BTreeSet::from([old.id, both.id]),]
        );
        assert_eq!(found(&units[2], Some(20)), BTreeSet::from([both.id]));
    }

    #[test]
    fn a_large_thread_comes_in_parts_and_from_the_beginning_when_it_is_begun_anew() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "repo", &["one"]), 1);
        let address = addr(1, "repo").to_string();
        let mut store = Store::in_memory();
        let count = SEARCH_STEP_ENTRIES as u64 / 2;
        for n in 0..count {
            store.stage(event(2, 1_111, n, &[&["a", &address], &["A", &address]], "")).unwrap();
        }
        store.commit().unwrap();
        let unit = Unit::Repos([state.repo_id(&addr(1, "repo")).unwrap()].into());
        let mut threads = Threads::default();
        let mut next = |is_begun| {
            let wanted = WantedThread { unit: &unit, since: None, may_wait: false, is_begun };
            threads.next(0, &wanted, &store, &state, UnixTime::EPOCH).unwrap()
        };
        let ThreadPart::More(first) = next(false) else { panic!("it is large") };
        assert!(next(true) != ThreadPart::More(first.clone()), "it goes on");
        assert_eq!(next(false), ThreadPart::More(first.clone()), "it begins anew");
        let mut all: BTreeSet<EventId> = first.into_iter().collect();
        let mut parts = 1;
        loop {
            parts += 1;
            match next(true) {
                ThreadPart::More(ids) => all.extend(ids),
                ThreadPart::Last(ids) => break all.extend(ids),
                ThreadPart::TooLarge => panic!("it is not too large"),
            }
        }
        assert_eq!((all.len() as u64, parts), (count, 6));
    }
}
