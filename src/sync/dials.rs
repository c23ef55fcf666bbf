//! Whose turn it is to be dialled (spec section 16, "Places").
//!
//! Like a switchboard with one operator: callers wait in a row, she puts one call through at a time, and no number is rung
//! again before a second has passed, however many ask for it and under whatever name. Who has been spoken with before
//! does not wait behind a crowd of strangers: while both wait, one of each is put through in turn.
//!
//! What is asked over HTTP counts as a dial. When a host was last dialled outlives the relay: whoever is forgotten and
//! listed again waits all the same.
//!
//! This module knows URLs and times. Whether a relay may be dialled at all, its machine decides.

use std::collections::{BTreeMap, VecDeque};

use crate::limits::{DIALS_PER_SEC, HOST_DIAL_PERIOD};
use crate::protocol::relay_url::{HostAndPort, RelayUrl};
use crate::time::{Duration, Instant};

/// Who wants to be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A relay that was reached before and stands well, or goes on with what it has begun.
    Known,
    /// Any other.
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    number: u64,
    caller: Caller,
    /// Its host is not dialled before this, as far as was known when that was last looked at.
    held_until: Instant,
}

/// The row of those who wait, and the rates.
#[derive(Debug, Default)]
pub struct Dials {
    /// Whether hosts at private addresses may be dialled as often as anybody likes.
    private_exempt: bool,
    /// When the next dial of all may begin.
    next_at: Instant,
    /// When each host that was dialled of late may be dialled again.
    hosts: BTreeMap<HostAndPort, Instant>,
    /// The same, soonest first: no more than [`DIALS_PER_SEC`] times [`HOST_DIAL_PERIOD`].
    by_end: VecDeque<(Instant, HostAndPort)>,
    /// Those who wait; no more than relays are followed.
    tickets: BTreeMap<RelayUrl, Ticket>,
    /// Of these, whose host may be dialled, first come first.
    known: BTreeMap<u64, RelayUrl>,
    strangers: BTreeMap<u64, RelayUrl>,
    /// And those whose host may not be dialled yet.
    held: BTreeMap<(Instant, u64), RelayUrl>,
    /// Who was put through last, while both waited.
    last: Option<Caller>,
    numbers: u64,
}

impl Dials {
    /// Nobody waits. `private_exempt`: [`crate::limits::Limits::private_relays_exempt`].
    pub fn new(private_exempt: bool) -> Dials {
        Dials { private_exempt, ..Dials::default() }
    }

    /// A relay wants to be dialled. True if it may be at once; else it waits until [`Dials::next`] names it.
    pub fn ask(&mut self, now: Instant, relay: &RelayUrl, caller: Caller) -> bool {
        if self.tickets.contains_key(relay) {
            return false;
        }
        self.release(now);
        let held_until = self.free_at(relay);
        if self.next_at <= now && held_until <= now && self.known.is_empty() && self.strangers.is_empty() {
            self.note(now, relay);
            return true;
        }
        self.numbers += 1;
        let ticket = Ticket { number: self.numbers, caller, held_until };
        self.tickets.insert(relay.clone(), ticket);
        self.put(now, relay.clone(), ticket);
        false
    }

    /// Whether a relay waits.
    pub fn is_waiting(&self, relay: &RelayUrl) -> bool {
        self.tickets.contains_key(relay)
    }

    /// How many do.
    pub fn waiting(&self) -> usize {
        self.tickets.len()
    }

    /// A relay wants it no more.
    pub fn withdraw(&mut self, relay: &RelayUrl) {
        let Some(ticket) = self.tickets.remove(relay) else { return };
        self.known.remove(&ticket.number);
        self.strangers.remove(&ticket.number);
        self.held.remove(&(ticket.held_until, ticket.number));
    }

