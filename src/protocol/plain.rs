//! Events as nearly everybody writes them, read in one walk.
//!
//! Plain is JSON of the seven fields of an event, each once and in any order, without white space, and with no escapes but
//! those of two characters. Then every value stands in it as the id hashes it (NIP-01), and the event is read, hashed and
//! stored from pieces of what came. What is not plain may be an event all the same: whoever asks looks at it in the
//! general way then. Nothing is refused here.

use nostr::event::{Event, EventId, Kind, Signature, Tag, Tags};
use nostr::types::Timestamp;

use super::canonical::first_to_escape;
use super::message::EventError;
use super::{is_lower_hex, public_key};

/// The values of a plain event, as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    pub(super) id: &'a str,
    pub(super) pubkey: &'a str,
    pub(super) created_at: &'a str,
    pub(super) kind: &'a str,
    pub(super) tags: &'a str,
    pub(super) content: &'a str,
    pub(super) sig: &'a str,
    /// Whether there are escapes in the content.
    has_escapes: bool,
}

impl<'a> Plain<'a> {
    /// Looks at a whole text.
    pub fn of(json: &'a str) -> Option<Plain<'a>> {
        let [mut id, mut pubkey, mut created_at, mut kind, mut tags, mut content, mut sig] = [None; 7];
        let mut has_escapes = false;
        let mut rest = Rest(json);
        let mut before = "{";
        while !rest.skip("}") {
            rest.skip(before).then_some(())?;
            let name = rest.string()?.json;
            rest.skip(":").then_some(())?;
            let (field, value) = match name {
                "\"id\"" => (&mut id, rest.string()?.json),
                "\"pubkey\"" => (&mut pubkey, rest.string()?.json),
                "\"created_at\"" => (&mut created_at, rest.number()?),
                "\"kind\"" => (&mut kind, rest.number()?),
                "\"tags\"" => (&mut tags, rest.tags(|_, _| ())?),
                "\"content\"" => {
                    let text = rest.string()?;
                    has_escapes = text.has_escapes;
                    (&mut content, text.json)
                }
                "\"sig\"" => (&mut sig, rest.string()?.json),
                _ => return None,
            };
            if field.replace(value).is_some() {
                return None;
            }
            before = ",";
        }
        let all = Plain {
            id: id?,
            pubkey: pubkey?,
            created_at: created_at?,
            kind: kind?,
            tags: tags?,
            content: content?,
            sig: sig?,
            has_escapes,
        };
        rest.0.is_empty().then_some(all)
    }

    /// What it says its id is: not looked at yet.
    pub(super) fn claimed_id(&self) -> &'a str {
        inside(self.id)
    }

    /// The event, under an id that was read from it. Neither that nor the signature is checked.
    pub(super) fn event(&self, id: EventId) -> Result<Event, EventError> {
        let created_at = self.created_at.parse().map_err(|_| EventError::NotAnEvent)?;
        let kind = self.kind.parse().map_err(|_| EventError::NotAnEvent)?;
        let author = public_key(inside(self.pubkey)).ok_or(EventError::BadPublicKey)?;
        let signature = Some(inside(self.sig)).filter(|hex| is_lower_hex(hex, 128)).ok_or(EventError::BadSignature)?;
        let signature = Signature::from_hex(signature).map_err(|_| EventError::BadSignature)?;
        let (created_at, kind) = (Timestamp::from_secs(created_at), Kind::from_u16(kind));
        let content = Text { json: self.content, has_escapes: self.has_escapes }.value();
        Ok(Event::new(id, author, created_at, kind, self.tag_list(), content, signature))
    }

    fn tag_list(&self) -> Tags {
        // As most events have, so that neither list grows under way.
        const TAGS: usize = 8;
        const VALUES: usize = 4;
        let mut tags: Vec<Vec<String>> = Vec::with_capacity(TAGS);
        let take = |is_first: bool, value: Text<'_>| match tags.last_mut().filter(|_| !is_first) {
            Some(tag) => tag.push(value.value()),
            None => {
                let mut tag = Vec::with_capacity(VALUES);
                tag.push(value.value());
                tags.push(tag);
            }
        };
        Rest(self.tags).tags(take).expect("it was walked before");
        Tags::from_list(tags.into_iter().map(|tag| Tag::parse(tag).expect("it has a first value")).collect())
    }
}

