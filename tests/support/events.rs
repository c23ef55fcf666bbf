//! Signed NIP-34 events from a seed. The same seed and arguments give the same bytes: keys are counted, signatures use
//! fixed auxiliary data.

use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::key::{Keys, PublicKey, SecretKey};
use nostr::nips::nip19::ToBech32;
use nostr::types::Timestamp;
use secp256k1::{Secp256k1, SignOnly};
use std::sync::LazyLock;

static SECP: LazyLock<Secp256k1<SignOnly>> = LazyLock::new(Secp256k1::signing_only);

/// A person with a key.
pub struct Author {
    keys: Keys,
}

impl Author {
    /// The person number `seed`.
    pub fn from_seed(seed: u64) -> Author {
        let mut secret = [0x5a; 32];
        secret[24..].copy_from_slice(&seed.to_be_bytes());
        let secret = SecretKey::from_slice(&secret).expect("any number below the group order is a key");
        Author { keys: Keys::new(secret) }
    }

    pub fn public_key(&self) -> PublicKey {
        self.keys.public_key()
    }

    pub fn npub(&self) -> String {
        self.public_key().to_bech32().expect("a public key has a bech32 form")
    }

    pub fn hex(&self) -> String {
        self.public_key().to_hex()
    }

    /// Any event.
    pub fn sign(&self, kind: u16, created_at: u64, tags: Vec<Vec<String>>, content: impl Into<String>) -> Event {
        let tags = tags.into_iter().map(|t| Tag::parse(t).expect("no tag of a test is empty"));
        let mut unsigned = UnsignedEvent::new(
            self.public_key(),
            Timestamp::from_secs(created_at),
            Kind::from_u16(kind),
            tags,
            content,
        );
        let id = unsigned.id();
        let sig = self.keys.sign_schnorr_with_aux_rand(&SECP, id.as_bytes(), &[0; 32]);
        Event::new(id, unsigned.pubkey, unsigned.created_at, unsigned.kind, unsigned.tags, unsigned.content, sig)
    }

    /// The address of this author's repo `d`.
    pub fn repo(&self, d: &str) -> String {
        format!("30617:{}:{d}", self.hex())
    }

    /// The clone URL that GRASP-01 asks for on `domain`.
    pub fn clone_url(&self, domain: &str, d: &str) -> String {
        format!("https://{domain}/{}/{d}.git", self.npub())
    }

    /// A repository announcement (30617) that lists the services `domains` in `clone` and `relays` in `relays`.
    pub fn announcement(&self, d: &str, domains: &[&str], relays: &[&str], created_at: u64) -> Event {
        let mut clone = vec!["clone".to_owned()];
        clone.extend(domains.iter().map(|domain| self.clone_url(domain, d)));
        let mut relay_tag = vec!["relays".to_owned()];
        relay_tag.extend(relays.iter().map(|&relay| relay.to_owned()));
        let tags = vec![tag(["d", d]), tag(["name", d]), tag(["description", "made by a test"]), clone, relay_tag];
        self.sign(30617, created_at, tags, "")
    }

    /// A repository state (30618).
    pub fn state(&self, d: &str, commit: &str, created_at: u64) -> Event {
        let tags = vec![tag(["d", d]), tag(["refs/heads/main", commit]), tag(["HEAD", "ref: refs/heads/main"])];
        self.sign(30618, created_at, tags, "")
    }

    /// A root event of `kind` (1617 patch, 1618 pull request, 1619 its update, 1621 issue) of the repos at `addresses`.
    pub fn root(&self, kind: u16, addresses: &[&str], title: &str, created_at: u64, content: &str) -> Event {
        let mut tags: Vec<_> = addresses.iter().map(|&a| tag(["a", a])).collect();
        tags.extend(addresses.iter().map(|a| tag(["p", owner_of(a)])));
        tags.push(tag(["subject", title]));
        self.sign(kind, created_at, tags, content)
    }

    /// An issue (1621).
    pub fn issue(&self, address: &str, title: &str, created_at: u64) -> Event {
        self.root(1621, &[address], title, created_at, "An issue.")
    }

    /// A NIP-22 comment (1111) on the event `root`, which is also its parent.
    pub fn comment(&self, root: &Event, created_at: u64, content: &str) -> Event {
        self.reply(root, root, created_at, content)
    }

