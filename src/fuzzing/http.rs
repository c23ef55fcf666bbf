//! Heads of HTTP requests, and of answers to ours.

use std::convert::Infallible;

use crate::io::answer::{AnswerHead, Refused, refusal};
use crate::io::http::{Door, Parsed, Route, parse_head, route};
use crate::io::proxies::{Proxies, hops};
use crate::io::proxy_header::{self, Preface};
use crate::limits::{ANSWER_HEAD_BYTES_MAX, FORWARDED_HOPS_MAX};
use crate::protocol::network::Network;
use crate::protocol::relay_url::RelayUrl;

/// A head, as a request's and as an answer's; and what a proxy says before one and in one.
pub fn http_head(data: &[u8]) {
    request_head(data);
    answer_head(data);
    proxy_header(data);
    forwarded_for(data);
}

/// A proxy's header ends where it says, whatever follows, and until then nobody knows.
fn proxy_header(data: &[u8]) {
    let parsed = proxy_header::parse(data);
    for cut in 0..data.len().min(64) {
        match proxy_header::parse(&data[..cut]) {
            Ok(Preface::Partial) => {}
            sooner => assert_eq!(sooner, parsed, "{cut} bytes are enough"),
        }
    }
    if let Ok(Preface::Complete { len, .. }) = parsed {
        assert_eq!(proxy_header::parse(&data[..len]), parsed);
        assert_eq!(proxy_header::parse(&data[..len - 1]), Ok(Preface::Partial));
    }
}

/// Of hops few are looked at, and none by whoever is no proxy; only the last counts that is not one.
fn forwarded_for(data: &[u8]) {
    let hops = hops(data.split(|byte| *byte == b'\n'));
    assert!(hops.len() <= FORWARDED_HOPS_MAX);
    let peer = [127, 0, 0, 1].into();
    assert_eq!(Proxies::default().client(peer, &hops), Ok(peer));
    let proxies = Proxies::new(["127.0.0.0/8", "10.0.0.0/8"].into_iter().filter_map(Network::parse).collect(), true);
    match proxies.client(peer, &hops) {
        Ok(client) if proxies.trusts(client) => assert!(hops.iter().flatten().all(|hop| proxies.trusts(*hop))),
        Ok(client) => {
            let last = hops.iter().rev().find(|hop| hop.is_none_or(|hop| !proxies.trusts(hop)));
            assert_eq!(last, Some(&Some(client)));
        }
        Err(_) => assert!(hops.contains(&None)),
    }
}

/// An answer's head means the same however it was cut, and a redirect leads to a relay or nowhere.
fn answer_head(data: &[u8]) {
    let read = |data: &[u8], step: usize| {
        let mut head = AnswerHead::default();
        let mut refused = |piece| head.push(piece, |response, _| Err::<Infallible, _>(refusal(response))).err();
        data.chunks(step).find_map(&mut refused)
    };
    let refused = read(data, data.len().max(1));
    if let Some(Refused::Moved(moved)) = &refused {
        let from = RelayUrl::parse("wss://relay.example/a/b").expect("a relay URL");
        let _ = moved.location.as_deref().map(|location| from.redirected(location));
    }
    // An unfinished line is not looked at before its end has come.
    let lines = &data[..data.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)];
    if !lines.is_empty() && lines.len() < ANSWER_HEAD_BYTES_MAX {
        let whole = read(lines, lines.len());
        assert!([1, 2, 7, 64].into_iter().all(|step| read(lines, step) == whole), "{whole:?}");
    }
}

/// A request's head: it ends where it says, no sooner and no later, and each door has an answer to it.
fn request_head(data: &[u8]) {
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
            let whole = response.clone().into_bytes(door, false);
            assert!(whole.starts_with(b"HTTP/1.1 ") && whole.starts_with(&response.into_bytes(door, true)));
        }
    }
}
