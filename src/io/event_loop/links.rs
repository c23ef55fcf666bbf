//! Links in the loop: dialled, read, written, closed.

use std::net::Ipv4Addr;

use mio::Poll;
use mio::net::TcpStream;

use crate::contract::{CloseReason, Input, LinkId, Output};
use crate::io::connections::{Connection, Connections, Open};
use crate::io::crowd::Crowd;
use crate::io::dial::{Dial, DialPurpose, Dialling, Progress};
use crate::io::event_loop::{Core, EventLoop, LoopOptions, RunError};
use crate::io::link::{Frame, Link};
use crate::io::resolver::{Lookup, ResolveError};
use crate::limits::{
    LINK_CLOSE_TIMEOUT, LINK_HOLD_STEP_BYTES, LINK_READ_BYTES_PER_TURN, LINK_READS_PER_TURN, LINK_UNSENT_BYTES_MAX,
    MESSAGE_TIMEOUT, RESOLVER_RELOAD_MIN,
};
use crate::protocol::relay_url::RelayUrl;
use crate::shares::Account;
use crate::shares::pool::Holder;
use crate::time::{Instant, Now};

impl EventLoop {
    /// Goes on with one connection as far as its socket and its share of the turn allow. How many messages it brought.
    pub(super) fn drive(&mut self, now: Now, key: usize, core: &mut impl Core) -> Result<usize, RunError> {
        if let Some((dial, crowd)) = self.connections.dial_mut(key) {
            let mut common = dialling(&self.poll, &self.options, crowd);
            let progress = dial.on_ready(now.mono, Connections::token(key), &mut common);
            self.on_dial(now, key, progress, core)?;
            return Ok(0);
        }
        match self.connections.get_mut(key) {
            None | Some(Connection::Dial(_)) => Ok(0),
            Some(Connection::Inbound(_)) => {
                self.drive_inbound(now, key, core)?;
                Ok(0)
            }
            Some(Connection::Open(_)) => self.read_link(now, key, core),
            Some(Connection::Closing(_)) => {
                self.advance_close(key);
                Ok(0)
            }
        }
    }

    /// A connection's deadline has come.
    pub(super) fn on_time(&mut self, now: Now, key: usize, core: &mut impl Core) -> Result<(), RunError> {
        if let Some((dial, crowd)) = self.connections.dial_mut(key) {
            let mut common = dialling(&self.poll, &self.options, crowd);
            let progress = dial.on_time(now.mono, Connections::token(key), &mut common);
            return self.on_dial(now, key, progress, core);
        }
        match self.connections.get_mut(key) {
            Some(Connection::Inbound(_)) => {
                self.drop_inbound(key);
                Ok(())
            }
            Some(Connection::Closing(_)) => {
                self.connections.remove(key);
                Ok(())
            }
            Some(Connection::Open(_)) => {
                self.end(now.mono, key, CloseReason::MessageTimeout);
                Ok(())
            }
            Some(Connection::Dial(_)) | None => Ok(()),
        }
    }

    /// Does everything that the engine wants done.
    pub(super) fn carry_out(&mut self, core: &mut impl Core) {
        let now = self.clock.now();
        while let Some(output) = core.poll_output() {
            match output {
                Output::Dial { link, url } => self.dial(now, link, url, DialPurpose::Link),
                Output::Inquire { link, url } => self.dial(now, link, url, DialPurpose::Info),
                Output::Send { link, text } => self.send(now.mono, link, text),
                Output::Ping { link } => self.ping(now.mono, link),
                Output::Close { link, code } => self.close(now, link, code),
                Output::Hold { link, bytes } => self.note_engine_held(now.mono, link, bytes),
            }
        }
    }

    fn dial(&mut self, now: Now, link: LinkId, url: RelayUrl, purpose: DialPurpose) {
        assert!(matches!(link, LinkId::Relay(_)), "only relays are dialled");
        let deadline = now.mono + self.options.connect_timeout;
        let dial = Box::new(Dial::new(link, url, purpose, deadline));
        let key = self.connections.insert(Connection::Dial(dial));
        self.look_up(now, key);
    }

