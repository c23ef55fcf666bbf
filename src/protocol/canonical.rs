//! Events in canonical JSON (NIP-01), written once: the text that is stored has in it, piece by piece, what the id hashes.

use std::fmt::Write;
use std::ops::Range;

use faster_hex::hex_encode;
use nostr::event::{Event, EventId, Tags};
use ring::digest::{Context, SHA256};

use super::message::RawEvent;
use crate::limits::SCRATCH_BYTES_KEPT;

/// The JSON of one event. Its memory serves the next as well.
#[derive(Debug, Default)]
pub struct Canonical {
    json: String,
    /// Where the values stand that the id hashes, in that order: author, time, kind, tags, content.
    hashed: [Range<usize>; 5],
}

/// A field of an event (NIP-01).
#[derive(Clone, Copy)]
enum Field {
    Id,
    Pubkey,
    CreatedAt,
    Kind,
    Tags,
    Content,
    Sig,
}

/// Bytes of the longest value in hexadecimal, a signature.
const HEX_MAX: usize = 128;

impl Canonical {
    /// Writes an event in place of the last, from what it was parsed of.
    pub fn write_parsed(&mut self, event: &Event, raw: &RawEvent<'_>) {
        let Some(plain) = &raw.plain else { return self.write(event) };
        self.write_fields(|json, field| {
            json.push_str(match field {
                Field::Id => plain.id,
                Field::Pubkey => plain.pubkey,
                Field::CreatedAt => plain.created_at,
                Field::Kind => plain.kind,
                Field::Tags => plain.tags,
                Field::Content => plain.content,
                Field::Sig => plain.sig,
            });
        });
    }

    /// Writes an event in place of the last.
    pub fn write(&mut self, event: &Event) {
        self.write_fields(|json, field| match field {
            Field::Id => push_hex(json, event.id.as_bytes()),
            Field::Pubkey => push_hex(json, event.pubkey.as_bytes()),
            Field::CreatedAt => _ = write!(json, "{}", event.created_at.as_secs()),
            Field::Kind => _ = write!(json, "{}", event.kind.as_u16()),
            Field::Tags => push_tags(json, &event.tags),
            Field::Content => push_string(json, &event.content),
            Field::Sig => push_hex(json, &event.sig.to_bytes()),
        });
    }

    /// Writes the object, each value as `push` has it.
    fn write_fields(&mut self, push: impl Fn(&mut String, Field)) {
        let json = self.begin();
        let mut write = |name: &str, field| {
            json.push_str(name);
            let from = json.len();
            push(json, field);
            from..json.len()
        };
        write("{\"id\":", Field::Id);
        let hashed = [
            write(",\"pubkey\":", Field::Pubkey),
            write(",\"created_at\":", Field::CreatedAt),
            write(",\"kind\":", Field::Kind),
            write(",\"tags\":", Field::Tags),
            write(",\"content\":", Field::Content),
        ];
        write(",\"sig\":", Field::Sig);
        json.push('}');
        self.hashed = hashed;
    }

    /// Empties the memory.
    fn begin(&mut self) -> &mut String {
        self.json.clear();
        self.json.shrink_to(SCRATCH_BYTES_KEPT);
        &mut self.json
    }

    /// The event's JSON.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The id that the event should have: the hash of `[0,author,time,kind,tags,content]`.
    pub fn hash(&self) -> EventId {
        let mut context = Context::new(&SHA256);
        context.update(b"[0");
        for value in &self.hashed {
            context.update(b",");
            context.update(&self.json.as_bytes()[value.clone()]);
        }
        context.update(b"]");
        let mut id = [0; EventId::LEN];
        id.copy_from_slice(context.finish().as_ref());
        EventId::from_byte_array(id)
    }
}

fn push_tags(json: &mut String, tags: &Tags) {
    json.push('[');
    for (n, tag) in tags.iter().enumerate() {
        json.push_str(if n == 0 { "[" } else { ",[" });
        for (n, value) in tag.as_slice().iter().enumerate() {
            if n > 0 {
                json.push(',');
            }
            push_string(json, value);
        }
        json.push(']');
    }
    json.push(']');
}

/// Appends an id, a key or a signature, quoted: no more than 64 bytes.
pub fn push_hex(json: &mut String, bytes: &[u8]) {
    let mut digits = [0; HEX_MAX];
    json.push('"');
    json.push_str(hex_encode(bytes, &mut digits[..2 * bytes.len()]).expect("there is room for two digits a byte"));
    json.push('"');
}

