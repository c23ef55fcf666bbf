//! Filters of clients (NIP-01): strictly read, and matched without building anything.
//!
//! `nostr` reads filters too, but takes keys in other forms than the canonical one, cuts over-long ones short, lets the
//! second of two equal tag lists win, and takes an empty list of ids, authors or kinds for no condition. A client that
//! asks for no authors wants no events. And a list from outside must not grow beyond what may be asked for.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use nostr::event::{Event, Kind, Tag};
use nostr::filter::{Filter, SingleLetterTag};
use nostr::types::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Text, event_id, public_key};
use crate::limits::CLIENT_FILTER_VALUES_MAX;

/// Values in all lists of a filter.
pub fn filter_values(filter: &Filter) -> usize {
    let listed = filter.ids.as_ref().map_or(0, BTreeSet::len)
        + filter.authors.as_ref().map_or(0, BTreeSet::len)
        + filter.kinds.as_ref().map_or(0, BTreeSet::len);
    listed + filter.generic_tags.values().map(BTreeSet::len).sum::<usize>()
}

/// Whether an event meets every condition of a filter. An empty list is a condition that nothing meets. `limit` and
/// `search` (NIP-50, which is not offered) are no conditions.
pub fn filter_matches(filter: &Filter, event: &Event) -> bool {
    let has = |letter: &SingleLetterTag, values: &BTreeSet<String>| {
        let named = event.tags.iter().filter(|tag| tag.kind() == letter.as_str());
        named.filter_map(Tag::content).any(|value| values.contains(value))
    };
    matches_but_for_tags(filter, event) && filter.generic_tags.iter().all(|(letter, values)| has(letter, values))
}

/// The tags of an event that filters ask for, by letter and first value: put in order for the first filter that asks, for one
/// event is compared with many.
#[derive(Debug)]
pub struct EventTags<'a> {
    event: &'a Event,
    in_order: OnceCell<Vec<(u8, &'a str)>>,
}

impl<'a> EventTags<'a> {
    /// Those of an event.
    pub fn of(event: &'a Event) -> EventTags<'a> {
        EventTags { event, in_order: OnceCell::new() }
    }

    /// How many there are at most.
    pub fn len_max(&self) -> usize {
        self.event.tags.len()
    }

    fn in_order(&self) -> &[(u8, &'a str)] {
        self.in_order.get_or_init(|| {
            let letter_of = |tag: &Tag| match tag.kind().as_bytes() {
                [letter] => Some(*letter),
                _ => None,
            };
            let named = |tag: &'a Tag| Some((letter_of(tag)?, tag.content()?));
            let mut tags: Vec<(u8, &str)> = self.event.tags.iter().filter_map(named).collect();
            tags.sort_unstable();
            tags.dedup();
            tags
        })
    }

    fn of_letter(&self, letter: u8) -> &[(u8, &'a str)] {
        let tags = self.in_order();
        let these = &tags[tags.partition_point(|(of, _)| *of < letter)..];
        &these[..these.partition_point(|(of, _)| *of == letter)]
    }

    /// Whether one of a letter has one of these values. The shorter list is gone through.
    fn has(&self, letter: u8, values: &BTreeSet<String>) -> bool {
        let named = self.of_letter(letter);
        match named.len() <= values.len() {
            true => named.iter().any(|(_, value)| values.contains(*value)),
            false => values.iter().any(|value| named.binary_search(&(letter, value.as_str())).is_ok()),
        }
    }
}

/// [`filter_matches`] for an event whose tags are in order.
pub fn filter_matches_tags(filter: &Filter, event: &Event, tags: &EventTags<'_>) -> bool {
    matches_but_for_tags(filter, event)
        && filter.generic_tags.iter().all(|(letter, values)| tags.has(letter.as_byte(), values))
}

fn matches_but_for_tags(filter: &Filter, event: &Event) -> bool {
    filter.since.is_none_or(|since| event.created_at >= since)
        && filter.until.is_none_or(|until| event.created_at <= until)
        && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
        && filter.ids.as_ref().is_none_or(|ids| ids.contains(&event.id))
        && filter.authors.as_ref().is_none_or(|authors| authors.contains(&event.pubkey))
}

/// A filter as a client may write it. Unknown fields are ignored and `null` is no condition; lists of ids and authors
/// hold canonical hexadecimal only, and a field twice is refused. Of more values than [`CLIENT_FILTER_VALUES_MAX`] only
/// one too many is kept, as a sign that there were too many.
pub(super) struct ClientFilter(pub(super) Filter);

impl<'de> Deserialize<'de> for ClientFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FilterVisitor).map(ClientFilter)
    }
}