    /// A relay is dialled, whether it has waited or not.
    pub fn note(&mut self, now: Instant, relay: &RelayUrl) {
        self.withdraw(relay);
        while self.by_end.front().is_some_and(|(end, _)| *end <= now) {
            let (end, host) = self.by_end.pop_front().expect("just looked at");
            if self.hosts.get(&host) == Some(&end) {
                self.hosts.remove(&host);
            }
        }
        // One less in a second, because a dial may come late by a turn of the loop and the next may not.
        self.next_at = now + Duration::from_micros(1_000_000 / (DIALS_PER_SEC - 1));
        let free_at = now + HOST_DIAL_PERIOD;
        self.hosts.insert(relay.host_and_port(), free_at);
        self.by_end.push_back((free_at, relay.host_and_port()));
    }

    /// The relay that may be dialled now, if one may.
    pub fn next(&mut self, now: Instant) -> Option<RelayUrl> {
        if self.tickets.is_empty() || self.next_at > now {
            return None;
        }
        self.release(now);
        loop {
            let caller = match (self.known.is_empty(), self.strangers.is_empty()) {
                (true, true) => return None,
                (false, true) => Caller::Known,
                (true, false) => Caller::Stranger,
                (false, false) if self.last == Some(Caller::Known) => Caller::Stranger,
                (false, false) => Caller::Known,
            };
            let (_, relay) = self.row(caller).pop_first().expect("somebody waits there");
            let ticket = self.tickets[&relay];
            let held_until = self.free_at(&relay);
            if held_until <= now {
                self.last = Some(caller);
                self.note(now, &relay);
                return Some(relay);
            }
            let ticket = Ticket { held_until, ..ticket };
            self.tickets.insert(relay.clone(), ticket);
            self.put(now, relay, ticket);
        }
    }

