//! The wires of the world: what goes out of the process, over links, to models, and back.

use super::{Frame, Happening, World};
use crate::checks::network::is_life;
use crate::clock::{MILLI, Micros, SECOND};
use crate::link::{Far, Link, LinkState, Path};
use crate::model_relay::{Act, Door, Mode, Reply};
use grasp_sync::contract::RetryAfter;
use grasp_sync::engine::{CloseReason, Input, LinkId, Output};
use grasp_sync::limits::{LINK_OUT_BYTES_MAX, RELAY_MESSAGE_BYTES_MAX};
use grasp_sync::protocol::relay_url::RelayUrl;
use grasp_sync::shares::Account;
use std::rc::Rc;

/// The close code for a relay that is needed no more; should it come back, it is a stranger.
const UNNEEDED: u16 = 1000;
/// The close code for a relay that does not answer.
const GONE: u16 = 1001;

impl World {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Out(serial, frame) => self.reach_far(serial, frame),
            Happening::In(serial, frame) => self.reach_process(serial, frame),
            Happening::Far(serial, act) => self.act(serial, act),
            Happening::Proxy(serial) => self.look_at_idle(serial),
        }
    }

    pub(super) fn reach_far(&mut self, serial: u64, frame: Frame) {
        let Some(link) = self.links.get(&serial).filter(|l| !l.silent) else { return };
        let at = self.clock.now();
        match (link.far, frame) {
            (Far::Relay(n), Frame::Text(text)) => {
                let replies = self.relays[n].on_text(at, serial, &text);
                self.carry_out(replies);
            }
            (far, Frame::Beat) => {
                if let Far::Relay(n) = far {
                    self.relays[n].on_beat(at, serial);
                }
                self.send_in(serial, Frame::Beat);
            }
            (Far::Relay(n), Frame::Closed(_)) => {
                self.relays[n].close(serial);
                self.links.remove(&serial);
            }
            (Far::Client(n), Frame::Text(text)) => self.clients[n].1.on_text(at, &text),
            (Far::Client(n), Frame::Closed(reason)) => {
                self.clients[n].1.closed = Some(if let CloseReason::Peer(code) = reason { code } else { 0 });
                self.links.remove(&serial);
            }
            (Far::Relay(n), Frame::Inquiry(path)) => {
                let answer = self.relays[n].on_inquiry(&path);
                self.send_in(serial, Frame::Info(answer));
            }
            (_, Frame::Opened | Frame::Drained | Frame::Info(_) | Frame::Inquiry(_)) => {
                unreachable!("never sent outwards")
            }
        }
    }

    /// A proxy cuts a link on which nothing has passed for too long, or looks again later.
    fn look_at_idle(&mut self, serial: u64) {
        let Some(link) = self.links.get(&serial) else { return };
        let Far::Relay(n) = link.far else { return };
        let Some(idle_at) = self.proxies.get(&n).map(|after| link.last() + after) else { return };
        if idle_at > self.clock.now() {
            return self.enqueue(idle_at, Happening::Proxy(serial));
        }
        self.say(&format!("a proxy cuts the idle link to {}", self.relays[n].url));
        self.relays[n].close(serial);
        self.send_in(serial, Frame::Closed(CloseReason::Peer(1006)));
    }

    /// Does what a relay wants done, now or later.
    pub(super) fn carry_out(&mut self, replies: Vec<Reply>) {
        for Reply { session, after, act } in replies {
            if after == 0 {
                self.act(session, act);
            } else {
                self.enqueue(self.clock.now() + after, Happening::Far(session, act));
            }
        }
    }

    /// A relay acts on one of its links. What it sends to one that has broken is lost.
    pub(super) fn act(&mut self, serial: u64, act: Act) {
        let Some(Link { far: Far::Relay(n), .. }) = self.links.get(&serial) else { return };
        let n = *n;
        match act {
            // The transport would not read such a message to its end.
            Act::Say(text) if text.len() > RELAY_MESSAGE_BYTES_MAX => self.break_link(serial, n, CloseReason::TooLarge),
            Act::Break(reason) => self.break_link(serial, n, reason),
            Act::Close(code) => self.break_link(serial, n, CloseReason::Peer(code)),
            Act::SayIfOpen(subscription, _) if !self.relays[n].is_open(serial, &subscription) => {}
            Act::SayIfOpen(_, text) => self.send_in(serial, Frame::Text(text.into())),
            Act::Say(text) => self.send_in(serial, Frame::Text(text.into())),
            Act::Ping => {
                self.send_in(serial, Frame::Beat);
                let next = self.relays[n].on_pinged(serial);
                self.carry_out(next.into_iter().collect());
            }
            Act::Look => {
                let replies = self.relays[n].on_look(self.clock.now(), serial);
                self.carry_out(replies);
            }
        }
    }

    /// A relay's end of a link is gone, and the process learns of it after all that was sent before.
    fn break_link(&mut self, serial: u64, n: usize, reason: CloseReason) {
        self.relays[n].close(serial);
        self.send_in(serial, Frame::Closed(reason));
    }

    pub(super) fn reach_process(&mut self, serial: u64, frame: Frame) {
        let Some(&link) = self.ids.get(&serial) else { return };
        let (at, awake, wall) = (self.clock.now(), self.awake(), self.clock.wall());
        let Some(state) = self.links.get_mut(&serial).filter(|l| !l.silent) else { return };
        self.checks.pace.on_input();
        if let (Far::Relay(n), Frame::Opened | Frame::Text(_) | Frame::Beat) = (state.far, &frame) {
            self.checks.claims.on_heard(&self.relays[n].url, wall);
            let open = self.open_links();
            self.checks.on_life(awake, open);
        }
        let Some(state) = self.links.get_mut(&serial) else { return };
        match frame {
            Frame::Opened => {
                state.state = LinkState::Open;
                let far = state.far;
                let what = format!("{} opened", state.name);
                self.trace.say(at, what);
                if let Far::Relay(n) = far {
                    let replies = self.relays[n].open(at, serial);
                    self.carry_out(replies);
                    self.checks.links.entry(serial).or_default().opened(awake);
                    self.checks.pace.on_opened(n);
                    self.look_at_idle(serial);
                }
                self.feed(match far {
                    Far::Relay(_) => Input::Opened { link },
                    _ => Input::Accepted { link, account: Account::of([127, 0, 0, 1].into()) },
                });
            }
            Frame::Text(text) => {
                self.trace.heard(at, &state.name, &text);
                // Events are many and teach the checks nothing.
                if let Far::Relay(n) = state.far
                    && !text.starts_with("[\"EVENT\"")
                {
                    self.checks.links.entry(serial).or_default().on_received(awake, &text);
                    self.checks.pace.on_answer(n);
                }
                self.feed(Input::Text { link, text: &text });
            }
            Frame::Beat => self.feed(Input::Alive { link }),
            Frame::Drained => {
                state.drain_owed = false;
                state.waiting_bytes = 0;
                self.feed(Input::Drained { link });
            }
            Frame::Info(answer) => self.inquiry_ends(serial, link, answer),
            Frame::Inquiry(_) => unreachable!("never sent inwards"),
            Frame::Closed(reason) if matches!(state.state, LinkState::Inquiring { .. }) => {
                self.inquiry_ends(serial, link, Err(reason));
            }
            Frame::Closed(reason) => {
                let what = format!("{} is gone: {reason:?}", state.name);
                self.trace.say(at, what);
                match state.far {
                    Far::Relay(n) => {
                        self.checks.on_link_end(n, reason);
                        self.dial_ends(n, reason, false, |w| w.end_link(serial, false));
                    }
                    Far::Client(_) => self.end_link(serial, false),
                }
                self.note_retry_after(serial, reason);
                if let Some(Link { far: Far::Relay(n), .. }) = self.links.remove(&serial) {
                    self.relays[n].close(serial);
                }
                self.feed(Input::Closed { link, reason });
            }
        }
    }

    /// The process no longer has the link; its end is booked as success or failure.
    pub(super) fn end_link(&mut self, serial: u64, unneeded: bool) {
        if let Some(id) = self.ids.remove(&serial) {
            self.serials.remove(&id);
        }
        let check = self.checks.links.remove(&serial).unwrap_or_default();
        if let Some(Link { far: Far::Relay(n), .. }) = self.links.get(&serial) {
            self.checks.pace.on_link_lost(*n);
            if unneeded {
                self.checks.health.remove(n);
            } else {
                let at = self.awake();
                self.checks.on_end(at, *n, check.stable(at), self.open_links());
            }
        }
    }

    /// Gives the process one input and carries out what it wants.
    pub(super) fn feed(&mut self, input: Input<'_>) {
        let now = self.now();
        let handled = self.process.as_mut().map(|process| process.handle(now, input));
        if matches!(input, Input::Tick) {
            self.look_at_window();
        }
        self.listen();
        match handled {
            Some(Ok(())) => self.drain(),
            Some(Err(error)) => self.process_ends(error),
            None => {}
        }
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.process.as_mut().and_then(|p| p.poll_output()) {
            self.outputs += 1;
            self.hash(&output);
            match output {
                Output::Dial { link, url } => self.dial(link, &url),
                Output::Inquire { link, url } => self.inquire(link, &url),
                Output::Send { link, text } => self.sent(link, text),
                Output::Ping { link } => {
                    if let Some(serial) = self.serial(link) {
                        self.send_out(serial, Frame::Beat);
                    }
                }
                Output::Close { link, code } => self.closed(link, code),
                // Told of an open link only; the simulator has memory enough.
                Output::Hold { link, .. } => _ = self.serial(link),
            }
        }
    }

    fn hash(&mut self, output: &Output) {
        let written = match output {
            Output::Dial { url, .. } | Output::Inquire { url, .. } => url.written(),
            _ => String::new(),
        };
        let (kind, link, text) = match output {
            Output::Dial { link, .. } => (0, link, written.as_str()),
            Output::Send { link, text } => (1, link, text.as_str()),
            Output::Ping { link } => (2, link, ""),
            Output::Close { link, code } => (3 + u64::from(*code), link, ""),
            Output::Inquire { link, .. } => (3, link, written.as_str()),
            Output::Hold { link, bytes } => (1 << 16 | *bytes as u64, link, ""),
        };
        let link = match link {
            LinkId::Relay(n) => 2 * n,
            LinkId::Client(n) => 2 * n + 1,
        };
        self.trace.hash(self.clock.now(), kind, link, text);
    }

    pub(super) fn serial(&self, link: LinkId) -> Option<u64> {
        let serial = self.serials.get(&link).copied();
        if serial.is_none() {
            self.fail(&format!("an output for {link:?}, which is not there"));
        }
        serial
    }

    pub(super) fn dial(&mut self, link: LinkId, url: &RelayUrl) {
        self.say(&format!("dial {}", url.written()));
        let (path, url) = (url.path(), url.as_str());
        let n = self.known_relay(url);
        let at = self.clock.now();
        let busy = self.busy();
        let verdict = self.checks.on_dial(self.awake(), n, url, &busy, self.open_links());
        self.demand(verdict);
        let serial = self.add_link(Far::Relay(n));
        self.name_link(serial, link);
        let judge = self.checks.link_to(n);
        self.checks.links.insert(serial, judge);
        if let Some(cut) = self.cut {
            self.relays[n].begin_dial(at);
            self.relays[n].end_dial();
            return self.fail_dial(serial, cut);
        }
        if let Some(reason) = self.unreachable.get(&n) {
            return self.send_in(serial, Frame::Closed(*reason));
        }
        match self.relays[n].on_dial(at, path) {
            Door::Status(status, None) => {
                if status == 404 {
                    self.checks.health.entry(n).or_default().on_not_found();
                }
                self.send_in(serial, Frame::Closed(CloseReason::Handshake(status)));
            }
            Door::Status(status, Some(retry)) => {
                self.send_in(serial, Frame::Closed(CloseReason::RetryAfter { status, retry }));
            }
            Door::Mode(Mode::Up) => self.send_in(serial, Frame::Opened),
            Door::Mode(Mode::Refuses) => self.send_in(serial, Frame::Closed(CloseReason::Connect)),
            Door::Mode(Mode::HangsUp) => {
                self.send_in(serial, Frame::Opened);
                self.send_in(serial, Frame::Closed(CloseReason::Peer(1000)));
            }
            Door::Mode(Mode::BlackHole) => self.fail_dial(serial, CloseReason::Timeout),
        }
    }

    /// A dial ends without a word from the other side, as late as such a dial does.
    fn fail_dial(&mut self, serial: u64, reason: CloseReason) {
        let after = match reason {
            CloseReason::Timeout => self.settings.timing.connect_timeout.as_micros() + MILLI,
            // Two servers, two tries of five seconds each.
            CloseReason::NoNameServer => 20 * SECOND,
            _ => MILLI,
        };
        self.enqueue(self.clock.now() + after, Happening::In(serial, Frame::Closed(reason)));
    }

    /// A relay is asked what it is: one question and one answer. Unless there is a link to it already, this is the
    /// beginning of a dial.
    pub(super) fn inquire(&mut self, link: LinkId, url: &RelayUrl) {
        self.say(&format!("inquire at {}", url.written()));
        let (path, url) = (url.path(), url.as_str());
        let n = self.known_relay(url);
        let busy = self.busy();
        let verdict = self.checks.on_inquiry(self.awake(), n, url, &busy, self.open_links());
        self.demand(verdict);
        let serial = self.add_link(Far::Relay(n));
        self.name_link(serial, link);
        let beside = busy.contains(&Far::Relay(n));
        self.links.get_mut(&serial).expect("just added").state = LinkState::Inquiring { beside };
        if !beside {
            self.relays[n].begin_dial(self.clock.now());
        }
        if let Some(cut) = self.cut {
            return self.fail_dial(serial, cut);
        }
        if let Some(reason) = self.unreachable.get(&n) {
            return self.send_in(serial, Frame::Closed(*reason));
        }
        match self.relays[n].mode {
            Mode::Up | Mode::HangsUp => self.send_out(serial, Frame::Inquiry(path.into())),
            Mode::Refuses => self.send_in(serial, Frame::Closed(CloseReason::Connect)),
            Mode::BlackHole => self.fail_dial(serial, CloseReason::Timeout),
        }
    }

    /// The process learns what came of an inquiry. If nobody could be reached, that was the dial.
    fn inquiry_ends(&mut self, serial: u64, link: LinkId, answer: Result<Rc<str>, CloseReason>) {
        let Some(Link { far: Far::Relay(n), state: LinkState::Inquiring { beside }, name, .. }) =
            self.links.remove(&serial)
        else {
            unreachable!("only called for inquiries")
        };
        self.trace.say(self.clock.now(), format!("{name} has answered: {answer:?}"));
        self.ids.remove(&serial);
        self.serials.remove(&link);
        let unreachable = matches!(
            answer,
            Err(CloseReason::Resolve
                | CloseReason::NoNameServer
                | CloseReason::PrivateAddress
                | CloseReason::Connect
                | CloseReason::NoRoute
                | CloseReason::Tls
                | CloseReason::RetryAfter { .. }
                | CloseReason::Timeout)
        );
        if let Err(reason) = answer {
            self.note_retry_after_of(n, reason);
        }
        let answer = answer.as_deref().map_err(|reason| *reason);
        let failed = answer.err().unwrap_or(CloseReason::Handshake(200));
        self.dial_ends(n, failed, beside, |w| w.inquiry_fails_or_not(n, unreachable, beside));
        if let Ok(document) = answer {
            self.checks.on_told(n, document);
        }
        self.feed(Input::Info { link, document: answer });
    }

    /// Lets the checks know that something has ended for a reason, and what follows from that. Nothing that is asked
    /// beside an open link tells the process of its own network.
    fn dial_ends(&mut self, n: usize, reason: CloseReason, beside: bool, book: impl FnOnce(&mut World)) {
        if is_life(reason) && !beside {
            self.checks.on_life(self.awake(), self.open_links());
        }
        book(self);
        if !beside {
            self.checks.network.on_silence(n, reason);
        }
    }

    /// Whoever is told when to come back is judged by it.
    fn note_retry_after(&mut self, serial: u64, reason: CloseReason) {
        if let Some(Link { far: Far::Relay(n), .. }) = self.links.get(&serial) {
            self.note_retry_after_of(*n, reason);
        }
    }

    fn note_retry_after_of(&mut self, n: usize, reason: CloseReason) {
        if let CloseReason::RetryAfter { retry, .. } = reason {
            let (at, wall) = (self.awake(), self.clock.wall());
            let wait = match retry {
                RetryAfter::Wait(wait) => wait.as_micros(),
                RetryAfter::At(then) => then.as_secs().saturating_sub(wall) * SECOND,
            };
            self.checks.health.entry(n).or_default().on_retry_after(at, wait);
        }
    }

    fn inquiry_fails_or_not(&mut self, n: usize, failed: bool, beside: bool) {
        let (at, open) = (self.awake(), self.open_links());
        self.checks.on_inquiry_end(at, n, failed, beside, open);
        if failed && !beside {
            self.relays[n].end_dial();
        }
    }

    fn known_relay(&self, url: &str) -> usize {
        let known = self.relays.iter().position(|r| r.url == url);
        known.unwrap_or_else(|| self.fail(&format!("dialled {url}, which no scenario put into the world")))
    }

    /// Links to relays that the process takes for open.
    fn open_links(&self) -> usize {
        let links = self.serials.values().filter_map(|s| self.links.get(s));
        links.filter(|l| matches!(l.far, Far::Relay(_)) && l.state == LinkState::Open).count()
    }

    /// Whom the process has links to.
    fn busy(&self) -> Vec<Far> {
        self.serials.values().filter_map(|s| self.links.get(s)).map(|l| l.far).collect()
    }

    pub(super) fn sent(&mut self, id: LinkId, text: String) {
        let Some(serial) = self.serial(id) else { return };
        let text: Rc<str> = text.into();
        let (at, wall, awake) = (self.clock.now(), self.clock.wall(), self.awake());
        let link = self.links.get_mut(&serial).expect("has a serial");
        self.trace.told(at, &link.name, &text);
        link.waiting_bytes += text.len();
        let verdict = match link.far {
            Far::Relay(n) => {
                if text.starts_with("[\"REQ\"") {
                    self.checks.pace.on_req(n);
                }
                self.checks.links.entry(serial).or_default().on_send(awake, wall, &text)
            }
            Far::Client(n) if link.waiting_bytes > LINK_OUT_BYTES_MAX => {
                Err(format!("{} bytes wait for client {n}", link.waiting_bytes))
            }
            Far::Client(_) => self.checks.on_client_send(wall, &text),
        };
        let overflows = link.waiting_bytes > LINK_OUT_BYTES_MAX;
        let owed = std::mem::replace(&mut link.drain_owed, true);
        let drained_at = link.slow_until.max(at);
        self.demand(verdict);
        if overflows {
            return self.enqueue(at, Happening::In(serial, Frame::Closed(CloseReason::OutBufferFull)));
        }
        self.send_out(serial, Frame::Text(text));
        if !owed {
            self.enqueue(drained_at, Happening::In(serial, Frame::Drained));
        }
    }

    pub(super) fn closed(&mut self, link: LinkId, code: u16) {
        let Some(serial) = self.serial(link) else { return };
        let Link { far, name, state, .. } = &self.links[&serial];
        let (far, state, what) = (*far, *state, format!("{name} is closed with {code}"));
        self.trace.say(self.clock.now(), what);
        let unneeded = matches!(far, Far::Relay(n) if !self.checks.needs(&self.relays[n].url));
        self.send_out(serial, Frame::Closed(CloseReason::Peer(code)));
        // Nothing came in time; or the process has had enough of it.
        let reason = if code == GONE { CloseReason::Timeout } else { CloseReason::Io };
        match (far, state) {
            (Far::Relay(n), LinkState::Inquiring { beside }) => {
                self.ids.remove(&serial);
                self.serials.remove(&link);
                self.dial_ends(n, reason, beside, |w| w.inquiry_fails_or_not(n, true, beside));
            }
            (Far::Relay(n), _) => self.dial_ends(n, reason, false, |w| w.end_link(serial, unneeded)),
            (Far::Client(_), _) => self.end_link(serial, unneeded),
        }
        if let Far::Relay(n) = far
            && code == UNNEEDED
        {
            self.checks.on_forgotten(n, unneeded);
        }
    }

    pub(super) fn add_link(&mut self, far: Far) -> u64 {
        self.happenings += 1;
        let (name, path): (Rc<str>, Path) = match far {
            Far::Relay(n) => (self.relays[n].url.as_str().into(), self.paths.get(&n).copied().unwrap_or(self.path)),
            Far::Client(n) => (format!("client {n}").into(), self.path),
        };
        self.links.insert(self.happenings, Link::new(far, name, path));
        self.happenings
    }

    pub(super) fn name_link(&mut self, serial: u64, id: LinkId) {
        if self.serials.insert(id, serial).is_some() {
            self.fail(&format!("{id:?} was used twice"));
        }
        self.ids.insert(serial, id);
    }

    pub(super) fn send_in(&mut self, serial: u64, frame: Frame) {
        let (now, draw) = (self.clock.now(), self.rng.next_u64());
        if let Some(link) = self.links.get_mut(&serial) {
            let at = link.arrives_in(now, draw);
            self.enqueue(at, Happening::In(serial, frame));
        }
    }

    pub(super) fn send_out(&mut self, serial: u64, frame: Frame) {
        let (now, draw) = (self.clock.now(), self.rng.next_u64());
        if let Some(link) = self.links.get_mut(&serial) {
            let at = link.arrives_out(now, draw);
            self.enqueue(at, Happening::Out(serial, frame));
        }
    }

    pub(super) fn enqueue(&mut self, at: Micros, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((at, self.happenings), happening);
    }
}
