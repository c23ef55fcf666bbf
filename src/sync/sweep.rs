//! One historical question, asked page by page to its end (spec section 6).
//!
//! Relays cap their answers silently, so a short page proves nothing, and what our store already knows says nothing
//! about what lies behind it. A sweep therefore walks `until` down to the oldest `created_at` it was given (inclusive),
//! or `since` up to the newest where a relay gives the oldest first, and has ended when a page brings no id that *this
//! sweep* has not had before. Only the ids of the boundary second have to be kept for that: the bound excludes all
//! that was had besides.
//!
//! That is evidence as far as the relay keeps to what its answers have shown ([`Paging`]). Where a page leaves a doubt,
//! the next one asks about it:
//!
//! - a second that may hold more than the relay gives at once: what lies behind it (`Step::Behind`);
//! - a page without the boundary second: the same page from one second before (`Step::Recheck`);
//! - the first page with events of two seconds, once a link: one event alone, which shows the order (`Step::Order`).
//!
//! Events that cannot be placed, since their `created_at` is none, or nothing vouches for it and the page has no order, are
//! told apart by halving the time. What cannot be had after all that is a gap, which the caller takes with
//! [`Sweep::take_gap`].
//!
//! This module knows ids and times. It does not know links, subscriptions or whether an event was kept.

use std::collections::BTreeSet;

use nostr::event::EventId;

use crate::intake::Place;
use crate::limits::{FUTURE_SECS_MAX, SWEEP_BOUNDARY_IDS_MAX, SWEEP_PAGE_EVENTS_MAX, SWEEP_PAGES_MAX};
use crate::sync::filters::{Bounds, Subject};
use crate::sync::gap::{GapReason, Span};
use crate::sync::paging::{Order, Paging, Walk};
use crate::time::UnixTime;

mod page;
#[cfg(test)]
mod tests;

pub use page::PageEvent;

use page::{Page, Stretch};

/// A question and how far its answer has come.
#[derive(Clone, Debug)]
pub struct Sweep {
    subject: Subject,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
    /// Ids already had of the second of the bound that moves.
    boundary: BTreeSet<EventId>,
    step: Step,
    /// The bound was looked at from one second before.
    rechecked: bool,
    /// What the current page has brought, once it has: thousands of sweeps wait without one.
    page: Option<Box<Page>>,
    pages: usize,
    /// Events of the last page of the walk.
    previous: usize,
    gap: Option<(Span, GapReason)>,
}

/// What the current page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// What comes next in time.
    Walk,
    /// The same from one second before: the bound's own second did not come.
    Recheck,
    /// What lies behind a second of which so many events came, and nothing else.
    Behind { second: UnixTime, events: usize },
    /// One event of the page before, which asked within `since` and `until` and brought some from `oldest` to `newest`.
    Order { since: Option<UnixTime>, until: Option<UnixTime>, newest: UnixTime, oldest: UnixTime },
}

/// What to do after a page has ended.
#[derive(Debug)]
pub enum PageEnd {
    /// Ask for the next page: [`Sweep::asked`] has moved on.
    Next,
    /// Replace the sweep by these two: together they ask what is left of it.
    Split(Box<[Sweep; 2]>),
    /// Everything was had, but for what was a gap.
    Done,
    /// More pages, or more events in one second, than any honest history has.
    PagesExceeded,
}

impl Sweep {
    /// Asks for everything `subject` matches, or only what was created at or after `since`.
    pub fn new(subject: Subject, since: Option<UnixTime>) -> Sweep {
        Sweep {
            subject,
            since,
            until: None,
            boundary: BTreeSet::new(),
            step: Step::Walk,
            rechecked: false,
            page: None,
            pages: 0,
            previous: 0,
            gap: None,
        }
    }

    /// What it asks.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Pages that have ended.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// What is left of it begins here.
    pub fn since(&self) -> Option<UnixTime> {
        self.since
    }

    /// What is left of it ends here.
    pub fn until(&self) -> Option<UnixTime> {
        self.until
    }

    /// Two sweeps that together ask what is left of it, if it lists more than one value.
    pub fn halves(&self) -> Option<[Sweep; 2]> {
        self.subject.halves().map(|halves| halves.map(|subject| Sweep { subject, ..self.clone() }))
    }

