//! One historical question, asked page by page to its end (spec section 6, "Sweeps").
//!
//! Relays cap their answers silently, so a short page proves nothing, and what our store already knows says nothing
//! about what lies behind it. A sweep therefore walks `until` down to the oldest `created_at` it was given (inclusive)
//! and has ended when a page brings no id that *this sweep* has not had before. Only the ids of the boundary second
//! have to be kept for that: everything newer is excluded by `until`.
//!
//! A second that holds more events than the relay's cap would stop the walk, and so does a relay that ignores `until`. Then
//! the question is split, and where it cannot be, the walk steps over the second and counts a gap.
//!
//! This module knows ids and times. It does not know links, subscriptions or whether an event was kept.

use std::collections::BTreeSet;

use nostr::event::EventId;

use crate::limits::{
    SWEEP_BOUNDARY_IDS_MAX, SWEEP_FULL_PAGE_MIN, SWEEP_PAGE_EVENTS_MAX, SWEEP_PAGE_LIMIT, SWEEP_PAGES_MAX,
};
use crate::sync::filters::{Bounds, Subject};
use crate::time::UnixTime;

/// A question and how far its answer has come.
#[derive(Clone, Debug)]
pub struct Sweep {
    subject: Subject,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
    /// Ids already had whose `created_at` is `until`.
    boundary: BTreeSet<EventId>,
    page: Page,
    pages: usize,
    /// Events that were asked for in the largest page so far: the relay's cap is not below that.
    largest_page: usize,
}

/// What the current page has brought.
#[derive(Clone, Debug, Default)]
struct Page {
    events: usize,
    /// Of these, events that match nothing we ask for.
    unasked: usize,
    /// Events besides that were asked for, but not now: they are newer than `until`.
    newer: usize,
    new: usize,
    oldest: Option<UnixTime>,
    /// Ids at `oldest`.
    oldest_ids: BTreeSet<EventId>,
}

/// What to do after a page has ended.
#[derive(Debug)]
pub enum PageEnd {
    /// Ask for the next page: [`Sweep::bounds`] has moved on.
    Next,
    /// As `Next`, but one full second could not be looked behind: a gap.
    NextPastGap,
    /// Replace the sweep by these two: together they ask what is left of it.
    Split(Box<[Sweep; 2]>),
    /// Everything was had.
    Done,
    /// More pages, or more events in one second, than any honest history has.
    PagesExceeded,
}

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

impl Sweep {
    /// Asks for everything `subject` matches, or only what was created at or after `since`.
    pub fn new(subject: Subject, since: Option<UnixTime>) -> Sweep {
        Sweep {
            subject,
            since,
            until: None,
            boundary: BTreeSet::new(),
            page: Page::default(),
            pages: 0,
            largest_page: 0,
        }
    }

    /// What it asks.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Where it began.
    pub fn since(&self) -> Option<UnixTime> {
        self.since
    }

    /// Two sweeps that together ask what is left of it, if it lists more than one value.
    pub fn halves(&self) -> Option<[Sweep; 2]> {
        self.subject.halves().map(|halves| halves.map(|subject| Sweep { subject, ..self.clone() }))
    }

    /// The bounds of the page to ask for now.
    pub fn bounds(&self) -> Bounds {
        Bounds { since: self.since, until: self.until, limit: SWEEP_PAGE_LIMIT }
    }

    /// Whether the current page has brought nothing yet.
    pub fn page_is_empty(&self) -> bool {
        self.page.events == 0
    }

    /// Forgets what the current page has brought, so that it can be asked for again.
    pub fn restart_page(&mut self) {
        self.page = Page::default();
    }

    /// An event came. `created_at` must be vouched for: by a valid signature or by the store. `is_asked`: it matches
    /// something that we ask for; what a relay sends besides does not tell how much it gives at once.
    pub fn on_event(&mut self, id: EventId, created_at: UnixTime, is_asked: bool) -> PageEvent {
        let page = &mut self.page;
        let is_newer = self.until.is_some_and(|until| created_at > until);
        if is_newer || self.since.is_some_and(|since| created_at < since) {
            page.newer += usize::from(is_newer && is_asked);
            return PageEvent::OutOfRange;
        }
        page.events += 1;
        page.unasked += usize::from(!is_asked);
        if page.events > SWEEP_PAGE_EVENTS_MAX {
            return PageEvent::Flood;
        }
        if !(self.until == Some(created_at) && self.boundary.contains(&id)) {
            page.new += 1;
        }
        if page.oldest.is_none_or(|oldest| created_at < oldest) {
            page.oldest = Some(created_at);
            page.oldest_ids.clear();
        }
        if page.oldest == Some(created_at) {
            page.oldest_ids.insert(id);
        }
        PageEvent::Counted
    }

