//! One connection, from the first byte of its handshake to the last of its closing, against a peer that sends any bytes
//! at all in any pieces. What it brings must be what a plain reading of RFC 6455 finds in them, however they were cut.

mod plain;

use std::io::{Read, Write};

use tungstenite::protocol::Role;

use self::plain::{Heard, answer_end, decode, frames_of, head_end};
use crate::contract::CloseReason;
use crate::io::handshake::{Handshake, Step};
use crate::io::http::{Door, Method, Response, Route, route};
use crate::io::inbound::{HalfClose, Inbound, LINGER_BYTES_MAX, Progress};
use crate::io::link::{Frame, Link};
use crate::io::pipe::{Pipe, Temper, pipe};
use crate::io::transport::Transport;
use crate::limits::{
    ANSWER_HEAD_BYTES_MAX, HTTP_HEAD_BYTES_MAX, LINK_OUT_BYTES_MAX, LINK_READ_BYTES_PER_TURN, LINK_READS_PER_TURN,
    LINK_WRITE_BUFFER_BYTES, MESSAGE_BYTES_MAX, RELAY_MESSAGE_BYTES_MAX,
};
use crate::protocol::relay_url::RelayUrl;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Lengths of the texts that our side sends.
const OUR_LENGTHS: [usize; 8] = [0, 1, 125, 126, 4_000, 65_535, 65_536, 400_000];
/// Bytes both ways that may still go one at a time, or through a second, unbroken run. Beyond: it would take too long.
const SLOW_BYTES_MAX: usize = 8 << 10;
/// Turns in which the peer sees nothing before it takes the rest for silence: longer than a pipe blocks at its whim.
const QUIET_TURNS: usize = 64;

/// What happens on the connection, whatever its pieces.
struct Plan {
    role: Role,
    /// All that the peer sends.
    wire: Vec<u8>,
    /// Whether its handshake is known to be good.
    good_head: bool,
    /// Whether it hangs up after its last byte.
    hangs_up: bool,
    /// After how many frames our side begins to close, if it does.
    leaves_after: Option<usize>,
    /// What our side sends as soon as the link is open.
    texts: Vec<String>,
}

impl Plan {
    /// Where what the peer sends first ends, if it is whole: a request, or the answer to ours.
    fn head_end(&self) -> Option<usize> {
        match self.role {
            Role::Server => head_end(&self.wire),
            Role::Client => answer_end(&self.wire),
        }
    }

    fn head_bytes_max(&self) -> usize {
        match self.role {
            Role::Server => HTTP_HEAD_BYTES_MAX,
            Role::Client => ANSWER_HEAD_BYTES_MAX,
        }
    }
}

/// How a connection went.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    heard: Vec<Heard>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There was never a link.
    NoLink,
    /// The link is open and all is said.
    Open,
    /// We have closed it.
    Left,
    Ended(CloseReason),
}

/// HTTP head and WebSocket bytes through a link, of either side. Three bytes choose the manner; the rest is what the peer
/// sends, as it is or as shapes of frames.
pub fn link(data: &[u8]) {
    let [mode, seed, sends, rest @ ..] = data else { return };
    let flag = |bit: u8| mode >> bit & 1 == 1;
    let role = if flag(0) { Role::Client } else { Role::Server };
    let head = if role == Role::Client { ANSWER } else { REQUEST };
    let head = if flag(1) { "" } else { head };
    let frames = if flag(2) { frames_of(rest, role == Role::Server) } else { rest.to_vec() };
    let plan = Plan {
        role,
        wire: [head.as_bytes(), &frames].concat(),
        good_head: !head.is_empty(),
        hangs_up: flag(3),
        leaves_after: flag(4).then_some(usize::from(seed & 7)),
        texts: (0..sends & 15).map(|n| our_text(n, OUR_LENGTHS[usize::from(sends >> 4 & 7)])).collect(),
    };
    let grant = if flag(5) { 1 + usize::from(*seed) } else { LINK_READ_BYTES_PER_TURN };
    let bytes = plan.wire.len() + plan.texts.iter().map(String::len).sum::<usize>();
    let temper = match mode >> 6 {
        0 => Temper::Smooth,
        1 if bytes <= SLOW_BYTES_MAX => Temper::Trickle,
        _ => Temper::Random((*seed).into()),
    };
    let told = tell(&plan, temper, grant);
    judge(&plan, &told);
    if bytes <= SLOW_BYTES_MAX {
        let smooth = tell(&plan, Temper::Smooth, LINK_READ_BYTES_PER_TURN);
        judge(&plan, &smooth);
        let whole_head = plan.head_end().is_some_and(|len| len <= plan.head_bytes_max());
        assert!(!whole_head || (told.end == End::NoLink) == (smooth.end == End::NoLink), "{told:?} {smooth:?}");
    }
}

fn our_text(n: u8, len: usize) -> String {
    char::from(b'a' + n).to_string().repeat(len)
}

