//! Client and relay messages (NIP-01, NIP-77): text to borrowed values and back.
//!
//! An EVENT is the common case by far, and most are copies of what is already stored. So of an event only the claimed id
//! is read at first and the rest stays slices of the message, checked to be JSON but not built into anything;
//! [`RawEvent::parse`] does that once the id has turned out to be new. What else a message says is parsed here and nowhere
//! else. Surplus elements of a message are ignored, as are unknown fields of events and filters.

use std::borrow::Cow;
use std::fmt;

use nostr::event::{Event, EventId, Kind, Signature, Tags};
use nostr::types::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::filter::Filter;
use super::plain::Plain;
use super::{Text, event_id, is_lower_hex, public_key};
use crate::limits::{CLIENT_FILTERS_MAX, EVENT_ESCAPE_BYTES_MAX};
use crate::time::UnixTime;

mod refused;
mod write;

pub use refused::{Refused, refused_event_id, refused_subscription, unreadable_event_subscription};
pub use write::{
    close_message, closed_message, count_message, eose_message, event_message, neg_answer_message, neg_close_message,
    neg_err_message, neg_msg_message, neg_open_message, not_ok_message, notice_message, ok_message,
};

/// Why a text is not a message that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageError {
    /// Not JSON (RFC 8259).
    NotJson,
    /// JSON, but not an array whose first element is a text.
    NotAMessage,
    /// A message of a type that this side does not take.
    UnknownType,
    /// A known type with missing or wrong arguments.
    BadArguments,
}

impl MessageError {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            MessageError::NotJson => "not_json",
            MessageError::NotAMessage => "not_a_message",
            MessageError::UnknownType => "unknown_type",
            MessageError::BadArguments => "bad_arguments",
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MessageError::NotJson => "not JSON",
            MessageError::NotAMessage => "not an array that begins with a message type",
            MessageError::UnknownType => "unknown message type",
            MessageError::BadArguments => "missing or wrong arguments",
        })
    }
}

impl std::error::Error for MessageError {}

/// Why the JSON of an event is not an event (NIP-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventError {
    /// A field is missing, double, of the wrong type or out of its range; or a tag is empty.
    NotAnEvent,
    /// The id is not 64 lower-case hexadecimal digits.
    BadId,
    /// The author's key is not 64 lower-case hexadecimal digits.
    BadPublicKey,
    /// The signature is not 128 lower-case hexadecimal digits.
    BadSignature,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EventError::NotAnEvent => "not an event",
            EventError::BadId => "the id is not 64 lower-case hexadecimal digits",
            EventError::BadPublicKey => "the public key is not 64 lower-case hexadecimal digits",
            EventError::BadSignature => "the signature is not 128 lower-case hexadecimal digits",
        })
    }
}

impl std::error::Error for EventError {}

/// An event as it travelled: well-formed JSON, of which only the id has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// The JSON object, without white space around it.
    pub json: &'a str,
    /// The id as claimed. Whether it is the hash of the rest is not known yet.
    pub id: EventId,
    /// Its values, if it is written as nearly all are.
    pub plain: Option<Plain<'a>>,
}