/// What is left of a text. What takes of it gives `None` where that is not plain.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Whether it went on with this; that is gone then.
    fn skip(&mut self, what: &str) -> bool {
        match self.0.strip_prefix(what) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Takes so many bytes.
    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn string(&mut self) -> Option<Text<'a>> {
        let bytes = self.0.as_bytes();
        let mut at = bytes.starts_with(b"\"").then_some(1)?;
        let mut has_escapes = false;
        loop {
            at += first_to_escape(&bytes[at..])?;
            match (bytes[at], bytes.get(at + 1)) {
                (b'"', _) => return Some(Text { json: self.take(at + 1), has_escapes }),
                (b'\\', Some(b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f')) => at += 2,
                _ => return None,
            }
            has_escapes = true;
        }
    }

    /// Takes a number of digits, as it is written if it has to be one of these: without leading zeros.
    fn number(&mut self) -> Option<&'a str> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let is_canonical = digits == 1 || (digits > 1 && !self.0.starts_with('0'));
        is_canonical.then(|| self.take(digits))
    }

    /// Takes an array of tags, none of them empty, and gives each value to `f`, with whether it is the first of its tag.
    fn tags(&mut self, mut f: impl FnMut(bool, Text<'a>)) -> Option<&'a str> {
        let all = self.0;
        self.skip("[").then_some(())?;
        let mut before = "[";
        while !self.skip("]") {
            self.skip(before).then_some(())?;
            f(true, self.string()?);
            while self.skip(",") {
                f(false, self.string()?);
            }
            self.skip("]").then_some(())?;
            before = ",[";
        }
        Some(&all[..all.len() - self.0.len()])
    }
}

/// A string without its quotes.
fn inside(string: &str) -> &str {
    &string[1..string.len() - 1]
}

/// A string of JSON.
#[derive(Clone, Copy)]
struct Text<'a> {
    /// As it is written, with its quotes.
    json: &'a str,
    has_escapes: bool,
}

impl Text<'_> {
    /// What it stands for.
    fn value(self) -> String {
        match self.has_escapes {
            false => inside(self.json).to_owned(),
            true => unescaped(inside(self.json)),
        }
    }
}

