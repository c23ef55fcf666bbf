//! Events that expire (NIP-40): when they are next looked for, and what follows when they leave.

use super::Engine;
use crate::intake::remove_from_state;
use crate::limits::{EXPIRY_BATCH, EXPIRY_PERIOD};
use crate::store::StoreError;
use crate::time::{Duration, Now};

impl Engine {
    /// Takes out what has expired, a part at a time.
    pub(super) fn expire(&mut self, now: Now) -> Result<(), StoreError> {
        let removed = self.store.expire(now.wall, EXPIRY_BATCH)?;
        self.metrics.events_expired += removed.len() as u64;
        for removed in &removed {
            let changes = remove_from_state(removed, &mut self.state);
            self.unconfirm(&changes);
            self.pending_commit.changes.merge(changes);
        }
        if !removed.is_empty() {
            self.intake.on_expired();
        }
        self.expiry_due = Some(now.mono + EXPIRY_PERIOD);
        Ok(())
    }

    /// Looks up when an event will next expire.
    pub(super) fn schedule_expiry(&mut self, now: Now) -> Result<(), StoreError> {
        let next = self.store.next_expiration()?;
        self.expiry_due = next.map(|at| {
            let wait = Duration::from_secs(at.as_secs().saturating_sub(now.wall.as_secs()));
            now.mono + wait.max(EXPIRY_PERIOD)
        });
        Ok(())
    }
}
