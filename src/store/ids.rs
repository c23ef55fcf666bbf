//! The ids of what is held, for set reconciliation (NIP-77): without building events.
//!
//! A reconciliation compares sets of `(created_at, id)`. What the set holds too much costs a few bytes on the wire and
//! nothing else, and what it lacks is known when it comes. So tags are looked up by their digest and not checked again
//! on the event.

use super::index::Index;
use super::schema::{self, Place, TagPrefix};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError};
use crate::protocol::message::RawEvent;
use crate::time::UnixTime;
use nostr::event::EventId;
use nostr::key::PublicKey;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Which ids are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    by: By,
    /// Whose. They have far more than what is found, so it is looked up on the events.
    authors: Option<BTreeSet<PublicKey>>,
}

/// What finds the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    Kinds(Vec<u16>),
    /// Of any kind, if there are no kinds.
    Tags(Vec<TagPrefix>, Vec<u16>),
}

impl Selection {
    /// Every event.
    pub fn all() -> Selection {
        Selection { by: By::Nothing, authors: None }
    }

    /// Events of some kinds.
    pub fn of_kinds(kinds: &[u16]) -> Selection {
        Selection { by: By::Kinds(kinds.to_vec()), authors: None }
    }

    /// Events of some kinds by some authors. It costs as much as there are of these kinds by anybody.
    pub fn of_kinds_by(kinds: &[u16], authors: impl IntoIterator<Item = PublicKey>) -> Selection {
        Selection { authors: Some(authors.into_iter().collect()), ..Selection::of_kinds(kinds) }
    }

    /// Events, of these kinds if there are any, that have a tag of this letter with one of these values.
    pub fn tagging<T: AsRef<str>>(letter: char, values: impl IntoIterator<Item = T>, kinds: &[u16]) -> Selection {
        let letter = letter as u8;
        Selection::by_tags(values.into_iter().map(|value| schema::tag_prefix(letter, value.as_ref())).collect(), kinds)
    }

    /// The same for values that are ids of events.
    pub fn tagging_events<'a>(letter: char, ids: impl IntoIterator<Item = &'a EventId>, kinds: &[u16]) -> Selection {
        let letter = letter as u8;
        Selection::by_tags(ids.into_iter().map(|id| schema::id_tag_prefix(letter, id)).collect(), kinds)
    }

    fn by_tags(mut prefixes: Vec<TagPrefix>, kinds: &[u16]) -> Selection {
        // Neighbours in the index are looked up together.
        prefixes.sort_unstable();
        prefixes.dedup();
        Selection { by: By::Tags(prefixes, kinds.to_vec()), authors: None }
    }
}

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
    /// Gives time and id of every committed, unexpired event of a selection to `f`, some of them twice, in no particular
    /// order: at most `max`. It looks at no more than that many.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn for_each_id(
        &self,
        selection: &Selection,
        now: UnixTime,
        max: usize,
        f: &mut dyn FnMut(UnixTime, EventId),
    ) -> Result<IdSet, StoreError> {
        let snapshot = self.snapshot()?;
        let mut walk = Walk { snapshot, expired: expired(snapshot, now)?, places: Vec::new(), left: max };
        let noted = match &selection.by {
            By::Nothing => return walk.all(f),
            By::Kinds(kinds) => {
                let prefixes: Vec<_> = kinds.iter().map(|kind| kind.to_be_bytes()).collect();
                walk.index(snapshot.by_kind(), &prefixes, &[])?
            }
            By::Tags(prefixes, kinds) => walk.index(snapshot.by_tag(), prefixes, kinds)?,
        };
        if !noted {
            return Ok(IdSet::TooLarge);
        }
        match &selection.authors {
            Some(authors) => walk.give_by(authors, f)?,
            None => walk.give(f)?,
        }
        Ok(IdSet::Whole)
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
    expired: BTreeSet<Seq>,
    /// Where what is wanted stands.
    places: Vec<Place>,
    /// Entries that may still be looked at: the loop waits.
    left: usize,
}

