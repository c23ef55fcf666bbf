//! What travels between relays and clients, as types that cannot hold nonsense.

pub mod address;
pub mod auth;
pub mod canonical;
pub mod filter;
pub mod message;
pub mod network;
pub mod plain;
pub mod reference;
pub mod relay_info;
pub mod relay_url;
pub mod repo;
mod roles;
pub mod root;

use std::borrow::Cow;

use nostr::event::EventId;
use nostr::key::PublicKey;
use serde::Deserialize;

/// An event id from its canonical text (NIP-01): 64 lower-case hexadecimal digits and nothing else.
pub fn event_id(hex: &str) -> Option<EventId> {
    if is_lower_hex(hex, 2 * EventId::LEN) { EventId::from_hex(hex).ok() } else { None }
}

/// A public key from its canonical text (NIP-01): 64 lower-case hexadecimal digits. Not checked to be on the curve:
/// that is the signature's business.
pub fn public_key(hex: &str) -> Option<PublicKey> {
    if is_lower_hex(hex, 2 * PublicKey::LEN) { PublicKey::from_hex(hex).ok() } else { None }
}

pub(crate) fn is_lower_hex(text: &str, digits: usize) -> bool {
    // To the end, whatever comes: without a way out the compiler looks at many bytes at once.
    text.len() == digits && text.bytes().fold(true, |is, b| is & matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes from hexadecimal digits of either case, and nothing else.
pub fn hex_bytes(hex: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; hex.len() / 2];
    (hex.len() == 2 * bytes.len() && faster_hex::hex_decode(hex.as_bytes(), &mut bytes).is_ok()).then_some(bytes)
}

/// A JSON string, borrowed from its message if it holds no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
