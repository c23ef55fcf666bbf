//! Every event that the world of the engine's target knows, signed once.

use nostr::event::{Event, Kind, Signature, Tag, UnsignedEvent};
use nostr::key::{Keys, PublicKey, SecretKey};
use nostr::nips::nip19::ToBech32;
use nostr::types::Timestamp;
use secp256k1::Secp256k1;
use std::cmp::Reverse;

use crate::protocol::filter::Filter;

/// When the world begins.
pub const BEGIN: u64 = 1_700_000_000;
/// The service, as announcements name it.
pub const DOMAIN: &str = "git.example";
/// Comments of one second, more than a small relay puts into one page.
const BURST: u64 = 40;

pub struct PoolEvent {
    pub event: Event,
    pub json: String,
    /// Whether it stays what it is for good: nothing may replace it, and it does not expire.
    pub lasts: bool,
}

pub struct Pool {
    pub events: Vec<PoolEvent>,
    /// Indexes of those that prepared stores hold.
    pub prepared: usize,
}

impl Pool {
    pub fn new() -> Pool {
        let mut signer = Signer { secp: Secp256k1::new(), events: Vec::new() };
        signer.announcements();
        signer.roots();
        let prepared = signer.events.len();
        signer.burst();
        signer.oddities();
        Pool { events: signer.events, prepared }
    }

    /// What a relay that holds the whole pool answers to `filter`, at most `cap` events.
    pub fn page(&self, filter: &Filter, cap: usize) -> Vec<&PoolEvent> {
        let mut page: Vec<&PoolEvent> = self.events.iter().filter(|held| filter.matches(&held.event)).collect();
        page.sort_by_key(|held| (Reverse(held.event.created_at), held.event.id));
        page.truncate(filter.limit().unwrap_or(cap).min(cap));
        page
    }
}

struct Signer {
    secp: Secp256k1<secp256k1::All>,
    events: Vec<PoolEvent>,
}

fn keys(author: u8) -> Keys {
    Keys::new(SecretKey::from_slice(&[author + 1; 32]).expect("below the order of the curve"))
}

/// The author's public key.
pub fn author(n: u8) -> PublicKey {
    keys(n).public_key()
}

fn repo(author: u8, identifier: &str) -> String {
    format!("30617:{}:{identifier}", keys(author).public_key())
}

