//! NIP-01 filters over the indexes: which index to walk, how to merge its ranges newest first, and where to go on.
//!
//! A query looks at a bounded number of candidates per step and remembers the place of the last one, so that a slow
//! client or a wide filter never holds up the loop, and commits may happen between its steps.

use super::index::{Entries, Index};
use super::schema::{self, Place};
use super::snapshot::Snapshot;
use super::{Seq, StoreError};
use crate::limits::{QUERY_CANDIDATE_BYTES, QUERY_CANDIDATE_VALUES};
use crate::protocol::filter::{Bytes32, Filter, Narrowest};
use crate::time::UnixTime;
use nostr::event::EventId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

/// Whether a query has more to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryStep {
    /// It stopped at its bound or because the caller broke off; ask again.
    More,
    /// It has given everything, or as much as its limit allows.
    Done,
}

/// One filter on its way through the store.
#[derive(Clone, Debug)]
pub struct Query {
    /// Shared with whoever asks: it may be large.
    filter: Rc<Filter>,
    max_seq: Seq,
    /// Events that may still be given.
    left: usize,
    plan: Plan,
    /// The last candidate looked at.
    position: Option<Place>,
    /// What was looked at in all its steps, in candidates.
    looked_at: usize,
}

/// Where the candidates come from. Values that are prefixes of an index as they are stay in the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    Ids,
    Tags(Box<[schema::TagPrefix]>),
    Authors,
    Kinds,
    Time,
}

/// The bounds of one step.
struct Step<'a> {
    now: UnixTime,
    candidates_left: usize,
    f: &'a mut dyn FnMut(Seq, &str) -> ControlFlow<()>,
}

/// The first and the last place that an event within the filter's times can have.
fn places_of(filter: &Filter) -> (Place, Place) {
    (schema::place_not_after(filter.until().as_secs()), schema::place_not_before(filter.since().as_secs()))
}

impl Query {
    /// A query for `filter` that gives at most `limit_max` events, fewer if the filter's own `limit` is smaller, and none
    /// with a sequence number over `max_seq`: what is stored after the query began is the live subscription's part.
    pub fn new(filter: impl Into<Rc<Filter>>, max_seq: Seq, limit_max: usize) -> Query {
        let filter = filter.into();
        let left = filter.limit().unwrap_or(limit_max).min(limit_max);
        let plan = if left == 0 { Plan::Nothing } else { Plan::of(&filter) };
        Query { filter, max_seq, left, plan, position: None, looked_at: 0 }
    }

    /// Bytes of memory that it takes beside the filter.
    pub fn bytes(&self) -> usize {
        match &self.plan {
            Plan::Tags(prefixes) => size_of::<Query>() + size_of_val(&**prefixes),
            _ => size_of::<Query>(),
        }
    }

    /// What it has looked at so far, in candidates; a large event counts as several, as do the values that each step begins
    /// with.
    pub fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// Looks at no more than `candidates_max` index entries, fewer if events are large; opening the ranges costs one lookup per value on top.
    pub(super) fn step(
        &mut self,
        snapshot: &Snapshot,
        now: UnixTime,
        candidates_max: usize,
        f: &mut dyn FnMut(Seq, &str) -> ControlFlow<()>,
    ) -> Result<QueryStep, StoreError> {
        // A step that may look at nothing would never end.
        let candidates_max = candidates_max.max(1);
        let mut step = Step { now, candidates_left: candidates_max, f };
        let plan = std::mem::replace(&mut self.plan, Plan::Nothing);
        let filter = Rc::clone(&self.filter);
        let result = match (&plan, filter.narrowest()) {
            (Plan::Ids, Narrowest::Ids(ids)) => self.walk_ids(snapshot, ids, &mut step),
            (Plan::Tags(prefixes), _) => self.walk(snapshot, snapshot.by_tag(), prefixes.iter().copied(), &mut step),
            (Plan::Authors, Narrowest::Authors(authors)) => {
                self.walk(snapshot, snapshot.by_author(), authors.iter().copied(), &mut step)
            }
            (Plan::Kinds, Narrowest::Kinds(kinds)) => {
                let prefixes = kinds.iter().map(|kind| kind.to_be_bytes());
                self.walk(snapshot, snapshot.by_kind(), prefixes, &mut step)
            }
            (Plan::Time, _) => self.walk(snapshot, snapshot.by_time(), iter::once([]), &mut step),
            (Plan::Nothing | Plan::Ids | Plan::Authors | Plan::Kinds, _) => Ok(QueryStep::Done),
        };
        if matches!(result, Ok(QueryStep::More)) {
            self.plan = plan;
        }
        self.looked_at += candidates_max - step.candidates_left;
        result
    }

