//! The ids of what is held, for set reconciliation (NIP-77): by filter, without building events.
//!
//! A reconciliation compares sets of `(created_at, id)`. What the set holds too much costs a few bytes on the wire and
//! nothing else, and what it lacks is known when it comes. So tags are looked up by their digest and not checked again
//! on the event.

use super::index::Index;
use super::query::{Plan, places_of};
use super::schema::{self, Place};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError};
use crate::protocol::message::RawEvent;
use crate::time::UnixTime;
use nostr::event::EventId;
use nostr::filter::Filter;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Whether a set of ids is all of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSet {
    /// Every id was given.
    Whole,
    /// There were more than the caller allowed; what was given is a part of no use.
    TooLarge,
}

/// Of so many events one is wanted, at least, for a walk over all ids to be cheaper than looking up each.
const SCAN_WORTH: u64 = 8;

impl Store {
    /// Gives time and id of every committed, unexpired event that `filter` asks for to `f`, some of them twice, in no
    /// particular order: at most `max`. Of the filter's conditions its kinds, its bounds in time and the narrowest of
    /// the others hold. `limit` and `search` are ignored.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn for_each_id(
        &self,
        filter: &Filter,
        now: UnixTime,
        max: usize,
        f: &mut dyn FnMut(UnixTime, EventId),
    ) -> Result<IdSet, StoreError> {
        let snapshot = self.snapshot()?;
        let mut walk = Walk { snapshot, filter, expired: expired(snapshot, now)?, places: Vec::new(), max };
        let whole = match Plan::of(filter) {
            Plan::Nothing => true,
            Plan::Time if filter.since.is_none() && filter.until.is_none() => return walk.all(f),
            Plan::Time => walk.index(snapshot.by_time(), &[[]])?,
            Plan::Ids(ids) => walk.ids(&ids)?,
            Plan::Tags(prefixes) => walk.index(snapshot.by_tag(), &prefixes)?,
            Plan::Authors(prefixes) => walk.index(snapshot.by_author(), &prefixes)?,
            Plan::Kinds(prefixes) => walk.index(snapshot.by_kind(), &prefixes)?,
        };
        match whole {
            true => walk.give(f).map(|()| IdSet::Whole),
            false => Ok(IdSet::TooLarge),
        }
    }
}

/// The sequence numbers of events that have expired and wait to be removed.
fn expired(snapshot: &Snapshot, now: UnixTime) -> Result<BTreeSet<Seq>, StoreError> {
    let mut expired = BTreeSet::new();
    for entry in snapshot.expirations.range::<(u64, u64)>(..=(now.as_secs(), u64::MAX))? {
        expired.insert(entry?.0.value().1);
    }
    Ok(expired)
}

/// One look for ids.
struct Walk<'a> {
    snapshot: &'a Snapshot,
    filter: &'a Filter,
    expired: BTreeSet<Seq>,
    /// Where what is wanted stands.
    places: Vec<Place>,
    max: usize,
}