impl<'a> RawEvent<'a> {
    /// Reads the claimed id of one event's JSON, for events that did not come in a message (import).
    ///
    /// # Errors
    ///
    /// If it is not a JSON object, or has not exactly one field `id` of 64 lower-case hexadecimal digits.
    pub fn from_json(json: &'a str) -> Result<RawEvent<'a>, EventError> {
        // Most have no white space around them, and this is seen sooner than it is looked for.
        let json = match json.starts_with('{') && json.ends_with('}') {
            true => json,
            false => json.trim_matches([' ', '\t', '\r', '\n']),
        };
        match Plain::of(json) {
            Some(plain) => {
                let id = event_id(plain.claimed_id()).ok_or(EventError::BadId)?;
                Ok(RawEvent { json, id, plain: Some(plain) })
            }
            None => RawEvent::from_any_json(json),
        }
    }

    /// The same of a text that need not be plain.
    pub(crate) fn from_any_json(json: &'a str) -> Result<RawEvent<'a>, EventError> {
        #[derive(Deserialize)]
        struct Claim<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
        }

        // serde would take an array for a struct as well.
        if !json.starts_with('{') {
            return Err(EventError::NotAnEvent);
        }
        let claim: Claim<'_> = serde_json::from_str(json).map_err(|_| EventError::NotAnEvent)?;
        Ok(RawEvent { json, id: event_id(&claim.id).ok_or(EventError::BadId)?, plain: None })
    }

    /// Whether its canonical form is larger than `bytes_max`, as far as that shows before the event is read: a plain one
    /// has the length of its canonical form, any other may be escaped throughout.
    pub fn is_plainly_larger_than(&self, bytes_max: usize) -> bool {
        let escape = if self.plain.is_some() { 1 } else { EVENT_ESCAPE_BYTES_MAX };
        self.json.len() > bytes_max.saturating_mul(escape)
    }

    /// The `created_at` that it claims, even if the rest is no event to us; by it a relay sorts what it serves. Of a
    /// fraction, the second in which it lies.
    pub fn claimed_created_at(&self) -> Option<UnixTime> {
        #[derive(Deserialize)]
        struct Claim {
            created_at: serde_json::Number,
        }

        let claim: Claim = serde_json::from_str(self.json).ok()?;
        let secs = claim.created_at.as_u64().or_else(|| {
            let secs = claim.created_at.as_f64()?;
            // As far as seconds are whole numbers in a float.
            (0.0..9e15).contains(&secs).then_some(secs as u64)
        });
        secs.map(UnixTime::from_secs)
    }

    /// Parses the whole event. Id and signature are **not** checked.
    ///
    /// # Errors
    ///
    /// If it is not an event in canonical form; see [`EventError`].
    pub fn parse(&self) -> Result<Event, EventError> {
        match &self.plain {
            Some(plain) => plain.event(self.id),
            None => self.parse_any(),
        }
    }

    fn parse_any(&self) -> Result<Event, EventError> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
            #[serde(borrow)]
            pubkey: Cow<'a, str>,
            created_at: u64,
            kind: u16,
            tags: Tags,
            content: String,
            #[serde(borrow)]
            sig: Cow<'a, str>,
        }

        if !self.json.starts_with('{') {
            return Err(EventError::NotAnEvent);
        }
        let fields: Fields<'_> = serde_json::from_str(self.json).map_err(|_| EventError::NotAnEvent)?;
        let id = event_id(&fields.id).ok_or(EventError::BadId)?;
        let author = public_key(&fields.pubkey).ok_or(EventError::BadPublicKey)?;
        let signature = Some(&fields.sig).filter(|hex| is_lower_hex(hex, 128)).ok_or(EventError::BadSignature)?;
        let signature = Signature::from_hex(signature).map_err(|_| EventError::BadSignature)?;
        let created_at = Timestamp::from_secs(fields.created_at);
        let kind = Kind::from_u16(fields.kind);
        Ok(Event::new(id, author, created_at, kind, fields.tags, fields.content, signature))
    }
}

/// What a relay says to a client (NIP-01, NIP-42, NIP-77).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayMessage<'a> {
    /// An event for a subscription.
    Event {
        /// The subscription.
        subscription: Cow<'a, str>,
        /// The event.
        event: RawEvent<'a>,
    },
    /// All stored events of a subscription have been sent.
    Eose {
        /// The subscription.
        subscription: Cow<'a, str>,
    },
    /// A subscription has been ended, or refused.
    Closed {
        /// The subscription.
        subscription: Cow<'a, str>,
        /// Why; empty if the relay gave no reason.
        reason: Cow<'a, str>,
    },
    /// A word to people.
    Notice(Cow<'a, str>),
    /// The answer to an EVENT of ours.
    Ok {
        /// The event.
        id: EventId,
        /// Whether the relay took it.
        accepted: bool,
        /// Why; empty if the relay gave no reason.
        reason: Cow<'a, str>,
    },
    /// The relay would like to know who we are (NIP-42).
    Auth {
        /// What to sign.
        challenge: Cow<'a, str>,
    },
    /// The next step of a reconciliation (NIP-77).
    NegMsg {
        /// The reconciliation: names of its own, apart from those of subscriptions.
        subscription: Cow<'a, str>,
        /// A message of the negentropy protocol, in hexadecimal, not looked at yet.
        payload: Cow<'a, str>,
    },
    /// A reconciliation has failed, or was refused (NIP-77).
    NegErr {
        /// The reconciliation.
        subscription: Cow<'a, str>,
        /// Why; empty if the relay gave no reason.
        reason: Cow<'a, str>,
        /// How many events the relay would reconcile at most, if it says so.
        max_records: Option<u64>,
    },
}