    /// Asks for the addresses of the host that a dial is about to go to.
    fn look_up(&mut self, now: Now, key: usize) {
        let Some(Connection::Dial(dial)) = self.connections.get_mut(key) else { panic!("this is a dial") };
        match self.resolver.resolve(now, self.poll.registry(), dial.url().host()) {
            Lookup::Answered(answer) => self.known_names.push((dial.link(), answer)),
            Lookup::Pending(id) => {
                dial.lookup = Some(id);
                self.lookups.insert(id, dial.link());
            }
        }
        let deadline = dial.deadline();
        self.connections.set_deadline(key, Some(deadline));
    }

    /// Lets the resolver go on if its time has come.
    pub(super) fn resolve_on(&mut self, now: Now) {
        if self.resolver.next_deadline().is_some_and(|at| at <= now.mono) {
            self.resolver.on_time(now, self.poll.registry());
        }
    }

    /// Hands the resolver's answers to the dials that wait for them.
    pub(super) fn take_addresses(&mut self, now: Now, core: &mut impl Core) -> Result<(), RunError> {
        let mut answers = std::mem::take(&mut self.known_names);
        while let Some((lookup, answer)) = self.resolver.poll_answer() {
            if let Some(link) = self.lookups.remove(&lookup) {
                answers.push((link, answer));
            }
        }
        for (link, answer) in answers {
            if matches!(answer, Err(ResolveError::ServersFailed | ResolveError::ServersSilent)) {
                self.read_resolver_config_again(now);
            }
            let Some(key) = self.connections.find(link) else { continue };
            let Some((dial, crowd)) = self.connections.dial_mut(key) else { continue };
            let mut common = dialling(&self.poll, &self.options, crowd);
            let progress = dial.on_addresses(now.mono, Connections::token(key), &mut common, &answer);
            self.on_dial(now, key, progress, core)?;
        }
        Ok(())
    }

    fn read_resolver_config_again(&mut self, now: Now) {
        if now.mono >= self.resolver_read + RESOLVER_RELOAD_MIN {
            self.resolver_read = now.mono;
            self.resolver.reload(self.options.names.read());
        }
    }

    /// Lets go of a relay that is being dialled.
    fn drop_dial(&mut self, now: Now, key: usize) {
        if let Some(Connection::Dial(dial)) = self.connections.remove(key)
            && let Some(lookup) = dial.lookup
        {
            self.lookups.remove(&lookup);
            self.resolver.cancel(now, self.poll.registry(), lookup);
        }
    }

    /// A relay that is being dialled is ourselves, by another name and by way of a proxy or a router.
    pub(super) fn refuse_own_dial(&mut self, key: usize) {
        if let Some(Connection::Dial(dial)) = self.connections.remove(key) {
            log::debug!("{}: leads to ourselves", dial.url());
            self.ended.push((dial.link(), CloseReason::OwnAddress));
        }
    }

    fn on_dial(&mut self, now: Now, key: usize, progress: Progress, core: &mut impl Core) -> Result<(), RunError> {
        let Some(Connection::Dial(dial)) = self.connections.get_mut(key) else { panic!("this is a dial") };
        let (id, purpose) = (dial.link(), dial.purpose());
        match progress {
            Progress::Pending => {
                let (deadline, cut_short) = (dial.next_deadline(), dial.cut_short());
                self.connections.set_deadline(key, Some(deadline));
                if cut_short {
                    self.connections.make_ready(key);
                }
            }
            Progress::Redirected => self.look_up(now, key),
            Progress::Open(mut link) => {
                log::debug!("{}: open", dial.url());
                let account = account_of(&mut link);
                self.connections.take(key);
                self.connections.put(key, Connection::Open(Open::new(id, link, account)));
                self.connections.set_deadline(key, None);
                // What came with the handshake's last bytes is not announced a second time.
                self.connections.make_ready(key);
                core.handle(now, Input::Opened { link: id })?;
            }
            Progress::Told(document) => {
                self.drop_dial(now, key);
                self.inquired.push((id, Ok(document)));
            }
            Progress::Failed(reason) => {
                log::debug!("{}: {purpose:?}: {reason:?}", dial.url());
                let no_document = dial.no_document(reason);
                self.drop_dial(now, key);
                match purpose {
                    DialPurpose::Link => self.ended.push((id, reason)),
                    DialPurpose::Info => self.inquired.push((id, Err(no_document))),
                }
            }
        }
        Ok(())
    }