    /// The bounds of the page to ask for now, with `limit` unless the page is for a single event.
    pub fn asked(&self, paging: &Paging, limit: usize) -> Bounds {
        let (mut since, mut until) = self.range();
        if paging.excludes_bounds() || self.step == Step::Recheck {
            match paging.walk() {
                Walk::Down => until = until.map(|until| until.plus_secs(1)),
                Walk::Up => since = since.map(|since| since.minus_secs(1)),
            }
        }
        let limit = if matches!(self.step, Step::Order { .. }) { 1 } else { limit };
        Bounds { since, until, limit }
    }

    /// The time of which the current page is to bring events.
    fn range(&self) -> (Option<UnixTime>, Option<UnixTime>) {
        match self.step {
            Step::Order { since, until, .. } => (since, until),
            Step::Walk | Step::Recheck | Step::Behind { .. } => (self.since, self.until),
        }
    }

    /// Whether the current page has brought nothing yet.
    pub fn page_is_empty(&self) -> bool {
        self.page.as_ref().is_none_or(|page| page.is_empty())
    }

    /// Events that the current page has brought.
    pub fn page_events(&self) -> usize {
        self.page.as_ref().map_or(0, |page| page.len())
    }

    /// Forgets what the current page has brought, so that it can be asked for again.
    pub fn restart_page(&mut self) {
        self.page = None;
    }

    /// An event came. `is_asked`: it matches something that we ask for; what a relay sends besides does not tell how much
    /// it gives at once.
    pub fn on_event(&mut self, id: EventId, place: Place, is_asked: bool) -> PageEvent {
        let range = self.range();
        let page = self.page.get_or_insert_default();
        if page.len() >= SWEEP_PAGE_EVENTS_MAX {
            return PageEvent::Flood;
        }
        page.add(id, place, is_asked, range, &self.boundary)
    }

    /// An event came that is none: it has no place.
    pub fn on_unreadable(&mut self) {
        self.page.get_or_insert_default().add_unreadable();
    }

    /// What could not be had of what the last page was for.
    pub fn take_gap(&mut self) -> Option<(Span, GapReason)> {
        self.gap.take()
    }

    /// The page ended (EOSE), which was asked for like this.
    pub fn on_eose(&mut self, paging: &mut Paging, asked: Bounds, now: UnixTime) -> PageEnd {
        let limit = asked.limit;
        self.pages += 1;
        let page = self.page.take().unwrap_or_default();
        if let Step::Order { newest, oldest, .. } = self.step {
            self.step = Step::Walk;
            return self.on_order_page(&page, (newest, oldest), paging, now);
        }
        let walk = paging.walk();
        paging.on_page(page.asked());
        let (beyond, unplaced) = (page.beyond(walk), page.unplaced(walk));
        let stretch = page.into_stretch(walk);
        if self.lacks_boundary(&stretch, asked, paging) {
            (self.step, self.rechecked) = (Step::Recheck, true);
            return PageEnd::Next;
        }
        if self.step == Step::Recheck {
            self.step = Step::Walk;
            if stretch.has_any_of(&self.boundary) {
                paging.on_bounds_excluded(now);
            }
        }
        if (stretch.new > 0 || unplaced > 0)
            && let Some(split) = self.find_cut(walk, paging)
        {
            return split;
        }
        let events = stretch.events + beyond;
        match stretch.far(walk) {
            Some(_) if self.pages >= SWEEP_PAGES_MAX => PageEnd::PagesExceeded,
            Some(_) if stretch.new > 0 => self.move_on(stretch, walk, paging),
            _ if unplaced > 0 && paging.may_be_cut(events + unplaced, limit) => self.split_time(paging, now),
            Some(second) if paging.is_full(events, limit) => self.step_over(second, walk),
            Some(second) if paging.may_be_cut(events, limit) => self.look_behind(second, events, walk, paging),
            Some(_) => PageEnd::Done,
            None => self.end_at_nothing(walk, paging),
        }
    }

