//! Where the events that a filter asks for stand in the indexes, without reading them: for COUNT (NIP-45) and for the sets
//! of reconciliations (NIP-77).
//!
//! Each list of a filter is a walk over one index, and all walks meet places in one order. An event that meets every
//! condition is a place that all of them meet; whichever is behind leaps to where the others are. Kinds need no walk of
//! their own beside others, for each entry tells them. Tags are looked up by their digest, as in `ids`.
//!
//! Filters of ids are the exception: there are few of them, so each event is looked at.

use super::index::{Entries, Index};
use super::schema::{self, PLACE_LEN, Place, TagPrefix};
use super::search::{IdStep, expired};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError};
use crate::protocol::filter::{Bytes32, Filter};
use crate::time::UnixTime;
use nostr::event::EventId;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::iter;
use std::ops::Bound;
use std::rc::Rc;

/// Entries that a walk passes over one by one before it leaps.
const LEAP_AFTER: usize = 16;
/// Entries that a leap costs as much as.
const LEAP_COST: usize = 8;
/// Entries that looking at an event costs as much as.
const LOOK_COST: usize = 32;

/// A search for the places of a filter's events: every committed, unexpired one whose sequence number is within bounds,
/// newest first and each once.
#[derive(Debug)]
pub struct PlaceSearch {
    filter: Rc<Filter>,
    max_seq: Seq,
    conditions: Vec<Condition>,
    /// Nothing before this is looked at any more.
    from: Place,
    /// Entries that may still be looked at.
    left: usize,
    /// Events that are still wanted.
    wanted: usize,
    /// Each event that has a tag's digest is looked at.
    is_exact: bool,
}

/// One list of the filter, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Ids,
    Tag(Box<[TagPrefix]>),
    Authors,
    Kinds,
    /// There is no list.
    Time,
}

impl PlaceSearch {
    /// One for a set: it heeds the filter's `limit`, and gives what has the digest of a tag's value for what has the value.
    /// It looks at no more than `entries_max` index entries.
    pub(super) fn of_set(filter: Rc<Filter>, max_seq: Seq, entries_max: usize) -> PlaceSearch {
        let wanted = filter.limit().unwrap_or(usize::MAX);
        PlaceSearch::new(filter, max_seq, entries_max, wanted, false)
    }

    /// One for a count of all that the filter matches, whatever its `limit`. Of tags, which are not told exactly by the
    /// indexes, each event is looked at that may have them; otherwise as a set.
    pub fn of_count(filter: Rc<Filter>, max_seq: Seq, entries_max: usize) -> PlaceSearch {
        let is_exact = !filter.tags().is_empty();
        PlaceSearch::new(filter, max_seq, entries_max, usize::MAX, is_exact)
    }

    fn new(filter: Rc<Filter>, max_seq: Seq, entries_max: usize, wanted: usize, is_exact: bool) -> PlaceSearch {
        let wanted = if filter.matches_nothing() { 0 } else { wanted };
        let from = schema::place_not_after(filter.until().as_secs());
        PlaceSearch { conditions: conditions(&filter), filter, max_seq, from, left: entries_max, wanted, is_exact }
    }

