//! Whom to answer when a client's message is none: a client waits for a word about its subscription or its event.

use std::borrow::Cow;
use std::fmt;

use nostr::event::EventId;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{MessageVisitor, Text, argument, parse, skip_surplus, text};

/// What a client waits for a word about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// The subscription of a REQ: CLOSED.
    Req(Cow<'a, str>),
    /// The name of a COUNT: CLOSED as well (NIP-45).
    Count(Cow<'a, str>),
    /// The name of a reconciliation: NEG-ERR (NIP-77).
    Reconciliation(Cow<'a, str>),
}

/// Whom to answer about a message whose arguments are wrong, if it names something.
pub fn refused_subscription(text: &str) -> Option<Refused<'_>> {
    let (kind, name) = parse(text, NamedVisitor).ok()?;
    match kind.as_ref() {
        "REQ" => Some(Refused::Req(name)),
        "COUNT" => Some(Refused::Count(name)),
        "NEG-OPEN" | "NEG-MSG" => Some(Refused::Reconciliation(name)),
        _ => None,
    }
}

/// The subscription of a relay's EVENT whose event is none.
pub fn unreadable_event_subscription(text: &str) -> Option<Cow<'_, str>> {
    parse(text, NamedVisitor).ok().filter(|(kind, _)| kind == "EVENT").map(|(_, name)| name)
}

/// The id that the event of an EVENT claims, as it is written there, if that is 64 hexadecimal digits of either case: the
/// client waits for an OK that names it. The event may be none.
pub fn refused_event_id(text: &str) -> Option<Cow<'_, str>> {
    parse(text, RefusedEventVisitor).ok()
}

/// Takes the type of a message and the text behind it, whatever follows.
struct NamedVisitor;

impl<'a> MessageVisitor<'a> for NamedVisitor {
    const TYPES: &'static [&'static str] = &["REQ", "COUNT", "NEG-OPEN", "NEG-MSG", "EVENT"];
}

impl<'a> Visitor<'a> for NamedVisitor {
    type Value = (Cow<'a, str>, Cow<'a, str>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message about something that has a name")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (kind, name) = (text(&mut seq)?, text(&mut seq)?);
        skip_surplus(&mut seq)?;
        Ok((kind, name))
    }
}

/// Takes the claimed id of an EVENT, whatever else is in it.
struct RefusedEventVisitor;

impl<'a> MessageVisitor<'a> for RefusedEventVisitor {
    const TYPES: &'static [&'static str] = &["EVENT"];
}

impl<'a> Visitor<'a> for RefusedEventVisitor {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an EVENT")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Cow<'a, str>, A::Error> {
        if text(&mut seq)? != "EVENT" {
            return Err(A::Error::custom("type"));
        }
        let claim: ClaimedId<'a> = argument(&mut seq)?;
        skip_surplus(&mut seq)?;
        claim.0.ok_or_else(|| A::Error::custom("id"))
    }
}

/// The first field `id` of an object that is 64 hexadecimal digits; others, and other values, are passed over.
struct ClaimedId<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for ClaimedId<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimedIdVisitor)
    }
}

struct ClaimedIdVisitor;

impl<'de> Visitor<'de> for ClaimedIdVisitor {
    type Value = ClaimedId<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClaimedId<'de>, A::Error> {
        let mut id = None;
        while let Some(Text(name)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            if id.is_none() && name == "id" {
                let text = serde_json::from_str(value.get()).ok().map(|Text::<'de>(text)| text);
                let is_id = |text: &Cow<'_, str>| {
                    text.len() == 2 * EventId::LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
                };
                id = text.filter(is_id);
            }
        }
        Ok(ClaimedId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "2be17aa3031bdcb006f0fce80c146dea9c1c0268b0af2398bb673365c6444d45";

    #[test]
    fn the_id_of_an_event_that_is_none_is_found_as_it_was_written() {
        let upper = ID.to_uppercase();
        for (event, id) in [
            (format!(r#"{{"kind":1,"id":"{upper}","tags":[["id"]]}}"#), Some(&*upper)),
            (format!(r#"{{"id":"{ID}"}}"#), Some(ID)),
            (format!(r#"{{"id":7,"\u0069d":"{}\u0032{}","id":"{upper}"}}"#, "", &ID[1..]), Some(ID)),
            (format!(r#"{{"id":"{}"}}"#, &ID[1..]), None),
            (format!(r#"{{"id":"{}\""}}"#, &ID[1..]), None),
            (format!(r#"{{"id":["{ID}"]}}"#), None),
            (format!(r#"{{"event":{{"id":"{ID}"}}}}"#), None),
            (format!(r#"["id","{ID}"]"#), None),
            (format!(r#""{ID}""#), None),
        ] {
            assert_eq!(refused_event_id(&format!(r#"["EVENT",{event}]"#)).as_deref(), id, "{event}");
            assert_eq!(refused_event_id(&format!(r#"["REQ",{event}]"#)), None);
            assert_eq!(refused_event_id(&format!(r#"["EVENT",{event}"#)), None, "no JSON");
        }
    }
}