/// Holds a story against a plain reading of what the peer sent.
fn judge(plan: &Plan, story: &Story) {
    let Story { heard, end } = story;
    if *end == End::NoLink {
        assert!(!plan.good_head, "a good handshake opens a link");
        return;
    }
    let head_len = plan.head_end().expect("a link opens after a whole head");
    assert!(head_len <= plan.head_bytes_max());
    let (said, closed) = decode(&plan.wire[head_len..], plan.role == Role::Server);
    match end {
        End::NoLink => {}
        End::Open => assert!(*heard == said && closed.is_none() && !plan.hangs_up, "{closed:?}"),
        End::Left => assert!(said.starts_with(heard)),
        End::Ended(CloseReason::OutBufferFull) => {
            assert!(plan.texts.iter().map(String::len).sum::<usize>() > LINK_OUT_BYTES_MAX);
        }
        End::Ended(reason) => {
            assert_eq!(*heard, said);
            assert_eq!(Some(*reason), closed.or(plan.hangs_up.then_some(CloseReason::Peer(1006))));
        }
    }
}

/// The other end of the pipe.
struct Peer<'a> {
    pipe: Pipe,
    wire: &'a [u8],
    hangs_up: bool,
    received: Vec<u8>,
    /// Turns since it last sent or received.
    quiet: usize,
}

impl Peer<'_> {
    fn turn(&mut self) {
        let before = (self.wire.len(), self.received.len());
        match self.pipe.write(self.wire) {
            Ok(n) => self.wire = &self.wire[n..],
            Err(_) if self.wire.is_empty() && self.hangs_up => self.pipe.end_sending(),
            Err(_) => {}
        }
        let mut chunk = [0; 4 << 10];
        while let Ok(n @ 1..) = self.pipe.read(&mut chunk) {
            self.received.extend_from_slice(&chunk[..n]);
        }
        let moved = before != (self.wire.len(), self.received.len()) || self.pipe.unread() > 0;
        self.quiet = if moved { 0 } else { self.quiet + 1 };
    }

    /// Whether it has nothing more to send and sees nothing come.
    fn is_done(&self) -> bool {
        self.wire.is_empty() && self.quiet > QUIET_TURNS
    }
}

fn tell(plan: &Plan, temper: Temper, grant: usize) -> Story {
    let (pipe, socket) = pipe(temper);
    let mut peer = Peer { pipe, wire: &plan.wire, hangs_up: plan.hangs_up, received: Vec::new(), quiet: 0 };
    let opened = match plan.role {
        Role::Server => accept(&mut peer, socket),
        Role::Client => dial(&mut peer, socket, grant),
    };
    let Some(mut link) = opened else { return Story { heard: Vec::new(), end: End::NoLink } };
    let mut heard = Vec::new();
    let end = send_all(&plan.texts, &mut link, &mut peer)
        .map_or_else(|| listen(plan, grant, &mut link, &mut peer, &mut heard), End::Ended);
    let is_closing = match end {
        End::NoLink | End::Open => false,
        End::Left => true,
        End::Ended(reason) => link.close_after(reason),
    };
    if is_closing {
        take_leave(grant, &mut link, &mut peer);
    }
    while link.transport_mut().socket_mut().unread() > 0 {
        peer.turn();
    }
    check_received(plan, end, &peer.received);
    Story { heard, end }
}

/// The server's side of the handshake, answered as the own relay would.
fn accept(peer: &mut Peer<'_>, socket: Pipe) -> Option<Link<Pipe>> {
    let sent = peer.wire.len();
    let mut inbound = Inbound::new(socket, Door::Public, std::net::Ipv4Addr::LOCALHOST.into());
    loop {
        peer.turn();
        match inbound.advance() {
            Progress::Pending if !peer.is_done() => {}
            Progress::Pending if inbound.awaits_head() => return None,
            Progress::Pending => peer.pipe.end_sending(),
            Progress::Refused(_) => {}
            Progress::Introduced => panic!("nobody here is a proxy"),
            Progress::Asked(request) => match route(Door::Public, &request) {
                Route::Upgrade(accept) => inbound.upgrade(&accept),
                Route::Answer(response) => inbound.answer(response, request.method == Method::Head),
                _ => inbound.answer(Response::text(200, "yes\n"), request.method == Method::Head),
            },
            Progress::Upgraded(tail) => {
                return Some(Link::new(Transport::plain(inbound.into_socket()), Role::Server, tail));
            }
            Progress::Done => {
                let taken = sent - peer.wire.len() - peer.pipe.unread();
                assert!(taken <= HTTP_HEAD_BYTES_MAX + LINGER_BYTES_MAX + 1_024);
                return None;
            }
        }
    }
}

