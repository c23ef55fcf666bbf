//! What a relay's machine has to do with reconciling (NIP-77): it passes on what its session wants and hears.

use nostr::event::EventId;

use super::{Relay, linked_in};
use crate::sync::Cx;
use crate::sync::session::{Classified, Found, Session, WantedSet};
use crate::time::{Instant, UnixTime};

impl Relay {
    /// Ids that its reconciliations hold in memory.
    pub fn ids_held(&self) -> usize {
        self.session().map_or(0, Session::ids_held)
    }

    /// The set that is wanted with [`Relay::add_set`], if one is.
    pub fn wanted_set(&self) -> Option<WantedSet<'_>> {
        self.session()?.wanted_set()
    }

    /// The ids of [`Relay::wanted_set`]; `None` if there are more than reconciliations may hold.
    pub fn add_set(&mut self, held: Option<Vec<(UnixTime, EventId)>>, cx: &mut Cx<'_>) {
        self.tell(cx, |session, cx| session.add_set(held, cx));
    }

    /// Ids that the relay has and that we may lack: which of them are of use is wanted with [`Relay::add_needed`].
    pub fn take_found(&mut self, now: Instant) -> Option<Found> {
        linked_in(&mut self.state)?.session.take_found(now)
    }

    /// Those of [`Relay::take_found`] that are of use.
    pub fn add_needed(&mut self, of: u64, classified: Classified, cx: &mut Cx<'_>) {
        self.tell(cx, |session, cx| session.add_needed(of, classified, cx));
    }

    /// NEG-MSG.
    pub fn on_neg_msg(&mut self, name: &str, payload: &str, cx: &mut Cx<'_>) {
        if self.note_useless_frame(cx) {
            return;
        }
        self.tell(cx, |session, cx| session.on_neg_msg(name, payload, cx));
    }

    /// NEG-ERR.
    pub fn on_neg_err(&mut self, name: &str, reason: &str, max_records: Option<u64>, cx: &mut Cx<'_>) {
        if self.note_useless_frame(cx) {
            return;
        }
        log::debug!("{}: NEG-ERR {name}: {reason}", self.url);
        self.tell(cx, |session, cx| _ = session.on_neg_err(name, reason, max_records, cx));
    }
}