impl Walk<'_> {
    /// Every event: the table of ids has all that is needed, in one piece.
    fn all(&self, f: &mut dyn FnMut(UnixTime, EventId)) -> Result<IdSet, StoreError> {
        if self.snapshot.ids_len()? > self.left as u64 {
            return Ok(IdSet::TooLarge);
        }
        for entry in self.snapshot.ids()? {
            let (id, seq, created_at) = entry?;
            if seq != schema::DELETED && !self.expired.contains(&seq) {
                f(UnixTime::from_secs(created_at), id);
            }
        }
        Ok(IdSet::Whole)
    }

    /// Notes what stands in an index under some prefixes and is of these kinds, if there are any. Says whether that is
    /// not too much to look at.
    fn index<const N: usize, const P: usize>(
        &mut self,
        index: Index<'_, N>,
        prefixes: &[[u8; P]],
        kinds: &[u16],
    ) -> Result<bool, StoreError> {
        for prefix in prefixes {
            let from: [u8; N] = schema::index_key(prefix, &schema::FIRST_PLACE);
            let to: [u8; N] = schema::index_key(prefix, &schema::LAST_PLACE);
            let mut entries = index.range(Bound::Included(&from), Bound::Included(&to))?;
            while let Some((key, kind)) = entries.next()? {
                if self.left == 0 {
                    return Ok(false);
                }
                self.left -= 1;
                let place = schema::key_place(&key);
                if (kinds.is_empty() || kinds.contains(&kind)) && !self.expired.contains(&schema::place_seq(&place)) {
                    self.places.push(place);
                }
            }
        }
        Ok(true)
    }

    /// Finds the whole ids of what was noted: a place has but the beginning of one.
    fn give(mut self, f: &mut dyn FnMut(UnixTime, EventId)) -> Result<(), StoreError> {
        if self.places.len() as u64 * SCAN_WORTH >= self.snapshot.ids_len()? {
            return self.give_by_scan(f);
        }
        self.look_at_each(|at, json| id_of(json).map(|id| f(at, id)))
    }

    /// The same of those that are by some authors.
    fn give_by(
        mut self,
        authors: &BTreeSet<PublicKey>,
        f: &mut dyn FnMut(UnixTime, EventId),
    ) -> Result<(), StoreError> {
        self.look_at_each(|at, json| {
            if authors.contains(&author_of(json)?) {
                f(at, id_of(json)?);
            }
            Ok(())
        })
    }

    fn look_at_each(
        &mut self,
        mut look: impl FnMut(UnixTime, &str) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // Neighbours in the table of events are read together.
        self.places.sort_unstable_by_key(schema::place_seq);
        for place in &self.places {
            let json = self.snapshot.events.get(schema::place_seq(place))?.ok_or(StoreError::Corrupt)?;
            look(UnixTime::from_secs(schema::place_created_at(place)), json.value())?;
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

/// The author in an event's JSON, likewise.
fn author_of(json: &str) -> Result<PublicKey, StoreError> {
    const BEFORE: usize = r#"{"id":"""#.len() + 2 * EventId::LEN;
    let hex = json.get(BEFORE..).and_then(|rest| rest.strip_prefix(",\"pubkey\":\""));
    if let Some(author) = hex.and_then(|rest| rest.get(..2 * PublicKey::LEN)).and_then(crate::protocol::public_key) {
        return Ok(author);
    }
    schema::parse(json).map(|event| event.pubkey)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{author, event};
    use super::*;
    use nostr::event::Event;

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    fn store_of(events: &[Event]) -> Store {
        let mut store = Store::in_memory();
        for event in events {
            store.stage(event.clone()).unwrap();
        }
        store.commit().unwrap();
        store
    }

    fn ids(store: &Store, selection: &Selection, max: usize) -> Option<BTreeSet<(u64, EventId)>> {
        let mut found = BTreeSet::new();
        let set = store.for_each_id(selection, NOW, max, &mut |at, id| _ = found.insert((at.as_secs(), id))).unwrap();
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
        let tag = |letter| Selection::tagging(letter, [&value], &[]);
        assert_eq!(ids(&store, &tag('e'), 500), placed(&[&events[0], &events[2]]));
        assert_eq!(ids(&store, &tag('E'), 500), placed(&[&events[1]]));
        assert_eq!(ids(&store, &tag('q'), 500), placed(&[]));
        assert_eq!(ids(&store, &Selection::tagging('e', [&value], &[7]), 500), placed(&[]));
        let id = EventId::from_byte_array([0xab; 32]);
        assert_eq!(Selection::tagging_events('e', [&id], &[]), tag('e'), "an id is tagged by its hexadecimal digits");
        let deletions = Selection::of_kinds_by(&[5], [author(3), author(9)]);
        assert_eq!(ids(&store, &deletions, 1), placed(&[&events[3]]), "nothing else of theirs is looked at");
        assert_eq!(ids(&store, &Selection::of_kinds(&[1]), 500), placed(&events[4..].iter().collect::<Vec<_>>()));
        assert_eq!(ids(&store, &Selection::all(), 500), placed(&events.iter().collect::<Vec<_>>()));
        assert_eq!(ids(&store, &Selection::of_kinds_by(&[5], []), 500), placed(&[]));
    }

    #[test]
    fn more_to_look_at_than_allowed_is_said_to_be_too_large() {
        let events: Vec<Event> = (0..10).map(|n| event(1, 1, n, &[&["t", "x"]], "")).collect();
        let store = store_of(&events);
        for selection in [
            Selection::all(),
            Selection::of_kinds(&[1]),
            Selection::of_kinds_by(&[1], [author(1)]),
            Selection::of_kinds_by(&[1], [author(2)]),
            Selection::tagging('t', ["x"], &[1]),
            Selection::tagging('t', ["x"], &[7]),
        ] {
            assert!(ids(&store, &selection, 10).is_some());
            assert_eq!(ids(&store, &selection, 9), None, "{selection:?}");
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
        assert_eq!(ids(&store, &Selection::all(), 500), placed(&[&kept, &lasting, &deletion]));
        assert_eq!(ids(&store, &Selection::of_kinds(&[1]), 500), placed(&[&kept, &lasting]));
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
        assert_eq!(author_of(&json).unwrap(), author(1));
        assert_eq!(author_of(&other).unwrap(), author(1));
        assert!(author_of("{\"pubkey\":\"ab\"}").is_err());
    }
}
