//! The built binary over real sockets: the own relay for a stock client, one relay to one client, two instances, kill -9,
//! signals, and every kind of bad input.
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]

mod support;

use ::negentropy::{Id, Negentropy, NegentropyStorageVector};
use nostr::event::{Event, EventId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::Duration;
use support::client::Client;
use support::events::{Author, event_message, forged, padding, sorted_ids, tag, unix_now};
use support::gate::{Answer, Gate};
use support::mock_relay::MockRelay;
use support::process::{Metrics, Process, Setup, free_port};
use support::wait::{measure_over, wait_for, wait_until};
use support::world::{Shape, World};
use support::{http, wait};
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

const DOMAIN: &str = "grasp.test";
const SOON: Duration = Duration::from_secs(20);

/// A repo of a service, with an issue, a comment on it and more.
struct Repo {
    owner: Author,
    person: Author,
    address: String,
    announcement: Event,
    state: Event,
    issue: Event,
    comment: Event,
    status: Event,
}

impl Repo {
    fn new(seed: u64, domains: &[&str], relays: &[&str]) -> Repo {
        let (owner, person) = (Author::from_seed(seed), Author::from_seed(seed + 1));
        let start = unix_now() - 100_000;
        let address = owner.repo("tree");
        let issue = person.issue(&address, "it is broken", start + 20);
        Repo {
            announcement: owner.announcement("tree", domains, relays, start),
            state: owner.state("tree", &"ab".repeat(20), start + 10),
            comment: owner.comment(&issue, start + 30, "it is"),
            status: owner.status(1631, &issue, &address, start + 40),
            issue,
            owner,
            person,
            address,
        }
    }

    fn all(&self) -> [&Event; 5] {
        [&self.announcement, &self.state, &self.issue, &self.comment, &self.status]
    }
}

fn own_repo(seed: u64) -> Repo {
    Repo::new(seed, &[DOMAIN], &["wss://grasp.test"])
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<String> {
    events.into_iter().map(|e| e.id.to_hex()).collect()
}

/// Waits until a client of `process` can read all of `events`.
fn wait_served(process: &Process, events: &[&Event]) {
    let mut client = process.client();
    let filter = json!({"ids": ids(events.iter().copied())});
    wait_until("all events are served", SOON, || client.query(&filter).len() == events.len());
}

// The own relay.

#[test]
fn a_stock_client_publishes_queries_and_reads_live() {
    let process = Setup::new(DOMAIN).start();
    let mut client = process.client();
    let repo = own_repo(1);
    for event in repo.all() {
        client.publish_ok(event);
    }
    let again = client.publish(&repo.issue);
    assert!(again.accepted && again.why.starts_with("duplicate:"), "{again:?}");
    let foreign = client.publish(&Author::from_seed(9).issue("30617:00:none", "nobody's", unix_now()));
    assert!(!foreign.accepted, "{foreign:?}");

    let issue_time = repo.issue.created_at.as_secs();
    let queries: Vec<(Value, Vec<&Event>)> = vec![
        (json!({"ids": [repo.issue.id.to_hex(), repo.state.id.to_hex()]}), vec![&repo.issue, &repo.state]),
        (json!({"authors": [repo.person.hex()]}), vec![&repo.issue]),
        (json!({"kinds": [1111, 30617]}), vec![&repo.comment, &repo.announcement]),
        (json!({"#a": [repo.address]}), vec![&repo.status, &repo.issue]),
        (json!({"#E": [repo.issue.id.to_hex()]}), vec![&repo.comment]),
        (json!({"#e": [repo.issue.id.to_hex()], "kinds": [1631]}), vec![&repo.status]),
        (json!({"#d": ["tree"]}), vec![&repo.state, &repo.announcement]),
        (json!({"since": issue_time}), vec![&repo.status, &repo.comment, &repo.issue]),
        (json!({"until": issue_time}), vec![&repo.issue, &repo.state, &repo.announcement]),
        (json!({"since": issue_time, "until": issue_time}), vec![&repo.issue]),
        (json!({"limit": 2}), vec![&repo.status, &repo.comment]),
        (json!({"kinds": [1111], "authors": [repo.owner.hex()], "#E": [repo.issue.id.to_hex()]}), vec![&repo.comment]),
        (json!({"kinds": [7]}), vec![]),
    ];
    for (filter, expected) in queries {
        assert_eq!(ids(&client.query(&filter)), ids(expected), "{filter}");
    }

    let mut reader = process.client();
    let live = reader.subscribe(&[json!({"#a": [repo.address], "since": unix_now() - 60}), json!({"kinds": [1]})]);
    assert!(reader.stored(&live).is_empty());
    let first = repo.person.issue(&repo.address, "live", unix_now());
    client.publish_ok(&first);
    assert_eq!(reader.next_event(&live, SOON).map(|e| e.id), Some(first.id));
    reader.close(&live);
    // The answer to a later question proves that CLOSE was read before the next event came.
    assert_eq!(reader.query(&json!({"ids": [first.id.to_hex()]})).len(), 1);
    client.publish_ok(&repo.person.issue(&repo.address, "after", unix_now()));
    reader.query(&json!({"kinds": [7]}));
    assert!(reader.next_matching(Duration::ZERO, |m| m[1] == live.as_str()).is_none());
}

#[test]
fn an_event_is_served_newest_version_only_and_deletions_hold() {
    let process = Setup::new(DOMAIN).start();
    let mut client = process.client();
    let repo = own_repo(1);
    client.publish_ok(&repo.announcement);
    client.publish_ok(&repo.issue);
    let newer = repo.owner.announcement("tree", &[DOMAIN], &["wss://grasp.test"], unix_now());
    client.publish_ok(&newer);
    assert!(!client.publish(&repo.announcement).accepted || client.query(&json!({"kinds": [30617]})).len() == 1);
    assert_eq!(ids(&client.query(&json!({"kinds": [30617]}))), ids([&newer]));

    let deletion = repo.person.deletion(&[&repo.issue], unix_now());
    client.publish_ok(&deletion);
    assert!(client.query(&json!({"kinds": [1621]})).is_empty());
    assert!(!client.publish(&repo.issue).accepted);
}

#[test]
fn http_answers_for_people_and_monitors() {
    let process = Setup::new(DOMAIN).start();
    let info = http::get(process.relay(), "/", &["Accept: application/nostr+json"]);
    assert_eq!(info.status, 200, "{}", info.head);
    let info: Value = serde_json::from_str(&info.body).expect("NIP-11 is JSON");
    assert!(
        info["supported_nips"].as_array().is_some_and(|nips| nips.contains(&json!(1)) && nips.contains(&json!(11)))
    );
    assert!(info["limitation"]["max_limit"].is_u64(), "{info}");

    let health = process.get("/health");
    assert_eq!(health.status, 200, "{}", health.body);
    let metrics = process.metrics();
    for name in ["ngit_sync_relays_tracked_total", "ngit_sync_relays_connected_total", "ngit_sync_relays_dead_total"] {
        assert!(metrics.has(name, &[]), "{name} is missing:\n{}", metrics.text());
    }
    assert!(process.status()["relays"].is_array());
    assert_eq!(process.get("/nothing-here").status, 404);
}

// What a relay's door says before it opens.

/// A relay behind a door, and a process that follows it and has a repo's events from it.
fn behind(gate: impl FnOnce(&MockRelay) -> Gate, toml: &str) -> (Process, Gate, MockRelay) {
    let relay = MockRelay::start();
    let gate = gate(&relay);
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &gate.url()]);
    relay.data().add(repo.all());
    let process = Setup::new(DOMAIN).bootstrap(&gate.url()).toml(toml).start();
    wait_served(&process, &repo.all());
    (process, gate, relay)
}