struct FilterVisitor;

impl<'de> Visitor<'de> for FilterVisitor {
    type Value = Filter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a filter")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filter, A::Error> {
        let mut filter = Filter::new();
        let mut room = CLIENT_FILTER_VALUES_MAX + 1;
        while let Some(Text(field)) = map.next_key()? {
            match field.as_ref() {
                "ids" => once(&mut filter.ids, list(&mut map, &mut room, |text: Text<'_>| event_id(&text.0))?)?,
                "authors" => {
                    once(&mut filter.authors, list(&mut map, &mut room, |text: Text<'_>| public_key(&text.0))?)?;
                }
                "kinds" => once(&mut filter.kinds, list(&mut map, &mut room, |kind| Some(Kind::from_u16(kind)))?)?,
                "since" => once(&mut filter.since, map.next_value::<Option<u64>>()?.map(Timestamp::from_secs))?,
                "until" => once(&mut filter.until, map.next_value::<Option<u64>>()?.map(Timestamp::from_secs))?,
                "limit" => once(&mut filter.limit, map.next_value()?)?,
                field => match field.strip_prefix('#') {
                    Some(name) => {
                        let letter = letter(name).ok_or_else(|| A::Error::custom("no single letter"))?;
                        let values = list(&mut map, &mut room, |text: Text<'_>| Some(text.0.into_owned()))?;
                        let mut twice = filter.generic_tags.remove(&letter);
                        once(&mut twice, values)?;
                        filter.generic_tags.extend(twice.map(|values| (letter, values)));
                    }
                    None => {
                        map.next_value::<IgnoredAny>()?;
                    }
                },
            }
        }
        Ok(filter)
    }
}

fn letter(name: &str) -> Option<SingleLetterTag> {
    let mut chars = name.chars();
    match (chars.next(), chars.next()) {
        (Some(letter), None) => SingleLetterTag::from_char(letter).ok(),
        _ => None,
    }
}

/// Sets a field that has not been set before.
fn once<T, E: serde::de::Error>(field: &mut Option<T>, value: Option<T>) -> Result<(), E> {
    match (&field, value) {
        (Some(_), _) => Err(E::custom("a field twice")),
        (None, value) => {
            *field = value;
            Ok(())
        }
    }
}

/// The value of a list field, each element read as `R` and then by `parse`, at most as many as there is `room` left for.
fn list<'de, A, R, T>(
    map: &mut A,
    room: &mut usize,
    parse: impl Fn(R) -> Option<T>,
) -> Result<Option<BTreeSet<T>>, A::Error>
where
    A: MapAccess<'de>,
    R: Deserialize<'de>,
    T: Ord,
{
    map.next_value_seed(List { room, parse, read: PhantomData })
}

struct List<'r, P, R> {
    room: &'r mut usize,
    parse: P,
    read: PhantomData<R>,
}

impl<'de, R, T, P> DeserializeSeed<'de> for List<'_, P, R>
where
    R: Deserialize<'de>,
    T: Ord,
    P: Fn(R) -> Option<T>,
{
    type Value = Option<BTreeSet<T>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R, T, P> Visitor<'de> for List<'_, P, R>
where
    R: Deserialize<'de>,
    T: Ord,
    P: Fn(R) -> Option<T>,
{
    type Value = Option<BTreeSet<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = BTreeSet::new();
        while *self.room > 0
            && let Some(element) = seq.next_element()?
        {
            let value = (self.parse)(element).ok_or_else(|| A::Error::custom("not canonical"))?;
            *self.room -= usize::from(values.insert(value));
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(values))
    }
}

#[cfg(test)]
mod tests {
    use nostr::event::{EventId, Signature};
    use nostr::filter::MatchEventOptions;
    use nostr::key::PublicKey;

    use super::*;

    const KEY: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

    fn read(json: &str) -> Option<Filter> {
        serde_json::from_str::<ClientFilter>(json).ok().map(|filter| filter.0)
    }

    fn event() -> Event {
        let tags = [["e", "x"], ["p", "y"], ["e", "z"]].map(|tag| Tag::parse(tag).unwrap());
        let (id, key) = (EventId::from_byte_array([1; 32]), PublicKey::from_hex(KEY).unwrap());
        Event::new(
            id,
            key,
            Timestamp::from_secs(1_000),
            Kind::from_u16(1621),
            tags,
            "",
            Signature::from_byte_array([0; 64]),
        )
    }

    #[test]
    fn a_filter_with_everything() {
        let json = format!(
            r##"{{"ids":["{0}"],"authors":["{KEY}"],"kinds":[1,65535],"since":1,"until":18446744073709551615,
            "limit":0,"#e":["x","x"],"#A":["30617:{KEY}:a:b"],"search":"s","other":[{{"a":[]}}]}}"##,
            "1".repeat(64)
        );
        let filter = read(&json).unwrap();
        let mut expected: Filter = serde_json::from_str(&json).unwrap();
        expected.search = None;
        assert_eq!(filter, expected);
        assert_eq!(filter_values(&filter), 6);
        assert_eq!(serde_json::from_str::<Filter>(&serde_json::to_string(&filter).unwrap()).unwrap(), filter);
    }

