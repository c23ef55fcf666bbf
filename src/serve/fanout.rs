//! Which live subscriptions a stored event may concern, without asking each of them.
//!
//! Every filter is entered under the values of *one* of its fields, the most selective one it has: ids, then the shortest
//! tag list, then authors, then kinds; a filter with none of these is entered under "any". An event that matches the filter
//! has one of those values, so looking up the event's own values finds a superset of the subscriptions that match, and only
//! those are compared in full. Values are kept as 64-bit hashes: a collision costs a comparison, never an answer. What a
//! subscription then does with the event is the session's business.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use nostr::event::Event;
use nostr::filter::Filter;

/// One subscription: its client's number and its own, which is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubscriptionKey {
    /// The client's number.
    pub client: u64,
    /// The subscription's number.
    pub number: u64,
}

/// The index. Bounded by what the sessions hold ([`crate::limits::CLIENTS_REQ_BYTES_MAX`]).
#[derive(Debug, Default)]
pub struct Fanout {
    entries: BTreeSet<(u64, SubscriptionKey)>,
}

impl Fanout {
    /// Enters a subscription.
    pub fn insert(&mut self, key: SubscriptionKey, filters: &[Filter]) {
        for filter in filters {
            for_each_anchor(filter, |anchor| {
                self.entries.insert((anchor, key));
            });
        }
    }

    /// Takes a subscription out again; `filters` as they were entered.
    pub fn remove(&mut self, key: SubscriptionKey, filters: &[Filter]) {
        for filter in filters {
            for_each_anchor(filter, |anchor| {
                self.entries.remove(&(anchor, key));
            });
        }
    }

    /// Whether no subscription is entered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The subscriptions with a filter that may match, in the order of their keys.
    pub fn candidates(&self, event: &Event) -> BTreeSet<SubscriptionKey> {
        let mut found = BTreeSet::new();
        if self.entries.is_empty() {
            return found;
        }
        let mut look_up = |anchor: u64| {
            let first = SubscriptionKey { client: 0, number: 0 };
            let last = SubscriptionKey { client: u64::MAX, number: u64::MAX };
            found.extend(self.entries.range((anchor, first)..=(anchor, last)).map(|(_, key)| *key));
        };
        look_up(anchor(Field::Any, &()));
        look_up(anchor(Field::Id, event.id.as_bytes()));
        look_up(anchor(Field::Author, event.pubkey.as_bytes()));
        look_up(anchor(Field::Kind, &event.kind.as_u16()));
        for tag in event.tags.iter() {
            if let (Some(letter), Some(value)) = (tag.single_letter_tag(), tag.content()) {
                look_up(anchor(Field::Tag(letter.as_byte()), value));
            }
        }
        found
    }
}

/// The field under whose values a filter is entered.
#[derive(Hash)]
enum Field {
    Any,
    Id,
    Author,
    Kind,
    Tag(u8),
}

/// `DefaultHasher::new` has fixed keys, so equal runs stay equal.
fn anchor<V: Hash + ?Sized>(field: Field, value: &V) -> u64 {
    let mut hasher = DefaultHasher::new();
    field.hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

/// Calls `f` with each value of the filter's most selective field. Filters with an empty list do not come here: they match
/// nothing ([`crate::store::query::matches_nothing`]).
fn for_each_anchor(filter: &Filter, mut f: impl FnMut(u64)) {
    let tags = filter.generic_tags.iter().min_by_key(|(_, values)| values.len());
    if let Some(ids) = &filter.ids {
        ids.iter().for_each(|id| f(anchor(Field::Id, id.as_bytes())));
    } else if let Some((letter, values)) = tags {
        values.iter().for_each(|value| f(anchor(Field::Tag(letter.as_byte()), value.as_str())));
    } else if let Some(authors) = &filter.authors {
        authors.iter().for_each(|author| f(anchor(Field::Author, author.as_bytes())));
    } else if let Some(kinds) = &filter.kinds {
        kinds.iter().for_each(|kind| f(anchor(Field::Kind, &kind.as_u16())));
    } else {
        f(anchor(Field::Any, &()));
    }
}
