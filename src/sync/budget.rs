//! What one relay allows, and what follows from it for what it is asked: told by its NIP-11 document, learned from its
//! refusals. What nobody told starts at what the strictest common relay takes, and a refusal only ever lowers it, by at
//! least half where the relay names no number: learning ends after a few steps and never loops.
//!
//! What was learned is kept in the store and believed for [`LEARNED_FOR`]: relays are upgraded.

use serde::{Deserialize, Serialize};

use crate::limits::{
    CLOCK_SLACK_SECS, FILTER_VALUES_WIDE_MAX, INFO_PERIOD, LEARNED_FOR, LIVE_SUBSCRIPTIONS_RESERVE, PAGE_LIMIT_MIN,
    RELAY_SUBSCRIPTIONS_MAX, RELAY_SUBSCRIPTIONS_UNTOLD, REQ_BYTES_MIN, REQ_BYTES_TOLD_MAX, REQ_BYTES_UNTOLD,
    REQ_FILTERS_MAX, SWEEP_FULL_PAGE_MIN, SWEEP_PAGE_LIMIT, SWEEP_PAGE_LIMIT_SMALL, SWEEPS_IN_FLIGHT_MAX, Timing,
};
use crate::protocol::relay_info::RelayInfo;
use crate::sync::agenda::audit::By;
use crate::sync::detour::Detours;
use crate::sync::filters::ID_BYTES;
use crate::sync::gap::Gaps;
use crate::sync::liveness::IdleDrops;
use crate::sync::paging::Paging;
use crate::sync::places::Standing;
use crate::sync::reconcile::{Manner, Record};
use crate::sync::refusal::Refusal;
use crate::sync::unproductive::Unproductive;
use crate::time::{Duration, UnixTime};

/// What one relay allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// What it says of itself; `None` if it says nothing.
    pub info: Option<RelayInfo>,
    /// When it was last asked for that; [`UnixTime::EPOCH`] for never.
    pub asked_at: UnixTime,
    /// When the last audit that found everything began; [`UnixTime::EPOCH`] for never.
    pub audited_at: UnixTime,
    /// What its refusals have taught.
    pub learned: Learned,
    /// What its reconciling has shown.
    pub reconciling: Record,
    /// What its pages have shown.
    pub paging: Paging,
    /// What cannot be had from it.
    pub gaps: Gaps,
    /// What ended a link and is looked for.
    #[serde(skip)]
    pub detours: Detours,
    /// After how much silence its links are dropped.
    pub idle: IdleDrops,
    /// What decides about its place.
    pub standing: Standing,
    /// What catch-ups that bring nothing may still cost.
    #[serde(skip)]
    pub unproductive: Unproductive,
    /// It differs from what was last written.
    #[serde(skip)]
    changed: bool,
}

/// What a relay's refusals have taught. `None` and `false`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// When the last of it was learned.
    pub at: UnixTime,
    /// Subscriptions open at once.
    pub subscriptions: Option<usize>,
    /// Filters in one REQ.
    pub filters: Option<usize>,
    /// Values in one filter.
    pub values: Option<usize>,
    /// Bytes of one REQ.
    pub bytes: Option<usize>,
    /// `limit` of one filter.
    pub limit: Option<usize>,
    /// It takes a layer 1 that asks for many events for a scraper's.
    pub small_pages: bool,
    /// It refuses filters that name no kinds.
    pub named_kinds: bool,
    /// It refuses filters for upper-case tags.
    pub lower_case_tags: bool,
    /// It answers filters that name kinds alone with nothing.
    pub tagged_layer_1: bool,
    /// It says that it holds git events only, and most of them are not ours.
    pub crowded: bool,
}

/// The form that a relay's filters and REQs take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Values in one tag list of one filter.
    pub values: usize,
    /// Filters in one REQ.
    pub filters: usize,
    /// Bytes of one REQ.
    pub bytes: usize,
    /// Whether layers 2 and 3 name the kinds they ask for.
    pub named_kinds: bool,
    /// Whether layer 1 names the followed identifiers.
    pub tagged_layer_1: bool,
}

/// A REQ that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its filters.
    pub filters: usize,
    /// Values of its largest filter.
    pub values: usize,
    /// Its bytes.
    pub bytes: usize,
    /// Subscriptions that were open, itself included.
    pub open: usize,
    /// `limit` of its filters.
    pub limit: usize,
    /// Whether one of its filters asks for announcements by kind alone.
    pub layer_1: bool,
    /// Whether it names no kinds.
    pub kindless: bool,
    /// Whether it asks for upper-case tags.
    pub upper_case: bool,
    /// Whether something was learned since it was asked.
    pub is_old: bool,
}

