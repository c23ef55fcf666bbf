//! NIP-34: repository addresses, announcements, root events, and what an event refers to.
//!
//! Tags are read by their text alone and only in canonical form: an address or id that is written in another way would
//! not be found by the filters we send (spec section 5), so it does not count as a reference here either.

use std::collections::BTreeSet;
use std::fmt;

use nostr::event::{Event, EventId, Tag};
use nostr::key::PublicKey;

use super::reference::distinct;
use super::relay_url::RelayUrl;
use super::roles::Roles;
use super::{event_id, public_key};
use crate::limits::{IDENTIFIER_BYTES_MAX, ROOT_REPOS_MAX};
use crate::time::UnixTime;

/// Kind of a repository announcement.
pub const ANNOUNCEMENT_KIND: u16 = 30617;
/// Kind of a repository state.
pub const STATE_KIND: u16 = 30618;
/// Kind of a deletion request (NIP-09).
pub const DELETION_KIND: u16 = 5;
/// Kind of the list of GRASP services that somebody prefers (NIP-34).
pub const GRASP_LIST_KIND: u16 = 10317;
/// Kinds of root events: patch, pull request, pull request update, issue (spec section 2).
pub const ROOT_KINDS: [u16; 4] = [1617, 1618, 1619, 1621];

/// Kinds that are known to tag repos and root events: what is asked of a relay that refuses filters without kinds. Reposts,
/// reactions (NIP-18, 25), comments (NIP-22), what NIP-34 defines, reports, labels (NIP-56, 32), zaps
/// (NIP-57), bookmarks (NIP-51), articles (NIP-23). Not notes (kind 1): where kinds have to be named, they are what is
/// refused.
pub const TAGGING_KINDS: [u16; 22] = [
    6, 7, 16, 1111, 1617, 1618, 1619, 1621, 1622, 1630, 1631, 1632, 1633, 1984, 1985, 9734, 9735, 10003, 30003, 30023,
    30617, 30618,
];

/// Kinds that belong to repos by what they are, and not only by what they tag: a deletion that names one of them may be of
/// something of ours (NIP-22, NIP-34).
pub const GIT_KINDS: [u16; 12] = [1111, 1617, 1618, 1619, 1621, 1622, 1630, 1631, 1632, 1633, 30617, 30618];

/// Whether events of this kind are root events of the repos that they tag with `a`.
pub fn is_root_kind(kind: u16) -> bool {
    ROOT_KINDS.contains(&kind)
}

/// The address of a repository: `30617:<pubkey>:<d>`; `d` may itself contain `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoAddr {
    /// The announcement's author.
    pub author: PublicKey,
    /// The announcement's `d` tag.
    pub identifier: String,
}

impl RepoAddr {
    /// Parses the value of an `a` tag. `None` for other kinds, for keys that are not 64 lower-case hexadecimal digits,
    /// and for identifiers that are empty, longer than [`IDENTIFIER_BYTES_MAX`] or hold control characters.
    pub fn parse(a_tag_value: &str) -> Option<RepoAddr> {
        let (author, identifier) = a_tag_value.strip_prefix("30617:")?.split_once(':')?;
        RepoAddr::new(public_key(author)?, identifier)
    }

    fn new(author: PublicKey, identifier: &str) -> Option<RepoAddr> {
        let well_formed =
            (1..=IDENTIFIER_BYTES_MAX).contains(&identifier.len()) && !identifier.chars().any(char::is_control);
        well_formed.then(|| RepoAddr { author, identifier: identifier.to_owned() })
    }
}

impl fmt::Display for RepoAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ANNOUNCEMENT_KIND}:{}:{}", self.author, self.identifier)
    }
}

/// A repository announcement (NIP-34), reduced to what decides where its repo is synced and who speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The repo.
    pub addr: RepoAddr,
    /// All values of its `clone` tags, as written.
    pub clone_urls: Vec<String>,
    /// The relays of its `relays` tags, each once, in the order given, at most as many as were asked for.
    pub relays: Vec<RelayUrl>,
    /// Values of its `relays` tags that are no relay URL or beyond the most allowed. Repetitions do not count.
    pub relays_refused: usize,
    /// The maintainers that it lists, each once, in the order given, without the author, at most
    /// [`MAINTAINERS_LISTED_MAX`](crate::limits::MAINTAINERS_LISTED_MAX).
    pub maintainers: Vec<PublicKey>,
    /// Maintainers that it lists beyond those.
    pub maintainers_refused: usize,
    /// Its author says that he maintains it no more.
    pub author_left: bool,
    /// When it says it was made; of two with one address the later holds.
    pub created_at: UnixTime,
}

