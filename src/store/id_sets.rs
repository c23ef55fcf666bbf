//! The set of ids that a filter of a client selects, for reconciliations that others begin (NIP-77).
//!
//! `places` says where its events stand; a place has but the beginning of an id, so the table of ids has the rest. Places
//! are in the order that reconciliations want, from its end, and so each id goes to where it belongs: a million of them
//! are never sorted in one piece.

use super::places::PlaceSearch;
use super::schema::{self, Place};
use super::search::{IdStep, expired};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError};
use crate::protocol::filter::{Bytes32, Filter};
use crate::time::UnixTime;
use nostr::event::EventId;
use std::rc::Rc;

/// Items of one block of a set.
pub const SET_BLOCK_ITEMS: usize = 512;
/// Of so many events one is wanted, at least, for a walk over all ids to be cheaper than looking up each.
const SCAN_WORTH: u64 = 8;
/// Entries that looking up an id costs as much as.
const LOOK_COST: usize = 8;
/// In place of an id that was not found yet.
const UNKNOWN: Bytes32 = [0; 32];

/// An event in a set, in the order of NIP-77: by time, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetItem {
    /// The event's `created_at`, seconds since 1970.
    pub created_at: u64,
    /// Its id.
    pub id: Bytes32,
}

/// A search for the set of a filter, as it stands at one moment; what is removed meanwhile may be missing.
#[derive(Debug)]
pub struct SetSearch {
    places: PlaceSearch,
    /// Where the events stand, newest first.
    noted: Vec<Place>,
    /// Room for the items, oldest first.
    laid: Vec<Vec<SetItem>>,
    /// Items that are in order.
    blocks: Vec<Rc<[SetItem]>>,
    ids_max: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Places are noted.
    Noting,
    /// Each gets room for its id; so many have it.
    Laying(usize),
    /// All ids are gone through, after this one.
    Scanning(Option<EventId>),
    /// The id of each place is looked up, from this one on.
    Looking(usize),
    /// Blocks are put in order, from this one on.
    Sealing(usize),
    Over(IdStep),
}

impl SetSearch {
    /// One that gives at most `ids_max` ids, and looks at no more than `entries_max` index entries to find them.
    pub fn new(filter: Rc<Filter>, max_seq: Seq, entries_max: usize, ids_max: usize) -> SetSearch {
        let places = PlaceSearch::of_set(filter, max_seq, entries_max);
        SetSearch { places, noted: Vec::new(), laid: Vec::new(), blocks: Vec::new(), ids_max, stage: Stage::Noting }
    }

    /// Bytes of memory that it takes beside the filter.
    pub fn bytes(&self) -> usize {
        let items = self.laid.len() * SET_BLOCK_ITEMS;
        self.places.bytes() + self.noted.capacity() * size_of::<Place>() + items * size_of::<SetItem>()
    }

    /// Bytes of memory that what it has found so far will take as a set, about.
    pub fn set_bytes(&self) -> usize {
        self.noted.len().max(self.laid.len() * SET_BLOCK_ITEMS) * size_of::<SetItem>()
    }