    /// The page ended (EOSE).
    pub fn on_eose(&mut self) -> PageEnd {
        self.pages += 1;
        let Page { events, unasked, newer, new, oldest, oldest_ids } = std::mem::take(&mut self.page);
        let Some(oldest) = oldest else { return PageEnd::Done };
        if self.pages >= SWEEP_PAGES_MAX {
            return PageEnd::PagesExceeded;
        }
        let one_second = self.until == Some(oldest);
        match one_second {
            true => self.boundary.extend(oldest_ids),
            false => self.boundary = oldest_ids,
        }
        if self.boundary.len() > SWEEP_BOUNDARY_IDS_MAX {
            return PageEnd::PagesExceeded;
        }
        self.until = Some(oldest);
        self.largest_page = self.largest_page.max(events - unasked);
        let is_full = events + newer >= self.largest_page.max(SWEEP_FULL_PAGE_MIN);
        match (new, one_second && is_full) {
            (0, false) => PageEnd::Done,
            (0, true) => self.step_over_second(oldest),
            _ => PageEnd::Next,
        }
    }

    /// A page as full as the relay's cap may be brought nothing new, since it was all of one second or the relay ignores
    /// `until`: more may hide in that second and everything older hides behind it.
    fn step_over_second(&mut self, second: UnixTime) -> PageEnd {
        if let Some(halves) = self.halves() {
            return PageEnd::Split(Box::new(halves));
        }
        if second == UnixTime::EPOCH || self.since == Some(second) {
            return PageEnd::Done;
        }
        self.until = Some(second.minus_secs(1));
        self.boundary.clear();
        PageEnd::NextPastGap
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    fn id(n: u32) -> EventId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        EventId::from_slice(&bytes).unwrap()
    }

    /// A relay that answers newest first, ties by lowest id, and caps silently.
    fn answer(history: &[(u32, u64)], bounds: Bounds, cap: usize) -> Vec<(u32, u64)> {
        let (since, until) = (bounds.since.map(UnixTime::as_secs), bounds.until.map(UnixTime::as_secs));
        let mut events: Vec<_> = history
            .iter()
            .copied()
            .filter(|(_, at)| since.is_none_or(|since| *at >= since) && until.is_none_or(|until| *at <= until))
            .collect();
        events.sort_by_key(|(id, at)| (u64::MAX - at, *id));
        events.truncate(cap.min(bounds.limit));
        events
    }

    /// Runs a sweep to its end: ids had, pages asked, gaps counted.
    fn run(history: &[(u32, u64)], cap: usize, since: Option<u64>) -> (BTreeSet<u32>, usize, usize) {
        let (mut had, mut pages, mut gaps) = (BTreeSet::new(), 0, 0);
        let mut queue = vec![Sweep::new(Subject::Announcements, since.map(UnixTime::from_secs))];
        while let Some(mut sweep) = queue.pop() {
            pages += 1;
            assert!(pages < 10_000, "must end");
            for (n, at) in answer(history, sweep.bounds(), cap) {
                sweep.on_event(id(n), UnixTime::from_secs(at), true);
                had.insert(n);
            }
            match sweep.on_eose() {
                PageEnd::Done => {}
                PageEnd::Next => queue.push(sweep),
                PageEnd::NextPastGap => {
                    gaps += 1;
                    queue.push(sweep);
                }
                PageEnd::Split(halves) => queue.extend(*halves),
                PageEnd::PagesExceeded => panic!("too many pages"),
            }
        }
        (had, pages, gaps)
    }

    #[test]
    fn a_silent_cap_of_any_size_is_paged_to_the_end() {
        let history: Vec<(u32, u64)> = (0..1_234).map(|n| (n, 1_000 + u64::from(n) / 7)).collect();
        for cap in [8, 60, 75, 100, 250, 375, 500, 5_000] {
            let (had, _, gaps) = run(&history, cap, None);
            assert_eq!((had.len(), gaps), (history.len(), 0), "cap {cap}");
        }
    }

