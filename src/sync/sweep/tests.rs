//! A sweep against relays of all kinds.

use super::*;
use crate::limits::{SWEEP_PAGE_LIMIT, SWEEP_TIME_SPLITS_MAX};

fn id(n: u32) -> EventId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    EventId::from_slice(&bytes).unwrap()
}

/// How a relay answers.
#[derive(Clone, Copy)]
struct Manner {
    /// Events it gives at once.
    cap: usize,
    oldest_first: bool,
    excludes_bounds: bool,
    /// Events with such numbers are forged: nothing vouches for their time.
    forged: fn(u32) -> bool,
    /// Events with such numbers have no time.
    nowhere: fn(u32) -> bool,
}

const PLAIN: Manner =
    Manner { cap: 500, oldest_first: false, excludes_bounds: false, forged: |_| false, nowhere: |_| false };

const NOW: UnixTime = UnixTime::from_secs(2_000_000);
const LIMIT: usize = SWEEP_PAGE_LIMIT;

/// Ties by lowest id, and a silent cap.
fn answer(history: &[(u32, u64)], bounds: Bounds, manner: Manner) -> Vec<(u32, u64)> {
    let (since, until) = (bounds.since.map(UnixTime::as_secs), bounds.until.map(UnixTime::as_secs));
    let apart = u64::from(manner.excludes_bounds);
    let is_within =
        |at: u64| since.is_none_or(|since| at >= since + apart) && until.is_none_or(|until| at + apart <= until);
    let mut events: Vec<_> = history.iter().copied().filter(|(_, at)| is_within(*at)).collect();
    events.sort_by_key(|(id, at)| (if manner.oldest_first { *at } else { u64::MAX - at }, *id));
    events.truncate(manner.cap.min(bounds.limit));
    events
}

/// What came of a sweep.
struct Run {
    had: BTreeSet<u32>,
    pages: usize,
    gaps: Vec<(Span, GapReason)>,
    paging: Paging,
}

impl Run {
    fn counts(&self) -> (usize, usize) {
        (self.had.len(), self.gaps.len())
    }
}

/// Runs a sweep to its end, on a relay of which nothing is known.
fn run_with(history: &[(u32, u64)], manner: Manner, subject: Subject, since: Option<u64>) -> Run {
    let mut run = Run { had: BTreeSet::new(), pages: 0, gaps: Vec::new(), paging: Paging::default() };
    let begin = || vec![Sweep::new(subject.clone(), since.map(UnixTime::from_secs))];
    let mut queue = begin();
    while let Some(mut sweep) = queue.pop() {
        run.pages += 1;
        assert!(run.pages < 10_000, "must end");
        let asked = sweep.asked(&run.paging, LIMIT);
        for (n, at) in answer(history, asked, manner) {
            let at = UnixTime::from_secs(at);
            let place = match ((manner.forged)(n), (manner.nowhere)(n)) {
                (_, true) => Place::Nowhere,
                (true, _) => Place::Claimed(at),
                _ => Place::At(at),
            };
            sweep.on_event(id(n), place, true);
            run.had.insert(n);
        }
        let end = sweep.on_eose(&mut run.paging, asked, NOW);
        run.gaps.extend(sweep.take_gap());
        match end {
            PageEnd::Done => {}
            PageEnd::Next => queue.push(sweep),
            PageEnd::Split(halves) => queue.extend(*halves),
            PageEnd::PagesExceeded => panic!("too many pages"),
        }
        if run.paging.is_refuted() {
            run.paging.begin_link();
            queue = begin();
        }
    }
    run
}

/// The same, newest first with a cap: ids had, pages asked, gaps counted.
fn run(history: &[(u32, u64)], cap: usize, since: Option<u64>) -> (BTreeSet<u32>, usize, usize) {
    let Run { had, pages, gaps, .. } = run_with(history, Manner { cap, ..PLAIN }, Subject::Announcements, since);
    (had, pages, gaps.len())
}

/// A sweep on a relay that has shown that it answers as most do.
struct Alone {
    sweep: Sweep,
    paging: Paging,
}

