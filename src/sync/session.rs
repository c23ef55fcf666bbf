//! What lives and dies with one open link to a relay: its subscriptions, the sweeps that wait for one, its agenda, the
//! relay's patience. The machine in `relay` decides *when*; this module does the asking and reads the answers.

use std::collections::{BTreeMap, VecDeque};

use crate::contract::{LinkId, Output};
use crate::limits::{BACKLOG_READ_WITHIN, SLEEP_SECS_MIN, UNASKED_EVENTS_MIN, UNASKED_PERCENT_MAX, VAIN_EVENT_BYTES};
use crate::protocol::message::close_message;
use crate::protocol::relay_url::RelayUrl;
use crate::store::Seq;
use crate::sync::Cx;
use crate::sync::agenda::{Agenda, Class, Number};
use crate::sync::audit::Audits;
use crate::sync::auth::Auth;
use crate::sync::budget::{Budget, Shape};
use crate::sync::filters::{Bounds, Subject, Unit, req_message};
use crate::sync::liveness::Liveness;
use crate::sync::plan::{Filtering, filter_count, unit_sweeps};
use crate::sync::round::Round;
use crate::sync::sweep::{PageEvent, Sweep};
use crate::time::{Instant, Now, UnixTime};

mod arrival;
mod auditing;
mod detouring;
mod invariants;
mod known;
mod late;
mod live;
mod next;
mod pages;
mod queue;
mod reconciling;
mod refused;
mod subscription;
mod threads;
mod timing;

pub use arrival::{Arrival, Fate, Origin};
pub use invariants::Followed;
pub use next::{Line, Wait};
pub use reconciling::{Classified, Found, WantedSet};
pub use refused::Lockout;
pub use threads::{ThreadPart, WantedThread};

use late::Lateness;
use queue::Queue;
use reconciling::Reconciling;
use refused::LearnedLimit;
use subscription::{Asked, Purpose, Subscription, Task};
use threads::Threads;

/// An open link and all that is asked on it.
#[derive(Debug)]
pub struct Session {
    /// Whose it is, for the log.
    url: RelayUrl,
    link: LinkId,
    opened_at: Instant,
    subscriptions: BTreeMap<Number, Subscription>,
    next_subscription: u64,
    queue: Queue,
    /// Sweeps of the round that are asked when all before them have ended, stage by stage.
    later: VecDeque<Vec<Sweep>>,
    overview: Overview,
    retries: Vec<(Instant, Task)>,
    agenda: Agenda,
    audits: Audits,
    /// Of both, what was asked last.
    last_polled: Purpose,
    threads: Threads,
    lateness: Lateness,
    /// What the relay allows.
    budget: Budget,
    filtering: Filtering,
    reconciling: Reconciling,
    round: Round,
    liveness: Liveness,
    /// When the last frame came.
    heard: Now,
    /// After a sleep, what was sent before it may still come until then.
    backlog_until: Instant,
    last_frame: UnixTime,
    /// Nothing is asked before this: the relay said that we ask too fast.
    cooldown_until: Option<Instant>,
    /// Layer 1 has reached EOSE.
    answered: bool,
    /// A live subscription was refused before layer 1 was answered, for who we are.
    doubted: bool,
    /// The relay does not answer us at all.
    lockout: Option<Lockout>,
    learned_limit: Option<LearnedLimit>,
    /// It has used up what may be asked in vain.
    paused: bool,
    /// Whether the relay knows who we are.
    auth: Auth,
    /// Events that came, and those of them that nothing was asked for.
    events: u64,
    unasked: u64,
    seen: Seen,
}

/// A round's first look at everything the relay has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overview {
    /// There is none, or it has found something.
    None,
    /// It is being taken.
    Open {
        /// New events that the round had brought when it began.
        new: u64,
        /// The last number that had changed what we follow by then.
        followed: Seq,
    },
    /// It has found nothing.
    Sufficed,
}

/// What the pages of layer 1 have brought in this round.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    by_kind: u64,
    by_identifier: u64,
}

