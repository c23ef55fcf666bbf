//! Reconciling instead of paging (NIP-77), on one link: which sweeps, how many at once, their ids fetched by REQs that
//! share the subscriptions with pages, and back to pages whenever a reconciliation cannot say that it is complete.
//!
//! Sweeps without `since`, and audits, are reconciled where a relay has shown that it does: for a question that we hold nothing of, ids
//! cost a tenth of what events do, and what other questions and other relays have brought meanwhile is not sent again; nor
//! can a relay's cap on pages hide anything. A relay that has not shown it is tried in a full catch-up: with one question
//! while the others wait if it says that it reconciles; else with one of which something is held while the others go by
//! pages. Once a week a full catch-up goes by pages all the same.
//!
//! What several relays have is fetched from the one that was found to have it first; the others look again a moment later.
//!
//! The session knows neither what is stored nor what was refused: it says what it wants to know, and is told.

use std::collections::BTreeMap;

use nostr::event::EventId;

use super::subscription::Subscription;
use super::{Number, Purpose, Session, Sweep, Task};
use crate::contract::Output;
use crate::protocol::message::{neg_close_message, neg_msg_message, neg_open_message};
use crate::sync::Cx;
use crate::sync::agenda::Class;
use crate::sync::agenda::audit::By;
use crate::sync::agenda::round::RoundWhy;
use crate::sync::filters::Subject;
use crate::sync::reconcile::{Failure, NegRefusal, Reconciliation, Unserved, Verdict};
use crate::time::{Duration, Instant, UnixTime};

mod fetching;

pub(super) use fetching::Fetch;

/// The reconciliations of one link.
#[derive(Debug, Default)]
pub(super) struct Reconciling {
    open: BTreeMap<u64, Open>,
}

/// A sweep that is reconciled.
#[derive(Debug)]
struct Open {
    task: Task,
    run: Reconciliation,
    /// The number in the name of the exchange that is open on the relay.
    exchange: Option<Number>,
}

impl Open {
    fn wants_set(&self) -> bool {
        self.run.verdict() == Verdict::Again
    }
}

/// The ids among what we hold that a reconciliation wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedSet<'a> {
    /// What is asked.
    pub subject: &'a Subject,
    /// Whether it names kinds ([`Subject::whole`]).
    pub names_kinds: bool,
    /// Not what was created before then.
    pub since: Option<UnixTime>,
    /// Something came since it was told last.
    pub again: bool,
}

/// What one reconciliation has found.
#[derive(Debug)]
pub struct Found {
    /// The reconciliation.
    pub of: u64,
    /// Ids that the relay has and that our set lacks.
    pub ids: Vec<EventId>,
    /// What is being fetched from another relay may be left to that one for now.
    pub may_wait: bool,
}

/// Of these, what is of use.
#[derive(Debug, Default)]
pub struct Classified {
    /// To be fetched.
    pub needed: Vec<EventId>,
    /// Being fetched from another relay.
    pub elsewhere: Vec<EventId>,
}

/// Why a sweep goes on by pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    /// We hold nothing of it, and whether the relay reconciles is not known.
    NothingHeld,
    /// Reconciliations hold as many ids as they may.
    NoRoom,
    /// It cannot be told whether what was found is everything.
    Failed(Failure),
    /// A REQ for ids was not answered.
    FetchSilent,
    /// The relay refused, or broke off.
    Refused(NegRefusal),
}

impl Fallback {
    /// The name in metrics; `None` for what was not begun.
    fn name(self) -> Option<&'static str> {
        match self {
            Fallback::NothingHeld => None,
            Fallback::NoRoom => Some("no_room"),
            Fallback::Failed(Failure::Broken) => Some("broken"),
            Fallback::Failed(Failure::Endless) => Some("endless"),
            Fallback::Failed(Failure::Unserved) => Some("unserved"),
            Fallback::FetchSilent => Some("fetch_silent"),
            Fallback::Refused(why) => Some(why.name()),
        }
    }

    /// What it says about the relay.
    fn refusal(self) -> Option<NegRefusal> {
        match self {
            Fallback::NothingHeld | Fallback::NoRoom | Fallback::Failed(Failure::Unserved) => None,
            Fallback::Failed(Failure::Broken) => Some(NegRefusal::Broken),
            Fallback::Failed(Failure::Endless) => Some(NegRefusal::Other),
            Fallback::FetchSilent => Some(NegRefusal::Ended),
            Fallback::Refused(why) => Some(why),
        }
    }
}

