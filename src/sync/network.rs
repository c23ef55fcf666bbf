//! Whether our own network works (spec section 7): an outage of ours is not charged to the relays.
//!
//! Like somebody whose friends have all stopped answering the telephone: of one it says something of the friend; of all at
//! once it says something of the line. Then one number after the other is tried, ever more slowly, and the first voice, even
//! that of a stranger who hangs up, means that everybody can be called again.
//!
//! **The rule.** The process is offline when no link is open, and since the last sign of life from anybody
//!
//! - some dial has failed for a cause that is certainly ours (no route, no name server answers) and none is under way any
//!   more; or
//! - at least [`OUTAGE_HOSTS_MIN`] hosts have failed for that or by silence alone (time-outs, name servers that cannot say),
//!   and at least as many hosts as there are dials still under way.
//!
//! Each dial that reaches the other side is a sign of life, whatever comes of it: a refused port, a failed handshake, HTTP
//! 429. A name that does not exist is neither: a name server has answered, perhaps out of its own memory.
//!
//! This module knows causes and times. It does not know relays: the caller counts links and dials, chooses whom a probe
//! is for, and tells the relays what follows.

use std::collections::BTreeSet;

use crate::contract::CloseReason;
use crate::limits::{OUTAGE_HOSTS_MAX, OUTAGE_HOSTS_MIN, PROBE_WAIT_MAX, PROBE_WAIT_MIN, PROBES_PER_DOUBTFUL};
use crate::time::{Duration, Instant, Now, UnixTime};

/// What the end of a link, or of a dial, says of our own network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The other side was reached: our network works.
    Reached,
    /// The cause is ours.
    Ours,
    /// Nothing came: it may be either side's doing.
    Silence,
    /// Nothing.
    Nothing,
}

impl Evidence {
    /// What the end of a link, or of a dial, for this reason says.
    pub fn of(reason: CloseReason) -> Evidence {
        match reason {
            CloseReason::NoRoute | CloseReason::NoNameServer => Evidence::Ours,
            CloseReason::Timeout | CloseReason::NameServersFailed => Evidence::Silence,
            CloseReason::Connect
            | CloseReason::Tls
            | CloseReason::Handshake(_)
            | CloseReason::HeadTooLarge
            | CloseReason::RetryAfter { .. }
            | CloseReason::Redirect(_)
            | CloseReason::Protocol
            | CloseReason::TooLarge => Evidence::Reached,
            // A socket that just ends may be the doing of this side.
            CloseReason::Peer(1006)
            | CloseReason::Io
            | CloseReason::MessageTimeout
            | CloseReason::OutBufferFull
            | CloseReason::Memory
            | CloseReason::Resolve
            | CloseReason::PrivateAddress
            | CloseReason::OwnAddress
            | CloseReason::AddressFull => Evidence::Nothing,
            CloseReason::Peer(_) => Evidence::Reached,
        }
    }
}

/// Whom a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A relay that stood well when the outage began.
    Trusted,
    /// One that was failing.
    Doubtful,
}

#[derive(Debug)]
enum State {
    Online,
    Offline { probes: u64, wait: Duration, probe_at: Instant },
}

/// Our own network, as far as dials and links show it.
#[derive(Debug)]
pub struct Network {
    state: State,
    /// When the state began.
    since: UnixTime,
    /// The last sign of life from anybody.
    proven_at: Instant,
    /// Hosts that have given none since.
    suspects: BTreeSet<String>,
    /// One of them failed for a cause that is ours.
    certain: bool,
    /// How long an outage was that has just ended.
    returned: Option<Duration>,
    /// Nobody is to be dialled: what would come could not be kept.
    paused: bool,
}

impl Network {
    /// A network that is taken to work until dials show otherwise.
    pub fn new(now: Now) -> Network {
        Network {
            state: State::Online,
            since: now.wall,
            proven_at: now.mono,
            suspects: BTreeSet::new(),
            certain: false,
            returned: None,
            paused: false,
        }
    }

    /// Nobody is dialled from now on, or again.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether nobody is dialled, but for probes: nothing can be reached, or nothing could be kept.
    pub fn rests(&self) -> bool {
        self.paused || self.is_offline()
    }

    /// Whether nothing can be reached.
    pub fn is_offline(&self) -> bool {
        matches!(self.state, State::Offline { .. })
    }

    /// When that began, or the network came back.
    pub fn since(&self) -> UnixTime {
        self.since
    }

    /// The last sign of life from anybody: what has failed since may be our own fault.
    pub fn proven_at(&self) -> Instant {
        self.proven_at
    }

