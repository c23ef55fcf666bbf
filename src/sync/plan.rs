//! From the maps to what one relay is asked: which units are live, and which sweeps a catch-up or a window needs.
//! Pure functions; order is fixed, so the same state gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use nostr::key::PublicKey;

use crate::protocol::relay_url::RelayUrl;
use crate::state::{RepoId, RootId, State};
use crate::sync::budget::{Budget, Shape};
use crate::sync::filters::{Subject, Unit, chunk, chunk_identifiers, chunk_repos, fits_a_req, pack};
use crate::sync::progress::RelayProgress;
use crate::sync::sweep::Sweep;
use crate::time::UnixTime;

/// How a relay is asked for what it shares with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// By repos and root events, in chunks of this form.
    ByTag(Shape),
    /// For everything it has, by time alone, judged here: it holds git events only, and more of ours than its
    /// subscriptions carry in chunks.
    None(Shape),
}

impl Filtering {
    /// The form of its filters.
    pub fn shape(self) -> Shape {
        match self {
            Filtering::ByTag(shape) | Filtering::None(shape) => shape,
        }
    }

    /// Whether the relay is asked for everything it has.
    pub fn is_unfiltered(self) -> bool {
        matches!(self, Filtering::None(_))
    }
}

/// What a relay allows, as far as [`Minimal::of`] cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allows {
    /// Live subscriptions.
    pub live: usize,
    usual: Shape,
    wider: Option<Shape>,
    is_small: bool,
}

impl Allows {
    /// What `budget` says.
    pub fn of(budget: &Budget, values_max: usize) -> Allows {
        Allows {
            live: budget.live_subscriptions(),
            usual: budget.shape(values_max),
            wider: budget.wider_shape(values_max),
            is_small: budget.is_small(),
        }
    }
}

/// The fewest units that cover everything a relay shares with us.
#[derive(Debug)]
pub struct Minimal {
    /// How they are best carried.
    pub filtering: Filtering,
    /// The units.
    pub units: Vec<Unit>,
    /// REQs that they are live in.
    pub reqs: usize,
}

impl Minimal {
    fn chunks(relay: &RelayUrl, shape: Shape, state: &State) -> Minimal {
        let units = chunked_units(relay, shape, state);
        let reqs = req_count(&units, shape, state);
        Minimal { filtering: Filtering::ByTag(shape), units, reqs }
    }

    /// Chooses the cheapest way to carry what `relay` shares with us within what it allows: all live in chunks of the
    /// usual form; else in larger chunks, if that helps; else everything at once, if the relay holds little that is not
    /// ours; else the usual chunks, part of them polled.
    pub fn of(relay: &RelayUrl, allows: Allows, state: &State) -> Minimal {
        let Allows { live, usual, wider, is_small } = allows;
        let chunks = Minimal::chunks(relay, usual, state);
        if chunks.reqs <= live {
            return chunks;
        }
        let wider = wider.map(|shape| Minimal::chunks(relay, shape, state));
        match wider {
            Some(wider) if wider.reqs <= live => wider,
            _ if is_small && live > 0 && !usual.named_kinds => {
                Minimal { filtering: Filtering::None(usual), units: vec![Unit::Everything], reqs: 1 }
            }
            Some(wider) if wider.reqs < chunks.reqs => wider,
            _ => chunks,
        }
    }
}

/// All that `relay` shares with us in chunks: layer 1, the repos, then the root events in the order of [`by_turns`]: what
/// does not fit live is the oldest of those repos that have most.
pub fn chunked_units(relay: &RelayUrl, shape: Shape, state: &State) -> Vec<Unit> {
    let mut units: Vec<Unit> = match shape.tagged_layer_1 && state.repos_of(relay).next().is_some() {
        true => chunk_identifiers(state.repos_of(relay), shape, state).into_iter().map(Unit::Identifiers).collect(),
        false => vec![Unit::Announcements],
    };
    units.extend(units_of(state.repos_of(relay), &state.roots_of(relay), shape, state));
    units
}

/// Units for some repos and root events, both in ascending order.
pub fn units_of(
    repos: impl Iterator<Item = RepoId>,
    roots: &[RootId],
    shape: Shape,
    state: &State,
) -> impl Iterator<Item = Unit> {
    let repos = chunk_repos(repos, shape, state).into_iter().map(Unit::Repos);
    let roots = chunk(by_turns(roots, state), shape.values).into_iter().map(Unit::Roots);
    repos.chain(roots)
}