impl Walk<'_> {
    /// Every event: the table of ids has all that is needed, in one piece.
    fn all(&self, f: &mut dyn FnMut(UnixTime, EventId)) -> Result<IdSet, StoreError> {
        let mut left = self.max;
        for entry in self.snapshot.ids()? {
            let (id, seq, created_at) = entry?;
            if seq == schema::DELETED || self.expired.contains(&seq) {
                continue;
            }
            if left == 0 {
                return Ok(IdSet::TooLarge);
            }
            left -= 1;
            f(UnixTime::from_secs(created_at), id);
        }
        Ok(IdSet::Whole)
    }

    /// Notes what stands in an index under some prefixes. Says whether that is not too much.
    fn index<const N: usize, const P: usize>(
        &mut self,
        index: Index<'_, N>,
        prefixes: &[[u8; P]],
    ) -> Result<bool, StoreError> {
        let (first, last) = places_of(self.filter);
        for prefix in prefixes {
            let from: [u8; N] = schema::index_key(prefix, &first);
            let to: [u8; N] = schema::index_key(prefix, &last);
            let mut entries = index.range(Bound::Included(&from), Bound::Included(&to))?;
            while let Some((key, kind)) = entries.next()? {
                let place = schema::key_place(&key);
                let wanted = self.filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind.into()));
                if !wanted || self.expired.contains(&schema::place_seq(&place)) {
                    continue;
                }
                if self.places.len() == self.max {
                    return Ok(false);
                }
                self.places.push(place);
            }
        }
        Ok(true)
    }

    /// Notes what is held of some ids.
    fn ids(&mut self, ids: &[EventId]) -> Result<bool, StoreError> {
        for id in ids.iter().take(self.max) {
            let Some((seq, created_at)) = self.snapshot.id(id)? else { continue };
            if seq != schema::DELETED && !self.expired.contains(&seq) {
                self.places.push(schema::place(created_at, id, seq));
            }
        }
        Ok(ids.len() <= self.max)
    }

    /// Finds the whole ids of what was noted: a place has but the beginning of one.
    fn give(mut self, f: &mut dyn FnMut(UnixTime, EventId)) -> Result<(), StoreError> {
        if self.places.len() as u64 * SCAN_WORTH >= self.snapshot.ids_len()? {
            return self.give_by_scan(f);
        }
        // Neighbours in the table of events are read together.
        self.places.sort_unstable_by_key(schema::place_seq);
        for place in &self.places {
            let json = self.snapshot.events.get(schema::place_seq(place))?.ok_or(StoreError::Corrupt)?;
            f(UnixTime::from_secs(schema::place_created_at(place)), id_of(json.value())?);
        }
        Ok(())
    }

    fn give_by_scan(&self, f: &mut dyn FnMut(UnixTime, EventId)) -> Result<(), StoreError> {
        let mut wanted: Vec<Seq> = self.places.iter().map(schema::place_seq).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for entry in self.snapshot.ids()? {
            let (id, seq, created_at) = entry?;
            if seq != schema::DELETED && wanted.binary_search(&seq).is_ok() {
                f(UnixTime::from_secs(created_at), id);
            }
        }
        Ok(())
    }
}

