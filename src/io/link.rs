//! One open WebSocket, client or server, over any transport.
//!
//! The socket is watched edge-triggered for both directions from its first moment to its last, so there is no interest
//! to compute or to keep: a link reads until there is nothing more or its grant is spent, and flushes until nothing is
//! left or the kernel takes no more. What was cut short is the event loop's to come back to.
//!
//! Permessage-deflate is neither offered nor taken: an inflated message has no bound that a peer could not choose.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message};

use crate::contract::CloseReason;
use crate::io::outlet::Outlet;
use crate::io::transport::Transport;
use crate::limits::{
    LINK_CONTROL_BYTES_MAX, LINK_OUT_BYTES_MAX, LINK_READ_BUFFER_BYTES, MESSAGE_BYTES_MAX, MESSAGE_WIRE_BYTES_MAX,
    RELAY_MESSAGE_BYTES_MAX,
};

/// Close code for a peer that broke the protocol (RFC 6455, section 7.4.1).
const CLOSE_PROTOCOL: u16 = 1002;
/// Close code that stands for a close frame without a code; never on the wire.
const CLOSE_NO_STATUS: u16 = 1005;
/// Close code that stands for a socket that just ended; never on the wire.
const CLOSE_ABNORMAL: u16 = 1006;
/// Close code for a message that is never whole.
const CLOSE_POLICY: u16 = 1008;
/// Close code for a message over the limit.
const CLOSE_TOO_LARGE: u16 = 1009;
/// Close code for a peer that there is no room for: it may come again later (IANA's registry).
const CLOSE_TRY_AGAIN_LATER: u16 = 1013;

/// Bytes of a control frame that are not its payload, with a mask.
const CONTROL_HEAD_BYTES: usize = 6;

/// What a link brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole text message.
    Text(Utf8Bytes),
    /// A ping, a pong or a binary message: proof of life. Pings are answered here.
    Alive,
}

/// One open WebSocket.
#[derive(Debug)]
pub struct Link<S: Read + Write> {
    context: WebSocketContext,
    outlet: Outlet<S>,
    role: Role,
    phase: Phase,
    /// The WebSocket may have an answer of its own that is not in the outlet.
    has_answer: bool,
    /// Something was queued since the last flush that went through.
    unflushed: bool,
    /// The kernel takes no more for now.
    blocked: bool,
    /// Texts behind those that the kernel has not taken.
    waiting: VecDeque<String>,
    waiting_bytes: usize,
    /// Where in what was read the last whole message ended, moved along by control frames.
    message_ended: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close frame is queued or sent; the peer's is awaited.
    Closing,
    /// As `Closing`, after the peer broke the protocol: what it sends is no longer read as frames.
    Broken,
}

impl<S: Read + Write> Link<S> {
    /// A link whose handshake is done. `tail`: bytes that came after it.
    pub fn new(transport: Transport<S>, role: Role, tail: Vec<u8>) -> Self {
        let outlet = Outlet::new(transport, &tail);
        Link {
            context: WebSocketContext::from_partially_read(tail, role, Some(web_socket_config(role))),
            outlet,
            role,
            phase: Phase::Open,
            has_answer: false,
            unflushed: false,
            blocked: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            message_ended: 0,
        }
    }

