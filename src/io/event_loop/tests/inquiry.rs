//! What a relay says of itself, over the loop's own names, guard, TLS and deadlines.

use super::*;

impl World {
    fn inquire(&mut self, url: &str) {
        let url = RelayUrl::parse(url).unwrap();
        self.core.outputs.push_back(Output::Inquire { link: LINK, url });
    }

    fn until_answered(&mut self) -> Result<String, CloseReason> {
        match self.until(|t| matches!(t, Told::Info(LINK, _))) {
            Told::Info(_, answer) => answer,
            other => panic!("{other:?}"),
        }
    }
}

const DOCUMENT: &str = r#"{"name":"theirs"}"#;

/// Reads a request's head, then answers.
fn answer(mut socket: impl Read + Write, answer: &[u8]) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|n| n == 1) {
        request.push(byte[0]);
    }
    let _ = socket.write_all(answer);
    String::from_utf8(request).unwrap()
}

fn whole_after(interim: &str) -> Vec<u8> {
    [interim.as_bytes(), &whole()].concat()
}

fn whole() -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{DOCUMENT}", DOCUMENT.len()).into_bytes()
}

#[test]
fn a_document_is_fetched_from_the_address_that_was_checked() {
    // The first address of the name refuses: what is asked is dialled as a link is.
    let (port, peer) = relay(|socket| answer(socket, &whole()));
    let mut world = World::new();
    world.inquire(&format!("ws://both.test:{port}/sub"));
    assert_eq!(world.until_answered().as_deref(), Ok(DOCUMENT));
    let request = world.until_joined(peer);
    assert!(request.starts_with(&format!("GET /sub HTTP/1.1\r\nHost: both.test:{port}\r\n")), "{request}");
    assert!(world.event_loop.connections.is_empty());
    let told = world.core.told.len();
    world.turn(Duration::from_millis(10));
    assert_eq!(world.core.told.len(), told, "an inquiry is answered once");
}

#[test]
fn an_interim_answer_is_not_the_document() {
    let (port, peer) = relay(|socket| answer(socket, &whole_after("HTTP/1.1 103 Early Hints\r\n\r\n")));
    let mut world = World::new();
    world.inquire(&format!("ws://127.0.0.1:{port}"));
    assert_eq!(world.until_answered().as_deref(), Ok(DOCUMENT));
    world.until_joined(peer);
}

#[test]
fn what_a_relay_answers_instead_is_said() {
    let asked = |head: &'static [u8]| {
        let (port, peer) = relay(move |socket| answer(socket, head));
        let mut world = World::new();
        world.inquire(&format!("ws://127.0.0.1:{port}"));
        let answer = world.until_answered();
        world.until_joined(peer);
        answer
    };
    assert_eq!(asked(b"HTTP/1.1 404 No\r\n\r\n"), Err(CloseReason::Handshake(404)));
    let insecure = CloseReason::Redirect(RedirectRefusal::Insecure);
    assert_eq!(asked(b"HTTP/1.1 302 There\r\nLocation: /x\r\n\r\n"), Err(insecure));
    let retry = RetryAfter::Wait(Duration::from_secs(60));
    let busy = CloseReason::RetryAfter { status: 503, retry };
    assert_eq!(asked(b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\n\r\n"), Err(busy));
    assert_eq!(asked(b"SSH-2.0-OpenSSH\r\n"), Err(CloseReason::Handshake(0)));
    assert_eq!(asked(b""), Err(CloseReason::Handshake(0)));
    assert_eq!(asked(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n"), Err(CloseReason::TooLarge));
}

#[test]
fn whoever_cannot_be_reached_is_not_asked() {
    let free = TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap().port();
    for (url, private, reason) in [
        (format!("ws://127.0.0.1:{free}"), true, CloseReason::Connect),
        (format!("ws://127.0.0.1:{free}"), false, CloseReason::PrivateAddress),
        (format!("ws://localhost:{free}"), false, CloseReason::PrivateAddress),
        ("ws://nowhere.invalid".to_owned(), true, CloseReason::Resolve),
    ] {
        let mut world = World::with(|o| o.allow_private = private);
        world.inquire(&url);
        assert_eq!(world.until_answered(), Err(reason), "{url}");
        assert!(world.event_loop.connections.is_empty());
    }
}

#[test]
fn a_relay_that_never_answers_is_reached_and_has_no_document() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let port = listener.local_addr().unwrap().port();
    for (scheme, reason) in [("ws", CloseReason::Handshake(0)), ("wss", CloseReason::Timeout)] {
        let mut world = World::with(|o| o.connect_timeout = Duration::from_millis(300));
        world.inquire(&format!("{scheme}://127.0.0.1:{port}"));
        assert_eq!(world.until_answered(), Err(reason), "{scheme}");
        assert!(world.core.ticks < 20, "{} turns for one silent peer", world.core.ticks);
    }
}

#[test]
fn an_inquiry_that_the_engine_gives_up_is_gone() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut world = World::new();
    world.inquire(&format!("ws://127.0.0.1:{port}"));
    world.turn(Duration::from_millis(10));
    world.core.outputs.push_back(Output::Close { link: LINK, code: 1001 });
    world.turn(Duration::from_millis(10));
    assert!(world.event_loop.connections.is_empty());
    assert!(world.core.told.is_empty());
}
