//! The sets of ids that reconciliations begin with (NIP-77): what we hold of what a filter asks for.
//!
//! Of root events there are many, few of them have anything to them, and each is asked about with several letters on
//! several relays at about the same time. So what tags a chunk of them is looked up for all letters at once, and kept for a
//! moment. A set that lacks what came since is as good: what the relay lists is compared with what is held when it does.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use nostr::event::EventId;

use crate::limits::{
    LOOKUP_PAUSE, SEARCH_FIRST_ENTRIES, SEARCH_STEP_ENTRIES, SET_KEPT_FOR, SET_KEPT_IDS_MAX, SETS_KEPT_MAX,
};
use crate::protocol::repo::{ANNOUNCEMENT_KIND, DELETION_KIND, ROOT_KINDS, STATE_KIND, TAGGING_KINDS};
use crate::state::{RootId, State};
use crate::store::{IdSearch, IdStep, Selected, Selection, Store, StoreError};
use crate::sync::filters::{ROOT_TAG_LETTERS, Subject, identifier};
use crate::sync::session::WantedSet;
use crate::time::{Instant, Now, UnixTime};

/// What was looked up lately about root events, oldest first, and what is being looked up.
#[derive(Debug, Default)]
pub(super) struct Sets {
    kept: VecDeque<Kept>,
    /// By the key of the relay that asks.
    open: BTreeMap<usize, Open>,
    /// No search goes on before this.
    next_at: Instant,
}

/// What tags some root events.
#[derive(Debug)]
struct Kept {
    roots: Rc<[RootId]>,
    names_kinds: bool,
    since: Option<UnixTime>,
    at: Instant,
    held: Vec<Selected>,
}

/// A search that takes several steps.
#[derive(Debug)]
struct Open {
    subject: Subject,
    names_kinds: bool,
    since: Option<UnixTime>,
    search: IdSearch,
    held: Vec<Selected>,
    asked_at: Instant,
}

/// What a look for a set has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SetLookup<T> {
    /// It takes longer: ask again after [`LOOKUP_PAUSE`].
    Pending,
    /// There is more than may be looked at.
    TooLarge,
    /// All of it.
    Whole(Vec<T>),
}

impl Sets {
    /// The ids of a set that the relay `key` is to be told; no more than `max` are looked at.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn of(
        &mut self,
        key: usize,
        wanted: &WantedSet<'_>,
        store: &Store,
        state: &State,
        now: Now,
        max: usize,
    ) -> Result<SetLookup<(UnixTime, EventId)>, StoreError> {
        let Subject::RootTag(letter, roots) = wanted.subject else {
            return Ok(self.look_up(key, wanted, store, state, now, max)?.map(|held| of_letter(&held, None)));
        };
        self.kept.retain(|kept| now.mono.since(kept.at) <= SET_KEPT_FOR);
        let is_it =
            |kept: &Kept| kept.roots == *roots && kept.names_kinds == wanted.names_kinds && kept.since == wanted.since;
        if let Some(kept) = self.kept.iter().position(is_it) {
            if !wanted.again {
                return Ok(SetLookup::Whole(of_letter(&self.kept[kept].held, Some(*letter))));
            }
            self.kept.remove(kept);
        }
        let looked_up = self.look_up(key, wanted, store, state, now, max)?;
        Ok(looked_up.map(|held| {
            let ids = of_letter(&held, Some(*letter));
            if held.len() <= SET_KEPT_IDS_MAX {
                if self.kept.len() == SETS_KEPT_MAX {
                    self.kept.pop_front();
                }
                let WantedSet { names_kinds, since, .. } = *wanted;
                self.kept.push_back(Kept { roots: roots.clone(), names_kinds, since, at: now.mono, held });
            }
            ids
        }))
    }

    /// Goes on looking for a set, or begins. The first step is short and comes at once; of all that go on, one does at a
    /// time, with a pause between.
    fn look_up(
        &mut self,
        key: usize,
        wanted: &WantedSet<'_>,
        store: &Store,
        state: &State,
        now: Now,
        max: usize,
    ) -> Result<SetLookup<Selected>, StoreError> {
        self.open.retain(|_, open| now.mono.since(open.asked_at) <= SET_KEPT_FOR);
        let (mut open, entries) = match self.open.remove(&key).filter(|open| open.is_for(wanted)) {
            Some(mut open) => {
                open.asked_at = now.mono;
                if now.mono < self.next_at {
                    self.open.insert(key, open);
                    return Ok(SetLookup::Pending);
                }
                (open, SEARCH_STEP_ENTRIES)
            }
            None => (Open::new(wanted, state, now.mono, max), SEARCH_FIRST_ENTRIES),
        };
        let Open { search, held, .. } = &mut open;
        match search.step(store, now.wall, entries, &mut |selected| held.push(selected))? {
            IdStep::More => {
                self.next_at = now.mono + LOOKUP_PAUSE;
                self.open.insert(key, open);
                Ok(SetLookup::Pending)
            }
            IdStep::Whole => Ok(SetLookup::Whole(open.held)),
            IdStep::TooLarge => Ok(SetLookup::TooLarge),
        }
    }
}

