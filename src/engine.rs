//! The engine: every decision of the program, as one value. [`Input`] in, [`Output`] out; see the crate's documentation
//! for the contract with its caller.

pub use crate::contract::{CloseReason, Input, LinkId, Output};
pub use crate::settings::Settings;

use crate::store::{Store, StoreError};
use crate::time::{Instant, Now};

/// The deterministic core. Owns the store, the sync state, the relays' machines and the clients' sessions.
pub struct Engine {
    store: Store,
    settings: Settings,
}

impl Engine {
    /// Builds the state from the store (spec section 3) and dials the relays it names.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn new(store: Store, settings: Settings, now: Now) -> Result<Engine, StoreError> {
        let _ = now;
        Ok(Engine { store, settings })
    }

    /// Takes one input. Outputs wait in [`Engine::poll_output`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read. The engine must not be used afterwards.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError> {
        let _ = (now, input, &self.store, &self.settings);
        Ok(())
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Input::Tick`] is next needed even if nothing happens. A time not after `now` means: at once.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Whether the batch should be committed now. `idle`: the caller has nothing more to read.
    pub fn commit_due(&self, now: Now, idle: bool) -> bool {
        let _ = (now, idle);
        false
    }

    /// Makes the batch durable, then acknowledges and serves its events. The caller reports how long it took with
    /// [`Input::CommitTook`].
    ///
    /// # Errors
    ///
    /// If the store cannot write. Nothing of the batch was acknowledged; the process must end.
    pub fn commit(&mut self, now: Now) -> Result<(), StoreError> {
        let _ = now;
        Ok(())
    }

    /// Metrics in the Prometheus text format (spec section 11).
    pub fn metrics_text(&self, now: Now) -> String {
        let _ = now;
        String::new()
    }

    /// The JSON of `/status.json` (spec section 11).
    pub fn status_json(&self, now: Now) -> String {
        let _ = now;
        String::from("{}")
    }

    /// The NIP-11 document of the own relay.
    pub fn relay_info_json(&self) -> String {
        String::from("{}")
    }
}
