//! Signatures (BIP-340), with the keys of recent authors kept ready.
//!
//! A public key travels as an x coordinate; to verify with it, its point has to be found by a square root, about a tenth
//! of the whole work. Authors come again and again, so the points of the last ones are remembered. Only a valid
//! signature earns a place: whoever sends forgeries displaces nobody.

use nostr::event::Event;
use nostr::key::PublicKey;
use secp256k1::schnorr::Signature;
use secp256k1::{Secp256k1, VerifyOnly, XOnlyPublicKey};

use super::recent::Recent;
use crate::limits::AUTHOR_KEYS_MAX;
use crate::policy::Refusal;
use crate::protocol::canonical::Canonical;
use crate::protocol::message::RawEvent;

/// Verifies events.
#[derive(Debug)]
pub struct Verifier {
    context: Secp256k1<VerifyOnly>,
    canonical: Canonical,
    keys: Recent<PublicKey, XOnlyPublicKey>,
}

impl Default for Verifier {
    fn default() -> Self {
        let (context, keys) = (Secp256k1::verification_only(), Recent::new(AUTHOR_KEYS_MAX));
        Verifier { context, canonical: Canonical::default(), keys }
    }
}

impl Verifier {
    /// The canonical JSON of the event that was verified last.
    pub fn json(&self) -> &str {
        self.canonical.json()
    }

    /// The canonical JSON of an event if that has at most `bytes_max` bytes, its id is its hash and the signature its
    /// author's (NIP-01). `raw` is what it was parsed of.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooLarge`], before anything is hashed, or [`Refusal::Forged`].
    pub fn verify(&mut self, event: &Event, raw: &RawEvent<'_>, bytes_max: usize) -> Result<&str, Refusal> {
        self.canonical.write_parsed(event, raw);
        if self.canonical.json().len() > bytes_max {
            return Err(Refusal::TooLarge);
        }
        if self.canonical.hash() != event.id {
            return Err(Refusal::Forged);
        }
        let known = self.keys.get(&event.pubkey).copied();
        let key = known.or_else(|| event.pubkey.xonly().ok()).ok_or(Refusal::Forged)?;
        let signature = Signature::from_byte_array(event.sig.to_bytes());
        let valid = self.context.verify_schnorr(&signature, event.id.as_bytes(), &key).is_ok();
        if valid && known.is_none() {
            self.keys.insert(event.pubkey, key);
        }
        if valid { Ok(self.canonical.json()) } else { Err(Refusal::Forged) }
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

    fn verify(verifier: &mut Verifier, event: &Event) -> Option<String> {
        let json = event.as_json();
        let raw = RawEvent::from_json(&json).unwrap();
        verifier.verify(event, &raw, usize::MAX).map(str::to_owned).ok()
    }

    #[test]
    fn valid_with_and_without_a_remembered_key_and_forged_with_neither() {
        let mut verifier = Verifier::default();
        let (first, second) = (event(1, "one"), event(1, "two"));
        let mut forged = second.clone();
        forged.sig = first.sig;
        assert!(verify(&mut verifier, &forged).is_none(), "before its key is known");
        assert_eq!(verifier.keys.len(), 0, "a forgery earns no place");
        assert_eq!(verify(&mut verifier, &first), Some(first.as_json()));
        assert_eq!(verify(&mut verifier, &second), Some(second.as_json()));
        assert!(verify(&mut verifier, &forged).is_none(), "and after");
        let mut altered = first.clone();
        altered.content = "three".to_owned();
        assert!(verify(&mut verifier, &altered).is_none());
    }

    #[test]
    fn the_oldest_author_makes_room() {
        let mut verifier = Verifier::default();
        let first = event(1, "");
        assert!(verify(&mut verifier, &first).is_some());
        for n in 2..=AUTHOR_KEYS_MAX as u64 + 1 {
            let key = Keys::parse(&format!("{n:064x}")).unwrap().public_key();
            verifier.keys.insert(key, key.xonly().unwrap());
        }
        assert_eq!(verifier.keys.len(), AUTHOR_KEYS_MAX);
        assert!(verifier.keys.get(&first.pubkey).is_none());
        assert!(verify(&mut verifier, &first).is_some(), "it is found again the long way");
    }
}
