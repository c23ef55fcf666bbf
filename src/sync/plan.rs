//! From the maps to what one relay is asked: which units are live, and which sweeps a catch-up or a window needs.
//! Pure functions; order is fixed, so the same state gives the same bytes.

use std::collections::BTreeSet;

use nostr::key::PublicKey;

use crate::limits::RELAY_LIVE_SUBSCRIPTIONS_MAX;
use crate::protocol::relay_url::RelayUrl;
use crate::state::{RepoId, RootId, State};
use crate::sync::filters::{Subject, Unit, chunk, chunk_repos, pack};
use crate::sync::progress::RelayProgress;
use crate::sync::sweep::Sweep;
use crate::time::UnixTime;

/// The fewest units that cover everything `relay` shares with us: layer 1, the repos, then the root events, latest
/// first, so that what does not fit live is the oldest.
pub fn minimal_units(relay: &RelayUrl, values_max: usize, state: &State) -> Vec<Unit> {
    let repos = state.repos_of(relay).collect();
    let roots = state.roots_of(relay);
    let mut units = vec![Unit::Announcements];
    units.extend(units_of(&repos, &roots, values_max, state));
    units
}

/// Units for some repos and root events.
pub fn units_of(
    repos: &BTreeSet<RepoId>,
    roots: &BTreeSet<RootId>,
    values_max: usize,
    state: &State,
) -> impl Iterator<Item = Unit> {
    let repos = chunk_repos(repos.iter().copied(), values_max, state).into_iter().map(Unit::Repos);
    let roots = chunk(roots.iter().rev().copied(), values_max).into_iter().map(Unit::Roots);
    repos.chain(roots)
}

/// Packs units into live REQs until the subscriptions are used up; the rest is for rotation.
pub fn fit_live(units: Vec<Unit>, subscriptions_free: usize, state: &State) -> (Vec<Vec<Unit>>, Vec<Unit>) {
    let mut reqs = pack(units, state);
    let rest = reqs.split_off(subscriptions_free.min(reqs.len())).into_iter().flatten().collect();
    (reqs, rest)
}

/// Whether some units fit live beside the subscriptions that are open.
pub fn live_fits(units: &[Unit], subscriptions: usize, state: &State) -> bool {
    subscriptions + pack(units.iter().cloned(), state).len() <= RELAY_LIVE_SUBSCRIPTIONS_MAX
}

/// Filters in some REQs.
pub fn filter_count<'a>(units: impl IntoIterator<Item = &'a Unit>) -> usize {
    units.into_iter().map(Unit::filter_count).sum()
}

/// Whether the minimal set would all be live and leave room for a few windows to add theirs: only then does
/// consolidating pay. A larger relay would consolidate for ever.
pub fn consolidation_pays(minimal: &[Unit], state: &State) -> bool {
    pack(minimal.iter().cloned(), state).len() + CONSOLIDATION_HEADROOM <= RELAY_LIVE_SUBSCRIPTIONS_MAX
}

/// Live subscriptions that must be free after a consolidation for it to pay.
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
/// authors are known).
pub fn catchup_sweeps(
    relay: &RelayUrl,
    reach: Reach,
    progress: &RelayProgress,
    values_max: usize,
    state: &State,
) -> Vec<Sweep> {
    let since = match reach {
        Reach::Full => None,
        Reach::Since(since) => Some(since),
    };
    let (old_repos, new_repos): (BTreeSet<_>, BTreeSet<_>) =
        state.repos_of(relay).partition(|repo| since.is_some() && progress.covers_repo(*repo));
    let (old_roots, new_roots): (BTreeSet<_>, BTreeSet<_>) =
        state.roots_of(relay).into_iter().partition(|root| since.is_some() && progress.covers_root(*root, state));
    let mut sweeps = vec![Sweep::new(Subject::Announcements, since)];
    sweeps.extend(increment_sweeps(&new_repos, &new_roots, values_max, state));
    sweeps.extend(unit_sweeps(units_of(&old_repos, &old_roots, values_max, state), since));
    sweeps
}

/// The sweeps for repos and root events that are new to a relay: all without `since`.
pub fn increment_sweeps(
    repos: &BTreeSet<RepoId>,
    roots: &BTreeSet<RootId>,
    values_max: usize,
    state: &State,
) -> impl Iterator<Item = Sweep> {
    let units = units_of(repos, roots, values_max, state);
    identifier_sweeps(repos, values_max, state).chain(unit_sweeps(units, None))
}

/// The sweeps for announcements and states of some repos: those that came before they could be accepted.
pub fn identifier_sweeps(
    repos: &BTreeSet<RepoId>,
    values_max: usize,
    state: &State,
) -> impl Iterator<Item = Sweep> + use<> {
    let chunks = chunk_repos(repos.iter().copied(), values_max, state);
    chunks.into_iter().map(|repos| Sweep::new(Subject::Identifiers(repos), None))
}

/// One sweep for each filter of some units.
pub fn unit_sweeps(units: impl Iterator<Item = Unit>, since: Option<UnixTime>) -> impl Iterator<Item = Sweep> {
    units.flat_map(|unit| unit.subjects()).map(move |subject| Sweep::new(subject, since))
}

/// The sweeps for deletions by the authors whose events we hold.
pub fn deletion_sweeps(authors: BTreeSet<PublicKey>, values_max: usize) -> impl Iterator<Item = Sweep> {
    chunk(authors, values_max).into_iter().map(|authors| Sweep::new(Subject::Deletions(authors), None))
}
