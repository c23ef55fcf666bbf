//! The state machine of one remote relay (spec section 6).
//!
//! ```text
//! Idle ──> Connecting ──> Catchup ──> Live <──> Consolidating
//!            ^   │           ^         │
//!            │   v           └─────────┘ daily
//!         Backoff <── any state whose link is lost          Closing <── any state, when no repo needs the relay
//! ```
//!
//! Connecting begins with the question what the relay says of itself, if that was not asked of late.
//!
//! A link whose loss was not a failure is dialled again from where it was. `Relay::enter` is the only function that
//! changes the state; it refuses a change that [`StateName::leads_to`] does not list. After a panic alone, which may have
//! left any state, `Relay::recover` puts Backoff in its place.
//!
//! The machine decides when to dial, what to ask and when that is complete. What an event is worth, it is told.

use std::collections::BTreeSet;

use log::{debug, info};
use nostr::event::EventId;

use crate::contract::{CloseReason, Output};
use crate::protocol::relay_url::RelayUrl;
use crate::state::{RepoId, RootId};
use crate::store::{Progress, Seq};
use crate::sync::Cx;
use crate::sync::budget::Budget;
use crate::sync::filters::Unit;
use crate::sync::health::Health;
use crate::sync::places::Standing;
use crate::sync::plan::{Reach, identifier_sweeps, increment_sweeps, units_of};
use crate::sync::progress::RelayProgress;
use crate::sync::relay::dialling::{Form, Step};
use crate::sync::relay::linked::Linked;
use crate::sync::session::{Arrival, Fate, Lockout, Origin, Session};
use crate::time::{Instant, UnixTime};

mod auditing;
mod dialling;
mod fault;
mod flood;
mod inquiry;
mod invariants;
mod linked;
mod names;
mod reconciling;
#[cfg(test)]
mod tests;
mod transitions;

pub use fault::Before;
pub use names::{StateName, Why};

/// The machine's state; each variant owns what exists only in it.
#[derive(Debug)]
enum State {
    Idle,
    Backoff { until: Instant },
    Connecting { step: Step, deadline: Instant, form: Form },
    Catchup { linked: Box<Linked> },
    Live { linked: Box<Linked> },
    Consolidating { linked: Box<Linked> },
    Closing,
}

/// Totals over the relay's life in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Dials that led to an open link.
    pub dials_ok: u64,
    /// Dials that did not.
    pub dials_failed: u64,
    /// Events that only a catch-up found.
    pub gap_events: u64,
}

/// What a closed window means to one relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Repos that are newly shared.
    pub gained: BTreeSet<RepoId>,
    /// Shared repos for which somebody became invited or confirmed.
    pub maintainers_changed: BTreeSet<RepoId>,
    /// New root events.
    pub roots: BTreeSet<RootId>,
    /// With it, windows have brought every root event up to this number; the state may know later ones, of a batch that
    /// is not committed yet.
    pub upto: Seq,
}

impl News {
    /// Repos and root events in it.
    pub fn len(&self) -> usize {
        self.gained.len() + self.maintainers_changed.len() + self.roots.len()
    }

    /// Whether nothing is new.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out at most `max` repos and root events. Only the last part says how far windows have come with it.
    pub fn take(&mut self, max: usize) -> News {
        let mut left = max;
        let gained = take_first(&mut self.gained, &mut left);
        let maintainers_changed = take_first(&mut self.maintainers_changed, &mut left);
        let roots = take_first(&mut self.roots, &mut left);
        let upto = if self.is_empty() { self.upto } else { 0 };
        News { gained, maintainers_changed, roots, upto }
    }
}

/// At most `left` of them, which are then fewer.
fn take_first<T: Copy + Ord>(of: &mut BTreeSet<T>, left: &mut usize) -> BTreeSet<T> {
    let rest = of.iter().nth(*left).copied().map_or_else(BTreeSet::new, |next| of.split_off(&next));
    let first = std::mem::replace(of, rest);
    *left -= first.len();
    first
}