/// Root events, in ascending order, by turns of their repos: the latest of each repo, then the second of each, and so on;
/// in each turn the latest first. So a flood in one repo comes before others as often as they have something themselves.
pub fn by_turns(roots: &[RootId], state: &State) -> Vec<RootId> {
    let mut turns: BTreeMap<RepoId, u32> = BTreeMap::new();
    let mut turn_of = |root: RootId| {
        let mut turn = u32::MAX;
        for repo in state.repos_of_root(root) {
            let next = turns.entry(*repo).or_default();
            turn = turn.min(*next);
            *next += 1;
        }
        (turn, root)
    };
    let mut by_turns: Vec<(u32, RootId)> = roots.iter().rev().map(|root| turn_of(*root)).collect();
    // Stable: within a turn, the latest stays first.
    by_turns.sort_by_key(|(turn, _)| *turn);
    by_turns.into_iter().map(|(_, root)| root).collect()
}

/// Packs units into live REQs until the subscriptions are used up; the rest is polled.
pub fn fit_live(units: Vec<Unit>, free: usize, shape: Shape, state: &State) -> (Vec<Vec<Unit>>, Vec<Unit>) {
    let (fitting, mut rest): (Vec<Unit>, Vec<Unit>) = units.into_iter().partition(|unit| fits_a_req(unit, shape));
    let mut reqs = pack(fitting, shape, state);
    rest.extend(reqs.split_off(free.min(reqs.len())).into_iter().flatten());
    (reqs, rest)
}

/// Whether some units fit live into so many free subscriptions.
pub fn live_fits(units: &[Unit], free: usize, shape: Shape, state: &State) -> bool {
    req_count(units, shape, state) <= free
}

/// REQs that some units are live in.
pub fn req_count(units: &[Unit], shape: Shape, state: &State) -> usize {
    pack(units.iter().cloned(), shape, state).len()
}

/// Filters in some REQs.
pub fn filter_count<'a>(units: impl IntoIterator<Item = &'a Unit>) -> usize {
    units.into_iter().map(Unit::filter_count).sum()
}

/// Whether the minimal set, in so many REQs, would all be live on `live` subscriptions and leave room for a few windows
/// to add theirs: only then does consolidating pay. A larger relay would consolidate for ever.
pub fn consolidation_pays(minimal: usize, live: usize) -> bool {
    minimal + CONSOLIDATION_HEADROOM.min(live / 4) <= live
}

/// Live subscriptions that must be free after a consolidation for it to pay; where few are allowed, it pays to open those
/// few anew for each window.
const CONSOLIDATION_HEADROOM: usize = 2;

/// How far back a catch-up goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything: never completed with this relay, or the daily turn.
    Full,
    /// What is confirmed since then, the rest in full.
    Since(UnixTime),
}

/// The sweeps of a catch-up over all that `relay` shares with us, without the deletions (they come last, when the
/// authors are known). They come in stages, each to be asked when the one before has ended: where a relay is asked for
/// everything it has, what belongs here is known only once its announcements and its root events are.
pub fn catchup_sweeps(
    relay: &RelayUrl,
    reach: Reach,
    progress: &RelayProgress,
    filtering: Filtering,
    state: &State,
) -> Vec<Vec<Sweep>> {
    let since = match reach {
        Reach::Full => None,
        Reach::Since(since) => Some(since),
    };
    let shape = filtering.shape();
    let (old_repos, new_repos): (BTreeSet<_>, BTreeSet<_>) =
        state.repos_of(relay).partition(|repo| since.is_some() && progress.covers_repo(*repo));
    let (old_roots, new_roots): (Vec<_>, Vec<_>) =
        state.roots_of(relay).into_iter().partition(|root| since.is_some() && progress.covers_root(*root, state));
    let announcements = Sweep::new(Subject::Announcements, since);
    if filtering.is_unfiltered() {
        // What is not confirmed is asked for on its own, unless everything is.
        let new = since.is_some().then(|| increment_sweeps(&new_repos, &new_roots, shape, state));
        let everything = std::iter::once(Sweep::new(Subject::Everything, since));
        let last = everything.chain(new.into_iter().flatten()).collect();
        return vec![vec![announcements], vec![Sweep::new(Subject::RootKinds, since)], last];
    }
    let mut sweeps = vec![announcements];
    sweeps.extend(increment_sweeps(&new_repos, &new_roots, shape, state));
    sweeps.extend(unit_sweeps(units_of(old_repos.iter().copied(), &old_roots, shape, state), since));
    vec![sweeps]
}

