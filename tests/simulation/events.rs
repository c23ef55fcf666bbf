//! The world's own idea of an event: signed for real, but read, matched and compared by code that shares nothing with
//! the program, so that the two cannot be wrong in the same way.

use nostr::event::{Kind, Signature, Tag, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use nostr::nips::nip19::ToBech32;
use nostr::types::Timestamp;
use secp256k1::Secp256k1;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The service that every world keeps complete.
pub const DOMAIN: &str = "grasp.example";
/// Its relay, as announcements list it.
pub const OWN_RELAY: &str = "wss://grasp.example";

/// A signed event.
#[derive(Debug, PartialEq, Eq)]
pub struct SimEvent {
    pub id: String,
    pub author: String,
    pub created_at: u64,
    pub kind: u16,
    pub tags: Vec<Vec<String>>,
    pub json: String,
}

pub type EventRef = Rc<SimEvent>;

impl SimEvent {
    /// Reads an event from its JSON; `None` if it is none. Says nothing about the signature.
    pub fn from_json(json: &str) -> Option<SimEvent> {
        let v: Value = serde_json::from_str(json).ok()?;
        let tags = v["tags"].as_array()?.iter().map(|tag| {
            tag.as_array().map(|t| t.iter().filter_map(|s| s.as_str().map(str::to_owned)).collect::<Vec<_>>())
        });
        Some(SimEvent {
            id: v["id"].as_str()?.to_owned(),
            author: v["pubkey"].as_str()?.to_owned(),
            created_at: v["created_at"].as_u64()?,
            kind: u16::try_from(v["kind"].as_u64()?).ok()?,
            tags: tags.collect::<Option<_>>()?,
            json: json.to_owned(),
        })
    }

    /// The second items of the tags called `name`.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.tags.iter().filter(move |t| t.first().is_some_and(|n| n == name)).filter_map(|t| t.get(1)).map(|s| &**s)
    }

    pub fn identifier(&self) -> &str {
        self.values("d").next().unwrap_or("")
    }

    /// The address of this event, for what has one.
    pub fn address(&self) -> String {
        format!("{}:{}:{}", self.kind, self.author, self.identifier())
    }

    /// When it expires (NIP-40).
    pub fn expires_at(&self) -> Option<u64> {
        self.values("expiration").next()?.parse().ok()
    }

    /// What a newer event must share to replace this one (NIP-01), if it can be replaced.
    pub fn replace_key(&self) -> Option<(u16, String, String)> {
        match self.kind {
            0 | 3 | 10_000..=19_999 => Some((self.kind, self.author.clone(), String::new())),
            30_000..=39_999 => Some((self.kind, self.author.clone(), self.identifier().to_owned())),
            _ => None,
        }
    }

    /// Whether NIP-01 prefers this event to `other`, both being versions of one thing.
    pub fn supersedes(&self, other: &SimEvent) -> bool {
        (self.created_at, &other.id) > (other.created_at, &self.id)
    }
}

/// Someone who signs.
pub struct Author {
    keys: Keys,
    pub hex: String,
    pub npub: String,
}

impl Author {
    /// The `n`th author, always with the same key.
    pub fn new(n: u64) -> Author {
        let mut secret = [0x11; 32];
        secret[24..].copy_from_slice(&n.to_be_bytes());
        let keys = Keys::new(SecretKey::from_slice(&secret).expect("below the order of the curve"));
        let public = keys.public_key();
        Author { keys, hex: public.to_hex(), npub: public.to_bech32().expect("infallible") }
    }

