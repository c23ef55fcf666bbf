//! From the store to what the engine begins with (spec section 3, "Start").

use std::collections::BTreeMap;

use crate::intake::StateChange;
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, ROOT_KINDS};
use crate::settings::Settings;
use crate::state::State;
use crate::store::{Progress, Store, StoreError};
use crate::sync::budget::Budget;
use crate::sync::progress::RelayProgress;

/// What was known of relays when the process began: what they had reached, and what they allow.
pub(super) type Restored = BTreeMap<RelayUrl, (RelayProgress, Budget)>;

/// The two store queries of the start, root events and announcements (spec section 3), as one: they are applied together,
/// in the order in which they were stored, for the state's sequence numbers only grow.
pub(super) fn load_state(store: &Store, settings: &Settings) -> Result<State, StoreError> {
    let mut state = State::new(settings.clone());
    let kinds: Vec<u16> = ROOT_KINDS.into_iter().chain([ANNOUNCEMENT_KIND]).collect();
    store.for_each_of_kinds(&kinds, &mut |seq, kind, json| {
        let Some(change) = StateChange::of_stored(kind, json) else { return false };
        let _ = change.apply(seq, &mut state);
        true
    })?;
    state.on_window_closed();
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