#[test]
fn interim_answers_are_no_refusal() {
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: </{}>; rel=preload\r\n\r\n", "x".repeat(9_000));
    let interim = format!("HTTP/1.1 100 Continue\r\n\r\n{hints}");
    let (process, gate, relay) = behind(
        |relay| {
            relay.set_info(r#"{"name":"behind a proxy"}"#);
            Gate::start(relay.address(), move |_| Answer::Through(interim.clone()))
        },
        "",
    );
    assert_eq!(gate.requests().len(), 2, "it was dialled once, and asked what it is before");
    assert_eq!(relay.with_seen(|seen| seen.connections), 1);
    assert_eq!(process.metrics().sum("grasp_sync_relay_info_total", &["result=\"read\""]), 1.0);
}

#[test]
fn a_relay_that_says_when_to_come_back_is_dialled_then_and_not_before() {
    let (process, gate, _relay) = behind(
        |relay| {
            Gate::start(relay.address(), |requests| match requests.iter().filter(|r| r.is_upgrade()).count() {
                1 => Answer::Whole("HTTP/1.1 429 Slow down\r\nRetry-After: 4\r\n\r\n".to_owned()),
                _ => Answer::Through(String::new()),
            })
        },
        "[timing]\nbackoff_base_secs = 1",
    );
    let upgrades: Vec<_> = gate.requests().into_iter().filter(|r| r.is_upgrade()).map(|r| r.at).collect();
    assert_eq!(upgrades.len(), 2);
    let waited = upgrades[1] - upgrades[0];
    assert!(waited >= Duration::from_secs(4), "dialled again after {waited:?}");
    assert!(process.log_has("handshake answered with 429, to be tried again after 4 s"), "{}", process.log_text());
}

// From a relay to a client.

#[test]
fn one_event_walks_from_a_relay_to_a_client() {
    let relay = MockRelay::start();
    let url = relay.url();
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &url]);
    relay.data().add(repo.all());
    let process = Setup::new(DOMAIN).bootstrap(&url).start();
    wait_served(&process, &repo.all());
    process.wait_live(1, SOON);
    assert_eq!(process.metrics().sum("ngit_sync_relay_connected", &[&format!("relay=\"{url}\"")]), 1.0);

    let mut reader = process.client();
    let live = reader.subscribe(&[json!({"#a": [repo.address], "limit": 0})]);
    reader.stored(&live);
    let published = repo.person.issue(&repo.address, "live", unix_now());
    relay.data().add([&published]);
    assert_eq!(reader.next_event(&live, SOON).map(|e| e.id), Some(published.id));
    assert_eq!(relay.seen().breaches.total(), 0);
}