impl Budget {
    /// Subscriptions that may be open at once, sweeps included.
    pub fn subscriptions(&self) -> usize {
        let told = self.advertised(|info| info.max_subscriptions).unwrap_or(RELAY_SUBSCRIPTIONS_UNTOLD);
        told.min(self.learned.subscriptions.unwrap_or(usize::MAX)).clamp(1, RELAY_SUBSCRIPTIONS_MAX)
    }

    /// Of these, how many may be live; the rest is for sweeps. With a single one, everything is polled.
    pub fn live_subscriptions(&self) -> usize {
        let all = self.subscriptions();
        all - LIVE_SUBSCRIPTIONS_RESERVE.min(all.div_ceil(2))
    }

    /// Pages that may be open at once.
    pub fn pages(&self) -> usize {
        SWEEPS_IN_FLIGHT_MAX.min(self.subscriptions())
    }

    /// The form of what it is asked. `values_max`: the operator's own bound.
    pub fn shape(&self, values_max: usize) -> Shape {
        Shape {
            values: self.learned.values.unwrap_or(usize::MAX).min(values_max).max(1),
            filters: self.learned.filters.unwrap_or(usize::MAX).clamp(1, REQ_FILTERS_MAX),
            bytes: self.bytes(),
            named_kinds: self.learned.named_kinds,
            tagged_layer_1: self.learned.tagged_layer_1,
        }
    }

    /// The same with as many values in a filter as fill a REQ, if the relay has said how long a message it takes: where
    /// the number of filters binds, larger ones carry more. Not where it has said nothing: some stores take a hundred
    /// values and answer more of them with nothing.
    pub fn wider_shape(&self, values_max: usize) -> Option<Shape> {
        let shape = self.shape(values_max);
        let told = self.advertised(|info| info.max_message_length).is_some() && self.learned.values.is_none();
        let wide = (shape.bytes / (shape.filters.max(3) * ID_BYTES)).min(FILTER_VALUES_WIDE_MAX);
        (told && values_max >= FILTER_VALUES_DEFAULT && wide > shape.values).then_some(Shape { values: wide, ..shape })
    }

    /// Bytes of one REQ.
    fn bytes(&self) -> usize {
        let told =
            self.advertised(|info| info.max_message_length).map(|bytes| (bytes / 10 * 9).min(REQ_BYTES_TOLD_MAX));
        let known = told.unwrap_or(REQ_BYTES_UNTOLD).min(self.learned.bytes.unwrap_or(usize::MAX));
        known.max(REQ_BYTES_MIN)
    }

    /// `limit` of one page. `layer_1`: of announcements by kind alone.
    pub fn page_limit(&self, layer_1: bool) -> usize {
        let told = self.advertised(|info| info.max_limit).unwrap_or(usize::MAX);
        let small = if layer_1 && self.learned.small_pages { SWEEP_PAGE_LIMIT_SMALL } else { usize::MAX };
        SWEEP_PAGE_LIMIT.min(told).min(self.learned.limit.unwrap_or(usize::MAX)).min(small).max(1)
    }

    /// `limit` of a live filter: what a relay may send of the overlap before EOSE. Not the limit of any page: a live
    /// filter and a page that begin at the same second must differ, because some relays leave a REQ that is identical to
    /// an open one unanswered. Modest where layer 1 must be, which it goes with: by a clock that is behind, the overlap is
    /// as long as a scraper's question.
    pub fn live_limit(&self) -> usize {
        let below = self.page_limit(false).saturating_sub(1);
        let other = match self.learned.small_pages || below == SWEEP_PAGE_LIMIT_SMALL {
            true => below.min(SWEEP_PAGE_LIMIT_SMALL - 1),
            false => below,
        };
        other.max(1)
    }

    /// Whether it is time to ask the relay what it says of itself. A moment in the future was written by a clock that was
    /// wrong.
    pub fn asks_again(&self, now: UnixTime) -> bool {
        let due = self.asked_at.plus_secs(INFO_PERIOD.as_secs());
        self.asked_at == UnixTime::EPOCH || due <= now || self.asked_at > now.plus_secs(CLOCK_SLACK_SECS)
    }