impl Alone {
    fn new(subject: Subject, since: Option<UnixTime>) -> Alone {
        Alone { sweep: Sweep::new(subject, since), paging: Paging::proven() }
    }

    fn on_event(&mut self, n: u32, at: u64, is_asked: bool) -> PageEvent {
        self.sweep.on_event(id(n), Place::At(UnixTime::from_secs(at)), is_asked)
    }

    /// How the page ends, and whether with a gap.
    fn on_eose(&mut self) -> (PageEnd, bool) {
        let asked = self.sweep.asked(&self.paging, LIMIT);
        let end = self.sweep.on_eose(&mut self.paging, asked, NOW);
        (end, self.sweep.take_gap().is_some())
    }
}

fn authors(n: u8) -> Subject {
    Subject::Deletions((1..=n).map(|n| nostr::key::Keys::parse(&format!("{n:064x}")).unwrap().public_key()).collect())
}

/// So many events, seven in each second.
fn sevens(events: u32) -> Vec<(u32, u64)> {
    (0..events).map(|n| (n, 1_000 + u64::from(n) / 7)).collect()
}

#[test]
fn a_silent_cap_of_any_size_is_paged_to_the_end() {
    let history = sevens(1_234);
    for cap in [8, 15, 60, 75, 100, 250, 375, 500, 5_000] {
        let (had, _, gaps) = run(&history, cap, None);
        assert_eq!((had.len(), gaps), (history.len(), 0), "cap {cap}");
    }
}

#[test]
fn seventy_five_events_in_one_second_do_not_loop() {
    let history: Vec<(u32, u64)> = (0..75).map(|n| (n, 5_000)).chain((75..100).map(|n| (n, 4_000))).collect();
    let (had, pages, gaps) = run(&history, 60, None);
    assert_eq!((had.len(), gaps), (60 + 25, 1), "the 15 behind the cap are a counted gap, what is older is not lost");
    assert!(pages < 10);
    assert_eq!(run(&history, 100, None).0.len(), 100);
}

#[test]
fn a_second_that_holds_more_than_a_small_cap_is_a_gap_wherever_it_lies() {
    for at in [9_000, 1_040, 500] {
        let history: Vec<(u32, u64)> = sevens(600).into_iter().chain((600..640).map(|n| (n, at))).collect();
        let run = run_with(&history, Manner { cap: 15, ..PLAIN }, Subject::Announcements, None);
        let span = Span::of_second(UnixTime::from_secs(at));
        assert_eq!(run.gaps, [(span, GapReason::FullSecond)], "at {at}");
        let missing = 640 - run.had.len();
        assert!((25..=32).contains(&missing), "at {at}: {missing}");
    }
}

#[test]
fn a_few_events_of_one_second_are_everything_unless_more_lies_behind() {
    let few: Vec<(u32, u64)> = (0..10).map(|n| (n, 5_000)).collect();
    assert_eq!(run(&few, 500, None), ((0..10).collect(), 3, 0), "the page, the same again, and what lies behind");
    let more: Vec<(u32, u64)> = few.into_iter().chain((10..30).map(|n| (n, 4_000 - u64::from(n)))).collect();
    assert_eq!(run(&more, 6, None).2, 1, "six of ten, then older ones: it gives six at once");
    let run = run_with(&more, Manner { cap: 6, ..PLAIN }, authors(4), None);
    assert_eq!(run.gaps.len(), 4, "the model gives each author everything: {:?}", run.gaps);
}

#[test]
fn a_relay_that_gives_the_oldest_first_is_asked_from_below() {
    for (cap, excludes_bounds) in [(8, false), (60, false), (60, true), (500, true)] {
        let manner = Manner { cap, oldest_first: true, excludes_bounds, ..PLAIN };
        let run = run_with(&sevens(1_234), manner, Subject::Announcements, None);
        assert_eq!((run.counts(), run.paging.order()), ((1_234, 0), Order::OldestFirst), "cap {cap}");
    }
}

