//! Messages of relays and clients.

use nostr::event::Event;
use nostr::filter::Filter;
use serde_json::Value;

use crate::limits::{CLIENT_FILTER_VALUES_MAX, CLIENT_FILTERS_MAX};
use crate::protocol::canonical::Canonical;
use crate::protocol::message::{
    self, ClientMessage, RawEvent, Refused, RelayMessage, parse_client_message, parse_relay_message,
};

/// What a relay may send: an EVENT's parts are what a full parse finds there, and what we write is read back the same.
pub fn relay_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_eq!(parse_relay_message(text), message::parse_any_relay_message(text), "the short way for events");
    let Ok(parsed) = parse_relay_message(text) else { return };
    let written = match &parsed {
        RelayMessage::Event { subscription, event } => {
            // A full parse refuses more than we do: depth, and half surrogates in what we skip.
            if let Ok(whole) = serde_json::from_str::<Value>(text) {
                assert_eq!(whole[0], "EVENT");
                assert_eq!(whole[1], **subscription);
                assert_eq!(whole[2], serde_json::from_str::<Value>(event.json).unwrap());
                assert_eq!(whole[2]["id"], event.id.to_hex());
            }
            raw_event(event);
            message::event_message(subscription, event.json)
        }
        RelayMessage::Eose { subscription } => message::eose_message(subscription),
        RelayMessage::Closed { subscription, reason } => message::closed_message(subscription, reason),
        RelayMessage::Notice(why) => message::notice_message(why),
        RelayMessage::Ok { id, accepted, reason } => message::ok_message(id, *accepted, reason),
        // A relay may put anything for hexadecimal; we write only that.
        RelayMessage::NegMsg { payload, .. } if !payload.bytes().all(|b| b.is_ascii_hexdigit()) => return,
        RelayMessage::NegMsg { subscription, payload } => message::neg_msg_message(subscription, payload),
        RelayMessage::NegErr { subscription, reason, max_records } => {
            message::neg_err_message(subscription, reason, *max_records)
        }
        RelayMessage::Auth { .. } => return,
    };
    assert_eq!(parse_relay_message(&written).as_ref(), Ok(&parsed));
}

/// What a client may send: bounded, and read back the same when written.
pub fn client_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let refused = message::refused_subscription(text);
    let Ok(parsed) = parse_client_message(text) else { return };
    let written = match &parsed {
        ClientMessage::Event(event) => {
            raw_event(event);
            format!(r#"["EVENT",{}]"#, event.json)
        }
        ClientMessage::Req { subscription, filters } => {
            assert_eq!(refused, Some(Refused::Req(subscription.clone())));
            assert!((1..=CLIENT_FILTERS_MAX + 1).contains(&filters.len()));
            assert!(filters.iter().all(|filter| filter.values() <= CLIENT_FILTER_VALUES_MAX + 1));
            written("REQ", subscription, filters)
        }
        ClientMessage::Close { subscription } => message::close_message(subscription),
        ClientMessage::Count { subscription, filters } => {
            assert_eq!(refused, Some(Refused::Count(subscription.clone())));
            written("COUNT", subscription, filters)
        }
        // A client may put anything for hexadecimal; we write only that.
        ClientMessage::NegOpen { payload, .. } | ClientMessage::NegMsg { payload, .. }
            if !payload.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            return;
        }
        ClientMessage::NegOpen { subscription, filter, payload } => {
            let filter = serde_json::to_string(&Filter::from(filter)).unwrap();
            message::neg_open_message(subscription, &filter, payload)
        }
        ClientMessage::NegMsg { subscription, payload } => message::neg_msg_message(subscription, payload),
        ClientMessage::NegClose { subscription } => message::neg_close_message(subscription),
    };
    assert_eq!(parse_client_message(&written).as_ref(), Ok(&parsed));
}

/// A message of a type with filters.
fn written(kind: &str, subscription: &str, filters: &[crate::protocol::filter::Filter]) -> String {
    let mut parts = vec![Value::from(kind), Value::from(subscription)];
    parts.extend(filters.iter().map(|filter| serde_json::to_value(Filter::from(filter)).unwrap()));
    Value::from(parts).to_string()
}

fn raw_event(raw: &RawEvent<'_>) {
    let any = RawEvent::from_any_json(raw.json).unwrap();
    assert_eq!((any.id, any.parse()), (raw.id, raw.parse()), "the short way for events");
    let Ok(event) = raw.parse() else { return };
    assert_eq!(event.id, raw.id);
    assert_eq!(serde_json::from_str::<Event>(raw.json).unwrap(), event);
    let written = serde_json::to_string(&event).unwrap();
    assert_eq!(RawEvent::from_json(&written).unwrap().parse().as_ref(), Ok(&event));
    let mut canonical = Canonical::default();
    canonical.write_parsed(&event, raw);
    assert_eq!(canonical.json(), written);
}