    /// Reads one link's share of the turn.
    fn read_link(&mut self, now: Now, key: usize, core: &mut impl Core) -> Result<usize, RunError> {
        let Some(Connection::Open(Open { id, link, .. })) = self.connections.get_mut(key) else { return Ok(0) };
        let id = *id;
        // If the socket takes bytes again, or a pong is to be written, that is seen to where links are flushed.
        self.touched.insert(key);
        if link.unsent() > LINK_UNSENT_BYTES_MAX {
            return Ok(0);
        }
        link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        let mut reads = 0;
        let mut ended = None;
        let mut is_dry = false;
        let until = self.clock.now().mono + self.read_time;
        let mut is_over = false;
        while reads < LINK_READS_PER_TURN && ended.is_none() && !is_dry && !is_over {
            match link.read() {
                Ok(Some(frame)) => {
                    reads += 1;
                    match frame {
                        Frame::Text(text) => core.handle(now, Input::Text { link: id, text: text.as_str() })?,
                        Frame::Alive => core.handle(now, Input::Alive { link: id })?,
                    }
                    is_over = self.clock.now().mono >= until;
                }
                Ok(None) => is_dry = true,
                Err(reason) => ended = Some(reason),
            }
        }
        let has_more = !is_dry || link.transport_mut().cut_short();
        let (bytes_in, bytes_out) = link.transport_mut().take_bytes();
        self.counters.link_bytes_in += bytes_in;
        self.counters.link_bytes_out += bytes_out;
        if let Some(reason) = ended {
            self.end(now.mono, key, reason);
            return Ok(reads);
        }
        if has_more {
            self.connections.make_ready(key);
        }
        self.note_held(now.mono, key);
        Ok(reads)
    }

    fn send(&mut self, now: Instant, id: LinkId, text: String) {
        let Some(key) = self.connections.find(id) else { return };
        let Some(Connection::Open(Open { link, sent, .. })) = self.connections.get_mut(key) else { return };
        *sent = true;
        match link.send(text) {
            Ok(()) => {
                self.touched.insert(key);
            }
            Err(reason) => self.end(now, key, reason),
        }
    }

    fn ping(&mut self, now: Instant, id: LinkId) {
        let Some(key) = self.connections.find(id) else { return };
        let Some(Connection::Open(Open { link, .. })) = self.connections.get_mut(key) else { return };
        match link.ping() {
            Ok(()) => {
                self.touched.insert(key);
            }
            Err(reason) => self.end(now, key, reason),
        }
    }

    /// Closes a link, or stops dialling it, because the engine wants that.
    fn close(&mut self, now: Now, id: LinkId, code: u16) {
        let Some(key) = self.connections.find(id) else { return };
        if let Some(Connection::Dial(_)) = self.connections.get_mut(key) {
            self.drop_dial(now, key);
            return;
        }
        let Some(Connection::Open(Open { mut link, account, .. })) = self.connections.take(key) else {
            panic!("a link with a name is dialled or open");
        };
        link.close(code);
        self.connections.put(key, Connection::Closing(link));
        self.connections.set_deadline(key, Some(now.mono + LINK_CLOSE_TIMEOUT));
        self.touched.insert(key);
        self.forget_link(id, account);
    }

    /// A link ended by itself: the engine is told, and the peer if that makes sense.
    fn end(&mut self, now: Instant, key: usize, reason: CloseReason) {
        let Some(Connection::Open(Open { id, mut link, account, .. })) = self.connections.take(key) else {
            panic!("only an open link ends");
        };
        log::debug!("{id:?}: {reason:?}");
        self.ended.push((id, reason));
        self.forget_link(id, account);
        if link.close_after(reason) {
            self.connections.put(key, Connection::Closing(link));
            self.connections.set_deadline(key, Some(now + LINK_CLOSE_TIMEOUT));
            self.touched.insert(key);
        } else {
            self.connections.remove(key);
        }
    }

