//! Heads of HTTP requests, and of answers to ours.

use std::convert::Infallible;

use crate::io::answer::{AnswerHead, Refused, refusal};
use crate::io::http::{Door, Parsed, Route, parse_head, route};
use crate::limits::ANSWER_HEAD_BYTES_MAX;
use crate::protocol::relay_url::RelayUrl;

/// A head, as a request's and as an answer's.
pub fn http_head(data: &[u8]) {
    request_head(data);
    answer_head(data);
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
            let whole = response.clone().into_bytes(false);
            assert!(whole.starts_with(b"HTTP/1.1 ") && whole.starts_with(&response.into_bytes(true)));
        }
    }
}