    /// When [`Dials::next`] may name somebody.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.known.is_empty() || !self.strangers.is_empty() {
            return Some(self.next_at);
        }
        self.held.first_key_value().map(|((held_until, _), _)| self.next_at.max(*held_until))
    }

    /// Panics if the views of the row contradict each other. For tests and fuzz targets.
    pub fn assert_invariants(&self) {
        assert_eq!(self.tickets.len(), self.known.len() + self.strangers.len() + self.held.len(), "each waits once");
        assert!(self.hosts.len() <= self.by_end.len(), "each host has an end");
    }

    fn row(&mut self, caller: Caller) -> &mut BTreeMap<u64, RelayUrl> {
        match caller {
            Caller::Known => &mut self.known,
            Caller::Stranger => &mut self.strangers,
        }
    }

    fn put(&mut self, now: Instant, relay: RelayUrl, ticket: Ticket) {
        match ticket.held_until > now {
            true => self.held.insert((ticket.held_until, ticket.number), relay),
            false => self.row(ticket.caller).insert(ticket.number, relay),
        };
    }

    /// Those whose host was held join their row, where they came.
    fn release(&mut self, now: Instant) {
        while let Some(entry) = self.held.first_entry().filter(|entry| entry.key().0 <= now) {
            let relay = entry.remove();
            let ticket = self.tickets[&relay];
            self.put(now, relay, ticket);
        }
    }

    fn free_at(&self, relay: &RelayUrl) -> Instant {
        if self.private_exempt && relay.is_at_private_address() {
            return Instant::ZERO;
        }
        self.hosts.get(&relay.host_and_port()).copied().unwrap_or(Instant::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::relay;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn url(text: &str) -> RelayUrl {
        RelayUrl::parse(text).unwrap()
    }

    /// Who is named in each millisecond up to `until`.
    fn named(dials: &mut Dials, from: u64, until: u64) -> Vec<(u64, String)> {
        let mut named = Vec::new();
        for millis in from..until {
            while let Some(relay) = dials.next(at(millis)) {
                named.push((millis, relay.to_string()));
            }
            dials.assert_invariants();
            let due = dials.next_deadline();
            assert!(due.is_none_or(|due| due > at(millis)), "it would be busy at {millis}");
        }
        named
    }

    #[test]
    fn whoever_asks_first_is_dialled_at_once_and_fifty_a_second_after() {
        let mut dials = Dials::default();
        assert!(dials.ask(at(0), &relay("a"), Caller::Stranger));
        for n in 0..200 {
            assert!(!dials.ask(at(0), &relay(&format!("r{n}")), Caller::Stranger));
        }
        assert_eq!((dials.waiting(), dials.is_waiting(&relay("r7"))), (200, true));
        let named = named(&mut dials, 0, 10_000);
        assert_eq!(named.len(), 200);
        assert!(named[0].1.contains("r0.") && named[199].1.contains("r199."), "first come first");
        let most = (0..5_000).map(|from| named.iter().filter(|(m, _)| (from..from + 1_000).contains(m)).count()).max();
        assert!(most.is_some_and(|most| (45..50).contains(&most)), "{most:?}: and one may come late");
        assert_eq!((dials.waiting(), dials.next_deadline()), (0, None));
    }

    #[test]
    fn a_host_and_port_is_dialled_once_a_second_under_whatever_url() {
        let mut dials = Dials::default();
        assert!(dials.ask(at(0), &url("ws://victim.example:443/a"), Caller::Stranger));
        for path in ["wss://victim.example", "wss://victim.example/b", "wss://victim.example/c"] {
            assert!(!dials.ask(at(1), &url(path), Caller::Known));
        }
        assert!(dials.ask(at(500), &url("wss://victim.example:444"), Caller::Stranger), "another port");
        let times: Vec<u64> = named(&mut dials, 500, 20_000).into_iter().map(|(millis, _)| millis).collect();
        let period = HOST_DIAL_PERIOD.as_micros() / 1_000;
        assert_eq!(times, [period, 2 * period, 3 * period]);
    }

    #[test]
    fn private_addresses_are_exempt_if_the_operator_wants_it() {
        let period = HOST_DIAL_PERIOD.as_micros() / 1_000;
        for (exempt, named_at) in [(false, period), (true, 21)] {
            let mut dials = Dials::new(exempt);
            assert!(dials.ask(at(0), &url("ws://127.0.0.1:7777/a"), Caller::Stranger));
            assert!(!dials.ask(at(1), &url("ws://127.0.0.1:7777/b"), Caller::Stranger));
            assert_eq!(named(&mut dials, 1, 2_000), [(named_at, "ws://127.0.0.1:7777/b".to_owned())]);
        }
    }

    #[test]
    fn a_host_is_remembered_when_its_relay_is_forgotten() {
        let mut dials = Dials::default();
        assert!(dials.ask(at(0), &relay("a"), Caller::Stranger));
        dials.withdraw(&relay("a"));
        assert!(!dials.ask(at(900), &relay("a"), Caller::Stranger));
        dials.withdraw(&relay("a"));
        assert_eq!((dials.waiting(), dials.next_deadline()), (0, None), "it wants it no more");
        assert!(dials.ask(at(1_100), &relay("a"), Caller::Stranger));
    }

    #[test]
    fn a_host_that_may_not_be_dialled_yet_keeps_nobody_else_waiting() {
        let mut dials = Dials::default();
        assert!(dials.ask(at(0), &url("wss://a.example/1"), Caller::Stranger));
        assert!(!dials.ask(at(100), &url("wss://a.example/2"), Caller::Stranger));
        assert!(dials.ask(at(100), &relay("b"), Caller::Stranger));
    }

    #[test]
    fn who_is_known_does_not_wait_behind_strangers_nor_they_for_ever() {
        let mut dials = Dials::default();
        assert!(dials.ask(at(0), &relay("x"), Caller::Stranger));
        (0..100).for_each(|n| _ = dials.ask(at(0), &relay(&format!("s{n}")), Caller::Stranger));
        (0..3).for_each(|n| _ = dials.ask(at(0), &relay(&format!("k{n}")), Caller::Known));
        let order: Vec<String> =
            named(&mut dials, 0, 200).into_iter().map(|(_, relay)| relay[6..8].to_owned()).collect();
        assert_eq!(order[..6], ["k0", "s0", "k1", "s1", "k2", "s2"]);
    }

    #[test]
    fn little_is_remembered() {
        let mut dials = Dials::default();
        for n in 0..10_000 {
            dials.note(at(n * 20), &relay(&format!("r{n}")));
        }
        assert!(dials.hosts.len() < 60 && dials.by_end.len() < 60);
    }
}