    /// The next frame; `None` when there is nothing more for now.
    ///
    /// # Errors
    ///
    /// Why the link ended. Afterwards only [`Link::close_after`] and [`Link::advance_close`] make sense.
    pub fn read(&mut self) -> Result<Option<Frame>, CloseReason> {
        assert_eq!(self.phase, Phase::Open, "a closing link is not read");
        let read = self.context.read(&mut self.outlet);
        self.note_read(&read)?;
        match read {
            Ok(Message::Text(text)) => {
                self.give_back();
                Ok(Some(Frame::Text(text)))
            }
            Ok(Message::Binary(_)) => {
                self.give_back();
                Ok(Some(Frame::Alive))
            }
            Ok(Message::Ping(_)) => {
                self.unflushed = true;
                self.has_answer = true;
                Ok(Some(Frame::Alive))
            }
            Ok(Message::Close(frame)) => {
                self.unflushed = true;
                self.phase = Phase::Closing;
                self.waiting.clear();
                Err(CloseReason::Peer(frame.map_or(CLOSE_NO_STATUS, |f| f.code.into())))
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => Ok(Some(Frame::Alive)),
            Err(e) if would_block(&e) => Ok(None),
            Err(e) => Err(reason_of(&e)),
        }
    }

    /// Gives back the memory of a large message that was taken, unless the WebSocket has something to say.
    fn give_back(&mut self) {
        if !self.has_answer && self.outlet.meter_mut().take_spare() {
            self.renew();
        }
    }

    /// Forgets what was read and is no whole message.
    fn renew(&mut self) {
        self.context = WebSocketContext::new(self.role, Some(web_socket_config(self.role)));
    }

    /// Fragments of nothing are never a message, and never too large: what counts is what was read for them.
    fn note_read(&mut self, read: &tungstenite::Result<Message>) -> Result<(), CloseReason> {
        let total = self.outlet.transport().total_in();
        match read {
            Ok(Message::Ping(payload) | Message::Pong(payload)) => {
                self.message_ended = total.min(self.message_ended + (payload.len() + CONTROL_HEAD_BYTES) as u64);
            }
            Ok(_) => self.message_ended = total,
            Err(_) => {}
        }
        if total - self.message_ended > MESSAGE_WIRE_BYTES_MAX as u64 { Err(CloseReason::TooLarge) } else { Ok(()) }
    }

    /// Queues a text message.
    ///
    /// # Errors
    ///
    /// [`CloseReason::OutBufferFull`] if more than [`LINK_OUT_BYTES_MAX`] would wait; otherwise what writing ran into.
    pub fn send(&mut self, text: String) -> Result<(), CloseReason> {
        if !self.blocked && self.waiting.is_empty() {
            return self.write_text(&text);
        }
        if self.waiting_bytes + text.len() > LINK_OUT_BYTES_MAX {
            return Err(CloseReason::OutBufferFull);
        }
        self.unflushed = true;
        self.waiting_bytes += text.len();
        self.waiting.push_back(text);
        Ok(())
    }

    /// Queues a ping.
    ///
    /// # Errors
    ///
    /// As [`Link::send`].
    pub fn ping(&mut self) -> Result<(), CloseReason> {
        assert_eq!(self.phase, Phase::Open, "nothing is sent on a closing link");
        self.unflushed = true;
        match self.context.write(&mut self.outlet, Message::Ping(Bytes::new())) {
            Err(e) if !would_block(&e) => Err(reason_of(&e)),
            _ => Ok(()),
        }
    }

    fn write_text(&mut self, text: &str) -> Result<(), CloseReason> {
        assert_eq!(self.phase, Phase::Open, "nothing is sent on a closing link");
        self.unflushed = true;
        self.frame(text);
        if self.outlet.is_full() {
            self.blocked = !self.outlet.drain().map_err(|e| reason_of_io(&e))?;
        }
        Ok(())
    }

    fn frame(&mut self, text: &str) {
        let mask = match self.role {
            Role::Client => Some(getrandom::u32().expect("the system has random numbers").to_ne_bytes()),
            Role::Server => None,
        };
        self.outlet.add_text(text, mask);
    }

    /// Hands what is queued to the kernel. True when nothing is left, false when the kernel takes no more for now.
    ///
    /// # Errors
    ///
    /// Why the link ended.
    pub fn flush(&mut self) -> Result<bool, CloseReason> {
        if !self.unflushed {
            return Ok(true);
        }
        loop {
            // What tungstenite has to say goes into the outlet, as far as there is room; an error of its own counts once
            // what went before has gone out.
            let said = self.context.flush(&mut self.outlet);
            self.has_answer &= said.is_err();
            self.blocked = !self.outlet.drain().map_err(|e| reason_of_io(&e))?;
            if self.blocked {
                return Ok(false);
            }
            match said {
                Ok(()) => {}
                Err(e) if would_block(&e) => continue,
                Err(e) => return Err(reason_of(&e)),
            }
            if self.waiting.is_empty() {
                self.unflushed = false;
                return Ok(true);
            }
            while !self.blocked {
                let Some(text) = self.waiting.pop_front() else { break };
                self.waiting_bytes -= text.len();
                self.write_text(&text)?;
            }
        }
    }

    /// Begins to close with a code of RFC 6455, section 7.4. To be followed by [`Link::advance_close`].
    pub fn close(&mut self, code: u16) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
        self.unflushed = true;
        for text in std::mem::take(&mut self.waiting) {
            self.frame(&text);
        }
        // An error here, a full buffer say, only means that the peer will not learn the code; it comes back from
        // `advance_close` if it is one that ends the link.
        let _ =
            self.context.close(&mut self.outlet, Some(CloseFrame { code: code.into(), reason: Utf8Bytes::default() }));
    }

