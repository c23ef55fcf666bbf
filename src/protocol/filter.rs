//! Filters of clients (NIP-01): as small as they can be kept, and matched without building anything.
//!
//! Clients choose how many filters we hold for them, and of how many values. So each list is one sorted piece of memory,
//! and whatever is written as 64 lower-case hexadecimal digits is 32 bytes. Of what a filter takes nothing is guessed
//! ([`Filter::bytes`]).

#[cfg(any(test, feature = "fuzzing"))]
mod convert;
mod read;
mod tags;
#[cfg(test)]
mod tests;

use nostr::event::{Event, Tag};

pub use self::tags::{EventTags, TagValue, TagValues};
use crate::time::UnixTime;

/// An event id or a public key.
pub type Bytes32 = [u8; 32];

/// What a client asks for. An empty list is a condition that nothing meets. `limit` is no condition, and `search` (NIP-50),
/// which is not offered, is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    ids: Option<Box<[Bytes32]>>,
    authors: Option<Box<[Bytes32]>>,
    kinds: Option<Box<[u16]>>,
    /// In the order of letters, each once.
    tags: Box<[TagValues]>,
    since: UnixTime,
    until: UnixTime,
    limit: Option<usize>,
}

/// The list of a filter that is likely to leave least over: an event that matches has one of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrowest<'a> {
    /// Event ids.
    Ids(&'a [Bytes32]),
    /// The tag with the fewest values.
    Tag(&'a TagValues),
    /// Public keys.
    Authors(&'a [Bytes32]),
    /// Kinds.
    Kinds(&'a [u16]),
    /// The filter has no list.
    Any,
}

impl Default for Filter {
    fn default() -> Filter {
        let tags = Box::default();
        let (since, until) = (UnixTime::EPOCH, UnixTime::from_secs(u64::MAX));
        Filter { ids: None, authors: None, kinds: None, tags, since, until, limit: None }
    }
}

impl Filter {
    /// Events of some kinds.
    pub fn of_kinds(kinds: impl IntoIterator<Item = u16>) -> Filter {
        Filter { kinds: Some(sorted(kinds.into_iter().collect())), ..Filter::default() }
    }

    /// Events of some kinds that have a tag of this letter and value.
    pub fn of_tag(kinds: impl IntoIterator<Item = u16>, letter: u8, value: &str) -> Filter {
        let tags = Box::new([TagValues::new(letter, [TagValue::of(value)])]);
        Filter { kinds: Some(sorted(kinds.into_iter().collect())), tags, ..Filter::default() }
    }

    /// Events of one kind.
    pub fn of_kind(kind: u16) -> Filter {
        Filter { kinds: Some(sorted(vec![kind])), ..Filter::default() }
    }

    /// The kinds it names, in order; `None`: any will do.
    pub fn kinds(&self) -> Option<&[u16]> {
        self.kinds.as_deref()
    }

    /// The event ids it names, in order; `None`: any will do.
    pub fn ids(&self) -> Option<&[Bytes32]> {
        self.ids.as_deref()
    }

    /// The public keys it names, in order; `None`: any will do.
    pub fn authors(&self) -> Option<&[Bytes32]> {
        self.authors.as_deref()
    }

    /// The values it asks of tags, by letter.
    pub fn tags(&self) -> &[TagValues] {
        &self.tags
    }

    /// No event before this matches.
    pub fn since(&self) -> UnixTime {
        self.since
    }

    /// No event after this matches.
    pub fn until(&self) -> UnixTime {
        self.until
    }

    /// Whether events of any time match.
    pub fn is_of_any_time(&self) -> bool {
        self.since == UnixTime::EPOCH && self.until == UnixTime::from_secs(u64::MAX)
    }

    /// How many stored events are wanted at most. With 0 it wants live events only.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// Values in all its lists.
    pub fn values(&self) -> usize {
        let listed = len(&self.ids) + len(&self.authors) + len(&self.kinds);
        listed + self.tags.iter().map(TagValues::len).sum::<usize>()
    }

    /// Bytes of memory that it takes with all its lists.
    pub fn bytes(&self) -> usize {
        let keys = size_of::<Bytes32>() * (len(&self.ids) + len(&self.authors));
        let kinds = size_of::<u16>() * len(&self.kinds);
        size_of::<Filter>() + keys + kinds + self.tags.iter().map(TagValues::bytes).sum::<usize>()
    }

    /// Ids, then the tag with the fewest values, authors, kinds.
    pub fn narrowest(&self) -> Narrowest<'_> {
        if let Some(ids) = &self.ids {
            return Narrowest::Ids(ids);
        }
        if let Some(tag) = self.tags.iter().min_by_key(|tag| tag.len()) {
            return Narrowest::Tag(tag);
        }
        match (&self.authors, &self.kinds) {
            (Some(authors), _) => Narrowest::Authors(authors),
            (None, Some(kinds)) => Narrowest::Kinds(kinds),
            (None, None) => Narrowest::Any,
        }
    }

    /// Whether no event at all can match: it has an empty list, or ends before it begins.
    pub fn matches_nothing(&self) -> bool {
        is_empty(&self.ids)
            || is_empty(&self.authors)
            || is_empty(&self.kinds)
            || self.tags.iter().any(TagValues::is_empty)
            || self.since > self.until
    }

    /// Whether an event meets every condition.
    pub fn matches(&self, event: &Event) -> bool {
        self.is_met(event, |wanted| {
            let named = event.tags.iter().filter(|tag| tag.kind().as_bytes() == [wanted.letter()]);
            named.filter_map(Tag::content).any(|value| wanted.contains(&TagValue::of(value)))
        })
    }

    /// [`Filter::matches`] for an event that is compared with many filters.
    pub fn matches_tags(&self, tags: &EventTags<'_>) -> bool {
        self.is_met(tags.event(), |wanted| tags.has(wanted))
    }

    /// What "matches" means; `has`: whether the event has a tag of this letter with one of these values.
    fn is_met(&self, event: &Event, has: impl Fn(&TagValues) -> bool) -> bool {
        let at = UnixTime::from(event.created_at);
        (self.since..=self.until).contains(&at)
            && self.wants_kind(event.kind.as_u16())
            && self.ids.as_ref().is_none_or(|ids| ids.binary_search(event.id.as_bytes()).is_ok())
            && self.authors.as_ref().is_none_or(|authors| authors.binary_search(event.pubkey.as_bytes()).is_ok())
            && self.tags.iter().all(has)
    }

    /// Whether events of this kind may match.
    pub fn wants_kind(&self, kind: u16) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.binary_search(&kind).is_ok())
    }
}

impl Narrowest<'_> {
    /// How many values it has; "any" is one.
    pub fn values(&self) -> usize {
        match self {
            Narrowest::Ids(keys) | Narrowest::Authors(keys) => keys.len(),
            Narrowest::Tag(tag) => tag.len(),
            Narrowest::Kinds(kinds) => kinds.len(),
            Narrowest::Any => 1,
        }
    }
}

/// Whether there is a list, and nothing in it.
fn is_empty<T>(list: &Option<Box<[T]>>) -> bool {
    list.as_ref().is_some_and(|list| list.is_empty())
}

fn len<T>(list: &Option<Box<[T]>>) -> usize {
    list.as_ref().map_or(0, |list| list.len())
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}