#[test]
fn a_new_repo_brings_its_relays_and_their_history() {
    let far = MockRelay::start();
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &far.url()]);
    far.data().add(repo.all());
    let process = Setup::new(DOMAIN).start();
    process.client().publish_ok(&repo.announcement);
    wait_served(&process, &repo.all());

    // The announcement no longer lists the relay: the link ends.
    let moved = repo.owner.announcement("tree", &[DOMAIN], &["wss://grasp.test"], unix_now());
    process.client().publish_ok(&moved);
    wait_until("the relay is left", SOON, || far.connections() == 0 && process.relays().is_empty());
}

#[test]
fn what_is_missed_while_a_relay_is_away_comes_after() {
    let mut relay = MockRelay::start();
    let url = relay.url();
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &url]);
    relay.data().add(repo.all());
    let process = Setup::new(DOMAIN).bootstrap(&url).start();
    wait_served(&process, &repo.all());
    process.wait_live(1, SOON);
    relay.stop();
    wait_until("the drop is noticed", SOON, || {
        process.metrics().sum("ngit_sync_relay_connected", &[&format!("relay=\"{url}\"")]) == 0.0
    });
    let missed = repo.person.comment(&repo.issue, unix_now(), "while you were away");
    relay.data().add([&missed]);
    relay.resume();
    wait_served(&process, &[&missed]);
}

#[test]
fn a_refused_connection_is_known_at_once_and_tried_again() {
    let mut relay = MockRelay::start();
    let url = relay.url();
    relay.stop();
    let process = Setup::new(DOMAIN).bootstrap(&url).start();
    // Nothing else happens in this process: it must not take another event to look at the socket.
    wait_until("the refusal is known", Duration::from_secs(3), || process.relays()[0].state == "backoff");
    assert!(process.relays()[0].whole["why"].as_str().is_some_and(|why| why.contains("refused")));
    relay.resume();
    process.wait_live(1, SOON);
}

