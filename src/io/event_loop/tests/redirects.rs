//! A relay that has moved: one redirect, through the loop's own names, guard, TLS and deadline.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::over_tls::{Authority, tls_relay};
use super::*;

/// A relay that says where it has gone, once it is asked and told to answer.
struct Mover {
    port: u16,
    thread: JoinHandle<()>,
    asked: Receiver<()>,
    go: Sender<()>,
}

fn mover(location: String) -> Mover {
    let ((has_asked, asked), (go, may_go)) = (channel(), channel());
    let (port, thread) = relay(move |mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        has_asked.send(()).unwrap();
        may_go.recv().unwrap();
        let _ = socket.write_all(format!("HTTP/1.1 308 Moved\r\nLocation: {location}\r\n\r\n").as_bytes());
    });
    Mover { port, thread, asked, go }
}

impl Mover {
    /// Lets the loop turn until it has asked, then answers.
    fn answer(self, world: &mut World, meanwhile: impl FnOnce(&mut World)) {
        let deadline = world.event_loop.now().mono + Duration::from_secs(20);
        while self.asked.try_recv().is_err() {
            assert!(world.event_loop.now().mono < deadline, "nobody asks");
            world.turn(Duration::from_millis(10));
        }
        meanwhile(world);
        self.go.send(()).unwrap();
        world.until_joined(self.thread);
    }
}

#[test]
fn a_relay_that_has_moved_to_wss_is_followed() {
    let authority = Authority::new();
    let (port, peer) = tls_relay(authority.server("localhost"));
    let mover = mover(format!("https://localhost:{port}/relay"));
    let mut world = authority.world();
    world.dial(&format!("ws://127.0.0.1:{}", mover.port));
    mover.answer(&mut world, |_| {});
    world.until(|t| *t == Told::Opened(LINK));
    world.core.outputs.push_back(send("hello"));
    world.until(|t| *t == Told::Text(LINK, "hello".into()));
    world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
    world.until_joined(peer);
}

#[test]
fn the_guard_judges_where_a_redirect_leads() {
    for (location, url) in [("wss://127.0.0.1:8/", "link"), ("wss://both.test:8/", "link"), ("wss://10.0.0.1", "info")]
    {
        let mover = mover(location.to_owned());
        let mut world = World::new();
        let from = RelayUrl::parse(&format!("ws://127.0.0.1:{}", mover.port)).unwrap();
        world.core.outputs.push_back(match url {
            "link" => Output::Dial { link: LINK, url: from },
            _ => Output::Inquire { link: LINK, url: from },
        });
        // The first address is private, too: it could not be dialled otherwise.
        mover.answer(&mut world, |world| world.event_loop.options.allow_private = false);
        match world.until(|_| true) {
            Told::Closed(LINK, reason) => assert_eq!(reason, CloseReason::PrivateAddress, "{location}"),
            // The relay itself was reached, and its link may be where it is.
            Told::Info(LINK, answer) => assert_eq!(answer, Err(CloseReason::Handshake(308)), "{location}"),
            other => panic!("{other:?}"),
        }
        assert!(world.event_loop.connections.is_empty());
    }
}

#[test]
fn no_redirect_leads_to_ourselves_or_is_followed_by_another() {
    let mover_to_us = mover("wss://ours.test/somewhere".to_owned());
    let mut world = World::new();
    world.dial(&format!("ws://127.0.0.1:{}", mover_to_us.port));
    mover_to_us.answer(&mut world, |_| {});
    assert_eq!(world.until_closed(), CloseReason::Redirect(RedirectRefusal::Own));

    let authority = Authority::new();
    let config = authority.server("localhost");
    let (port, second) = relay(move |socket| {
        let connection = rustls::ServerConnection::new(config).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, socket);
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 307 Onwards\r\nLocation: /further\r\n\r\n");
    });
    let first = mover(format!("wss://localhost:{port}/"));
    let mut world = authority.world();
    world.dial(&format!("ws://127.0.0.1:{}", first.port));
    first.answer(&mut world, |_| {});
    assert_eq!(world.until_closed(), CloseReason::Redirect(RedirectRefusal::Second));
    world.until_joined(second);
}

#[test]
fn a_redirect_does_not_move_the_deadline() {
    let silent = TcpListener::bind(ANY_PORT).unwrap();
    let mover = mover(format!("wss://127.0.0.1:{}/", silent.local_addr().unwrap().port()));
    let mut world = World::with(|o| o.connect_timeout = Duration::from_millis(500));
    let begun = world.event_loop.now().mono;
    world.dial(&format!("ws://127.0.0.1:{}", mover.port));
    mover.answer(&mut world, |world| {
        while world.event_loop.now().mono < begun + Duration::from_millis(300) {
            world.turn(Duration::from_millis(10));
        }
    });
    assert_eq!(world.until_closed(), CloseReason::Timeout);
    let took = world.event_loop.now().mono.since(begun);
    assert!(took < Duration::from_millis(800), "took {} ms", took.as_millis());
}