impl Open {
    fn new(wanted: &WantedSet<'_>, state: &State, now: Instant, max: usize) -> Open {
        let WantedSet { subject, names_kinds, since, .. } = *wanted;
        let selection = selection(subject, names_kinds, state).since(since.unwrap_or(UnixTime::EPOCH));
        let search = IdSearch::new(selection, max);
        Open { subject: subject.clone(), names_kinds, since, search, held: Vec::new(), asked_at: now }
    }

    fn is_for(&self, wanted: &WantedSet<'_>) -> bool {
        let WantedSet { subject, names_kinds, since, .. } = *wanted;
        self.subject == *subject && self.names_kinds == names_kinds && self.since == since
    }
}

impl<T> SetLookup<T> {
    fn map<U>(self, of: impl FnOnce(Vec<T>) -> Vec<U>) -> SetLookup<U> {
        match self {
            SetLookup::Pending => SetLookup::Pending,
            SetLookup::TooLarge => SetLookup::TooLarge,
            SetLookup::Whole(ids) => SetLookup::Whole(of(ids)),
        }
    }
}

/// What was found by a letter; all, if there is none.
fn of_letter(held: &[Selected], letter: Option<char>) -> Vec<(UnixTime, EventId)> {
    let wanted = held.iter().filter(|selected| letter.is_none() || selected.letter == letter);
    wanted.map(|selected| (selected.created_at, selected.id)).collect()
}