/// What a client says to a relay (NIP-01, NIP-45, NIP-77).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Publishes an event.
    Event(RawEvent<'a>),
    /// Opens a subscription, or replaces the one of this name.
    Req {
        /// The subscription.
        subscription: Cow<'a, str>,
        /// Its filters: at least one, and of those beyond [`CLIENT_FILTERS_MAX`] only the first, as a sign that there
        /// were too many.
        filters: Vec<Filter>,
    },
    /// Ends a subscription.
    Close {
        /// The subscription.
        subscription: Cow<'a, str>,
    },
    /// Asks how many events there are (NIP-45).
    Count {
        /// The name that the answer is to have: apart from those of subscriptions.
        subscription: Cow<'a, str>,
        /// Its filters, as of a REQ.
        filters: Vec<Filter>,
    },
    /// Begins a reconciliation (NIP-77), or one anew.
    NegOpen {
        /// The reconciliation: names of its own, apart from those of subscriptions.
        subscription: Cow<'a, str>,
        /// Of what.
        filter: Filter,
        /// A message of the negentropy protocol, in hexadecimal, not looked at yet.
        payload: Cow<'a, str>,
    },
    /// The next step of a reconciliation (NIP-77).
    NegMsg {
        /// The reconciliation.
        subscription: Cow<'a, str>,
        /// As in the first message.
        payload: Cow<'a, str>,
    },
    /// Ends a reconciliation (NIP-77).
    NegClose {
        /// The reconciliation.
        subscription: Cow<'a, str>,
    },
}

/// Parses what a relay sent.
///
/// # Errors
///
/// If it is not one of the messages of [`RelayMessage`].
pub fn parse_relay_message(text: &str) -> Result<RelayMessage<'_>, MessageError> {
    plain_event(text).map_or_else(|| parse_any_relay_message(text), Ok)
}

pub(crate) fn parse_any_relay_message(text: &str) -> Result<RelayMessage<'_>, MessageError> {
    parse(text, RelayMessageVisitor)
}

/// An EVENT as nearly every relay writes it, without spaces and with a plain name: almost all that comes is of this form,
/// and where the event ends is then known before its JSON has been walked.
fn plain_event(text: &str) -> Option<RelayMessage<'_>> {
    let rest = text.strip_prefix(r#"["EVENT",""#)?;
    // Names are of a few bytes, too few for a search that is made for many.
    let is_end = |byte: u8| matches!(byte, b'"' | b'\\') || !byte.is_ascii_graphic();
    let (subscription, rest) = rest.split_at(rest.bytes().position(is_end)?);
    let json = rest.strip_prefix("\",")?.strip_suffix(']')?;
    let event = RawEvent::from_json(json).ok()?;
    Some(RelayMessage::Event { subscription: Cow::Borrowed(subscription), event })
}

/// Parses what a client sent. How long the subscription's name may be and how many values a filter may have is not
/// judged here.
///
/// # Errors
///
/// If it is not one of the messages of [`ClientMessage`]. If that is a REQ, [`refused_subscription`] tells whom to answer.
pub fn parse_client_message(text: &str) -> Result<ClientMessage<'_>, MessageError> {
    parse(text, ClientMessageVisitor)
}

/// One pass over a good message. Only a bad one is looked at again, to say what is wrong with it.
fn parse<'a, V: MessageVisitor<'a>>(text: &'a str, visitor: V) -> Result<V::Value, MessageError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = json.deserialize_seq(visitor).and_then(|message| json.end().map(|()| message));
    parsed.map_err(|_| diagnose::<V>(text))
}

fn diagnose<'a, V: MessageVisitor<'a>>(text: &'a str) -> MessageError {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return MessageError::NotJson;
    }
    let mut json = serde_json::Deserializer::from_str(text);
    match json.deserialize_seq(TypeVisitor) {
        Err(_) => MessageError::NotAMessage,
        Ok(kind) if V::TYPES.contains(&kind.as_ref()) => MessageError::BadArguments,
        Ok(_) => MessageError::UnknownType,
    }
}

/// Reads one side's messages out of their array.
trait MessageVisitor<'a>: Visitor<'a> {
    /// The message types it takes.
    const TYPES: &'static [&'static str];
}

fn argument<'a, T: Deserialize<'a>, A: SeqAccess<'a>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| A::Error::custom("missing"))
}

fn text<'a, A: SeqAccess<'a>>(seq: &mut A) -> Result<Cow<'a, str>, A::Error> {
    argument::<Text<'a>, A>(seq).map(|text| text.0)
}

/// A reason at the end of a message, which some relays leave out.
fn reason<'a, A: SeqAccess<'a>>(seq: &mut A) -> Result<Cow<'a, str>, A::Error> {
    Ok(seq.next_element::<Option<Text<'a>>>()?.flatten().map_or(Cow::Borrowed(""), |text| text.0))
}