/// What is known of the relay.
impl Session {
    /// The link is lost. A relay that hangs up on the first question of this kind does not know it.
    pub fn on_lost(&mut self, now: UnixTime) {
        if self.reconciling.open.values().any(|open| open.exchange.is_some()) {
            self.budget.reconciling.on_refusal(NegRefusal::LinkLost, now);
        }
    }

    /// Whether the round is a full catch-up by reconciling, with a relay that has shown that it does.
    pub fn reconciles_all(&self) -> bool {
        self.agenda.round.why == RoundWhy::FullCatchUp(By::Sets) && self.budget.reconciles()
    }

    /// Ids that reconciliations hold in memory.
    pub fn ids_held(&self) -> usize {
        self.reconciling.open.values().map(|open| open.run.ids_held()).sum()
    }
}

/// What the session wants to know.
impl Session {
    /// The set that is wanted, if one is.
    pub fn wanted_set(&self) -> Option<WantedSet<'_>> {
        let open = self.reconciling.open.values().find(|open| open.wants_set() && self.may_ask())?;
        let names_kinds = self.budget.learned.named_kinds;
        let sweep = &open.task.sweep;
        Some(WantedSet { subject: sweep.subject(), names_kinds, since: sweep.since(), again: open.run.was_opened() })
    }

    /// The ids of [`Session::wanted_set`]; `None` if there are more than reconciliations may hold.
    pub fn add_set(&mut self, held: Option<Vec<(UnixTime, EventId)>>, cx: &mut Cx<'_>) {
        let Some(key) = self.find(Open::wants_set) else { return };
        match held {
            None => self.fall_back(key, Fallback::NoRoom, cx),
            Some(held) if held.is_empty() && !self.budget.expects_reconciling() => {
                self.fall_back(key, Fallback::NothingHeld, cx)
            }
            Some(held) => self.open_exchange(key, &held, cx),
        }
        self.pump(cx);
    }

    /// Ids that a relay has and that our set lacks; the caller says with [`Session::add_needed`] which are of use.
    pub fn take_found(&mut self, now: Instant) -> Option<Found> {
        let found = |(key, open): (&u64, &mut Open)| {
            let ids = open.run.take_unclassified(now);
            (!ids.is_empty()).then(|| Found { of: *key, ids, may_wait: open.run.has_patience() })
        };
        self.reconciling.open.iter_mut().find_map(found)
    }

    /// Of what was found, what is neither held nor known to be of no use.
    pub fn add_needed(&mut self, of: u64, mut classified: Classified, cx: &mut Cx<'_>) {
        let Some(open) = self.reconciling.open.get_mut(&of) else { return };
        classified.needed.retain(|id| !self.budget.reconciling.is_unserved(id, cx.state.last_seq()));
        cx.metrics.reconcile_needed += classified.needed.len() as u64;
        open.run.add_needed(classified.needed);
        open.run.add_claimed(classified.elsewhere, cx.now.mono);
        if open.run.is_full() {
            self.cut(of, cx);
        }
        self.advance(of, cx);
        self.pump(cx);
    }

    /// When what is fetched from elsewhere should be looked up again.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.reconciling.open.values().filter_map(|open| open.run.next_look()).min()
    }
}

