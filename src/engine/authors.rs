//! The authors whose events are held, for the relays that ask for their deletions. There may be hundreds of thousands: they
//! are looked up a part at a time, once for all relays that want them at about the same time.

use std::rc::Rc;

use nostr::key::PublicKey;

use crate::limits::{AUTHORS_PER_LOOKUP, LOOKUP_PAUSE, SET_KEPT_FOR};
use crate::store::{Store, StoreError};
use crate::time::Instant;

/// How far that is.
#[derive(Debug, Default)]
pub(super) enum Authors {
    #[default]
    Unknown,
    /// These have been found, in the order of their keys.
    Gathering {
        found: Vec<PublicKey>,
        next_at: Instant,
    },
    Known {
        all: Rc<[PublicKey]>,
        at: Instant,
    },
}

impl Authors {
    /// All of them; `None` if a part has yet to be looked up. Who wants them asks again after [`LOOKUP_PAUSE`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn of(&mut self, store: &Store, now: Instant) -> Result<Option<Rc<[PublicKey]>>, StoreError> {
        let mut found = match std::mem::take(self) {
            Authors::Known { all, at } if now.since(at) <= SET_KEPT_FOR => {
                *self = Authors::Known { all: all.clone(), at };
                return Ok(Some(all));
            }
            Authors::Gathering { found, next_at } if next_at > now => {
                *self = Authors::Gathering { found, next_at };
                return Ok(None);
            }
            // Nobody has asked for long: what was found may be outdated.
            Authors::Gathering { next_at, .. } if now.since(next_at) > SET_KEPT_FOR => Vec::new(),
            Authors::Gathering { found, .. } => found,
            Authors::Unknown | Authors::Known { .. } => Vec::new(),
        };
        let last = found.last().copied();
        if store.authors_after(last.as_ref(), AUTHORS_PER_LOOKUP, &mut |author| found.push(author))? {
            *self = Authors::Gathering { found, next_at: now + LOOKUP_PAUSE };
            return Ok(None);
        }
        let all: Rc<[PublicKey]> = found.into();
        // Few are looked up anew as quickly.
        if all.len() >= AUTHORS_PER_LOOKUP {
            *self = Authors::Known { all: all.clone(), at: now };
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nostr::event::{Event, EventId, Kind, Signature, Tags};
    use nostr::types::Timestamp;
    use std::collections::BTreeSet;

    fn by(n: usize) -> Event {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let (key, at, kind) = (PublicKey::from_byte_array(key), Timestamp::from_secs(n as u64), Kind::from_u16(1));
        let id = EventId::compute(&key, &at, &kind, &Tags::new(), "");
        Event::new(id, key, at, kind, Tags::new(), "", Signature::from_byte_array([0; 64]))
    }

    fn store_of(authors: usize) -> (Store, BTreeSet<PublicKey>) {
        let mut store = Store::in_memory();
        let events: Vec<Event> = (0..authors).map(by).collect();
        for event in &events {
            store.stage(event.clone()).unwrap();
        }
        store.commit().unwrap();
        (store, events.into_iter().map(|event| event.pubkey).collect())
    }

    #[test]
    fn few_are_there_at_once_and_many_after_a_few_lookups() {
        for (count, lookups) in [(0, 1), (5, 1), (AUTHORS_PER_LOOKUP - 1, 1), (3 * AUTHORS_PER_LOOKUP + 1, 4)] {
            let (store, expected) = store_of(count);
            let (mut authors, mut now, mut asked) = (Authors::default(), Instant::ZERO, 0);
            let all = loop {
                asked += 1;
                if let Some(all) = authors.of(&store, now).unwrap() {
                    break all;
                }
                assert_eq!(authors.of(&store, now).unwrap(), None, "one part at a time, whoever asks");
                now = now + LOOKUP_PAUSE;
            };
            assert_eq!((asked, all.len()), (lookups, count));
            assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), expected);
            assert!(all.is_sorted());
        }
    }

    #[test]
    fn many_are_kept_for_a_moment_and_what_nobody_waits_for_is_dropped() {
        let (mut store, _) = store_of(AUTHORS_PER_LOOKUP);
        let (mut authors, start) = (Authors::default(), Instant::ZERO);
        assert_eq!(authors.of(&store, start).unwrap(), None);
        let known = start + LOOKUP_PAUSE;
        assert_eq!(authors.of(&store, known).unwrap().unwrap().len(), AUTHORS_PER_LOOKUP);
        store.stage(by(1_000_000)).unwrap();
        store.commit().unwrap();
        assert_eq!(authors.of(&store, known + SET_KEPT_FOR).unwrap().unwrap().len(), AUTHORS_PER_LOOKUP);
        let later = known + SET_KEPT_FOR + LOOKUP_PAUSE;
        assert_eq!(authors.of(&store, later).unwrap(), None, "they are looked up anew");
        let much_later = later + LOOKUP_PAUSE + SET_KEPT_FOR + LOOKUP_PAUSE;
        assert_eq!(authors.of(&store, much_later).unwrap(), None, "from the beginning");
        assert_eq!(authors.of(&store, much_later + LOOKUP_PAUSE).unwrap().unwrap().len(), AUTHORS_PER_LOOKUP + 1);
    }
}
