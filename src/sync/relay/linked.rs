//! An open link and what has been planned on it.

use std::collections::BTreeSet;

use crate::protocol::relay_url::RelayUrl;
use crate::state::{RepoId, RootId};
use crate::store::Seq;
use crate::sync::Cx;
use crate::sync::agenda::pass::Step;
use crate::sync::agenda::round::RoundWhy;
use crate::sync::filters::Unit;
use crate::sync::plan::{
    Allows, Minimal, Reach, catchup_sweeps, consolidation_pays, filter_count, live_fits, thread_units,
};
use crate::sync::progress::RelayProgress;
use crate::sync::relay::News;
use crate::sync::relay::flood::Useless;
use crate::sync::relay::inquiry::Inquiry;
use crate::sync::relay::names::Why;
use crate::sync::session::Session;
use crate::time::Instant;

/// An open link and what has been planned on it.
#[derive(Debug)]
pub(super) struct Linked {
    pub session: Session,
    /// The connection has proved itself.
    pub stable: bool,
    /// Repos that are asked about, without a pause since.
    pub planned: BTreeSet<RepoId>,
    /// Live subscriptions may be open for repos that were lost.
    pub has_obsolete_filters: bool,
    /// Root events up to this number are asked about.
    pub planned_upto: Seq,
    /// How far back the last catch-up goes.
    pub reach: Reach,
    /// Repos of sweeps that failed for good on this link.
    pub failed: BTreeSet<RepoId>,
    /// A sweep failed for good that belongs to no repo.
    pub broken: bool,
    /// Repos of which something cannot be had.
    pub gapped: BTreeSet<RepoId>,
    /// No full catch-up before this.
    pub full_not_before: Instant,
    /// Why the live subscriptions no longer fit what should be asked, if so.
    pub consolidate_because: Option<Why>,
    /// Frames that brought nothing.
    pub useless: Useless,
    /// The relay is being asked what it says of itself, on another link.
    pub inquiry: Option<Inquiry>,
    /// The minimal set was found to be more than the relay takes.
    oversize: Option<Oversize>,
}

/// A minimal set that is not live as a whole in any form. It only grows, while nothing is lost and the relay allows no
/// more: to find it anew would cost every window a walk over all that the relay shares.
#[derive(Clone, Copy, Debug)]
struct Oversize {
    allows: Allows,
    /// Its filters.
    filters: usize,
}

impl Oversize {
    fn of(minimal: &Minimal, allows: Allows) -> Option<Oversize> {
        (minimal.reqs > allows.live).then(|| Oversize { allows, filters: filter_count(&minimal.units) })
    }
}

impl Linked {
    pub fn new(session: Session, now: Instant) -> Linked {
        Linked {
            session,
            stable: false,
            planned: BTreeSet::new(),
            has_obsolete_filters: false,
            planned_upto: 0,
            reach: Reach::Full,
            failed: BTreeSet::new(),
            broken: false,
            gapped: BTreeSet::new(),
            full_not_before: now,
            consolidate_because: None,
            useless: Useless::new(now),
            inquiry: None,
            oversize: None,
        }
    }

    /// Whether some sweep has failed for good, so that nothing newer may be claimed.
    pub fn is_incomplete(&self) -> bool {
        self.broken || !self.failed.is_empty()
    }

    /// Begins anew with everything the relay shares. The minimal set opens live first, then come the sweeps: in this
    /// order nothing published meanwhile is missed. What refusals taught long ago is forgotten: links last for months.
    pub fn plan_catchup(&mut self, relay: &RelayUrl, reach: Reach, progress: &RelayProgress, cx: &mut Cx<'_>) {
        self.planned = cx.state.repos_of(relay).collect();
        self.planned_upto = cx.state.last_seq();
        self.reach = reach;
        self.failed.clear();
        self.broken = false;
        self.gapped.clear();
        self.consolidate_because = None;
        self.session.budget_mut().forget_old(cx.now.wall);
        self.open_minimal(relay, cx);
        let why = match reach {
            Reach::Full => RoundWhy::FullCatchUp(self.session.budget_mut().begin_full(cx.now.wall)),
            Reach::Since(_) => RoundWhy::CatchUp,
        };
        self.session.begin_round(why, cx);
        self.session.round_mut().touch(self.planned.iter().copied());
        let filtering = self.session.filtering();
        if filtering.is_unfiltered() && self.session.reconciles_all() {
            self.session.agenda_mut().begin_overview(cx.state.last_seq());
        }
        let pass = &mut self.session.round_mut().pass;
        let steps = catchup_sweeps(relay, reach, progress, filtering, cx.state);
        steps.into_iter().for_each(|sweeps| pass.add_step(Step::Ask(sweeps)));
        pass.add_threads(thread_units(relay, reach, progress, filtering, cx.state));
        if reach == Reach::Full {
            pass.add_step(Step::Authors);
        }
        self.session.pump(cx);
    }