    /// Signs with fixed auxiliary data, so that the same event always has the same bytes.
    pub fn sign(&self, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> EventRef {
        thread_local!(static SECP: Secp256k1<secp256k1::All> = Secp256k1::new());
        let nostr_tags: Vec<Tag> =
            tags.iter().map(|t| Tag::parse(t.iter().copied()).expect("a tag has a name")).collect();
        let at = Timestamp::from(created_at);
        let unsigned = UnsignedEvent::new(self.keys.public_key(), at, Kind::from(kind), nostr_tags, content);
        let id = unsigned.compute_id();
        let sig: Signature = SECP.with(|s| self.keys.sign_schnorr_with_aux_rand(s, id.as_bytes(), &[0; 32]));
        let json = serde_json::json!({
            "id": id.to_hex(), "pubkey": self.hex, "created_at": created_at, "kind": kind, "tags": tags,
            "content": content, "sig": sig.to_string(),
        });
        Rc::new(SimEvent::from_json(&json.to_string()).expect("just made"))
    }

    /// The address of this author's repo `d`.
    pub fn repo(&self, d: &str) -> String {
        format!("30617:{}:{d}", self.hex)
    }

    pub fn clone_url(&self, d: &str) -> String {
        format!("https://{DOMAIN}/{}/{d}.git", self.npub)
    }

    /// An announcement (NIP-34) of `d` on our service and `relays` besides.
    pub fn announcement(&self, d: &str, relays: &[&str], at: u64) -> EventRef {
        let mut listed = vec!["relays", OWN_RELAY];
        listed.extend(relays);
        self.announcement_on(d, &self.clone_url(d), &listed, &[], at)
    }

    /// An announcement whose `relays` tag is `listed` to the letter.
    pub fn announcement_on(&self, d: &str, clone: &str, listed: &[&str], maintainers: &[&str], at: u64) -> EventRef {
        let maintainers: Vec<&str> = std::iter::once("maintainers").chain(maintainers.iter().copied()).collect();
        let tags: &[&[&str]] = if maintainers.len() > 1 { &[&maintainers] } else { &[] };
        self.announcement_with(d, clone, listed, tags, at)
    }

    /// The same with these tags behind.
    pub fn announcement_with(&self, d: &str, clone: &str, listed: &[&str], tags: &[&[&str]], at: u64) -> EventRef {
        let (d_tag, clone_tag) = (["d", d], ["clone", clone]);
        self.sign(30617, at, &[&[&d_tag[..], &clone_tag, listed], tags].concat(), "")
    }

    /// An announcement of `d` on another service that lists these authors.
    pub fn acceptance(&self, d: &str, of: &[&Author], at: u64) -> EventRef {
        let listed: Vec<&str> = of.iter().map(|author| &*author.hex).collect();
        let elsewhere = format!("https://other.example/{}/{d}.git", self.npub);
        self.announcement_on(d, &elsewhere, &["relays", "wss://other.example"], &listed, at)
    }

    /// An announcement of `d` that names another service only.
    pub fn foreign_announcement(&self, d: &str, at: u64) -> EventRef {
        let listed = ["relays", "wss://other.example"];
        self.announcement_on(d, &format!("https://other.example/{}/{d}.git", self.npub), &listed, &[], at)
    }

    pub fn state(&self, d: &str, at: u64) -> EventRef {
        let commit = "c0ffee0000000000000000000000000000000000";
        self.sign(30618, at, &[&["d", d], &["refs/heads/main", commit], &["HEAD", "ref: refs/heads/main"]], "")
    }

    /// A root event of `kind` in every one of `repos`.
    pub fn root(&self, kind: u16, repos: &[&str], at: u64, text: &str) -> EventRef {
        let tags: Vec<[&str; 2]> = repos.iter().map(|r| ["a", r]).collect();
        self.sign(kind, at, &tags.iter().map(|t| &t[..]).collect::<Vec<_>>(), text)
    }

    pub fn issue(&self, repo: &str, at: u64, text: &str) -> EventRef {
        self.root(1621, &[repo], at, text)
    }

    /// A comment (NIP-22) that tags its root by `E` and its parent by `e`, and nothing else.
    pub fn comment(&self, root: &SimEvent, at: u64, text: &str) -> EventRef {
        self.sign(1111, at, &[&["E", &root.id], &["e", &root.id], &["K", "1621"]], text)
    }

    /// A deletion request (NIP-09) for events and addresses.
    pub fn deletion(&self, events: &[&SimEvent], addresses: &[&str], at: u64) -> EventRef {
        let mut tags: Vec<[&str; 2]> = events.iter().map(|e| ["e", &*e.id]).collect();
        tags.extend(addresses.iter().map(|a| ["a", *a]));
        self.sign(5, at, &tags.iter().map(|t| &t[..]).collect::<Vec<_>>(), "")
    }
}

/// One filter of NIP-01, matched the slow and obvious way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DumbFilter {
    pub json: Value,
    pub ids: Option<BTreeSet<String>>,
    pub authors: Option<BTreeSet<String>>,
    pub kinds: Option<BTreeSet<u64>>,
    pub tags: BTreeMap<String, BTreeSet<String>>,
    pub since: Option<u64>,
    pub until: Option<u64>,
    pub limit: Option<u64>,
}