#[test]
fn the_order_is_asked_for_once_a_link() {
    let mut paging = Paging::default();
    let mut asked = 0;
    for _ in 0..3 {
        let mut sweep = Sweep::new(Subject::Announcements, None);
        loop {
            let bounds = sweep.asked(&paging, LIMIT);
            asked += usize::from(bounds.limit == 1);
            for (n, at) in answer(&sevens(100), bounds, PLAIN) {
                sweep.on_event(id(n), Place::At(UnixTime::from_secs(at)), true);
            }
            if matches!(sweep.on_eose(&mut paging, bounds, NOW), PageEnd::Done) {
                break;
            }
        }
    }
    assert_eq!((asked, paging.order()), (1, Order::NewestFirst));
}

#[test]
fn a_relay_whose_bounds_do_not_count_their_second_is_asked_for_one_more() {
    for cap in [8, 60, 375] {
        let manner = Manner { cap, excludes_bounds: true, ..PLAIN };
        let run = run_with(&sevens(1_234), manner, Subject::Announcements, None);
        assert_eq!((run.counts(), run.paging.excludes_bounds()), ((1_234, 0), true), "cap {cap}");
    }
    assert!(!run_with(&sevens(1_234), PLAIN, Subject::Announcements, None).paging.excludes_bounds());
}

#[test]
fn forged_events_are_stepped_over_wherever_they_lie() {
    let history = sevens(1_234);
    let places: [fn(u32) -> bool; 4] = [|n| n >= 500, |n| (200..900).contains(&n), |n| n < 700, |n| n % 2 == 0];
    for (place, forged) in places.into_iter().enumerate() {
        for cap in [15, 60, 500] {
            let manner = Manner { cap, forged, ..PLAIN };
            let run = run_with(&history, manner, Subject::Announcements, None);
            assert_eq!(run.counts(), (1_234, 0), "{place}, {cap}");
        }
    }
}

#[test]
fn events_without_any_time_are_told_apart_by_halving_the_time() {
    let history: Vec<(u32, u64)> = (0..400).map(|n| (n, 1_500_000 + u64::from(n) * 10)).collect();
    let manner = Manner { cap: 60, nowhere: |n| (100..300).contains(&n), ..PLAIN };
    let run = run_with(&history, manner, Subject::Announcements, None);
    assert_eq!(run.counts(), (400, 0), "in {} pages", run.pages);
    // As many in one second as the relay gives at once hide what else that second has.
    let at = |n: u32| if (100..300).contains(&n) { 1_500_000 } else { 1_400_000 + u64::from(n) * 1_000 };
    let history: Vec<(u32, u64)> = (0..400).map(|n| (n, at(n))).collect();
    let run = run_with(&history, manner, Subject::Announcements, None);
    let span = Span::of_second(UnixTime::from_secs(1_500_000));
    assert_eq!(run.gaps, [(span, GapReason::Unplaced)], "in {} pages", run.pages);
    assert!((300..1_000).all(|n| n >= 400 || run.had.contains(&n)) && (0..100).all(|n| run.had.contains(&n)));
}

#[test]
fn what_cannot_be_placed_everywhere_ends() {
    let history: Vec<(u32, u64)> = (0..20_000).map(|n| (n, u64::from(n) * 100)).collect();
    let manner = Manner { cap: 15, nowhere: |_| true, ..PLAIN };
    let run = run_with(&history, manner, Subject::Announcements, None);
    assert!(run.pages < 3 * SWEEP_TIME_SPLITS_MAX && !run.gaps.is_empty());
}

#[test]
fn a_claimed_time_counts_only_where_the_page_is_sorted_by_it() {
    let mut paging = Paging::proven();
    let mut sweep = Sweep::new(Subject::Announcements, None);
    (0..60).for_each(|n| _ = sweep.on_event(id(n), Place::At(UnixTime::from_secs(1_000 - u64::from(n))), true));
    sweep.on_event(id(60), Place::Claimed(UnixTime::EPOCH), true);
    sweep.on_event(id(61), Place::At(UnixTime::from_secs(900)), true);
    let asked = sweep.asked(&paging, LIMIT);
    assert!(matches!(sweep.on_eose(&mut paging, asked, NOW), PageEnd::Next));
    assert_eq!(sweep.until(), Some(UnixTime::from_secs(900)), "what lies behind is asked for");
}

