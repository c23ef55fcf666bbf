//! Bodies of the fuzz targets in `fuzz/`. They compile with the crate, so that they cannot rot, and its tests run them
//! over the committed seeds. Each takes bytes, ignores those that make no sense, and panics where a property fails.

use nostr::event::{Event, EventId, Kind, Signature, Tag};
use nostr::key::PublicKey;
use nostr::nips::nip19::ToBech32;
use nostr::types::Timestamp;
use serde_json::Value;

use crate::io::http::{Door, Parsed, Route, parse_head, route};
use crate::limits::{CLIENT_FILTER_VALUES_MAX, CLIENT_FILTERS_MAX, RELAY_URL_BYTES_MAX};
use crate::protocol::message::{
    self, ClientMessage, RawEvent, RelayMessage, filter_values, parse_client_message, parse_relay_message,
};
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::{self, Announcement, RepoAddr};
use crate::timer_wheel::model::{Model, Step};

pub use crate::io::resolver::fuzz_answer as dns_answer;

/// Steps of one run of the timer wheel. Beyond: the rest of the bytes is ignored.
const STEPS_MAX: usize = 4_096;

/// What a relay may send: an EVENT's parts are what a full parse finds there, and what we write is read back the same.
pub fn relay_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = parse_relay_message(text) else { return };
    let written = match &parsed {
        RelayMessage::Event { subscription, event } => {
            // A full parse refuses more than we do: depth, and half surrogates in what we skip.
            if let Ok(whole) = serde_json::from_str::<Value>(text) {
                assert_eq!(whole[0], "EVENT");
                assert_eq!(whole[1], **subscription);
                assert_eq!(whole[2], serde_json::from_str::<Value>(event.json).unwrap());
                assert_eq!(whole[2]["id"], event.id.to_hex());
            }
            raw_event(event);
            message::event_message(subscription, event.json)
        }
        RelayMessage::Eose { subscription } => message::eose_message(subscription),
        RelayMessage::Closed { subscription, reason } => message::closed_message(subscription, reason),
        RelayMessage::Notice(why) => message::notice_message(why),
        RelayMessage::Ok { id, accepted, reason } => message::ok_message(id, *accepted, reason),
        RelayMessage::Auth { .. } => return,
    };
    assert_eq!(parse_relay_message(&written).as_ref(), Ok(&parsed));
}

/// What a client may send: bounded, and read back the same when written.
pub fn client_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let refused = message::refused_subscription(text);
    let Ok(parsed) = parse_client_message(text) else { return };
    let written = match &parsed {
        ClientMessage::Event(event) => {
            raw_event(event);
            format!(r#"["EVENT",{}]"#, event.json)
        }
        ClientMessage::Req { subscription, filters } => {
            assert_eq!(refused.as_ref(), Some(subscription));
            assert!((1..=CLIENT_FILTERS_MAX + 1).contains(&filters.len()));
            assert!(filters.iter().all(|filter| filter_values(filter) <= CLIENT_FILTER_VALUES_MAX + 1));
            let mut parts = vec![Value::from("REQ"), Value::from(subscription.as_ref())];
            parts.extend(filters.iter().map(|filter| serde_json::to_value(filter).unwrap()));
            Value::from(parts).to_string()
        }
        ClientMessage::Close { subscription } => message::close_message(subscription),
    };
    assert_eq!(parse_client_message(&written).as_ref(), Ok(&parsed));
}

fn raw_event(raw: &RawEvent<'_>) {
    let Ok(event) = raw.parse() else { return };
    assert_eq!(event.id, raw.id);
    assert_eq!(serde_json::from_str::<Event>(raw.json).unwrap(), event);
    let written = serde_json::to_string(&event).unwrap();
    assert_eq!(RawEvent::from_json(&written).unwrap().parse(), Ok(event));
}

/// Relay URLs and services: a normal form stays as it is, and its parts are those that the `url` crate finds.
pub fn relay_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let author = PublicKey::from_byte_array([7; 32]);
    if let Ok(relay) = RelayUrl::parse(text) {
        assert_eq!(RelayUrl::parse(relay.as_str()).as_ref(), Ok(&relay));
        assert!(relay.as_str().len() <= RELAY_URL_BYTES_MAX);
        let url = url::Url::parse(relay.as_str()).unwrap();
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
        assert!(!read.maintainers.contains(&author));
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

/// A request's head: it ends where it says, no sooner and no later, and each door has an answer to it.
pub fn http_head(data: &[u8]) {
    let request = match parse_head(data) {
        Ok(Parsed::Complete(request)) => request,
        Ok(Parsed::Partial) => return,
        Err(error) => {
            assert!(error.response().status() >= 400);
            return;
        }
    };
    let head = &data[..request.head_len];
    assert_eq!(parse_head(head), Ok(Parsed::Complete(request.clone())));
    assert_eq!(parse_head(&head[..head.len() - 1]), Ok(Parsed::Partial));
    for door in [Door::Public, Door::Admin] {
        if let Route::Answer(response) = route(door, &request) {
            let whole = response.clone().into_bytes(false);
            assert!(whole.starts_with(b"HTTP/1.1 ") && whole.starts_with(&response.into_bytes(true)));
        }
    }
}

/// The timer wheel beside its naive model: three bytes a step, what to do and a length of any magnitude.
pub fn timer_wheel(data: &[u8]) {
    let mut model = Model::default();
    for step in data.chunks_exact(3).take(STEPS_MAX) {
        let number = u64::from(u16::from_le_bytes([step[1], step[2]]));
        let length = number << (u32::from(step[0] >> 2) % 49);
        model.step(match step[0] & 3 {
            0 => Step::Insert { ahead: length },
            1 => Step::Advance { by: length },
            2 => Step::Cancel { pick: number as usize },
            _ if step[0] & 4 == 0 => Step::InsertPast { behind: length },
            _ => Step::Insert { ahead: number },
        });
    }
    model.assert_invariants();
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Runs a body over the seeds of its target, and over each with a piece cut out or doubled.
    fn run_seeds(target: &str, body: fn(&[u8])) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut count = 0;
        for file in std::fs::read_dir(&seeds).unwrap_or_else(|error| panic!("{}: {error}", seeds.display())) {
            let seed = std::fs::read(file.unwrap().path()).unwrap();
            body(&seed);
            for at in (0..seed.len()).step_by(seed.len() / 64 + 1) {
                let end = (at + 7).min(seed.len());
                body(&[&seed[..at], &seed[end..]].concat());
                body(&[&seed[..end], &seed[at..]].concat());
            }
            count += 1;
        }
        assert!(count > 0, "no seeds for {target}");
    }

    #[test]
    fn seeds() {
        run_seeds("relay_message", super::relay_message);
        run_seeds("client_message", super::client_message);
        run_seeds("relay_url", super::relay_url);
        run_seeds("announcement", super::announcement);
        run_seeds("http_head", super::http_head);
        run_seeds("timer_wheel", super::timer_wheel);
        run_seeds("dns_answer", super::dns_answer);
    }
}
