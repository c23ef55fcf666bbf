//! Heads of HTTP requests.

use crate::io::http::{Door, Parsed, Route, parse_head, route};

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