/// The units of which a catch-up asks everything, for what tags what tags them: none where the relay is asked for everything
/// it has.
pub fn thread_units(
    relay: &RelayUrl,
    reach: Reach,
    progress: &RelayProgress,
    filtering: Filtering,
    state: &State,
) -> Vec<Unit> {
    let is_new = |covered: bool| reach == Reach::Full || !covered;
    let repos = state.repos_of(relay).filter(|repo| is_new(progress.covers_repo(*repo)));
    let mut roots = state.roots_of(relay);
    roots.retain(|root| is_new(progress.covers_root(*root, state)));
    match filtering {
        Filtering::None(_) => Vec::new(),
        Filtering::ByTag(shape) => units_of(repos, &roots, shape, state).collect(),
    }
}

/// The sweeps for repos and root events that are new to a relay: all without `since`.
pub fn increment_sweeps(
    repos: &BTreeSet<RepoId>,
    roots: &[RootId],
    shape: Shape,
    state: &State,
) -> impl Iterator<Item = Sweep> {
    let units = units_of(repos.iter().copied(), roots, shape, state);
    identifier_sweeps(repos, shape, state).chain(unit_sweeps(units, None))
}

/// The sweeps for announcements and states of some repos: those that came before they could be accepted.
pub fn identifier_sweeps(repos: &BTreeSet<RepoId>, shape: Shape, state: &State) -> impl Iterator<Item = Sweep> + use<> {
    let chunks = chunk_identifiers(repos.iter().copied(), shape, state);
    chunks.into_iter().map(|names| Sweep::new(Subject::Identifiers(names), None))
}

/// One sweep for each filter of some units.
pub fn unit_sweeps(units: impl Iterator<Item = Unit>, since: Option<UnixTime>) -> impl Iterator<Item = Sweep> {
    units.flat_map(|unit| unit.subjects()).map(move |subject| Sweep::new(subject, since))
}

