//! The tags that a filter asks for, and those that an event has.

use std::cell::OnceCell;
use std::cmp::Ordering;

use faster_hex::hex_decode_unchecked;
use nostr::event::{Event, Tag};

use super::Bytes32;
use crate::protocol::is_lower_hex;

/// The first value of a tag. Most are ids and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TagValue<'a> {
    /// 64 lower-case hexadecimal digits.
    Bytes(Bytes32),
    /// Any other text.
    Text(&'a str),
}

impl<'a> TagValue<'a> {
    /// What a text stands for: no two texts for the same.
    pub fn of(text: &'a str) -> TagValue<'a> {
        if !is_lower_hex(text, 64) {
            return TagValue::Text(text);
        }
        let mut bytes = [0; 32];
        hex_decode_unchecked(text.as_bytes(), &mut bytes);
        TagValue::Bytes(bytes)
    }
}

/// The values that a filter asks of the tags of one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagValues {
    letter: u8,
    bytes: Box<[Bytes32]>,
    texts: Texts,
}

impl TagValues {
    /// Those of a letter, in any order.
    pub fn new<'a>(letter: u8, values: impl IntoIterator<Item = TagValue<'a>>) -> TagValues {
        let mut values: Vec<TagValue<'a>> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        let of_bytes = values.partition_point(|value| matches!(value, TagValue::Bytes(_)));
        let (mut bytes, mut texts) = (Vec::with_capacity(of_bytes), Vec::with_capacity(values.len() - of_bytes));
        for value in values {
            match value {
                TagValue::Bytes(value) => bytes.push(value),
                TagValue::Text(text) => texts.push(text),
            }
        }
        TagValues { letter, bytes: bytes.into(), texts: Texts::new(&texts) }
    }

    /// The tag's letter.
    pub fn letter(&self) -> u8 {
        self.letter
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.texts.ends.len()
    }

    /// Whether no value will do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = TagValue<'_>> {
        let texts = (0..self.texts.ends.len()).map(|nth| TagValue::Text(self.texts.nth(nth)));
        self.bytes.iter().copied().map(TagValue::Bytes).chain(texts)
    }

    /// Whether this is one of them.
    pub fn contains(&self, value: &TagValue<'_>) -> bool {
        match value {
            TagValue::Bytes(value) => self.bytes.binary_search(value).is_ok(),
            TagValue::Text(text) => self.texts.contains(text),
        }
    }

    /// Bytes of memory that they take.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.texts.joined.len() + size_of_val(&*self.texts.ends);
        size_of::<TagValues>() + size_of_val(&*self.bytes) + texts
    }
}

/// Texts in order, each once, in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Texts {
    joined: Box<str>,
    /// Where each ends.
    ends: Box<[u32]>,
}

impl Texts {
    /// `sorted`: in order, each once; together less than 4 GiB, as in any message that was taken.
    fn new(sorted: &[&str]) -> Texts {
        let mut end = 0;
        let end_of = |text: &&str| {
            end += text.len();
            u32::try_from(end).expect("a message is shorter than 4 GiB")
        };
        Texts { joined: sorted.concat().into(), ends: sorted.iter().map(end_of).collect() }
    }

    fn nth(&self, nth: usize) -> &str {
        let begin = nth.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.joined[begin as usize..self.ends[nth] as usize]
    }

    fn contains(&self, text: &str) -> bool {
        let (mut first, mut end) = (0, self.ends.len());
        while first < end {
            let middle = first.midpoint(end);
            match self.nth(middle).cmp(text) {
                Ordering::Less => first = middle + 1,
                Ordering::Greater => end = middle,
                Ordering::Equal => return true,
            }
        }
        false
    }
}

/// An event, and its tags that filters can ask for: put in order for the first filter that asks, for one event is compared
/// with many.
#[derive(Debug)]
pub struct EventTags<'a> {
    event: &'a Event,
    in_order: OnceCell<Vec<(u8, TagValue<'a>)>>,
}

impl<'a> EventTags<'a> {
    /// Those of an event.
    pub fn of(event: &'a Event) -> EventTags<'a> {
        EventTags { event, in_order: OnceCell::new() }
    }

    /// The event.
    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// How many there are at most.
    pub fn len_max(&self) -> usize {
        self.event.tags.len()
    }

    /// Letter and first value of each, in order, each once.
    pub fn in_order(&self) -> &[(u8, TagValue<'a>)] {
        self.in_order.get_or_init(|| {
            let named = |tag: &'a Tag| match (tag.kind().as_bytes(), tag.content()) {
                ([letter], Some(value)) => Some((*letter, TagValue::of(value))),
                _ => None,
            };
            let mut tags: Vec<(u8, TagValue<'a>)> = self.event.tags.iter().filter_map(named).collect();
            tags.sort_unstable();
            tags.dedup();
            tags
        })
    }

    /// Whether one has the letter and one of the values. The shorter list is gone through.
    pub(super) fn has(&self, wanted: &TagValues) -> bool {
        let tags = self.in_order();
        let these = &tags[tags.partition_point(|(letter, _)| *letter < wanted.letter)..];
        let these = &these[..these.partition_point(|(letter, _)| *letter == wanted.letter)];
        match these.len() <= wanted.len() {
            true => these.iter().any(|(_, value)| wanted.contains(value)),
            false => wanted.iter().any(|value| these.binary_search(&(wanted.letter, value)).is_ok()),
        }
    }
}
