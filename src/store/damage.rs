//! What was read and does not hold. A page that is damaged ends the store, save one of events: an event proves itself, by
//! its id and its author's signature, so of such a page what holds is kept, and the rest is named here to be forgotten.

use super::Seq;
use super::pages::{self, Shape};
use crate::protocol::message::RawEvent;
use nostr::event::EventId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A page is not what it was when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DamagedPage;

impl fmt::Display for DamagedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of the store is not what was written")
    }
}

impl std::error::Error for DamagedPage {}

/// Records that do not hold and wait to be forgotten, by sequence number: with their id where it can still be read.
#[derive(Debug, Default)]
pub(super) struct Damage {
    is_found: AtomicBool,
    records: Mutex<BTreeMap<Seq, Option<EventId>>>,
}

impl Damage {
    /// Whether a record waits.
    pub(super) fn is_found(&self) -> bool {
        self.is_found.load(Ordering::Relaxed)
    }

    /// A record does not hold.
    #[cold]
    pub(super) fn note(&self, seq: Seq, id: Option<EventId>) {
        let mut records = self.records.lock().expect("nobody panics with the lock");
        let known = records.entry(seq).or_default();
        *known = known.or(id);
        self.is_found.store(true, Ordering::Relaxed);
    }

    /// Takes out those that wait.
    pub(super) fn take(&self) -> BTreeMap<Seq, Option<EventId>> {
        self.is_found.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.records.lock().expect("nobody panics with the lock"))
    }
}

/// What stands in place of a record that was forgotten. Indexes may still name it.
pub(super) const FORGOTTEN: &str = "";

/// Whether the text under a sequence number may be an event's.
pub(super) fn is_record(json: &str) -> bool {
    json.starts_with('{')
}

/// Keeps what holds of a damaged leaf of events, and blanks the other records: they are no text any more that may be an
/// event's. Gives those, with the id that each seems to have had. `None` if more than events is damaged.
pub(super) fn blank(page: &mut [u8], shape: Shape) -> Option<Vec<(Seq, Option<EventId>)>> {
    let pairs = pages::pairs(page, shape)?;
    let seqs: Vec<Seq> =
        pairs.iter().filter_map(|(key, _)| page[key.clone()].try_into().ok()).map(Seq::from_le_bytes).collect();
    let is_whole = pages::entries(page) == seqs.len() && seqs.is_sorted_by(|a, b| a < b);
    if !is_whole {
        return None;
    }
    let mut blanked = Vec::new();
    for (seq, (_, value)) in seqs.into_iter().zip(pairs) {
        let record = &mut page[value];
        if record != FORGOTTEN.as_bytes() && !holds(record) {
            blanked.push((seq, id_of(record)));
            record.fill(b' ');
        }
    }
    // Where all events hold, it is their numbers that do not.
    (!blanked.is_empty()).then_some(blanked)
}

/// Whether these bytes are an event with its own id and its author's signature (NIP-01).
pub(super) fn holds(record: &[u8]) -> bool {
    let event = std::str::from_utf8(record).ok().and_then(|json| RawEvent::from_json(json).ok()?.parse().ok());
    event.is_some_and(|event| event.verify_id() && event.verify_signature())
}

/// The id at the beginning of a record.
fn id_of(record: &[u8]) -> Option<EventId> {
    let hex = record.strip_prefix(b"{\"id\":\"")?.get(..2 * EventId::LEN)?;
    crate::protocol::event_id(std::str::from_utf8(hex).ok()?)
}

#[cfg(test)]
pub(super) mod tests;