impl Session {
    /// A link that has just opened.
    pub fn new(url: RelayUrl, link: LinkId, mut budget: Budget, cx: &Cx<'_>) -> Session {
        budget.paging.begin_link();
        let filtering = Filtering::ByTag(budget.shape(cx.settings.limits.filter_values_max));
        let audits = Audits::of_link(link, &budget, cx.now);
        Session {
            url,
            link,
            opened_at: cx.now.mono,
            subscriptions: BTreeMap::new(),
            next_subscription: 0,
            queue: Queue::default(),
            later: VecDeque::new(),
            overview: Overview::None,
            retries: Vec::new(),
            agenda: Agenda::default(),
            audits,
            last_polled: Purpose::Audit,
            threads: Threads::default(),
            lateness: Lateness::default(),
            budget,
            filtering,
            reconciling: Reconciling::default(),
            round: Round::new(cx.now),
            liveness: Liveness::new(cx.now.mono),
            heard: cx.now,
            backlog_until: cx.now.mono,
            last_frame: cx.now.wall,
            cooldown_until: None,
            answered: false,
            doubted: false,
            lockout: None,
            learned_limit: None,
            paused: false,
            auth: Auth::default(),
            events: 0,
            unasked: 0,
            seen: Seen::default(),
        }
    }

    /// The link.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// When the link opened.
    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// Whether layer 1 has reached EOSE.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// The sweeps that have to finish.
    pub fn round(&self) -> &Round {
        &self.round
    }

    /// The same, to count what came.
    pub fn round_mut(&mut self) -> &mut Round {
        &mut self.round
    }