    fn forget_link(&mut self, id: LinkId, account: Account) {
        self.pool.remove(id);
        if matches!(id, LinkId::Client(_)) {
            self.places.remove_client(account);
        }
    }

    /// Tells the links' memory what a link holds, and sets the time by which the message that it has begun must be whole.
    fn note_held(&mut self, now: Instant, key: usize) {
        let Some(Connection::Open(open)) = self.connections.get_mut(key) else { return };
        let unfinished = open.link.unfinished();
        let is_another = unfinished != std::mem::replace(&mut open.unfinished, unfinished);
        let held = open.link.held() / LINK_HOLD_STEP_BYTES * LINK_HOLD_STEP_BYTES;
        let has_changed = held != std::mem::replace(&mut open.held, held);
        let (id, account) = (open.id, open.account);
        if is_another {
            self.connections.set_deadline(key, unfinished.map(|_| now + MESSAGE_TIMEOUT));
        }
        if has_changed {
            self.pool.set(id, account, Holder::Shell, held);
            self.end_excess(now);
        }
    }

    /// The engine holds so much for a link.
    fn note_engine_held(&mut self, now: Instant, id: LinkId, bytes: usize) {
        let Some(key) = self.connections.find(id) else { return };
        let Some(Connection::Open(open)) = self.connections.get_mut(key) else { return };
        self.pool.set(id, open.account, Holder::Engine, bytes);
        self.end_excess(now);
    }

    /// Ends links until there is room in the links' memory.
    fn end_excess(&mut self, now: Instant) {
        while let Some(id) = self.pool.excess() {
            let key = self.connections.find(id).expect("what is in the pool is open");
            self.end(now, key, CloseReason::Memory);
        }
    }

    /// Flushes every link to which something was written, once.
    pub(super) fn flush_touched(&mut self) {
        let now = self.clock.now().mono;
        for key in std::mem::take(&mut self.touched) {
            match self.connections.get_mut(key) {
                Some(Connection::Open(Open { id, link, sent, .. })) => {
                    let was_full = link.unsent() > LINK_UNSENT_BYTES_MAX;
                    let flushed = link.flush();
                    let (_, bytes_out) = link.transport_mut().take_bytes();
                    self.counters.link_bytes_out += bytes_out;
                    let has_room_again = was_full && link.unsent() <= LINK_UNSENT_BYTES_MAX;
                    match flushed {
                        Ok(true) if *sent => {
                            *sent = false;
                            self.drained.push(*id);
                        }
                        Ok(_) => {}
                        Err(reason) => {
                            self.end(now, key, reason);
                            continue;
                        }
                    }
                    if has_room_again {
                        self.connections.make_ready(key);
                    }
                    self.note_held(now, key);
                }
                Some(Connection::Closing(_)) => self.advance_close(key),
                _ => {}
            }
        }
    }

    /// Goes on with the closing handshake of a link.
    pub(super) fn advance_close(&mut self, key: usize) {
        let Some(Connection::Closing(link)) = self.connections.get_mut(key) else { return };
        link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        if link.advance_close() {
            self.connections.remove(key);
        } else if link.transport_mut().cut_short() {
            self.connections.make_ready(key);
        }
    }

    /// At the end: lets go of everything but the links that take leave of their peers.
    pub(super) fn drop_all_but_closing(&mut self) {
        for key in self.connections.all_keys() {
            if !matches!(self.connections.get_mut(key), Some(Connection::Closing(_))) {
                self.connections.remove(key);
            }
        }
    }
}

/// Who pays for a link to a relay: the address that it leads to.
fn account_of(link: &mut Link<TcpStream>) -> Account {
    let peer = link.transport_mut().socket_mut().peer_addr();
    Account::of(peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip()))
}

fn dialling<'a>(poll: &'a Poll, options: &'a LoopOptions, crowd: &'a mut Crowd) -> Dialling<'a> {
    let LoopOptions { tls, allow_private, service, .. } = options;
    Dialling { registry: poll.registry(), tls, allow_private: *allow_private, service, crowd }
}
