//! What our own network's coming and going means to the relays (spec section 7); `sync::network` decides which it is.

use log::{info, warn};

use super::Engine;
use crate::store::StoreError;
use crate::sync::Cx;
use crate::sync::network::Probe;
use crate::sync::relay::Relay;
use crate::time::{Duration, Now};

impl Engine {
    /// A relay has acted: its links and dials may have shown that our own network is down, or back.
    pub(super) fn follow_network(&mut self, now: Now, key: usize) {
        if let Some(outage) = self.network.take_return() {
            self.on_return(now, key, outage);
        }
        if !self.network.is_suspicious() || self.stopping {
            return;
        }
        let count = |what: fn(&Relay) -> bool| self.relays.iter().filter(|(_, entry)| what(&entry.relay)).count();
        let (links, dials) = (count(|relay| relay.session().is_some()), count(Relay::is_dialling));
        if self.network.judge(now, links, dials) {
            self.on_outage(now);
        }
    }

    /// Every relay without a link waits, and nothing of this is charged to it.
    fn on_outage(&mut self, now: Now) {
        warn!("offline: none of {} relays can be reached", self.relays.len());
        for key in self.keys.values().copied().collect::<Vec<_>>() {
            let deadline = self.alone(now, key, |relays, _, _, _, cx| {
                let relay = &mut relays[key].relay;
                relay.on_outage(cx);
                relay.next_deadline(cx)
            });
            if let Some(deadline) = deadline {
                self.arm(key, deadline);
            }
        }
    }

    /// The relay `key` was reached: all others are dialled, each in its turn.
    fn on_return(&mut self, now: Now, key: usize, outage: Duration) {
        info!("online again after {} s: {} was reached", outage.as_secs(), self.relays[key].relay.url());
        self.wake_relays(now, Some(key), |relay, cx| relay.on_return(outage, cx));
    }

    /// Every relay but one learns that relays may be dialled again.
    pub(super) fn wake_relays(&mut self, now: Now, but: Option<usize>, wake: impl Fn(&mut Relay, &Cx<'_>)) {
        for other in self.keys.values().copied().filter(|other| Some(*other) != but).collect::<Vec<_>>() {
            let deadline = self.alone(now, other, |relays, _, _, _, cx| {
                let relay = &mut relays[other].relay;
                wake(relay, cx);
                relay.next_deadline(cx)
            });
            if let Some(deadline) = deadline {
                self.arm(other, deadline);
            }
        }
    }

    /// Dials one relay to see whether our own network still is down, if it is time for that: the one that was dialled
    /// least lately.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn probe_if_due(&mut self, now: Now) -> Result<(), StoreError> {
        let dials = self.relays.iter().filter(|(_, entry)| entry.relay.is_dialling()).count();
        let Some(probe) = self.network.take_probe(now, dials) else { return Ok(()) };
        let can = self.keys.values().copied().filter(|key| self.relays[*key].relay.can_be_probed());
        let next = can.min_by_key(|key| {
            let health = self.relays[*key].relay.health();
            (health.is_healthy() != (probe == Probe::Trusted), health.dialled_at())
        });
        let Some(key) = next else { return Ok(()) };
        self.metrics.offline_probes += 1;
        self.drive(now, key, |relay, cx| relay.probe(cx))
    }
}