impl DumbFilter {
    pub fn from_json(json: &Value) -> Option<DumbFilter> {
        let object = json.as_object()?;
        let strings = |v: &Value| -> Option<BTreeSet<String>> {
            v.as_array()?.iter().map(|s| s.as_str().map(str::to_owned)).collect()
        };
        let mut filter = DumbFilter {
            json: json.clone(),
            ids: None,
            authors: None,
            kinds: None,
            tags: BTreeMap::new(),
            since: None,
            until: None,
            limit: None,
        };
        for (key, value) in object {
            match key.as_str() {
                "ids" => filter.ids = Some(strings(value)?),
                "authors" => filter.authors = Some(strings(value)?),
                "kinds" => filter.kinds = Some(value.as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?),
                "since" => filter.since = Some(value.as_u64()?),
                "until" => filter.until = Some(value.as_u64()?),
                "limit" => filter.limit = Some(value.as_u64()?),
                tag if tag.starts_with('#') && tag.len() == 2 => {
                    filter.tags.insert(tag[1..].to_owned(), strings(value)?);
                }
                _ => return None,
            }
        }
        Some(filter)
    }

    pub fn matches(&self, event: &SimEvent) -> bool {
        self.ids.as_ref().is_none_or(|s| s.contains(&event.id))
            && self.authors.as_ref().is_none_or(|s| s.contains(&event.author))
            && self.kinds.as_ref().is_none_or(|s| s.contains(&u64::from(event.kind)))
            && self.since.is_none_or(|t| event.created_at >= t)
            && self.until.is_none_or(|t| event.created_at <= t)
            && self.tags.iter().all(|(name, wanted)| event.values(name).any(|v| wanted.contains(v)))
    }

    /// Whether this is layer 1 (spec section 5): both kinds and nothing else.
    pub fn is_layer_1(&self) -> bool {
        self.kinds.as_ref().is_some_and(|k| k.iter().eq(&[30617, 30618]))
            && self.tags.is_empty()
            && self.authors.is_none()
            && self.ids.is_none()
    }

    /// Whether it is layer 1 in one of its forms: by kinds, by kinds and identifiers, or as a part of everything.
    pub fn holds_layer_1(&self) -> bool {
        let by_name = self.kinds.as_ref().is_some_and(|k| k.iter().eq(&[30617, 30618])) && self.tags.contains_key("d");
        self.is_layer_1() || by_name || self.asks_everything()
    }

    /// Whether it asks for everything there is, by time alone.
    pub fn asks_everything(&self) -> bool {
        self.kinds.is_none() && self.tags.is_empty() && self.authors.is_none() && self.ids.is_none()
    }

    /// Whether this filter asks for `value` in the tag `name`.
    pub fn asks(&self, name: &str, value: &str) -> bool {
        self.tags.get(name).is_some_and(|s| s.contains(value))
    }
}

#[test]
fn events_are_really_signed_and_always_the_same() {
    let author = Author::new(1);
    let event = author.issue(&author.repo("a:b"), 1_700_000_000, "it \"breaks\"\n");
    let real: nostr::event::Event = serde_json::from_str(&event.json).expect("an event");
    real.verify().expect("a valid id and signature");
    assert_eq!(event, Author::new(1).issue(&author.repo("a:b"), 1_700_000_000, "it \"breaks\"\n"));
    assert_ne!(author.hex, Author::new(2).hex);
}

#[test]
fn a_tie_is_won_by_the_lowest_id() {
    let author = Author::new(1);
    let (a, b) = (author.sign(30617, 5, &[&["d", "x"]], "1"), author.sign(30617, 5, &[&["d", "x"]], "2"));
    let (low, high) = if a.id < b.id { (&a, &b) } else { (&b, &a) };
    assert!(low.supersedes(high) && !high.supersedes(low));
    let newer = author.sign(30617, 6, &[&["d", "x"]], "3");
    assert!(newer.supersedes(low) && !low.supersedes(&newer));
}

#[test]
fn filters_match_as_nip_01_says() {
    let author = Author::new(1);
    let event = author.comment(&author.issue("30617:00:x", 10, ""), 20, "");
    let matches = |json: &str| {
        DumbFilter::from_json(&serde_json::from_str(json).expect("JSON")).expect("a filter").matches(&event)
    };
    assert!(matches("{}"));
    assert!(matches(r#"{"kinds":[1,1111],"since":20,"until":20}"#));
    assert!(!matches(r#"{"kinds":[1111],"since":21}"#));
    assert!(!matches(r#"{"until":19}"#));
    assert!(matches(r##"{"#K":["1621","7"]}"##));
    assert!(!matches(r##"{"#K":["1621"],"#k":["1621"]}"##));
    assert!(DumbFilter::from_json(&serde_json::json!({"foo": 1})).is_none());
}
