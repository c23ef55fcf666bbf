//! What one page of a sweep has brought.

use std::collections::BTreeSet;

use nostr::event::EventId;

use crate::intake::Place;
use crate::sync::paging::Walk;
use crate::time::UnixTime;

/// What an event means to the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEvent {
    /// It counts.
    Counted,
    /// Its time lies outside what was asked: it says nothing about the page.
    OutOfRange,
    /// The page has more events than any relay should send.
    Flood,
}

/// What a page has brought so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    placed: Stretch,
    /// Those and the events whose place is only claimed, once one has come.
    all: Option<Box<Stretch>>,
    /// Events without any place.
    nowhere: usize,
    /// Events that match nothing we ask for.
    unasked: usize,
    /// Events besides that were asked for, but not now: they are newer than the range.
    newer: usize,
    /// The same, older.
    older: usize,
    /// Where the last event stands that counted.
    last: Option<UnixTime>,
    /// Some event is newer than the one before.
    rose: bool,
    /// Some event is older than the one before.
    fell: bool,
}

/// The time that some events cover.
#[derive(Clone, Debug, Default)]
pub(super) struct Stretch {
    pub(super) events: usize,
    /// Of these, those that the sweep has not had before.
    pub(super) new: usize,
    oldest: Option<End>,
    newest: Option<End>,
}

/// One end of a stretch.
#[derive(Clone, Debug)]
struct End {
    second: UnixTime,
    /// Of the events of that second, as they came: a list, since with nearly each event of a page the oldest is another.
    ids: Vec<EventId>,
}

impl Page {
    /// Events that count.
    pub(super) fn len(&self) -> usize {
        self.all.as_ref().map_or(self.placed.events, |all| all.events) + self.nowhere
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events that count and were asked for: as many as the relay gives at once, at least.
    pub(super) fn asked(&self) -> usize {
        self.len().saturating_sub(self.unasked)
    }

    pub(super) fn add(
        &mut self,
        id: EventId,
        place: Place,
        is_asked: bool,
        (since, until): (Option<UnixTime>, Option<UnixTime>),
        had: &BTreeSet<EventId>,
    ) -> PageEvent {
        let (Place::At(at) | Place::Claimed(at)) = place else {
            self.add_unreadable();
            return PageEvent::Counted;
        };
        let is_newer = until.is_some_and(|until| at > until);
        let is_older = since.is_some_and(|since| at < since);
        if is_newer || is_older {
            self.newer += usize::from(is_newer && is_asked);
            self.older += usize::from(is_older && is_asked);
            return PageEvent::OutOfRange;
        }
        self.unasked += usize::from(!is_asked);
        self.rose |= self.last.is_some_and(|last| at > last);
        self.fell |= self.last.is_some_and(|last| at < last);
        self.last = Some(at);
        // Only of the second of a bound can some have come before.
        let is_new = Some(at) != until && Some(at) != since || !had.contains(&id);
        let is_claim = matches!(place, Place::Claimed(_));
        if is_claim && self.all.is_none() {
            self.all = Some(Box::new(self.placed.clone()));
        }
        if let Some(all) = &mut self.all {
            all.add(id, at, is_new);
        }
        if !is_claim {
            self.placed.add(id, at, is_new);
        }
        PageEvent::Counted
    }

    /// Something came in place of an event.
    pub(super) fn add_unreadable(&mut self) {
        self.nowhere += 1;
    }

    /// Events that were asked for, but lie where the walk has been.
    pub(super) fn beyond(&self, walk: Walk) -> usize {
        match walk {
            Walk::Down => self.newer,
            Walk::Up => self.older,
        }
    }

    /// Events that cannot be placed.
    pub(super) fn unplaced(&self, walk: Walk) -> usize {
        let claimed = self.all.as_ref().map_or(0, |all| all.events - self.placed.events);
        self.nowhere + if self.is_sorted(walk) { 0 } else { claimed }
    }

    /// The time of the one event of a page, which something vouches for.
    pub(super) fn only(&self) -> Option<UnixTime> {
        let oldest = self.placed.oldest.as_ref()?;
        (self.len() == 1).then_some(oldest.second)
    }

    /// What it covers. A claimed time counts where the relay has sorted by it: then what lies before has come.
    pub(super) fn into_stretch(self, walk: Walk) -> Stretch {
        let sorted = self.is_sorted(walk);
        match self.all {
            Some(all) if sorted => *all,
            _ => self.placed,
        }
    }

    /// How far it has come in the order of the walk; `None` if it has not kept to that.
    pub(super) fn reached(&self, walk: Walk) -> Option<UnixTime> {
        let stretch = self.all.as_deref().unwrap_or(&self.placed);
        stretch.far(walk).filter(|_| self.is_sorted(walk))
    }

    fn is_sorted(&self, walk: Walk) -> bool {
        match walk {
            Walk::Down => !self.rose,
            Walk::Up => !self.fell,
        }
    }
}

impl Stretch {
    fn add(&mut self, id: EventId, at: UnixTime, is_new: bool) {
        self.events += 1;
        self.new += usize::from(is_new);
        extend_end(&mut self.oldest, id, at, |oldest| at < oldest);
        extend_end(&mut self.newest, id, at, |newest| at > newest);
    }

    /// The newest and the oldest second.
    pub(super) fn ends(&self) -> Option<(UnixTime, UnixTime)> {
        Some((self.newest.as_ref()?.second, self.oldest.as_ref()?.second))
    }

    /// The second that the walk has come to.
    pub(super) fn far(&self, walk: Walk) -> Option<UnixTime> {
        let (newest, oldest) = self.ends()?;
        Some(if walk == Walk::Down { oldest } else { newest })
    }

    /// The same with the ids of its events.
    pub(super) fn into_far(self, walk: Walk) -> Option<(UnixTime, BTreeSet<EventId>)> {
        let End { second, ids } = if walk == Walk::Down { self.oldest } else { self.newest }?;
        Some((second, ids.into_iter().collect()))
    }

    /// Whether it has an event of that second, as its newest or its oldest.
    pub(super) fn touches(&self, second: UnixTime) -> bool {
        self.ends().is_some_and(|(newest, oldest)| second == newest || second == oldest)
    }

    /// Whether one of these is among the events of its newest or of its oldest second.
    pub(super) fn has_any_of(&self, ids: &BTreeSet<EventId>) -> bool {
        [&self.newest, &self.oldest].into_iter().flatten().flat_map(|end| &end.ids).any(|id| ids.contains(id))
    }
}

fn extend_end(end: &mut Option<End>, id: EventId, at: UnixTime, is_beyond: impl Fn(UnixTime) -> bool) {
    match end {
        None => *end = Some(End { second: at, ids: vec![id] }),
        Some(end) if end.second == at => end.ids.push(id),
        Some(end) if is_beyond(end.second) => {
            end.second = at;
            end.ids.clear();
            end.ids.push(id);
        }
        Some(_) => {}
    }
}
