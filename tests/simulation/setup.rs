//! Worlds that several scenarios begin with.

use crate::clock::{MINUTE, Micros, SECOND, WALL_START};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::world::World;

/// A month before every world begins: far outside any overlap.
pub const OLD: u64 = WALL_START - 30 * 86_400;

/// A repo announced on the bootstrap relay `hub`, on which it also lists the relay `far`.
pub struct Village {
    pub owner: Author,
    pub repo: String,
    pub announcement: EventRef,
}

/// Two relays, the second of which caps its answers at `cap`, and the repo `alpha` on both.
pub fn village(w: &mut World, cap: usize) -> Village {
    let owner = Author::new(1);
    w.add_relay("hub", RelayConfig::strfry());
    w.bootstrap("hub");
    w.add_relay("far", RelayConfig::capped(cap));
    let announcement = owner.announcement("alpha", &["wss://hub.example", "wss://far.example"], OLD);
    w.hold("hub", &announcement);
    Village { repo: owner.repo("alpha"), announcement, owner }
}

impl Village {
    /// One relay, `hub`, at which the program begins, and the repo `alpha` on it.
    pub fn alone(w: &mut World, config: RelayConfig) -> Village {
        let owner = Author::new(1);
        w.add_relay("hub", config);
        w.bootstrap("hub");
        let announcement = owner.announcement("alpha", &["wss://hub.example"], OLD);
        w.hold("hub", &announcement);
        Village { repo: owner.repo("alpha"), announcement, owner }
    }

    /// `n` issues a minute apart, beginning at `from`.
    pub fn issues(&self, n: u64, from: u64) -> Vec<EventRef> {
        (0..n).map(|i| self.owner.issue(&self.repo, from + 60 * i, &format!("issue {i}"))).collect()
    }
}

/// Starts the process and runs until nothing is asked any more.
pub fn settle(w: &mut World) {
    w.start();
    quiet(w);
    assert_eq!(w.relay_status("hub")["state"], "Live");
}

/// Runs until no relay has been dialled or asked anything for 20 s from now on, which is longer than any window.
pub fn quiet(w: &mut World) {
    let from = w.clock.now();
    let quiet_since = |w: &World| w.last_asked().max(from);
    w.run_until("nothing more is asked", 30 * MINUTE, |w| w.clock.now() >= quiet_since(w) + 20 * SECOND);
}

/// `at` lies within `slack` after `expected`.
#[track_caller]
pub fn assert_at(at: Micros, expected: Micros, slack: Micros, what: &str) {
    assert!(
        at >= expected && at <= expected + slack,
        "{what}: at {at} µs, expected {expected} µs or up to {slack} more"
    );
}