/// What the relay says.
impl Session {
    /// A step of an exchange came.
    pub fn on_neg_msg(&mut self, name: &str, payload: &str, cx: &mut Cx<'_>) {
        let Some(key) = self.exchange_of(name) else { return cx.metrics.messages_refused.add("no_subscription") };
        self.budget.reconciling.on_answer();
        let Some(open) = self.reconciling.open.get_mut(&key) else { return };
        match open.run.on_message(payload, cx.now.mono) {
            Ok(Some(payload)) => {
                cx.out.push_back(Output::Send { link: self.link, text: neg_msg_message(name, &payload) });
            }
            Ok(None) => self.close_exchange(key, cx),
            Err(failure) => self.fall_back(key, Fallback::Failed(failure), cx),
        }
        self.advance(key, cx);
        self.pump(cx);
    }

    /// The relay ended an exchange, or refused it, by NEG-ERR or CLOSED. Says whether it was one of ours.
    pub fn on_neg_err(&mut self, name: &str, reason: &str, max_records: Option<u64>, cx: &mut Cx<'_>) -> bool {
        let Some(key) = self.exchange_of(name) else { return false };
        self.forget_exchange(key);
        let why = NegRefusal::of_error(reason, max_records);
        match why {
            NegRefusal::RateLimited => self.cool_down(cx),
            _ => self.on_refusal(key, why, cx),
        }
        self.pump(cx);
        true
    }

    /// A NOTICE came. Says whether it speaks of a reconciliation.
    pub(super) fn on_neg_notice(&mut self, text: &str, cx: &mut Cx<'_>) -> bool {
        let waiting: Vec<u64> = self.waiting_exchanges().map(|(key, _)| key).collect();
        let Some(&newest) = waiting.last() else { return false };
        match NegRefusal::of_notice(text) {
            // The session as a whole cools down.
            None | Some(NegRefusal::RateLimited) => return false,
            Some(NegRefusal::Unsupported) => {
                for key in waiting {
                    // A NEG-CLOSE would be one more message that it does not know.
                    self.forget_exchange(key);
                    self.on_refusal(key, NegRefusal::Unsupported, cx);
                }
            }
            Some(NegRefusal::TooManyAtOnce) => self.on_too_many(cx),
            Some(why) => self.on_refusal(newest, why, cx),
        }
        self.pump(cx);
        true
    }

    fn on_refusal(&mut self, key: u64, why: NegRefusal, cx: &mut Cx<'_>) {
        if why == NegRefusal::TooManyAtOnce && self.reconciling.open.len() > 1 {
            self.budget.reconciling.on_refusal(why, cx.now.wall);
            return self.put_off(key, cx);
        }
        self.fall_back(key, Fallback::Refused(why), cx);
    }

    /// More are open than the relay allows, and it does not say which it has refused: those that it has not answered
    /// begin anew, one by one.
    fn on_too_many(&mut self, cx: &mut Cx<'_>) {
        let unanswered = |(_, open): &(&u64, &Open)| open.exchange.is_some() && !open.run.has_answered();
        let unanswered: Vec<u64> = self.reconciling.open.iter().filter(unanswered).map(|(key, _)| *key).collect();
        let alone = self.reconciling.open.len() == 1;
        self.budget.reconciling.on_refusal(NegRefusal::TooManyAtOnce, cx.now.wall);
        for key in unanswered {
            match alone {
                true => self.fall_back(key, Fallback::Refused(NegRefusal::TooManyAtOnce), cx),
                false => self.put_off(key, cx),
            }
        }
    }

    /// The session cools down: what is under way is broken off, and goes on later where the relay has answered already.
    pub(super) fn rest_reconciling(&mut self, cx: &mut Cx<'_>) {
        let keys: Vec<u64> = self.reconciling.open.keys().copied().collect();
        for key in keys {
            let Some(open) = self.reconciling.open.get(&key) else { continue };
            match open.run.waiting_since().is_some() && !open.run.has_answered() {
                true => self.fall_back(key, Fallback::Refused(NegRefusal::RateLimited), cx),
                false => self.cut(key, cx),
            }
        }
    }
}