impl Signer {
    fn sign(&mut self, author: u8, kind: u16, at: u64, tags: &[&[&str]], content: &str) -> String {
        let keys = keys(author);
        let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).expect("a tag has a name"));
        let mut unsigned =
            UnsignedEvent::new(keys.public_key(), Timestamp::from(at), Kind::from_u16(kind), tags, content);
        let id = unsigned.id();
        let signature = keys.sign_schnorr_with_aux_rand(&self.secp, id.as_bytes(), &[0; 32]);
        self.add(unsigned, signature);
        id.to_hex()
    }

    fn add(&mut self, mut unsigned: UnsignedEvent, signature: Signature) {
        let id = unsigned.id();
        let UnsignedEvent { pubkey, created_at, kind, tags, content, .. } = unsigned;
        let lasts = matches!(kind.as_u16(), 5..10_000) && !tags.iter().any(|tag| tag.kind() == "expiration");
        let event = Event::new(id, pubkey, created_at, kind, tags, content, signature);
        let json = serde_json::to_string(&event).expect("an event is JSON");
        self.events.push(PoolEvent { event, json, lasts });
    }

    fn announce(&mut self, author: u8, identifier: &str, at: u64, relays: &[&str], maintainers: &[u8]) {
        let npub = keys(author).public_key().to_bech32().expect("infallible");
        let clone = format!("https://{DOMAIN}/{npub}/{identifier}.git");
        let own = format!("wss://{DOMAIN}");
        let relays: Vec<String> = relays.iter().map(|name| format!("wss://{name}.example")).collect();
        let relays: Vec<&str> = ["relays", &own].into_iter().chain(relays.iter().map(String::as_str)).collect();
        let maintainers: Vec<String> = maintainers.iter().map(|n| keys(*n).public_key().to_hex()).collect();
        let maintainers: Vec<&str> =
            std::iter::once("maintainers").chain(maintainers.iter().map(String::as_str)).collect();
        self.sign(author, 30_617, at, &[&["d", identifier], &["clone", &clone], &relays, &maintainers], "");
    }

    fn announcements(&mut self) {
        self.announce(0, "one", BEGIN - 1_000, &["a"], &[]);
        self.announce(0, "two", BEGIN - 900, &["a", "b"], &[1]);
        self.announce(1, "two", BEGIN - 800, &["c"], &[0, 2]);
        self.announce(1, "many", BEGIN - 700, &["a", "b", "c", "d", "e", "f", "boot", DOMAIN], &[]);
        self.announce(0, "old", BEGIN - 150_000_000, &["b", "bad host"], &[]);
        self.sign(1, 30_618, BEGIN - 600, &[&["d", "two"], &["HEAD", "ref: refs/heads/main"]], "");
    }

    fn roots(&mut self) {
        let (one, two) = (repo(0, "one"), repo(0, "two"));
        for n in 0..4 {
            let text = n.to_string();
            self.sign(2, 1_621, BEGIN - 500, &[&["a", &one]], &text);
            self.sign(0, 1_617, BEGIN - 500 + n, &[&["a", &one], &["a", &two], &["a", &repo(1, "many")]], &text);
        }
        self.sign(2, 1_618, BEGIN - 140_000_000, &[&["a", &repo(0, "old")]], "");
    }

    fn burst(&mut self) {
        let root = self.events.last().map(|held| held.event.id.to_hex()).expect("roots come first");
        for n in 0..BURST {
            let tags: [&[&str]; 2] = [&["E", &root], &["A", &repo(0, "one")]];
            self.sign(2, 1_111, BEGIN - 400, &tags[(n % 2) as usize..], &n.to_string());
        }
    }

    fn oddities(&mut self) {
        let one = repo(0, "one");
        let comment = self.events.last().map(|held| held.event.id.to_hex()).expect("the burst comes first");
        let root = self.sign(0, 1_621, BEGIN + 50, &[&["a", &one], &["a", &repo(0, "two")]], "new");
        self.sign(2, 1_111, BEGIN + 60, &[&["e", &root]], &"long ".repeat(1_500));
        self.sign(2, 7, BEGIN + 60, &[&["e", &comment]], "+");
        self.sign(0, 1_630, BEGIN + 61, &[&["e", &root], &["q", &root]], "");
        self.sign(2, 1_111, BEGIN, &[&["e", &root], &["expiration", &(BEGIN + 300).to_string()]], "soon gone");
        self.sign(2, 1_111, BEGIN, &[&["e", &root], &["-"]], "protected");
        self.sign(2, 1_111, BEGIN + 5_000, &[&["e", &root]], "in the future");
        self.sign(2, 1, BEGIN, &[&["t", "unrelated"]], "");
        self.sign(2, 20_001, BEGIN, &[&["a", &one]], "ephemeral");
        self.sign(2, 5, BEGIN + 70, &[&["e", &comment]], "");
        self.sign(0, 5, BEGIN + 80, &[&["e", &root]], "");
        self.sign(0, 5, BEGIN + 90, &[&["a", &repo(0, "two")]], "");
        self.sign(2, 30_617, BEGIN, &[&["d", "foreign"], &["clone", "https://other.example/x.git"]], "");
        self.sign(0, 30_617, BEGIN + 100, &[&["d", "one"], &["clone", "https://other.example/x.git"]], "unlists us");
        self.announce(0, "one", BEGIN + 200, &["b", "d"], &[2]);
        self.announce(2, "one", BEGIN + 10, &["e", "A", "a"], &[]);
        self.announce(0, "future", BEGIN + 900_000, &["f"], &[]);
        // A signature of something else.
        let signature = self.events[0].event.sig;
        let tags = [Tag::parse(["a", &one]).expect("a tag")];
        let forged =
            UnsignedEvent::new(keys(2).public_key(), Timestamp::from(BEGIN), Kind::from_u16(1_621), tags, "forged");
        self.add(forged, signature);
    }
}