/// A count at the end of a message, which most relays leave out. Anything else in its place says nothing.
fn count<'a, A: SeqAccess<'a>>(seq: &mut A) -> Result<Option<u64>, A::Error> {
    let raw: Option<&'a RawValue> = seq.next_element()?;
    Ok(raw.and_then(|raw| raw.get().parse().ok()))
}

fn raw_event<'a, A: SeqAccess<'a>>(seq: &mut A) -> Result<RawEvent<'a>, A::Error> {
    let raw: &'a RawValue = argument(seq)?;
    RawEvent::from_json(raw.get()).map_err(A::Error::custom)
}

/// The filters at the end of a message: at least one, and no more than are needed to see that there are too many.
fn filters<'a, A: SeqAccess<'a>>(seq: &mut A) -> Result<Vec<Filter>, A::Error> {
    let mut filters = vec![argument::<Filter, A>(seq)?];
    while filters.len() <= CLIENT_FILTERS_MAX
        && let Some(filter) = seq.next_element()?
    {
        filters.push(filter);
    }
    Ok(filters)
}

fn skip_surplus<'a, A: SeqAccess<'a>>(seq: &mut A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

struct RelayMessageVisitor;

impl<'a> MessageVisitor<'a> for RelayMessageVisitor {
    const TYPES: &'static [&'static str] = &["EVENT", "EOSE", "CLOSED", "NOTICE", "OK", "AUTH", "NEG-MSG", "NEG-ERR"];
}

impl<'a> Visitor<'a> for RelayMessageVisitor {
    type Value = RelayMessage<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a relay message")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<RelayMessage<'a>, A::Error> {
        let message = match text(&mut seq)?.as_ref() {
            "EVENT" => RelayMessage::Event { subscription: text(&mut seq)?, event: raw_event(&mut seq)? },
            "EOSE" => RelayMessage::Eose { subscription: text(&mut seq)? },
            "CLOSED" => RelayMessage::Closed { subscription: text(&mut seq)?, reason: reason(&mut seq)? },
            "NOTICE" => RelayMessage::Notice(text(&mut seq)?),
            "OK" => RelayMessage::Ok {
                id: event_id(&text(&mut seq)?).ok_or_else(|| A::Error::custom("id"))?,
                accepted: argument(&mut seq)?,
                reason: reason(&mut seq)?,
            },
            "AUTH" => RelayMessage::Auth { challenge: text(&mut seq)? },
            "NEG-MSG" => RelayMessage::NegMsg { subscription: text(&mut seq)?, payload: text(&mut seq)? },
            "NEG-ERR" => RelayMessage::NegErr {
                subscription: text(&mut seq)?,
                reason: reason(&mut seq)?,
                max_records: count(&mut seq)?,
            },
            _ => return Err(A::Error::custom("type")),
        };
        skip_surplus(&mut seq)?;
        Ok(message)
    }
}

struct ClientMessageVisitor;

impl<'a> MessageVisitor<'a> for ClientMessageVisitor {
    const TYPES: &'static [&'static str] = &["EVENT", "REQ", "CLOSE", "COUNT", "NEG-OPEN", "NEG-MSG", "NEG-CLOSE"];
}

impl<'a> Visitor<'a> for ClientMessageVisitor {
    type Value = ClientMessage<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a client message")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<ClientMessage<'a>, A::Error> {
        let message = match text(&mut seq)?.as_ref() {
            "EVENT" => ClientMessage::Event(raw_event(&mut seq)?),
            "REQ" => ClientMessage::Req { subscription: text(&mut seq)?, filters: filters(&mut seq)? },
            "CLOSE" => ClientMessage::Close { subscription: text(&mut seq)? },
            "COUNT" => ClientMessage::Count { subscription: text(&mut seq)?, filters: filters(&mut seq)? },
            "NEG-OPEN" => ClientMessage::NegOpen {
                subscription: text(&mut seq)?,
                filter: argument(&mut seq)?,
                payload: text(&mut seq)?,
            },
            "NEG-MSG" => ClientMessage::NegMsg { subscription: text(&mut seq)?, payload: text(&mut seq)? },
            "NEG-CLOSE" => ClientMessage::NegClose { subscription: text(&mut seq)? },
            _ => return Err(A::Error::custom("type")),
        };
        skip_surplus(&mut seq)?;
        Ok(message)
    }
}

/// Takes the type of any message.
struct TypeVisitor;