/// Sweeps.
impl Session {
    fn may_reconcile(&self, now: UnixTime) -> bool {
        match self.agenda.round.why {
            RoundWhy::Window | RoundWhy::CatchUp => self.budget.reconciles(),
            RoundWhy::FullCatchUp(By::Sets) => self.budget.may_reconcile(now),
            RoundWhy::FullCatchUp(By::Pages) => false,
        }
    }

    /// Whether sweeps that may be reconciled wait until fewer are.
    pub(super) fn waits_to_reconcile(&self, now: UnixTime) -> bool {
        let full = self.reconciling.open.len() >= self.budget.reconciling.at_once();
        full && self.budget.expects_reconciling() && self.may_reconcile(now)
    }

    /// Takes up a sweep that is to be reconciled; gives back one that is to be paged.
    pub(super) fn take_up(&mut self, task: Task, cx: &Cx<'_>) -> Option<Task> {
        let full = self.reconciling.open.len() >= self.budget.reconciling.at_once();
        if full || !task.is_reconcilable() || !self.may_reconcile(cx.now.wall) {
            return Some(task);
        }
        let key = self.take_nth();
        let run = Reconciliation::new(cx.now.mono);
        self.reconciling.open.insert(key, Open { task, run, exchange: None });
        None
    }

    /// Whether a sweep of the round is being reconciled.
    pub(super) fn is_reconciling_round(&self) -> bool {
        self.reconciling.open.values().any(|open| open.task.purpose == Purpose::Round)
    }

    /// Breaks off what audits are reconciling.
    pub(super) fn drop_audit_reconciliations(&mut self, cx: &mut Cx<'_>) {
        while let Some(key) = self.find(|open| open.task.purpose == Purpose::Audit) {
            self.drop_reconciliation(key, cx);
        }
    }

    /// What is asked by reconciliations of which ids are being fetched.
    pub(super) fn sweeps_fetched(&self) -> impl Iterator<Item = &Sweep> {
        let is_fetched = |of: &u64| {
            self.subscriptions.values().any(|sub| matches!(sub, Subscription::Fetch { of: by, .. } if by == of))
        };
        self.reconciling.open.iter().filter(move |(of, _)| is_fetched(of)).map(|(_, open)| &open.task.sweep)
    }

    /// What a REQ for ids asks, by its reconciliation.
    pub(super) fn subject_reconciled(&self, of: u64) -> Option<&Subject> {
        self.reconciling.open.get(&of).map(|open| open.task.sweep.subject())
    }

    /// Sweeps of a purpose that are being reconciled.
    pub(super) fn reconciliations(&self, purpose: Purpose) -> usize {
        self.reconciling.open.values().filter(|open| open.task.purpose == purpose).count()
    }

    fn find(&self, is: impl Fn(&Open) -> bool) -> Option<u64> {
        self.reconciling.open.iter().find(|(_, open)| is(open)).map(|(key, _)| *key)
    }

    fn exchange_of(&self, name: &str) -> Option<u64> {
        let number = Number::named(name)?;
        self.find(|open| open.exchange == Some(number))
    }

    fn waiting_exchanges(&self) -> impl Iterator<Item = (u64, Instant)> {
        let waiting =
            |(key, open): (&u64, &Open)| open.exchange.and(open.run.waiting_since()).map(|since| (*key, since));
        self.reconciling.open.iter().filter_map(waiting)
    }

    fn open_exchange(&mut self, key: u64, held: &[(UnixTime, EventId)], cx: &mut Cx<'_>) {
        let number = Number::new(self.take_nth(), Class::Reconcile);
        let Some(open) = self.reconciling.open.get_mut(&key) else { return };
        let (sweep, purpose) = (&open.task.sweep, open.task.purpose);
        let filter = sweep.subject().whole(sweep.since(), self.budget.learned.named_kinds, cx.state);
        let payload = open.run.open(held, cx.now.mono);
        open.exchange = Some(number);
        let text = neg_open_message(&number.to_string(), &filter, &payload);
        self.agenda.on_bytes(purpose, text.len(), cx.now.mono);
        cx.out.push_back(Output::Send { link: self.link, text });
    }

