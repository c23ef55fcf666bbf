//! Clients behind a proxy that is trusted, and behind one that is not.

use super::*;
use crate::limits::{CONNECTION_RATE, HTTP_PENDING_PER_ACCOUNT};
use crate::protocol::network::Network;
use crate::shares::Account;

/// The proxies of these tests are on this machine.
fn world(change: impl FnOnce(&mut LoopOptions)) -> World {
    World::with(|options| {
        options.trusted_proxies = vec![Network::parse("127.0.0.0/8").unwrap()];
        change(options);
    })
}

fn account(text: &str) -> Account {
    Account::of(text.parse().unwrap())
}

fn upgrade(lines: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
}

/// What was asked is answered with this status; the connection stays open.
fn ask(world: &mut World, request: impl Into<Vec<u8>>) -> (u16, TcpStream) {
    let (address, request) = (world.event_loop.local_addr(), request.into());
    let peer = thread::spawn(move || {
        let mut socket = bounded(TcpStream::connect(address).unwrap());
        socket.write_all(&request).unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).unwrap();
        let status = std::str::from_utf8(&status).unwrap().strip_prefix("HTTP/1.1 ").unwrap().parse().unwrap();
        (status, socket)
    });
    world.until_joined(peer)
}

#[test]
fn clients_behind_a_proxy_are_told_apart() {
    let mut world = world(|o| o.clients_per_address = 1);
    let mut open = Vec::new();
    for (lines, status) in [
        ("X-Forwarded-For: 192.0.2.1\r\n", 101),
        ("X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n", 503),
        ("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n", 101),
        ("", 101),
        ("", 101),
    ] {
        let (answered, socket) = ask(&mut world, upgrade(lines));
        assert_eq!(answered, status, "{lines}");
        open.push(socket);
    }
    let proxy = Account::of_proxy(Ipv4Addr::LOCALHOST.into());
    assert_eq!(world.core.accounts, [account("192.0.2.1"), account("192.0.2.2"), proxy, proxy]);
    // Who leaves makes room for the next of the same.
    drop(open.remove(0));
    world.until(|t| matches!(t, Told::Closed(LinkId::Client(0), _)));
    open.push(ask(&mut world, upgrade("X-Forwarded-For: 192.0.2.1\r\n")).1);
    assert_eq!(world.core.accounts.last(), Some(&account("192.0.2.1")));
    assert_eq!(ask(&mut world, upgrade("")).0, 503, "all places are taken");
}

#[test]
fn the_proxy_protocol_says_whose_a_connection_is() {
    let mut world = world(|_| {});
    let mut open = Vec::new();
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 2, 0, 0, 0, 0, 0, 1, 0, 1]].concat();
    for header in [&b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n"[..], &v2, b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"] {
        let (status, socket) = ask(&mut world, [header, upgrade("").as_bytes()].concat());
        assert_eq!(status, 101);
        open.push(socket);
    }
    assert_eq!(world.core.accounts, ["192.0.2.1", "192.0.2.2", "2001:db8::7"].map(account));
    // Of a proxy that speaks for another proxy, the head says more.
    let lines = upgrade("X-Forwarded-For: 192.0.2.3\r\n");
    let header = b"PROXY TCP4 127.0.0.9 10.0.0.1 1 2\r\n";
    open.push(ask(&mut world, [&header[..], lines.as_bytes()].concat()).1);
    assert_eq!(world.core.accounts.last(), Some(&account("192.0.2.3")));
}

#[test]
fn a_proxy_that_cannot_be_understood_gets_400() {
    let mut world = world(|_| {});
    for request in [
        upgrade("X-Forwarded-For: unknown\r\n"),
        format!("PROXY TCP4 nowhere\r\n{}", upgrade("")),
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n".to_owned(),
    ] {
        assert_eq!(ask(&mut world, request.clone()).0, 400, "{request}");
    }
    assert_eq!(world.event_loop.counters.proxy_headers_refused, 3);
    assert_eq!(world.event_loop.counters.http_answers, 3);
    assert!(world.core.told.is_empty());
}

#[test]
fn others_are_not_believed() {
    let mut world = World::with(|o| o.trusted_proxies = vec![Network::parse("10.0.0.0/8").unwrap()]);
    let mut open = Vec::new();
    for lines in ["X-Forwarded-For: 192.0.2.1\r\n", "X-Forwarded-For: unknown\r\n"] {
        let (status, socket) = ask(&mut world, upgrade(lines));
        assert_eq!(status, 101);
        open.push(socket);
    }
    assert_eq!(world.core.accounts, [account("127.0.0.1"), account("127.0.0.1")]);
    assert_eq!(ask(&mut world, format!("PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n{}", upgrade(""))).0, 400);
    assert_eq!(world.event_loop.counters.proxy_headers_refused, 0, "nobody has vouched for it");
}

#[test]
fn a_client_that_connects_too_often_is_refused_and_its_proxy_is_not() {
    let mut world = world(|_| {});
    let get = |lines: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let statuses: Vec<u16> =
        (0..CONNECTION_RATE.burst + 60).map(|_| ask(&mut world, get("X-Forwarded-For: 192.0.2.1\r\n")).0).collect();
    let (first, last) = statuses.split_at(CONNECTION_RATE.burst as usize);
    assert!(first.iter().all(|status| *status == 200));
    assert!(last.contains(&429), "{last:?}");
    assert_eq!(ask(&mut world, get("X-Forwarded-For: 192.0.2.2\r\n")).0, 200);
    assert_eq!(ask(&mut world, get("")).0, 200);
    assert!(world.event_loop.counters.connections_refused > 0);
}

#[test]
fn half_heads_of_one_client_behind_a_proxy_cost_it_its_own() {
    let mut world = world(|_| {});
    let address = world.event_loop.local_addr();
    let mut halves = Vec::new();
    for n in 0..2 * HTTP_PENDING_PER_ACCOUNT {
        let mut half = bounded(TcpStream::connect(address).unwrap());
        half.write_all(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nGET / HTT").unwrap();
        halves.push(half);
        while world.event_loop.counters.connections_refused < (n as u64 + 1).saturating_sub(16) {
            world.turn(Duration::from_millis(10));
        }
    }
    let other = ask(&mut world, format!("PROXY TCP4 192.0.2.2 10.0.0.1 1 2\r\n{}", upgrade("")));
    assert_eq!(other.0, 101);
    assert_eq!(world.event_loop.counters.connections_refused, HTTP_PENDING_PER_ACCOUNT as u64);
}
