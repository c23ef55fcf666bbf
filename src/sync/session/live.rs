//! Opening what is to stay open: units live as far as a relay's subscriptions allow, the rest in rotation.

use super::subscription::{Held, Purpose, Subscription, is_page_of};
use super::{Session, Sweep};
use crate::limits::{LIVE_LIMIT, RELAY_LIVE_SUBSCRIPTIONS_MAX, RELAY_SUBSCRIPTIONS_MAX};
use crate::sync::Cx;
use crate::sync::filters::{Bounds, Subject, Unit};
use crate::sync::plan::{fit_live, unit_sweeps};
use crate::sync::rotation::Rotation;
use crate::time::UnixTime;

impl Session {
    /// Opens units live as far as subscriptions allow, with `since = now − overlap`; the rest rotates. While the relay
    /// cools down they wait for its end.
    pub fn add_live(&mut self, units: Vec<Unit>, cx: &mut Cx<'_>) {
        if self.cooldown_until.is_some() {
            self.postponed.extend(units.into_iter().map(|unit| (unit, cx.now.wall)));
            return;
        }
        let free = RELAY_LIVE_SUBSCRIPTIONS_MAX.saturating_sub(self.live_subscriptions());
        let (reqs, rest) = fit_live(units, free, cx.state);
        for units in reqs {
            self.open_live(units, cx.now.wall, false, cx);
        }
        for unit in rest {
            self.add_rotating(unit, cx.now.wall, cx);
        }
    }

    /// Makes a unit take its turns; it is complete up to `covered`.
    pub fn add_rotating(&mut self, unit: Unit, covered: UnixTime, cx: &Cx<'_>) {
        self.rotation.add(unit, covered, cx.now, cx.settings.limits.filter_values_max);
    }

    /// Closes every live subscription and every turn, then opens `units` anew. What rotated before and was not complete
    /// within the overlap is swept once more.
    pub fn reopen(&mut self, units: Vec<Unit>, cx: &mut Cx<'_>) {
        let overlap = cx.settings.timing.overlap_secs;
        let covered = self.rotation.covered().unwrap_or(cx.now.wall).min(cx.now.wall);
        let rotated = Held::of(self.rotation.units().map(|(unit, _)| unit));
        self.close_where(|subscription| !is_page_of(subscription, Purpose::Round), cx);
        self.queue.retain(|task| task.purpose == Purpose::Round);
        self.rotation = Rotation::default();
        self.postponed.clear();
        let free = RELAY_LIVE_SUBSCRIPTIONS_MAX;
        let (reqs, rest) = fit_live(units, free, cx.state);
        let since = cx.now.wall.minus_secs(overlap);
        for units in reqs {
            let behind = units.iter().filter(|unit| covered < since && rotated.meets(unit)).cloned();
            let sweeps: Vec<Sweep> = unit_sweeps(behind, Some(covered.minus_secs(overlap))).collect();
            self.open_live(units, cx.now.wall, false, cx);
            self.add_sweeps(sweeps);
        }
        for unit in rest {
            let covered = if rotated.meets(&unit) { covered } else { cx.now.wall };
            self.add_rotating(unit, covered, cx);
        }
    }

    pub(super) fn reopen_postponed(&mut self, cx: &mut Cx<'_>) {
        let Some(closed_at) = self.postponed.iter().map(|(_, at)| *at).min() else { return };
        let units = std::mem::take(&mut self.postponed).into_iter().map(|(unit, _)| unit).collect();
        let free = RELAY_LIVE_SUBSCRIPTIONS_MAX.saturating_sub(self.live_subscriptions());
        let (reqs, rest) = fit_live(units, free, cx.state);
        for units in reqs {
            self.open_live(units, closed_at, true, cx);
        }
        for unit in rest {
            self.add_rotating(unit, closed_at, cx);
        }
    }

    fn open_live(&mut self, units: Vec<Unit>, covered: UnixTime, reopened: bool, cx: &mut Cx<'_>) {
        let subjects: Vec<Subject> = units.iter().flat_map(Unit::subjects).collect();
        let since = covered.minus_secs(cx.settings.timing.overlap_secs);
        let bounds = Bounds { since: Some(since), until: None, limit: LIVE_LIMIT };
        self.make_room(cx);
        let (number, _) = self.send_req(&subjects, bounds, cx);
        let waiting_since = Some(cx.now.mono);
        let live = Subscription::Live { units, reopened, covered, brought: 0, waiting_since };
        self.subscriptions.insert(number, live);
    }

    /// Live comes first: if every subscription is taken, the page that was asked for last waits for its turn again.
    fn make_room(&mut self, cx: &mut Cx<'_>) {
        if self.subscriptions.len() < RELAY_SUBSCRIPTIONS_MAX {
            return;
        }
        let mut newest_first = self.subscriptions.iter().rev();
        let page = newest_first.find(|(_, subscription)| matches!(subscription, Subscription::Page { .. }));
        let number = *page.expect("live subscriptions alone are fewer").0;
        let mut task = self.close_page(number, cx).expect("it is a page");
        task.sweep.restart_page();
        self.queue.push_front(task);
    }
}
