//! Whether the other end of a link is still there (spec section 7): a ping after a time of silence, and the end of the
//! link after a time without any answer, so that a link that is up but silently dead is found within both together.
//!
//! And whether something between drops what is silent, as proxies do: two drops in a row after the same silence say so.
//! From then on the ping comes early enough to be what keeps the link.

use serde::{Deserialize, Serialize};

use crate::limits::{IDLE_PING_MIN, IDLE_SILENCE_MIN, IDLE_SILENCE_SLACK, Timing};
use crate::time::{Duration, Instant};

/// When a link was last heard, and last spoken on.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    heard_at: Instant,
    sent_at: Instant,
    pinged_at: Option<Instant>,
}

/// What silence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing yet.
    Fine,
    /// Send a ping.
    Ping,
    /// The peer is gone.
    Dead,
}

impl Liveness {
    /// A link that has just opened.
    pub fn new(now: Instant) -> Self {
        Liveness { heard_at: now, sent_at: now, pinged_at: None }
    }

    /// Any frame came.
    pub fn on_frame(&mut self, now: Instant) {
        *self = Liveness { heard_at: now, pinged_at: None, ..*self };
    }

    /// Any frame was sent.
    pub fn on_sent(&mut self, now: Instant) {
        self.sent_at = now;
    }

    /// For how long nothing has passed in either direction.
    pub fn silence(&self, now: Instant) -> Duration {
        now.since(self.heard_at.max(self.sent_at))
    }

    /// What is due now. `ping`: silence after which one is sent. A ping that is asked for counts as sent.
    pub fn poll(&mut self, now: Instant, ping: Duration, timing: &Timing) -> Silence {
        if now < self.deadline(ping, timing) {
            return Silence::Fine;
        }
        match self.pinged_at {
            Some(_) => Silence::Dead,
            None => {
                self.pinged_at = Some(now);
                Silence::Ping
            }
        }
    }

    /// When something is next due.
    pub fn deadline(&self, ping: Duration, timing: &Timing) -> Instant {
        match self.pinged_at {
            Some(pinged_at) => pinged_at + timing.pong_timeout,
            None => self.heard_at + ping,
        }
    }
}

/// After how much silence something on the way to one relay drops its links, as far as drops have shown it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdleDrops {
    /// The least such silence, in seconds. Never forgotten: what pings too often costs little.
    secs: Option<u64>,
    /// The silence before the last drop.
    #[serde(skip)]
    last: Option<Duration>,
}

impl IdleDrops {
    /// A link was dropped by the other side, or by something between, after so much silence. Says whether silence was why:
    /// it was dropped after as much before.
    pub fn on_drop(&mut self, silence: Duration) -> bool {
        let before = self.last.replace(silence);
        let known = self.secs.map(Duration::from_secs);
        let again = silence >= IDLE_SILENCE_MIN && [before, known].into_iter().flatten().any(|s| is_near(s, silence));
        if again {
            self.secs = Some(self.secs.map_or(silence.as_secs(), |secs| secs.min(silence.as_secs())));
        }
        again
    }

    /// Silence after which a link is pinged.
    pub fn ping_after(&self, timing: &Timing) -> Duration {
        let early = self.secs.map(|secs| Duration::from_millis(secs.saturating_mul(600)).max(IDLE_PING_MIN));
        early.map_or(timing.ping, |early| early.min(timing.ping))
    }

    /// The silence after which links are dropped, if that is known.
    pub fn secs(&self) -> Option<u64> {
        self.secs
    }
}

fn is_near(one: Duration, other: Duration) -> bool {
    let (less, more) = (one.min(other), one.max(other));
    let apart = more.as_micros() - less.as_micros();
    apart <= IDLE_SILENCE_SLACK.as_micros().max(more.as_micros() / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn a_silent_link_is_pinged_at_thirty_and_dead_at_sixty_seconds() {
        let timing = Timing::default();
        let mut liveness = Liveness::new(at(0));
        assert_eq!(liveness.poll(at(29), timing.ping, &timing), Silence::Fine);
        assert_eq!(liveness.poll(at(30), timing.ping, &timing), Silence::Ping);
        assert_eq!(liveness.poll(at(59), timing.ping, &timing), Silence::Fine);
        assert_eq!(liveness.poll(at(60), timing.ping, &timing), Silence::Dead);
    }

    #[test]
    fn any_frame_starts_over() {
        let timing = Timing::default();
        let mut liveness = Liveness::new(at(0));
        assert_eq!(liveness.poll(at(30), timing.ping, &timing), Silence::Ping);
        liveness.on_frame(at(31));
        assert_eq!(liveness.poll(at(60), timing.ping, &timing), Silence::Fine);
        assert_eq!(liveness.deadline(timing.ping, &timing), at(61));
    }

    #[test]
    fn silence_is_that_of_both_directions() {
        let mut liveness = Liveness::new(at(0));
        liveness.on_frame(at(10));
        assert_eq!(liveness.silence(at(15)).as_secs(), 5);
        liveness.on_sent(at(14));
        assert_eq!(liveness.silence(at(15)).as_secs(), 1);
        liveness.on_frame(at(15));
        assert_eq!(liveness.silence(at(20)).as_secs(), 5, "what we sent is no news any more");
    }

    /// Of links dropped after these silences, which were dropped for that; and when the next is pinged.
    fn dropped(silences: &[u64]) -> (Vec<bool>, u64) {
        let mut drops = IdleDrops::default();
        let seen = silences.iter().map(|secs| drops.on_drop(Duration::from_secs(*secs))).collect();
        (seen, drops.ping_after(&Timing::default()).as_secs())
    }

    #[test]
    fn two_drops_after_the_same_silence_are_an_idle_proxys() {
        assert_eq!(dropped(&[25]), (vec![false], 30));
        assert_eq!(dropped(&[25, 25]), (vec![false, true], 15));
        assert_eq!(dropped(&[25, 23, 25]), (vec![false, true, true], 13));
        assert_eq!(dropped(&[25, 21]), (vec![false, false], 30), "not the same");
        assert_eq!(dropped(&[25, 12, 25, 12]), (vec![false; 4], 30), "not in a row");
        assert_eq!(dropped(&[7, 7]), (vec![false, true], 5), "never more often");
        assert_eq!(dropped(&[5, 5, 5]), (vec![false; 3], 30), "too soon for a proxy");
        assert_eq!(dropped(&[300, 320]), (vec![false, true], 30), "never less often");
    }

    #[test]
    fn what_is_known_of_an_idle_proxy_is_never_forgotten() {
        let mut drops = IdleDrops::default();
        drops.on_drop(Duration::from_secs(25));
        drops.on_drop(Duration::from_secs(25));
        assert!(!drops.on_drop(Duration::from_secs(3)), "that was not silence");
        assert!(drops.on_drop(Duration::from_secs(24)), "this is");
        let kept: IdleDrops = serde_json::from_str(&serde_json::to_string(&drops).unwrap()).unwrap();
        assert_eq!(kept.ping_after(&Timing::default()), drops.ping_after(&Timing::default()));
        assert_eq!(kept.secs(), Some(24));
    }
}
