//! From the store to what the engine begins with (spec section 3, "Start").

use std::collections::BTreeMap;

use crate::intake::StateChange;
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, ROOT_KINDS};
use crate::settings::Settings;
use crate::state::State;
use crate::store::{Progress, Seq, Store, StoreError};
use crate::sync::budget::Budget;
use crate::sync::progress::RelayProgress;

/// What was known of relays when the process began: what they had reached, and what they allow.
pub(super) type Restored = BTreeMap<RelayUrl, (RelayProgress, Budget)>;

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

/// What each relay had reached, and what is to be forgotten: the process may have ended before it forgot relays and repos
/// that are no longer shared, and should they come back, their old record would claim the time between.
pub(super) fn load_progress(store: &Store, state: &State) -> Result<(Restored, Vec<Progress>), StoreError> {
    let mut restored = Restored::new();
    let mut stale = Vec::new();
    for record in store.progress()? {
        match record {
            Progress::Relay { relay, .. } if !state.needs(&relay) => stale.push(Progress::ForgetRelay { relay }),
            Progress::Relay { relay, through, full_catchup } => {
                restored.entry(relay).or_default().0.restore(through, full_catchup);
            }
            Progress::Budget { relay, .. } if !state.needs(&relay) => stale.push(Progress::ForgetRelay { relay }),
            Progress::Budget { relay, record } => {
                restored.entry(relay).or_default().1 = Budget::from_record(&record);
            }
            Progress::Confirmed { relay, repo, seq } => {
                match state.repo_id(&repo).filter(|repo| state.shares(&relay, *repo)) {
                    Some(repo) => _ = restored.entry(relay).or_default().0.confirm(repo, seq),
                    None => stale.push(Progress::ForgetRepo { relay, repo }),
                }
            }
            Progress::ForgetRepo { .. } | Progress::ForgetRelay { .. } => {}
        }
    }
    Ok((restored, stale))
}
