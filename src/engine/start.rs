//! From the store to what the engine begins with (spec section 3, "Start").

use std::collections::BTreeMap;

use crate::intake::StateChange;
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, ROOT_KINDS};
use crate::settings::Settings;
use crate::store::{Progress, Seq, Store, StoreError};
use crate::sync::progress::RelayProgress;
use crate::sync::state::State;

/// The two store queries of the start: root events, then announcements (spec section 3). They are applied together, in
/// the order in which they were stored: the state's sequence numbers only grow.
pub(super) fn load_state(store: &Store, settings: &Settings) -> Result<State, StoreError> {
    let mut state = State::new(settings.clone());
    let mut found: Vec<(Seq, StateChange)> = Vec::new();
    for kinds in [&ROOT_KINDS[..], &[ANNOUNCEMENT_KIND]] {
        store.for_each_of_kinds(kinds, &mut |seq, event| found.push((seq, StateChange::of(&event))))?;
    }
    found.sort_unstable_by_key(|(seq, _)| *seq);
    for (seq, change) in found {
        let _ = change.apply(seq, &mut state);
    }
    Ok(state)
}

/// What each relay had reached. Records of relays and repos that are no longer shared are left aside.
pub(super) fn load_progress(store: &Store, state: &State) -> Result<BTreeMap<RelayUrl, RelayProgress>, StoreError> {
    let mut restored: BTreeMap<RelayUrl, RelayProgress> = BTreeMap::new();
    for record in store.progress()? {
        match record {
            Progress::Relay { relay, through, full_catchup } => {
                restored.entry(relay).or_default().restore(through, full_catchup);
            }
            Progress::Confirmed { relay, repo, seq } => {
                if let Some(repo) = state.repo_id(&repo).filter(|repo| state.shares(&relay, *repo)) {
                    restored.entry(relay).or_default().confirm(repo, seq);
                }
            }
            Progress::ForgetRepo { .. } | Progress::ForgetRelay { .. } => {}
        }
    }
    Ok(restored)
}
