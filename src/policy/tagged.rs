//! Whether a stored announcement or root event tags an event by its id. The index of tags has whatever tags it, so anybody
//! can put as much before the one that counts as he likes: one judgement looks at a bounded part, and the next of the same
//! event goes on there. Until the end is reached the event counts as untagged, but not for good.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use nostr::event::EventId;

use crate::limits::{TAGGED_CANDIDATES_MAX, TAGGED_SEARCHES_MAX};
use crate::protocol::filter::Filter;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, ROOT_KINDS};
use crate::store::{Query, QueryStep, Store, StoreError};
use crate::time::UnixTime;

const LETTERS: &[u8] = b"eEq";

/// How far the searches are that were too long for one judgement: at most [`TAGGED_SEARCHES_MAX`].
#[derive(Debug, Default)]
pub struct Tagged {
    searches: BTreeMap<EventId, (u64, Search)>,
    /// By the number of the judgement that has left them.
    order: BTreeMap<u64, EventId>,
    left_so_far: u64,
    /// Candidates that the judgement may still look at.
    left: usize,
    cut_short: bool,
}

/// What is left of one search: letters that were not begun, and the one under way.
#[derive(Clone, Debug)]
struct Search {
    letters: &'static [u8],
    query: Option<Query>,
}

impl Tagged {
    /// The judgement of an event begins.
    pub fn begin(&mut self) {
        self.left = TAGGED_CANDIDATES_MAX;
        self.cut_short = false;
    }

    /// Whether a search of this judgement has not come to its end.
    pub fn was_cut_short(&self) -> bool {
        self.cut_short
    }

    /// Whether a stored announcement or root event tags the event `id`, as far as that was seen.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn has(&mut self, id: &EventId, store: &Store) -> Result<bool, StoreError> {
        let mut search = self.take(id).unwrap_or(Search { letters: LETTERS, query: None });
        let found = search.step(id, &mut self.left, store)?;
        if found.is_none() {
            self.cut_short = true;
            self.put(*id, search);
        }
        Ok(found.unwrap_or(false))
    }

    fn take(&mut self, id: &EventId) -> Option<Search> {
        let (nth, search) = self.searches.remove(id)?;
        self.order.remove(&nth);
        Some(search)
    }

    fn put(&mut self, id: EventId, search: Search) {
        if self.searches.len() == TAGGED_SEARCHES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.searches.remove(&oldest);
        }
        self.left_so_far += 1;
        self.order.insert(self.left_so_far, id);
        self.searches.insert(id, (self.left_so_far, search));
    }
}

impl Search {
    /// `None`: there is more to look at than is left.
    fn step(&mut self, id: &EventId, left: &mut usize, store: &Store) -> Result<Option<bool>, StoreError> {
        loop {
            let query = match &mut self.query {
                Some(query) => query,
                none => {
                    let Some((letter, rest)) = self.letters.split_first() else { return Ok(Some(false)) };
                    self.letters = rest;
                    none.insert(query_for(id, *letter, store))
                }
            };
            if *left == 0 {
                return Ok(None);
            }
            let mut found = false;
            let look = &mut |_, _: &str| {
                found = true;
                ControlFlow::Break(())
            };
            let step = store.query(query, UnixTime::EPOCH, STEP.min(*left), look)?;
            if found {
                return Ok(Some(true));
            }
            match step {
                QueryStep::Done => self.query = None,
                QueryStep::More => *left -= STEP.min(*left),
            }
        }
    }
}

/// Candidates of one step: of most events nothing is tagged, or little, and what was not looked at is not charged.
const STEP: usize = 100;

fn query_for(id: &EventId, letter: u8, store: &Store) -> Query {
    let kinds = ROOT_KINDS.into_iter().chain([ANNOUNCEMENT_KIND]);
    Query::new(Filter::of_tag(kinds, letter, &id.to_hex()), store.last_seq(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::event;

    /// A store in which so many comments tag an event, later than a root event does.
    fn store_with(comments: u64, letter: &str, id: &EventId) -> Store {
        let mut store = Store::in_memory();
        let tags: &[&[&str]] = &[&[letter, &id.to_hex()]];
        store.stage(event(1, 1_621, 5, tags, "")).unwrap();
        (0..comments).for_each(|n| drop(store.stage(event(2, 1_111, 10 + n, tags, ""))));
        store.commit().unwrap();
        store
    }

    #[test]
    fn a_search_goes_on_where_the_last_judgement_has_left_it() {
        let id = event(9, 1, 1, &[], "").id;
        for letter in ["e", "E", "q"] {
            let comments = 3 * TAGGED_CANDIDATES_MAX as u64;
            let store = store_with(comments, letter, &id);
            let mut tagged = Tagged::default();
            let mut judgements = 0;
            loop {
                tagged.begin();
                judgements += 1;
                let has = tagged.has(&id, &store).unwrap();
                assert_eq!(tagged.was_cut_short(), !has);
                if has {
                    break;
                }
            }
            assert_eq!(judgements, 4, "{letter}");
            assert_eq!(tagged.searches.len(), 0);
        }
    }

    #[test]
    fn one_judgement_looks_at_no_more_for_many_events_than_for_one() {
        let ids: Vec<EventId> = (0..20).map(|n| event(9, 1, n, &[], "").id).collect();
        let mut store = Store::in_memory();
        for n in 0..2 * TAGGED_CANDIDATES_MAX as u64 {
            let hex: Vec<String> = ids.iter().map(EventId::to_hex).collect();
            let tags: Vec<[&str; 2]> = hex.iter().map(|id| ["e", id.as_str()]).collect();
            let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
            store.stage(event(2, 1_111, n, &tags, "")).unwrap();
        }
        store.commit().unwrap();
        let mut tagged = Tagged::default();
        tagged.begin();
        assert!(ids.iter().all(|id| !tagged.has(id, &store).unwrap()));
        assert!(tagged.was_cut_short() && tagged.left == 0);
        for _ in 0..3 {
            tagged.begin();
            assert!(!tagged.has(&ids[0], &store).unwrap());
        }
        assert!(!tagged.was_cut_short(), "it has an end");
    }

    #[test]
    fn of_too_many_searches_the_oldest_is_forgotten() {
        let mut tagged = Tagged::default();
        let id = |n: usize| event(9, 1, n as u64, &[], "").id;
        let search = Search { letters: LETTERS, query: None };
        (0..=TAGGED_SEARCHES_MAX).for_each(|n| tagged.put(id(n), search.clone()));
        assert_eq!((tagged.searches.len(), tagged.order.len()), (TAGGED_SEARCHES_MAX, TAGGED_SEARCHES_MAX));
        assert!(
            tagged.take(&id(0)).is_none()
                && tagged.take(&id(1)).is_some()
                && tagged.order.len() < tagged.searches.len() + 1
        );
    }
}
