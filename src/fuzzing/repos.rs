//! Repos and where they live: relay URLs, services, announcements and what refers to them.

use nostr::event::{Event, EventId, Kind, Signature, Tag};
use nostr::key::PublicKey;
use nostr::nips::nip19::ToBech32;
use nostr::types::Timestamp;

use crate::limits::{MAINTAINERS_LISTED_MAX, RELAY_URL_BYTES_MAX};
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::{self, Announcement, RepoAddr};

/// Relay URLs and services: a normal form stays as it is, and its parts are those that the `url` crate finds.
pub fn relay_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let author = PublicKey::from_byte_array([7; 32]);
    if let Ok(relay) = RelayUrl::parse(text) {
        assert_eq!(RelayUrl::parse(relay.as_str()).as_ref(), Ok(&relay));
        assert!(relay.as_str().len() <= RELAY_URL_BYTES_MAX);
        let url = url::Url::parse(&relay.written()).unwrap();
        let written = RelayUrl::parse(&relay.written()).unwrap();
        assert_eq!((&written, written.path()), (&relay, relay.path()));
        if let Some(other) = relay.other_form() {
            assert!(other == relay && other.path() != relay.path());
            assert_eq!(other.other_form(), Some(other.clone()));
        }
        if let Ok(elsewhere) = relay.redirected(text) {
            assert_eq!(RelayUrl::parse(&elsewhere.written()), Ok(elsewhere));
        }
        assert_eq!(url.scheme() == "wss", relay.is_tls());
        assert_eq!(url.host_str().unwrap().trim_matches(['[', ']']), relay.host());
        assert_eq!(url.port_or_known_default(), Some(relay.port()));
        let (path, query) =
            relay.path().split_once('?').map_or((relay.path(), None), |(path, rest)| (path, Some(rest)));
        assert_eq!((url.path(), url.query()), (path, query));
        let own = relay.as_str().split_once("://").unwrap().1.split('?').next().unwrap();
        assert!(Service::parse(own).unwrap().is_relay(&relay));
    }
    if let Ok(service) = Service::parse(text) {
        let written = service.to_string();
        assert_eq!(Service::parse(&written).as_ref(), Ok(&service));
        if let Ok(relay) = RelayUrl::parse(&format!("wss://{written}")) {
            assert!(service.is_relay(&relay));
        }
        let npub = author.to_bech32().unwrap();
        let clone_url = format!("https://{written}/{npub}/repo.git");
        assert!(service.has_clone_url(&clone_url, &author, "repo"));
        assert!(!service.has_clone_url(&clone_url, &author, "other"));
    }
    let service = Service::parse("ours.example/git").unwrap();
    assert!(!service.has_clone_url(text, &author, "no such repo"));
}

/// Announcements and references: each line is a tag, its fields between tabs; the first byte is the kind's last digit.
pub fn announcement(data: &[u8]) {
    const RELAYS_MAX: usize = 4;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let kind = match text.bytes().next() {
        Some(b'7') => repo::ANNOUNCEMENT_KIND,
        _ => 1621,
    };
    let tags = text.lines().skip(1).map(|line| Tag::parse(line.split('\t')).unwrap());
    let (id, author) = (EventId::from_byte_array([1; 32]), PublicKey::from_byte_array([7; 32]));
    let signature = Signature::from_byte_array([0; 64]);
    let event = Event::new(id, author, Timestamp::from_secs(1), Kind::from_u16(kind), tags, "", signature);
    if let Some(read) = Announcement::from_event(&event, RELAYS_MAX) {
        assert_eq!(RepoAddr::parse(&read.addr.to_string()).as_ref(), Some(&read.addr));
        assert_eq!(Some(read.addr.identifier.as_str()), repo::identifier(&event));
        let values: usize = event.tags.iter().filter(|tag| tag.kind() == "relays").map(|tag| tag.len() - 1).sum();
        assert!(read.relays.len() <= RELAYS_MAX && read.relays.len() + read.relays_refused <= values);
        let mut unique = read.relays.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), read.relays.len());
        assert!(!read.maintainers.contains(&author) && read.maintainers.len() <= MAINTAINERS_LISTED_MAX);
        assert!(read.maintainers_refused == 0 || read.maintainers.len() == MAINTAINERS_LISTED_MAX);
        assert!(read.maintainers.iter().enumerate().all(|(n, key)| !read.maintainers[..n].contains(key)));
        let has_roles = event.tags.iter().any(|tag| matches!(tag.kind(), "M" | "m" | "o"));
        assert!(has_roles || !read.author_left);
    }
    let referred: Vec<RepoAddr> = repo::repo_references(&event).collect();
    for addr in &referred {
        assert_eq!(RepoAddr::parse(&addr.to_string()).as_ref(), Some(addr));
    }
    assert!(repo::root_repos(&event).iter().all(|addr| referred.contains(addr)));
    assert!(repo::event_references(&event).count() + referred.len() <= event.tags.len());
    let expires = event.tags.iter().any(|tag| tag.kind() == "expiration");
    assert!(expires || repo::expiration(&event).is_none());
}