    /// After [`Link::read`] or a write failed: whether the peer should still be told, in which case the link is closing.
    pub fn close_after(&mut self, reason: CloseReason) -> bool {
        match reason {
            CloseReason::Protocol => self.break_off(CLOSE_PROTOCOL),
            CloseReason::TooLarge => self.break_off(CLOSE_TOO_LARGE),
            CloseReason::MessageTimeout => self.give_up(CLOSE_POLICY),
            CloseReason::Memory => self.give_up(CLOSE_TRY_AGAIN_LATER),
            CloseReason::Peer(_) => self.phase == Phase::Closing,
            _ => false,
        }
    }

    fn break_off(&mut self, code: u16) -> bool {
        self.close(code);
        self.phase = Phase::Broken;
        true
    }

    /// Breaks off and gives all memory back. A peer that has not taken what was sent could not be told: its socket is to be
    /// dropped.
    fn give_up(&mut self, code: u16) -> bool {
        self.renew();
        self.unsent() == 0 && self.break_off(code)
    }

    /// Goes on closing: flushes, drops what still comes in. True when both sides are done and the socket may be dropped.
    pub fn advance_close(&mut self) -> bool {
        assert_ne!(self.phase, Phase::Open, "the link is closing");
        if self.flush().is_err() {
            return true;
        }
        let mut scratch = [0; 1024];
        loop {
            let ended = match self.phase {
                Phase::Broken => match self.transport_mut().read(&mut scratch) {
                    Ok(0) => true,
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => e.kind() != io::ErrorKind::WouldBlock,
                },
                _ => match self.context.read(&mut self.outlet) {
                    Ok(_) => continue,
                    Err(e) => !would_block(&e),
                },
            };
            // What the last of it was answered with is still to go out.
            return ended && !matches!(self.outlet.drain(), Ok(false));
        }
    }

    /// The transport under the WebSocket, for its grant and its counts.
    pub fn transport_mut(&mut self) -> &mut Transport<S> {
        self.outlet.transport_mut()
    }

    /// Bytes that the peer has not taken.
    pub fn unsent(&self) -> usize {
        self.waiting_bytes + self.outlet.waiting()
    }

    /// Bytes in memory: what the peer has not taken, and what it sent that is no whole message.
    pub fn held(&self) -> usize {
        self.unsent() + self.outlet.meter().held()
    }

    /// The number of the message that has begun and is not whole.
    pub fn unfinished(&self) -> Option<u64> {
        self.outlet.meter().unfinished()
    }
}

/// The limits of every WebSocket, each of them set.
fn web_socket_config(role: Role) -> WebSocketConfig {
    let message_bytes = match role {
        Role::Client => RELAY_MESSAGE_BYTES_MAX,
        Role::Server => MESSAGE_BYTES_MAX,
    };
    WebSocketConfig::default()
        .read_buffer_size(LINK_READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(LINK_CONTROL_BYTES_MAX)
        .max_message_size(Some(message_bytes))
        .max_frame_size(Some(message_bytes))
        .accept_unmasked_frames(false)
}

fn would_block(error: &Error) -> bool {
    matches!(error, Error::Io(e) if e.kind() == io::ErrorKind::WouldBlock)
}

fn reason_of(error: &Error) -> CloseReason {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => CloseReason::Peer(CLOSE_ABNORMAL),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseReason::Peer(CLOSE_ABNORMAL),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseReason::TooLarge,
        Error::WriteBufferFull(_) => CloseReason::OutBufferFull,
        Error::Io(e) => reason_of_io(e),
        _ => CloseReason::Protocol,
    }
}