/// One remote relay.
#[derive(Debug)]
pub struct Relay {
    /// With the path in the form by which it is dialled.
    url: RelayUrl,
    state: State,
    entered: UnixTime,
    why: Why,
    /// Why the last link was lost, or did not come to be, and when.
    lost: Option<(Why, UnixTime)>,
    health: Health,
    /// Until when it was to be left alone when it was last dialled: a probe of our own network changes nothing of that.
    rests_until: Instant,
    progress: RelayProgress,
    /// Repos that a window will have asked about once more: they are not confirmed before, on whatever link. The state
    /// says so once for each window, whatever comes after.
    pending_requery: BTreeSet<RepoId>,
    /// What it allows; `None` while a link is open: its session has it.
    budget: Option<Budget>,
    /// It has asked not to be dialled before this.
    dial_not_before: Instant,
    /// It is not asked before this what it is.
    inquire_not_before: Instant,
    unsaved: Vec<Progress>,
    /// `through` has moved since it was last written.
    through_moved_at: Option<Instant>,
    totals: Totals,
}

impl Relay {
    /// A relay that is to be dialled at once.
    pub fn new(url: RelayUrl, progress: RelayProgress, budget: Budget, cx: &mut Cx<'_>) -> Relay {
        cx.metrics.state_entries.add(StateName::Idle.as_str());
        Relay {
            url,
            state: State::Idle,
            entered: cx.now.wall,
            why: Why::Needed,
            lost: None,
            health: Health::new(cx.now.mono),
            rests_until: cx.now.mono,
            progress,
            pending_requery: BTreeSet::new(),
            budget: Some(budget),
            dial_not_before: Instant::ZERO,
            inquire_not_before: Instant::ZERO,
            unsaved: Vec::new(),
            through_moved_at: None,
            totals: Totals::default(),
        }
    }

    /// Its URL.
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// Its state.
    pub fn state_name(&self) -> StateName {
        match &self.state {
            State::Idle => StateName::Idle,
            State::Backoff { .. } => StateName::Backoff,
            State::Connecting { .. } => StateName::Connecting,
            State::Catchup { .. } => StateName::Catchup,
            State::Live { .. } => StateName::Live,
            State::Consolidating { .. } => StateName::Consolidating,
            State::Closing => StateName::Closing,
        }
    }

    /// When and why the state was entered.
    pub fn entered(&self) -> (UnixTime, Why) {
        (self.entered, self.why)
    }

    /// Why and when its last link was lost, or did not come to be.
    pub fn last_lost(&self) -> Option<(Why, UnixTime)> {
        self.lost
    }

    /// Its dialling record.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What is complete with it.
    pub fn progress(&self) -> &RelayProgress {
        &self.progress
    }

    /// What it allows.
    pub fn budget(&self) -> &Budget {
        let of_session = self.session().map(Session::budget);
        self.budget.as_ref().or(of_session).expect("it is here or with the session")
    }

    fn budget_mut(&mut self) -> &mut Budget {
        let of_session = linked_in(&mut self.state).map(|linked| linked.session.budget_mut());
        self.budget.as_mut().or(of_session).expect("it is here or with the session")
    }

    /// Why it is left alone because it answers nothing that we ask, if it is.
    pub fn locked_out(&self) -> Option<Lockout> {
        match (&self.state, self.why) {
            (State::Backoff { .. }, Why::LockedOut(lockout)) => Some(lockout),
            _ => None,
        }
    }

    /// Its totals.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Its open link, if there is one.
    pub fn session(&self) -> Option<&Session> {
        self.linked().map(|linked| &linked.session)
    }

    /// Whether it has been asked for everything it shares, and nothing of that is under way.
    pub fn is_caught_up(&self) -> bool {
        let asked = self.progress.full_catchup() != UnixTime::EPOCH;
        asked && self.session().is_some_and(|session| session.round().is_empty())
    }

    /// Whether some sweep has failed for good on this link, so that `through` stands still.
    pub fn is_incomplete(&self) -> bool {
        self.linked().is_some_and(Linked::is_incomplete)
    }

    /// What decides about its place.
    pub fn standing(&self, now: UnixTime) -> Standing {
        let is_stable = self.linked().is_some_and(|linked| linked.stable);
        let told = self.progress.through().max(self.progress.full_catchup());
        self.budget().standing.reached_by(if is_stable { now } else { told })
    }