#[test]
fn a_full_second_is_seen_beside_what_was_not_asked_for() {
    let mut alone = Alone::new(Subject::Announcements, None);
    let mut ends = Vec::new();
    for _ in 0..2 {
        // Strangers of just now come with each page; on all but the first, that is out of range.
        (1_000..1_020).for_each(|n| _ = alone.on_event(n, 70, false));
        (0..60).for_each(|n| _ = alone.on_event(n, 9, true));
        ends.push(alone.on_eose());
    }
    assert!(matches!(ends[..], [(PageEnd::Next, false), (PageEnd::Next, true)]), "{ends:?}");
}

#[test]
fn a_relay_that_ignores_until_is_asked_for_less_at_once_and_in_the_end_a_gap_is_counted() {
    let page = |alone: &mut Alone, cap: u32| {
        (0..cap).for_each(|n| _ = alone.on_event(n, u64::from(1_000 - n), true));
        alone.on_eose()
    };
    let mut alone = Alone::new(authors(2), None);
    assert!(matches!(page(&mut alone, 60), (PageEnd::Next, false)));
    assert!(matches!(page(&mut alone, 60), (PageEnd::Split(_), false)));
    let mut alone = Alone::new(Subject::Announcements, None);
    let ends: Vec<_> = (0..3).map(|_| page(&mut alone, 60)).collect();
    assert!(matches!(ends[..], [(PageEnd::Next, false), (PageEnd::Next, true), (PageEnd::Done, false)]), "{ends:?}");
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
    let mut alone = Alone::new(authors(4), None);
    let mut split = None;
    for _ in 0..2 {
        (0..60).for_each(|n| assert_eq!(alone.on_event(n, 9, true), PageEvent::Counted));
        match alone.on_eose() {
            (PageEnd::Next, false) => {}
            (PageEnd::Split(halves), false) => split = Some(halves),
            other => panic!("{other:?}"),
        }
    }
    let halves = split.expect("the second page of the same second splits");
    for half in *halves {
        assert!(matches!(half.subject(), Subject::Deletions(authors) if authors.len() == 2));
        assert_eq!(half.until(), Some(UnixTime::from_secs(9)), "the second is asked for again");
    }
}

#[test]
fn times_outside_the_question_neither_end_nor_move_it() {
    let mut alone = Alone::new(Subject::Announcements, Some(UnixTime::from_secs(100)));
    alone.on_event(1, 200, true);
    assert!(matches!(alone.on_eose(), (PageEnd::Next, false)));
    assert_eq!(alone.on_event(2, 201, true), PageEvent::OutOfRange);
    assert_eq!(alone.on_event(3, 99, true), PageEvent::OutOfRange);
    assert!(matches!(alone.on_eose(), (PageEnd::Next, false)), "the boundary second is looked for once more");
    assert_eq!(alone.sweep.asked(&alone.paging, LIMIT).until, Some(UnixTime::from_secs(201)));
    assert!(matches!(alone.on_eose(), (PageEnd::Done, false)));
    assert_eq!(alone.on_event(4, 200, true), PageEvent::Counted);
    assert_eq!(alone.on_event(5, 100, true), PageEvent::Counted, "both ends are inclusive");
}

#[test]
fn a_page_without_end_is_a_flood() {
    let mut alone = Alone::new(Subject::Announcements, None);
    (0..SWEEP_PAGE_EVENTS_MAX as u32).for_each(|n| assert_eq!(alone.on_event(n, 9, true), PageEvent::Counted));
    assert_eq!(alone.on_event(SWEEP_PAGE_EVENTS_MAX as u32, 9, true), PageEvent::Flood);
}

#[test]
fn a_page_that_is_asked_for_again_counts_once() {
    let mut alone = Alone::new(Subject::Announcements, None);
    let page = |alone: &mut Alone| {
        (0..40).for_each(|n| assert_eq!(alone.on_event(n, 9, true), PageEvent::Counted));
    };
    page(&mut alone);
    alone.sweep.restart_page();
    page(&mut alone);
    assert!(matches!(alone.on_eose(), (PageEnd::Next, false)));
    page(&mut alone);
    assert!(matches!(alone.on_eose(), (PageEnd::Next, true)), "as full as the largest page, all of one second");
    assert_eq!(alone.sweep.until(), Some(UnixTime::from_secs(8)));
}