    /// Whether everything the relay holds is likely to be ours: it says that it holds git events only, and has not shown
    /// that most of them are others'.
    pub fn is_small(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.is_grasp) && !self.learned.crowded
    }

    /// Most of what it holds is not ours.
    pub fn note_crowd(&mut self, now: UnixTime) {
        self.note(now, |learned| learned.crowded = true);
    }

    /// Whether an answer of so many events may not have been all. `limit`: what it was asked with.
    pub fn may_be_cut(&self, events: usize, limit: usize) -> bool {
        events >= SWEEP_FULL_PAGE_MIN || events >= limit || self.paging.was_cut(events)
    }

    /// Learns from a refusal. Says whether the same question, in a form that the budget now allows, is worth another try:
    /// each one within the budget that is refused makes it smaller, until nothing is left to try. One that was under way
    /// when the last of it was learned, and is not within it, teaches nothing.
    pub fn learn(&mut self, refusal: Refusal, req: Refused, now: UnixTime) -> bool {
        if req.is_old && !self.allows(&req) {
            return true;
        }
        let limit = self.page_limit(false).min(req.limit);
        self.note(now, |learned| lower_by(learned, refusal, req, limit));
        !self.allows(&req)
    }

    /// Changes what is learned, and when that was. Says whether anything has changed.
    fn note(&mut self, now: UnixTime, change: impl FnOnce(&mut Learned)) -> bool {
        let before = self.learned.clone();
        change(&mut self.learned);
        let news = self.learned != before;
        if news {
            self.learned.at = now;
            self.changed = true;
        }
        news
    }

    /// Nothing but what decides about its place.
    pub fn anew(&self) -> Budget {
        Budget { standing: self.standing, ..Budget::default() }
    }

    /// Changes what decides about its place. `change` says whether that is worth writing down.
    pub fn note_standing(&mut self, change: impl FnOnce(&mut Standing) -> bool) {
        self.changed |= change(&mut self.standing);
    }

    /// An audit, or a full catch-up, that began then has found everything.
    pub fn note_audit(&mut self, began: UnixTime) {
        self.audited_at = began;
        self.changed = true;
    }

    /// The relay was asked what it says of itself. `None`: it has not said; what it said before stands.
    pub fn on_info(&mut self, info: Option<RelayInfo>) {
        self.info = info.or(self.info.take());
        self.changed = true;
    }

    /// Whether its NIP-11 document lists NIP-77; `None` if it lists nothing.
    fn lists_reconciling(&self) -> Option<bool> {
        let nips = self.info.as_ref()?.supported_nips.as_deref()?;
        Some(nips.contains(&77))
    }

    /// Whether something ends links, or is looked for because it may: a reconciliation would list it, to be fetched by its id.
    pub fn goes_around(&self) -> bool {
        self.gaps.end_links() || self.detours.is_open()
    }

    /// Whether it has shown that it reconciles, and nothing stands in the way.
    pub fn reconciles(&self) -> bool {
        !self.goes_around() && self.reconciling.works()
    }

    /// A full catch-up begins: what cannot be had is found anew, and whether EOSE can be believed. By pages if it is time for
    /// that.
    pub fn begin_full(&mut self, now: UnixTime) -> By {
        self.gaps.begin_full(now);
        self.paging.begin_full(now);
        if self.reconciling.pages_due(now) { By::Pages } else { By::Sets }
    }

    /// Whether it is worth asking for a reconciliation.
    pub fn may_reconcile(&self, now: UnixTime) -> bool {
        !self.goes_around() && self.reconciling.may_try(self.lists_reconciling(), now)
    }

    /// Whether it will answer, as far as can be told.
    pub fn expects_reconciling(&self) -> bool {
        self.reconciling.is_expected(self.lists_reconciling())
    }

    /// How full catch-ups are done, for the status.
    pub fn manner(&self) -> Manner {
        self.reconciling.manner(self.lists_reconciling())
    }

    /// Whether a question has the form that the budget allows.
    fn allows(&self, req: &Refused) -> bool {
        let shape = self.shape(usize::MAX);
        req.filters <= shape.filters
            && req.values <= shape.values
            && (req.bytes <= shape.bytes || req.filters <= 1 && req.values <= 1)
            && req.open <= self.subscriptions()
            && req.limit <= self.page_limit(req.layer_1)
            && !(req.kindless && shape.named_kinds)
            && !(req.upper_case && self.learned.lower_case_tags)
    }

    /// Layer 1 was refused without a word that says why: it may have asked for too much at once.
    pub fn use_small_pages(&mut self, now: UnixTime) {
        self.note(now, |learned| learned.small_pages = true);
    }

    /// A full catch-up found nothing by kinds alone, and something by kinds and identifiers: the relay hides what it takes
    /// for a scraper's question. Says whether that is news.
    pub fn name_everything(&mut self, now: UnixTime) -> bool {
        self.note(now, |learned| (learned.tagged_layer_1, learned.named_kinds) = (true, true))
    }

    /// A link was dropped by the other side after so much silence. Says whether that was why.
    pub fn on_drop(&mut self, silence: Duration) -> bool {
        let known = self.idle.secs();
        let again = self.idle.on_drop(silence);
        self.changed |= self.idle.secs() != known;
        again
    }

    /// Silence after which a link is pinged.
    pub fn ping_after(&self, timing: &Timing) -> Duration {
        self.idle.ping_after(timing)
    }

    /// Forgets what was learned too long ago. Says whether there was any.
    pub fn forget_old(&mut self, now: UnixTime) -> bool {
        self.paging.forget_old(now);
        let old = self.learned != Learned::default() && self.learned.at.plus_secs(LEARNED_FOR.as_secs()) <= now;
        if old {
            self.learned = Learned::default();
            self.changed = true;
        }
        old
    }

    /// What the store is to keep, if that has changed since this was last asked.
    pub fn take_record(&mut self) -> Option<String> {
        let changed = std::mem::take(&mut self.changed)
            | self.reconciling.take_changed()
            | self.paging.take_changed()
            | self.gaps.take_changed();
        changed.then(|| self.to_record())
    }

    fn to_record(&self) -> String {
        serde_json::to_string(self).expect("numbers and flags are always JSON")
    }

    /// What the store has kept. A record that another version wrote and this one cannot read counts as none: it is
    /// learned again.
    pub fn from_record(record: &str) -> Budget {
        serde_json::from_str(record).unwrap_or_default()
    }

    /// What follows from a NIP-11 document alone.
    #[cfg(test)]
    pub(crate) fn of_info(info: RelayInfo) -> Budget {
        Budget { info: Some(info), ..Budget::default() }
    }

    fn advertised(&self, what: impl FnOnce(&RelayInfo) -> Option<u64>) -> Option<usize> {
        let number = self.info.as_ref().and_then(what)?;
        Some(usize::try_from(number).unwrap_or(usize::MAX))
    }
}