    #[test]
    fn seventy_five_events_in_one_second_do_not_loop() {
        let history: Vec<(u32, u64)> = (0..75).map(|n| (n, 5_000)).chain((75..100).map(|n| (n, 4_000))).collect();
        let (had, pages, gaps) = run(&history, 60, None);
        assert_eq!(
            (had.len(), gaps),
            (60 + 25, 1),
            "the 15 behind the cap are a counted gap, what is older is not lost"
        );
        assert!(pages < 10);
        assert_eq!(run(&history, 100, None).0.len(), 100);
    }

    #[test]
    fn a_full_second_is_seen_beside_what_was_not_asked_for() {
        let mut sweep = Sweep::new(Subject::Announcements, None);
        let mut ends = Vec::new();
        for _ in 0..2 {
            // Strangers of just now come with each page; on all but the first, that is out of range.
            (1_000..1_020).for_each(|n| _ = sweep.on_event(id(n), UnixTime::from_secs(70), false));
            (0..60).for_each(|n| _ = sweep.on_event(id(n), UnixTime::from_secs(9), true));
            ends.push(sweep.on_eose());
        }
        assert!(matches!(ends[..], [PageEnd::Next, PageEnd::NextPastGap]), "{ends:?}");
    }

    #[test]
    fn a_relay_that_ignores_until_is_asked_for_less_at_once_and_in_the_end_a_gap_is_counted() {
        let page = |sweep: &mut Sweep, cap: u32| {
            (0..cap).for_each(|n| _ = sweep.on_event(id(n), UnixTime::from_secs(u64::from(1_000 - n)), true));
            sweep.on_eose()
        };
        let authors: Rc<[_]> =
            (1..=2u8).map(|n| nostr::key::Keys::parse(&format!("{n:064x}")).unwrap().public_key()).collect();
        let mut sweep = Sweep::new(Subject::Deletions(authors), None);
        assert!(matches!(page(&mut sweep, 60), PageEnd::Next));
        assert!(matches!(page(&mut sweep, 60), PageEnd::Split(_)));
        let mut sweep = Sweep::new(Subject::Announcements, None);
        let ends: Vec<_> = (0..3).map(|_| page(&mut sweep, 60)).collect();
        assert!(matches!(ends[..], [PageEnd::Next, PageEnd::NextPastGap, PageEnd::Done]), "{ends:?}");
        let mut few = Sweep::new(Subject::Announcements, None);
        let ends: Vec<_> = (0..2).map(|_| page(&mut few, SWEEP_FULL_PAGE_MIN as u32 - 1)).collect();
        assert!(matches!(ends[..], [PageEnd::Next, PageEnd::Done]), "it may have no more: {ends:?}");
    }

    #[test]
    fn known_and_refused_events_count_like_new_ones() {
        // The sweep is never told what became of an event that was asked for, so it cannot end early for that.
        let history: Vec<(u32, u64)> = (0..1_000).map(|n| (n, 10_000 + u64::from(n))).collect();
        assert_eq!(run(&history, 500, None).0.len(), 1_000);
    }

    #[test]
    fn since_is_inclusive_and_nothing_before_it_is_asked() {
        let history: Vec<(u32, u64)> = (0..100).map(|n| (n, 1_000 + u64::from(n))).collect();
        let (had, ..) = run(&history, 30, Some(1_050));
        assert_eq!(had, (50..100).collect());
    }

    #[test]
    fn an_empty_answer_ends_at_once_and_a_single_event_in_two_pages() {
        assert_eq!(run(&[], 500, None).1, 1);
        assert_eq!(run(&[(1, 7)], 500, None).1, 2);
    }

    #[test]
    fn a_full_second_is_split_while_there_is_more_than_one_value() {
        let authors: Rc<[_]> =
            (1..=4u8).map(|n| nostr::key::Keys::parse(&format!("{n:064x}")).unwrap().public_key()).collect();
        let mut sweep = Sweep::new(Subject::Deletions(authors), None);
        let mut split = None;
        for _ in 0..2 {
            (0..60).for_each(|n| assert_eq!(sweep.on_event(id(n), UnixTime::from_secs(9), true), PageEvent::Counted));
            match sweep.on_eose() {
                PageEnd::Next => {}
                PageEnd::Split(halves) => split = Some(halves),
                other => panic!("{other:?}"),
            }
        }
        let halves = split.expect("the second page of the same second splits");
        for half in *halves {
            assert!(matches!(half.subject(), Subject::Deletions(authors) if authors.len() == 2));
            assert_eq!(half.bounds().until, Some(UnixTime::from_secs(9)), "the second is asked for again");
        }
    }