    /// Goes on, and gives the sequence number of each event that is found.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(
        &mut self,
        store: &Store,
        now: UnixTime,
        entries: usize,
        f: &mut dyn FnMut(Seq),
    ) -> Result<IdStep, StoreError> {
        let snapshot = store.snapshot()?;
        self.step_places(snapshot, &expired(snapshot, now)?, entries, &mut |place| f(schema::place_seq(&place)))
    }

    /// Entries that it may still look at.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Bytes of memory that it takes beside the filter.
    pub fn bytes(&self) -> usize {
        let of = |condition: &Condition| match condition {
            Condition::Tag(prefixes) => size_of_val(&**prefixes),
            _ => 0,
        };
        size_of::<PlaceSearch>() + self.conditions.iter().map(|c| size_of::<Condition>() + of(c)).sum::<usize>()
    }

    pub(super) fn step_places(
        &mut self,
        snapshot: &Snapshot,
        expired: &BTreeSet<Seq>,
        entries: usize,
        f: &mut dyn FnMut(Place),
    ) -> Result<IdStep, StoreError> {
        if self.wanted == 0 {
            return Ok(IdStep::Whole);
        }
        if self.conditions == [Condition::Ids] {
            return self.step_ids(snapshot, expired, entries, f);
        }
        let filter = Rc::clone(&self.filter);
        let last = schema::place_not_before(filter.since().as_secs());
        let mut walks = Vec::with_capacity(self.conditions.len());
        for condition in &self.conditions {
            walks.push(open(condition, &filter, snapshot, self.from, last)?);
        }
        let (mut spent, mut entries) = (0, entries.max(1));
        loop {
            let (place, kind) = match meet(&mut walks, &mut spent, entries)? {
                Meeting::Over => {
                    self.left = self.left.saturating_sub(spent);
                    return Ok(IdStep::Whole);
                }
                Meeting::NotYet(place) => {
                    self.from = place;
                    return Ok(self.pause(spent));
                }
                Meeting::At(place, kind) => (place, kind),
            };
            if spent >= entries.min(self.left) {
                self.from = place;
                return Ok(self.pause(spent));
            }
            let seq = schema::place_seq(&place);
            if seq <= self.max_seq && filter.wants_kind(kind) && !expired.contains(&seq) {
                if self.is_exact {
                    entries = entries.saturating_sub(LOOK_COST);
                }
                if !self.is_exact || snapshot.event(seq)?.is_some_and(|event| filter.matches(&event)) {
                    f(place);
                    self.wanted -= 1;
                }
                if self.wanted == 0 {
                    return Ok(IdStep::Whole);
                }
            }
            walks[0].advance()?;
            spent += 1;
        }
    }

    fn pause(&mut self, spent: usize) -> IdStep {
        self.left = self.left.saturating_sub(spent);
        if self.left == 0 { IdStep::TooLarge } else { IdStep::More }
    }

    fn step_ids(
        &mut self,
        snapshot: &Snapshot,
        expired: &BTreeSet<Seq>,
        entries: usize,
        f: &mut dyn FnMut(Place),
    ) -> Result<IdStep, StoreError> {
        let mut places = Vec::new();
        for id in self.filter.ids().unwrap_or_default().iter().copied().map(EventId::from_byte_array) {
            let Some((seq, created_at)) = snapshot.id(&id)? else { continue };
            let place = schema::place(created_at, &id, seq);
            if seq != schema::DELETED && seq <= self.max_seq && place >= self.from && !expired.contains(&seq) {
                places.push(place);
            }
        }
        places.sort_unstable();
        for (looked_at, place) in places.into_iter().enumerate() {
            if looked_at * LOOK_COST >= entries.max(1) {
                return Ok(IdStep::More);
            }
            self.from = schema::place_after(&place);
            if snapshot.event(schema::place_seq(&place))?.is_some_and(|event| self.filter.matches(&event)) {
                f(place);
                self.wanted -= 1;
            }
            if self.wanted == 0 {
                break;
            }
        }
        Ok(IdStep::Whole)
    }
}

/// The walks of a filter, that which is likely to meet least first.
fn conditions(filter: &Filter) -> Vec<Condition> {
    if filter.ids().is_some() {
        return vec![Condition::Ids];
    }
    let mut tags: Vec<_> = filter.tags().iter().collect();
    tags.sort_by_key(|tag| tag.len());
    let mut conditions: Vec<Condition> = Vec::with_capacity(tags.len() + 1);
    for tag in tags {
        let mut prefixes: Vec<_> = tag.iter().map(|value| schema::tag_prefix(tag.letter(), &value)).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        conditions.push(Condition::Tag(prefixes.into()));
    }
    conditions.extend(filter.authors().map(|_| Condition::Authors));
    if conditions.is_empty() {
        conditions.push(filter.kinds().map_or(Condition::Time, |_| Condition::Kinds));
    }
    conditions
}

/// Opens a walk at a place.
fn open<'a>(
    condition: &Condition,
    filter: &Filter,
    snapshot: &'a Snapshot,
    from: Place,
    last: Place,
) -> Result<Box<dyn Walk + 'a>, StoreError> {
    Ok(match condition {
        Condition::Tag(prefixes) => Box::new(Merge::open(snapshot.by_tag(), prefixes.iter().copied(), from, last)?),
        Condition::Authors => {
            let authors: &[Bytes32] = filter.authors().unwrap_or_default();
            Box::new(Merge::open(snapshot.by_author(), authors.iter().copied(), from, last)?)
        }
        Condition::Kinds => {
            let kinds = filter.kinds().unwrap_or_default().iter().map(|kind| kind.to_be_bytes());
            Box::new(Merge::open(snapshot.by_kind(), kinds, from, last)?)
        }
        Condition::Time | Condition::Ids => Box::new(Merge::open(snapshot.by_time(), iter::once([]), from, last)?),
    })
}

