//! Two instances of the built binary over `wss`, with a certificate authority of the test's own; and every certificate
//! that must be refused.
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]

mod support;

use nostr::event::Event;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use support::certs::{Authority, TlsProxy, Validity};
use support::events::{Author, unix_now};
use support::gate::{Answer, Gate};
use support::mock_relay::{MockRelay, RelayData, RelayLimits};
use support::process::{Process, Setup, free_port};
use support::wait::wait_until;

const SOON: Duration = Duration::from_secs(20);

fn repo(domains: &[&str], relays: &[&str]) -> [Event; 2] {
    let owner = Author::from_seed(1);
    let start = unix_now() - 100_000;
    let issue = Author::from_seed(2).issue(&owner.repo("tree"), "over TLS", start + 1);
    [owner.announcement("tree", domains, relays, start), issue]
}

fn served(process: &Process, events: &[Event]) -> bool {
    let ids: Vec<String> = events.iter().map(|e| e.id.to_hex()).collect();
    process.client().query(&json!({"ids": ids})).len() == events.len()
}

/// A proxy for `name` in front of `target`, with a certificate of `authority`.
fn proxy(authority: &Authority, name: &str, validity: Validity, target: SocketAddr) -> TlsProxy {
    TlsProxy::start(authority.server_config(name, validity), target)
}

#[test]
fn two_instances_sync_over_wss() {
    let authority = Authority::new();
    let port_a = free_port();
    let proxy = proxy(&authority, "localhost", Validity::Valid, SocketAddr::from(([127, 0, 0, 1], port_a)));
    let domain_a = format!("localhost:{}", proxy.address.port());
    let url_a = format!("wss://{domain_a}");
    let events = repo(&[&domain_a, "b.test"], &[&url_a, "wss://b.test"]);
    // A must not look for B by its name, which does not exist; it only serves.
    let setup_a = Setup::new(&domain_a).listen_on(port_a);
    setup_a.import_events(&events, &[]);
    let a = setup_a.start();
    let setup_b = Setup::new("b.test").bootstrap(&url_a);
    let ca_file = setup_b.dir().write("ca.pem", authority.pem());
    let setup_b = setup_b.toml(&format!("ca_file = {:?}", ca_file.to_str().expect("a readable path")));
    let b = setup_b.start();
    wait_until("B serves what A has", SOON, || served(&b, &events));
    assert!(proxy.handshakes() >= 1 && proxy.failures() == 0);

    let live = Author::from_seed(3).comment(&events[1], unix_now(), "live");
    a.client().publish_ok(&live);
    wait_until("B hears of it live", SOON, || served(&b, std::slice::from_ref(&live)));
}

#[test]
fn a_relay_is_reached_by_its_address_too() {
    let authority = Authority::new();
    let config = authority.server_config("127.0.0.1", Validity::Valid);
    let relay = MockRelay::with(RelayData::default(), RelayLimits::default(), Some(config));
    let url = format!("wss://{}", relay.address());
    let events = repo(&["b.test"], &["wss://b.test", &url]);
    relay.data().add(&events);
    let setup = Setup::new("b.test").bootstrap(&url);
    let ca_file = setup.dir().write("ca.pem", authority.pem());
    let process = setup.toml(&format!("ca_file = {:?}", ca_file.to_str().expect("a readable path"))).start();
    wait_until("the relay's events are served", SOON, || served(&process, &events));
    process.wait_live(1, SOON);
    assert_eq!(relay.seen().breaches.total(), 0);
}

#[test]
fn a_relay_that_has_moved_to_wss_is_followed_there() {
    let authority = Authority::new();
    let relay = MockRelay::start();
    let proxy = proxy(&authority, "127.0.0.1", Validity::Valid, relay.address());
    let moved = format!("HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1:{}/\r\n\r\n", proxy.address.port());
    let gate = Gate::start(relay.address(), move |_| Answer::Whole(moved.clone()));
    let events = repo(&["b.test"], &["wss://b.test", &gate.url()]);
    relay.data().add(&events);
    let setup = Setup::new("b.test").bootstrap(&gate.url());
    let ca_file = setup.dir().write("ca.pem", authority.pem());
    let process = setup.toml(&format!("ca_file = {:?}", ca_file.to_str().expect("a readable path"))).start();
    wait_until("the relay's events are served", SOON, || served(&process, &events));
    process.wait_live(1, SOON);
    // The question what it is, and the link.
    assert_eq!((gate.requests().len(), proxy.handshakes()), (2, 2));
    assert_eq!(relay.with_seen(|seen| (seen.inquiries, seen.connections)), (1, 1));
    assert_eq!(process.relays().len(), 1, "it goes by the URL that it is listed under");
}

/// Starts an instance that trusts `trusted` and follows a relay behind a certificate of `authority` for `name`; it must
/// refuse it, say so, and keep running.
fn assert_refused(authority: &Authority, trusted: &Authority, name: &str, validity: Validity) {
    let relay = MockRelay::start();
    let proxy = proxy(authority, name, validity, relay.address());
    let url = format!("wss://127.0.0.1:{}", proxy.address.port());
    relay.data().add(&repo(&["b.test"], &["wss://b.test", &url]));
    let setup = Setup::new("b.test").bootstrap(&url);
    let ca_file = setup.dir().write("ca.pem", trusted.pem());
    let mut process = setup.toml(&format!("ca_file = {:?}", ca_file.to_str().expect("a readable path"))).start();
    let labels = [&*format!("relay=\"{url}\""), "result=\"failure\""];
    wait_until("the refusal is counted", SOON, || {
        let metrics = process.metrics();
        metrics.sum("ngit_sync_connection_attempts_total", &labels) >= 1.0
            && metrics.sum("grasp_sync_links_closed_total", &["side=\"relay\"", "reason=\"tls\""]) >= 1.0
    });
    let status = process.relays().into_iter().find(|r| r.url == url).expect("the relay is listed");
    assert_eq!(status.state, "backoff", "{status:?}");
    assert!(status.whole.to_string().to_ascii_lowercase().contains("tls"), "{status:?}");
    assert_eq!(relay.with_seen(|seen| seen.reqs), 0);
    assert!(process.client().query(&json!({})).is_empty());
    assert!(process.is_running());
}

#[test]
fn a_wrong_host_name_is_refused() {
    let authority = Authority::new();
    assert_refused(&authority, &authority, "elsewhere.test", Validity::Valid);
}

#[test]
fn an_unknown_authority_is_refused() {
    assert_refused(&Authority::new(), &Authority::new(), "127.0.0.1", Validity::Valid);
}

#[test]
fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    assert_refused(&authority, &authority, "127.0.0.1", Validity::Expired);
}