#[test]
fn a_silently_dead_link_is_found_and_replaced() {
    let relay = MockRelay::start();
    let url = relay.url();
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &url]);
    relay.data().add(repo.all());
    let setup = Setup::new(DOMAIN).bootstrap(&url).toml("[timing]\nping_secs = 1\npong_timeout_secs = 1");
    let process = setup.start();
    wait_served(&process, &repo.all());
    process.wait_live(1, SOON);
    relay.freeze(true);
    wait_until("the dead link is given up", SOON, || {
        process.metrics().sum("ngit_sync_relay_connected", &[&format!("relay=\"{url}\"")]) == 0.0
    });
    let missed = repo.person.comment(&repo.issue, unix_now(), "into the silence");
    relay.data().add([&missed]);
    relay.freeze(false);
    wait_served(&process, &[&missed]);
}

/// One round of the crate's client; `None` when nothing is left to be told apart.
fn neg_round(
    client: &mut Client,
    theirs: &mut Negentropy<'_, NegentropyStorageVector>,
    message: &str,
    have: &mut Vec<Id>,
    need: &mut Vec<Id>,
) -> Option<Vec<u8>> {
    client.send(message);
    let answer = client.next_matching(SOON, |m| m[0] == "NEG-MSG" || m[0] == "NEG-ERR").expect("an answer");
    let payload = answer[2].as_str().filter(|_| answer[0] == "NEG-MSG").unwrap_or_else(|| panic!("{answer}"));
    theirs.reconcile_with_ids(&bytes_of(payload), have, need).expect("it is understood")
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ids that a client has more and less than the relay.
fn reconcile(client: &mut Client, filter: &Value, held: &[&Event]) -> [BTreeSet<String>; 2] {
    let mut storage = NegentropyStorageVector::new();
    for event in held {
        storage.insert(event.created_at.as_secs(), Id::from_byte_array(event.id.to_bytes())).expect("not sealed");
    }
    storage.seal().expect("not sealed");
    let mut theirs = Negentropy::borrowed(&storage, 60_000).expect("large enough a frame");
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let first = hex_of(&theirs.initiate().expect("the first time"));
    let mut message = json!(["NEG-OPEN", "n", filter, first]).to_string();
    while let Some(next) = neg_round(client, &mut theirs, &message, &mut have, &mut need) {
        message = json!(["NEG-MSG", "n", hex_of(&next)]).to_string();
    }
    client.send(r#"["NEG-CLOSE","n"]"#);
    [have, need].map(|ids| ids.iter().map(|id| hex_of(&id.to_bytes())).collect())
}

#[test]
fn a_client_reconciles_and_counts() {
    let setup = Setup::new(DOMAIN);
    let shape = Shape { repos: 20, roots_per_repo: 10, comments: 1_800, padding: 10, relays_per_repo: 1 };
    let world = World::new(shape, DOMAIN, &["ws://127.0.0.1:9"], unix_now());
    let (stored, more) = world.events.split_at(world.events.len() - 40);
    setup.import_events(stored, &[]);
    let process = setup.start();
    let mut client = process.client();
    let held: Vec<&Event> = world.events.iter().skip(70).collect();
    for filter in [json!({}), json!({"since": 1}), json!({"until": unix_now() + 1_000})] {
        let [have, need] = reconcile(&mut client, &filter, &held);
        assert_eq!(have, ids(more).into_iter().collect(), "{filter}");
        assert_eq!(need, ids(&world.events[..70]).into_iter().collect(), "{filter}");
    }
    more.iter().for_each(|event| client.publish_ok(event));
    let all: Vec<&Event> = world.events.iter().collect();
    let [have, need] = reconcile(&mut client, &json!({}), &all);
    assert!(have.is_empty() && need.is_empty(), "what was published is in the set");
    let owner = world.announcements()[3].pubkey;
    let of_owner: Vec<&Event> = all.iter().copied().filter(|event| event.pubkey == owner).collect();
    let [have, need] = reconcile(&mut client, &json!({"authors": [owner.to_hex()]}), &of_owner);
    assert!(have.is_empty() && need.is_empty());
    for (filter, count) in [(json!({}), all.len()), (json!({"authors": [owner.to_hex()]}), of_owner.len())] {
        client.send(json!(["COUNT", "c", filter]).to_string());
        let answer = client.next_matching(SOON, |m| m[0] == "COUNT").expect("an answer");
        assert_eq!(answer, json!(["COUNT", "c", {"count": count}]));
    }
    client.send(r#"["NEG-MSG","n","61"]"#);
    let answer = client.next_matching(SOON, |m| m[0] == "NEG-ERR").expect("an answer");
    assert_eq!(answer, json!(["NEG-ERR", "n", "closed: unknown subscription handle"]));
    assert_eq!(process.metrics().sum("grasp_sync_client_reconciliations", &[]), 0.0);
    assert_eq!(process.metrics().sum("grasp_sync_client_counts_total", &[]), 2.0);
}

// Two instances.

#[test]
fn two_instances_keep_each_other_complete() {
    let (port_a, port_b) = (free_port(), free_port());
    let (domain_a, domain_b) = (format!("127.0.0.1:{port_a}"), format!("127.0.0.1:{port_b}"));
    let (url_a, url_b) = (format!("ws://{domain_a}"), format!("ws://{domain_b}"));
    let repo = Repo::new(1, &[&domain_a, &domain_b], &[&url_a, &url_b]);
    let setup_a = Setup::new(&domain_a).listen_on(port_a);
    let setup_b = Setup::new(&domain_b).listen_on(port_b).bootstrap(&url_a);
    setup_a.import_events(repo.all(), &[]);
    let a = setup_a.start();
    let b = setup_b.start();
    wait_served(&b, &repo.all());

    // A learned of B from the announcement alone: what is published to B reaches A, and the other way round.
    let on_b = repo.person.comment(&repo.issue, unix_now(), "said to B");
    b.client().publish_ok(&on_b);
    wait_served(&a, &[&on_b]);
    let on_a = repo.person.comment(&repo.issue, unix_now(), "said to A");
    a.client().publish_ok(&on_a);
    wait_served(&b, &[&on_a]);
    assert!(a.relays().iter().all(|r| r.url.contains(&domain_b)), "A dialled itself: {:?}", a.relays());

    assert!(a.stop_within(Duration::from_secs(5)).success());
    assert!(b.stop_within(Duration::from_secs(5)).success());
    let all: BTreeSet<EventId> = repo.all().into_iter().chain([&on_a, &on_b]).map(|e| e.id).collect();
    assert_eq!(setup_a.exported_ids(), all);
    assert_eq!(setup_b.exported_ids(), all);
}

// Ends.

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let setup = Setup::new(DOMAIN);
    let repo = own_repo(1);
    let mut acknowledged: BTreeSet<EventId> = BTreeSet::new();
    for round in 0..3u64 {
        let process = setup.start();
        let mut client = process.client();
        if round == 0 {
            client.publish_ok(&repo.announcement);
            acknowledged.insert(repo.announcement.id);
        }
        let issues: Vec<Event> = (0..600)
            .map(|n| repo.person.issue(&repo.address, &format!("{round} {n}"), unix_now() - 5_000 + n))
            .collect();
        for issue in &issues {
            client.send(event_message(issue));
        }
        // Killed with some hundreds acknowledged and the rest on the way.
        for issue in &issues[..200] {
            assert!(client.answer_to(issue).expect("an OK").accepted);
            acknowledged.insert(issue.id);
        }
        process.kill();
        for issue in &issues[200..] {
            let Some(answer) = client.answer_to(issue) else { break };
            assert!(answer.accepted, "{answer:?}");
            acknowledged.insert(issue.id);
        }
    }
    let held = setup.exported_ids();
    let lost: Vec<_> = acknowledged.difference(&held).collect();
    assert!(lost.is_empty(), "lost {} of {}", lost.len(), acknowledged.len());
    let process = setup.start();
    assert_eq!(process.client().query(&json!({"kinds": [30617]})).len(), 1);
}

#[test]
fn kill_9_during_a_catch_up_never_claims_more_than_was_kept() {
    let shape = Shape { repos: 20, roots_per_repo: 40, comments: 800, padding: 300, relays_per_repo: 1 };
    let relay = MockRelay::start();
    let world = World::new(shape, DOMAIN, &[&relay.url()], unix_now());
    relay.data().add(&world.events);
    let setup = Setup::new(DOMAIN).bootstrap(&relay.url());
    let mut held = BTreeSet::new();
    for part in 1..=4 {
        let process = setup.start();
        // A part of what is missing; what the last start kept is not counted again.
        let wanted = (world.events.len() - held.len()) * part / 6;
        wait_until("a part of the events is stored", SOON, || process.events_stored() as usize >= wanted);
        process.kill();
        let now_held = setup.exported_ids();
        assert!(held.is_subset(&now_held), "an event that was kept is gone");
        assert!(now_held.len() >= held.len() + wanted, "an event that was counted is gone");
        held = now_held;
    }
    let process = setup.start();
    process.wait_live(1, SOON);
    assert!(process.stop_within(Duration::from_secs(5)).success());
    assert_eq!(setup.exported_ids(), world.events.iter().map(|e| e.id).collect());
}

#[test]
fn sigterm_ends_it_cleanly_and_soon() {
    let relay = MockRelay::start();
    let setup = Setup::new(DOMAIN).bootstrap(&relay.url());
    let process = setup.start();
    let repo = own_repo(1);
    let mut client = process.client();
    client.publish_ok(&repo.announcement);
    wait_until("the relay is connected", SOON, || relay.connections() == 1);
    // Half of a request must not hold it up.
    let _half = TcpStream::connect(process.admin()).expect("the admin port listens");
    let status = process.stop_within(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0));
    assert!(client.ends_within(SOON));
    wait_until("the relay's link is closed", SOON, || relay.connections() == 0);
    assert_eq!(setup.exported_ids(), BTreeSet::from([repo.announcement.id]));
}

// One thread, asleep.

#[test]
fn one_thread_and_no_wake_up_without_cause() {
    let relay = MockRelay::start();
    let url = relay.url();
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &url]);
    relay.data().add(repo.all());
    let process = Setup::new(DOMAIN).bootstrap(&url).start();
    wait_served(&process, &repo.all());
    process.wait_live(1, SOON);
    let _idle_client = process.client();
    assert_eq!(process.threads(), 1);

    // After catch-up and its windows nothing is due but pings, 30 s after the last word.
    wait_for("it goes to sleep", SOON, || {
        let before = process.voluntary_switches();
        measure_over(Duration::from_secs(2));
        (process.voluntary_switches() == before).then_some(())
    });
    let (switches, cpu) = (process.voluntary_switches(), process.cpu_time());
    measure_over(Duration::from_secs(4));
    let woken = process.voluntary_switches() - switches;
    assert!(woken <= 2, "{woken} wake-ups in 4 s of idleness");
    assert!(process.cpu_time() - cpu <= Duration::from_millis(10));
    assert_eq!(process.threads(), 1);
}

