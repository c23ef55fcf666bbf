//! Events that were read and do not hold (spec section 16): they are held no more, and every relay is asked for everything
//! again.

use log::warn;

use super::Engine;
use crate::store::StoreError;
use crate::time::Now;

impl Engine {
    /// Forgets what was found damaged. The store writes that no relay was caught up with in full together with it.
    pub(super) fn forget_damaged(&mut self, now: Now) -> Result<(), StoreError> {
        let forgotten = self.store.forget_damaged()?;
        if forgotten == 0 {
            return Ok(());
        }
        self.metrics.store_damaged += forgotten as u64;
        warn!("{forgotten} events of the store are damaged: they are forgotten, and fetched again");
        self.hints.on_events_lost();
        self.intake.on_expired();
        self.restored.values_mut().for_each(|(progress, _)| progress.on_events_lost(now));
        for key in self.keys.values().copied().collect::<Vec<_>>() {
            self.drive(now, key, |relay, cx| relay.on_events_lost(cx))?;
        }
        Ok(())
    }
}