#[test]
fn another_id_of_the_boundary_second_is_news() {
    // Not every relay gives the events of one second in the same order each time.
    let mut alone = Alone::new(Subject::Announcements, None);
    for ids in [0..4, 3..7] {
        ids.for_each(|n| assert_eq!(alone.on_event(n, 9, true), PageEvent::Counted));
        assert!(matches!(alone.on_eose(), (PageEnd::Next, false)));
    }
    (0..4).for_each(|n| assert_eq!(alone.on_event(n, 9, true), PageEvent::Counted));
    assert!(matches!(alone.on_eose(), (PageEnd::Done, false)), "those of both pages are remembered");
}

#[test]
fn a_history_without_end_is_given_up() {
    let mut older_and_older = Alone::new(Subject::Announcements, None);
    for page in 1..=SWEEP_PAGES_MAX {
        let newest = 1_000_000 - page as u64;
        older_and_older.on_event(page as u32 - 1, newest + 1, true);
        older_and_older.on_event(page as u32, newest, true);
        let (end, _) = older_and_older.on_eose();
        let last = page == SWEEP_PAGES_MAX;
        assert_eq!(matches!(end, PageEnd::PagesExceeded), last, "page {page}: {end:?}");
    }
    let mut one_second = Alone::new(Subject::Announcements, None);
    let mut ids = 0..;
    for had in (1_024..=SWEEP_BOUNDARY_IDS_MAX + 1_024).step_by(1_024) {
        for n in ids.by_ref().take(1_024) {
            one_second.on_event(n, 9, true);
        }
        let (end, _) = one_second.on_eose();
        assert_eq!(matches!(end, PageEnd::PagesExceeded), had > SWEEP_BOUNDARY_IDS_MAX, "{had} ids: {end:?}");
    }
}

#[test]
fn a_page_that_was_asked_for_before_its_bound_was_known_not_to_count_is_asked_for_again() {
    let mut alone = Alone::new(Subject::Announcements, None);
    (0..20).for_each(|n| _ = alone.on_event(n, 100 - u64::from(n), true));
    assert!(matches!(alone.on_eose(), (PageEnd::Next, false)));
    let asked = alone.sweep.asked(&alone.paging, LIMIT);
    // Another sweep shows it meanwhile.
    alone.paging.on_bounds_excluded(NOW);
    (20..40).for_each(|n| _ = alone.on_event(n, 100 - u64::from(n), true));
    assert!(matches!(alone.sweep.on_eose(&mut alone.paging, asked, NOW), PageEnd::Next));
    assert_eq!(alone.sweep.until(), Some(UnixTime::from_secs(81)), "what lies in that second may be more");
}

#[test]
fn forged_events_in_no_order_may_hide_others() {
    let mut alone = Alone::new(Subject::Announcements, None);
    for n in 0..60 {
        let place = Place::Claimed(UnixTime::from_secs(1_000 + u64::from(n) * 7 % 60));
        assert_eq!(alone.sweep.on_event(id(n), place, true), PageEvent::Counted);
    }
    assert!(matches!(alone.on_eose(), (PageEnd::Split(_), false)), "each half of the time is asked about");
}

#[test]
fn what_cannot_be_placed_shows_as_well_that_a_second_was_cut() {
    let few: Vec<(u32, u64)> = (0..10).map(|n| (n, 5_000)).collect();
    let history: Vec<(u32, u64)> = few.into_iter().chain((10..13).map(|n| (n, 4_000 - u64::from(n)))).collect();
    let manner = Manner { cap: 6, nowhere: |n| n >= 10, ..PLAIN };
    let run = run_with(&history, manner, Subject::Announcements, None);
    assert_eq!(run.gaps, [(Span::of_second(UnixTime::from_secs(5_000)), GapReason::FullSecond)]);
}