impl Announcement {
    /// Reads an announcement, keeping its first `relays_max` relays. `None` if it is of another kind or names no repo;
    /// see [`RepoAddr::parse`] for the identifiers allowed.
    pub fn from_event(event: &Event, relays_max: usize) -> Option<Announcement> {
        if event.kind.as_u16() != ANNOUNCEMENT_KIND {
            return None;
        }
        let addr = RepoAddr::new(event.pubkey, identifier(event)?)?;
        let mut relays = Vec::new();
        let mut relays_refused = 0;
        let mut seen = BTreeSet::new();
        for value in values(event, "relays") {
            match RelayUrl::parse(value) {
                Ok(url) if !seen.insert(url.clone()) => {}
                Ok(url) if relays.len() < relays_max => relays.push(url),
                _ => relays_refused += 1,
            }
        }
        let Roles { maintainers, refused: maintainers_refused, author_left } = Roles::of(event);
        Some(Announcement {
            addr,
            clone_urls: values(event, "clone").map(str::to_owned).collect(),
            relays,
            relays_refused,
            maintainers,
            maintainers_refused,
            author_left,
            created_at: event.created_at.into(),
        })
    }
}

/// The repos that an event refers to, each once: its `a`, `A` and `q` tags whose value is the address of a repo.
pub fn repo_references(event: &Event) -> impl Iterator<Item = RepoAddr> {
    distinct(first_values(event, &["a", "A", "q"])).filter_map(RepoAddr::parse)
}

/// The events that an event refers to, each once: its `e`, `E` and `q` tags whose value is an event id.
pub fn event_references(event: &Event) -> impl Iterator<Item = EventId> {
    distinct(first_values(event, &["e", "E", "q"])).filter_map(event_id)
}

/// The repos of a root event: those of its `a` tags, each once, in order, at most [`ROOT_REPOS_MAX`].
pub fn root_repos(event: &Event) -> Vec<RepoAddr> {
    first_repos(first_values(event, &["a"]))
}

/// The first repos that some values are addresses of, likewise.
pub(super) fn first_repos<'a>(values: impl Iterator<Item = &'a str>) -> Vec<RepoAddr> {
    distinct(values).filter_map(RepoAddr::parse).take(ROOT_REPOS_MAX).collect()
}

/// The identifier of an addressable event (NIP-01): the value of its first `d` tag, empty if that tag has none.
pub fn identifier(event: &Event) -> Option<&str> {
    event.tags.iter().find(|tag| tag.kind() == "d").map(|tag| tag.content().unwrap_or_default())
}

/// Whether only its author may publish this event to us (NIP-70): it has a `-` tag.
pub fn is_protected(event: &Event) -> bool {
    event.tags.iter().any(|tag| tag.kind() == "-")
}

/// From when on this event is no longer to be kept (NIP-40): its first `expiration` tag. Without a whole number of
/// seconds there, it does not expire.
pub fn expiration(event: &Event) -> Option<UnixTime> {
    first_values(event, &["expiration"]).next()?.parse().ok().map(UnixTime::from_secs)
}

/// The first value of each tag of these names; a tag without a value is skipped.
fn first_values<'a>(event: &'a Event, names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    event.tags.iter().filter(|tag| names.contains(&tag.kind())).filter_map(Tag::content)
}

