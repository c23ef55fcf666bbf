//! Saying who we are to a relay (NIP-42): the key, and the signed answer to a challenge.

use std::fmt;

use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::key::{Keys, PublicKey, SecretKey};
use nostr::nips::nip19::FromBech32;
use nostr::types::Timestamp;
use secp256k1::Secp256k1;

use super::relay_url::RelayUrl;
use crate::time::UnixTime;

/// The kind of an answer to a challenge.
const AUTH_KIND: u16 = 22_242;

/// The key by which relays know us. It can sign, and it shows nothing but its public half.
#[derive(Clone)]
pub struct AuthKey(Keys);

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthKey({})", self.0.public_key().to_hex())
    }
}

impl AuthKey {
    /// A secret key as 64 hexadecimal digits or `nsec1…` (NIP-19), and nothing around it.
    pub fn parse(text: &str) -> Option<AuthKey> {
        let secret = match text.starts_with("nsec1") {
            true => SecretKey::from_bech32(text).ok()?,
            false => SecretKey::from_hex(text).ok()?,
        };
        Some(AuthKey(Keys::new(secret)))
    }

    /// Who we are.
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    /// `["AUTH", event]`, which answers a challenge of this relay, and the event's id, by which the relay will speak of
    /// it. The signature has no randomness in it (BIP-340 allows that), so that the same challenge at the same time has
    /// the same answer.
    pub fn answer(&self, relay: &RelayUrl, challenge: &str, at: UnixTime) -> (EventId, String) {
        let tag = |name: &str, value: &str| Tag::parse([name, value]).expect("a tag has a name");
        let tags = vec![tag("relay", &relay.written()), tag("challenge", challenge)];
        let (author, kind) = (self.public_key(), Kind::from_u16(AUTH_KIND));
        let unsigned = UnsignedEvent::new(author, Timestamp::from_secs(at.as_secs()), kind, tags, "");
        let id = unsigned.compute_id();
        let secp = Secp256k1::signing_only();
        let signature = self.0.sign_schnorr_with_aux_rand(&secp, id.as_bytes(), &[0; 32]);
        let UnsignedEvent { pubkey, created_at, kind, tags, content, .. } = unsigned;
        let event = Event::new(id, pubkey, created_at, kind, tags, content, signature);
        (id, format!(r#"["AUTH",{}]"#, event.as_json()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa";
    const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
    const PUBLIC: &str = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";

    fn answer(challenge: &str) -> (EventId, String) {
        let relay = RelayUrl::parse("wss://relay.example.com").expect("a URL");
        AuthKey::parse(HEX).expect("a key").answer(&relay, challenge, UnixTime::from_secs(1_700_000_000))
    }

    /// The pair of keys is NIP-19's example.
    #[test]
    fn a_key_is_hex_or_nsec_and_nothing_else() {
        for text in [HEX, NSEC] {
            assert_eq!(AuthKey::parse(text).expect("a key").public_key().to_hex(), PUBLIC);
        }
        let zero = "0".repeat(64);
        for text in ["", "nsec1", &HEX[1..], &NSEC[..60], &zero, &HEX.replace('6', "g"), &format!("{HEX}\n")] {
            assert!(AuthKey::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", AuthKey::parse(HEX).expect("a key"));
        assert_eq!(shown, format!("AuthKey({PUBLIC})"));
    }

    #[test]
    fn an_answer_is_a_signed_event_for_this_relay_and_challenge() {
        let (id, text) = answer("a \"challenge\"");
        let message: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let event = Event::from_json(message[1].to_string()).expect("an event");
        assert_eq!((&message[0], event.id, event.kind), (&"AUTH".into(), id, Kind::from_u16(22_242)));
        event.verify().expect("the hash, signed by its author");
        assert_eq!(event.pubkey.to_hex(), PUBLIC);
        assert_eq!(event.created_at.as_secs(), 1_700_000_000);
        let tags: Vec<&[String]> = event.tags.iter().map(|tag| tag.as_slice()).collect();
        assert_eq!(tags, [&["relay", "wss://relay.example.com"], &["challenge", "a \"challenge\""]]);
        assert_eq!(event.content, "");
        assert!(!text.contains(HEX));
    }

    #[test]
    fn the_same_challenge_has_the_same_answer() {
        assert_eq!(answer("x"), answer("x"));
        assert_ne!(answer("x"), answer("y"));
    }
}