    fn forget_exchange(&mut self, key: u64) {
        if let Some(open) = self.reconciling.open.get_mut(&key) {
            open.exchange = None;
        }
    }

    fn close_exchange(&mut self, key: u64, cx: &mut Cx<'_>) {
        let Some(number) = self.reconciling.open.get_mut(&key).and_then(|open| open.exchange.take()) else { return };
        cx.out.push_back(Output::Send { link: self.link, text: neg_close_message(&number.to_string()) });
    }

    fn cut(&mut self, key: u64, cx: &mut Cx<'_>) {
        self.close_exchange(key, cx);
        if let Some(open) = self.reconciling.open.get_mut(&key) {
            open.run.cut();
        }
    }

    /// Acts on where a reconciliation stands.
    fn advance(&mut self, key: u64, cx: &mut Cx<'_>) {
        let Some(open) = self.reconciling.open.get(&key) else { return };
        match open.run.verdict() {
            Verdict::Busy | Verdict::Again => {}
            Verdict::Failed(failure) => self.fall_back(key, Fallback::Failed(failure), cx),
            Verdict::Complete => {
                let Some(open) = self.reconciling.open.remove(&key) else { return };
                self.budget.reconciling.on_complete();
                cx.metrics.reconciliations.add("complete");
                // Which of its announcements it lists for their kinds was not looked at: nothing says that it hides any.
                if *open.task.sweep.subject() == Subject::Announcements && open.task.purpose == Purpose::Round {
                    self.agenda.round.tally.note_layer_1(&Subject::Announcements);
                }
                self.end(open.task, true, cx);
            }
        }
    }

    /// A reconciliation ends without a result: its sweep goes on by pages, at once.
    fn fall_back(&mut self, key: u64, why: Fallback, cx: &mut Cx<'_>) {
        let Some(mut task) = self.drop_reconciliation(key, cx) else { return };
        if let Some(name) = why.name() {
            cx.metrics.reconciliations.add(name);
        }
        if let Some(refusal) = why.refusal() {
            self.budget.reconciling.on_refusal(refusal, cx.now.wall);
        }
        task.by_pages = true;
        self.agenda.queue.push_front(task);
    }

    /// A reconciliation waits for others to end.
    fn put_off(&mut self, key: u64, cx: &mut Cx<'_>) {
        if let Some(task) = self.drop_reconciliation(key, cx) {
            cx.metrics.reconciliations.add(NegRefusal::TooManyAtOnce.name());
            self.agenda.queue.push_back(task);
        }
    }

    fn drop_reconciliation(&mut self, key: u64, cx: &mut Cx<'_>) -> Option<Task> {
        self.close_exchange(key, cx);
        self.close_where(|subscription| matches!(subscription, Subscription::Fetch { of, .. } if *of == key), cx);
        let Open { run, task, .. } = self.reconciling.open.remove(&key)?;
        cx.metrics.reconcile_unserved += run.unserved().len() as u64;
        let unserved = Unserved { state_seq: cx.state.last_seq(), ids: run.unserved().iter().copied().collect() };
        Some(Task { unserved, ..task })
    }

    /// Gives up exchanges whose answer does not come.
    pub(super) fn end_silent_exchanges(&mut self, cx: &mut Cx<'_>) {
        let timeout = cx.settings.timing.sweep_timeout;
        let silent = self.waiting_exchanges().filter(|(_, since)| *since + timeout <= cx.now.mono);
        for (key, _) in silent.collect::<Vec<_>>() {
            let why = if self.budget.reconciling.works() { NegRefusal::Ended } else { NegRefusal::Silent };
            self.fall_back(key, Fallback::Refused(why), cx);
        }
    }

    /// When the next exchange is given up for silence.
    pub(super) fn next_silent_exchange(&self, timeout: Duration) -> Option<Instant> {
        self.waiting_exchanges().map(|(_, since)| since + timeout).min()
    }
}
