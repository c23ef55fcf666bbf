//! A filter as a client may write it (NIP-01), read strictly.
//!
//! `nostr` reads filters too, but takes keys in other forms than the canonical one, cuts over-long ones short, lets the
//! second of two equal tag lists win, and takes an empty list of ids, authors or kinds for no condition. A client that
//! asks for no authors wants no events. And a list from outside must not grow beyond what may be asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use nostr::filter::SingleLetterTag;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Bytes32, Filter, TagValue, TagValues};
use crate::limits::CLIENT_FILTER_VALUES_MAX;
use crate::protocol::Text;
use crate::time::UnixTime;

/// Unknown fields are ignored and `null` is no condition; lists of ids and authors hold canonical hexadecimal only, and a
/// field twice is refused. Of more values than [`CLIENT_FILTER_VALUES_MAX`] only one too many is kept, as a sign that there
/// were too many.
impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FilterVisitor)
    }
}

struct FilterVisitor;

impl<'de> Visitor<'de> for FilterVisitor {
    type Value = Filter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a filter")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filter, A::Error> {
        let (mut filter, mut since, mut until) = (Filter::default(), None, None);
        let mut tags: Vec<TagValues> = Vec::new();
        let mut room = CLIENT_FILTER_VALUES_MAX + 1;
        while let Some(Text(field)) = map.next_key()? {
            match field.as_ref() {
                "ids" => once(&mut filter.ids, list(&mut map, &mut room, bytes32)?.map(Vec::into))?,
                "authors" => once(&mut filter.authors, list(&mut map, &mut room, bytes32)?.map(Vec::into))?,
                "kinds" => once(&mut filter.kinds, list(&mut map, &mut room, Some::<u16>)?.map(Vec::into))?,
                "since" => once(&mut since, map.next_value::<Option<u64>>()?)?,
                "until" => once(&mut until, map.next_value::<Option<u64>>()?)?,
                "limit" => once(&mut filter.limit, map.next_value()?)?,
                field => match field.strip_prefix('#') {
                    Some(name) => {
                        let letter = letter(name).ok_or_else(|| A::Error::custom("no single letter"))?;
                        let values = tag_values(letter, &mut map, &mut room)?;
                        if tags.iter().any(|tag| tag.letter() == letter) {
                            return Err(A::Error::custom("a field twice"));
                        }
                        tags.reserve_exact(1);
                        tags.extend(values);
                    }
                    None => {
                        map.next_value::<IgnoredAny>()?;
                    }
                },
            }
        }
        tags.sort_unstable_by_key(TagValues::letter);
        filter.tags = tags.into();
        filter.since = since.map_or(filter.since, UnixTime::from_secs);
        filter.until = until.map_or(filter.until, UnixTime::from_secs);
        Ok(filter)
    }
}

fn bytes32(text: Text<'_>) -> Option<Bytes32> {
    match TagValue::of(&text.0) {
        TagValue::Bytes(bytes) => Some(bytes),
        TagValue::Text(_) => None,
    }
}

fn letter(name: &str) -> Option<u8> {
    let mut chars = name.chars();
    match (chars.next(), chars.next()) {
        (Some(letter), None) => SingleLetterTag::from_char(letter).ok().map(SingleLetterTag::as_byte),
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

/// The values of a tag's list.
fn tag_values<'de, A: MapAccess<'de>>(
    letter: u8,
    map: &mut A,
    room: &mut usize,
) -> Result<Option<TagValues>, A::Error> {
    let texts = list(map, room, |text: Text<'de>| Some(text.0))?;
    Ok(texts.map(|texts| TagValues::new(letter, texts.iter().map(|text| TagValue::of(text)))))
}

/// The value of a list field, each element read as `R` and then by `parse`, in order and each once, at most as many as there
/// is `room` left for.
fn list<'de, A, R, T>(map: &mut A, room: &mut usize, parse: impl Fn(R) -> Option<T>) -> Result<Option<Vec<T>>, A::Error>
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
    type Value = Option<Vec<T>>;

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
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let parse = |element| (self.parse)(element).ok_or_else(|| A::Error::custom("not canonical"));
        let mut values = Vec::new();
        while values.len() < *self.room
            && let Some(element) = seq.next_element()?
        {
            values.push(parse(element)?);
        }
        if values.len() == *self.room {
            // What is said twice leaves room for more.
            let mut unique: BTreeSet<T> = values.into_iter().collect();
            while unique.len() < *self.room
                && let Some(element) = seq.next_element()?
            {
                unique.insert(parse(element)?);
            }
            values = unique.into_iter().collect();
        } else {
            values.sort_unstable();
            values.dedup();
        }
        *self.room -= values.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(values))
    }
}