// Bad input.

/// A started instance that follows a mock relay, and a repo whose good events it must keep through everything.
struct Bad {
    relay: MockRelay,
    repo: Repo,
    process: Process,
}

fn bad() -> Bad {
    let relay = MockRelay::start();
    let repo = Repo::new(1, &[DOMAIN], &["wss://grasp.test", &relay.url()]);
    relay.data().add(repo.all());
    let process = Setup::new(DOMAIN).bootstrap(&relay.url()).start();
    wait_served(&process, &repo.all());
    process.wait_live(1, SOON);
    Bad { relay, repo, process }
}

impl Bad {
    /// Waits until a counter has grown from `before`.
    fn wait_counted(&self, what: &str, before: &Metrics, count: impl Fn(&Metrics) -> f64) {
        let start = count(before);
        let grown = wait::wait_at_most(SOON, || (count(&self.process.metrics()) > start).then_some(()));
        assert!(grown.is_some(), "{what} was not counted:\n{}", self.process.metrics().text());
    }

    /// Good events still come in, from the relay and from a client, and the old ones are there.
    fn assert_well(&mut self) {
        let on_relay = self.repo.person.comment(&self.repo.issue, unix_now(), "still here, relay");
        self.relay.data().add([&on_relay]);
        let from_client = self.repo.person.comment(&self.repo.issue, unix_now(), "still here, client");
        self.process.client().publish_ok(&from_client);
        let mut all = self.repo.all().to_vec();
        all.extend([&on_relay, &from_client]);
        wait_served(&self.process, &all);
        assert!(self.process.is_running());
    }
}

