//! What strangers may hold: places, memory, time.

use super::who_comes_in::{ask, connect};
use super::*;
use crate::io::connections::Connection;
use crate::limits::{
    ADMIN_DOCUMENTS_MAX, HTTP_PENDING_PER_ACCOUNT, LINK_READ_BYTES_PER_TURN, LINK_UNSENT_BYTES_MAX, MESSAGE_TIMEOUT,
};

#[test]
fn an_address_has_a_share_of_the_clients_unless_it_is_exempt() {
    for (loopback_exempt, second) in [(false, Err(503)), (true, Ok(()))] {
        let mut world = World::with(|o| {
            o.clients_per_address = 1;
            o.loopback_exempt = loopback_exempt;
        });
        let address = world.event_loop.local_addr();
        let first = thread::spawn(move || connect(address).unwrap());
        let first = world.until_joined(first);
        let other = thread::spawn(move || connect(address).map(drop));
        assert_eq!(world.until_joined(other), second);
        drop(first);
        world.until(|t| matches!(t, Told::Closed(LinkId::Client(0), _)));
        let third = thread::spawn(move || connect(address).map(drop));
        assert_eq!(world.until_joined(third), Ok(()));
    }
}

#[test]
fn half_heads_of_one_address_do_not_lock_its_next_one_out() {
    let mut world = World::with(|o| o.loopback_exempt = false);
    let address = world.event_loop.local_addr();
    let mut halves = Vec::new();
    for _ in 0..2 * HTTP_PENDING_PER_ACCOUNT {
        let mut half = bounded(TcpStream::connect(address).unwrap());
        half.write_all(b"GET / HTT").unwrap();
        halves.push(half);
        world.turn(Duration::from_millis(100));
    }
    let whole = ask(&mut world, address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(whole.starts_with("HTTP/1.1 200 "), "{whole}");
    assert_eq!(world.event_loop.counters.connections_refused, HTTP_PENDING_PER_ACCOUNT as u64 + 1);
}

#[test]
fn a_message_that_is_never_whole_ends_its_link_after_its_time() {
    let mut world = World::new();
    let address = world.event_loop.local_addr();
    let peer = thread::spawn(move || {
        let mut peer = connect(address).unwrap();
        // A fragment, and a ping within the message, which makes no other one of it.
        peer.get_mut().write_all(&[0x01, 0x81, 0, 0, 0, 0, b'a', 0x89, 0x80, 0, 0, 0, 0]).unwrap();
        peer
    });
    let mut peer = world.until_joined(peer);
    let id = LinkId::Client(0);
    world.until(|t| *t == Told::Alive(id));
    let deadline = world.event_loop.connections.next_deadline().unwrap();
    let now = world.event_loop.now();
    assert!(deadline <= now.mono + MESSAGE_TIMEOUT && deadline + Duration::from_secs(10) > now.mono + MESSAGE_TIMEOUT);
    let key = world.event_loop.connections.poll_expired(deadline).unwrap();
    world.event_loop.on_time(now, key, &mut world.core).unwrap();
    world.until(|t| *t == Told::Closed(id, CloseReason::MessageTimeout));
    world.turn(Duration::ZERO);
    let close = loop {
        match peer.read() {
            Ok(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            Ok(_) => {}
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(close, Some(1008));
}

#[test]
fn a_message_that_is_whole_has_no_time_to_keep() {
    let mut world = World::new();
    let address = world.event_loop.local_addr();
    let peer = thread::spawn(move || {
        let mut peer = connect(address).unwrap();
        peer.send(Message::text("x".repeat(100_000))).unwrap();
        peer
    });
    let _peer = world.until_joined(peer);
    world.until(|t| matches!(t, Told::Text(..)));
    assert_eq!(world.event_loop.connections.next_deadline(), None);
    assert_eq!(world.event_loop.pool.used(), 0);
    let Some(Connection::Open(open)) = world.event_loop.connections.get_mut(0) else { panic!("a client's link") };
    assert_eq!(open.link.held(), 0, "the memory of the message is given back");
}

#[test]
fn when_memory_is_used_up_the_largest_link_is_closed_and_the_others_go_on() {
    let mut world = World::with(|o| o.buffers_bytes = 300 << 10);
    let address = world.event_loop.local_addr();
    // A frame of so many bytes of which one never comes.
    let stuck = |bytes: usize| {
        move || {
            let mut peer = connect(address).unwrap();
            peer.get_mut().write_all(&[masked_head(bytes + 1), vec![0; bytes]].concat()).unwrap();
            peer
        }
    };
    let small = thread::spawn(stuck(200 << 10));
    let _small = world.until_joined(small);
    let large = thread::spawn(stuck(400 << 10));
    let _large = world.until_joined(large);
    world.until(|t| matches!(t, Told::Closed(_, CloseReason::Memory)));
    assert!(world.core.told.contains(&Told::Closed(LinkId::Client(1), CloseReason::Memory)));
    assert!(world.event_loop.pool.used() <= 300 << 10);
    let next = thread::spawn(move || connect(address).map(drop));
    assert_eq!(world.until_joined(next), Ok(()));
    // What the engine holds for a link counts with it.
    world.core.outputs.push_back(Output::Hold { link: LinkId::Client(0), bytes: 400 << 10 });
    world.until(|t| *t == Told::Closed(LinkId::Client(0), CloseReason::Memory));
    assert_eq!(world.event_loop.pool.used(), 0);
}

#[test]
fn who_does_not_read_is_not_read_until_there_is_room_again() {
    let mut world = World::new();
    world.core.echoes = true;
    let address = world.event_loop.local_addr();
    let peer = thread::spawn(move || connect(address).unwrap());
    let mut peer = world.until_joined(peer);
    let text = "x".repeat(64 << 10);
    // Far more than the kernel holds of either direction.
    const MESSAGES: usize = 400;
    let mut socket = peer.get_ref().try_clone().unwrap();
    let frame = [&masked_head(text.len()), text.as_bytes()].concat();
    let writer = thread::spawn(move || (0..MESSAGES).for_each(|_| socket.write_all(&frame).unwrap()));
    for _ in 0..50 {
        world.turn(Duration::from_millis(20));
    }
    let heard = world.core.told.len();
    assert!(heard < MESSAGES, "reading has stopped");
    let Some(Connection::Open(open)) = world.event_loop.connections.get_mut(0) else { panic!("a client's link") };
    assert!(open.link.unsent() <= LINK_UNSENT_BYTES_MAX + LINK_READ_BYTES_PER_TURN + text.len());
    let reader = thread::spawn(move || (0..MESSAGES).filter(|_| peer.read().unwrap().is_text()).count());
    assert_eq!(world.until_joined(reader), MESSAGES);
    writer.join().unwrap();
}

#[test]
fn documents_that_nobody_takes_make_room_for_the_next() {
    let mut world = World::new();
    let admin = world.event_loop.admin_addr();
    let mut idle = Vec::new();
    for _ in 0..2 * ADMIN_DOCUMENTS_MAX {
        let mut socket = bounded(TcpStream::connect(admin).unwrap());
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        idle.push(socket);
        world.turn(Duration::from_millis(100));
        world.turn(Duration::from_millis(1));
    }
    assert_eq!(world.event_loop.counters.connections_refused, ADMIN_DOCUMENTS_MAX as u64);
    let metrics = ask(&mut world, admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

/// The head of a whole text message, masked with nothing, in its longest form.
fn masked_head(bytes: usize) -> Vec<u8> {
    [&[0x81, 0xff][..], &(bytes as u64).to_be_bytes(), &[0; 4]].concat()
}
