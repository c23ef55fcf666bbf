//! What is asked on a listener, and what is answered: pure functions from bytes to bytes.
//!
//! Two doors. The public one is the own relay: WebSocket upgrades (RFC 6455, section 4.2) and the NIP-11 document. The
//! admin one serves `/metrics`, `/health` and `/status.json`. Neither takes a request body; every answer that is not an
//! upgrade ends the connection.

use std::net::{IpAddr, SocketAddr};

use httparse::Header;
use tungstenite::handshake::derive_accept_key;

use crate::io::proxies::hops;
use crate::limits::HTTP_HEADERS_MAX;

/// Which listener a connection came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The own relay, `listen`.
    Public,
    /// The operator's, `admin_listen`.
    Admin,
}

/// How much of a head there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More is to come.
    Partial,
    /// All of it.
    Complete(Request),
}

/// What a request asks for, as far as any door cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, without its query.
    pub path: Path,
    /// The value of `name` in the query, as NIP-05 has it.
    pub name: Option<String>,
    /// Whether `Accept` names `application/nostr+json` (NIP-11).
    pub accepts_relay_info: bool,
    /// Whether `Host` is this machine itself, by address or as `localhost`, or is left out.
    pub host_is_loopback: bool,
    /// Whether it is an upgrade to WebSocket.
    pub upgrade: Upgrade,
    /// What `X-Forwarded-For` says, as [`hops`] has it. Only a trusted proxy's word counts.
    pub forwarded_for: Vec<Option<IpAddr>>,
    /// Bytes of the head.
    pub head_len: usize,
}

/// The methods that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// OPTIONS: a browser's question before it asks for NIP-11.
    Options,
    /// Any other; refused.
    Other,
}

/// The paths that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/`
    Root,
    /// `/metrics`
    Metrics,
    /// `/health`
    Health,
    /// `/status.json`
    Status,
    /// `/.well-known/nostr.json`
    Names,
    /// Any other.
    Other,
}

/// An upgrade to WebSocket, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// Not asked for.
    None,
    /// Asked for by the rules; the answer's `Sec-WebSocket-Accept`.
    Accept(String),
    /// Asked for in another version than 13.
    Version,
    /// Asked for against the rules: method, HTTP version, `Connection` or key.
    Bad,
}

/// Why a head is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP/1.
    Malformed,
    /// Longer than [`crate::limits::HTTP_HEAD_BYTES_MAX`], or more lines than [`HTTP_HEADERS_MAX`].
    TooLarge,
    /// A trusted proxy's header that cannot be read: PROXY protocol or `X-Forwarded-For`.
    Proxy,
}

impl HttpError {
    /// The answer to it.
    pub fn response(self) -> Response {
        match self {
            HttpError::Malformed => Response::text(400, "This is not an HTTP/1.1 request.\n"),
            HttpError::TooLarge => Response::text(431, "The request head is too large.\n"),
            HttpError::Proxy => Response::text(400, "The proxy does not say for whom this is.\n"),
        }
    }
}

/// Parses a request's head. The caller bounds its length.
///
/// # Errors
///
/// If no further bytes can make it a request.
pub fn parse_head(bytes: &[u8]) -> Result<Parsed, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::TooLarge),
        Err(_) => return Err(HttpError::Malformed),
    };
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("OPTIONS") => Method::Options,
        _ => Method::Other,
    };
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = match path {
        "/" => Path::Root,
        "/metrics" => Path::Metrics,
        "/health" => Path::Health,
        "/status.json" => Path::Status,
        "/.well-known/nostr.json" => Path::Names,
        _ => Path::Other,
    };
    let upgrade = if !has_token(request.headers, "Upgrade", "websocket") {
        Upgrade::None
    } else if method != Method::Get || request.version != Some(1) {
        Upgrade::Bad
    } else {
        check_upgrade(request.headers)
    };
    let accepts_relay_info = has_token(request.headers, "Accept", "application/nostr+json");
    let mut hosts = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("Host"));
    let host_is_loopback = hosts.all(|h| is_loopback(h.value));
    let forwarded = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("X-Forwarded-For"));
    let forwarded_for = hops(forwarded.map(|h| h.value));
    let name = query.split('&').find_map(|part| part.strip_prefix("name=")).map(str::to_owned);
    let request =
        Request { method, path, name, accepts_relay_info, host_is_loopback, upgrade, forwarded_for, head_len };
    Ok(Parsed::Complete(request))
}