/// The id in an event's JSON. The store writes it first; a look at the whole is only for what once was written otherwise.
fn id_of(json: &str) -> Result<EventId, StoreError> {
    let hex = json.strip_prefix("{\"id\":\"").and_then(|rest| rest.get(..2 * EventId::LEN));
    if let Some(id) = hex.and_then(crate::protocol::event_id) {
        return Ok(id);
    }
    RawEvent::from_json(json).map(|raw| raw.id).map_err(|_| StoreError::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{author, event};
    use super::*;
    use nostr::event::{Event, Kind};
    use nostr::filter::SingleLetterTag;
    use nostr::types::Timestamp;

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    fn store_of(events: &[Event]) -> Store {
        let mut store = Store::in_memory();
        for event in events {
            store.stage(event.clone()).unwrap();
        }
        store.commit().unwrap();
        store
    }

    fn ids(store: &Store, filter: &Filter, max: usize) -> Option<BTreeSet<(u64, EventId)>> {
        let mut found = BTreeSet::new();
        let set = store.for_each_id(filter, NOW, max, &mut |at, id| _ = found.insert((at.as_secs(), id))).unwrap();
        (set == IdSet::Whole).then_some(found)
    }

    fn placed(events: &[&Event]) -> Option<BTreeSet<(u64, EventId)>> {
        Some(events.iter().map(|event| (event.created_at.as_secs(), event.id)).collect())
    }

    #[test]
    fn every_way_to_ask_gives_what_is_held() {
        let value = "ab".repeat(32);
        let tagged = |n: u8, letter: &str, content: &str| event(n, 1_111, 10, &[&[letter, &value]], content);
        let mut events: Vec<Event> =
            vec![tagged(1, "e", "x"), tagged(1, "E", "y"), tagged(2, "e", "z"), event(3, 5, 20, &[&["e", "1"]], "")];
        // Enough of them that looking up each is cheaper than a walk over all.
        events.extend((0..100).map(|n| event(9, 1, n, &[], &n.to_string())));
        let store = store_of(&events);
        let tag = |letter: char| {
            Filter::new().custom_tag(SingleLetterTag::from_char(letter).unwrap(), value.clone()).limit(1)
        };
        assert_eq!(ids(&store, &tag('e'), 500), placed(&[&events[0], &events[2]]), "a limit is no condition");
        assert_eq!(ids(&store, &tag('E'), 500), placed(&[&events[1]]));
        assert_eq!(ids(&store, &tag('q'), 500), placed(&[]));
        assert_eq!(ids(&store, &tag('e').kind(Kind::from_u16(7)), 500), placed(&[]));
        let deletions = Filter::new().kind(Kind::from_u16(5)).authors([author(3), author(9)]);
        assert_eq!(ids(&store, &deletions, 500), placed(&[&events[3]]));
        assert_eq!(
            ids(&store, &Filter::new().kind(Kind::from_u16(1)), 500),
            placed(&events[4..].iter().collect::<Vec<_>>())
        );
        let late = Filter::new().since(Timestamp::from_secs(98));
        assert_eq!(ids(&store, &late, 500), placed(&[&events[102], &events[103]]));
        assert_eq!(ids(&store, &Filter::new().id(events[7].id), 500), placed(&[&events[7]]));
        assert_eq!(ids(&store, &Filter::new(), 500), placed(&events.iter().collect::<Vec<_>>()));
        assert_eq!(ids(&store, &Filter::new().authors([]), 500), placed(&[]));
    }

    #[test]
    fn more_than_allowed_is_said_to_be_too_large() {
        let events: Vec<Event> = (0..10).map(|n| event(1, 1, n, &[], "")).collect();
        let store = store_of(&events);
        for filter in
            [Filter::new(), Filter::new().kind(Kind::from_u16(1)), Filter::new().ids(events.iter().map(|e| e.id))]
        {
            assert!(ids(&store, &filter, 10).is_some());
            assert_eq!(ids(&store, &filter, 9), None, "{filter:?}");
        }
    }

    #[test]
    fn what_is_deleted_expired_or_not_committed_is_left_out() {
        let kept = event(1, 1, 10, &[], "kept");
        let gone = event(1, 1, 11, &[], "gone");
        let over = event(1, 1, 12, &[&["expiration", "1000"]], "over");
        let lasting = event(1, 1, 13, &[&["expiration", "1001"]], "lasting");
        let mut store = store_of(&[kept.clone(), gone.clone(), over, lasting.clone()]);
        let deletion = event(1, 5, 14, &[&["e", &gone.id.to_hex()]], "");
        store.stage(deletion.clone()).unwrap();
        store.commit().unwrap();
        store.stage(event(1, 1, 15, &[], "waits")).unwrap();
        assert_eq!(ids(&store, &Filter::new(), 500), placed(&[&kept, &lasting, &deletion]));
        assert_eq!(ids(&store, &Filter::new().kind(Kind::from_u16(1)), 500), placed(&[&kept, &lasting]));
    }

    #[test]
    fn an_id_is_read_wherever_it_stands() {
        let event = event(1, 1, 10, &[], "");
        let json = event.as_json();
        assert!(json.starts_with("{\"id\":\""), "the quick way is taken");
        assert_eq!(id_of(&json).unwrap(), event.id);
        let other = format!("{{\"kind\":1,{}", &json[1..]).replace(",\"kind\":1,\"tags\"", ",\"tags\"");
        assert_eq!(id_of(&other).unwrap(), event.id);
        assert!(id_of("{\"id\":\"ab\"}").is_err());
    }
}
