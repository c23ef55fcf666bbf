//! What the sync rooms count. Rendered by `metrics`.

/// Counters over all relays since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncCounters {
    /// Entries into each state, in the order of [`crate::sync::relay::StateName::ALL`].
    pub state_entries: [u64; 7],
    /// Sweeps that came to their end.
    pub sweeps_done: u64,
    /// Sweeps that failed for good on their link.
    pub sweeps_failed: u64,
    /// Sweeps split because one second was larger than a page.
    pub sweeps_split: u64,
    /// Tries of a sweep that will be repeated.
    pub sweeps_retried: u64,
    /// Seconds that were larger than a page and could not be split.
    pub sweep_gaps: u64,
    /// Pages asked.
    pub pages: u64,
    /// REQs sent.
    pub reqs: u64,
    /// Live subscriptions that a relay closed.
    pub live_closed: u64,
    /// Cool-downs because a relay limited our rate.
    pub cooldowns: u64,
    /// Pings sent to relays.
    pub pings: u64,
    /// Links ended because the peer had fallen silent.
    pub silent_links: u64,
    /// NOTICEs from relays.
    pub notices: u64,
    /// Consolidations.
    pub consolidations: u64,
    /// Turns of rotation.
    pub rotation_turns: u64,
    /// Relays that an announcement listed in vain: too many, or not a URL.
    pub relays_refused: u64,
}