fn refused(reason: &'static str) -> impl Fn(&Metrics) -> f64 {
    move |metrics| metrics.sum("grasp_sync_events_refused_total", &[&format!("reason=\"{reason}\"")])
}

fn bad_messages(metrics: &Metrics) -> f64 {
    metrics.sum("grasp_sync_messages_refused_total", &[])
}

fn raw_text_frame(bytes: &[u8]) -> Message {
    Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(Data::Text), true))
}

#[test]
fn a_forged_signature_from_a_relay_is_refused_and_does_not_mark_its_id() {
    let mut bad = bad();
    let before = bad.process.metrics();
    let good = bad.repo.person.comment(&bad.repo.issue, unix_now(), "mine");
    bad.relay.data().add([&forged(&good)]);
    bad.wait_counted("the forged signature", &before, refused("forged"));
    assert!(bad.process.client().query(&json!({"ids": [good.id.to_hex()]})).is_empty());
    bad.process.client().publish_ok(&good);
    wait_served(&bad.process, &[&good]);
    bad.assert_well();
}

#[test]
fn a_forged_signature_from_a_client_is_refused() {
    let mut bad = bad();
    let before = bad.process.metrics();
    let good = bad.repo.person.comment(&bad.repo.issue, unix_now(), "mine");
    let mut client = bad.process.client();
    let answer = client.publish(&forged(&good));
    assert!(!answer.accepted && answer.why.starts_with("invalid:"), "{answer:?}");
    let altered = client.publish(&support::events::altered(&good));
    assert!(!altered.accepted, "{altered:?}");
    bad.wait_counted("the forged signature", &before, refused("forged"));
    client.publish_ok(&good);
    bad.assert_well();
}

