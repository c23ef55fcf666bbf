//! What events refer to (NIP-01): an event by its id, or whatever is current under an address.

use std::collections::BTreeSet;

use nostr::event::{Event, EventId};
use nostr::key::PublicKey;

use super::repo::identifier;
use super::{event_id, public_key};

/// The address of what is replaced by newer versions: `kind:pubkey:d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// A kind that has addresses.
    pub kind: u16,
    /// Whose it is.
    pub author: PublicKey,
    /// The `d` tag; empty where the kind and the author are all.
    pub identifier: &'a str,
}

impl<'a> Address<'a> {
    /// Parses the value of a tag. `None` if it is malformed or of a kind that has no addresses.
    pub fn parse(value: &'a str) -> Option<Address<'a>> {
        let mut parts = value.splitn(3, ':');
        let kind: u16 = parts.next()?.parse().ok()?;
        let author = public_key(parts.next()?)?;
        let identifier = parts.next()?;
        let has_address = is_addressable(kind) || (is_replaceable(kind) && identifier.is_empty());
        has_address.then_some(Address { kind, author, identifier })
    }

    /// The address of an event that replaces or is replaced; `None` for all others.
    pub fn of(event: &'a Event) -> Option<Address<'a>> {
        let (kind, author) = (event.kind.as_u16(), event.pubkey);
        if is_replaceable(kind) {
            Some(Address { kind, author, identifier: "" })
        } else if is_addressable(kind) {
            Some(Address { kind, author, identifier: identifier(event).unwrap_or_default() })
        } else {
            None
        }
    }
}

/// What one tag refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// An event.
    Event(EventId),
    /// What is current under an address.
    Address(Address<'a>),
}

/// The first `max` things that an event refers to by `e`, `E`, `a`, `A` and `q`, each once, in order.
pub fn references(event: &Event, max: usize) -> impl Iterator<Item = Reference<'_>> {
    let values = distinct(event.tags.iter().filter_map(|tag| match tag.kind() {
        "e" | "E" | "a" | "A" | "q" => tag.content(),
        _ => None,
    }));
    let read = |value| event_id(value).map(Reference::Event).or_else(|| Address::parse(value).map(Reference::Address));
    values.filter_map(read).take(max)
}

/// The same values without repetitions, in order.
pub(super) fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    // Mostly the first decides, and no memory is asked for.
    let mut first = None;
    let mut further = BTreeSet::new();
    values.filter(move |value| match first {
        None => {
            first = Some(*value);
            true
        }
        Some(first) => *value != first && further.insert(*value),
    })
}

/// Kinds of which only the newest version per author is kept (NIP-01).
pub fn is_replaceable(kind: u16) -> bool {
    matches!(kind, 0 | 3 | 10_000..=19_999)
}

/// Kinds of which only the newest version per author and `d` tag is kept (NIP-01).
pub fn is_addressable(kind: u16) -> bool {
    matches!(kind, 30_000..=39_999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{author, event};

    #[test]
    fn addresses_are_parsed_as_events_have_them() {
        let list = event(1, 10_317, 5, &[&["d", "ignored"]], "");
        let article = event(1, 30_023, 5, &[&["d", "a:b"], &["d", "other"]], "");
        let nameless = event(1, 30_023, 5, &[], "");
        for (event, identifier) in [(&list, ""), (&article, "a:b"), (&nameless, "")] {
            let text = format!("{}:{}:{identifier}", event.kind.as_u16(), author(1));
            assert_eq!(Address::parse(&text), Address::of(event));
            assert!(Address::of(event).is_some_and(|address| address.identifier == identifier));
        }
        assert_eq!(Address::of(&event(1, 1_621, 5, &[], "")), None);
        let key = author(1);
        for none in [format!("10317:{key}:x"), format!("1621:{key}:"), format!("30023:{key}"), "30023:x:y".to_owned()] {
            assert_eq!(Address::parse(&none), None, "{none}");
        }
    }

    #[test]
    fn references_count_once_and_up_to_the_bound() {
        let ids: Vec<String> = (1..=3).map(|n| format!("{n:064x}")).collect();
        let address = format!("30023:{}:x", author(2));
        let tags: [&[&str]; 9] = [
            &["e", &ids[0], "wss://hint.example"],
            &["E", &ids[0]],
            &["p", &ids[1]],
            &["q", &address],
            &["a", &address],
            &["e", "no id"],
            &["A", &ids[2]],
            &["e"],
            &["q", &ids[1]],
        ];
        let event = event(1, 1_111, 5, &tags, "");
        let id = |n: usize| Reference::Event(event_id(&ids[n]).unwrap());
        let all = [id(0), Reference::Address(Address::parse(&address).unwrap()), id(2), id(1)];
        assert_eq!(references(&event, 16).collect::<Vec<_>>(), all);
        assert_eq!(references(&event, 2).collect::<Vec<_>>(), all[..2]);
    }
}
