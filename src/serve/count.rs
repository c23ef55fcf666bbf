//! What a client wants counted (NIP-45): exactly, by the indexes, a step at a time.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::fault::shared;
use crate::limits::{CLIENT_COUNTS_MAX, CLIENT_ENTRIES_MAX, ENTRIES_PER_CANDIDATE};
use crate::protocol::filter::Filter;
use crate::store::{IdStep, PlaceSearch, Seq, Store, StoreError};
use crate::time::UnixTime;

/// Bytes of memory that a count takes beside its filters, about.
const COUNT_BYTES: usize = 256;

/// One client's COUNTs, in the order in which they came.
#[derive(Debug, Default)]
pub struct Counts {
    waiting: VecDeque<Count>,
}

#[derive(Debug)]
struct Count {
    name: String,
    filters: Vec<Rc<Filter>>,
    max_seq: Seq,
    /// The filter that is being counted.
    nth: usize,
    search: Option<PlaceSearch>,
    /// Entries that may still be looked at.
    left: usize,
    /// Where filters may overlap: what was counted already, a bit for each sequence number.
    seen: Option<Vec<u64>>,
    count: u64,
}

/// What came of a COUNT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// So many events.
    Events(u64),
    /// There is too much to look at.
    TooMuch,
}

impl Counts {
    /// Takes one in. `false`: too many wait.
    pub fn open(&mut self, name: &str, filters: Vec<Filter>, store: &Store) -> bool {
        if self.waiting.len() >= CLIENT_COUNTS_MAX {
            return false;
        }
        let filters: Vec<Rc<Filter>> =
            filters.into_iter().filter(|filter| !filter.matches_nothing()).map(Rc::new).collect();
        let max_seq = store.last_seq();
        let words = usize::try_from(max_seq / 64 + 1).unwrap_or(usize::MAX);
        let seen = (filters.len() > 1).then(|| vec![0; words]);
        let (nth, search, left, count) = (0, None, CLIENT_ENTRIES_MAX, 0);
        self.waiting.push_back(Count { name: name.to_owned(), filters, max_seq, nth, search, left, seen, count });
        true
    }

    /// Forgets those of this name.
    pub fn close(&mut self, name: &str) {
        self.waiting.retain(|count| count.name != name);
    }

    /// Whether any wait.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes of memory that they take, about.
    pub fn bytes(&self) -> usize {
        self.waiting.iter().map(Count::bytes).sum()
    }

    /// Goes on with the first, by what should cost about so many candidates of a query; its name and what came of it, if it
    /// has ended.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(
        &mut self,
        now: UnixTime,
        candidates: usize,
        store: &Store,
    ) -> Result<Option<(String, Counted)>, StoreError> {
        let Some(first) = self.waiting.front_mut() else { return Ok(None) };
        let Some(counted) = first.step(now, candidates * ENTRIES_PER_CANDIDATE, store)? else { return Ok(None) };
        Ok(self.waiting.pop_front().map(|count| (count.name, counted)))
    }
}

impl Count {
    fn bytes(&self) -> usize {
        let seen = self.seen.as_ref().map_or(0, |seen| size_of_val(&**seen));
        let search = self.search.as_ref().map_or(0, PlaceSearch::bytes);
        COUNT_BYTES + seen + search + self.filters.iter().map(|filter| filter.bytes()).sum::<usize>()
    }

    fn step(&mut self, now: UnixTime, entries: usize, store: &Store) -> Result<Option<Counted>, StoreError> {
        let Count { filters, max_seq, nth, search, left, seen, count, .. } = self;
        let Some(filter) = filters.get(*nth) else { return Ok(Some(Counted::Events(*count))) };
        let under_way = search.get_or_insert_with(|| PlaceSearch::of_count(Rc::clone(filter), *max_seq, *left));
        let mut take = |seq: Seq| *count += u64::from(seen.as_mut().is_none_or(|seen| is_new(seen, seq)));
        match shared(|| under_way.step(store, now, entries, &mut take))? {
            IdStep::More => Ok(None),
            IdStep::TooLarge => Ok(Some(Counted::TooMuch)),
            IdStep::Whole => {
                *left = under_way.left();
                (*nth, *search) = (*nth + 1, None);
                Ok((*nth == filters.len()).then_some(Counted::Events(*count)))
            }
        }
    }
}

/// Notes a sequence number; whether it was not noted before.
fn is_new(seen: &mut [u64], seq: Seq) -> bool {
    let (word, bit) = (seq / 64, 1 << (seq % 64));
    let Some(word) = usize::try_from(word).ok().and_then(|word| seen.get_mut(word)) else { return true };
    let is_new = *word & bit == 0;
    *word |= bit;
    is_new
}