    #[test]
    fn times_outside_the_question_neither_end_nor_move_it() {
        let mut sweep = Sweep::new(Subject::Announcements, Some(UnixTime::from_secs(100)));
        sweep.on_event(id(1), UnixTime::from_secs(200), true);
        assert!(matches!(sweep.on_eose(), PageEnd::Next));
        assert_eq!(sweep.on_event(id(2), UnixTime::from_secs(201), true), PageEvent::OutOfRange);
        assert_eq!(sweep.on_event(id(3), UnixTime::from_secs(99), true), PageEvent::OutOfRange);
        assert!(matches!(sweep.on_eose(), PageEnd::Done));
        assert_eq!(sweep.on_event(id(4), UnixTime::from_secs(200), true), PageEvent::Counted);
        assert_eq!(
            sweep.on_event(id(5), UnixTime::from_secs(100), true),
            PageEvent::Counted,
            "both ends are inclusive"
        );
    }

    #[test]
    fn a_page_without_end_is_a_flood() {
        let mut sweep = Sweep::new(Subject::Announcements, None);
        let mut on_event = |n| sweep.on_event(id(n), UnixTime::from_secs(9), true);
        (0..SWEEP_PAGE_EVENTS_MAX as u32).for_each(|n| assert_eq!(on_event(n), PageEvent::Counted));
        assert_eq!(on_event(SWEEP_PAGE_EVENTS_MAX as u32), PageEvent::Flood);
    }

    #[test]
    fn a_page_that_is_asked_for_again_counts_once() {
        let mut sweep = Sweep::new(Subject::Announcements, None);
        let page = |sweep: &mut Sweep| {
            (0..40).for_each(|n| assert_eq!(sweep.on_event(id(n), UnixTime::from_secs(9), true), PageEvent::Counted));
        };
        page(&mut sweep);
        sweep.restart_page();
        page(&mut sweep);
        assert!(matches!(sweep.on_eose(), PageEnd::Next));
        page(&mut sweep);
        assert!(matches!(sweep.on_eose(), PageEnd::NextPastGap), "as full as the largest page, all of one second");
        assert_eq!(sweep.bounds().until, Some(UnixTime::from_secs(8)));
    }

    #[test]
    fn another_id_of_the_boundary_second_is_news() {
        // Not every relay gives the events of one second in the same order each time.
        let mut sweep = Sweep::new(Subject::Announcements, None);
        for ids in [0..5, 3..8] {
            ids.for_each(|n| assert_eq!(sweep.on_event(id(n), UnixTime::from_secs(9), true), PageEvent::Counted));
            assert!(matches!(sweep.on_eose(), PageEnd::Next));
        }
        (0..5).for_each(|n| assert_eq!(sweep.on_event(id(n), UnixTime::from_secs(9), true), PageEvent::Counted));
        assert!(matches!(sweep.on_eose(), PageEnd::Done), "those of both pages are remembered");
    }

    #[test]
    fn a_history_without_end_is_given_up() {
        let mut older_and_older = Sweep::new(Subject::Announcements, None);
        for page in 1..=SWEEP_PAGES_MAX {
            older_and_older.on_event(id(page as u32), UnixTime::from_secs(1_000_000 - page as u64), true);
            let end = older_and_older.on_eose();
            let last = page == SWEEP_PAGES_MAX;
            assert_eq!(matches!(end, PageEnd::PagesExceeded), last, "page {page}: {end:?}");
        }
        let mut one_second = Sweep::new(Subject::Announcements, None);
        let mut ids = 0..;
        for had in (1_024..=SWEEP_BOUNDARY_IDS_MAX + 1_024).step_by(1_024) {
            for n in ids.by_ref().take(1_024) {
                one_second.on_event(id(n), UnixTime::from_secs(9), true);
            }
            let end = one_second.on_eose();
            assert_eq!(matches!(end, PageEnd::PagesExceeded), had > SWEEP_BOUNDARY_IDS_MAX, "{had} ids: {end:?}");
        }
    }
}
