//! From nostr's filters and back, for tests that build or compare them.

use nostr::event::{EventId, Kind};
use nostr::filter::{Filter as Asked, SingleLetterTag};
use nostr::key::PublicKey;
use nostr::types::Timestamp;

use super::{Bytes32, Filter, TagValue, TagValues, sorted};
use crate::time::UnixTime;

impl From<Asked> for Filter {
    /// Without `search`.
    fn from(asked: Asked) -> Filter {
        let tags = asked
            .generic_tags
            .iter()
            .map(|(letter, values)| TagValues::new(letter.as_byte(), values.iter().map(|value| TagValue::of(value))));
        let mut tags: Vec<TagValues> = tags.collect();
        tags.sort_by_key(TagValues::letter);
        Filter {
            ids: asked.ids.map(|ids| sorted(ids.iter().map(|id| id.to_bytes()).collect())),
            authors: asked.authors.map(|authors| sorted(authors.iter().map(|author| author.to_bytes()).collect())),
            kinds: asked.kinds.map(|kinds| sorted(kinds.iter().map(|kind| kind.as_u16()).collect())),
            tags: tags.into(),
            since: asked.since.map_or(UnixTime::EPOCH, UnixTime::from),
            until: asked.until.map_or(UnixTime::from_secs(u64::MAX), UnixTime::from),
            limit: asked.limit,
        }
    }
}

impl From<&Filter> for Asked {
    fn from(filter: &Filter) -> Asked {
        let of = |list: &Option<Box<[Bytes32]>>| list.clone().map(IntoIterator::into_iter);
        let tag = |tag: &TagValues| {
            let values = tag.iter().map(|value| match value {
                TagValue::Bytes(bytes) => EventId::from_byte_array(bytes).to_hex(),
                TagValue::Text(text) => text.to_owned(),
            });
            (SingleLetterTag::from_byte(tag.letter()).expect("a filter has letters"), values.collect())
        };
        Asked {
            ids: of(&filter.ids).map(|ids| ids.map(EventId::from_byte_array).collect()),
            authors: of(&filter.authors).map(|authors| authors.map(PublicKey::from_byte_array).collect()),
            kinds: filter.kinds().map(|kinds| kinds.iter().copied().map(Kind::from_u16).collect()),
            search: None,
            since: Some(Timestamp::from_secs(filter.since.as_secs())),
            until: Some(Timestamp::from_secs(filter.until.as_secs())),
            limit: filter.limit,
            generic_tags: filter.tags.iter().map(tag).collect(),
        }
    }
}
