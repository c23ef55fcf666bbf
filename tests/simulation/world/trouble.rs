//! What goes wrong between the process and the rest: links that are cut, go silent, stall or are read too slowly, relays
//! that cannot be reached, a machine that is suspended.

use super::{Frame, Happening, World};
use crate::clock::Micros;
use crate::link::Far;
use grasp_sync::engine::{CloseReason, LinkId};

impl World {
    fn serials_to(&self, relay: &str) -> Vec<u64> {
        let n = self.relay_number(relay);
        self.links.iter().filter(|(_, l)| l.far == Far::Relay(n)).map(|(serial, _)| *serial).collect()
    }

    /// Every link to the relay breaks at some byte: of what is under way, a prefix still arrives in each direction.
    pub fn cut_links(&mut self, relay: &str) {
        self.say(&format!("links to {relay} are cut"));
        for serial in self.serials_to(relay) {
            let kept_out = self.keep_prefix(serial, false);
            let kept_in = self.keep_prefix(serial, true);
            self.say(&format!("{kept_out} messages still arrive there, {kept_in} here"));
            self.send_in(serial, Frame::Closed(CloseReason::Peer(1006)));
        }
    }

    /// Forgets all but a drawn number of the messages under way on a link, the first ones.
    fn keep_prefix(&mut self, serial: u64, inwards: bool) -> u64 {
        let on_link = |happening: &Happening| match happening {
            Happening::In(s, _) => *s == serial && inwards,
            Happening::Out(s, _) => *s == serial && !inwards,
            Happening::Far(..) | Happening::Proxy(_) => false,
        };
        let keys: Vec<(Micros, u64)> = self.queue.iter().filter(|(_, h)| on_link(h)).map(|(key, _)| *key).collect();
        let kept = self.rng.below(keys.len() as u64 + 1);
        for key in &keys[kept as usize..] {
            self.queue.remove(key);
        }
        kept
    }

    /// A bug: the machine of a relay that has a link panics when it has acted so many times more.
    pub fn fail_relay(&mut self, relay: &str, times: u32) {
        let n = self.relay_number(relay);
        let id = self.ids.iter().find(|(serial, _)| self.links.get(serial).is_some_and(|l| l.far == Far::Relay(n)));
        let id = *id.unwrap_or_else(|| self.fail(&format!("no link to {relay}"))).1;
        self.fail_machine(id, times);
    }

    /// A bug: what the own relay does for a client panics when it has acted so many times more.
    pub fn fail_client(&mut self, client: usize, times: u32) {
        let id = self.ids[&self.clients[client].0];
        self.fail_machine(id, times);
    }

    fn fail_machine(&mut self, id: LinkId, times: u32) {
        self.say(&format!("a fault is to come on {id:?} after {times}"));
        self.process.as_ref().expect("a process runs").inject_fault(id, times);
        self.faults_to_come += 1;
    }

    /// Nothing arrives on the relay's links for a while, in neither direction; then everything does.
    pub fn stall_links(&mut self, relay: &str, time: Micros) {
        self.say(&format!("links to {relay} stall"));
        let until = self.clock.now() + time;
        for serial in self.serials_to(relay) {
            if let Some(link) = self.links.get_mut(&serial) {
                link.stalled_until = until;
            }
        }
    }

    /// The process's own network goes down: dials end for this reason from now on, and links go silent, or break if
    /// `breaks`.
    pub fn cut_network(&mut self, dials: CloseReason, breaks: bool) {
        self.say(&format!("the network is down: dials end with {dials:?}"));
        self.cut = Some(dials);
        let ours = self.links.iter().filter(|(_, l)| matches!(l.far, Far::Relay(_))).map(|(serial, _)| *serial);
        for serial in ours.collect::<Vec<_>>() {
            match self.links.get_mut(&serial) {
                Some(link) if breaks => {
                    link.stalled_until = 0;
                    self.send_in(serial, Frame::Closed(CloseReason::Io));
                }
                Some(link) => link.silent = true,
                None => {}
            }
        }
    }

    /// The network is back. Links that went silent stay so.
    pub fn restore_network(&mut self) {
        self.say("the network is back");
        self.cut = None;
    }

    /// The relay reads nothing for a while.
    pub fn slow_relay(&mut self, relay: &str, time: Micros) {
        self.say(&format!("{relay} does not read"));
        let until = self.clock.now() + time;
        for serial in self.serials_to(relay) {
            if let Some(link) = self.links.get_mut(&serial) {
                link.slow_until = until;
            }
        }
    }

    /// The client reads nothing for a while.
    pub fn slow_client(&mut self, client: usize, time: Micros) {
        self.say(&format!("client {client} does not read"));
        let until = self.clock.now() + time;
        if let Some(link) = self.links.get_mut(&self.clients[client].0) {
            link.slow_until = until;
        }
    }

    /// Somebody sets the wall clock, forwards or back, though never to before 1990.
    pub fn set_wall(&mut self, secs: i64) {
        let secs = secs.max(650_000_000 - self.clock.wall() as i64);
        self.say(&format!("the wall clock moves by {secs} s"));
        self.clock.jump_wall(secs);
    }

    /// The machine sleeps: relays go on, the wall clock too, and what reaches the process waits for it. `stands_still`:
    /// its monotonic clock does not count the time.
    pub fn suspend(&mut self, time: Micros, stands_still: bool) {
        self.say(if stands_still { "the machine is suspended, its clock too" } else { "the machine is suspended" });
        let end = self.clock.now() + time;
        let fell_asleep = self.awake();
        while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 < end) {
            let ((at, origin), happening) = first.remove_entry();
            match happening {
                Happening::In(..) => _ = self.queue.insert((end, origin), happening),
                Happening::Out(..) | Happening::Far(..) | Happening::Proxy(_) => {
                    self.clock.advance_to(at.max(self.clock.now()));
                    self.happen(happening);
                }
            }
        }
        self.clock.advance_to(end.max(self.clock.now()));
        if stands_still {
            self.asleep += time;
        } else {
            self.checks.machine.on_sleep(fell_asleep, time);
        }
        self.clock.on_sleep(time);
        self.say("the machine goes on");
    }
}