    /// Merges the ranges of an index under `prefixes`, newest first.
    fn walk<const N: usize, const P: usize>(
        &mut self,
        snapshot: &Snapshot,
        index: Index<'_, N>,
        prefixes: impl ExactSizeIterator<Item = [u8; P]>,
        step: &mut Step<'_>,
    ) -> Result<QueryStep, StoreError> {
        let (first, last) = places_of(&self.filter);
        let start = match self.position {
            Some(position) => Bound::Excluded(position),
            None => Bound::Included(first),
        };
        self.looked_at += prefixes.len() / QUERY_CANDIDATE_VALUES;
        let mut ranges: Vec<Entries<'_, N>> = Vec::with_capacity(prefixes.len());
        let mut heads = BinaryHeap::with_capacity(prefixes.len());
        for prefix in prefixes {
            let from: Bound<[u8; N]> = start.map(|place| schema::index_key(&prefix, &place));
            let to: [u8; N] = schema::index_key(&prefix, &last);
            let mut range = index.range(from.as_ref(), &to)?;
            if let Some((place, kind)) = next(&mut range)? {
                heads.push(Reverse((place, ranges.len(), kind)));
                ranges.push(range);
            }
        }
        while let Some(Reverse((place, from, kind))) = heads.pop() {
            if let Some((place, kind)) = next(&mut ranges[from])? {
                heads.push(Reverse((place, from, kind)));
            }
            // The same event under two values.
            if self.position == Some(place) {
                continue;
            }
            if step.candidates_left == 0 {
                return Ok(QueryStep::More);
            }
            if let Some(end) = self.look(snapshot, place, Some(kind), step)? {
                return Ok(end);
            }
        }
        Ok(QueryStep::Done)
    }

    fn walk_ids(&mut self, snapshot: &Snapshot, ids: &[Bytes32], step: &mut Step<'_>) -> Result<QueryStep, StoreError> {
        self.looked_at += ids.len() / QUERY_CANDIDATE_VALUES;
        let mut places = Vec::with_capacity(ids.len());
        for id in ids.iter().copied().map(EventId::from_byte_array) {
            let Some((seq, created_at)) = snapshot.id(&id)? else { continue };
            let place = schema::place(created_at, &id, seq);
            if seq != schema::DELETED && self.position.is_none_or(|position| place > position) {
                places.push(place);
            }
        }
        places.sort_unstable();
        for place in places {
            if step.candidates_left == 0 {
                return Ok(QueryStep::More);
            }
            if let Some(end) = self.look(snapshot, place, None, step)? {
                return Ok(end);
            }
        }
        Ok(QueryStep::Done)
    }

    /// Looks at one candidate and gives it to the caller if it matches; says so if the step ends there.
    fn look(
        &mut self,
        snapshot: &Snapshot,
        place: Place,
        kind: Option<u16>,
        step: &mut Step<'_>,
    ) -> Result<Option<QueryStep>, StoreError> {
        step.candidates_left -= 1;
        self.position = Some(place);
        let seq = schema::place_seq(&place);
        if seq > self.max_seq || kind.is_some_and(|kind| !self.filter.wants_kind(kind)) {
            return Ok(None);
        }
        let Some(json) = snapshot.record(seq)? else { return Ok(None) };
        step.candidates_left = step.candidates_left.saturating_sub(json.value().len() / QUERY_CANDIDATE_BYTES);
        let Some(event) = snapshot.parse(seq, json.value()) else { return Ok(None) };
        let expired = schema::expiration(&event).is_some_and(|at| at <= step.now.as_secs());
        if expired || !self.filter.matches(&event) {
            return Ok(None);
        }
        self.left -= 1;
        let flow = (step.f)(seq, json.value());
        if self.left == 0 {
            Ok(Some(QueryStep::Done))
        } else if flow.is_break() {
            Ok(Some(QueryStep::More))
        } else {
            Ok(None)
        }
    }
}

impl Plan {
    /// The index of the filter's narrowest list, or all by time.
    pub(super) fn of(filter: &Filter) -> Plan {
        if filter.matches_nothing() {
            return Plan::Nothing;
        }
        match filter.narrowest() {
            Narrowest::Ids(_) => Plan::Ids,
            Narrowest::Tag(tag) => {
                let mut prefixes: Vec<_> = tag.iter().map(|value| schema::tag_prefix(tag.letter(), &value)).collect();
                prefixes.sort_unstable();
                prefixes.dedup();
                Plan::Tags(prefixes.into())
            }
            Narrowest::Authors(_) => Plan::Authors,
            Narrowest::Kinds(_) => Plan::Kinds,
            Narrowest::Any => Plan::Time,
        }
    }
}