    #[test]
    fn null_is_no_condition_and_an_empty_list_is_one() {
        assert_eq!(read(r##"{"ids":null,"since":null,"limit":null,"#e":null}"##), Some(Filter::new()));
        assert!(filter_matches(&Filter::new(), &event()));
        for empty in [r#"{"ids":[]}"#, r#"{"authors":[]}"#, r#"{"kinds":[]}"#, r##"{"#e":[]}"##] {
            assert!(!filter_matches(&read(empty).unwrap(), &event()), "{empty}");
        }
    }

    #[test]
    fn wrong_filters_are_refused() {
        for json in [
            "null".to_owned(),
            "[]".to_owned(),
            r#"{"ids":["abcd"]}"#.to_owned(),
            r#"{"ids":"x"}"#.to_owned(),
            r#"{"ids":{}}"#.to_owned(),
            r#"{"ids":[1]}"#.to_owned(),
            format!(r#"{{"authors":["{}"]}}"#, KEY.to_uppercase()),
            format!(r#"{{"authors":["{KEY}00"]}}"#),
            r#"{"kinds":[65536]}"#.to_owned(),
            r#"{"kinds":[-1]}"#.to_owned(),
            r#"{"kinds":[1.0]}"#.to_owned(),
            r#"{"kinds":["1"]}"#.to_owned(),
            r#"{"kinds":[1],"kinds":[2]}"#.to_owned(),
            r#"{"since":-1}"#.to_owned(),
            r#"{"until":"1"}"#.to_owned(),
            r#"{"limit":-1}"#.to_owned(),
            r#"{"limit":1,"limit":1}"#.to_owned(),
            r##"{"#e":["a"],"#e":["b"]}"##.to_owned(),
            r##"{"#e":[null]}"##.to_owned(),
            r##"{"#ee":["a"]}"##.to_owned(),
            r##"{"#1":["a"]}"##.to_owned(),
            r##"{"#":["a"]}"##.to_owned(),
        ] {
            assert_eq!(read(&json), None, "{json}");
        }
    }

    #[test]
    fn too_many_values_are_seen_but_not_kept() {
        let list = |n: usize| (0..n).map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(",");
        let json = format!(r##"{{"#a":[{}],"#e":[{}],"kinds":[1]}}"##, list(CLIENT_FILTER_VALUES_MAX), list(50));
        assert_eq!(filter_values(&read(&json).unwrap()), CLIENT_FILTER_VALUES_MAX + 1);
        let json = format!(r##"{{"#a":[{}]}}"##, list(CLIENT_FILTER_VALUES_MAX));
        assert_eq!(filter_values(&read(&json).unwrap()), CLIENT_FILTER_VALUES_MAX);
    }

    #[test]
    fn each_condition_decides() {
        let event = event();
        for (json, matches) in [
            (r#"{"since":1000,"until":1000,"limit":0}"#, true),
            (r#"{"since":1001}"#, false),
            (r#"{"until":999}"#, false),
            (r#"{"kinds":[1,1621]}"#, true),
            (r#"{"kinds":[1]}"#, false),
            (r##"{"#e":["z"],"#p":["y","q"]}"##, true),
            (r##"{"#e":["z"],"#p":["q"]}"##, false),
            (r##"{"#E":["z"]}"##, false),
            (r#"{"ids":["0101010101010101010101010101010101010101010101010101010101010101"]}"#, true),
            (r#"{"ids":["0202020202020202020202020202020202020202020202020202020202020202"]}"#, false),
            (r#"{"authors":["79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"]}"#, true),
            (r#"{"authors":["0202020202020202020202020202020202020202020202020202020202020202"]}"#, false),
        ] {
            let filter = read(json).unwrap();
            assert_eq!(filter_matches(&filter, &event), matches, "{json}");
            assert_eq!(filter_matches_tags(&filter, &event, &EventTags::of(&event)), matches, "{json}");
            assert_eq!(filter.match_event(&event, MatchEventOptions::new()), matches, "{json}");
        }
    }
}
