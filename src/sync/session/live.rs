//! Opening what is to stay open: units live as far as a relay's subscriptions allow, the rest polled.

use super::subscription::{Held, Subscription, is_page_of};
use super::{Number, Purpose, Reception, Session, Sweep};
use crate::limits::LIVE_REQ_BYTES_IN_FLIGHT;
use crate::state::RootId;
use crate::sync::Cx;
use crate::sync::agenda::Class;
use crate::sync::filters::{Bounds, Subject, Unit, chunk};
use crate::sync::plan::{by_turns, fit_live, unit_sweeps};
use crate::time::UnixTime;

/// What a live subscription was for that is open no more.
#[derive(Debug)]
pub(super) struct LiveLost {
    pub(super) units: Vec<Unit>,
    /// They are complete up to this moment.
    pub(super) covered: UnixTime,
    /// It was opened later than it should have been.
    pub(super) late: bool,
}

impl Session {
    /// Opens units live as far as subscriptions allow, with `since = now − overlap`; the rest is polled. While the relay
    /// cools down, or has much to answer already, they wait for its end.
    pub fn add_live(&mut self, units: Vec<Unit>, cx: &mut Cx<'_>) {
        units.into_iter().for_each(|unit| self.agenda.units.pend(unit, cx.now.wall));
        self.open_pending(cx);
    }

    /// Polls a unit from now on; it is complete up to `complete`.
    pub fn poll(&mut self, unit: Unit, complete: UnixTime, cx: &Cx<'_>) {
        let values_max = self.shape(cx).values;
        self.agenda.units.poll(unit, complete, cx.now, values_max);
    }

    /// Closes every live subscription and every poll, then opens `units` anew. What was polled before is swept once more: the
    /// overlap of what opens does not reach back to what came late since its last whole poll.
    pub fn reopen(&mut self, units: Vec<Unit>, cx: &mut Cx<'_>) {
        let overlap = cx.settings.timing.overlap_secs;
        let complete = self.agenda.units.complete().unwrap_or(cx.now.wall).min(cx.now.wall);
        let polled = Held::of(self.agenda.units.polled());
        self.close_where(|subscription| !is_page_of(subscription, Purpose::Round), cx);
        self.drop_audit_reconciliations(cx);
        self.agenda.unfollow();
        let (fitting, rest) = fit_live(units, self.budget.live_subscriptions(), self.shape(cx), cx.state);
        let fitting: Vec<Unit> = fitting.into_iter().flatten().collect();
        let behind = fitting.iter().filter(|unit| complete < cx.now.wall && polled.meets(unit)).cloned();
        let sweeps: Vec<Sweep> = unit_sweeps(behind, Some(complete.minus_secs(overlap))).collect();
        self.add_live(fitting, cx);
        self.agenda.add_sweeps(sweeps);
        for unit in rest {
            let complete = if polled.meets(&unit) { complete } else { cx.now.wall };
            self.poll(unit, complete, cx);
        }
    }

    /// Whether something waits to be live and may be opened.
    pub(super) fn has_room_live(&self) -> bool {
        let room = self.live_bytes_unanswered() < LIVE_REQ_BYTES_IN_FLIGHT;
        self.agenda.units.has_pending() && self.may_open_live() && room
    }

    /// Opens what waits to be live, as far as the relay has few bytes to answer. Units that no subscription is left for are
    /// polled.
    pub(super) fn open_pending(&mut self, cx: &mut Cx<'_>) {
        if !self.has_room_live() {
            return;
        }
        self.shed(cx);
        let shape = self.shape(cx);
        let (mut pending, complete) = self.agenda.units.take_pending();
        let mut complete = complete.unwrap_or(cx.now.wall);
        if self.free_live() == 0
            && let Some(covered) = self.share_newest(&mut pending, cx)
        {
            complete = complete.min(covered);
        }
        let free = self.free_live();
        let units = pending.into_iter().flat_map(|unit| match unit.values() > shape.values {
            true => unit.reshape(shape, cx.state),
            false => vec![unit],
        });
        // A repo that was lost and is back may still be live; the same twice would be an identical REQ, too.
        let mut units: Vec<Unit> = units.collect();
        units.retain(|unit| !self.live_units().any(|live| live == unit));
        let (reqs, rest) = fit_live(units, free, shape, cx.state);
        for unit in rest {
            self.poll(unit, complete, cx);
        }
        let mut reqs = reqs.into_iter();
        while self.live_bytes_unanswered() < LIVE_REQ_BYTES_IN_FLIGHT {
            let Some(units) = reqs.next() else { break };
            self.open_live(units, complete, cx);
        }
        reqs.flatten().for_each(|unit| self.agenda.units.pend(unit, complete));
    }

    fn free_live(&self) -> usize {
        self.budget.live_subscriptions().saturating_sub(self.live_subscriptions())
    }