/// Whether the value of `Host`, with or without a port, is this machine itself.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host.trim_ascii()) else { return false };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or_else(|_| name.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

fn check_upgrade(headers: &[Header<'_>]) -> Upgrade {
    let header = |name: &str| {
        let found = headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|h| h.value.trim_ascii())
    };
    if !has_token(headers, "Connection", "upgrade") {
        return Upgrade::Bad;
    }
    if header("Sec-WebSocket-Version") != Some(b"13") {
        return Upgrade::Version;
    }
    match header("Sec-WebSocket-Key") {
        Some(key) if is_nonce(key) => Upgrade::Accept(derive_accept_key(key)),
        _ => Upgrade::Bad,
    }
}

/// Sixteen bytes in base64: 22 characters and two of padding.
fn is_nonce(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22].iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/'))
}

/// Whether any line of a list header holds `token`; parameters after `;` are ignored.
pub(crate) fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).flat_map(|h| h.value.split(|c| *c == b',')).any(
        |item| {
            let item = item.split(|c| *c == b';').next().unwrap_or_default();
            item.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
        },
    )
}

/// What a request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A WebSocket, with this `Sec-WebSocket-Accept`.
    Upgrade(String),
    /// The NIP-11 document.
    RelayInfo,
    /// The page for people.
    Page,
    /// The operator's name (NIP-05), if this is whose is asked for.
    Names(Option<String>),
    /// The metrics.
    Metrics,
    /// Whether all is well.
    Health,
    /// The status document.
    Status,
    /// An answer that needs nothing from the engine.
    Answer(Response),
}