/// What a refusal of `req` says of the relay's limits. `limit`: of one filter, as it was asked or less.
fn lower_by(learned: &mut Learned, refusal: Refusal, req: Refused, limit: usize) {
    let lower = |known: &mut Option<usize>, to: usize| *known = Some(known.map_or(to, |known| known.min(to)));
    match refusal {
        Refusal::TooManySubscriptions(said) => {
            // No relay allows fewer than two: such a refusal means something else.
            let fewer = req.open.saturating_sub(1).max(2);
            lower(&mut learned.subscriptions, said.map_or(fewer, |said| said.clamp(2, fewer)));
        }
        Refusal::TooManyFilters(said) if req.filters > 1 => {
            // Three belong together: the letters of one tag.
            let half = if req.filters > 3 { (req.filters / 2).max(3) } else { req.filters / 2 };
            lower(&mut learned.filters, said.filter(|said| *said < req.filters).unwrap_or(half));
        }
        Refusal::TooManyFilters(_) | Refusal::FilterTooLarge if req.values > 1 => {
            lower(&mut learned.values, req.values / 2);
        }
        Refusal::MessageTooLarge(said) if req.bytes > REQ_BYTES_MIN => {
            let said = said.map(|said| said / 10 * 9).filter(|said| *said < req.bytes);
            let bytes = said.unwrap_or(req.bytes / 2).max(REQ_BYTES_MIN);
            lower(&mut learned.bytes, bytes);
            if req.filters == 1 {
                lower(&mut learned.values, (req.values * bytes / req.bytes).max(1));
            }
        }
        Refusal::MessageTooLarge(_) if req.values > 1 => lower(&mut learned.values, req.values / 2),
        Refusal::LimitTooHigh => lower(&mut learned.limit, (limit / 2).max(PAGE_LIMIT_MIN)),
        // What is beside layer 1 may be to blame, too; but a smaller layer 1 costs pages, and naming kinds costs events.
        Refusal::Underspecified if req.layer_1 && !learned.small_pages => learned.small_pages = true,
        Refusal::Underspecified | Refusal::Unsupported | Refusal::AuthRequired if req.kindless => {
            learned.named_kinds = true;
        }
        Refusal::UpperCaseTags => learned.lower_case_tags = true,
        _ => {}
    }
}

