//! The sets of ids that reconciliations begin with (NIP-77): what we hold of what a filter asks for.
//!
//! Of root events there are many, few of them have anything to them, and each is asked about with several letters on
//! several relays at about the same time. So what tags a chunk of them is looked up for all letters at once, and kept for a
//! moment. A set that lacks what came since is as good: what the relay lists is compared with what is held when it does.

use std::collections::VecDeque;
use std::rc::Rc;

use nostr::event::EventId;

use crate::limits::{SET_KEPT_FOR, SET_KEPT_IDS_MAX, SETS_KEPT_MAX, THREAD_ENTRIES_MAX};
use crate::protocol::repo::{ANNOUNCEMENT_KIND, DELETION_KIND, ROOT_KINDS, STATE_KIND, TAGGING_KINDS};
use crate::state::{RootId, State};
use crate::store::{IdSet, Selected, Selection, Store, StoreError};
use crate::sync::filters::{REPO_TAG_LETTERS, ROOT_TAG_LETTERS, Subject, Unit, identifier};
use crate::sync::session::{WantedSet, WantedThread};
use crate::time::{Instant, Now, UnixTime};

/// What was looked up lately about root events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Sets(VecDeque<Kept>);

/// What tags some root events.
#[derive(Debug)]
struct Kept {
    roots: Rc<[RootId]>,
    names_kinds: bool,
    since: Option<UnixTime>,
    at: Instant,
    held: Vec<Selected>,
}

impl Sets {
    /// The ids of a set; `None` if more than `max` would have to be looked at.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn of(
        &mut self,
        wanted: &WantedSet<'_>,
        store: &Store,
        state: &State,
        now: Now,
        max: usize,
    ) -> Result<Option<Vec<(UnixTime, EventId)>>, StoreError> {
        let look_up = || -> Result<_, StoreError> {
            let mut held = Vec::new();
            let selection = selection(wanted.subject, wanted.names_kinds, state);
            let selection = selection.since(wanted.since.unwrap_or(UnixTime::EPOCH));
            let set = store.for_each_id(&selection, now.wall, max, &mut |selected| held.push(selected))?;
            Ok((set == IdSet::Whole).then_some(held))
        };
        let Subject::RootTag(letter, roots) = wanted.subject else {
            return Ok(look_up()?.map(|held| of_letter(&held, None)));
        };
        self.0.retain(|kept| now.mono.since(kept.at) <= SET_KEPT_FOR);
        let is_it =
            |kept: &Kept| kept.roots == *roots && kept.names_kinds == wanted.names_kinds && kept.since == wanted.since;
        if let Some(kept) = self.0.iter().position(is_it) {
            if !wanted.again {
                return Ok(Some(of_letter(&self.0[kept].held, Some(*letter))));
            }
            self.0.remove(kept);
        }
        let Some(held) = look_up()? else { return Ok(None) };
        let ids = of_letter(&held, Some(*letter));
        if held.len() <= SET_KEPT_IDS_MAX {
            if self.0.len() == SETS_KEPT_MAX {
                self.0.pop_front();
            }
            let WantedSet { names_kinds, since, .. } = *wanted;
            self.0.push_back(Kept { roots: roots.clone(), names_kinds, since, at: now.mono, held });
        }
        Ok(Some(ids))
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

/// The events that tag some repos or root events and are no root events themselves: what tags them in turn belongs here, too.
/// `None` if too many would have to be looked at.
///
/// # Errors
///
/// If the store cannot be read.
pub(super) fn thread_of(
    wanted: &WantedThread<'_>,
    store: &Store,
    state: &State,
    now: UnixTime,
) -> Result<Option<Vec<EventId>>, StoreError> {
    let tagging = match wanted.unit {
        Unit::Repos(repos) => {
            Selection::tagging(&REPO_TAG_LETTERS, repos.iter().map(|repo| state.addr(*repo).to_string()), &[])
        }
        Unit::Roots(roots) => {
            Selection::tagging_events(&ROOT_TAG_LETTERS, roots.iter().map(|root| state.root_event_id(*root)), &[])
        }
        Unit::Announcements | Unit::Identifiers(_) | Unit::Everything => return Ok(Some(Vec::new())),
    };
    let mut ids = Vec::new();
    let mut note = |selected: Selected| {
        if state.root_id(&selected.id).is_none() {
            ids.push(selected.id);
        }
    };
    let tagging = tagging.since(wanted.since.unwrap_or(UnixTime::EPOCH));
    let set = store.for_each_id(&tagging, now, THREAD_ENTRIES_MAX, &mut note)?;
    ids.sort_unstable();
    ids.dedup();
    Ok((set == IdSet::Whole).then_some(ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{author, event};
    use crate::store::{Query, QueryStep};
    use crate::sync::filters::{THREAD_TAG_LETTERS, chunk};
    use crate::sync::testing::{addr, announcement, root_id, settings};
    use crate::time::Duration;
    use nostr::filter::Filter;
    use std::collections::BTreeSet;
    use std::ops::ControlFlow;

    /// Announcements, states, root events, comments of all letters, notes and deletions about `repos` and `roots`.
    fn store_about(repos: &[String], roots: &[String]) -> Store {
        let mut store = Store::in_memory().with_unindexed_max(60);
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
                let ids = sets.of(&wanted, &store, &state, NOW, usize::MAX).unwrap().expect("all of them");
                assert_eq!(
                    ids.into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>(),
                    asked,
                    "{subject:?} {names_kinds}"
                );
            }
        }
    }

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
            let wanted = WantedThread { unit, since: since.map(UnixTime::from_secs), may_wait: false };
            thread_of(&wanted, &store, &state, UnixTime::EPOCH).unwrap().expect("few").into_iter().collect()
        };
        assert_eq!(
            units.each_ref().map(|unit| found(unit, None)),
            [BTreeSet::new(), BTreeSet::from([both.id, quote.id]), BTreeSet::from([old.id, both.id]),]
        );
        assert_eq!(found(&units[2], Some(20)), BTreeSet::from([both.id]));
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
            sets.of(&wanted, store, &state, now, 1_000).unwrap().map(|ids| ids.len())
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
            sets.of(&wanted, &Store::in_memory(), &state, NOW, 1_000).unwrap();
        }
        assert_eq!(sets.0.len(), SETS_KEPT_MAX);

        let mut store = Store::in_memory();
        for n in 0..=SET_KEPT_IDS_MAX as u64 {
            store.stage(event(1, 1_111, n, &[&["e", &root_id(1).to_hex()]], "")).unwrap();
        }
        store.commit().unwrap();
        let subject = Subject::RootTag('e', [state.root_id(&root_id(1)).unwrap()].into());
        let wanted = WantedSet { subject: &subject, names_kinds: false, since: None, again: true };
        let ids = sets.of(&wanted, &store, &state, NOW, 10_000).unwrap().expect("all of them");
        assert_eq!((ids.len(), sets.0.len()), (SET_KEPT_IDS_MAX + 1, SETS_KEPT_MAX - 1), "the old one is gone, too");
        assert_eq!(
            sets.of(&wanted, &store, &state, NOW, SET_KEPT_IDS_MAX).unwrap(),
            None,
            "more than may be looked at"
        );
    }
}