#[test]
fn an_event_over_size_is_refused_and_the_link_stays() {
    let mut bad = bad();
    let before = bad.process.metrics();
    let large = |n| bad.repo.person.comment(&bad.repo.issue, unix_now(), &padding(n, 200_000));
    let (from_relay, from_client) = (large(1), large(2));
    bad.relay.data().add([&from_relay]);
    bad.wait_counted("the large event of the relay", &before, refused("event_too_large"));
    let before = bad.process.metrics();
    let mut client = bad.process.client();
    assert!(!client.publish(&from_client).accepted);
    bad.wait_counted("the large event of the client", &before, refused("event_too_large"));
    assert!(client.query(&json!({"ids": ids([&from_relay, &from_client])})).is_empty());
    assert_eq!(bad.relay.with_seen(|seen| seen.connections), 1);
    bad.assert_well();
}

#[test]
fn a_message_over_size_ends_the_link() {
    let mut bad = bad();
    // A relay's may be longer than a client's: a step of a reconciliation is.
    let huge = |bytes| Message::text(format!(r#"["NOTICE","{}"]"#, padding(1, bytes)));
    bad.relay.send_to_all(&huge(5 << 19));
    wait_until("a new link to the relay", SOON, || bad.relay.with_seen(|seen| seen.connections) >= 2);
    let mut client = bad.process.client();
    let _ = client.try_send(huge(1 << 20));
    assert!(client.ends_within(SOON));
    bad.assert_well();
}

#[test]
fn nonsense_from_a_relay_is_counted_and_the_link_stays() {
    let mut bad = bad();
    let subscription = bad.relay.subscriptions().pop().expect("a live subscription");
    let truncated = event_message(&bad.repo.issue);
    let nonsense = [
        r#"["WHATEVER","x"]"#.to_owned(),
        "{".to_owned(),
        "[]".to_owned(),
        r#"["EVENT"]"#.to_owned(),
        truncated[..truncated.len() / 2].to_owned(),
        format!(r#"["EVENT","{subscription}",{{"id":7}}]"#),
    ];
    for text in nonsense {
        let before = bad.process.metrics();
        bad.relay.send_to_all(&Message::text(text.as_str()));
        bad.wait_counted(&text, &before, |m| bad_messages(m) + refused("malformed")(m));
    }
    bad.relay.send_to_all(&Message::binary(vec![1, 2, 3]));
    bad.assert_well();
    assert_eq!(bad.relay.with_seen(|seen| seen.connections), 1);
}

#[test]
fn nonsense_from_a_client_is_answered_and_counted() {
    let mut bad = bad();
    let mut client = bad.process.client();
    let truncated = event_message(&bad.repo.issue);
    for text in [r#"["WHATEVER","x"]"#, "{", "[]", r#"["REQ"]"#, &truncated[..truncated.len() / 2]] {
        let before = bad.process.metrics();
        client.send(text);
        assert!(client.next_matching(SOON, |m| m[0] == "NOTICE").is_some(), "no NOTICE to {text}");
        bad.wait_counted(text, &before, bad_messages);
    }
    assert_eq!(client.query(&json!({"kinds": [1621]})).len(), 1);
    bad.assert_well();
}

#[test]
fn invalid_utf8_ends_the_link() {
    let mut bad = bad();
    let frame = raw_text_frame(b"[\"NOTICE\",\"\xff\xfe\"]");
    bad.relay.send_to_all(&frame);
    wait_until("a new link to the relay", SOON, || bad.relay.with_seen(|seen| seen.connections) >= 2);
    let mut client = bad.process.client();
    let _ = client.try_send(frame);
    assert!(client.ends_within(SOON));
    bad.assert_well();
}

#[test]
fn an_event_nobody_asked_for_is_refused() {
    let mut bad = bad();
    let before = bad.process.metrics();
    let subscription = bad.relay.subscriptions().pop().expect("a live subscription");
    let stray = Author::from_seed(50).sign(1, unix_now(), vec![tag(["t", "x"])], "unasked");
    bad.relay.send_to_all(&Message::text(format!(r#"["EVENT","{subscription}",{}]"#, stray.as_json())));
    bad.wait_counted("the stray event", &before, refused("not_asked"));
    bad.relay.send_to_all(&Message::text(format!(r#"["EVENT","never-opened",{}]"#, stray.as_json())));
    assert!(bad.process.client().query(&json!({"ids": [stray.id.to_hex()]})).is_empty());
    bad.assert_well();
}

#[test]
fn events_of_the_future_and_of_foreign_repos_are_refused() {
    let mut bad = bad();
    let mut client = bad.process.client();
    let before = bad.process.metrics();
    let future = bad.repo.person.comment(&bad.repo.issue, unix_now() + 2_000, "tomorrow");
    assert!(!client.publish(&future).accepted);
    bad.wait_counted("the future event", &before, refused("future"));
    let stranger = Author::from_seed(60);
    let foreign = stranger.announcement("theirs", &["other.test"], &["wss://other.test"], unix_now());
    assert!(!client.publish(&foreign).accepted);
    let beside = stranger.announcement("theirs", &[DOMAIN], &["wss://evil-grasp.test"], unix_now());
    assert!(!client.publish(&beside).accepted, "listing the service in `clone` alone is not enough");
    let unannounced = stranger.issue(&stranger.repo("theirs"), "no such repo", unix_now());
    assert!(!client.publish(&unannounced).accepted);
    assert_eq!(sorted_ids(&client.query(&json!({}))), sorted_ids(bad.repo.all()));
    bad.assert_well();
}

/// A client whose link ends while it has questions open takes nothing with it.
#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let mut bad = bad();
    for _ in 0..20 {
        let mut client: Client = bad.process.client();
        client.subscribe(&[json!({})]);
        client.cut();
    }
    bad.assert_well();
}
