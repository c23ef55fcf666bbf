//! The ids of what is held, for set reconciliation (NIP-77): without building events.
//!
//! A reconciliation compares sets of `(created_at, id)`. What the set holds too much costs a few bytes on the wire and
//! nothing else, and what it lacks is known when it comes. So tags are looked up by their digest and not checked again
//! on the event.

use super::StoreError;
use super::schema::{self, TagDigest};
use crate::protocol::filter::TagValue;
use crate::protocol::message::RawEvent;
use crate::time::UnixTime;
use nostr::event::EventId;
use nostr::key::PublicKey;
use std::collections::BTreeSet;

/// Which ids are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub(super) by: By,
    /// Not created before then.
    pub(super) since: UnixTime,
    /// Whose. They have far more than what is found, so it is looked up on the events.
    pub(super) authors: Option<BTreeSet<PublicKey>>,
}

/// What finds the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    Nothing,
    Kinds(Vec<u16>),
    Tags(Tags),
}

/// Tags of some letters with some values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tags {
    /// In order: neighbours in the index are looked up together.
    pub values: Vec<TagDigest>,
    /// In order, for the same reason: all of one value are one walk.
    pub letters: Vec<u8>,
    /// Of any kind, if there are none.
    pub kinds: Vec<u16>,
}

/// One id of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selected {
    /// The event's time.
    pub created_at: UnixTime,
    /// The event.
    pub id: EventId,
    /// The letter of the tag by which it was found.
    pub letter: Option<char>,
}

impl Selection {
    /// Every event.
    pub fn all() -> Selection {
        Selection { by: By::Nothing, since: UnixTime::EPOCH, authors: None }
    }

    /// Events of some kinds.
    pub fn of_kinds(kinds: &[u16]) -> Selection {
        Selection { by: By::Kinds(kinds.to_vec()), ..Selection::all() }
    }

    /// Events of some kinds by some authors. It costs as much as there are of these kinds by anybody.
    pub fn of_kinds_by(kinds: &[u16], authors: impl IntoIterator<Item = PublicKey>) -> Selection {
        Selection { authors: Some(authors.into_iter().collect()), ..Selection::of_kinds(kinds) }
    }

    /// Events, of these kinds if there are any, that have a tag of one of these letters with one of these values.
    pub fn tagging<T: AsRef<str>>(letters: &[char], values: impl IntoIterator<Item = T>, kinds: &[u16]) -> Selection {
        Selection::by_tags(
            letters,
            values.into_iter().map(|value| schema::tag_digest(&TagValue::of(value.as_ref()))).collect(),
            kinds,
        )
    }

    /// The same for values that are ids of events.
    pub fn tagging_events<'a>(
        letters: &[char],
        ids: impl IntoIterator<Item = &'a EventId>,
        kinds: &[u16],
    ) -> Selection {
        Selection::by_tags(
            letters,
            ids.into_iter().map(|id| schema::tag_digest(&TagValue::Bytes(id.to_bytes()))).collect(),
            kinds,
        )
    }

    fn by_tags(letters: &[char], mut values: Vec<TagDigest>, kinds: &[u16]) -> Selection {
        values.sort_unstable();
        values.dedup();
        let mut letters: Vec<u8> = letters.iter().map(|letter| *letter as u8).collect();
        letters.sort_unstable();
        Selection { by: By::Tags(Tags { values, letters, kinds: kinds.to_vec() }), ..Selection::all() }
    }

    /// Of these, what was created then or later. It costs as much as there is of that.
    #[must_use]
    pub fn since(self, since: UnixTime) -> Selection {
        Selection { since, ..self }
    }
}

/// The id in an event's JSON. The store writes it first; a look at the whole is only for what once was written otherwise.
pub(super) fn id_of(json: &str) -> Result<EventId, StoreError> {
    let hex = json.strip_prefix("{\"id\":\"").and_then(|rest| rest.get(..2 * EventId::LEN));
    if let Some(id) = hex.and_then(crate::protocol::event_id) {
        return Ok(id);
    }
    RawEvent::from_json(json).map(|raw| raw.id).map_err(|_| StoreError::Corrupt)
}

/// The author in an event's JSON, likewise.
pub(super) fn author_of(json: &str) -> Result<PublicKey, StoreError> {
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
    use super::super::{IdSearch, IdStep, Store};
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
        // Whatever the size of its steps, a search finds the same.
        let found = [1, 2, 7, usize::MAX].map(|entries| {
            let mut found = BTreeSet::new();
            let mut take = |held: Selected| _ = found.insert((held.created_at.as_secs(), held.id));
            let mut search = IdSearch::new(selection.clone(), max);
            let end = loop {
                match search.step(store, NOW, entries, &mut take).unwrap() {
                    IdStep::More => assert!(entries < usize::MAX),
                    end => break end,
                }
            };
            (end == IdStep::Whole).then_some(found)
        });
        assert!(found.iter().all(|other| *other == found[0]), "{selection:?}");
        found.into_iter().next().unwrap()
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
        let tag = |letter| Selection::tagging(&[letter], [&value], &[]);
        assert_eq!(ids(&store, &tag('e'), 500), placed(&[&events[0], &events[2]]));
        assert_eq!(ids(&store, &tag('E'), 500), placed(&[&events[1]]));
        assert_eq!(ids(&store, &tag('q'), 500), placed(&[]));
        assert_eq!(ids(&store, &Selection::tagging(&['e'], [&value], &[7]), 500), placed(&[]));
        let id = EventId::from_byte_array([0xab; 32]);
        assert_eq!(
            Selection::tagging_events(&['e'], [&id], &[]),
            tag('e'),
            "an id is tagged by its hexadecimal digits"
        );
        assert_eq!(ids(&store, &tag('e').since(UnixTime::from_secs(11)), 500), placed(&[]));
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
            Selection::tagging(&['t'], ["x"], &[1]),
            Selection::tagging(&['t'], ["x"], &[7]),
        ] {
            assert!(ids(&store, &selection, 10).is_some());
            assert_eq!(ids(&store, &selection, 9), None, "{selection:?}");
        }
    }

    #[test]
    fn what_is_older_than_asked_for_is_neither_given_nor_looked_at() {
        let value = "ab".repeat(32);
        let at = |n: u8, time: u64| event(n, 1_111, time, &[&["e", &value], &["E", &value]], "");
        let events = [at(1, 10), at(2, 20), at(3, 30), event(4, 5, 30, &[], "")];
        let store = store_of(&events);
        let by_letters = Selection::tagging(&['e', 'E', 'q'], [&value], &[]);
        for (selection, new) in [
            (by_letters, &events[1..3]),
            (Selection::of_kinds(&[1_111]), &events[1..3]),
            (Selection::of_kinds_by(&[1_111], [author(3), author(4)]), &events[2..3]),
            (Selection::all(), &events[1..]),
        ] {
            let selection = selection.since(UnixTime::from_secs(20));
            assert_eq!(ids(&store, &selection, 4), placed(&new.iter().collect::<Vec<_>>()), "{selection:?}");
        }
        let newest = Selection::of_kinds(&[1_111]).since(UnixTime::from_secs(30));
        assert_eq!(ids(&store, &newest, 1), placed(&[&events[2]]), "one entry is looked at");
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
