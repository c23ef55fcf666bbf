//! What follows when there is no room for what is to be stored, and when there is again (spec section 16, "Writing");
//! `shares::room` decides which it is.
//!
//! Nothing that is acknowledged is lost, and nothing that is not stored is claimed: clients get `OK false`; no relay is
//! linked, so that each is asked for what came meanwhile from where it was complete. Everybody is served on.

use log::{info, warn};

use super::Engine;
use crate::protocol::message::RawEvent;
use crate::shares::room::{Shortage, Space, Turn};
use crate::store::{Known, StoreError, StoredEvent};
use crate::time::{Duration, Now};

impl Engine {
    /// Why nothing can be stored; `None` if there is room.
    pub fn shortage(&self) -> Option<Shortage> {
        self.room.shortage()
    }

    /// Whether [`Input::Space`](crate::contract::Input::Space) is wanted now, beside the one after each commit.
    pub fn space_due(&self, now: Now) -> bool {
        self.room.look_at().is_some_and(|at| at <= now.mono)
    }

    /// So much room there is.
    pub(super) fn on_space(&mut self, now: Now, space: Space) -> Result<(), StoreError> {
        match self.room.on_space(now, space) {
            Some(Turn::Began(why)) => self.begin_shortage(now, why),
            Some(Turn::Ended(lasted)) => {
                self.end_shortage(now, lasted);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A commit has found no room. The store is opened anew; the batch waits in memory, unacknowledged, unless it has become
    /// durable all the same.
    ///
    /// # Errors
    ///
    /// If the store cannot be opened.
    pub(super) fn on_commit_without_room(&mut self, now: Now) -> Result<(), StoreError> {
        self.metrics.commits_without_room += 1;
        let stored: Option<Vec<StoredEvent>> = self.store.reopen()?;
        if let Some(stored) = stored {
            self.on_stored(now, stored)?;
        }
        for (client, id) in std::mem::take(&mut self.pending_commit.acknowledgements) {
            self.acknowledge(client, &id, false, NO_ROOM);
        }
        if let Some(Turn::Began(why)) = self.room.on_write_failed(now) {
            self.begin_shortage(now, why)?;
        }
        self.collect_served();
        Ok(())
    }

    /// Answers a client that publishes an event while nothing can be stored; `false` if something can.
    pub(super) fn refuse_for_room(&mut self, client: u64, raw: &RawEvent<'_>) -> Result<bool, StoreError> {
        if self.room.is_there() {
            return Ok(false);
        }
        if let Some(Known::Stored { .. }) = self.store.known(&raw.id)? {
            self.metrics.events_duplicate += 1;
            self.acknowledge(client, &raw.id, true, "duplicate: already have this event");
        } else {
            self.metrics.events_refused.add("no_room");
            self.acknowledge(client, &raw.id, false, NO_ROOM);
        }
        Ok(true)
    }

    fn begin_shortage(&mut self, now: Now, why: Shortage) -> Result<(), StoreError> {
        warn!("{why}: nothing is stored until there is room again; what is stored is served");
        self.network.pause(true);
        for key in self.keys.values().copied().collect::<Vec<_>>() {
            self.drive(now, key, |relay, cx| relay.on_no_room(cx))?;
        }
        Ok(())
    }

    fn end_shortage(&mut self, now: Now, lasted: Duration) {
        info!("there is room again after {} s", lasted.as_secs());
        self.network.pause(false);
        self.wake_relays(now, None, |relay, cx| relay.on_room(lasted, cx));
    }
}

/// What a client is told whose event cannot be stored.
const NO_ROOM: &str = "error: there is no room to store anything now, try again later";
