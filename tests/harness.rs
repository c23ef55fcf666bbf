//! The tests' own tools, tested on themselves: a relay that miscounts or a client that loses messages would make every
//! other test worth nothing.
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]

mod support;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::json;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use support::certs::{Authority, TlsProxy, Validity};
use support::client::Client;
use support::events::{Author, forged, padding, sorted_ids, unix_now};
use support::mock_relay::{MockRelay, RelayData, RelayLimits};
use support::wait::wait_until;
use support::world::{Shape, World};
use tungstenite::Message;

#[test]
fn a_seed_gives_the_same_events_and_they_verify() {
    let make = || {
        let owner = Author::from_seed(1);
        let announcement = owner.announcement("a:b", &["grasp.test"], &["wss://grasp.test"], 1_700_000_000);
        let issue = Author::from_seed(2).issue(&owner.repo("a:b"), "one", 1_700_000_001);
        let comment = Author::from_seed(3).comment(&issue, 1_700_000_002, "yes");
        [announcement, issue, comment]
    };
    assert_eq!(make().map(|e| e.as_json()), make().map(|e| e.as_json()));
    for event in make() {
        event.verify().expect("signed");
        assert!(forged(&event).verify().is_err());
    }
    assert_eq!(padding(7, 900).len(), 900);
}

#[test]
fn the_mock_answers_like_a_naive_filter() {
    let shape = Shape { repos: 5, roots_per_repo: 6, comments: 40, padding: 50, relays_per_repo: 0 };
    let world = World::new(shape, "grasp.test", &[], unix_now());
    let relay = MockRelay::start();
    relay.data().add(&world.events);
    let mut client = Client::connect(relay.address());
    let middle = world.events[30].created_at.as_secs();
    let roots: Vec<String> = world.roots().iter().map(|e| e.id.to_hex()).collect();
    let filters = [
        json!({}),
        json!({"kinds": [30617, 1111], "limit": 9}),
        json!({"#a": world.addresses, "since": middle}),
        json!({"#E": roots, "until": middle, "limit": 11}),
        json!({"#e": [roots[3]], "#k": ["1621"]}),
        json!({"authors": [Author::from_seed(2_003).hex()]}),
        json!({"ids": [roots[0], roots[9]]}),
        json!({"kinds": [1111], "limit": 0}),
    ];
    for filter in filters {
        let parsed: nostr::filter::Filter = serde_json::from_value(filter.clone()).expect("a filter");
        let mut expected: Vec<_> = world.events.iter().filter(|e| parsed.match_event(e, Default::default())).collect();
        expected.sort_by_key(|e| (std::cmp::Reverse(e.created_at), e.id));
        expected.truncate(parsed.limit.unwrap_or(usize::MAX));
        let got: Vec<_> = client.query(&filter).iter().map(|e| e.id).collect();
        assert_eq!(got, expected.iter().map(|e| e.id).collect::<Vec<_>>(), "{filter}");
    }
    assert_eq!(relay.seen().breaches.total(), 0);
}