    /// What is to be known of it when it gets a place again. Only once it is closed.
    pub fn into_known(self) -> (RelayUrl, RelayProgress, Budget) {
        let budget = self.budget.expect("no link is open");
        (self.url, self.progress, budget)
    }

    /// What is to be written with the next commit.
    pub fn take_unsaved(&mut self) -> Vec<Progress> {
        std::mem::take(&mut self.unsaved)
    }

    /// `through`, if it has moved since it was last written. The caller writes it.
    pub fn take_moved_through(&mut self) -> Option<Progress> {
        self.through_moved_at.take().map(|_| self.progress_record())
    }

    /// Since when a moved `through` has been waiting to be written.
    pub fn through_moved_at(&self) -> Option<Instant> {
        self.through_moved_at
    }

    /// A frame came that says nothing else.
    pub fn on_alive(&mut self, cx: &mut Cx<'_>) {
        if self.note_useless_frame(cx) {
            return;
        }
        self.run_transitions(cx);
    }

    /// An EVENT came that cannot be read. `subscription`: for which, if that can.
    pub fn on_unreadable(&mut self, subscription: Option<&str>, cx: &mut Cx<'_>) {
        if let (Some(linked), Some(subscription)) = (linked_in(&mut self.state), subscription) {
            linked.session.on_unreadable(subscription);
        }
        self.on_alive(cx);
    }

    /// Whether a subscription was a page that was closed at its EOSE of late.
    pub fn has_just_closed(&self, subscription: &str) -> bool {
        self.session().is_some_and(|session| session.has_just_closed(subscription))
    }

