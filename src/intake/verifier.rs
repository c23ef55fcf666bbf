//! Signatures (BIP-340), with the keys of recent authors kept ready.
//!
//! A public key travels as an x coordinate; to verify with it, its point has to be found by a square root, about a tenth
//! of the whole work. Authors come again and again, so the points of the last ones are remembered. Only a valid
//! signature earns a place: whoever sends forgeries displaces nobody.

use nostr::event::Event;
use nostr::key::PublicKey;
use ring::digest::{SHA256, digest};
use secp256k1::schnorr::Signature;
use secp256k1::{Secp256k1, VerifyOnly, XOnlyPublicKey};

use super::recent::Recent;
use crate::limits::{AUTHOR_KEYS_MAX, SCRATCH_BYTES_KEPT};

/// Verifies events.
#[derive(Debug)]
pub struct Verifier {
    context: Secp256k1<VerifyOnly>,
    /// What was hashed last: its memory serves again.
    hashed: Vec<u8>,
    keys: Recent<PublicKey, XOnlyPublicKey>,
}

impl Default for Verifier {
    fn default() -> Self {
        let (context, keys) = (Secp256k1::verification_only(), Recent::new(AUTHOR_KEYS_MAX));
        Verifier { context, hashed: Vec::new(), keys }
    }
}

impl Verifier {
    /// Whether the id is the event's hash and the signature its author's (NIP-01).
    pub fn is_valid(&mut self, event: &Event) -> bool {
        if !self.is_id_valid(event) {
            return false;
        }
        let known = self.keys.get(&event.pubkey).copied();
        let Some(key) = known.or_else(|| event.pubkey.xonly().ok()) else { return false };
        let signature = Signature::from_byte_array(event.sig.to_bytes());
        let valid = self.context.verify_schnorr(&signature, event.id.as_bytes(), &key).is_ok();
        if valid && known.is_none() {
            self.keys.insert(event.pubkey, key);
        }
        valid
    }

    /// As `Event::verify_id`, which takes new memory each time, and more of it again and again while it writes.
    fn is_id_valid(&mut self, event: &Event) -> bool {
        self.hashed.clear();
        self.hashed.shrink_to(SCRATCH_BYTES_KEPT);
        let fields = (0u8, &event.pubkey, &event.created_at, &event.kind, &event.tags, &event.content);
        serde_json::to_writer(&mut self.hashed, &fields).expect("memory takes it");
        digest(&SHA256, &self.hashed).as_ref() == event.id.as_bytes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nostr::event::{EventId, Kind, Signature as EventSignature, Tags};
    use nostr::key::Keys;
    use nostr::types::Timestamp;
    use secp256k1::{Keypair, Message};

    use super::*;

    /// A signed event of author `n`, which is any number but zero, created at second `n`.
    pub fn event(n: u64, content: &str) -> Event {
        let secret = format!("{n:064x}");
        let author = Keys::parse(&secret).unwrap().public_key();
        let (created_at, kind, tags) = (Timestamp::from_secs(n), Kind::from_u16(1), Tags::new());
        let id = EventId::compute(&author, &created_at, &kind, &tags, content);
        let context = Secp256k1::new();
        let pair = Keypair::from_seckey_str(&context, &secret).unwrap();
        let message = Message::from_digest(id.to_bytes());
        let signature = context.sign_schnorr_with_aux_rand(message.as_ref(), &pair, &[7; 32]);
        let sig = EventSignature::from_byte_array(signature.to_byte_array());
        Event::new(id, author, created_at, kind, tags, content, sig)
    }

    #[test]
    fn valid_with_and_without_a_remembered_key_and_forged_with_neither() {
        let mut verifier = Verifier::default();
        let (first, second) = (event(1, "one"), event(1, "two"));
        let mut forged = second.clone();
        forged.sig = first.sig;
        assert!(!verifier.is_valid(&forged), "before its key is known");
        assert_eq!(verifier.keys.len(), 0, "a forgery earns no place");
        assert!(verifier.is_valid(&first) && verifier.is_valid(&second));
        assert!(!verifier.is_valid(&forged), "and after");
        let mut altered = first.clone();
        altered.content = "three".to_owned();
        assert!(!verifier.is_valid(&altered));
    }

    #[test]
    fn an_id_is_the_hash_whatever_has_to_be_escaped() {
        let mut verifier = Verifier::default();
        let large = "x".repeat(2 * SCRATCH_BYTES_KEPT);
        for content in ["", "\"\\/\u{8}\u{c}\n\r\t\u{1}\u{7f}", "\u{2028}é日😀", &large, "small again"] {
            let event = event(1, content);
            assert!(event.verify_id() && verifier.is_valid(&event), "{content}");
        }
        assert!(verifier.hashed.capacity() <= SCRATCH_BYTES_KEPT);
    }

    #[test]
    fn the_oldest_author_makes_room() {
        let mut verifier = Verifier::default();
        let first = event(1, "");
        assert!(verifier.is_valid(&first));
        for n in 2..=AUTHOR_KEYS_MAX as u64 + 1 {
            let key = Keys::parse(&format!("{n:064x}")).unwrap().public_key();
            verifier.keys.insert(key, key.xonly().unwrap());
        }
        assert_eq!(verifier.keys.len(), AUTHOR_KEYS_MAX);
        assert!(verifier.keys.get(&first.pubkey).is_none());
        assert!(verifier.is_valid(&first), "it is found again the long way");
    }
}
