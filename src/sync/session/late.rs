//! Relays that say EOSE before they have sent everything. Whether this one does, a page shows that is held open for a
//! moment after its EOSE: the first one of each full catch-up that had a few events, and one that had none. A page of one
//! event shows nothing: nothing may be missing of it. Stored events that come for a page after
//! its EOSE, or after its CLOSE, show it at any time.
//!
//! Of a relay that does, each page is held open until it has been silent for [`LATE_WAIT`].

use std::collections::VecDeque;

use super::subscription::Subscription;
use super::{Arrival, Number, Session};
use crate::limits::{LATE_AGE_SECS, LATE_PAGES_MAX, LATE_PROBE, LATE_PROBE_EVENTS, LATE_WAIT};
use crate::sync::Cx;
use crate::sync::agenda::round::RoundWhy;
use crate::sync::paging::Punctuality;
use crate::time::{Instant, Now, UnixTime};

/// What a link has shown of how punctual its relay is.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// A page without events was held open, or is.
    empty_held: bool,
    /// Pages with fewer than [`LATE_PROBE_EVENTS`] that were held open, or are.
    small_held: usize,
    /// The last pages that were closed at their EOSE.
    closed: VecDeque<Number>,
}

impl Lateness {
    /// A full catch-up holds a few pages open that have few events, or none.
    pub(super) fn begin_round(&mut self, why: RoundWhy) {
        if matches!(why, RoundWhy::FullCatchUp(_)) {
            (self.empty_held, self.small_held) = (false, 0);
        }
    }
}

impl Session {
    /// Whether a page whose EOSE has come with so many events is to be held open. One is at a time, but for a page that may
    /// show that the relay is punctual.
    pub(super) fn is_to_be_held(&mut self, events: usize) -> bool {
        match self.budget.paging.punctuality() {
            Punctuality::Punctual => return false,
            Punctuality::Late => return true,
            Punctuality::Unknown => {}
        }
        let held = |least: usize| {
            let is_held =
                |sub: &Subscription| matches!(sub, Subscription::Page { ended: Some((_, had)), .. } if *had >= least);
            self.subscriptions.values().any(is_held)
        };
        match events {
            LATE_PROBE_EVENTS.. => !held(LATE_PROBE_EVENTS),
            _ if held(0) => false,
            0 => !std::mem::replace(&mut self.lateness.empty_held, true),
            _ => {
                self.lateness.small_held += 1;
                self.lateness.small_held <= LATE_PROBE_EVENTS
            }
        }
    }

    /// An event came for a page that is held open after its EOSE.
    pub(super) fn on_late_event(&mut self, arrival: &Arrival, now: Now) {
        if arrival.place.vouched().is_some_and(|at| is_stored(at, now)) {
            self.budget.paging.on_punctuality(Punctuality::Late, now.wall);
        }
    }

    /// Whether a subscription was a page that was closed at its EOSE of late.
    pub fn has_just_closed(&self, subscription: &str) -> bool {
        Number::named(subscription).is_some_and(|number| self.lateness.closed.contains(&number))
    }

    /// An event came for such a page. `created_at`: as it claims.
    pub fn on_stray(&mut self, created_at: Option<UnixTime>, now: Now) {
        if created_at.is_some_and(|at| is_stored(at, now)) {
            self.budget.paging.on_punctuality(Punctuality::Late, now.wall);
        }
    }

    pub(super) fn remember_closed(&mut self, number: Number) {
        if self.lateness.closed.len() == LATE_PAGES_MAX {
            self.lateness.closed.pop_front();
        }
        self.lateness.closed.push_back(number);
    }

    /// Ends the pages that were held open long enough.
    pub(super) fn end_held(&mut self, cx: &mut Cx<'_>) {
        let over = |(number, sub): (&Number, &Subscription)| {
            let at = self.held_until(sub)?;
            (at <= cx.now.mono).then_some(*number)
        };
        let over: Vec<Number> = self.subscriptions.iter().filter_map(over).collect();
        for number in over {
            if let Some(Subscription::Page { ended: Some((_, LATE_PROBE_EVENTS..)), .. }) =
                self.subscriptions.get(&number)
                && self.budget.paging.punctuality() == Punctuality::Unknown
            {
                self.budget.paging.on_punctuality(Punctuality::Punctual, cx.now.wall);
            }
            self.end_page(number, true, cx);
        }
    }

    /// When a page that is held open is over.
    pub(super) fn held_until(&self, subscription: &Subscription) -> Option<Instant> {
        let Subscription::Page { ended: Some(_), heard_at, .. } = subscription else { return None };
        let wait = match self.budget.paging.punctuality() {
            Punctuality::Late => LATE_WAIT,
            Punctuality::Unknown | Punctuality::Punctual => LATE_PROBE,
        };
        Some(*heard_at + wait)
    }
}

/// Whether an event of that time was stored before it came, and is not news.
fn is_stored(created_at: UnixTime, now: Now) -> bool {
    created_at.plus_secs(LATE_AGE_SECS) < now.wall
}
