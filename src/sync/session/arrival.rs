//! What comes on a link: for what it was asked, and what became of it.

use nostr::event::EventId;

use crate::intake::Place;

/// What kind of subscription an event came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A live subscription.
    Live,
    /// A sweep of a catch-up or of a window.
    Round,
    /// A poll of what is not live.
    Poll,
    /// A part of an audit.
    Audit,
}

/// An event that a relay sent, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its id.
    pub id: EventId,
    /// Where it stands in time.
    pub place: Place,
    /// Its length as JSON.
    pub bytes: usize,
    /// What became of it.
    pub fate: Fate,
}

/// What became of an event that a relay sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken in.
    New,
    /// Held already, or refused for good before.
    Known,
    /// Refused.
    Refused,
    /// Refused, because it matches nothing that was asked.
    Unasked,
    /// Refused, because its id or its signature is wrong.
    Forged,
}

impl Fate {
    /// Whether its signature was looked at, and for nothing.
    pub fn is_in_vain(self) -> bool {
        matches!(self, Fate::Refused | Fate::Forged)
    }
}
