//! The events of a mock relay, indexed by what filters ask for, and who is to hear of new ones.

use super::connection::{Inbox, Mail};
use nostr::event::{Event, EventId};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, RwLock, Weak};

/// Shared by the relays that serve the same events.
#[derive(Clone, Default)]
pub struct RelayData(Arc<RwLock<Tables>>);

/// An event as a relay needs it.
pub(crate) struct Stored {
    pub id: EventId,
    pub json: Arc<str>,
    /// Grows with each event put in, so that a subscription can tell what came after it.
    pub number: u64,
    author: [u8; 32],
    kind: u16,
    created_at: u64,
    /// Single-letter tags with their first value.
    tags: Vec<(u8, Box<str>)>,
}

/// Newest first, ties by lowest id (NIP-01).
type Key = (Reverse<u64>, EventId);

#[derive(Default)]
struct Tables {
    next_number: u64,
    events: HashMap<EventId, Arc<Stored>>,
    all: BTreeSet<Key>,
    by_author: HashMap<[u8; 32], BTreeSet<Key>>,
    by_kind: HashMap<u16, BTreeSet<Key>>,
    by_tag: HashMap<u8, HashMap<Box<str>, BTreeSet<Key>>>,
    /// The current version of what is replaceable or addressable.
    current: HashMap<(u16, [u8; 32], Box<str>), EventId>,
    deleted: HashSet<(EventId, [u8; 32])>,
    listeners: Vec<Weak<Inbox>>,
}

impl RelayData {
    /// Puts events in and tells the open subscriptions. Nothing is verified: a test may want a relay that lies.
    pub fn add<'a>(&self, events: impl IntoIterator<Item = &'a Event>) {
        let mut tables = self.0.write().expect("no holder panics");
        for event in events {
            let Some(stored) = tables.put(event) else { continue };
            tables.listeners.retain(|listener| match listener.upgrade() {
                Some(inbox) => {
                    inbox.put(Mail::Live(Arc::clone(&stored)));
                    true
                }
                None => false,
            });
        }
    }

    /// Takes an event out, as if the relay had never had it.
    pub fn remove(&self, id: &EventId) {
        self.0.write().expect("no holder panics").take(id);
    }

    pub fn contains(&self, id: &EventId) -> bool {
        self.0.read().expect("no holder panics").events.contains_key(id)
    }

    pub fn len(&self) -> usize {
        self.0.read().expect("no holder panics").events.len()
    }

    /// The answer to a REQ: what matches any of `filters`, at most `answer_max` per filter, newest first; and the number
    /// from which on events are news to it.
    pub(crate) fn answer(&self, filters: &[RelayFilter], answer_max: usize) -> (Vec<Arc<Stored>>, u64) {
        let tables = self.0.read().expect("no holder panics");
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        for filter in filters {
            tables.matching(filter, answer_max, &mut |key| {
                keys.insert(key);
            });
        }
        (keys.iter().map(|(_, id)| Arc::clone(&tables.events[id])).collect(), tables.next_number)
    }

    /// Time and id of everything that matches, whatever `limit` the filter names.
    pub(crate) fn items(&self, filter: &RelayFilter) -> Vec<(u64, EventId)> {
        let tables = self.0.read().expect("no holder panics");
        let mut items = Vec::new();
        tables.matching(filter, usize::MAX, &mut |(Reverse(created_at), id)| items.push((created_at, id)));
        items
    }

    pub(crate) fn listen(&self, inbox: &Arc<Inbox>) {
        self.0.write().expect("no holder panics").listeners.push(Arc::downgrade(inbox));
    }
}

