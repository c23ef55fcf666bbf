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

/// The index. Bounded by what the sessions hold ([`crate::limits::CLIENT_BYTES_MAX`]).
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

    /// Takes out whatever is entered for a client, by looking at everything.
    pub fn forget_client(&mut self, client: u64) {
        self.entries.retain(|(_, key)| key.client != client);
    }

    /// Whether no subscription is entered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The subscriptions with a filter that may match, in the order of their keys.
    pub fn candidates(&self, event: &Event) -> Vec<SubscriptionKey> {
        let mut found = Vec::new();
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
        found.sort_unstable();
        found.dedup();
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
/// nothing ([`crate::store::matches_nothing`]).
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

#[cfg(test)]
mod tests {
    use nostr::event::{Kind, Signature, Tag, UnsignedEvent};
    use nostr::filter::{MatchEventOptions, SingleLetterTag};
    use nostr::key::PublicKey;
    use nostr::types::Timestamp;

    use super::*;
    use crate::store::matches_nothing;

    fn event(n: u8) -> Event {
        let tags = [vec!["e".to_owned(), format!("{}", n % 5)], vec!["A".to_owned(), format!("{}", n % 3)]];
        let tags = tags.into_iter().take(usize::from(n % 3)).map(|tag| Tag::parse(tag).unwrap());
        let author = PublicKey::from_byte_array([n % 4; 32]);
        let mut unsigned =
            UnsignedEvent::new(author, Timestamp::from_secs(n.into()), Kind::from_u16((n % 6).into()), tags, "");
        let id = unsigned.id();
        let sig = Signature::from_byte_array([0; 64]);
        Event::new(id, author, unsigned.created_at, unsigned.kind, unsigned.tags, unsigned.content, sig)
    }

    /// A filter for each choice of fields that `bits` makes.
    fn filter(bits: u8, n: u8) -> Filter {
        let mut filter = Filter::new();
        if bits & 1 != 0 {
            filter = filter.ids([event(n).id, event(n.wrapping_add(1)).id]);
        }
        if bits & 2 != 0 {
            filter = filter.author(PublicKey::from_byte_array([n % 4; 32]));
        }
        if bits & 4 != 0 {
            filter = filter.kinds([Kind::from_u16((n % 6).into()), Kind::from_u16(3)]);
        }
        if bits & 8 != 0 {
            filter = filter.custom_tags(SingleLetterTag::from_char('e').unwrap(), [(n % 5).to_string(), "4".into()]);
        }
        if bits & 16 != 0 {
            filter = filter.custom_tag(SingleLetterTag::from_char('A').unwrap(), (n % 3).to_string());
        }
        if bits & 32 != 0 {
            filter = filter.since(Timestamp::from_secs(n.into()));
        }
        filter
    }

    #[test]
    fn no_subscription_that_matches_is_passed_over() {
        let mut fanout = Fanout::default();
        let mut entered = Vec::new();
        for bits in 0..64_u8 {
            for n in [3, 10, 29] {
                let key = SubscriptionKey { client: (bits % 7).into(), number: entered.len() as u64 };
                let filters = vec![filter(bits, n), filter(bits.reverse_bits() >> 2, n + 1)];
                assert!(!filters.iter().any(matches_nothing));
                fanout.insert(key, &filters);
                entered.push((key, filters));
            }
        }
        let mut found = 0;
        for n in 0..60 {
            let event = event(n);
            let candidates = fanout.candidates(&event);
            for (key, filters) in &entered {
                if filters.iter().any(|filter| filter.match_event(&event, MatchEventOptions::new())) {
                    assert!(candidates.contains(key), "{filters:?} {event:?}");
                    found += 1;
                }
            }
        }
        assert!(found > 1_000, "the filters are worth a test: {found}");
        for (key, filters) in &entered {
            fanout.remove(*key, filters);
        }
        assert!(fanout.is_empty());
    }

    #[test]
    fn subscriptions_for_other_values_are_not_looked_at() {
        let mut fanout = Fanout::default();
        let tag = SingleLetterTag::from_char('e').unwrap();
        for number in 0..1_000 {
            let filter = Filter::new().kind(Kind::from_u16(1)).custom_tag(tag, format!("other {number}"));
            fanout.insert(SubscriptionKey { client: 1, number }, &[filter]);
        }
        assert!(fanout.candidates(&event(1)).is_empty());
    }
}
