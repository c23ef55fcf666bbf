//! From the store to what the engine begins with (spec section 3, "Start").

use std::collections::{BTreeMap, VecDeque};

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

/// The two store queries of the start, root events and announcements (spec section 3). They are applied together, in the
/// order in which they were stored, for the state's sequence numbers only grow; but what is announced is known first, for
/// root events may have come before.
pub(super) fn load_state(store: &Store, settings: &Settings) -> Result<State, StoreError> {
    let mut state = State::new(settings.clone());
    let mut announced: VecDeque<(Seq, StateChange)> = VecDeque::new();
    store.for_each_of_kinds(&[ANNOUNCEMENT_KIND], &mut |seq, kind, json| {
        let Some(change) = StateChange::of_stored(kind, json) else { return false };
        change.announced().into_iter().for_each(|addr| state.expect_announcement(addr));
        announced.push_back((seq, change));
        true
    })?;
    store.for_each_of_kinds(&ROOT_KINDS, &mut |seq, kind, json| {
        while announced.front().is_some_and(|(at, _)| *at < seq)
            && let Some((at, change)) = announced.pop_front()
        {
            let _ = change.apply(at, &mut state);
        }
        let Some(change) = StateChange::of_stored(kind, json) else { return false };
        let _ = change.apply(seq, &mut state);
        state.on_committed();
        true
    })?;
    for (seq, change) in announced {
        let _ = change.apply(seq, &mut state);
    }
    state.on_loaded();
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