/// The sweeps for deletions by the authors whose events we hold.
pub fn deletion_sweeps(authors: &[PublicKey], shape: Shape) -> impl Iterator<Item = Sweep> {
    chunk(authors.iter().copied(), shape.values)
        .into_iter()
        .map(|authors| Sweep::new(Subject::Deletions(authors), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::relay_info::RelayInfo;
    use crate::sync::testing::{addr, announcement, relay, root_id, settings};

    fn world(roots: u32) -> State {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "repo", &["one"]), 1);
        for n in 0..roots {
            state.add_root(root_id(n), u64::from(n) + 2, &[addr(1, "repo")]);
        }
        state
    }

    fn filtering(roots: u32, budget: &Budget) -> Filtering {
        Minimal::of(&relay("one"), Allows::of(budget, 100), &world(roots)).filtering
    }

    #[test]
    fn what_fits_live_is_asked_for_in_the_usual_chunks() {
        let grasp =
            Budget::of_info(RelayInfo { is_grasp: true, max_message_length: Some(524_288), ..RelayInfo::default() });
        assert_eq!(filtering(1_000, &grasp), Filtering::ByTag(grasp.shape(100)));
    }

    #[test]
    fn larger_chunks_come_before_everything_and_everything_before_polls() {
        let roomy = RelayInfo { max_message_length: Some(524_288), ..RelayInfo::default() };
        let grasp = RelayInfo { is_grasp: true, ..RelayInfo::default() };
        let both = RelayInfo { is_grasp: true, ..roomy.clone() };
        let values = |filtering: Filtering| (filtering.is_unfiltered(), filtering.shape().values);
        assert_eq!(values(filtering(4_000, &Budget::of_info(roomy.clone()))), (false, 704));
        assert_eq!(values(filtering(4_000, &Budget::of_info(both.clone()))), (false, 704));
        assert_eq!(values(filtering(4_000, &Budget::of_info(grasp.clone()))), (true, 100));
        assert_eq!(values(filtering(4_000, &Budget::default())), (false, 100));
        assert_eq!(values(filtering(40_000, &Budget::of_info(both))), (true, 100));
        assert_eq!(values(filtering(40_000, &Budget::of_info(roomy))), (false, 704), "fewer polls");
        let mut kinds_only = Budget::of_info(grasp);
        kinds_only.learned.named_kinds = true;
        assert!(!filtering(4_000, &kinds_only).is_unfiltered(), "it refuses filters without kinds");
    }

    #[test]
    fn everything_is_asked_for_once_it_is_known_what_belongs() {
        let state = world(4_000);
        let grasp = Budget::of_info(RelayInfo { is_grasp: true, ..RelayInfo::default() });
        let minimal = Minimal::of(&relay("one"), Allows::of(&grasp, 100), &state);
        assert_eq!((&minimal.units[..], minimal.reqs), (&[Unit::Everything][..], 1));
        let wide = minimal.filtering;
        let stages = catchup_sweeps(&relay("one"), Reach::Full, &RelayProgress::default(), wide, &state);
        let subjects: Vec<Vec<&Subject>> =
            stages.iter().map(|stage| stage.iter().map(Sweep::subject).collect()).collect();
        assert_eq!(subjects, [[&Subject::Announcements], [&Subject::RootKinds], [&Subject::Everything]]);
        // What is not confirmed has to be asked for from the beginning.
        let since = Reach::Since(UnixTime::from_secs(7));
        let stages = catchup_sweeps(&relay("one"), since, &RelayProgress::default(), wide, &state);
        assert!(stages[2].len() > 100, "{}", stages[2].len());
    }

    #[test]
    fn threads_are_asked_about_where_everything_is() {
        let state = world(3);
        let (shape, mut progress) = (Budget::default().shape(100), RelayProgress::default());
        let units = |reach, progress: &RelayProgress, filtering| {
            thread_units(&relay("one"), reach, progress, filtering, &state).iter().map(Unit::values).collect::<Vec<_>>()
        };
        let since = Reach::Since(UnixTime::from_secs(7));
        assert_eq!(units(since, &progress, Filtering::ByTag(shape)), [1, 3], "nothing is confirmed");
        // The first of three root events, numbered from 2.
        progress.confirm(state.repo_id(&addr(1, "repo")).unwrap(), 2);
        assert_eq!(units(since, &progress, Filtering::ByTag(shape)), [2]);
        assert_eq!(units(Reach::Full, &progress, Filtering::ByTag(shape)), [1, 3]);
        assert!(units(Reach::Full, &progress, Filtering::None(shape)).is_empty());
    }

    #[test]
    fn each_repo_has_its_turn_and_the_latest_is_first() {
        let mut state = world(3);
        state.set_announcement(&announcement(2, "flood", &["one"]), 5);
        for n in 3..6 {
            state.add_root(root_id(n), u64::from(n) + 3, &[addr(2, "flood")]);
        }
        state.add_root(root_id(6), 9, &[addr(1, "repo"), addr(2, "flood")]);
        let roots: Vec<RootId> = (0..7).map(|n| state.root_id(&root_id(n)).unwrap()).collect();
        let order = |roots: &[RootId]| {
            let of = |root: &RootId| roots_number(&state, *root);
            by_turns(roots, &state).iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(order(&roots), [6, 5, 2, 4, 1, 3, 0]);
        assert_eq!(order(&roots[..5]), [4, 2, 3, 1, 0]);
        assert_eq!(order(&roots[..3]), [2, 1, 0]);
    }

    fn roots_number(state: &State, root: RootId) -> u32 {
        (0..).find(|n| state.root_id(&root_id(*n)) == Some(root)).unwrap()
    }

    #[test]
    fn a_unit_with_more_filters_than_a_req_may_have_is_polled() {
        let state = world(10);
        let shape = Shape { filters: 2, ..Budget::default().shape(100) };
        let (live, rest) = fit_live(chunked_units(&relay("one"), shape, &state), 8, shape, &state);
        assert_eq!(live, [vec![Unit::Announcements]]);
        assert_eq!(rest.len(), 2);
    }
}