/// The operator's bound on values, unless set lower on purpose.
const FILTER_VALUES_DEFAULT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    fn told(subscriptions: u64, bytes: u64, limit: u64) -> Budget {
        let info = RelayInfo {
            max_subscriptions: Some(subscriptions),
            max_message_length: Some(bytes),
            max_limit: Some(limit),
            ..RelayInfo::default()
        };
        Budget::of_info(info)
    }

    const REQ: Refused = Refused {
        filters: 9,
        values: 100,
        bytes: 60_000,
        open: 9,
        limit: 500,
        layer_1: false,
        kindless: true,
        upper_case: false,
        is_old: false,
    };

    #[test]
    fn what_nobody_told_is_what_the_strictest_common_relay_takes() {
        let budget = Budget::default();
        assert_eq!((budget.subscriptions(), budget.live_subscriptions(), budget.pages()), (10, 8, 4));
        assert_eq!((budget.page_limit(true), budget.page_limit(false), budget.live_limit()), (500, 500, 499));
        let shape = budget.shape(100);
        assert_eq!(
            shape,
            Shape { values: 100, filters: 10, bytes: REQ_BYTES_UNTOLD, named_kinds: false, tagged_layer_1: false }
        );
        assert_eq!(budget.wider_shape(100), None, "a store may answer more values with nothing");
    }

    #[test]
    fn what_a_relay_says_is_used_within_reason() {
        let strfry = told(200, 131_072, 500);
        assert_eq!((strfry.subscriptions(), strfry.live_subscriptions()), (200, 198));
        assert_eq!(strfry.shape(100).bytes, 131_072 / 10 * 9);
        assert_eq!(strfry.wider_shape(100).map(|shape| shape.values), Some(176));
        assert_eq!(strfry.wider_shape(20), None, "the operator wants small filters");
        let tight = told(3, 65_536, 100);
        assert_eq!((tight.subscriptions(), tight.live_subscriptions(), tight.pages()), (3, 1, 3));
        assert_eq!((tight.page_limit(false), tight.live_limit()), (100, 99));
        let one = told(1, 1, 1);
        assert_eq!((one.subscriptions(), one.live_subscriptions(), one.pages()), (1, 0, 1));
        assert_eq!((one.shape(100).bytes, one.page_limit(false)), (REQ_BYTES_MIN, 1));
        let huge = told(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(huge.subscriptions(), RELAY_SUBSCRIPTIONS_MAX);
        assert_eq!((huge.shape(100).bytes, huge.page_limit(false)), (REQ_BYTES_TOLD_MAX, 500));
        assert!(huge.wider_shape(100).is_some_and(|shape| shape.values <= FILTER_VALUES_WIDE_MAX));
    }

    #[test]
    fn a_relay_is_asked_once_a_day_what_it_is() {
        let asked = |at| Budget { asked_at: UnixTime::from_secs(at), ..Budget::default() };
        let now = UnixTime::from_secs(1_000_000);
        assert!(Budget::default().asks_again(now));
        assert!(!asked(1_000_000).asks_again(now));
        let period = INFO_PERIOD.as_secs();
        assert!(!asked(1_000_001 - period).asks_again(now));
        assert!(asked(1_000_000 - period).asks_again(now));
        assert!(asked(1_001_000).asks_again(now), "by a clock that was ahead");
    }

    #[test]
    fn each_refusal_lowers_what_it_speaks_of() {
        use Refusal::*;
        let learn = |refusal| {
            let mut budget = Budget::default();
            assert!(budget.learn(refusal, REQ, NOW), "{refusal:?}");
            assert_eq!(budget.learned.at, NOW);
            budget
        };
        assert_eq!(learn(TooManySubscriptions(None)).subscriptions(), 8);
        assert_eq!(learn(TooManySubscriptions(Some(4))).subscriptions(), 4);
        assert_eq!(learn(TooManySubscriptions(Some(40))).subscriptions(), 8, "it was refused all the same");
        assert_eq!(learn(TooManyFilters(None)).shape(100).filters, 4);
        assert_eq!(learn(TooManyFilters(Some(8))).shape(100).filters, 8);
        assert_eq!(learn(FilterTooLarge).shape(100).values, 50);
        assert_eq!(learn(MessageTooLarge(None)).shape(100).bytes, 30_000);
        assert_eq!(learn(MessageTooLarge(Some(50_000))).shape(100).bytes, 45_000);
        assert_eq!(learn(LimitTooHigh).page_limit(false), 250);
        assert!(learn(Underspecified).shape(100).named_kinds);
        assert!(learn(Unsupported).shape(100).named_kinds);
        let mut budget = Budget::default();
        assert!(
            budget.learn(UpperCaseTags, Refused { upper_case: true, ..REQ }, NOW) && budget.learned.lower_case_tags
        );
    }

    #[test]
    fn layer_1_is_blamed_before_what_is_beside_it_and_nothing_that_was_under_way() {
        let mixed = |limit, kindless, is_old| Refused { layer_1: true, limit, kindless, is_old, ..REQ };
        let mut budget = Budget::default();
        let mut learn = |req| {
            let again = budget.learn(Refusal::Underspecified, req, NOW);
            (again, budget.learned.small_pages, budget.learned.named_kinds)
        };
        assert_eq!(learn(mixed(499, true, false)), (true, true, false));
        assert_eq!(learn(mixed(499, true, true)), (true, true, false), "it was under way");
        assert_eq!(learn(mixed(99, true, false)), (true, true, true));
        assert_eq!(learn(mixed(99, true, true)), (true, true, true), "it was under way");
        assert_eq!(learn(mixed(99, false, false)), (false, true, true), "nothing is left to try");
    }

    #[test]
    fn a_req_that_has_come_out_larger_than_it_should_teaches_all_the_same() {
        let mut budget = Budget::default();
        assert!(budget.learn(Refusal::MessageTooLarge(None), Refused { bytes: 1_000_000, ..REQ }, NOW));
        let first = budget.learned.bytes;
        assert!(budget.learn(Refusal::MessageTooLarge(None), Refused { bytes: 600_000, ..REQ }, NOW));
        assert!(budget.learned.bytes < first, "or it would be asked for ever");
    }

    #[test]
    fn small_pages_of_layer_1_are_small_live_and_differ_from_a_page() {
        let mut budget = Budget::default();
        assert_eq!((budget.live_limit(), budget.page_limit(true)), (499, 500));
        budget.use_small_pages(NOW);
        assert_eq!((budget.live_limit(), budget.page_limit(true), budget.page_limit(false)), (99, 100, 500));
        let mut few = told(20, 131_072, 60);
        few.use_small_pages(NOW);
        assert_eq!((few.live_limit(), few.page_limit(true)), (59, 60));
    }

    #[test]
    fn learning_ends_whatever_a_relay_says() {
        use Refusal::*;
        for refusal in [
            TooManySubscriptions(Some(usize::MAX)),
            TooManyFilters(Some(usize::MAX)),
            FilterTooLarge,
            MessageTooLarge(Some(usize::MAX)),
            LimitTooHigh,
            Underspecified,
            Unsupported,
            RateLimited,
            AuthRequired,
            Restricted,
            Other,
        ] {
            let mut budget = Budget::default();
            let again = |budget: &mut Budget| {
                let shape = budget.shape(100);
                let req = Refused {
                    filters: shape.filters,
                    values: shape.values,
                    bytes: shape.bytes,
                    open: budget.subscriptions(),
                    limit: budget.page_limit(false),
                    kindless: !shape.named_kinds,
                    ..REQ
                };
                budget.learn(refusal, req, NOW)
            };
            let tries = (0..100).take_while(|_| again(&mut budget)).count();
            assert!(tries <= 20, "{refusal:?}: {tries} tries");
        }
    }

    #[test]
    fn what_was_learned_is_kept_and_believed_for_a_while() {
        let mut budget = told(20, 131_072, 500);
        budget.learn(Refusal::TooManyFilters(None), REQ, NOW);
        budget.note_audit(NOW);
        let record = budget.take_record().expect("it has changed");
        assert_eq!((Budget::from_record(&record), budget.take_record()), (budget.clone(), None));
        assert_eq!(Budget::from_record("{\"from\":\"the future\"}"), Budget::default());
        assert!(!budget.forget_old(NOW.plus_secs(LEARNED_FOR.as_secs() - 1)));
        assert!(budget.forget_old(NOW.plus_secs(LEARNED_FOR.as_secs())));
        assert_eq!(budget.shape(100).filters, 10);
        assert!(budget.info.is_some(), "what it says of itself is another matter");
    }
}