/// Every value of each tag of this name.
pub(super) fn values<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    event
        .tags
        .iter()
        .filter(move |tag| tag.kind() == name)
        .flat_map(|tag| tag.as_slice()[1..].iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use nostr::event::{Kind, Signature};
    use nostr::types::Timestamp;

    use super::*;

    const KEY: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    const OTHER: &str = "c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";

    fn event(kind: u16, tags: &[&[&str]]) -> Event {
        let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap());
        let (id, key) = (EventId::from_byte_array([1; 32]), PublicKey::from_hex(KEY).unwrap());
        let signature = Signature::from_byte_array([0; 64]);
        Event::new(id, key, Timestamp::from_secs(1_700_000_000), Kind::from_u16(kind), tags, "", signature)
    }

    #[test]
    fn addresses() {
        let addr = RepoAddr::parse(&format!("30617:{KEY}:a:b:")).unwrap();
        assert_eq!(addr.identifier, "a:b:");
        assert_eq!(addr.to_string(), format!("30617:{KEY}:a:b:"));
        for text in [
            String::new(),
            format!("30617:{KEY}"),
            format!("30617:{KEY}:"),
            format!("30618:{KEY}:a"),
            format!("030617:{KEY}:a"),
            format!("30617:{}:a", KEY.to_uppercase()),
            format!("30617:{}:a", &KEY[..62]),
            format!("30617:{KEY}:a\nb"),
            format!("30617:{KEY}:{}", "a".repeat(IDENTIFIER_BYTES_MAX + 1)),
        ] {
            assert_eq!(RepoAddr::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn announcement_reads_every_value_of_every_tag() {
        let announcement = event(
            ANNOUNCEMENT_KIND,
            &[
                &["d", "repo"],
                &["d", "other"],
                &["clone", "https://a/x.git", "https://b/x.git"],
                &["relays", "wss://a.example", "WSS://A.example/", "nonsense", "wss://b.example"],
                &["clone", "https://c/x.git"],
                &["relays", "wss://c.example", "wss://d.example", "wss://b.example:443"],
                &["relays"],
                &["maintainers", OTHER, KEY, "npub1", OTHER],
            ],
        );
        let read = Announcement::from_event(&announcement, 3).unwrap();
        assert_eq!(read.addr.identifier, "repo");
        assert_eq!(read.clone_urls, ["https://a/x.git", "https://b/x.git", "https://c/x.git"]);
        let relays: Vec<&str> = read.relays.iter().map(RelayUrl::as_str).collect();
        assert_eq!(relays, ["wss://a.example", "wss://b.example", "wss://c.example"]);
        assert_eq!(read.relays_refused, 2);
        assert_eq!(read.maintainers, [PublicKey::from_hex(OTHER).unwrap()]);
        assert_eq!(read.created_at, UnixTime::from_secs(1_700_000_000));
    }

    #[test]
    fn what_names_no_repo_is_no_announcement() {
        assert_eq!(Announcement::from_event(&event(ANNOUNCEMENT_KIND, &[]), 16), None);
        assert_eq!(Announcement::from_event(&event(ANNOUNCEMENT_KIND, &[&["d"]]), 16), None);
        assert_eq!(Announcement::from_event(&event(STATE_KIND, &[&["d", "repo"]]), 16), None);
    }

    #[test]
    fn references() {
        let addr = |d: &str| format!("30617:{KEY}:{d}");
        let (a, b, c, d) = (addr("a"), addr("b"), addr("c"), addr("d"));
        let (id_1, id_2, id_3) = ("1".repeat(64), "2".repeat(64), "3".repeat(64));
        let issue = event(
            1621,
            &[
                &["a", &a, "wss://hint"],
                &["a", &a],
                &["a"],
                &["a", &b],
                &["A", &c],
                &["q", &d],
                &["q", &id_1],
                &["e", &id_2],
                &["E", &id_3],
                &["e", &"A".repeat(64)],
                &["p", KEY],
            ],
        );
        let repos: Vec<String> = repo_references(&issue).map(|repo| repo.to_string()).collect();
        assert_eq!(repos, [a.clone(), b.clone(), c, d]);
        let roots: Vec<String> = root_repos(&issue).iter().map(RepoAddr::to_string).collect();
        assert_eq!(roots, [a, b]);
        let ids: Vec<String> = event_references(&issue).map(|id| id.to_hex()).collect();
        assert_eq!(ids, [id_1, id_2, id_3]);
    }

    #[test]
    fn a_tag_that_is_repeated_through_a_whole_event_is_one_reference() {
        let (addr, id) = (format!("30617:{KEY}:repo"), "1".repeat(64));
        let repeated = [[["a", addr.as_str()]; 1_000], [["e", id.as_str()]; 1_000]].concat();
        let comment = event(1111, &repeated.iter().map(|tag| &tag[..]).collect::<Vec<_>>());
        assert_eq!((repo_references(&comment).count(), event_references(&comment).count()), (1, 1));
    }

    #[test]
    fn protected_and_expiration() {
        assert!(is_protected(&event(1, &[&["-"]])) && !is_protected(&event(1, &[&["d", "-"]])));
        assert_eq!(expiration(&event(1, &[&["expiration", "1600000000"]])), Some(UnixTime::from_secs(1_600_000_000)));
        for value in ["", "-1", "1.5", "soon", "99999999999999999999999"] {
            assert_eq!(expiration(&event(1, &[&["expiration", value]])), None, "{value}");
        }
    }
}