fn unescaped(mut rest: &str) -> String {
    let mut text = String::with_capacity(rest.len());
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        text.push(match rest.as_bytes()[at + 1] {
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            same => char::from(same),
        });
        rest = &rest[at + 2..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::super::canonical::Canonical;
    use super::super::message::RawEvent;
    use super::*;

    const ID: &str = "2be17aa3031bdcb006f0fce80c146dea9c1c0268b0af2398bb673365c6444d45";
    const KEY: &str = "f86c44a2de95d9149b51c6a29afeabba264c18e2fa7c49de93424a0c56947785";

    /// An event of these fields, in an order that `n` names.
    fn json(fields: &[(&str, String)], n: usize) -> String {
        let mut left: Vec<&(&str, String)> = fields.iter().collect();
        let mut n = n;
        let mut written = Vec::new();
        while !left.is_empty() {
            let (name, value) = left.remove(n % left.len());
            n /= left.len() + 1;
            written.push(format!("\"{name}\":{value}"));
        }
        format!("{{{}}}", written.join(","))
    }

    fn fields(tags: &str, content: &str) -> Vec<(&'static str, String)> {
        vec![
            ("id", format!("\"{ID}\"")),
            ("pubkey", format!("\"{KEY}\"")),
            ("created_at", "1640839235".to_owned()),
            ("kind", "1621".to_owned()),
            ("tags", tags.to_owned()),
            ("content", content.to_owned()),
            ("sig", format!("\"{}\"", "5c".repeat(64))),
        ]
    }

    /// What everybody finds in a text is found in it, too, and what is written of it is what everybody writes.
    fn is_read_as_in_any_form(json: &str) {
        let (raw, any) = (RawEvent::from_json(json), RawEvent::from_any_json(json.trim()));
        assert_eq!(raw.map(|raw| raw.id), any.map(|any| any.id), "{json}");
        let (Ok(raw), Ok(any)) = (raw, any) else { return };
        assert_eq!(raw.parse(), any.parse(), "{json}");
        let Ok(event) = raw.parse() else { return };
        let (mut plain, mut canonical) = (Canonical::default(), Canonical::default());
        plain.write_parsed(&event, &raw);
        canonical.write(&event);
        assert_eq!(plain.json(), canonical.json());
        assert_eq!(plain.hash(), canonical.hash());
        assert_eq!(
            plain.hash(),
            EventId::compute(&event.pubkey, &event.created_at, &event.kind, &event.tags, &event.content)
        );
    }

    #[test]
    fn what_is_plain_is_read_as_in_any_form() {
        let all: String = (0x20..0x180).filter_map(char::from_u32).filter(|c| !matches!(c, '"' | '\\')).collect();
        let texts = [
            r#""""#.to_owned(),
            format!("\"{all}\u{2028}é日😀\""),
            r#""\"\\\n\r\t\b\f""#.to_owned(),
            format!(r#""{}\n{}""#, "x".repeat(31), "y".repeat(70)),
            format!(r#""{}\\""#, "é".repeat(40)),
        ];
        for (n, text) in texts.iter().enumerate() {
            for other in &texts {
                for tags in [
                    "[]".to_owned(),
                    format!("[[{text}]]"),
                    format!("[[{other},{text}],[\"d\"],[{text},\"\",{other}]]"),
                ] {
                    let json = json(&fields(&tags, text), n * 1_009);
                    assert!(Plain::of(&json).is_some(), "{json}");
                    is_read_as_in_any_form(&json);
                }
            }
        }
        for order in 0..5_040 {
            let json = json(&fields(r#"[["e","1"]]"#, r#""x""#), order);
            assert!(Plain::of(&json).is_some(), "{json}");
            is_read_as_in_any_form(&json);
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_general_way() {
        let usual = json(&fields(r#"[["e","1","x"]]"#, r#""content""#), 0);
        assert!(Plain::of(&usual).is_some());
        for (from, to) in [
            ("1640839235", "01640839235"),
            ("1640839235", "1640839235.0"),
            ("1640839235", "-1"),
            ("1640839235", ""),
            ("1640839235", "\"1\""),
            ("1640839235", "1e9"),
            (":1621", ": 1621"),
            (":1621", ":1621,\"kind\":1621"),
            (":1621", ":1621,\"more\":1621"),
            (":1621", ":1621,"),
            ("\"kind\":1621,", ""),
            ("\"kind\"", "\"kin\\u0064\""),
            ("\"e\",", "\"e\" ,"),
            ("\"e\",", "\"e\",,"),
            ("\"e\",", "\"e\",null,"),
            ("[[\"e\"", "[[],[\"e\""),
            ("[[\"e\"", "[\"d\",[\"e\""),
            ("[[\"e\"", "[[\"d\"][\"e\""),
            ("\"x\"]]", "\"x\"],]"),
            ("\"x\"]]", "\"x\"]"),
            ("\"x\"]]", "\"x\"]]]"),
            ("content\",", "content\\u0041\","),
            ("content\",", "content\\/\","),
            ("content\",", "content\\\","),
            ("content\",", "content\\\u{e9}\","),
            ("content\",", "content\n\","),
            ("content\",", "content\u{0}\","),
            ("{", "[{"),
            ("{", " {"),
            ("}", "}}"),
            ("}", ""),
        ] {
            let json = usual.replacen(from, to, 1);
            assert_ne!(json, usual);
            assert_eq!(Plain::of(&json), None, "{json}");
            is_read_as_in_any_form(&json);
        }
        for end in 0..usual.len() {
            assert_eq!(Plain::of(&usual[..end]), None);
        }
    }

    #[test]
    fn plain_values_may_be_none_of_an_event() {
        let usual = json(&fields("[]", r#""content""#), 0);
        for (from, to) in [
            ("1640839235", "99999999999999999999"),
            ("1640839235", "18446744073709551615"),
            ("1621", "65536"),
            ("2be1", "2BE1"),
            ("2be1", ""),
            ("2be1", "\\n2be1"),
            ("f86c", "F86C"),
            ("f86c", "f86c0"),
            ("5c5c", "5C5C"),
            ("5c5c", "\\\"5c5c"),
        ] {
            let json = usual.replacen(from, to, 1);
            assert!(Plain::of(&json).is_some(), "{json}");
            is_read_as_in_any_form(&json);
        }
    }
}