#[test]
fn the_mock_caps_counts_and_refuses() {
    let limits = RelayLimits {
        answer_max: 3,
        subscriptions_max: 2,
        filters_max: 2,
        message_bytes_max: 10_000,
        reconciles: None,
    };
    let relay = MockRelay::with(RelayData::default(), limits, None);
    let author = Author::from_seed(1);
    let events: Vec<_> = (0..5).map(|n| author.issue(&author.repo("r"), &n.to_string(), 1_000 + n)).collect();
    relay.data().add(&events);
    let mut client = Client::connect(relay.address());
    let first = client.subscribe(&[json!({"kinds": [1621]})]);
    assert_eq!(sorted_ids(&client.stored(&first)), sorted_ids(&events[2..]));
    let second = client.subscribe(&[json!({"kinds": [1]}), json!({"kinds": [2]})]);
    assert!(client.stored(&second).is_empty());

    client.subscribe(&[json!({})]);
    let notice = client.next_matching(Duration::from_secs(5), |m| m[0] == "NOTICE").expect("too many subscriptions");
    assert_eq!(notice[1], "ERROR: too many concurrent REQs");
    client.close(&second);
    let third = client.subscribe(&[json!({}), json!({}), json!({})]);
    let closed = client.next_matching(Duration::from_secs(5), |m| m[0] == "CLOSED").expect("too many filters");
    assert_eq!((&closed[1], &closed[2]), (&json!(third), &json!("ERROR: bad req: arr too big")));
    client.send(format!(r#"["REQ","x",{{"ids":["{}"]}}]"#, padding(1, 10_000)));
    assert!(client.ends_within(Duration::from_secs(5)));

    let seen = relay.seen();
    assert_eq!((seen.breaches.subscriptions, seen.breaches.filters, seen.breaches.message_bytes), (1, 1, 1));
    assert_eq!((seen.subscriptions_peak, seen.events_sent, seen.sent[&events[4].id]), (2, 3, 1));
}

#[test]
fn the_mock_delivers_live_once_and_survives_an_outage() {
    let mut relay = MockRelay::start();
    let author = Author::from_seed(1);
    let mut reader = Client::connect(relay.address());
    let mut writer = Client::connect(relay.address());
    let subscription = reader.subscribe(&[json!({"kinds": [1621]}), json!({"#a": [author.repo("r")]})]);
    assert!(reader.stored(&subscription).is_empty());
    let issue = author.issue(&author.repo("r"), "live", unix_now());
    writer.publish_ok(&issue);
    assert_eq!(reader.next_event(&subscription, Duration::from_secs(5)).map(|e| e.id), Some(issue.id));
    assert!(!writer.publish(&forged(&author.issue(&author.repo("r"), "forged", 5))).accepted);
    assert!(reader.next_event(&subscription, Duration::from_millis(50)).is_none());

    relay.stop();
    assert!(Client::try_connect(relay.address()).is_err());
    assert!(reader.ends_within(Duration::from_secs(5)));
    let missed = author.issue(&author.repo("r"), "missed", unix_now());
    relay.data().add([&missed]);
    relay.resume();
    let mut reader = Client::connect(relay.address());
    assert_eq!(reader.query(&json!({})).len(), 2);
    drop(reader);
    wait_until("the connection is gone", Duration::from_secs(5), || relay.connections() == 0);
}

#[test]
fn the_mock_replaces_and_deletes() {
    let data = RelayData::default();
    let author = Author::from_seed(1);
    let old = author.announcement("r", &["grasp.test"], &[], 10);
    let new = author.announcement("r", &["grasp.test"], &[], 20);
    let issue = author.issue(&author.repo("r"), "gone", 15);
    data.add([&new, &old, &issue]);
    assert!(data.contains(&new.id) && !data.contains(&old.id));
    let by_stranger = Author::from_seed(2).deletion(&[&issue], 30);
    data.add([&by_stranger]);
    assert!(data.contains(&issue.id));
    data.add([&author.deletion(&[&issue], 31), &author.address_deletion(&author.repo("r"), 32), &issue]);
    assert!(!data.contains(&issue.id) && !data.contains(&new.id));
    assert_eq!(data.len(), 3);
}

#[test]
fn the_mock_pages_through_a_whole_world() {
    let world = World::new(
        Shape { repos: 20, roots_per_repo: 50, comments: 500, padding: 100, relays_per_repo: 0 },
        "grasp.test",
        &[],
        1 << 30,
    );
    let relay = MockRelay::start();
    relay.data().add(&world.events);
    let mut client = Client::connect(relay.address());
    let mut held = std::collections::BTreeSet::new();
    let mut until = 1 << 31;
    loop {
        let page = client.query(&json!({"until": until, "limit": 700}));
        assert!(page.len() <= 500);
        let before = held.len();
        held.extend(page.iter().map(|e| e.id));
        if held.len() == before {
            break;
        }
        until = page.iter().map(|e| e.created_at.as_secs()).min().expect("a page with events");
    }
    assert_eq!(held.len(), world.events.len());
}

#[test]
fn the_mock_and_the_proxy_speak_tls() {
    let authority = Authority::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()).expect("a certificate of our own");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let server = || authority.server_config("localhost", Validity::Valid);
    let over_tls = MockRelay::with(RelayData::default(), RelayLimits::default(), Some(server()));
    let plain = MockRelay::start();
    let proxy = TlsProxy::start(server(), plain.address());
    for (relay, address) in [(&over_tls, over_tls.address()), (&plain, proxy.address)] {
        let author = Author::from_seed(1);
        let events: Vec<_> =
            (0..400).map(|n| author.root(1621, &[&author.repo("r")], "x", n, &padding(n, 2_000))).collect();
        relay.data().add(&events);
        let name = "localhost".try_into().expect("a host name");
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name).expect("a client");
        let socket = TcpStream::connect(address).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout above zero");
        let stream = rustls::StreamOwned::new(connection, socket);
        let (mut socket, _) = tungstenite::client("wss://localhost/", stream).expect("a WebSocket");
        socket.send(Message::text(r#"["REQ","x",{}]"#)).expect("sent");
        let mut events = 0;
        while socket.read().expect("an answer").to_text().expect("text").starts_with(r#"["EVENT""#) {
            events += 1;
        }
        assert_eq!(events, 400);
    }
    assert_eq!((proxy.handshakes(), proxy.failures()), (1, 0));
}

/// The events of the README's walk: one repository that two services on this machine both keep.
fn walk() -> Vec<nostr::event::Event> {
    let (domains, relays) = (["127.0.0.1:7334", "127.0.0.1:7344"], ["ws://127.0.0.1:7334", "ws://127.0.0.1:7344"]);
    let (alice, bob, carol) = (Author::from_seed(101), Author::from_seed(102), Author::from_seed(103));
    let tree = alice.repo("walk");
    let at = |n: u64| 1_767_225_600 + n * 3_600;
    let announcement = alice.announcement("walk", &domains, &relays, at(0));
    let state = alice.state("walk", "5b1c7f0e9d3a4286b7f0c1d2e3a4b5c6d7e8f901", at(1));
    let issue = bob.root(1621, &[&tree], "The path is muddy after rain", at(2), "Near the bridge. Bring boots.");
    let answer = alice.comment(&issue, at(3), "A few planks would do. Patches welcome.");
    let thanks = bob.reply(&issue, &answer, at(4), "I have planks.");
    let patch_text = "From 5b1c7f0e Mon Sep 17 00:00:00 2001\nSubject: [PATCH] Lay planks over the muddy part\n\n---\n path.txt | 1 +\n 1 file changed, 1 insertion(+)\n\n--- a/path.txt\n+++ b/path.txt\n@@ -1 +1,2 @@\n the path\n+planks\n";
    let patch = bob.root(1617, &[&tree], "Lay planks over the muddy part", at(5), patch_text);
    let review = carol.comment(&patch, at(6), "Walked it. Dry feet.");
    let applied = alice.status(1631, &patch, &tree, at(7));
    let resolved = alice.status(1631, &issue, &tree, at(8));
    let request = carol.root(1618, &[&tree], "A bench at the half-way point", at(9), "The branch has the bench.");
    let question = alice.comment(&request, at(10), "Facing the river?");
    let about_all = bob.repo_comment(&tree, at(11), "A fine walk.");
    vec![announcement, state, issue, answer, thanks, patch, review, applied, resolved, request, question, about_all]
}

#[test]
fn the_events_of_the_walk_are_what_is_made_here() {
    let made: String = walk().iter().map(|event| event.as_json() + "\n").collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/walk/events.jsonl");
    if std::env::var_os("GRASP_SYNC_WRITE_WALK").is_some() {
        std::fs::write(path, &made).expect("contrib/walk is there");
    }
    let kept = std::fs::read_to_string(path).expect("contrib/walk/events.jsonl");
    assert!(made == kept, "make it again with GRASP_SYNC_WRITE_WALK=1 cargo test --test harness");
}

#[test]
fn the_mock_reconciles_when_told_to() {
    let author = Author::from_seed(1);
    let events: Vec<_> = (0..3_000).map(|n| author.sign(1, 1_000 + n, Vec::new(), "")).collect();
    let mut set = NegentropyStorageVector::new();
    for event in &events[..2_900] {
        set.insert(event.created_at.as_secs(), Id::from_byte_array(event.id.to_bytes())).expect("not sealed");
    }
    set.seal().expect("not sealed");

    let relay = MockRelay::with(RelayData::default(), RelayLimits::default().reconciling(), None);
    relay.data().add(&events);
    let mut client = Client::connect(relay.address());
    let mut ours = Negentropy::borrowed(&set, 60_000).expect("a large frame");
    let mut step = json!(["NEG-OPEN", "n", {"kinds": [1]}, faster_hex::hex_string(&ours.initiate().expect("once"))]);
    let (mut have, mut need) = (Vec::new(), Vec::new());
    loop {
        client.send(step.to_string());
        let answer = client.next_matching(Duration::from_secs(5), |m| m[0] == "NEG-MSG").expect("an answer");
        let hex = answer[2].as_str().expect("a frame");
        let mut frame = vec![0; hex.len() / 2];
        faster_hex::hex_decode(hex.as_bytes(), &mut frame).expect("hexadecimal");
        match ours.reconcile_with_ids(&frame, &mut have, &mut need).expect("the protocol") {
            Some(next) => step = json!(["NEG-MSG", "n", faster_hex::hex_string(&next)]),
            None => break,
        }
    }
    let mut need: Vec<_> = need.iter().map(|id| nostr::event::EventId::from_byte_array(id.to_bytes())).collect();
    need.sort();
    assert!(have.is_empty());
    assert_eq!(need, sorted_ids(&events[2_900..]));

    client.send(json!(["NEG-CLOSE", "n"]).to_string());
    client.send(json!(["NEG-MSG", "n", "61"]).to_string());
    let error = client.next_matching(Duration::from_secs(5), |m| m[0] == "NEG-ERR").expect("it is closed");
    assert_eq!(error[2], "closed: unknown subscription handle");
    let seen = relay.seen();
    assert_eq!((seen.received["NEG-OPEN"].messages, seen.received["NEG-CLOSE"].messages), (1, 1));
    assert_eq!(seen.neg_filter_bytes, 13);
    assert!(seen.said["NEG-MSG"].bytes > 100 * 64 && seen.bytes().1 >= seen.said["NEG-MSG"].bytes);
}