/// What an error of the socket, or of TLS over it, means for the link.
pub fn reason_of_io(error: &io::Error) -> CloseReason {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return CloseReason::Tls;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => CloseReason::Peer(CLOSE_ABNORMAL),
        _ => CloseReason::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pipe::{Pipe, Temper, pipe};
    use crate::limits::LINK_READ_BYTES_PER_TURN;

    const TEMPERS: [Temper; 5] =
        [Temper::Smooth, Temper::Trickle, Temper::Random(1), Temper::Random(2), Temper::Random(3)];

    fn links(temper: Temper) -> (Link<Pipe>, Link<Pipe>) {
        let (a, b) = pipe(temper);
        (
            Link::new(Transport::plain(a), Role::Client, Vec::new()),
            Link::new(Transport::plain(b), Role::Server, Vec::new()),
        )
    }

    fn raw_server(temper: Temper) -> (Pipe, Link<Pipe>) {
        let (a, b) = pipe(temper);
        (a, Link::new(Transport::plain(b), Role::Server, Vec::new()))
    }

    fn read(link: &mut Link<Pipe>) -> Result<Option<Frame>, CloseReason> {
        link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        link.read()
    }

    /// Turns both links until `to` has a frame or ends.
    fn next(from: &mut Link<Pipe>, to: &mut Link<Pipe>) -> Result<Frame, CloseReason> {
        for _ in 0..10_000_000 {
            from.flush()?;
            if let Some(frame) = read(to)? {
                return Ok(frame);
            }
        }
        panic!("no frame came through");
    }

    /// Writes raw bytes to a link and says how it ends.
    fn end_after(bytes: &[u8], temper: Temper) -> CloseReason {
        let (mut raw, mut link) = raw_server(temper);
        let mut written = 0;
        loop {
            if written < bytes.len()
                && let Ok(n) = raw.write(&bytes[written..])
            {
                written += n;
            }
            match read(&mut link) {
                Ok(_) => {}
                Err(reason) => return reason,
            }
        }
    }

    fn masked(header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        bytes[1] |= 0x80;
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn messages_come_through_whole_however_the_socket_cuts_them() {
        for temper in TEMPERS {
            let (mut client, mut server) = links(temper);
            for len in [0, 1, 125, 126, 5_000, 70_000] {
                let text = "é".repeat(len);
                client.send(text.clone()).unwrap();
                assert_eq!(next(&mut client, &mut server), Ok(Frame::Text(text.clone().into())), "{temper:?}");
                server.send(text.clone()).unwrap();
                assert_eq!(next(&mut server, &mut client), Ok(Frame::Text(text.into())), "{temper:?}");
            }
        }
    }

    #[test]
    fn a_ping_is_answered_and_both_ends_see_life() {
        for temper in TEMPERS {
            let (mut client, mut server) = links(temper);
            client.ping().unwrap();
            assert_eq!(next(&mut client, &mut server), Ok(Frame::Alive));
            assert_eq!(next(&mut server, &mut client), Ok(Frame::Alive));
        }
    }

    #[test]
    fn both_ends_agree_to_close_whoever_begins() {
        for temper in TEMPERS {
            for client_begins in [true, false] {
                let (client, server) = links(temper);
                let (mut first, mut second) = if client_begins { (client, server) } else { (server, client) };
                first.close(1001);
                let end = (0..10_000).find_map(|_| {
                    assert!(!first.advance_close(), "the other end has not answered");
                    first.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
                    read(&mut second).map_or_else(Some, |frame| frame.map(|_| panic!("nothing was sent")))
                });
                assert_eq!(end, Some(CloseReason::Peer(1001)));
                assert!(second.close_after(CloseReason::Peer(1001)));
                let (mut first, mut second) = (Some(first), Some(second));
                for _ in 0..10_000 {
                    for end in [&mut first, &mut second] {
                        if end.as_mut().is_some_and(|link| {
                            link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
                            link.advance_close()
                        }) {
                            *end = None;
                        }
                    }
                }
                assert!(first.is_none() && second.is_none(), "{temper:?} client begins: {client_begins}");
            }
        }
    }

    #[test]
    fn a_peer_that_just_goes_is_1006() {
        let (mut client, server) = links(Temper::Smooth);
        drop(server);
        assert_eq!(read(&mut client), Err(CloseReason::Peer(CLOSE_ABNORMAL)));
        assert!(!client.close_after(CloseReason::Peer(CLOSE_ABNORMAL)));
    }

    #[test]
    fn a_message_over_the_limit_ends_the_link_before_it_is_read() {
        for temper in TEMPERS {
            let len = (MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes();
            let mut header = vec![0x81, 127];
            header.extend(len);
            assert_eq!(end_after(&masked(&header, b""), temper), CloseReason::TooLarge);
        }
    }

    #[test]
    fn fragments_over_the_limit_end_the_link() {
        let piece = vec![b'a'; MESSAGE_BYTES_MAX / 2];
        let mut header = vec![0x01, 127];
        header.extend((piece.len() as u64).to_be_bytes());
        let mut bytes = masked(&header, &piece);
        header[0] = 0x00;
        bytes.extend(masked(&header, &piece));
        bytes.extend(masked(&[0x80, 1], b"a"));
        assert_eq!(end_after(&bytes, Temper::Smooth), CloseReason::TooLarge);
    }

    #[test]
    fn fragments_without_end_end_the_link_pinged_or_not() {
        for pings in [false, true] {
            let (mut raw, mut link) = raw_server(Temper::Smooth);
            raw.write_all(&masked(&[0x01, 0], b"")).unwrap();
            let mut piece = masked(&[0x00, 0], b"").repeat(1_000);
            if pings {
                piece.extend(masked(&[0x89, 4], b"ping"));
            }
            let mut written = 0;
            let reason = loop {
                raw.write_all(&piece).unwrap();
                written += piece.len();
                let ended = std::iter::from_fn(|| read(&mut link).transpose()).find_map(Result::err);
                if let Some(reason) = ended {
                    break reason;
                }
                let _ = link.flush();
                let _ = raw.read(&mut [0; 1024]);
                assert!(written < 2 * MESSAGE_WIRE_BYTES_MAX, "reads without end");
            };
            assert_eq!(reason, CloseReason::TooLarge);
            assert!(written > MESSAGE_WIRE_BYTES_MAX);
        }
    }

    #[test]
    fn pings_alone_cost_no_link_here() {
        let (mut raw, mut link) = raw_server(Temper::Smooth);
        let pings = masked(&[0x89, 0], b"").repeat(1_000);
        for _ in 0..2 * MESSAGE_WIRE_BYTES_MAX / pings.len() {
            raw.write_all(&pings).unwrap();
            while read(&mut link).unwrap().is_some() {}
            assert!(link.flush().is_ok());
            while raw.read(&mut [0; 16 << 10]).is_ok() {}
        }
    }

    #[test]
    fn a_server_that_masks_or_compresses_ends_the_link() {
        for bytes in [&masked(&[0x81, 1], b"a")[..], &[0xc1, 1, b'a'], &[0xc9, 0], &[0x88, 1, 0]] {
            let (mut raw, socket) = pipe(Temper::Smooth);
            let mut link = Link::new(Transport::plain(socket), Role::Client, Vec::new());
            raw.write_all(bytes).unwrap();
            assert_eq!(read(&mut link), Err(CloseReason::Protocol), "{bytes:?}");
        }
    }

    #[test]
    fn broken_frames_end_the_link() {
        for temper in TEMPERS {
            let unmasked = [0x81, 1, b'a'];
            let reserved_bit = masked(&[0xc1, 1], b"a");
            let unknown_opcode = masked(&[0x83, 1], b"a");
            let invalid_utf8 = masked(&[0x81, 2], &[0xc3, 0x28]);
            let lone_continuation = masked(&[0x80, 1], b"a");
            let long_ping = masked(&[0x89, 126, 0, 126], &[0; 126]);
            for bytes in [&unmasked[..], &reserved_bit, &unknown_opcode, &invalid_utf8, &lone_continuation, &long_ping]
            {
                assert_eq!(end_after(bytes, temper), CloseReason::Protocol, "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_peer_that_broke_the_protocol_is_told_so() {
        let (mut raw, mut link) = raw_server(Temper::Smooth);
        raw.write_all(&[0x81, 1, b'a', 1, 2, 3]).unwrap();
        let reason = read(&mut link).unwrap_err();
        assert!(link.close_after(reason));
        link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        assert!(!link.advance_close(), "the peer has not hung up");
        let mut answer = [0; 16];
        let n = raw.read(&mut answer).unwrap();
        assert_eq!(answer[..n], [0x88, 2, 0x03, 0xea]);
        drop(raw);
        link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        assert!(link.advance_close());
    }

    #[test]
    fn a_peer_that_does_not_read_fills_the_queue_and_no_more() {
        let (mut client, _server) = links(Temper::Smooth);
        let message = "x".repeat(100_000);
        let mut sent = 0;
        let reason = loop {
            match client.send(message.clone()) {
                Ok(()) => sent += message.len(),
                Err(reason) => break reason,
            }
            assert!(!client.flush().unwrap());
            assert!(sent <= LINK_OUT_BYTES_MAX + 100_000);
        };
        assert_eq!(reason, CloseReason::OutBufferFull);
        assert!(sent + 2 * message.len() > LINK_OUT_BYTES_MAX);
    }

    #[test]
    fn empty_fragments_without_end_do_not_hold_the_loop() {
        let (mut raw, mut link) = raw_server(Temper::Smooth);
        raw.write_all(&masked(&[0x01, 0], b"")).unwrap();
        for _ in 0..1_000 {
            raw.write_all(&masked(&[0x00, 0], b"")).unwrap();
        }
        link.transport_mut().grant(600);
        assert_eq!(link.read(), Ok(None));
        assert!(link.transport_mut().cut_short());
        link.transport_mut().grant(1_000_000);
        assert_eq!(link.read(), Ok(None));
        assert!(!link.transport_mut().cut_short());
    }
}