impl Tables {
    /// `None` if the relay would not keep it: known, deleted, or older than the version it has.
    fn put(&mut self, event: &Event) -> Option<Arc<Stored>> {
        let author = *event.pubkey.as_bytes();
        if self.events.contains_key(&event.id) || self.deleted.contains(&(event.id, author)) {
            return None;
        }
        let kind = event.kind.as_u16();
        let stored = Arc::new(Stored {
            id: event.id,
            json: event.as_json().into(),
            number: self.next_number,
            author,
            kind,
            created_at: event.created_at.as_secs(),
            tags: single_letter_tags(event),
        });
        if let Some(slot) = slot(&stored) {
            if let Some(&old) = self.current.get(&slot) {
                if key(&self.events[&old]) < key(&stored) {
                    return None;
                }
                self.take(&old);
            }
            self.current.insert(slot, stored.id);
        }
        self.next_number += 1;
        let key = key(&stored);
        self.all.insert(key);
        self.by_author.entry(author).or_default().insert(key);
        self.by_kind.entry(kind).or_default().insert(key);
        for (letter, value) in &stored.tags {
            self.by_tag.entry(*letter).or_default().entry(value.clone()).or_default().insert(key);
        }
        self.events.insert(stored.id, Arc::clone(&stored));
        if kind == 5 {
            self.delete_targets(&stored);
        }
        Some(stored)
    }

    fn take(&mut self, id: &EventId) {
        let Some(stored) = self.events.remove(id) else { return };
        let key = key(&stored);
        self.all.remove(&key);
        if let Some(set) = self.by_author.get_mut(&stored.author) {
            set.remove(&key);
        }
        if let Some(set) = self.by_kind.get_mut(&stored.kind) {
            set.remove(&key);
        }
        for (letter, value) in &stored.tags {
            if let Some(set) = self.by_tag.get_mut(letter).and_then(|values| values.get_mut(value)) {
                set.remove(&key);
            }
        }
        if let Some(slot) = slot(&stored)
            && self.current.get(&slot) == Some(id)
        {
            self.current.remove(&slot);
        }
    }

    /// NIP-09: what the author of a kind 5 event names, if it is theirs.
    fn delete_targets(&mut self, deletion: &Stored) {
        for (letter, value) in &deletion.tags {
            let target = match letter {
                b'e' => EventId::from_hex(value).ok(),
                b'a' => self.all.iter().map(|(_, id)| id).copied().find(|id| {
                    let event = &self.events[id];
                    address(event).as_deref() == Some(value) && event.created_at <= deletion.created_at
                }),
                _ => None,
            };
            let Some(target) = target else { continue };
            if *letter == b'e' {
                self.deleted.insert((target, deletion.author));
            }
            if self.events.get(&target).is_some_and(|e| e.author == deletion.author && e.kind != 5) {
                self.take(&target);
            }
        }
    }

    fn matching(&self, filter: &RelayFilter, answer_max: usize, found: &mut dyn FnMut(Key)) {
        let limit = filter.limit.unwrap_or(usize::MAX).min(answer_max);
        if limit == 0 {
            return;
        }
        if let Some(ids) = &filter.ids {
            let mut hits: Vec<Key> = ids
                .iter()
                .filter_map(|id| self.events.get(id))
                .filter(|event| filter.matches(event))
                .map(|event| key(event))
                .collect();
            hits.sort_unstable();
            hits.into_iter().take(limit).for_each(found);
            return;
        }
        let sets: Vec<&BTreeSet<Key>> = if let Some((letter, values)) = filter.tags.first() {
            let Some(by_value) = self.by_tag.get(letter) else { return };
            values.iter().filter_map(|value| by_value.get(value.as_str())).collect()
        } else if let Some(authors) = &filter.authors {
            authors.iter().filter_map(|author| self.by_author.get(author)).collect()
        } else if let Some(kinds) = &filter.kinds {
            kinds.iter().filter_map(|kind| self.by_kind.get(kind)).collect()
        } else {
            vec![&self.all]
        };
        newest_first(&sets, filter.until)
            .take_while(|(Reverse(created_at), _)| filter.since.is_none_or(|since| *created_at >= since))
            .filter(|(_, id)| filter.matches(&self.events[id]))
            .take(limit)
            .for_each(|key| found(*key));
    }
}

