//! What to ask whom, and when.
//!
//! `crate::state` holds what is followed; `window` batches its changes; `plan` turns it into units and sweeps; `relay` is the
//! machine of one relay, with `session` for what lives and dies with its link; `agenda` is what is asked on it.
//!
//! The machines do not call the store. They say what they want to know (`Relay::wanted_thread`, `Relay::wanted_set` and their
//! like), and are told: a set or a thread of a hundred thousand events is looked up over many iterations of the loop, so that
//! nobody else waits.

use std::collections::VecDeque;

use crate::contract::{LinkId, Output};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::state::State;
use crate::sync::dials::Dials;
use crate::sync::network::Network;
use crate::time::Now;

pub mod agenda;
pub mod auth;
pub mod budget;
pub mod coverage;
pub mod detour;
pub mod dials;
pub mod filters;
pub mod gap;
pub mod health;
pub mod liveness;
pub mod network;
pub mod paging;
pub mod places;
pub mod plan;
pub mod progress;
pub mod reconcile;
pub mod refusal;
pub mod relay;
pub mod session;
pub mod sweep;
#[cfg(test)]
pub(crate) mod testing;
pub mod unproductive;
pub mod window;

/// What the sync machines see of the world while they handle one input.
#[derive(Debug)]
pub struct Cx<'a> {
    /// Both clocks.
    pub now: Now,
    /// What is followed.
    pub state: &'a State,
    /// Bounds and durations.
    pub settings: &'a Settings,
    /// Whether our own network works.
    pub network: &'a mut Network,
    /// Whose turn it is to be dialled.
    pub dials: &'a mut Dials,
    /// The number of the next link to be dialled.
    pub next_link: &'a mut u64,
    /// What is to be done.
    pub out: &'a mut VecDeque<Output>,
    /// What is counted.
    pub metrics: &'a mut Metrics,
}

impl Cx<'_> {
    /// A link of a number that was never used.
    pub fn new_link(&mut self) -> LinkId {
        let link = LinkId::Relay(*self.next_link);
        *self.next_link += 1;
        link
    }
}