/// Decides what a request leads to. On the public door an upgrade and NIP-11 are answered at any path, because an
/// operator's proxy may pass the service's own path on.
pub fn route(door: Door, request: &Request) -> Route {
    if request.method == Method::Other {
        return Route::Answer(
            Response::text(405, "Only GET, HEAD and OPTIONS.\n").with("Allow: GET, HEAD, OPTIONS\r\n"),
        );
    }
    match (door, &request.upgrade, request.path) {
        (Door::Public, Upgrade::Accept(accept), _) => Route::Upgrade(accept.clone()),
        (Door::Public, Upgrade::Version, _) => Route::Answer(
            Response::text(426, "Only WebSocket version 13.\n")
                .with("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        ),
        (Door::Public, Upgrade::Bad, _) => Route::Answer(Response::text(400, "This is not a WebSocket upgrade.\n")),
        _ if request.method == Method::Options => Route::Answer(Response::preflight()),
        (Door::Public, Upgrade::None, _) if request.accepts_relay_info => Route::RelayInfo,
        (Door::Public, Upgrade::None, Path::Root) => Route::Page,
        (Door::Public, Upgrade::None, Path::Names) => Route::Names(request.name.clone()),
        (Door::Admin, _, Path::Metrics) => Route::Metrics,
        (Door::Admin, _, Path::Health) => Route::Health,
        (Door::Admin, _, Path::Status) => Route::Status,
        _ => Route::Answer(Response::text(404, "There is nothing here.\n")),
    }
}

/// Headers with which a browser lets any page read an answer, on everything that the public door says (GRASP-01).
const CORS: &str = "Access-Control-Allow-Origin: *\r\n\
     Access-Control-Allow-Methods: GET, POST\r\n\
     Access-Control-Allow-Headers: Content-Type\r\n";

/// With which the page may be nothing but itself.
const PAGE_ONLY: &str = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n";

/// An answer that ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    /// Further header lines, each with its line end.
    extra: &'static str,
    body: String,
}

impl Response {
    /// A few words for a person.
    pub fn text(status: u16, body: &str) -> Self {
        Response { status, content_type: "text/plain; charset=utf-8", extra: "", body: body.to_owned() }
    }

    /// The NIP-11 document.
    pub fn relay_info(json: String) -> Self {
        Response { status: 200, content_type: "application/nostr+json", extra: "", body: json }
    }

    /// The page for people.
    pub fn page(html: String) -> Self {
        Response { status: 200, content_type: "text/html; charset=utf-8", extra: PAGE_ONLY, body: html }
    }

    /// The operator's name.
    pub fn names(json: Option<String>) -> Self {
        match json {
            Some(body) => Response { status: 200, content_type: "application/json", extra: "", body },
            None => Response::text(404, "No name is served here.\n"),
        }
    }

    /// The status document.
    pub fn status_json(json: String) -> Self {
        Response { status: 200, content_type: "application/json", extra: "", body: json }
    }

    /// The metrics, in the OpenMetrics format if they end as it demands, else in the older Prometheus one.
    pub fn metrics(text: String) -> Self {
        let content_type = if text.ends_with("# EOF\n") {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        };
        Response { status: 200, content_type, extra: "", body: text }
    }

    fn preflight() -> Self {
        Response { status: 204, content_type: "", extra: "", body: String::new() }
    }

    fn with(mut self, extra: &'static str) -> Self {
        self.extra = extra;
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// As it goes onto the wire at a door. `head_only`: without its body, but with its length (HEAD).
    pub fn into_bytes(self, door: Door, head_only: bool) -> Vec<u8> {
        let Response { status, content_type, extra, body } = self;
        let mut text = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
        if status != 204 {
            text += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
        }
        text += extra;
        if door == Door::Public {
            text += CORS;
        }
        text += "Connection: close\r\n\r\n";
        if !head_only {
            text += &body;
        }
        text.into_bytes()
    }
}

/// The answer that turns the connection into a WebSocket.
pub fn upgrade_bytes(accept: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{CORS}\r\n",
        reason_phrase(101)
    )
    .into_bytes()
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        508 => "Loop Detected",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn parse(head: &str) -> Request {
        match parse_head(head.as_bytes()) {
            Ok(Parsed::Complete(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn upgrade_with(lines: &str) -> Upgrade {
        parse(&format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).upgrade
    }

    fn status(door: Door, head: &str) -> u16 {
        match route(door, &parse(head)) {
            Route::Answer(response) => response.status(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_upgrade_by_the_rules_is_accepted() {
        // The example of RFC 6455, section 1.3, and the forms that browsers and proxies give it.
        let accepted = Upgrade::Accept("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into());
        for lines in [
            format!(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
            ),
            format!(
                "upgrade: WebSocket\r\nconnection: keep-alive, upgrade\r\nsec-websocket-version:13\r\nsec-websocket-key:  {KEY} \r\n"
            ),
        ] {
            assert_eq!(upgrade_with(&lines), accepted);
        }
    }

    #[test]
    fn an_upgrade_against_the_rules_is_refused() {
        let line = |name: &str, value: &str| format!("{name}: {value}\r\n");
        let upgrade = line("Upgrade", "websocket");
        let connection = line("Connection", "Upgrade");
        let version = line("Sec-WebSocket-Version", "13");
        let key = line("Sec-WebSocket-Key", KEY);
        assert_eq!(upgrade_with(&format!("{connection}{version}{key}")), Upgrade::None);
        assert_eq!(upgrade_with(&format!("{}{connection}{version}{key}", line("Upgrade", "h2c"))), Upgrade::None);
        assert_eq!(upgrade_with(&format!("{upgrade}{version}{key}")), Upgrade::Bad);
        assert_eq!(upgrade_with(&format!("{upgrade}{connection}{key}")), Upgrade::Version);
        let old = line("Sec-WebSocket-Version", "8");
        assert_eq!(upgrade_with(&format!("{upgrade}{connection}{old}{key}")), Upgrade::Version);
        assert_eq!(upgrade_with(&format!("{upgrade}{connection}{version}")), Upgrade::Bad);
        for key in ["", "short==", "dGhlIHNhbXBsZSBub25jZQ=!", "\u{e9}GhlIHNhbXBsZSBub25jZQ=="] {
            let lines = format!("{upgrade}{connection}{version}{}", line("Sec-WebSocket-Key", key));
            assert_eq!(upgrade_with(&lines), Upgrade::Bad, "{key}");
        }
        let request = parse(&format!("POST / HTTP/1.1\r\n{upgrade}{connection}{version}{key}\r\n"));
        assert_eq!(request.upgrade, Upgrade::Bad);
        let request = parse(&format!("GET / HTTP/1.0\r\n{upgrade}{connection}{version}{key}\r\n"));
        assert_eq!(request.upgrade, Upgrade::Bad);
    }

    #[test]
    fn each_request_leads_where_it_should() {
        assert_eq!(route(Door::Public, &parse("GET / HTTP/1.1\r\n\r\n")), Route::Page);
        let names =
            |query: &str| route(Door::Public, &parse(&format!("GET /.well-known/nostr.json{query} HTTP/1.1\r\n\r\n")));
        assert_eq!(names(""), Route::Names(None));
        assert_eq!(names("?x=1&name=bob"), Route::Names(Some("bob".to_owned())));
        assert_eq!(status(Door::Public, "GET /favicon.ico HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status(Door::Public, "GET /metrics HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status(Door::Public, "PUT / HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status(Door::Public, "OPTIONS / HTTP/1.1\r\n\r\n"), 204);
        assert_eq!(status(Door::Admin, "GET / HTTP/1.1\r\n\r\n"), 404);
        let old = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(status(Door::Public, old), 426);
        assert_eq!(status(Door::Admin, old), 404);
        let info = "GET /any/path HTTP/1.1\r\nAccept: text/html, application/nostr+json;q=0.9\r\n\r\n";
        assert_eq!(route(Door::Public, &parse(info)), Route::RelayInfo);
        assert_eq!(route(Door::Admin, &parse("GET /metrics?x=1 HTTP/1.1\r\n\r\n")), Route::Metrics);
        assert_eq!(route(Door::Admin, &parse("HEAD /health HTTP/1.0\r\n\r\n")), Route::Health);
        assert_eq!(route(Door::Admin, &parse("GET /status.json HTTP/1.1\r\n\r\n")), Route::Status);
    }

    #[test]
    fn this_machine_itself_is_told_from_other_hosts() {
        let is_own = |lines: &str| parse(&format!("GET / HTTP/1.1\r\n{lines}\r\n")).host_is_loopback;
        for host in ["127.0.0.1:7335", "127.0.0.1", "localhost", "LOCALHOST:80", "[::1]:7335", "[::1]", "127.8.9.10"] {
            assert!(is_own(&format!("Host: {host}\r\n")), "{host}");
        }
        for host in ["evil.example:7335", "localhost.evil.example", "192.0.2.1:7335", "[2001:db8::1]:80", "", "::"] {
            assert!(!is_own(&format!("Host: {host}\r\n")), "{host}");
        }
        assert!(is_own("") && !is_own("Host: localhost\r\nHost: evil.example\r\n"));
    }

    #[test]
    fn a_head_is_partial_until_its_last_byte_and_what_follows_is_not_its() {
        let head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(parse_head(&head.as_bytes()[..len]), Ok(Parsed::Partial), "{len}");
        }
        assert_eq!(parse(&format!("{head}more")).head_len, head.len());
    }

    #[test]
    fn what_is_no_request_has_a_name() {
        assert_eq!(parse_head(b"\x16\x03\x01\x02\x00"), Err(HttpError::Malformed));
        assert_eq!(parse_head(b"GET / HTTP/2.0\r\n\r\n"), Err(HttpError::Malformed));
        let lines = "a: b\r\n".repeat(HTTP_HEADERS_MAX + 1);
        assert_eq!(parse_head(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes()), Err(HttpError::TooLarge));
    }

    #[test]
    fn any_page_may_read_what_the_public_door_says() {
        let wire = |door| String::from_utf8(Response::text(404, "no\n").into_bytes(door, false)).unwrap();
        for said in [wire(Door::Public), String::from_utf8(upgrade_bytes("x")).unwrap()] {
            for header in ["Origin: *", "Methods: GET, POST", "Headers: Content-Type"] {
                assert!(said.contains(&format!("\r\nAccess-Control-Allow-{header}\r\n")), "{said}");
            }
        }
        assert!(!wire(Door::Admin).contains("Access-Control"));
    }

    #[test]
    fn an_answer_to_head_has_the_length_but_not_the_body() {
        let whole = String::from_utf8(Response::text(200, "ok\n").into_bytes(Door::Admin, false)).unwrap();
        let head = String::from_utf8(Response::text(200, "ok\n").into_bytes(Door::Admin, true)).unwrap();
        assert!(head.contains("\r\nContent-Length: 3\r\n") && head.contains("\r\nConnection: close\r\n"));
        assert_eq!(whole, format!("{head}ok\n"));
    }
}