/// Where walks are.
enum Meeting {
    /// All of them at this place, of this kind.
    At(Place, u16),
    /// Nowhere before this place, and the step is over.
    NotYet(Place),
    /// Nowhere any more.
    Over,
}

/// Leads walks to the first place that all of them meet.
fn meet(walks: &mut [Box<dyn Walk + '_>], spent: &mut usize, entries: usize) -> Result<Meeting, StoreError> {
    let Some((mut place, mut kind)) = walks[0].head() else { return Ok(Meeting::Over) };
    let (mut agreed, mut next) = (1, 0);
    while agreed < walks.len() {
        if *spent >= entries {
            return Ok(Meeting::NotYet(place));
        }
        next = (next + 1) % walks.len();
        walks[next].leap(&place, spent)?;
        match walks[next].head() {
            None => return Ok(Meeting::Over),
            Some(head) if head.0 == place => agreed += 1,
            Some(head) => ((place, kind), agreed) = (head, 1),
        }
    }
    Ok(Meeting::At(place, kind))
}

/// A walk over places in their order.
trait Walk {
    /// Where it is, and the kind of the event there.
    fn head(&self) -> Option<(Place, u16)>;

    /// Goes on to the next place.
    fn advance(&mut self) -> Result<(), StoreError>;

    /// Goes on to a place, or behind it.
    fn leap(&mut self, to: &Place, spent: &mut usize) -> Result<(), StoreError>;
}

/// The entries of an index under several prefixes.
struct Merge<'a, const N: usize> {
    index: Index<'a, N>,
    ranges: Vec<Range<'a, N>>,
    heads: BinaryHeap<Reverse<(Place, usize, u16)>>,
}

/// Those under one prefix.
struct Range<'a, const N: usize> {
    entries: Entries<'a, N>,
    to: [u8; N],
}

impl<'a, const N: usize> Merge<'a, N> {
    fn open<const P: usize>(
        index: Index<'a, N>,
        prefixes: impl ExactSizeIterator<Item = [u8; P]>,
        from: Place,
        last: Place,
    ) -> Result<Merge<'a, N>, StoreError> {
        let heads = BinaryHeap::with_capacity(prefixes.len());
        let mut merge = Merge { index, ranges: Vec::with_capacity(prefixes.len()), heads };
        for prefix in prefixes {
            let first: [u8; N] = schema::index_key(&prefix, &from);
            let to: [u8; N] = schema::index_key(&prefix, &last);
            // Where nothing is left to be met, the first key is behind the last.
            if first > to {
                continue;
            }
            let entries = merge.index.range(Bound::Included(&first), &to)?;
            merge.ranges.push(Range { entries, to });
            merge.go_on(merge.ranges.len() - 1)?;
        }
        Ok(merge)
    }

    fn go_on(&mut self, range: usize) -> Result<(), StoreError> {
        if let Some((key, kind)) = self.ranges[range].entries.next()? {
            self.heads.push(Reverse((schema::key_place(&key), range, kind)));
        }
        Ok(())
    }
}

impl<const N: usize> Walk for Merge<'_, N> {
    fn head(&self) -> Option<(Place, u16)> {
        self.heads.peek().map(|Reverse((place, _, kind))| (*place, *kind))
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        let Some((place, _)) = self.head() else { return Ok(()) };
        // The same event under two values is one.
        while self.head().is_some_and(|(next, _)| next == place) {
            let Some(Reverse((_, range, _))) = self.heads.pop() else { break };
            self.go_on(range)?;
        }
        Ok(())
    }

    fn leap(&mut self, to: &Place, spent: &mut usize) -> Result<(), StoreError> {
        while self.head().is_some_and(|(place, _)| place < *to) {
            let Some(Reverse((_, range, _))) = self.heads.pop() else { break };
            let mut next = None;
            for passed in 0..=LEAP_AFTER {
                *spent += 1;
                if passed == LEAP_AFTER {
                    *spent += LEAP_COST;
                    let last = self.ranges[range].to;
                    let first: [u8; N] = schema::index_key(&last[..N - PLACE_LEN], to);
                    if first > last {
                        next = None;
                        break;
                    }
                    self.ranges[range].entries = self.index.range(Bound::Included(&first), &last)?;
                }
                next = self.ranges[range].entries.next()?;
                if next.is_none_or(|(key, _)| schema::key_place(&key) >= *to) {
                    break;
                }
            }
            if let Some((key, kind)) = next {
                self.heads.push(Reverse((schema::key_place(&key), range, kind)));
            }
        }
        Ok(())
    }
}