    /// Goes on by about so many index entries.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(&mut self, store: &Store, now: UnixTime, entries: usize) -> Result<IdStep, StoreError> {
        let snapshot = store.snapshot()?;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Over(IdStep::TooLarge)) {
            Stage::Noting => self.note(snapshot, now, entries)?,
            Stage::Laying(next) => self.lay(snapshot, next, entries)?,
            Stage::Scanning(after) => self.scan(snapshot, after, entries)?,
            Stage::Looking(next) => self.look(snapshot, next, entries)?,
            Stage::Sealing(next) => self.seal(next, entries),
            over @ Stage::Over(_) => over,
        };
        Ok(if let Stage::Over(end) = self.stage { end } else { IdStep::More })
    }

    /// The set of a search that is whole: oldest first, in blocks of at most [`SET_BLOCK_ITEMS`], none of them empty.
    pub fn into_blocks(self) -> Vec<Rc<[SetItem]>> {
        debug_assert!(matches!(self.stage, Stage::Over(IdStep::Whole)), "the search has come to its end");
        self.blocks
    }

    fn note(&mut self, snapshot: &Snapshot, now: UnixTime, entries: usize) -> Result<Stage, StoreError> {
        let noted = &mut self.noted;
        let step =
            self.places.step_places(snapshot, &expired(snapshot, now)?, entries, &mut |place| noted.push(place))?;
        Ok(match step {
            _ if self.noted.len() > self.ids_max => Stage::Over(IdStep::TooLarge),
            IdStep::TooLarge => Stage::Over(IdStep::TooLarge),
            IdStep::More => Stage::Noting,
            IdStep::Whole if self.noted.is_empty() => Stage::Over(IdStep::Whole),
            IdStep::Whole => Stage::Laying(0),
        })
    }

    fn lay(&mut self, snapshot: &Snapshot, mut next: usize, entries: usize) -> Result<Stage, StoreError> {
        let end = self.noted.len().min(next + 2 * entries.max(SET_BLOCK_ITEMS));
        while next < end {
            let items = SET_BLOCK_ITEMS.min(self.noted.len() - next);
            self.laid.push(vec![SetItem { created_at: 0, id: UNKNOWN }; items]);
            next += items;
        }
        if next < self.noted.len() {
            return Ok(Stage::Laying(next));
        }
        // First those that wait to be written, few enough to be gone through at once: what is not among them is in the table
        // from now on.
        for (id, seq, created_at) in snapshot.waiting_ids() {
            self.give(&id, seq, created_at);
        }
        let is_worth_a_scan = self.noted.len() as u64 * SCAN_WORTH >= snapshot.ids_len()?;
        Ok(if is_worth_a_scan { Stage::Scanning(None) } else { Stage::Looking(0) })
    }

    fn scan(&mut self, snapshot: &Snapshot, after: Option<EventId>, entries: usize) -> Result<Stage, StoreError> {
        let mut last = after;
        let mut left = entries.max(1);
        for entry in snapshot.written_ids(after.as_ref())? {
            let (id, seq, created_at) = entry?;
            if left == 0 {
                return Ok(Stage::Scanning(last));
            }
            left -= 1;
            last = Some(id);
            self.give(&id, seq, created_at);
        }
        Ok(self.begin_to_seal())
    }

    fn look(&mut self, snapshot: &Snapshot, mut next: usize, entries: usize) -> Result<Stage, StoreError> {
        let end = self.noted.len().min(next + entries.div_ceil(LOOK_COST).max(1));
        while next < end {
            if self.item(next).id == UNKNOWN {
                let place = self.noted[next];
                if let Some((id, created_at)) = snapshot.id_at(&place)? {
                    *self.item(next) = SetItem { created_at, id: id.to_bytes() };
                }
            }
            next += 1;
        }
        Ok(if next == self.noted.len() { self.begin_to_seal() } else { Stage::Looking(next) })
    }

    /// Puts an id where it belongs, if it is wanted.
    fn give(&mut self, id: &EventId, seq: Seq, created_at: u64) {
        if seq == schema::DELETED {
            return;
        }
        if let Ok(nth) = self.noted.binary_search(&schema::place(created_at, id, seq)) {
            *self.item(nth) = SetItem { created_at, id: id.to_bytes() };
        }
    }

    /// What stands at a place; the newest place is the first, and the last item.
    fn item(&mut self, nth: usize) -> &mut SetItem {
        let at = self.noted.len() - 1 - nth;
        &mut self.laid[at / SET_BLOCK_ITEMS][at % SET_BLOCK_ITEMS]
    }

    fn begin_to_seal(&mut self) -> Stage {
        self.noted = Vec::new();
        self.blocks.reserve_exact(self.laid.len());
        Stage::Sealing(0)
    }

    /// Leaves out what was not found, and puts in order what stands at one place but for the end of its id.
    fn seal(&mut self, next: usize, entries: usize) -> Stage {
        let end = self.laid.len().min(next + entries.div_ceil(SET_BLOCK_ITEMS / 4).max(1));
        for nth in next..end {
            let mut block = std::mem::take(&mut self.laid[nth]);
            block.retain(|item| item.id != UNKNOWN);
            if !block.is_sorted() {
                block.sort_unstable();
            }
            if !block.is_empty() {
                self.push_in_order(block);
            }
        }
        if end < self.laid.len() { Stage::Sealing(end) } else { Stage::Over(IdStep::Whole) }
    }

    fn push_in_order(&mut self, mut block: Vec<SetItem>) {
        let mut behind = Vec::new();
        while let Some(before) = self.blocks.pop_if(|before| before.last() > block.first()) {
            // Of one place: each goes where its id says, and both stay as long as they were.
            let len = before.len();
            block.splice(0..0, before.iter().copied());
            block.sort_unstable();
            behind.push(Rc::from(block.split_off(len)));
        }
        self.blocks.push(block.into());
        self.blocks.extend(behind.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, author, event};
    use super::*;
    use nostr::event::Event;

    const NOW: UnixTime = UnixTime::from_secs(50);

    fn filter(json: &str) -> Rc<Filter> {
        Rc::new(serde_json::from_str(json).unwrap())
    }

    fn set(store: &Store, filter: &Rc<Filter>, max_seq: Seq, entries: usize) -> Vec<SetItem> {
        let mut search = SetSearch::new(Rc::clone(filter), max_seq, usize::MAX, usize::MAX);
        while search.step(store, NOW, entries).unwrap() == IdStep::More {}
        let blocks = search.into_blocks();
        assert!(blocks.iter().all(|block| !block.is_empty() && block.len() <= SET_BLOCK_ITEMS));
        blocks.concat()
    }

    fn count(store: &Store, filter: &Rc<Filter>, max_seq: Seq, entries: usize) -> Vec<Seq> {
        let mut search = PlaceSearch::of_count(Rc::clone(filter), max_seq, usize::MAX);
        let mut seqs = Vec::new();
        while search.step(store, NOW, entries, &mut |seq| seqs.push(seq)).unwrap() == IdStep::More {}
        seqs.sort_unstable();
        seqs
    }

    fn random_events(random: &mut Random, n: u64) -> Vec<Event> {
        let mut events = Vec::new();
        for nth in 0..n {
            let (t, e) = (random.below(3).to_string(), format!("{:0<64}", random.below(3)));
            let mut tags: Vec<Vec<String>> = Vec::new();
            if random.chance(2) {
                tags.push(vec!["t".into(), t]);
            }
            if random.chance(2) {
                tags.push(vec!["e".into(), e]);
            }
            if random.chance(10) {
                tags.push(vec!["expiration".into(), random.below(100).to_string()]);
            }
            let tags: Vec<Vec<&str>> = tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
            let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
            let kind = [1, 7, 1_111][random.below(3) as usize];
            events.push(event(random.below(4) as u8, kind, random.below(20), &tags, &nth.to_string()));
        }
        events
    }

    fn random_filter(random: &mut Random, events: &[Event]) -> String {
        let mut parts = Vec::new();
        if random.chance(8) {
            let ids = (0..random.below(5)).map(|_| events[random.below(events.len() as u64) as usize].id.to_hex());
            parts.push(format!(r#""ids":{:?}"#, ids.collect::<Vec<_>>()));
        }
        if random.chance(3) {
            let authors = (0..=random.below(3)).map(|_| author(random.below(5) as u8).to_hex());
            parts.push(format!(r#""authors":{:?}"#, authors.collect::<Vec<_>>()));
        }
        if random.chance(3) {
            parts.push(format!(r#""kinds":[{},1111]"#, [1, 7][random.below(2) as usize]));
        }
        if random.chance(3) {
            let values = (0..=random.below(3)).map(|_| random.below(4).to_string());
            parts.push(format!(r##""#t":{:?}"##, values.collect::<Vec<_>>()));
        }
        if random.chance(3) {
            let values = (0..=random.below(3)).map(|_| format!("{:0<64}", random.below(4)));
            parts.push(format!(r##""#e":{:?}"##, values.collect::<Vec<_>>()));
        }
        for (name, one_in) in [("since", 4), ("until", 4), ("limit", 8)] {
            if random.chance(one_in) {
                parts.push(format!(r#""{name}":{}"#, random.below(20)));
            }
        }
        format!("{{{}}}", parts.join(","))
    }

    #[test]
    fn sets_and_counts_agree_with_a_naive_model() {
        let mut random = Random(7);
        let mut found = 0;
        for round in 0..6 {
            let events = random_events(&mut random, 1_100);
            let mut store = Store::in_memory().with_memtable_max([0, 900, 1_000_000][round % 3]);
            let mut placed: Vec<(Seq, Event)> = Vec::new();
            for event in &events {
                placed.push((store.stage(event.clone()).unwrap().seq, event.clone()));
                if random.chance(200) {
                    store.commit().unwrap();
                }
            }
            store.commit().unwrap();
            for n in 0..120 {
                let json = if n == 0 { "{}".to_owned() } else { random_filter(&mut random, &events) };
                let filter = filter(&json);
                let max_seq = if random.chance(4) { random.below(1_100) } else { Seq::MAX };
                let lasts = |event: &Event| event.tags.expiration().is_none_or(|at| at.as_secs() > NOW.as_secs());
                let mut wanted: Vec<&(Seq, Event)> = placed
                    .iter()
                    .filter(|(seq, event)| *seq <= max_seq && filter.matches(event) && lasts(event))
                    .collect();
                wanted.sort_by_key(|(_, event)| (std::cmp::Reverse(event.created_at), event.id));
                wanted.truncate(filter.limit().unwrap_or(usize::MAX));
                let mut items: Vec<SetItem> = wanted
                    .iter()
                    .map(|(_, event)| SetItem { created_at: event.created_at.as_secs(), id: event.id.to_bytes() })
                    .collect();
                items.sort_unstable();
                found += items.len();
                let entries = [1, 13, 500, 1_000_000][random.below(4) as usize];
                assert_eq!(set(&store, &filter, max_seq, entries), items, "{json} to {max_seq} by {entries}");
                let counted =
                    placed.iter().filter(|(seq, event)| *seq <= max_seq && filter.matches(event) && lasts(event));
                let seqs: Vec<Seq> = counted.map(|(seq, _)| *seq).collect();
                assert_eq!(count(&store, &filter, max_seq, entries), seqs, "{json}");
            }
        }
        assert!(found > 40_000, "{found}");
    }

    #[test]
    fn a_count_is_exact_where_values_begin_alike() {
        let mut store = Store::in_memory();
        let values = [format!("{:0<64}", 1), format!("{:0<63}2", 1)];
        for (n, value) in values.iter().enumerate() {
            store.stage(event(1, 1, n as u64, &[&["e", value]], "")).unwrap();
        }
        store.commit().unwrap();
        let filter = filter(&format!(r##"{{"#e":["{}"]}}"##, values[0]));
        assert_eq!((count(&store, &filter, Seq::MAX, 1), set(&store, &filter, Seq::MAX, 1).len()), (vec![1], 2));
    }

    #[test]
    fn a_set_is_bounded_by_its_ids_and_by_what_is_looked_at() {
        let mut store = Store::in_memory();
        (0..10).for_each(|n| drop(store.stage(event(1, 1 + (n % 2) as u16, n, &[], "")).unwrap()));
        store.commit().unwrap();
        let end = |json: &str, entries_max, ids_max| {
            let mut search = SetSearch::new(filter(json), Seq::MAX, entries_max, ids_max);
            loop {
                match search.step(&store, NOW, 3).unwrap() {
                    IdStep::More => {}
                    end => return end,
                }
            }
        };
        assert_eq!((end("{}", 10, 10), end("{}", 10, 9)), (IdStep::Whole, IdStep::TooLarge));
        assert_eq!((end("{}", 9, 10), end(r#"{"limit":9}"#, 9, 9)), (IdStep::TooLarge, IdStep::Whole));
        let by_author = format!(r#"{{"authors":["{}"],"kinds":[1]}}"#, author(1));
        assert_eq!((end(&by_author, 10, 5), end(&by_author, 9, 5)), (IdStep::Whole, IdStep::TooLarge));
    }

    #[test]
    fn what_comes_and_goes_meanwhile_leaves_the_rest_as_it_was() {
        let mut store = Store::in_memory().with_memtable_max(0);
        let events: Vec<Event> = (0..40).map(|n| event(1, 1, n, &[], "")).collect();
        events.iter().for_each(|event| drop(store.stage(event.clone()).unwrap()));
        store.commit().unwrap();
        let mut search = SetSearch::new(filter("{}"), store.last_seq(), usize::MAX, usize::MAX);
        for n in 0.. {
            if search.step(&store, NOW, 10).unwrap() != IdStep::More {
                break;
            }
            store.stage(event(2, 1, n, &[], "new")).unwrap();
            if n == 2 {
                store.stage(event(1, 5, 90, &[&["e", &events[7].id.to_hex()]], "")).unwrap();
            }
            store.commit().unwrap();
        }
        let items = search.into_blocks().concat();
        let kept = events.iter().enumerate().filter(|(nth, _)| *nth != 7).map(|(_, event)| event.id.to_bytes());
        assert_eq!(items.iter().map(|item| item.id).collect::<Vec<_>>(), kept.collect::<Vec<_>>());
    }

    #[test]
    fn ids_that_begin_alike_are_put_in_order_over_the_ends_of_blocks() {
        let mut search = SetSearch::new(filter("{}"), 0, 0, 0);
        let item = |n: u64, id: u8| SetItem { created_at: n, id: [id; 32] };
        for block in [vec![item(1, 1), item(2, 9)], vec![item(2, 7), item(2, 8)], vec![item(2, 2), item(3, 1)]] {
            search.push_in_order(block);
        }
        let items = search.blocks.concat();
        assert_eq!((items.len(), items.is_sorted(), search.blocks.len()), (6, true, 3));
    }
}