    /// Somebody was reached.
    pub fn on_reached(&mut self, now: Now) {
        if self.is_offline() {
            self.state = State::Online;
            self.since = now.wall;
            self.returned = Some(now.mono.since(self.proven_at));
        }
        self.proven_at = now.mono;
        self.suspects.clear();
        self.certain = false;
    }

    /// A dial of `host` or a link to it has ended, and this is what that says.
    pub fn on_end(&mut self, now: Now, host: &str, evidence: Evidence) {
        match evidence {
            Evidence::Reached => self.on_reached(now),
            Evidence::Nothing => {}
            Evidence::Ours | Evidence::Silence => {
                self.certain |= evidence == Evidence::Ours;
                if self.suspects.len() < OUTAGE_HOSTS_MAX && !self.suspects.contains(host) {
                    self.suspects.insert(host.to_owned());
                }
            }
        }
    }

    /// Whether there may be an outage that is not known yet: if so, the caller counts its links and dials.
    pub fn is_suspicious(&self) -> bool {
        !self.rests() && (self.certain || self.suspects.len() >= OUTAGE_HOSTS_MIN)
    }

    /// With so many links open and dials under way: begins an outage if this is one. Says whether it is.
    pub fn judge(&mut self, now: Now, links: usize, dials: usize) -> bool {
        let many = self.suspects.len() >= OUTAGE_HOSTS_MIN && self.suspects.len() >= dials;
        let begins = !self.is_offline() && links == 0 && (many || self.certain && dials == 0);
        if begins {
            self.state = State::Offline { probes: 0, wait: PROBE_WAIT_MIN, probe_at: now.mono + PROBE_WAIT_MIN };
            self.since = now.wall;
        }
        begins
    }

    /// How long an outage was that has just ended, until that is taken.
    pub fn returned(&self) -> Option<Duration> {
        self.returned
    }

    /// The same, once.
    pub fn take_return(&mut self) -> Option<Duration> {
        self.returned.take()
    }