    /// An event came for such a page, or for no subscription of ours. `created_at`: of such a page, as it claims.
    pub fn on_stray(&mut self, created_at: Option<UnixTime>, cx: &mut Cx<'_>) {
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_stray(created_at, cx.now);
        }
        self.on_alive(cx);
    }

    /// What a subscription of ours is for; `None` if it is not ours.
    pub fn origin(&self, subscription: &str) -> Option<Origin> {
        self.session()?.origin(subscription)
    }

    /// An event came and was judged.
    pub fn on_event(&mut self, subscription: &str, arrival: &Arrival, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        let fate = arrival.fate;
        let origin = self.origin(subscription);
        let looked_back = match origin {
            Some(Origin::Poll | Origin::Audit) => true,
            Some(Origin::Round) => self.is_looking_back(),
            Some(Origin::Live) | None => false,
        };
        let gap = looked_back && fate == Fate::New;
        self.totals.gap_events += u64::from(gap);
        if self.note_judged(fate, origin, cx) {
            return;
        }
        if let Some(linked) = linked_in(&mut self.state) {
            if linked.session.on_arrival(subscription, fate != Fate::Unasked) {
                return self.hang_up(1008, Why::Unasked, cx);
            }
            if let Some(created_at) = arrival.place.vouched().filter(|_| gap && origin == Some(Origin::Audit)) {
                linked.session.agenda_mut().audits.on_found(created_at);
            }
            let tally = &mut linked.session.round_mut().tally;
            match fate {
                Fate::New => tally.new += 1,
                Fate::Known => tally.known += 1,
                Fate::Refused | Fate::Unasked | Fate::Forged => tally.refused += 1,
            }
            linked.session.on_event(subscription, arrival, cx);
        }
        self.run_transitions(cx);
    }

    /// Lets the session of the open link act, if there is one, and then on what follows from it.
    fn tell(&mut self, cx: &mut Cx<'_>, act: impl FnOnce(&mut Session, &mut Cx<'_>)) {
        if let Some(linked) = linked_in(&mut self.state) {
            act(&mut linked.session, cx);
        }
        self.run_transitions(cx);
    }

    /// EOSE.
    pub fn on_eose(&mut self, subscription: &str, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        self.tell(cx, |session, cx| session.on_eose(subscription, cx));
    }

    /// CLOSED.
    pub fn on_subscription_closed(&mut self, subscription: &str, why: &str, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        debug!("{}: CLOSED {subscription}: {why}", self.url);
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_closed(subscription, why, cx);
            linked.session.make_known(&self.url, cx);
        }
        self.run_transitions(cx);
    }

    /// NOTICE.
    pub fn on_notice(&mut self, text: &str, cx: &mut Cx<'_>) {
        if self.note_useless_frame(cx) {
            return;
        }
        debug!("{}: NOTICE {text}", self.url);
        self.tell(cx, |session, cx| session.on_notice(text, cx));
    }

    /// AUTH: a challenge.
    pub fn on_challenge(&mut self, challenge: &str, cx: &mut Cx<'_>) {
        if self.note_useless_frame(cx) {
            return;
        }
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_challenge(challenge, &self.url, cx);
        }
        self.run_transitions(cx);
    }

    /// OK, or not, for an event of ours.
    pub fn on_ok(&mut self, id: EventId, accepted: bool, cx: &mut Cx<'_>) {
        if self.note_useless_frame(cx) {
            return;
        }
        self.tell(cx, |session, cx| session.on_ok(id, accepted, cx));
    }

    /// A window has closed.
    pub fn on_window(&mut self, news: &News, cx: &mut Cx<'_>) {
        self.pending_requery.retain(|repo| !news.maintainers_changed.contains(repo));
        let url = &self.url;
        let Some(linked) = linked_in(&mut self.state) else { return };
        let (repos, roots) = linked.take_new(url, news, cx);
        let changed = linked.take_maintainers_changed(&news.maintainers_changed);
        let changed: BTreeSet<RepoId> = changed.difference(&repos).copied().collect();
        if linked.has_obsolete_filters {
            linked.consolidate_because.get_or_insert(Why::ReposLost);
        }
        if repos.is_empty() && roots.is_empty() && changed.is_empty() {
            return self.run_transitions(cx);
        }
        let shape = linked.session.shape(cx);
        linked.session.agenda_mut().add_sweeps(identifier_sweeps(&changed, shape, cx.state));
        if linked.will_ask_for_everything() {
            linked.session.pump(cx);
            return self.run_transitions(cx);
        }
        linked.session.agenda_mut().add_sweeps(increment_sweeps(&repos, &roots, shape, cx.state));
        let tagged = units_of(repos.iter().copied(), &roots, shape, cx.state);
        linked.session.round_mut().pass.add_threads(tagged);
        let wide = linked.session.filtering().is_unfiltered();
        let units: Vec<Unit> = match wide {
            true => Vec::new(),
            false => units_of(repos.iter().copied(), &roots, shape, cx.state).collect(),
        };
        let consolidating = matches!(self.state, State::Consolidating { .. });
        let linked = linked_in(&mut self.state).expect("it was there a moment ago");
        if consolidating || linked.outgrown_by(&self.url, &units, cx) {
            units.into_iter().for_each(|unit| linked.session.poll(unit, cx.now.wall, cx));
            linked.consolidate_because.get_or_insert(Why::TooManyFilters);
        } else {
            linked.session.add_live(units, cx);
        }
        linked.session.pump(cx);
        self.run_transitions(cx);
    }

    /// The relay shares some repos no more: if they come back, they are new to it. Returns those that were confirmed, for the
    /// caller to write that they are no longer.
    pub fn on_repos_lost(&mut self, repos: &BTreeSet<RepoId>) -> Vec<RepoId> {
        if let Some(linked) = linked_in(&mut self.state) {
            linked.let_go(repos);
        }
        self.progress.forget(repos)
    }

    /// For some shared repos somebody became invited or confirmed, as a window will say. Returns those that were
    /// confirmed, for the caller to write that they are no longer.
    pub fn on_maintainers_changed(&mut self, repos: &BTreeSet<RepoId>) -> Vec<RepoId> {
        self.pending_requery.extend(repos);
        self.progress.forget(repos)
    }

    /// Events that were held are lost: it is to be asked for everything again, as soon as a full catch-up may begin.
    pub fn on_events_lost(&mut self, cx: &Cx<'_>) {
        self.progress.on_events_lost(cx.now);
        self.unsaved.push(self.progress_record());
    }

    /// Time has passed.
    pub fn on_time(&mut self, cx: &mut Cx<'_>) {
        self.give_up_slow_inquiry(cx);
        match &mut self.state {
            State::Idle if cx.network.rests() => {
                let until = cx.now.mono;
                self.enter(Why::Needed, cx, |_| State::Backoff { until });
            }
            State::Backoff { .. } if cx.network.rests() => {}
            State::Idle => self.dial(Why::Needed, cx),
            State::Backoff { until } if *until <= cx.now.mono => self.dial(Why::WaitOver, cx),
            State::Connecting { step: Step::Waiting { .. }, .. } => {}
            State::Connecting { step, deadline, .. } if *deadline <= cx.now.mono => {
                let link = match *step {
                    Step::Inquiring(link) => {
                        cx.metrics.relay_info.add(CloseReason::Timeout.name());
                        link
                    }
                    Step::Dialling(link) => link,
                    Step::Waiting { .. } => unreachable!("that has no deadline"),
                };
                cx.out.push_back(Output::Close { link, code: 1001 });
                cx.metrics.relay_links_closed.add(CloseReason::Timeout.name());
                self.lose_link(Why::LinkClosed(CloseReason::Timeout), cx);
            }
            State::Backoff { .. } | State::Connecting { .. } | State::Closing => {}
            State::Catchup { linked } | State::Live { linked } | State::Consolidating { linked } => {
                if linked.session.on_time(cx) {
                    self.hang_up(1001, Why::Silent, cx);
                } else {
                    self.run_transitions(cx);
                }
            }
        }
    }

    /// When time next matters.
    pub fn next_deadline(&self, cx: &Cx<'_>) -> Option<Instant> {
        match &self.state {
            // The engine says when.
            State::Backoff { .. } if cx.network.rests() => None,
            State::Backoff { .. } | State::Connecting { step: Step::Waiting { .. }, .. }
                if cx.dials.is_waiting(&self.url) =>
            {
                None
            }
            State::Idle => Some(cx.now.mono),
            State::Backoff { until } => Some(*until),
            State::Connecting { deadline, .. } => Some(*deadline),
            State::Closing => None,
            State::Catchup { linked } | State::Consolidating { linked } => Some(linked.next_deadline(cx)),
            State::Live { linked } => {
                let turn = linked.session.round().is_empty().then(|| self.full_catchup_at(linked, cx));
                Some(turn.map_or(linked.next_deadline(cx), |at| at.min(linked.next_deadline(cx))))
            }
        }
    }

    /// The one function that changes the state.
    fn enter(&mut self, why: Why, cx: &mut Cx<'_>, next: impl FnOnce(State) -> State) {
        let from = self.state_name();
        self.state = next(std::mem::replace(&mut self.state, State::Closing));
        let to = self.state_name();
        assert!(from.leads_to(to), "{from:?} does not lead to {to:?}");
        self.note_entry(from, why, cx);
    }

    fn note_entry(&mut self, from: StateName, why: Why, cx: &mut Cx<'_>) {
        let to = self.state_name();
        self.entered = cx.now.wall;
        self.why = why;
        cx.metrics.state_entries.add(to.as_str());
        info!("{}: {} -> {} ({why})", self.url, from.as_str(), to.as_str());
    }

    fn linked(&self) -> Option<&Linked> {
        match &self.state {
            State::Catchup { linked } | State::Live { linked } | State::Consolidating { linked } => Some(linked),
            State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => None,
        }
    }
}

impl State {
    fn into_linked(self) -> Box<Linked> {
        match self {
            State::Catchup { linked } | State::Live { linked } | State::Consolidating { linked } => linked,
            State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => {
                unreachable!("only states with a link lead to states with a link")
            }
        }
    }
}

/// The open link of a state, by field so that the rest of the relay stays free to borrow.
fn linked_in(state: &mut State) -> Option<&mut Linked> {
    match state {
        State::Catchup { linked } | State::Live { linked } | State::Consolidating { linked } => Some(linked),
        State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => None,
    }
}