/// Appends a JSON string, escaped as NIP-01 has it; what it leaves open, as everybody does.
pub fn push_string(json: &mut String, text: &str) {
    json.push('"');
    let mut rest = text;
    while let Some(at) = first_to_escape(rest.as_bytes()) {
        json.push_str(&rest[..at]);
        push_escaped(json, rest.as_bytes()[at]);
        rest = &rest[at + 1..];
    }
    json.push_str(rest);
    json.push('"');
}

fn push_escaped(json: &mut String, byte: u8) {
    match byte {
        b'"' => json.push_str("\\\""),
        b'\\' => json.push_str("\\\\"),
        b'\n' => json.push_str("\\n"),
        b'\r' => json.push_str("\\r"),
        b'\t' => json.push_str("\\t"),
        0x08 => json.push_str("\\b"),
        0x0c => json.push_str("\\f"),
        _ => _ = write!(json, "\\u{byte:04x}"),
    }
}

/// Where the first byte is that cannot stand as it is. All of those are ASCII.
pub(super) fn first_to_escape(bytes: &[u8]) -> Option<usize> {
    /// Names, ids and keys end within so many.
    const SHORT: usize = 64;
    const AT_ONCE: usize = 32;
    let (short, long) = bytes.split_at(bytes.len().min(SHORT));
    if let Some(at) = first_in_words(short) {
        return Some(at);
    }
    let mut from = short.len();
    for block in long.chunks(AT_ONCE) {
        // The whole block at once: without a way out the compiler looks at many bytes together.
        if block.iter().fold(false, |found, byte| found | is_to_escape(*byte)) {
            return first_in_words(block).map(|at| from + at);
        }
        // A place in one slice; to look whether it overflows would be most of what a block costs.
        from = from.wrapping_add(block.len());
    }
    None
}

/// The same, eight bytes at once.
fn first_in_words(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = 0x80 * ONES;
    let (words, rest) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte that is below a number; of those after the first it may be set for others, too.
        let below = |word: u64, number: u64| word.wrapping_sub(number * ONES) & !word & HIGH;
        let quote = word ^ (u64::from(b'"') * ONES);
        let backslash = word ^ (u64::from(b'\\') * ONES);
        let found = below(word, 0x20) | below(quote, 1) | below(backslash, 1);
        if found != 0 {
            return Some(8 * n + (found.trailing_zeros() / 8) as usize);
        }
    }
    rest.iter().position(|byte| is_to_escape(*byte)).map(|at| 8 * words.len() + at)
}

fn is_to_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;
    use nostr::event::{Kind, Signature, Tag, UnsignedEvent};
    use nostr::key::PublicKey;
    use nostr::types::Timestamp;

    fn event(tags: &[&[&str]], content: &str) -> Event {
        let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap());
        let key = PublicKey::from_byte_array([0xa7; 32]);
        let mut unsigned = UnsignedEvent::new(key, Timestamp::from_secs(1_700), Kind::from_u16(1_621), tags, content);
        let id = unsigned.id();
        let sig = Signature::from_byte_array([0x5c; 64]);
        Event::new(id, key, unsigned.created_at, unsigned.kind, unsigned.tags, unsigned.content, sig)
    }

    fn texts() -> Vec<String> {
        let all: String = (0..0x180).filter_map(char::from_u32).collect();
        let mut texts = vec![String::new(), all.clone(), format!("{all}\u{2028}é日😀"), "x".repeat(SCRATCH_BYTES_KEPT)];
        // What has to be escaped, at every place of a block and between blocks.
        texts.extend((0..70).map(|n| format!("{}\"{}\\\n", "é".repeat(n / 2), "y".repeat(69 - n))));
        texts.extend((0..0x20).map(|n| char::from(n).to_string()));
        texts.extend((0..200).map(|n| format!("{}\n{}", "z".repeat(n), "\u{1f}\u{20}\u{21}\u{80}".repeat(n % 9))));
        texts
    }

    #[test]
    fn the_json_and_the_hash_are_those_of_everybody_else() {
        let mut canonical = Canonical::default();
        for text in texts() {
            let event = event(&[&["e", &text, "", "x"], &["d"], &[&text]], &text);
            canonical.write(&event);
            assert_eq!(canonical.json(), event.as_json());
            assert_eq!(canonical.hash(), event.id, "{text:?}");
        }
        canonical.write(&event(&[], ""));
        assert!(canonical.json().contains("\"tags\":[],\"content\":\"\""));
        assert!(canonical.json.capacity() <= SCRATCH_BYTES_KEPT, "a large one keeps no memory");
    }

    #[test]
    fn a_string_is_escaped_as_by_serde() {
        for text in texts() {
            let mut json = String::new();
            push_string(&mut json, &text);
            assert_eq!(json, serde_json::to_string(&text).unwrap());
        }
    }
}