/// The next place of a walk, and the kind of the event there.
fn next<const N: usize>(range: &mut Entries<'_, N>) -> Result<Option<(Place, u16)>, StoreError> {
    Ok(range.next()?.map(|(key, kind)| (schema::key_place(&key), kind)))
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::testing::{Random, author, event};
    use super::*;
    use crate::protocol::filter::TagValue;
    use nostr::event::Event;
    use nostr::filter::{Filter as Asked, SingleLetterTag};
    use nostr::types::Timestamp;

    const KINDS: [u16; 4] = [1, 5, 1621, 31_000];
    const LETTERS: [char; 4] = ['e', 'a', 'A', 't'];
    const SECONDS: u64 = 12;

    fn pool_value(letter: char, n: u64) -> String {
        match letter {
            'e' => format!("{n:064x}"),
            'a' | 'A' => format!("30617:{}:repo:{n}", author(n as u8)),
            _ => {
                ["", "x", "a rather long value, longer than any digest of it would ever be"][n as usize % 3].to_owned()
            }
        }
    }

    fn store_of(random: &mut Random, count: usize) -> (Store, Vec<(Seq, Event)>) {
        // Some of it is in the indexes, the rest is not yet.
        let mut store = Store::in_memory().with_memtable_max(7 * count / 2);
        let mut events = Vec::new();
        for n in 0..count {
            let n = n.to_string();
            let mut tags: Vec<[String; 2]> = vec![["d".to_owned(), n.clone()]];
            for _ in 0..random.below(4) {
                let letter = LETTERS[random.below(4) as usize];
                tags.push([letter.to_string(), pool_value(letter, random.below(3))]);
            }
            if random.chance(8) {
                tags.push(["expiration".to_owned(), random.below(100).to_string()]);
            }
            if random.chance(8) {
                tags.push(["title".to_owned(), "not indexed".to_owned()]);
            }
            let tags: Vec<[&str; 2]> = tags.iter().map(|[name, value]| [name.as_str(), value.as_str()]).collect();
            let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
            let kind = KINDS[random.below(4) as usize];
            let event = event(random.below(4) as u8, kind, random.below(SECONDS), &tags, &n);
            events.push((store.stage(event.clone()).expect("memory works").seq, event));
            if random.chance(30) {
                store.commit().expect("memory works");
            }
        }
        store.commit().expect("memory works");
        (store, events)
    }

    fn random_filter(random: &mut Random, events: &[(Seq, Event)]) -> Asked {
        let mut filter = Asked::new();
        if random.chance(6) {
            let ids = (0..random.below(6)).map(|_| match random.chance(5) {
                true => EventId::from_byte_array([random.next() as u8; 32]),
                false => events[random.below(events.len() as u64) as usize].1.id,
            });
            filter = filter.ids(ids.collect::<Vec<_>>());
        }
        if random.chance(3) {
            let authors = (0..random.below(4)).map(|_| author(random.below(5) as u8));
            filter = filter.authors(authors.collect::<Vec<_>>());
        }
        if random.chance(3) {
            filter =
                filter.kinds((0..random.below(4)).map(|_| KINDS[random.below(4) as usize].into()).collect::<Vec<_>>());
        }
        for letter in LETTERS {
            if random.chance(4) {
                let values = (0..random.below(4)).map(|_| pool_value(letter, random.below(4)));
                let letter = SingleLetterTag::from_char(letter).expect("a letter");
                filter = filter.custom_tags(letter, values.collect::<Vec<_>>());
            }
        }
        if random.chance(3) {
            filter = filter.since(Timestamp::from_secs(random.below(SECONDS + 1)));
        }
        if random.chance(3) {
            filter = filter.until(Timestamp::from_secs(random.below(SECONDS + 1)));
        }
        if random.chance(2) {
            filter = filter.limit(random.below(30) as usize);
        }
        if random.chance(10) {
            filter = filter.search("nothing contains this");
        }
        filter
    }

    /// NIP-01 in the plainest words.
    fn matches(filter: &Asked, event: &Event) -> bool {
        filter.ids.as_ref().is_none_or(|ids| ids.contains(&event.id))
            && filter.authors.as_ref().is_none_or(|authors| authors.contains(&event.pubkey))
            && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && filter.since.is_none_or(|since| event.created_at >= since)
            && filter.until.is_none_or(|until| event.created_at <= until)
            && filter.generic_tags.iter().all(|(letter, values)| {
                let letter = letter.to_string();
                event.tags.iter().any(|tag| {
                    tag.kind() == letter && tag.content().is_some_and(|value| values.iter().any(|v| v == value))
                })
            })
    }

    fn expected(
        filter: &Asked,
        events: &[(Seq, Event)],
        max_seq: Seq,
        limit_max: usize,
        now: UnixTime,
    ) -> Vec<EventId> {
        let mut found: Vec<&Event> = events
            .iter()
            .filter(|(seq, event)| *seq <= max_seq && matches(filter, event))
            .map(|(_, event)| event)
            .filter(|event| event.tags.expiration().is_none_or(|at| at.as_secs() > now.as_secs()))
            .collect();
        found.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
        found.truncate(filter.limit.unwrap_or(limit_max).min(limit_max));
        found.iter().map(|event| event.id).collect()
    }

    #[test]
    fn queries_agree_with_a_naive_model() {
        let mut random = Random(1);
        let mut nonempty = 0;
        for _ in 0..8 {
            let (store, events) = store_of(&mut random, 150);
            for _ in 0..800 {
                let filter = random_filter(&mut random, &events);
                let max_seq = if random.chance(3) { random.below(160) } else { Seq::MAX };
                let limit_max = if random.chance(3) { random.below(20) as usize } else { 500 };
                let now = UnixTime::from_secs(random.below(100));
                let expected = expected(&filter, &events, max_seq, limit_max, now);
                nonempty += usize::from(!expected.is_empty());

                let mut query = Query::new(Filter::from(filter.clone()), max_seq, limit_max);
                let mut given = Vec::new();
                let mut steps = 0;
                loop {
                    let candidates_max = if random.chance(2) { 1 + random.below(20) as usize } else { 1_000 };
                    let breaks = random.chance(2);
                    let step = store.query(&mut query, now, candidates_max, &mut |seq, json| {
                        let event = schema::parse(json).expect("stored JSON is an event");
                        assert_eq!(events[seq as usize - 1].1.id, event.id);
                        given.push(event.id);
                        if breaks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    });
                    steps += 1;
                    assert!(steps < 1_000, "a query ends: {filter:?}");
                    if step.expect("memory works") == QueryStep::Done {
                        break;
                    }
                }
                assert_eq!(given, expected, "{filter:?} max_seq {max_seq} limit_max {limit_max} now {now}");
            }
        }
        assert!(nonempty > 1_000, "the filters find something: {nonempty}");
    }

    #[test]
    fn a_step_looks_at_a_bounded_number_of_candidates() {
        let (store, events) = store_of(&mut Random(2), 100);
        let filter = Asked::new().author(author(0)).kind(1.into());
        let own = events.iter().filter(|(_, event)| event.pubkey == author(0)).count();
        let mut query = Query::new(Filter::from(filter), Seq::MAX, 500);
        let mut steps = 0;
        while store.query(&mut query, UnixTime::EPOCH, 10, &mut |_, _| ControlFlow::Continue(())) == Ok(QueryStep::More)
        {
            steps += 1;
        }
        assert_eq!(steps, (own - 1) / 10);
    }

    #[test]
    fn what_can_match_nothing_costs_nothing() {
        let empty: [EventId; 0] = [];
        for filter in [
            Asked::new().ids(empty),
            Asked::new().authors([]),
            Asked::new().kinds([]),
            Asked::new().events(empty),
            Asked::new().since(Timestamp::from_secs(2)).until(Timestamp::from_secs(1)),
            Asked::new().limit(0),
        ] {
            assert_eq!(Query::new(Filter::from(filter), Seq::MAX, 500).plan, Plan::Nothing);
        }
    }

    #[test]
    fn the_narrowest_index_is_walked() {
        let id = EventId::from_byte_array([7; 32]);
        let plan = |filter: &Asked| Plan::of(&filter.clone().into());
        let filter = Asked::new().author(author(1)).kind(1.into());
        assert_eq!(plan(&filter), Plan::Authors);
        let filter = filter.hashtags(["x", "y"]).event(id);
        assert_eq!(plan(&filter), Plan::Tags([schema::tag_prefix(b'e', &TagValue::Bytes(id.to_bytes()))].into()));
        assert_eq!(plan(&filter.id(id)), Plan::Ids);
        assert_eq!(plan(&Asked::new().kind(1.into())), Plan::Kinds);
        assert_eq!(plan(&Asked::new()), Plan::Time);
    }
}
