//! The wires of the world: what goes out of the process, over links, to models, and back.

use super::{Frame, Happening, World, brief};
use crate::checks::LinkCheck;
use crate::clock::MILLI;
use crate::clock::Micros;
use crate::link::{Far, Link, LinkState};
use crate::model_relay::{Act, Door, Mode, Reply};
use grasp_sync::engine::{CloseReason, Input, LinkId, Output};
use grasp_sync::limits::MESSAGE_BYTES_MAX;

impl World {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Out(serial, frame) => self.reach_far(serial, frame),
            Happening::In(serial, frame) => self.reach_process(serial, frame),
            Happening::Far(serial, act) => self.act(serial, act),
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
            (_, Frame::Opened | Frame::Drained) => unreachable!("never sent outwards"),
        }
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
            Act::Say(text) if text.len() > MESSAGE_BYTES_MAX => {
                self.relays[n].close(serial);
                self.send_in(serial, Frame::Closed(CloseReason::TooLarge));
            }
            Act::Say(text) => self.send_in(serial, Frame::Text(text)),
            Act::Ping => {
                self.send_in(serial, Frame::Beat);
                let next = self.relays[n].on_pinged(serial);
                self.carry_out(next.into_iter().collect());
            }
            Act::Close(code) => {
                self.relays[n].close(serial);
                self.send_in(serial, Frame::Closed(CloseReason::Peer(code)));
            }
            Act::Look => {
                let replies = self.relays[n].on_look(self.clock.now(), serial);
                self.carry_out(replies);
            }
        }
    }

    pub(super) fn reach_process(&mut self, serial: u64, frame: Frame) {
        let Some(&link) = self.ids.get(&serial) else { return };
        let at = self.clock.now();
        let Some(state) = self.links.get_mut(&serial).filter(|l| !l.silent) else { return };
        match frame {
            Frame::Opened => {
                state.state = LinkState::Open;
                let far = state.far;
                self.say(&format!("{} opened", self.far_name(serial)));
                if let Far::Relay(n) = far {
                    let replies = self.relays[n].open(at, serial);
                    self.carry_out(replies);
                    self.checks.links.entry(serial).or_default().opened(at);
                }
                self.feed(if let Far::Relay(_) = far { Input::Opened { link } } else { Input::Accepted { link } });
            }
            Frame::Text(text) => {
                self.say(&format!("{} says {}", self.far_name(serial), brief(&text)));
                if let LinkId::Relay(_) = link {
                    self.checks.links.entry(serial).or_default().on_received(at, &text);
                }
                if text.contains("\"kind\":30617") || text.contains("\"kind\":5,") {
                    self.note_needed();
                }
                self.feed(Input::Text { link, text: &text });
            }
            Frame::Beat => self.feed(Input::Alive { link }),
            Frame::Drained => {
                state.drain_owed = false;
                self.feed(Input::Drained { link });
            }
            Frame::Closed(reason) => {
                self.say(&format!("{} is gone: {reason:?}", self.far_name(serial)));
                self.end_link(serial, false);
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
            if unneeded {
                self.checks.health.remove(n);
            } else {
                let at = self.clock.now();
                self.checks.health.entry(*n).or_default().on_end(at, check.stable(at));
            }
        }
    }

    /// Gives the process one input and carries out what it wants.
    pub(super) fn feed(&mut self, input: Input<'_>) {
        let now = self.now();
        match self.process.as_mut().map(|process| process.handle(now, input)) {
            Some(Ok(())) => self.drain(),
            Some(Err(error)) => self.process_ends(error),
            None => {}
        }
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.process.as_mut().and_then(|p| p.poll_output()) {
            self.outputs += 1;
            self.trace.hash(self.clock.now(), &format!("{output:?}"));
            match output {
                Output::Dial { link, url } => self.dial(link, url.as_str()),
                Output::Send { link, text } => self.sent(link, text),
                Output::Ping { link } => {
                    if let Some(serial) = self.serial(link) {
                        self.send_out(serial, Frame::Beat);
                    }
                }
                Output::Close { link, code } => self.closed(link, code),
            }
        }
    }

    pub(super) fn serial(&self, link: LinkId) -> Option<u64> {
        let serial = self.serials.get(&link).copied();
        if serial.is_none() {
            self.fail(&format!("an output for {link:?}, which is not there"));
        }
        serial
    }

    pub(super) fn dial(&mut self, link: LinkId, url: &str) {
        self.say(&format!("dial {url}"));
        let Some(n) = self.relays.iter().position(|r| r.url == url) else {
            self.fail(&format!("dialled {url}, which no scenario put into the world"));
        };
        let at = self.clock.now();
        let busy: Vec<Far> = self.serials.values().filter_map(|s| self.links.get(s)).map(|l| l.far).collect();
        let bootstrap = self.settings.bootstrap.iter().any(|b| b.as_str() == url);
        self.note_needed();
        let verdict = self.checks.on_dial(at, n, url, bootstrap, &busy);
        self.demand(verdict);
        let serial = self.add_link(Far::Relay(n));
        self.name_link(serial, link);
        self.checks.links.insert(serial, LinkCheck::default());
        match self.relays[n].on_dial(at) {
            Door::Status(status) => self.send_in(serial, Frame::Closed(CloseReason::Handshake(status))),
            Door::Mode(Mode::Up) => self.send_in(serial, Frame::Opened),
            Door::Mode(Mode::Refuses) => self.send_in(serial, Frame::Closed(CloseReason::Connect)),
            Door::Mode(Mode::HangsUp) => {
                self.send_in(serial, Frame::Opened);
                self.send_in(serial, Frame::Closed(CloseReason::Peer(1000)));
            }
            Door::Mode(Mode::BlackHole) => {
                let late = at + self.settings.timing.connect_timeout.as_micros() + MILLI;
                self.enqueue(late, Happening::In(serial, Frame::Closed(CloseReason::Timeout)));
            }
        }
    }

    pub(super) fn sent(&mut self, link: LinkId, text: String) {
        let Some(serial) = self.serial(link) else { return };
        self.say(&format!("{} gets {}", self.far_name(serial), brief(&text)));
        let (at, wall) = (self.clock.now(), self.clock.wall());
        let verdict = match link {
            LinkId::Relay(_) => self.checks.links.entry(serial).or_default().on_send(at, wall, &text),
            LinkId::Client(_) => {
                let shows = text.starts_with("[\"OK\"") || text.starts_with("[\"EVENT\"");
                if shows {
                    self.refresh_durable().and_then(|()| self.checks.on_client_send(&self.durable.1, &text))
                } else {
                    Ok(())
                }
            }
        };
        self.demand(verdict);
        self.send_out(serial, Frame::Text(text));
        let link = self.links.get_mut(&serial).expect("has a serial");
        if !link.drain_owed {
            link.drain_owed = true;
            self.enqueue(at, Happening::In(serial, Frame::Drained));
        }
    }

    pub(super) fn closed(&mut self, link: LinkId, code: u16) {
        let Some(serial) = self.serial(link) else { return };
        self.say(&format!("{} is closed with {code}", self.far_name(serial)));
        let far = self.links[&serial].far;
        let mut unneeded = false;
        if let Far::Relay(n) = far {
            let verdict = self.refresh_durable();
            self.demand(verdict);
            let url = &self.relays[n].url;
            let needed = self.durable.1.needed_relays().contains(url);
            let bootstrap = self.settings.bootstrap.iter().any(|b| b.as_str() == url);
            unneeded = !needed && !bootstrap;
        }
        // A bootstrap relay may lose its link, but never its place.
        let status = self.status();
        for bootstrap in &self.settings.bootstrap {
            let mut listed = status["relays"].as_array().into_iter().flatten().map(|r| &r["url"]);
            if !listed.any(|url| *url == *bootstrap.as_str()) {
                self.fail(&format!("the bootstrap relay {bootstrap} was dropped"));
            }
        }
        self.send_out(serial, Frame::Closed(CloseReason::Peer(code)));
        self.end_link(serial, unneeded);
    }

    pub(super) fn add_link(&mut self, far: Far) -> u64 {
        self.happenings += 1;
        self.links.insert(self.happenings, Link::new(far, self.path));
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