impl<'a> Visitor<'a> for TypeVisitor {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Cow<'a, str>, A::Error> {
        let kind = text(&mut seq)?;
        skip_surplus(&mut seq)?;
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"id":"2be17aa3031bdcb006f0fce80c146dea9c1c0268b0af2398bb673365c6444d45","pubkey":"f86c44a2de95d9149b51c6a29afeabba264c18e2fa7c49de93424a0c56947785","created_at":1640839235,"kind":4,"tags":[["p","13adc511de7e1cfcf1c6b7f6365fb5a03442d7bcacf565ea57fa7770912c023d"]],"content":"uRuvYr585B80L6rSJiHocw==?iv=oh6LVqdsYYol3JfFnXTbPA==","sig":"a5d9290ef9659083c490b303eb7ee41356d8778ff19f2f91776c8dc4443388a64ffcf336e61af4c25c05ac3ae952d1ced889ed655b67790891222aaa15b99fdd"}"#;
    const ID: &str = "2be17aa3031bdcb006f0fce80c146dea9c1c0268b0af2398bb673365c6444d45";

    fn raw() -> RawEvent<'static> {
        RawEvent::from_json(EVENT).unwrap()
    }

    #[test]
    fn an_event_in_its_usual_form_is_read_as_in_any_other() {
        let usual = event_message("g17", EVENT);
        assert!(plain_event(&usual).is_some(), "the short way is taken");
        let without_id = EVENT.replace("\"id\"", "\"di\"");
        let others = [
            format!(r#"[ "EVENT", "g17", {EVENT} ] "#),
            format!(r#"["EVENT","g17", {EVENT} ]"#),
            format!(r#"["EVENT","g17",{EVENT},1]"#),
            format!(r#"["EVENT","g17",{EVENT}]]"#),
            format!(r#"["EVENT","g17",{EVENT}"#),
            format!(r#"["EVENT","g17",[{EVENT}]]"#),
            format!(r#"["EVENT","g17",{without_id}]"#),
            format!(r#"["EVENT","g\\u0031",{EVENT}]"#),
            format!(r#"["EVENT","g\\",{EVENT}]"#),
            format!("[\"EVENT\",\"g\n\",{EVENT}]"),
            format!("[\"EVENT\",\"\u{1f980}\",{EVENT}]"),
            format!(r#"["EVENT","",{EVENT}]"#),
            format!(r#"["EVENT","g17",{}]"#, &EVENT[..100]),
            r#"["EVENT","g17",]"#.to_owned(),
            r#"["EVENT","g17"]"#.to_owned(),
            r#"["EVENT",""#.to_owned(),
        ];
        for text in others.iter().chain([&usual]) {
            assert_eq!(parse_relay_message(text), parse_any_relay_message(text), "{text}");
        }
        assert!(parse_relay_message(&others[0]).is_ok() && parse_relay_message(&others[3]).is_err());
    }

    #[test]
    fn a_time_is_claimed_by_a_number_of_seconds_and_by_nothing_else() {
        let at = |created_at: &str| {
            let json = EVENT.replace("1640839235", created_at);
            RawEvent::from_json(&json).unwrap().claimed_created_at().map(UnixTime::as_secs)
        };
        assert_eq!(["1640839235", "1640839235.75", "0"].map(at), [Some(1_640_839_235), Some(1_640_839_235), Some(0)]);
        assert_eq!(["\"1640839235\"", "-1", "1e300", "null"].map(at), [None; 4]);
    }

    #[test]
    fn written_messages_are_read_back() {
        let sub = "a \"quoted\"\n\\ sub \u{1f980}";
        let subscription = Cow::from(sub);
        let reason = Cow::from("error: \"x\"\n");
        let id = event_id(ID).unwrap();
        for (text, message) in [
            (event_message(sub, EVENT), RelayMessage::Event { subscription: subscription.clone(), event: raw() }),
            (eose_message(sub), RelayMessage::Eose { subscription: subscription.clone() }),
            (
                closed_message(sub, &reason),
                RelayMessage::Closed { subscription: subscription.clone(), reason: reason.clone() },
            ),
            (notice_message(&reason), RelayMessage::Notice(reason.clone())),
            (ok_message(&id, false, &reason), RelayMessage::Ok { id, accepted: false, reason: reason.clone() }),
            (
                neg_msg_message(sub, "6100"),
                RelayMessage::NegMsg { subscription: subscription.clone(), payload: "6100".into() },
            ),
            (
                neg_err_message(sub, &reason, Some(500_000)),
                RelayMessage::NegErr {
                    subscription: subscription.clone(),
                    reason: reason.clone(),
                    max_records: Some(500_000),
                },
            ),
        ] {
            assert_eq!(parse_relay_message(&text).unwrap(), message, "{text}");
        }
        let close = close_message(sub);
        assert_eq!(parse_client_message(&close).unwrap(), ClientMessage::Close { subscription });
    }

    #[test]
    fn an_event_is_a_slice_of_its_message() {
        let text = format!(" [ \"EVENT\" ,\t\"s\" , {EVENT} , \"surplus\" ] \n");
        let RelayMessage::Event { subscription, event } = parse_relay_message(&text).unwrap() else { panic!() };
        assert!(matches!(subscription, Cow::Borrowed("s")));
        assert_eq!(event.json, EVENT);
        assert_eq!(event.id.to_hex(), ID);
        assert!(text.as_bytes().as_ptr_range().contains(&event.json.as_ptr()));
        let event = event.parse().unwrap();
        assert!(event.verify_id() && event.verify_signature());
        assert_eq!(event, serde_json::from_str(EVENT).unwrap());
    }

    #[test]
    fn relay_messages() {
        let parsed = parse_relay_message(r#"["CLOSED","s"]"#).unwrap();
        assert_eq!(parsed, RelayMessage::Closed { subscription: "s".into(), reason: "".into() });
        let parsed = parse_relay_message(r#"["CLOSED","s",null]"#).unwrap();
        assert_eq!(parsed, RelayMessage::Closed { subscription: "s".into(), reason: "".into() });
        let parsed = parse_relay_message(r#"["AUTH","challenge"]"#).unwrap();
        assert_eq!(parsed, RelayMessage::Auth { challenge: "challenge".into() });
        let text = format!(r#"["NEG-MSG","s","{}"]"#, "61".repeat(1_000_000));
        let RelayMessage::NegMsg { payload, .. } = parse_relay_message(&text).unwrap() else { panic!() };
        assert!(matches!(payload, Cow::Borrowed(_)), "megabytes are not copied");
    }

    #[test]
    fn a_failed_reconciliation_may_say_how_much_the_relay_takes() {
        for (text, why, max) in [
            (
                r#"["NEG-ERR","s","blocked: too many query results",1000000]"#,
                "blocked: too many query results",
                Some(1_000_000),
            ),
            (r#"["NEG-ERR","s","closed: x"]"#, "closed: x", None),
            (r#"["NEG-ERR","s"]"#, "", None),
            (r#"["NEG-ERR","s",null,null]"#, "", None),
            (r#"["NEG-ERR","s","x","5"]"#, "x", None),
            (r#"["NEG-ERR","s","x",-5,{}]"#, "x", None),
        ] {
            let expected = RelayMessage::NegErr { subscription: "s".into(), reason: why.into(), max_records: max };
            assert_eq!(parse_relay_message(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn reconciliations_are_asked_for_as_nip_77_says() {
        assert_eq!(neg_open_message("n1", r#"{"kinds":[5]}"#, "6100"), r#"["NEG-OPEN","n1",{"kinds":[5]},"6100"]"#);
        assert_eq!(neg_msg_message("n1", "6100"), r#"["NEG-MSG","n1","6100"]"#);
        assert_eq!(neg_close_message("n1"), r#"["NEG-CLOSE","n1"]"#);
    }

    #[test]
    fn subscriptions_are_read_whole_and_unescaped() {
        let long = "s".repeat(100_000);
        let text = format!(r#"["EOSE","{long}"]"#);
        assert_eq!(parse_relay_message(&text).unwrap(), RelayMessage::Eose { subscription: long.into() });
        let parsed = parse_relay_message(r#"["EOSE","\ud83e\udd80\u0000\"\/"]"#).unwrap();
        assert_eq!(parsed, RelayMessage::Eose { subscription: "\u{1f980}\0\"/".into() });
        // The type may be escaped as well.
        let parsed = parse_relay_message(r#"["\u0045OSE",""]"#).unwrap();
        assert_eq!(parsed, RelayMessage::Eose { subscription: "".into() });
    }

    #[test]
    fn what_is_not_json_is_said_to_be_so() {
        let whole = event_message("s", EVENT);
        for end in 0..whole.len() {
            assert_eq!(parse_relay_message(&whole[..end]), Err(MessageError::NotJson), "{end}");
        }
        for text in ["", " ", "[", "EVENT", "['EOSE','s']", r#"["EOSE","s"]]"#, r#"["EOSE","s"] ["EOSE","s"]"#, "[,]"] {
            assert_eq!(parse_relay_message(text), Err(MessageError::NotJson), "{text}");
            assert_eq!(parse_client_message(text), Err(MessageError::NotJson), "{text}");
        }
        assert_eq!(parse_relay_message("[\"EOSE\",\"a\nb\"]"), Err(MessageError::NotJson), "a bare line end");
    }

    #[test]
    fn what_is_no_message_is_told_from_unknown_ones() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        for text in ["{}", "[]", "null", "1", r#""EOSE""#, "[1]", "[null]", r#"[["EOSE"],"s"]"#, &deep] {
            assert_eq!(parse_relay_message(text), Err(MessageError::NotAMessage));
            assert_eq!(parse_client_message(text), Err(MessageError::NotAMessage));
        }
        for text in [r#"["eose","s"]"#, r#"["NEG-OPEN","s",{},"00"]"#, r#"[""]"#, r#"["REQ","s",{}]"#] {
            assert_eq!(parse_relay_message(text), Err(MessageError::UnknownType), "{text}");
        }
        for text in [r#"["EOSE","s"]"#, r#"["AUTH",{}]"#, r#"["NEG-ERR","s",""]"#, r#"["req","s",{}]"#] {
            assert_eq!(parse_client_message(text), Err(MessageError::UnknownType), "{text}");
        }
    }

    #[test]
    fn wrong_arguments_of_relays() {
        let twice = EVENT.replacen('{', &format!(r#"{{"\u0069d":"{ID}","#), 1);
        for text in [
            r#"["EOSE"]"#.to_owned(),
            r#"["EOSE",1]"#.to_owned(),
            r#"["EOSE","\ud800"]"#.to_owned(),
            r#"["CLOSED",null,"x"]"#.to_owned(),
            r#"["CLOSED","s",1]"#.to_owned(),
            r#"["NOTICE"]"#.to_owned(),
            r#"["NOTICE",["x"]]"#.to_owned(),
            r#"["AUTH"]"#.to_owned(),
            r#"["NEG-MSG","s"]"#.to_owned(),
            r#"["NEG-MSG","s",6100]"#.to_owned(),
            r#"["NEG-ERR"]"#.to_owned(),
            r#"["NEG-ERR","s",1]"#.to_owned(),
            format!(r#"["OK","{ID}"]"#),
            format!(r#"["OK","{ID}","true"]"#),
            r#"["OK","",true,""]"#.to_owned(),
            format!(r#"["EVENT",{EVENT}]"#),
            r#"["EVENT","s"]"#.to_owned(),
            r#"["EVENT","s",null]"#.to_owned(),
            r#"["EVENT","s",{}]"#.to_owned(),
            format!(r#"["EVENT","s",["{ID}"]]"#),
            format!(r#"["EVENT","s","{ID}"]"#),
            format!(r#"["EVENT","s",{}]"#, EVENT.replace(ID, &ID.to_uppercase())),
            format!(r#"["EVENT","s",{}]"#, EVENT.replace(ID, &ID[2..])),
            format!(r#"["EVENT","s",{}]"#, EVENT.replace(ID, &format!("{ID}00"))),
            format!(r#"["EVENT","s",{twice}]"#),
        ] {
            assert_eq!(parse_relay_message(&text), Err(MessageError::BadArguments), "{text}");
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(r#"["EVENT","s",{{"id":"{ID}","x":{deep}}},{deep}]"#);
        let RelayMessage::Event { event, .. } = parse_relay_message(&text).unwrap() else { panic!() };
        assert_eq!(event.parse(), Err(EventError::NotAnEvent));
    }

    #[test]
    fn client_messages() {
        assert_eq!(parse_client_message(&format!(r#"["EVENT",{EVENT}]"#)).unwrap(), ClientMessage::Event(raw()));
        let text = r#"["REQ","s",{"kinds":[1]},{"limit":0}]"#;
        let asked = nostr::filter::Filter::new;
        let filters = vec![asked().kind(Kind::TextNote).into(), asked().limit(0).into()];
        assert_eq!(parse_client_message(text).unwrap(), ClientMessage::Req { subscription: "s".into(), filters });
        let filter = Filter::from(asked().kind(Kind::TextNote));
        for (text, message) in [
            (
                r#"["COUNT","s",{"kinds":[1]}]"#,
                ClientMessage::Count { subscription: "s".into(), filters: vec![filter.clone()] },
            ),
            (
                r#"["NEG-OPEN","s",{"kinds":[1]},"6100"]"#,
                ClientMessage::NegOpen { subscription: "s".into(), filter, payload: "6100".into() },
            ),
            (r#"["NEG-MSG","s","61"]"#, ClientMessage::NegMsg { subscription: "s".into(), payload: "61".into() }),
            (r#"["NEG-CLOSE","s"]"#, ClientMessage::NegClose { subscription: "s".into() }),
        ] {
            assert_eq!(parse_client_message(text).unwrap(), message);
        }
        for text in [
            r#"["REQ"]"#,
            r#"["REQ","s"]"#,
            r#"["REQ",{}]"#,
            r#"["REQ","s",[]]"#,
            r#"["CLOSE"]"#,
            r#"["EVENT"]"#,
            r#"["COUNT","s"]"#,
            r#"["NEG-OPEN","s",{}]"#,
            r#"["NEG-OPEN","s",{},97]"#,
            r#"["NEG-OPEN","s","61"]"#,
            r#"["NEG-MSG","s"]"#,
            r#"["NEG-CLOSE"]"#,
        ] {
            assert_eq!(parse_client_message(text), Err(MessageError::BadArguments), "{text}");
        }
    }

    #[test]
    fn a_refused_req_can_be_answered() {
        let text = r#"["REQ","\"s\"",{"kinds":["1"]}]"#;
        assert_eq!(parse_client_message(text), Err(MessageError::BadArguments));
        assert_eq!(refused_subscription(text), Some(Refused::Req("\"s\"".into())));
        let count = r#"["COUNT","s",{"kinds":["1"]}]"#;
        assert_eq!(refused_subscription(count), Some(Refused::Count("s".into())));
        for text in [r#"["NEG-OPEN","s",{"kinds":["1"]},"61"]"#, r#"["NEG-OPEN","s",{}]"#, r#"["NEG-MSG","s",{}]"#] {
            assert_eq!(refused_subscription(text), Some(Refused::Reconciliation("s".into())));
        }
        for text in [r#"["REQ",{}]"#, r#"["REQ"]"#, r#"["CLOSE","s"]"#, r#"["REQ","s""#] {
            assert_eq!(refused_subscription(text), None, "{text}");
        }
    }

    #[test]
    fn too_many_filters_are_seen_but_not_kept() {
        let text = format!(r#"["REQ","s"{}]"#, ",{}".repeat(300_000));
        let ClientMessage::Req { filters, .. } = parse_client_message(&text).unwrap() else { panic!() };
        assert_eq!(filters.len(), CLIENT_FILTERS_MAX + 1);
        let text = format!(r#"["REQ","s"{}]"#, ",{}".repeat(CLIENT_FILTERS_MAX));
        let ClientMessage::Req { filters, .. } = parse_client_message(&text).unwrap() else { panic!() };
        assert_eq!(filters.len(), CLIENT_FILTERS_MAX);
    }

    #[test]
    fn events_out_of_form() {
        use EventError::*;
        for (from, to, error) in [
            ("\"kind\":4", "\"kind\":65536", NotAnEvent),
            ("\"kind\":4", "\"kind\":-1", NotAnEvent),
            ("\"kind\":4", "\"kind\":4.0", NotAnEvent),
            ("\"kind\":4", "\"kind\":4,\"kind\":4", NotAnEvent),
            ("\"kind\":4", "\"kin\":4", NotAnEvent),
            ("1640839235", "-1", NotAnEvent),
            ("1640839235", "\"1640839235\"", NotAnEvent),
            ("1640839235", "1e9", NotAnEvent),
            ("[[\"p\"", "[[],[\"p\"", NotAnEvent),
            ("[[\"p\"", "[[\"p\",null", NotAnEvent),
            ("[[\"p\"", "[\"p\",[\"p\"", NotAnEvent),
            ("\"content\":\"", "\"content\":\"\\ud800", NotAnEvent),
            ("f86c44a2", "F86C44A2", BadPublicKey),
            ("f86c44a2", "", BadPublicKey),
            ("a5d9290e", "A5D9290E", BadSignature),
            ("a5d9290e", "", BadSignature),
        ] {
            let json = EVENT.replacen(from, to, 1);
            assert_ne!(json, EVENT);
            assert_eq!(RawEvent::from_json(&json).and_then(|event| event.parse()), Err(error), "{json}");
        }
        for (json, error) in [("", NotAnEvent), ("{}", NotAnEvent), ("[]", NotAnEvent), (r#"{"id":""}"#, BadId)] {
            assert_eq!(RawEvent::from_json(json), Err(error), "{json}");
        }
        let spaced = format!("\t{} \r\n", EVENT.replacen('{', "{ \"unknown\": [{}], ", 1));
        let event = RawEvent::from_json(&spaced).unwrap().parse().unwrap();
        assert_eq!(event, raw().parse().unwrap());
    }
}