/// Merges sorted sets into one sorted run without doubles, from `until` on.
fn newest_first<'a>(sets: &[&'a BTreeSet<Key>], until: Option<u64>) -> impl Iterator<Item = &'a Key> + use<'a> {
    let start = (Reverse(until.unwrap_or(u64::MAX)), EventId::from_byte_array([0; 32]));
    let mut runs: Vec<_> = sets.iter().map(|set| set.range(start..)).collect();
    let mut heads: BinaryHeap<Reverse<(&'a Key, usize)>> = BinaryHeap::with_capacity(runs.len());
    for (n, run) in runs.iter_mut().enumerate() {
        heads.extend(run.next().map(|key| Reverse((key, n))));
    }
    let mut last: Option<&'a Key> = None;
    std::iter::from_fn(move || {
        loop {
            let Reverse((key, n)) = heads.pop()?;
            heads.extend(runs[n].next().map(|next| Reverse((next, n))));
            if last != Some(key) {
                last = Some(key);
                return last;
            }
        }
    })
}

fn key(event: &Stored) -> Key {
    (Reverse(event.created_at), event.id)
}

fn single_letter_tags(event: &Event) -> Vec<(u8, Box<str>)> {
    event
        .tags
        .iter()
        .filter_map(|tag| match tag.as_slice() {
            [name, value, ..] if name.len() == 1 && name.as_bytes()[0].is_ascii_alphabetic() => {
                Some((name.as_bytes()[0], value.as_str().into()))
            }
            _ => None,
        })
        .collect()
}

fn slot(event: &Stored) -> Option<(u16, [u8; 32], Box<str>)> {
    let identifier = match event.kind {
        0 | 3 | 10_000..20_000 => "",
        30_000..40_000 => event.tags.iter().find(|(letter, _)| *letter == b'd').map_or("", |(_, value)| value),
        _ => return None,
    };
    Some((event.kind, event.author, identifier.into()))
}

fn address(event: &Stored) -> Option<String> {
    let (kind, author, identifier) = slot(event)?;
    let author = nostr::key::PublicKey::from_byte_array(author);
    Some(format!("{kind}:{}:{identifier}", author.to_hex()))
}

/// A NIP-01 filter, ready to be asked of many events.
#[derive(Debug, Default)]
pub struct RelayFilter {
    ids: Option<HashSet<EventId>>,
    authors: Option<HashSet<[u8; 32]>>,
    kinds: Option<HashSet<u16>>,
    tags: Vec<(u8, HashSet<String>)>,
    since: Option<u64>,
    until: Option<u64>,
    pub(crate) limit: Option<usize>,
}

impl RelayFilter {
    /// `None` if it is not a filter that this relay understands; strfry refuses unknown fields too.
    pub fn parse(value: &Value) -> Option<RelayFilter> {
        let mut filter = RelayFilter::default();
        for (name, value) in value.as_object()? {
            match name.as_str() {
                "ids" => filter.ids = Some(list(value, |v| EventId::from_hex(v.as_str()?).ok())?),
                "authors" => {
                    let author = |v: &Value| Some(*nostr::key::PublicKey::from_hex(v.as_str()?).ok()?.as_bytes());
                    filter.authors = Some(list(value, author)?);
                }
                "kinds" => filter.kinds = Some(list(value, |v| u16::try_from(v.as_u64()?).ok())?),
                "since" => filter.since = Some(value.as_u64()?),
                "until" => filter.until = Some(value.as_u64()?),
                "limit" => filter.limit = Some(usize::try_from(value.as_u64()?).ok()?),
                _ => {
                    let [b'#', letter] = *name.as_bytes() else { return None };
                    filter.tags.push((letter, list(value, |v| Some(v.as_str()?.to_owned()))?));
                }
            }
        }
        Some(filter)
    }

    /// Whether it asks for events by their ids.
    pub(crate) fn names_ids(&self) -> bool {
        self.ids.is_some()
    }

    pub(crate) fn matches(&self, event: &Stored) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&event.id))
            && self.authors.as_ref().is_none_or(|authors| authors.contains(&event.author))
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && self.since.is_none_or(|since| event.created_at >= since)
            && self.until.is_none_or(|until| event.created_at <= until)
            && self.tags.iter().all(|(letter, values)| {
                event.tags.iter().any(|(name, value)| name == letter && values.contains(&**value))
            })
    }
}

fn list<T: std::hash::Hash + Eq>(value: &Value, one: impl Fn(&Value) -> Option<T>) -> Option<HashSet<T>> {
    value.as_array()?.iter().map(one).collect()
}