    /// A NIP-22 comment (1111) in the thread of `root`, answering `parent`.
    pub fn reply(&self, root: &Event, parent: &Event, created_at: u64, content: &str) -> Event {
        let tags = vec![
            tag(["E", &root.id.to_hex(), "", &root.pubkey.to_hex()]),
            tag(["K", &root.kind.as_u16().to_string()]),
            tag(["P", &root.pubkey.to_hex()]),
            tag(["e", &parent.id.to_hex(), "", &parent.pubkey.to_hex()]),
            tag(["k", &parent.kind.as_u16().to_string()]),
            tag(["p", &parent.pubkey.to_hex()]),
        ];
        self.sign(1111, created_at, tags, content)
    }

    /// A NIP-22 comment (1111) on the announcement at `address` itself.
    pub fn repo_comment(&self, address: &str, created_at: u64, content: &str) -> Event {
        let owner = owner_of(address);
        let tags = vec![
            tag(["A", address]),
            tag(["K", "30617"]),
            tag(["P", owner]),
            tag(["a", address]),
            tag(["k", "30617"]),
            tag(["p", owner]),
        ];
        self.sign(1111, created_at, tags, content)
    }

    /// A status: 1630 open, 1631 applied or resolved, 1632 closed, 1633 draft.
    pub fn status(&self, kind: u16, root: &Event, address: &str, created_at: u64) -> Event {
        let root_id = root.id.to_hex();
        let tags = vec![
            tag(["e", &root_id, "", "root"]),
            tag(["p", &root.pubkey.to_hex()]),
            tag(["p", owner_of(address)]),
            tag(["a", address]),
        ];
        self.sign(kind, created_at, tags, "")
    }

    /// A deletion request (kind 5, NIP-09) for events.
    pub fn deletion(&self, events: &[&Event], created_at: u64) -> Event {
        let mut tags: Vec<_> = events.iter().map(|e| tag(["e", &e.id.to_hex()])).collect();
        tags.extend(events.iter().map(|e| tag(["k", &e.kind.as_u16().to_string()])));
        self.sign(5, created_at, tags, "")
    }

    /// A deletion request (kind 5, NIP-09) for an address.
    pub fn address_deletion(&self, address: &str, created_at: u64) -> Event {
        self.sign(5, created_at, vec![tag(["a", address]), tag(["k", "30617"])], "")
    }
}

/// The JSON of an event, as it travels.
pub fn json(event: &Event) -> String {
    event.as_json()
}

/// The event of a JSON text.
pub fn parse(json: &str) -> Event {
    Event::from_json(json).expect("the JSON of an event")
}

/// `["EVENT", …]` as a client sends it.
pub fn event_message(event: &Event) -> String {
    format!(r#"["EVENT",{}]"#, json(event))
}

/// `event` with another signature: well-formed, its id right, the signature not.
pub fn forged(event: &Event) -> Event {
    let stranger = Author::from_seed(u64::MAX);
    let sig = stranger.keys.sign_schnorr_with_aux_rand(&SECP, event.id.as_bytes(), &[0; 32]);
    let Event { id, pubkey, created_at, kind, tags, content, .. } = event.clone();
    Event::new(id, pubkey, created_at, kind, tags, content, sig)
}

/// `event` with another content under its old id and signature.
pub fn altered(event: &Event) -> Event {
    let Event { id, pubkey, created_at, kind, tags, sig, .. } = event.clone();
    Event::new(id, pubkey, created_at, kind, tags, "not what was signed", sig)
}

/// The wall clock, in seconds since 1970.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Text of `len` bytes that differs with `n`.
pub fn padding(n: u64, len: usize) -> String {
    const WORDS: [&str; 8] = ["patch ", "merge ", "branch ", "review ", "commit ", "rebase ", "diff ", "issue "];
    let mut text = format!("{n:x} ");
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(WORDS[(state >> 61) as usize]);
    }
    text.truncate(len);
    text
}

/// A tag from its words.
pub fn tag<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn owner_of(address: &str) -> &str {
    address.split(':').nth(1).expect("an address has three parts")
}

/// The ids of `events`, sorted.
pub fn sorted_ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<EventId> {
    let mut ids: Vec<EventId> = events.into_iter().map(|e| e.id).collect();
    ids.sort();
    ids
}