    /// No subscription is free for what is new: it shares the newest one that is for root events alone, which is closed.
    /// What that held and the root events of `pending` are ordered anew, so that what is polled instead is of those repos
    /// that have most of it: a flood displaces its own. Returns up to when what it held is complete.
    fn share_newest(&mut self, pending: &mut Vec<Unit>, cx: &mut Cx<'_>) -> Option<UnixTime> {
        if pending.iter().all(Unit::is_layer_1) {
            return None;
        }
        let for_roots = |number: &Number| self.agenda.units.live_by(*number).all(|unit| matches!(unit, Unit::Roots(_)));
        let newest = self.subscriptions.iter().rev().filter(|(_, subscription)| subscription.is_live());
        let newest = newest.map(|(number, _)| *number).find(for_roots)?;
        self.send_close(newest, cx);
        let LiveLost { units, covered, .. } = self.lose_live(newest, "shared", cx)?;
        let (roots, others): (Vec<Unit>, Vec<Unit>) =
            pending.drain(..).chain(units).partition(|unit| matches!(unit, Unit::Roots(_)));
        let mut roots: Vec<RootId> = roots.iter().flat_map(Unit::roots).copied().collect();
        roots.sort_unstable();
        roots.dedup();
        *pending = others;
        pending.extend(chunk(by_turns(&roots, cx.state), self.shape(cx).values).into_iter().map(Unit::Roots));
        Some(covered)
    }

    /// Closes what is open beyond the budget, which a refusal or the relay's document may have made smaller by any number.
    /// The units of the newest live subscriptions beyond their share are polled, so that sweeps keep theirs. Pages and REQs for ids
    /// beyond the rest are asked again when there is room.
    pub(super) fn shed(&mut self, cx: &mut Cx<'_>) {
        while self.live_subscriptions() > self.budget.live_subscriptions() {
            let Some(newest) = self.newest_live(Number::before(u64::MAX)) else { break };
            self.send_close(newest, cx);
            self.poll_live(newest, "shed", cx);
        }
        while self.subscriptions.len() > self.budget.subscriptions() && self.put_newest_back(cx) {}
    }

    /// The newest live subscription of those numbered below `end`.
    pub(super) fn newest_live(&self, end: Number) -> Option<Number> {
        let mut newest_first = self.subscriptions.range(..end).rev();
        newest_first.find(|(_, subscription)| subscription.is_live()).map(|(number, _)| *number)
    }

    /// What was live is polled instead.
    pub(super) fn poll_live(&mut self, number: Number, why: &'static str, cx: &mut Cx<'_>) {
        let Some(LiveLost { units, covered, .. }) = self.lose_live(number, why, cx) else { return };
        units.into_iter().for_each(|unit| self.poll(unit, covered, cx));
    }

    /// A live subscription is open no more.
    pub(super) fn lose_live(&mut self, number: Number, why: &'static str, cx: &mut Cx<'_>) -> Option<LiveLost> {
        let subscription = self.subscriptions.remove(&number)?;
        let Subscription::Live { late, waiting_since, .. } = subscription else {
            unreachable!("only called for live ones")
        };
        cx.metrics.live_lost.add(why);
        let (units, complete) = self.agenda.units.take_live(number);
        let covered = complete.filter(|_| waiting_since.is_some()).unwrap_or(cx.now.wall);
        Some(LiveLost { units, covered, late })
    }

    /// A relay that wants us to authenticate for something has the time to say whether that holds for layer 1, too.
    pub(super) fn may_open_live(&self) -> bool {
        self.may_ask() && self.reception != Reception::Doubted
    }

    fn live_bytes_unanswered(&self) -> usize {
        let unanswered = self.subscriptions.values().filter(|sub| sub.is_live() && sub.is_unanswered());
        unanswered.map(Subscription::bytes).sum()
    }

    fn open_live(&mut self, units: Vec<Unit>, complete: UnixTime, cx: &mut Cx<'_>) {
        let mut subjects: Vec<Subject> = units.iter().flat_map(Unit::subjects).collect();
        subjects.retain(|subject| !self.is_left_out(subject));
        let since = match self.budget.detours.are_live_from_now() {
            // The catch-up asks for what lies before, and finds what ended the link.
            true => complete,
            false => complete.minus_secs(cx.settings.timing.overlap_secs),
        };
        let bounds = Bounds { since: Some(since), until: None, limit: self.budget.live_limit() };
        self.make_room(cx);
        let (number, asked) = self.send_req(Class::Live, &subjects, bounds, cx);
        self.log_live(number, &units, bounds);
        let late = complete != cx.now.wall;
        let waiting_since = Some(cx.now.mono);
        self.subscriptions.insert(number, Subscription::Live { asked, late, brought: 0, waiting_since });
        self.agenda.units.follow_live(number, units, complete);
    }

    fn log_live(&self, number: Number, units: &[Unit], bounds: Bounds) {
        if log::log_enabled!(log::Level::Debug) {
            let about: Vec<String> = units.iter().map(Unit::summary).collect();
            self.log_ask(number, &about.join(", "), bounds, "to be live");
        }
    }

    /// Frees a subscription for a live one: the page that was asked for last goes back to the queue.
    fn make_room(&mut self, cx: &mut Cx<'_>) {
        while self.subscriptions.len() >= self.budget.subscriptions() {
            assert!(self.put_newest_back(cx), "live subscriptions alone are fewer");
        }
    }

    /// Closes the page or the REQ for ids that was asked for last, to be asked again. Says whether there was one.
    fn put_newest_back(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut newest_first = self.subscriptions.iter().rev();
        let Some((&number, _)) = newest_first.find(|(_, subscription)| !subscription.is_live()) else { return false };
        match self.close_page(number, cx) {
            Some(mut task) => {
                task.sweep.restart_page();
                self.agenda.queue.push_front(task);
            }
            None => {
                self.send_close(number, cx);
                self.put_fetch_back(number, cx);
            }
        }
        true
    }
}