    /// Whether a page that was to begin with the boundary second has nothing of it. It is then asked for from one second
    /// before: once in a sweep, and always where bounds are known not to count their own second.
    fn lacks_boundary(&self, stretch: &Stretch, asked: Bounds, paging: &Paging) -> bool {
        let walk = paging.walk();
        let (bound, asked) = match walk {
            Walk::Down => (self.until, asked.until),
            Walk::Up => (self.since, asked.since),
        };
        let from_it = self.step == Step::Walk && !self.boundary.is_empty() && asked == bound;
        let is_due = !self.rechecked || paging.excludes_bounds();
        from_it && is_due && bound.is_some_and(|bound| !stretch.touches(bound))
    }

    /// There is more behind the second that was looked behind, and the relay gave that alone: so it gave all it gives at
    /// once. The question is split, if it can be.
    fn find_cut(&mut self, walk: Walk, paging: &mut Paging) -> Option<PageEnd> {
        let Step::Behind { second, events } = self.step else { return None };
        self.step = Step::Walk;
        paging.on_cut(events);
        if self.subject.values() > 1 {
            self.set_bound(walk, second);
            return Some(self.split_values());
        }
        self.gap = Some((Span::of_second(second), GapReason::FullSecond));
        None
    }

    /// The page brought something new: the next one begins where it ended.
    fn move_on(&mut self, stretch: Stretch, walk: Walk, paging: &mut Paging) -> PageEnd {
        let ends = stretch.ends();
        let events = stretch.events;
        let Some((far, ids)) = stretch.into_far(walk) else { unreachable!("what is new has a place") };
        let is_same_second = self.bound(walk) == Some(far);
        if !self.boundary.is_empty() && !is_same_second {
            paging.on_cut(self.previous);
        }
        self.previous = events;
        match is_same_second {
            true => self.boundary.extend(ids),
            false => self.boundary = ids,
        }
        if self.boundary.len() > SWEEP_BOUNDARY_IDS_MAX {
            return PageEnd::PagesExceeded;
        }
        let (since, until) = (self.since, self.until);
        self.set_bound(walk, far);
        if let Some((newest, oldest)) = ends.filter(|(newest, oldest)| newest > oldest)
            && paging.take_order_question()
        {
            self.step = Step::Order { since, until, newest, oldest };
        }
        PageEnd::Next
    }

    /// A page of one event came, where a page before had more.
    fn on_order_page(
        &mut self,
        page: &Page,
        (newest, oldest): (UnixTime, UnixTime),
        paging: &mut Paging,
        now: UnixTime,
    ) -> PageEnd {
        match page.only() {
            Some(at) if at >= newest => paging.on_order(Order::NewestFirst, now),
            Some(at) if at <= oldest => paging.on_order(Order::OldestFirst, now),
            _ => {}
        }
        PageEnd::Next
    }

    /// Nothing came that has a place.
    fn end_at_nothing(&mut self, walk: Walk, paging: &Paging) -> PageEnd {
        let Step::Behind { second, events } = self.step else { return PageEnd::Done };
        self.step = Step::Walk;
        self.set_bound(walk, second);
        self.end_at_second(second, events, paging)
    }

    /// There is nothing behind a second of which so many events came.
    fn end_at_second(&mut self, second: UnixTime, events: usize, paging: &Paging) -> PageEnd {
        if !paging.was_cut(events) {
            return PageEnd::Done;
        }
        if self.subject.values() > 1 {
            return self.split_values();
        }
        self.gap = Some((Span::of_second(second), GapReason::FullSecond));
        PageEnd::Done
    }

    /// A page as full as the relay's cap may be brought nothing new, since it was all of one second or the relay ignores
    /// its bounds: more may hide in that second, and everything else hides behind it.
    fn step_over(&mut self, second: UnixTime, walk: Walk) -> PageEnd {
        self.step = Step::Walk;
        if self.subject.values() > 1 {
            return self.split_values();
        }
        self.gap = Some((Span::of_second(second), GapReason::FullSecond));
        match self.move_behind(second, walk) {
            true => PageEnd::Next,
            false => PageEnd::Done,
        }
    }