    /// Opens the fewest subscriptions that cover everything the relay shares, as they are best carried now.
    pub fn open_minimal(&mut self, relay: &RelayUrl, cx: &mut Cx<'_>) {
        let values_max = cx.settings.limits.filter_values_max;
        let allows = Allows::of(self.session.budget(), values_max);
        let minimal = Minimal::of(relay, allows, cx.state);
        self.oversize = Oversize::of(&minimal, allows);
        self.has_obsolete_filters = false;
        self.session.set_filtering(minimal.filtering);
        self.session.reopen(minimal.units, cx);
    }

    /// Whether a step of the catch-up is still to come that asks for everything the relay has: what a window brings
    /// meanwhile is part of it.
    pub fn will_ask_for_everything(&self) -> bool {
        self.reach == Reach::Full
            && self.session.filtering().is_unfiltered()
            && self.session.round().pass.has_more_to_ask()
    }

    /// Of what a window brought, what is not asked about yet; from now on it is.
    pub fn take_new(&mut self, relay: &RelayUrl, news: &News, cx: &Cx<'_>) -> (BTreeSet<RepoId>, Vec<RootId>) {
        let state = cx.state;
        let asked = |root: &RootId| {
            state.root_seq(*root) <= self.planned_upto
                && state.repos_of_root(*root).iter().any(|repo| self.planned.contains(repo))
        };
        let new_repo = |repo: &RepoId| state.shares(relay, *repo) && !self.planned.contains(repo);
        let repos: BTreeSet<RepoId> = news.gained.iter().copied().filter(new_repo).collect();
        let concerns = |root: &RootId| state.repos_of_root(*root).iter().any(|repo| state.shares(relay, *repo));
        let of_repos = repos.iter().flat_map(|repo| state.roots_of_repo(*repo));
        let of_roots = news.roots.iter().copied().filter(concerns);
        let mut new_roots: Vec<RootId> = of_repos.chain(of_roots).filter(|root| !asked(root)).collect();
        new_roots.sort_unstable();
        new_roots.dedup();

        let touched = new_roots.iter().flat_map(|root| state.repos_of_root(*root)).copied();
        let touched = touched.filter(|repo| state.shares(relay, *repo)).chain(repos.iter().copied());
        self.session.round_mut().touch(touched);
        self.planned.extend(&repos);
        self.planned_upto = self.planned_upto.max(news.upto);
        (repos, new_roots)
    }

    /// These repos were lost. What is open for them stays so until the window closes: they may be back by then.
    pub fn let_go(&mut self, repos: &BTreeSet<RepoId>) {
        let planned = self.planned.len();
        self.planned.retain(|repo| !repos.contains(repo));
        self.has_obsolete_filters |= self.planned.len() < planned;
    }

    /// Of repos for which somebody became invited or confirmed, those that are asked about: they are to be asked about what
    /// he published, too.
    pub fn take_maintainers_changed(&mut self, repos: &BTreeSet<RepoId>) -> BTreeSet<RepoId> {
        let planned: BTreeSet<RepoId> = repos.intersection(&self.planned).copied().collect();
        self.session.round_mut().touch(planned.iter().copied());
        planned
    }

    /// Whether adding some units live asks for a consolidation: there would be too many filters for what is needed, or
    /// they would not fit while the minimal set would.
    pub fn outgrown_by(&mut self, relay: &RelayUrl, units: &[Unit], cx: &Cx<'_>) -> bool {
        let values_max = cx.settings.limits.filter_values_max;
        let (budget, shape) = (self.session.budget(), self.session.shape(cx));
        let live = budget.live_subscriptions();
        let filters = self.session.live_filters() + filter_count(units);
        let many = filters > cx.settings.limits.consolidate_above_filters;
        let fits = live_fits(units, live.saturating_sub(self.session.live_subscriptions()), shape, cx.state);
        if !many && fits {
            return false;
        }
        let allows = Allows::of(budget, values_max);
        if self.oversize.is_some_and(|found| found.allows == allows && filters <= 2 * found.filters) {
            return false;
        }
        let minimal = Minimal::of(relay, allows, cx.state);
        self.oversize = Oversize::of(&minimal, allows);
        let too_many = many && filters > 2 * filter_count(&minimal.units);
        too_many || (!fits && consolidation_pays(minimal.reqs, live))
    }

    /// When time next matters to the link.
    pub fn next_deadline(&self, cx: &Cx<'_>) -> Instant {
        let inquiry = self.inquiry.map(|inquiry| inquiry.deadline);
        let next = inquiry.into_iter().fold(self.session.next_deadline(cx), Instant::min);
        let stable_at = self.session.opened_at() + cx.settings.timing.stable_after;
        if self.stable { next } else { next.min(stable_at) }
    }
}