    /// When the next probe is due.
    pub fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Offline { probe_at, .. } if !self.paused => Some(probe_at),
            State::Online | State::Offline { .. } => None,
        }
    }

    /// The probe that is due now, if one is. While a dial is under way there is none: that is a probe.
    pub fn take_probe(&mut self, now: Now, dials: usize) -> Option<Probe> {
        let State::Offline { probes, wait, probe_at } = &mut self.state else { return None };
        if self.paused || *probe_at > now.mono {
            return None;
        }
        if dials > 0 {
            *probe_at = now.mono + PROBE_WAIT_MIN;
            return None;
        }
        *probes += 1;
        *wait = wait.saturating_mul(2).min(PROBE_WAIT_MAX);
        // The probe of a doubtful relay lies between two others, which are no further apart for it.
        let place = *probes % (PROBES_PER_DOUBTFUL + 1);
        let beside = place == 0 || place == PROBES_PER_DOUBTFUL;
        *probe_at = now.mono + if beside { Duration::from_micros(wait.as_micros() / 2) } else { *wait };
        Some(if place == 0 { Probe::Doubtful } else { Probe::Trusted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000 + secs) }
    }

    fn fails(network: &mut Network, hosts: &[&str], evidence: Evidence) {
        hosts.iter().for_each(|host| network.on_end(at(10), host, evidence));
    }

    /// Whether hosts that have failed so make an outage, with so many links open and dials under way.
    fn judged(hosts: &[&str], evidence: Evidence, links: usize, dials: usize) -> bool {
        let mut network = Network::new(at(0));
        fails(&mut network, hosts, evidence);
        let begins = network.judge(at(10), links, dials);
        assert_eq!(begins, network.is_offline());
        assert!(!begins || network.since() == at(10).wall);
        begins
    }

    #[test]
    fn a_cause_of_ours_is_an_outage_once_no_dial_is_open() {
        assert!(judged(&["a"], Evidence::Ours, 0, 0));
        assert!(!judged(&["a"], Evidence::Ours, 0, 1), "that one may succeed");
        assert!(!judged(&["a"], Evidence::Ours, 1, 0), "a link is open");
        assert!(judged(&["a", "b", "c"], Evidence::Ours, 0, 3), "so many at once");
        assert!(!judged(&["a", "b", "c"], Evidence::Ours, 0, 4));
    }

    #[test]
    fn silence_is_an_outage_from_three_hosts_on() {
        assert!(!judged(&["a", "b", "a", "b"], Evidence::Silence, 0, 0), "two hosts");
        assert!(judged(&["a", "b", "c"], Evidence::Silence, 0, 3));
        assert!(!judged(&["a", "b", "c"], Evidence::Silence, 0, 4), "more may answer than have not");
        assert!(!judged(&["a", "b", "c"], Evidence::Silence, 1, 0), "a link is open");
        assert!(!judged(&["a", "b", "c"], Evidence::Nothing, 0, 0));
    }

    #[test]
    fn a_sign_of_life_clears_all_suspicion() {
        let mut network = Network::new(at(0));
        fails(&mut network, &["a", "b"], Evidence::Ours);
        assert!(network.is_suspicious());
        network.on_end(at(11), "x", Evidence::Reached);
        assert!(!network.is_suspicious());
        assert_eq!((network.proven_at(), network.take_return()), (at(11).mono, None));
        fails(&mut network, &["c"], Evidence::Silence);
        assert!(!network.judge(at(12), 0, 0));
    }

    #[test]
    fn what_reaches_the_other_side_is_told_from_what_does_not() {
        for reason in [CloseReason::Connect, CloseReason::Tls, CloseReason::Handshake(429), CloseReason::Peer(1001)] {
            assert_eq!(Evidence::of(reason), Evidence::Reached, "{reason:?}");
        }
        for reason in [CloseReason::NoRoute, CloseReason::NoNameServer] {
            assert_eq!(Evidence::of(reason), Evidence::Ours, "{reason:?}");
        }
        for reason in [CloseReason::Timeout, CloseReason::NameServersFailed] {
            assert_eq!(Evidence::of(reason), Evidence::Silence, "{reason:?}");
        }
        for reason in [CloseReason::Resolve, CloseReason::Peer(1006), CloseReason::Io, CloseReason::PrivateAddress] {
            assert_eq!(Evidence::of(reason), Evidence::Nothing, "{reason:?}");
        }
    }

    /// When probes are due after the outage began at ten seconds, and for whom.
    fn probes(network: &mut Network, times: usize) -> Vec<(u64, Probe)> {
        let one = |_| {
            let due = network.probe_at().expect("offline").as_micros() / 1_000_000;
            assert_eq!(network.take_probe(at(due - 1), 0), None);
            (due, network.take_probe(at(due), 0).expect("due"))
        };
        (0..times).map(one).collect()
    }

    #[test]
    fn probes_come_at_five_seconds_doubling_to_a_minute() {
        let mut network = Network::new(at(0));
        fails(&mut network, &["a"], Evidence::Ours);
        assert!(network.judge(at(10), 0, 0));
        let seen = probes(&mut network, 11);
        let times: Vec<u64> = seen.iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [15, 25, 45, 85, 145, 205, 265, 325, 355, 385, 445]);
        let doubtful: Vec<u64> = seen.iter().filter(|(_, of)| *of == Probe::Doubtful).map(|(time, _)| *time).collect();
        assert_eq!(doubtful, [355], "between two others, which are a minute apart");
    }

    #[test]
    fn one_probe_at_a_time() {
        let mut network = Network::new(at(0));
        fails(&mut network, &["a", "b", "c"], Evidence::Silence);
        assert!(network.judge(at(10), 0, 3));
        assert_eq!(network.take_probe(at(15), 3), None);
        assert_eq!(network.probe_at(), Some(at(20).mono));
        assert_eq!(network.take_probe(at(20), 0), Some(Probe::Trusted));
        assert_eq!(network.probe_at(), Some(at(30).mono), "the wait that was put off was none");
    }

    #[test]
    fn the_first_sign_of_life_ends_it_and_tells_how_long_it_was() {
        let mut network = Network::new(at(0));
        network.on_reached(at(2));
        fails(&mut network, &["a"], Evidence::Ours);
        assert!(network.judge(at(10), 0, 0));
        network.on_end(at(500), "a", Evidence::Ours);
        assert!(network.is_offline() && network.take_return().is_none());
        network.on_end(at(3_602), "a", Evidence::of(CloseReason::Connect));
        assert!(!network.is_offline());
        assert_eq!(network.since(), at(3_602).wall);
        assert_eq!(network.take_return(), Some(Duration::from_secs(3_600)), "since the last sign of life");
        assert_eq!((network.take_return(), network.probe_at()), (None, None));
    }

    #[test]
    fn hosts_beyond_the_bound_are_not_noted() {
        let mut network = Network::new(at(0));
        (0..2 * OUTAGE_HOSTS_MAX).for_each(|n| network.on_end(at(1), &n.to_string(), Evidence::Silence));
        assert_eq!(network.suspects.len(), OUTAGE_HOSTS_MAX);
    }
}