    /// A page of one second alone brought nothing new. It may be all there is, or all that the relay gives at once.
    fn look_behind(&mut self, second: UnixTime, events: usize, walk: Walk, paging: &Paging) -> PageEnd {
        if !self.move_behind(second, walk) {
            return self.end_at_second(second, events, paging);
        }
        self.step = Step::Behind { second, events };
        PageEnd::Next
    }

    /// Moves the bound past a second. Says whether anything is left to ask for.
    fn move_behind(&mut self, second: UnixTime, walk: Walk) -> bool {
        let is_last = match walk {
            Walk::Down => second == UnixTime::EPOCH || self.since.is_some_and(|since| second <= since),
            Walk::Up => self.until.is_some_and(|until| second >= until),
        };
        if is_last {
            return false;
        }
        self.boundary.clear();
        self.set_bound(
            walk,
            match walk {
                Walk::Down => second.minus_secs(1),
                Walk::Up => second.plus_secs(1),
            },
        );
        true
    }

    fn split_values(&mut self) -> PageEnd {
        match self.halves() {
            Some(halves) => PageEnd::Split(Box::new(halves)),
            None => PageEnd::Done,
        }
    }

    /// What came cannot be placed, and may hide what else there is: each half of the time is asked about by itself.
    fn split_time(&mut self, paging: &mut Paging, now: UnixTime) -> PageEnd {
        self.step = Step::Walk;
        let span = self.span(now);
        if !paging.take_time_split() {
            self.gap = Some((span, GapReason::Unplaced));
            return PageEnd::Done;
        }
        if let Some(halves) = self.time_halves(now) {
            return PageEnd::Split(Box::new(halves));
        }
        if self.subject.values() > 1 {
            return self.split_values();
        }
        self.gap = Some((span, GapReason::Unplaced));
        PageEnd::Done
    }

    /// The time about which an answer that broke off has left to ask: what it has brought was in the order of the walk.
    pub fn span_left(&self, paging: &Paging, now: UnixTime) -> Span {
        let (since, until) = self.range();
        let mut left = Sweep { since, until, ..self.clone() };
        let walk = paging.walk();
        if let Some(far) = self.page.as_ref().and_then(|page| page.reached(walk)) {
            left.set_bound(walk, far);
        }
        left.span(now)
    }

    /// The time that is left to ask about. No event is dated further ahead than is taken.
    pub fn span(&self, now: UnixTime) -> Span {
        let latest = now.plus_secs(FUTURE_SECS_MAX);
        let from = self.since.unwrap_or(UnixTime::EPOCH);
        Span { from, to: self.until.unwrap_or(latest).max(from) }
    }

    /// Two sweeps that together ask what is left of it, each one half of the time, the earlier one first; `None` if
    /// that is a second.
    pub fn time_halves(&self, now: UnixTime) -> Option<[Sweep; 2]> {
        let span = self.span(now);
        let middle = span.middle()?;
        let mut halves = [self.clone(), self.clone()];
        halves[0].until = Some(middle);
        halves[1].since = Some(middle.plus_secs(1));
        for half in &mut halves {
            half.rechecked = false;
            half.boundary.clear();
        }
        Some(halves)
    }

    /// Asks for everything `subject` matches within some time.
    pub fn within(subject: Subject, span: Span) -> Sweep {
        Sweep { until: Some(span.to), ..Sweep::new(subject, Some(span.from)) }
    }

    /// What is left of it up to some time, begun anew.
    pub fn within_until(&self, until: UnixTime) -> Sweep {
        Sweep { until: Some(until), ..Sweep::new(self.subject.clone(), self.since) }
    }

    /// What is left of it from some time on, begun anew.
    pub fn within_since(&self, since: UnixTime) -> Sweep {
        Sweep { until: self.until, ..Sweep::new(self.subject.clone(), Some(since)) }
    }

    fn bound(&self, walk: Walk) -> Option<UnixTime> {
        match walk {
            Walk::Down => self.until,
            Walk::Up => self.since,
        }
    }

    fn set_bound(&mut self, walk: Walk, to: UnixTime) {
        match walk {
            Walk::Down => self.until = Some(to),
            Walk::Up => self.since = Some(to),
        }
    }
}
