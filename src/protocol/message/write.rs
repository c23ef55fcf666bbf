//! Messages as we write them, to relays and to clients.

use nostr::event::EventId;

use crate::protocol::canonical::push_string;

/// `["EVENT", sub, event]` of a relay. `event_json` is put in as it is and must be the JSON of an event.
pub fn event_message(sub: &str, event_json: &str) -> String {
    let mut message = String::with_capacity(event_json.len() + sub.len() + 16);
    message.push_str(r#"["EVENT","#);
    push_string(&mut message, sub);
    message.push(',');
    message.push_str(event_json);
    message.push(']');
    message
}

/// `["EOSE", sub]`.
pub fn eose_message(sub: &str) -> String {
    format!(r#"["EOSE",{}]"#, json_text(sub))
}

/// `["OK", id, accepted, why]`. When not accepted, `why` begins with one of NIP-01's words and a colon.
pub fn ok_message(id: &EventId, accepted: bool, why: &str) -> String {
    format!(r#"["OK","{id}",{accepted},{}]"#, json_text(why))
}

/// The same for what is no event, under the id that it claims. `why` begins with one of NIP-01's words and a colon.
pub fn not_ok_message(claimed_id: &str, why: &str) -> String {
    format!(r#"["OK",{},false,{}]"#, json_text(claimed_id), json_text(why))
}

/// `["CLOSED", sub, why]`. `why` begins with one of NIP-01's words and a colon.
pub fn closed_message(sub: &str, why: &str) -> String {
    format!(r#"["CLOSED",{},{}]"#, json_text(sub), json_text(why))
}

/// `["NOTICE", why]`.
pub fn notice_message(why: &str) -> String {
    format!(r#"["NOTICE",{}]"#, json_text(why))
}

/// `["CLOSE", sub]` of a client.
pub fn close_message(sub: &str) -> String {
    format!(r#"["CLOSE",{}]"#, json_text(sub))
}

/// `["NEG-OPEN", sub, filter, payload]` of a client (NIP-77). `filter` is put in as it is and must be a filter's JSON;
/// `payload` is hexadecimal.
pub fn neg_open_message(sub: &str, filter: &str, payload: &str) -> String {
    let mut message = String::with_capacity(filter.len() + payload.len() + sub.len() + 24);
    message.push_str(r#"["NEG-OPEN","#);
    message.push_str(&json_text(sub));
    message.push(',');
    message.push_str(filter);
    message.push_str(",\"");
    message.push_str(payload);
    message.push_str("\"]");
    message
}

/// `["NEG-MSG", sub, payload]` of either side (NIP-77). `payload` is hexadecimal.
pub fn neg_msg_message(sub: &str, payload: &str) -> String {
    format!(r#"["NEG-MSG",{},"{payload}"]"#, json_text(sub))
}

/// The same of a relay, from the bytes of the payload.
pub fn neg_answer_message(sub: &str, payload: &[u8]) -> String {
    neg_msg_message(sub, &faster_hex::hex_string(payload))
}

/// `["COUNT", sub, {"count": n}]` of a relay (NIP-45).
pub fn count_message(sub: &str, count: u64) -> String {
    format!(r#"["COUNT",{},{{"count":{count}}}]"#, json_text(sub))
}

/// `["NEG-CLOSE", sub]` of a client (NIP-77).
pub fn neg_close_message(sub: &str) -> String {
    format!(r#"["NEG-CLOSE",{}]"#, json_text(sub))
}

/// `["NEG-ERR", sub, why, max_records]` of a relay (NIP-77).
pub fn neg_err_message(sub: &str, why: &str, max_records: Option<u64>) -> String {
    let max = max_records.map_or(String::new(), |max| format!(",{max}"));
    format!(r#"["NEG-ERR",{},{}{max}]"#, json_text(sub), json_text(why))
}

fn json_text(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    push_string(&mut json, text);
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_json_asks() {
        for text in ["", "live", "é\u{7f}\u{2028}", "a\"b", "a\\b", "\u{0}", "\u{1f}", "\n\t", " "] {
            assert_eq!(json_text(text), serde_json::Value::from(text).to_string(), "{text:?}");
        }
    }
}
