//! When the process may believe that its own network is down (spec section 7), and how often it may try then. From outside:
//! who was heard, and whose dials ended in what way.

use super::Verdict;
use crate::clock::{Micros, SECOND};
use grasp_sync::engine::CloseReason;
use std::collections::BTreeSet;

#[derive(Default)]
pub struct NetworkCheck {
    /// Relays that were silent since anybody was heard.
    silent: BTreeSet<usize>,
    /// Since then a dial has failed on this side of the network.
    ours: bool,
    /// How often anybody was heard.
    pub lives: u64,
    probes: u32,
    probed_at: Option<Micros>,
}

impl NetworkCheck {
    /// Whether the process may be offline, with so many links open.
    pub fn may_be_offline(&self, open: usize) -> bool {
        open == 0 && (self.ours || self.silent.len() >= 3)
    }

    /// Somebody was heard.
    pub fn on_life(&mut self) {
        *self = NetworkCheck { lives: self.lives + 1, ..NetworkCheck::default() };
    }

    /// A dial of relay `n` has ended without a word from it, or its link for want of one.
    pub fn on_silence(&mut self, n: usize, reason: CloseReason) {
        match reason {
            CloseReason::NoRoute | CloseReason::NoNameServer => self.ours = true,
            CloseReason::Timeout | CloseReason::NameServersFailed => _ = self.silent.insert(n),
            _ => {}
        }
    }

    /// Judges a dial that only a probe can be.
    pub fn on_probe(&mut self, at: Micros) -> Verdict {
        // Every ninth lies half way between two others.
        let least = ((5 * SECOND) << self.probes.saturating_sub(1).min(8)).min(60 * SECOND) / 2;
        if let Some(before) = self.probed_at.filter(|before| at < before + least) {
            return Err(format!("offline, and a second probe {} ms after the last", (at - before) / 1_000));
        }
        self.probes += 1;
        self.probed_at = Some(at);
        Ok(())
    }
}

/// Whether a dial or link that ended so has reached the other side.
pub fn is_life(reason: CloseReason) -> bool {
    use CloseReason::*;
    match reason {
        Connect | Tls | Handshake(_) | HeadTooLarge | RetryAfter { .. } | Redirect(_) | Protocol | TooLarge => true,
        Peer(code) => code != 1006,
        Resolve | NameServersFailed | NoNameServer | PrivateAddress | NoRoute | Timeout | MessageTimeout
        | OutBufferFull | Memory | Io | OwnAddress | AddressFull => false,
    }
}

#[test]
fn few_probes_are_right_and_many_are_not() {
    let mut network = NetworkCheck::default();
    [0, 1, 1].into_iter().for_each(|n| network.on_silence(n, CloseReason::Timeout));
    assert!(!network.may_be_offline(0), "two relays");
    network.on_silence(2, CloseReason::Timeout);
    assert!(network.may_be_offline(0) && !network.may_be_offline(1));
    let mut at = 0;
    for wait in [5, 10, 20, 40, 60, 60, 60, 30, 30, 60] {
        network.on_probe(at * SECOND).expect("as it should be");
        at += wait;
    }
    assert!(network.on_probe((at - 45) * SECOND).is_err());
    network.on_life();
    assert!(!network.may_be_offline(0));
    network.on_silence(0, CloseReason::NoRoute);
    assert!(network.may_be_offline(0));
}
