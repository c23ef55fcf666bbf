//! What lives and dies with one open link to a relay: its subscriptions, its agenda, the relay's patience. The machine in `relay` decides *when*; this module does the asking and reads the answers.

use std::collections::BTreeMap;

use crate::contract::{LinkId, Output};
use crate::limits::VAIN_EVENT_BYTES;
use crate::protocol::message::close_message;
use crate::protocol::relay_url::RelayUrl;
use crate::sync::Cx;
use crate::sync::agenda::audit::Audits;
use crate::sync::agenda::round::Round;
use crate::sync::agenda::task::{Purpose, Task};
use crate::sync::agenda::units::Units;
use crate::sync::agenda::{Agenda, Class, Number};
use crate::sync::auth::Auth;
use crate::sync::budget::{Budget, Shape};
use crate::sync::filters::{Bounds, Subject, Unit, req_message};
use crate::sync::plan::{Filtering, filter_count, unit_sweeps};
use crate::sync::sweep::{PageEvent, Sweep};
use crate::time::{Instant, Now, UnixTime};

mod arrival;
mod auditing;
mod detouring;
mod heard;
mod invariants;
mod known;
mod late;
mod live;
mod next;
mod pages;
mod reconciling;
mod refused;
mod subscription;
mod timing;

pub use arrival::{Arrival, Fate, Origin};
pub use invariants::Followed;
pub use next::{Line, Wait, WaitWhy};
pub use reconciling::{Classified, Found, WantedSet};
pub use refused::Lockout;

use heard::Heard;
use late::Lateness;
use reconciling::Reconciling;
use refused::LearnedLimit;
use subscription::{Asked, Subscription};

/// An open link and all that is asked on it.
#[derive(Debug)]
pub struct Session {
    /// Whose it is, for the log.
    url: RelayUrl,
    link: LinkId,
    opened_at: Instant,
    subscriptions: BTreeMap<Number, Subscription>,
    next_subscription: u64,
    agenda: Agenda,
    /// Why nothing more is asked now.
    wait: Wait,
    lateness: Lateness,
    /// What the relay allows.
    budget: Budget,
    filtering: Filtering,
    reconciling: Reconciling,
    heard: Heard,
    /// Nothing is asked before this: the relay said that we ask too fast.
    cooldown_until: Option<Instant>,
    reception: Reception,
    learned_limit: Option<LearnedLimit>,
    /// Whether the relay knows who we are.
    auth: Auth,
}

/// Whether the relay answers us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reception {
    /// That is not known yet.
    Unknown,
    /// A live subscription was refused for who we are; what it makes of layer 1 will tell.
    Doubted,
    /// Layer 1 has reached EOSE.
    Answered,
    /// It does not.
    LockedOut(Lockout),
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
            agenda: Agenda::new(audits, cx.now),
            wait: Wait::default(),
            lateness: Lateness::default(),
            budget,
            filtering,
            reconciling: Reconciling::default(),
            heard: Heard::new(cx.now),
            cooldown_until: None,
            reception: Reception::Unknown,
            learned_limit: None,
            auth: Auth::default(),
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
        self.reception == Reception::Answered
    }

    /// The sweeps that have to finish.
    pub fn round(&self) -> &Round {
        &self.agenda.round
    }

    /// The same, to count what came.
    pub fn round_mut(&mut self) -> &mut Round {
        &mut self.agenda.round
    }

    /// What is followed, and how.
    pub fn units(&self) -> &Units {
        &self.agenda.units
    }

    /// Its audits.
    pub fn audits(&self) -> &Audits {
        &self.agenda.audits
    }

    /// What is asked on it.
    pub fn agenda_mut(&mut self) -> &mut Agenda {
        &mut self.agenda
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

    /// Why the relay does not answer us at all, if it does not.
    pub fn lockout(&self) -> Option<Lockout> {
        match self.reception {
            Reception::LockedOut(lockout) => Some(lockout),
            Reception::Unknown | Reception::Doubted | Reception::Answered => None,
        }
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
        self.agenda.units.live()
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
        let whole = self.agenda.round.is_over() && !self.agenda.units.has_pending();
        let catching_up = self.subscriptions.iter().filter_map(|(number, subscription)| match subscription {
            Subscription::Live { late: true, waiting_since: Some(_), .. } => self.agenda.units.complete_before(*number),
            _ => None,
        });
        whole.then(|| catching_up.chain(self.agenda.units.complete()).chain([self.heard.upto()]).min()).flatten()
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
    pub fn on_frame(&mut self, now: Now) {
        self.heard.on_frame(now);
    }

    /// An event came; `asked`: it matches something that was asked. Says whether too many do not. Where only the policy can
    /// tell, it says nothing of the relay.
    pub fn on_arrival(&mut self, subscription: &str, asked: bool) -> bool {
        let asked = asked || self.leaves_to_policy(subscription);
        self.heard.on_event(asked)
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
            Subscription::Page { task, heard_at, unproductive, ended, .. } => {
                *heard_at = cx.now.mono;
                *unproductive &= !is_new;
                (task, ended.is_some())
            }
            Subscription::Fetch { .. } => return self.on_fetched(number, arrival, cx),
        };
        self.agenda.round.tally.note_layer_1(task.sweep.subject());
        let is_asked = arrival.fate != Fate::Unasked;
        let page_event = task.sweep.on_event(arrival.id, arrival.place, is_asked);
        if is_late {
            self.on_late_event(arrival, cx.now);
        }
        if page_event == PageEvent::Flood
            && let Some(task) = self.close_page(number, cx)
        {
            self.fail(task, cx);
            self.pump(cx);
        }
    }

    /// EOSE came for a subscription.
    pub fn on_eose(&mut self, subscription: &str, cx: &mut Cx<'_>) {
        let Some(number) = Number::named(subscription) else { return };
        match self.subscriptions.get_mut(&number) {
            None => {}
            Some(Subscription::Live { waiting_since, late, brought, asked }) => {
                let awaited = waiting_since.take().is_some();
                if self.agenda.units.live_by(number).any(Unit::is_layer_1) {
                    self.reception = Reception::Answered;
                }
                // The relay may have cut short what it missed us in; after a first opening sweeps follow in any case.
                if awaited && *late && self.budget.may_be_cut(*brought, asked.bounds.limit) {
                    let complete = self.agenda.units.complete_before(number).unwrap_or_default();
                    let since = complete.minus_secs(cx.settings.timing.overlap_secs);
                    let units: Vec<Unit> = self.agenda.units.live_by(number).cloned().collect();
                    self.agenda.add_sweeps(unit_sweeps(units.into_iter(), Some(since)));
                }
            }
            Some(Subscription::Fetch { .. }) => self.on_fetch_end(number, true, cx),
            Some(Subscription::Page { task, ended: None, .. }) => {
                if *task.sweep.subject() == Subject::Announcements {
                    self.reception = Reception::Answered;
                }
                let events = task.sweep.page_events();
                match self.is_to_be_held(events) {
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
        self.must_wait().is_none()
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