/// The client's side of it.
fn dial(peer: &mut Peer<'_>, socket: Pipe, grant: usize) -> Option<Link<Pipe>> {
    let url = RelayUrl::parse("ws://relay.example").expect("a relay URL");
    let mut handshake = Handshake::with_key(Transport::plain(socket), &url, KEY);
    let sent = peer.wire.len();
    loop {
        peer.turn();
        handshake.transport_mut().grant(grant);
        match handshake.advance() {
            Ok(Step::Pending(pending)) => handshake = pending,
            Ok(Step::Open(mut link)) => {
                let (taken, _) = link.transport_mut().take_bytes();
                assert!(taken as usize <= grant);
                return Some(*link);
            }
            Err(_) => {
                assert!(sent - peer.wire.len() - peer.pipe.unread() <= ANSWER_HEAD_BYTES_MAX);
                return None;
            }
        }
        let (taken, _) = handshake.transport_mut().take_bytes();
        assert!(taken as usize <= grant);
        if peer.is_done() {
            return None;
        }
    }
}

/// Sends everything in one turn, while the peer does not read. Why it failed, if it did.
fn send_all(texts: &[String], link: &mut Link<Pipe>, peer: &mut Peer<'_>) -> Option<CloseReason> {
    let mut taken = 0;
    for text in texts {
        if let Err(reason) = link.send(text.clone()) {
            return Some(reason);
        }
        taken += text.len();
        assert!(taken <= LINK_OUT_BYTES_MAX + MESSAGE_BYTES_MAX + LINK_WRITE_BUFFER_BYTES);
    }
    peer.quiet = 0;
    link.ping().err()
}

/// Turns of the loop until the link ends, or all is said.
fn listen(plan: &Plan, grant: usize, link: &mut Link<Pipe>, peer: &mut Peer<'_>, heard: &mut Vec<Heard>) -> End {
    loop {
        peer.turn();
        link.transport_mut().grant(grant);
        let mut is_empty = false;
        for _ in 0..LINK_READS_PER_TURN {
            if plan.leaves_after == Some(heard.len()) {
                link.close(1001);
                return End::Left;
            }
            match link.read() {
                Ok(Some(Frame::Text(text))) => {
                    assert!(text.len() <= RELAY_MESSAGE_BYTES_MAX);
                    heard.push(Heard::Text(text.to_string()));
                }
                Ok(Some(Frame::Alive)) => heard.push(Heard::Alive),
                Ok(None) => {
                    is_empty = !link.transport_mut().cut_short();
                    break;
                }
                Err(reason) => return End::Ended(reason),
            }
        }
        let (taken, _) = link.transport_mut().take_bytes();
        assert!(taken as usize <= grant, "a turn reads what it was granted");
        match link.flush() {
            Ok(is_flushed) if is_flushed && is_empty && peer.is_done() && !plan.hangs_up => return End::Open,
            Ok(_) => {}
            Err(reason) => return End::Ended(reason),
        }
    }
}

/// The closing handshake; the peer hangs up when it sees no more of it.
fn take_leave(grant: usize, link: &mut Link<Pipe>, peer: &mut Peer<'_>) {
    loop {
        peer.turn();
        link.transport_mut().grant(grant);
        if link.advance_close() {
            break;
        }
        assert!(peer.quiet < 4 * QUIET_TURNS, "a closing link ends when its peer hangs up");
        if peer.is_done() {
            peer.pipe.end_sending();
        }
    }
}

/// Holds what the peer received against what our side sent, and the code of its close frame against how the link ended.
fn check_received(plan: &Plan, end: End, received: &[u8]) {
    let head_len = head_end(received).expect("our own head is whole");
    let (heard, closed) = decode(&received[head_len..], plan.role == Role::Client);
    let texts: Vec<&str> = heard.iter().filter_map(Heard::text).collect();
    assert!(texts.len() <= plan.texts.len() && texts.iter().zip(&plan.texts).all(|(theirs, ours)| theirs == ours));
    match end {
        End::Open => assert!(closed.is_none() && texts.len() == plan.texts.len()),
        End::Left => assert!(closed.is_none_or(|reason| reason == CloseReason::Peer(1001))),
        End::Ended(CloseReason::Protocol) => assert!(closed.is_none_or(|reason| reason == CloseReason::Peer(1002))),
        End::Ended(CloseReason::TooLarge) => assert!(closed.is_none_or(|reason| reason == CloseReason::Peer(1009))),
        End::Ended(reason @ CloseReason::Peer(_)) => assert!(closed.is_none_or(|echo| echo == reason)),
        End::NoLink | End::Ended(_) => assert_eq!(closed, None),
    }
    let must_be_told = match end {
        // Whoever ends or breaks a link that is closing has lost its right to a reason.
        End::Left => {
            head_end(&plan.wire).is_some_and(|len| decode(&plan.wire[len..], plan.role == Role::Server).1.is_none())
        }
        End::Ended(reason) => matches!(reason, CloseReason::Protocol | CloseReason::TooLarge),
        End::NoLink | End::Open => false,
    };
    let fits = plan.texts.iter().map(String::len).sum::<usize>() < LINK_OUT_BYTES_MAX / 2;
    assert!(!must_be_told || plan.hangs_up || !fits || closed.is_some(), "the peer is told why");
}