/// What we hold of what a filter of ours asks for ([`Subject::whole`]); of what tags root events, for every letter.
fn selection(subject: &Subject, names_kinds: bool, state: &State) -> Selection {
    let kinds: &[u16] = if names_kinds { &TAGGING_KINDS } else { &[] };
    match subject {
        Subject::Announcements => Selection::of_kinds(&[ANNOUNCEMENT_KIND, STATE_KIND]),
        Subject::RootKinds => Selection::of_kinds(&ROOT_KINDS),
        Subject::Everything => Selection::all(),
        Subject::Identifiers(names) => {
            let identifiers = names.iter().map(|forks| identifier(forks, state));
            Selection::tagging(&['d'], identifiers, &[ANNOUNCEMENT_KIND, STATE_KIND])
        }
        Subject::RepoTag(letter, repos) => {
            Selection::tagging(&[*letter], repos.iter().map(|repo| state.addr(*repo).to_string()), kinds)
        }
        Subject::RootTag(_, roots) => {
            Selection::tagging_events(&ROOT_TAG_LETTERS, roots.iter().map(|root| state.root_event_id(*root)), kinds)
        }
        Subject::ThreadTag(letter, ids) => Selection::tagging_events(&[*letter], ids.iter(), kinds),
        Subject::DeletionsOf(of) => {
            Selection::tagging(&['k'], of.iter().map(|kind| kind.to_string()), &[DELETION_KIND])
        }
        Subject::Deletions(authors) => Selection::of_kinds_by(&[DELETION_KIND], authors.iter().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::filter::Filter;
    use crate::store::testing::{author, event};
    use crate::store::{Query, QueryStep};
    use crate::sync::filters::{THREAD_TAG_LETTERS, Unit, chunk};
    use crate::sync::testing::{addr, announcement, root_id, settings};
    use crate::time::Duration;
    use std::collections::BTreeSet;
    use std::ops::ControlFlow;

    /// Announcements, states, root events, comments of all letters, notes and deletions about `repos` and `roots`.
    fn store_about(repos: &[String], roots: &[String]) -> Store {
        let mut store = Store::in_memory().with_memtable_max(60);
        let kinds = [30_617, 30_618, 1_617, 1_621, 1_111, 1, 5];
        for n in 0..200_u64 {
            let pick = |of: &[String], step: u64| of[(n / step) as usize % of.len()].clone();
            let letters = ["a", "A", "q", "e", "E", "q", "d", "k"];
            let letter = letters[n as usize % letters.len()];
            let value = match n as usize % letters.len() {
                0..=2 => pick(repos, 3),
                3..=5 => pick(roots, 5),
                6 => format!("repo-{}", n % 3),
                _ => (1_111 + n % 3).to_string(),
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

    fn whole<T>(found: SetLookup<T>) -> Option<Vec<T>> {
        match found {
            SetLookup::Whole(ids) => Some(ids),
            SetLookup::TooLarge => None,
            SetLookup::Pending => panic!("it takes one step"),
        }
    }

    const NOW: Now = Now { mono: Instant::ZERO, wall: UnixTime::EPOCH };

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
            Unit::Identifiers(repos.iter().map(|repo| [*repo].into()).collect()),
            Unit::Everything,
            Unit::Repos(repos),
            Unit::Roots(chunk(roots, 4).swap_remove(0)),
        ];
        let mut subjects: Vec<Subject> = units.iter().flat_map(Unit::subjects).collect();
        subjects.extend([Subject::RootKinds, Subject::Deletions([author(1), author(2)].into())]);
        subjects.extend(THREAD_TAG_LETTERS.map(|letter| Subject::ThreadTag(letter, [root_id(0), root_id(3)].into())));
        subjects.push(Subject::DeletionsOf([1_111].into()));
        let mut sets = Sets::default();
        for subject in &subjects {
            for (names_kinds, since) in [(false, None), (true, None), (false, Some(90)), (true, Some(90))] {
                let since = since.map(UnixTime::from_secs);
                let asked = asked(&store, &subject.whole(since, names_kinds, &state));
                assert!(!asked.is_empty(), "{subject:?} since {since:?}");
                let wanted = WantedSet { subject, names_kinds, since, again: false };
                let ids = whole(sets.of(0, &wanted, &store, &state, NOW, usize::MAX).unwrap()).expect("all of them");
                assert_eq!(
                    ids.into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>(),
                    asked,
                    "{subject:?} {names_kinds}"
                );
            }
        }
    }

    #[test]
    fn a_large_set_takes_several_steps_and_others_wait_their_time_but_begin_at_once() {
        let mut store = Store::in_memory().with_memtable_max(0);
        let count = SEARCH_FIRST_ENTRIES + 2 * SEARCH_STEP_ENTRIES + 5;
        (0..count).for_each(|n| drop(store.stage(event(1, 1_111, n as u64, &[], "")).unwrap()));
        store.commit().unwrap();
        (0..3).for_each(|n| drop(store.stage(event(1, 30_617, n, &[&["d", &n.to_string()]], "")).unwrap()));
        store.commit().unwrap();
        let (state, mut sets) = (State::new(settings()), Sets::default());
        let mut ask = |key, subject: &Subject, at: u64| {
            let wanted = WantedSet { subject, names_kinds: false, since: None, again: false };
            let now = Now { mono: Instant::ZERO + LOOKUP_PAUSE.saturating_mul(at), ..NOW };
            match sets.of(key, &wanted, &store, &state, now, 1 << 20).unwrap() {
                SetLookup::Whole(ids) => Some(ids.into_iter().collect::<BTreeSet<_>>().len()),
                SetLookup::Pending => None,
                SetLookup::TooLarge => panic!("it is not too large"),
            }
        };
        assert_eq!(ask(0, &Subject::Everything, 0), None);
        assert_eq!(ask(0, &Subject::Everything, 0), None, "it waits, and is not looked at again");
        assert_eq!(ask(1, &Subject::Announcements, 0), Some(3), "a small one is there at once");
        assert_eq!((ask(0, &Subject::Everything, 1), ask(0, &Subject::Everything, 2)), (None, None));
        assert_eq!(ask(0, &Subject::Everything, 3), Some(count + 3));
    }

    #[test]
    fn what_tags_root_events_is_looked_up_once_for_all_letters_and_relays() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "repo", &["one"]), 1);
        for n in 0..3 {
            state.add_root(root_id(n), u64::from(n) + 10, &[addr(1, "repo")]);
        }
        let roots: Vec<_> = (0..3).map(|n| state.root_id(&root_id(n)).unwrap()).collect();
        let tagging = |n: u8, letter: &str| event(1, 1_111, n.into(), &[&[letter, &root_id(0).to_hex()]], "");
        let mut store = Store::in_memory();
        store.stage(tagging(1, "e")).unwrap();
        store.commit().unwrap();

        let mut sets = Sets::default();
        let mut count = |store: &Store, letter, roots: &[_], again, secs| {
            let subject = Subject::RootTag(letter, roots.into());
            let wanted = WantedSet { subject: &subject, names_kinds: false, since: None, again };
            let now = Now { mono: Instant::ZERO + Duration::from_secs(secs), ..NOW };
            whole(sets.of(0, &wanted, store, &state, now, 1_000).unwrap()).map(|ids| ids.len())
        };
        assert_eq!(count(&store, 'e', &roots, false, 0), Some(1));
        store.stage(tagging(2, "e")).unwrap();
        store.stage(tagging(3, "E")).unwrap();
        store.commit().unwrap();
        let kept = SET_KEPT_FOR.as_micros() / 1_000_000;
        assert_eq!(count(&store, 'E', &roots, false, kept), Some(0), "as it was");
        assert_eq!(count(&store, 'E', &roots[1..], false, kept), Some(0), "of others, which are not tagged");
        assert_eq!(count(&store, 'E', &roots, true, kept), Some(1), "what came since is asked for");
        assert_eq!(count(&store, 'e', &roots, false, kept), Some(2), "and told to all");
        store.stage(tagging(4, "q")).unwrap();
        store.commit().unwrap();
        assert_eq!(count(&store, 'q', &roots, false, 2 * kept), Some(0));
        assert_eq!(count(&store, 'q', &roots, false, 2 * kept + 1), Some(1), "after a while it is looked up anew");
    }

    #[test]
    fn no_more_is_kept_than_some_chunks_of_few_ids() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "repo", &["one"]), 1);
        let mut sets = Sets::default();
        for n in 0..=SETS_KEPT_MAX as u32 {
            state.add_root(root_id(n), u64::from(n) + 10, &[addr(1, "repo")]);
            let subject = Subject::RootTag('e', [state.root_id(&root_id(n)).unwrap()].into());
            let wanted = WantedSet { subject: &subject, names_kinds: false, since: None, again: false };
            sets.of(0, &wanted, &Store::in_memory(), &state, NOW, 1_000).unwrap();
        }
        assert_eq!(sets.kept.len(), SETS_KEPT_MAX);

        let mut store = Store::in_memory();
        for n in 0..=SET_KEPT_IDS_MAX as u64 {
            store.stage(event(1, 1_111, n, &[&["e", &root_id(1).to_hex()]], "")).unwrap();
        }
        store.commit().unwrap();
        let subject = Subject::RootTag('e', [state.root_id(&root_id(1)).unwrap()].into());
        let wanted = WantedSet { subject: &subject, names_kinds: false, since: None, again: true };
        let ids = whole(sets.of(0, &wanted, &store, &state, NOW, 10_000).unwrap()).expect("all of them");
        assert_eq!((ids.len(), sets.kept.len()), (SET_KEPT_IDS_MAX + 1, SETS_KEPT_MAX - 1), "the old one is gone, too");
        assert_eq!(
            sets.of(0, &wanted, &store, &state, NOW, SET_KEPT_IDS_MAX).unwrap(),
            SetLookup::TooLarge,
            "more than may be looked at"
        );
    }
}