    /// What is followed, and how.
    pub fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// What the relay allows.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The same, to be told of it.
    pub fn budget_mut(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// Gives it back: the session ends.
    pub fn take_budget(&mut self) -> Budget {
        std::mem::take(&mut self.budget)
    }

    /// How the relay is asked for what it shares.
    pub fn filtering(&self) -> Filtering {
        self.filtering
    }

    /// From now on the relay is asked like this. What is open stays as it is until it is opened anew.
    pub fn set_filtering(&mut self, filtering: Filtering) {
        self.filtering = filtering;
    }

    /// Whether the round's pages show that the relay hides what is asked for by kinds alone.
    pub fn hides_layer_1(&self) -> bool {
        self.seen.by_kind == 0 && self.seen.by_identifier > 0
    }

    /// Why the relay does not answer us at all, if it does not.
    pub fn lockout(&self) -> Option<Lockout> {
        self.lockout
    }

    /// The form of its filters: as chosen, within what was learned since.
    pub fn shape(&self, cx: &Cx<'_>) -> Shape {
        let chosen = self.filtering.shape();
        let shape = self.budget.shape(cx.settings.limits.filter_values_max);
        let values = if self.budget.learned.values.is_some() { shape.values.min(chosen.values) } else { chosen.values };
        Shape { values, ..shape }
    }

    /// Filters held live.
    pub fn live_filters(&self) -> usize {
        filter_count(self.live_units())
    }

    /// Units held live.
    pub fn live_units(&self) -> impl Iterator<Item = &Unit> {
        self.agenda.live()
    }

    /// Subscriptions held live.
    pub fn live_subscriptions(&self) -> usize {
        self.subscriptions.values().filter(|subscription| subscription.is_live()).count()
    }

    /// Subscriptions open, sweeps included.
    pub fn open_subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Until when nothing is asked.
    pub fn cooldown_until(&self) -> Option<Instant> {
        self.cooldown_until
    }

    /// The moment up to which this relay is complete, if every sweep of the round has finished: the last frame, or the
    /// least complete unit that is polled or was opened again.
    pub fn complete_until(&self) -> Option<UnixTime> {
        let whole = self.round.is_over() && !self.agenda.has_pending();
        let catching_up = self.subscriptions.iter().filter_map(|(number, subscription)| match subscription {
            Subscription::Live { late: true, waiting_since: Some(_), .. } => self.agenda.complete_before(*number),
            _ => None,
        });
        whole.then(|| catching_up.chain(self.agenda.complete()).chain([self.last_frame]).min()).flatten()
    }

    /// Whether this is one of our subscriptions, and what it is for.
    pub fn origin(&self, subscription: &str) -> Option<Origin> {
        let purpose = match self.subscriptions.get(&Number::named(subscription)?)? {
            Subscription::Live { .. } => return Some(Origin::Live),
            Subscription::Fetch { purpose, .. } => *purpose,
            Subscription::Page { task, .. } => task.purpose,
        };
        Some(match purpose {
            Purpose::Round | Purpose::Detour => Origin::Round,
            Purpose::Poll => Origin::Poll,
            Purpose::Audit => Origin::Audit,
        })
    }

    /// What one of our subscriptions asks, if it asks one question.
    fn subject_of(&self, subscription: &str) -> Option<&Subject> {
        match self.subscriptions.get(&Number::named(subscription)?)? {
            Subscription::Live { .. } => None,
            Subscription::Fetch { of, .. } => self.subject_reconciled(*of),
            Subscription::Page { task, .. } => Some(task.sweep.subject()),
        }
    }

    /// Any frame came.
    ///
    /// After the machine has slept, what comes first was sent before: until all that waited can have been read, frames say
    /// nothing of how far the relay has been heard.
    pub fn on_frame(&mut self, cx: &Cx<'_>) {
        self.liveness.on_frame(cx.now.mono);
        let awake = cx.now.mono.since(self.heard.mono).as_secs();
        if cx.now.wall > self.heard.wall.plus_secs(awake + SLEEP_SECS_MIN) {
            self.backlog_until = cx.now.mono + BACKLOG_READ_WITHIN;
        }
        self.heard = cx.now;
        if cx.now.mono >= self.backlog_until {
            self.last_frame = cx.now.wall;
        }
    }

    /// An event came; `asked`: it matches something that was asked. Says whether too many do not. Where only the policy can
    /// tell, it says nothing of the relay.
    pub fn on_arrival(&mut self, subscription: &str, asked: bool) -> bool {
        self.events += 1;
        if asked || self.leaves_to_policy(subscription) {
            return false;
        }
        self.unasked += 1;
        self.events >= UNASKED_EVENTS_MIN && self.unasked * 100 > self.events * UNASKED_PERCENT_MAX
    }

    /// An event came for a subscription.
    pub fn on_event(&mut self, subscription: &str, arrival: &Arrival, cx: &mut Cx<'_>) {
        let Some(number) = Number::named(subscription) else { return };
        let Some(subscription) = self.subscriptions.get_mut(&number) else { return };
        let is_new = arrival.fate == Fate::New;
        if !is_new && !subscription.is_live() {
            let bytes = if arrival.fate.is_in_vain() { arrival.bytes.max(VAIN_EVENT_BYTES) } else { arrival.bytes };
            self.budget.unproductive.on_event(bytes, cx.now.mono);
        }
        let (task, is_late) = match subscription {
            Subscription::Live { waiting_since, brought, .. } => {
                if waiting_since.is_some() {
                    *waiting_since = Some(cx.now.mono);
                    *brought += 1;
                }
                return;
            }
            Subscription::Page { task, heard_at, unproductive, ended, had_events, .. } => {
                *heard_at = cx.now.mono;
                *unproductive &= !is_new;
                *had_events |= ended.is_none();
                (task, ended.is_some())
            }
            Subscription::Fetch { .. } => return self.on_fetched(number, arrival, cx),
        };
        match task.sweep.subject() {
            Subject::Announcements => self.seen.by_kind += 1,
            Subject::Identifiers(_) => self.seen.by_identifier += 1,
            _ => {}
        }
        let is_asked = arrival.fate != Fate::Unasked;
        let page_event = task.sweep.on_event(arrival.id, arrival.place, is_asked);
        if is_late {
            self.on_late_event(arrival, cx.now);
        }
        if page_event == PageEvent::Flood
            && let Some(task) = self.close_page(number, cx)
        {
            self.fail(task, cx);
        }
    }

    /// EOSE came for a subscription.
    pub fn on_eose(&mut self, subscription: &str, cx: &mut Cx<'_>) {
        let Some(number) = Number::named(subscription) else { return };
        match self.subscriptions.get_mut(&number) {
            None => {}
            Some(Subscription::Live { waiting_since, late, brought, asked }) => {
                let awaited = waiting_since.take().is_some();
                self.answered |= self.agenda.live_by(number).any(Unit::is_layer_1);
                // The relay may have cut short what it missed us in; after a first opening sweeps follow in any case.
                if awaited && *late && self.budget.may_be_cut(*brought, asked.bounds.limit) {
                    let complete = self.agenda.complete_before(number).unwrap_or_default();
                    let since = complete.minus_secs(cx.settings.timing.overlap_secs);
                    let units: Vec<Unit> = self.agenda.live_by(number).cloned().collect();
                    self.add_sweeps(unit_sweeps(units.into_iter(), Some(since)));
                }
            }
            Some(Subscription::Fetch { .. }) => self.on_fetch_end(number, true, cx),
            Some(Subscription::Page { task, ended: None, .. }) => {
                self.answered |= *task.sweep.subject() == Subject::Announcements;
                let is_empty = task.sweep.page_is_empty();
                match self.is_to_be_held(is_empty) {
                    true => self.hold_page(number, cx.now.mono),
                    false => self.end_page(number, true, cx),
                }
            }
            Some(Subscription::Page { .. }) => {}
        }
        self.pump(cx);
    }

    /// An EVENT came that cannot be read: on a page it takes the place of one that could be.
    pub fn on_unreadable(&mut self, subscription: &str) {
        let subscription = Number::named(subscription).and_then(|number| self.subscriptions.get_mut(&number));
        if let Some(Subscription::Page { task, .. }) = subscription {
            task.sweep.on_unreadable();
        }
    }

    /// Whether the relay is not asked this at all, because it refuses to be: its coverage says so.
    fn is_left_out(&self, subject: &Subject) -> bool {
        self.budget.learned.lower_case_tags && subject.is_upper_case()
    }

    fn may_ask(&self) -> bool {
        self.cooldown_until.is_none() && self.lockout.is_none() && !self.auth.is_pending()
    }

    fn has_slot(&self) -> bool {
        let pages = self.subscriptions.len() - self.live_subscriptions();
        pages < self.budget.pages() && self.subscriptions.len() < self.budget.subscriptions()
    }

    /// Sends a REQ under a number that was never used on this link.
    fn send_req(&mut self, class: Class, subjects: &[Subject], bounds: Bounds, cx: &mut Cx<'_>) -> (Number, Asked) {
        assert!(self.subscriptions.len() < self.budget.subscriptions(), "a slot was free");
        let number = Number::new(self.take_nth(), class);
        let learned = self.budget.learned.clone();
        let text = req_message(&number.to_string(), subjects, bounds, learned.named_kinds, cx.state);
        let asked = Asked { bytes: text.len(), bounds, learned };
        cx.out.push_back(Output::Send { link: self.link, text });
        (number, asked)
    }

    /// A number that was never used on this link.
    fn take_nth(&mut self) -> u64 {
        self.next_subscription += 1;
        self.next_subscription - 1
    }

    fn close_where(&mut self, mut gone: impl FnMut(&Subscription) -> bool, cx: &mut Cx<'_>) {
        let numbers: Vec<Number> = self.subscriptions.iter().filter(|(_, sub)| gone(sub)).map(|(n, _)| *n).collect();
        for number in numbers {
            self.subscriptions.remove(&number);
            self.send_close(number, cx);
        }
    }

    fn send_close(&self, number: Number, cx: &mut Cx<'_>) {
        cx.out.push_back(Output::Send { link: self.link, text: close_message(&number.to_string()) });
    }
}
