//! Refused events that nothing yet known could make acceptable, so that no reconciliation (NIP-77) fetches them again.
//!
//! A verdict that is not final holds only as long as what it was found by: each refusal hinges on a number that grows
//! when something is taken in, or goes, that could change it. The verdict is on a verified event, whoever sent it.

use nostr::event::EventId;

use super::recent::Recent;
use crate::limits::UNWANTED_IDS_MAX;
use crate::policy::Refusal;
use crate::state::State;

/// The ids, and what their refusals hinge on.
#[derive(Debug)]
pub(super) struct Unwanted {
    verdicts: Recent<EventId, Verdict>,
    /// Events taken in.
    taken: u64,
    /// Times that events went which nothing newer replaced.
    losses: u64,
}

/// A refusal, and the number that it hinges on as it was then.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    refusal: Refusal,
    at: u64,
}

impl Default for Unwanted {
    fn default() -> Self {
        Unwanted { verdicts: Recent::new(UNWANTED_IDS_MAX), taken: 0, losses: 0 }
    }
}

impl Unwanted {
    /// A verified event was refused, but not for good.
    pub fn remember(&mut self, id: EventId, refusal: Refusal, state: &State) {
        let Some(at) = self.hinge(refusal, state) else { return };
        self.verdicts.insert(id, Verdict { refusal, at });
    }

    /// Whether an event would be refused again.
    pub fn contains(&self, id: &EventId, state: &State) -> bool {
        self.verdicts.get(id).is_some_and(|verdict| self.hinge(verdict.refusal, state) == Some(verdict.at))
    }

    /// An event was taken in. `lost`: others went for it that it does not replace.
    pub fn on_taken_in(&mut self, lost: bool) {
        self.taken += 1;
        self.losses += u64::from(lost);
    }

    /// Events have expired.
    pub fn on_expired(&mut self) {
        self.losses += 1;
    }

    /// What a refusal hinges on; `None` if time alone may change it.
    fn hinge(&self, refusal: Refusal, state: &State) -> Option<u64> {
        match refusal {
            Refusal::Ephemeral | Refusal::Protected => Some(0),
            // Which repos there are and who maintains them.
            Refusal::ForeignAnnouncement | Refusal::NotAMaintainer => Some(state.last_announcement_seq()),
            // Root events, too.
            Refusal::Unrelated => Some(state.last_seq()),
            // Whether anything of its author's is held.
            Refusal::DeletesNothing => Some(self.taken),
            // Whether the newer version is still held.
            Refusal::Superseded => Some(self.losses),
            // For good, and remembered as such; or on a copy that is no verified event; or by the clock.
            Refusal::Expired | Refusal::Deleted | Refusal::DeniedAuthor | Refusal::DeniedRepo => None,
            Refusal::TooLarge | Refusal::Malformed | Refusal::NotAsked | Refusal::Forged | Refusal::Future => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::repo::RepoAddr;
    use crate::sync::testing::{addr, announcement, root_id, settings};

    fn add_root(state: &mut State, seq: u64) {
        let repos: [RepoAddr; 1] = [addr(1, "x")];
        let _ = state.add_root(root_id(seq as u32), seq, &repos);
    }

    #[test]
    fn each_refusal_holds_until_what_it_hinges_on_has_changed() {
        use Refusal::*;
        let all = [Ephemeral, Protected, ForeignAnnouncement, NotAMaintainer, Unrelated, DeletesNothing, Superseded];
        let (mut state, mut unwanted) = (State::new(settings()), Unwanted::default());
        let id = |refusal: Refusal| EventId::from_byte_array([refusal as u8; 32]);
        let mut forgotten = |change: &mut dyn FnMut(&mut State, &mut Unwanted)| {
            all.iter().for_each(|refusal| unwanted.remember(id(*refusal), *refusal, &state));
            assert!(all.iter().all(|refusal| unwanted.contains(&id(*refusal), &state)));
            change(&mut state, &mut unwanted);
            all.into_iter().filter(|refusal| !unwanted.contains(&id(*refusal), &state)).collect::<Vec<_>>()
        };
        assert_eq!(forgotten(&mut |_, unwanted| unwanted.on_taken_in(false)), [DeletesNothing]);
        assert_eq!(forgotten(&mut |_, unwanted| unwanted.on_taken_in(true)), [DeletesNothing, Superseded]);
        assert_eq!(forgotten(&mut |_, unwanted| unwanted.on_expired()), [Superseded]);
        assert_eq!(forgotten(&mut |state, _| add_root(state, 1)), [Unrelated]);
        let announce = |state: &mut State, _: &mut Unwanted| {
            let _ = state.set_announcement(&announcement(1, "x", &["one"]), 2);
        };
        assert_eq!(forgotten(&mut { announce }), [ForeignAnnouncement, NotAMaintainer, Unrelated]);
    }

    #[test]
    fn what_may_change_with_time_is_not_remembered_and_the_rest_is_bounded() {
        let (state, mut unwanted) = (State::new(settings()), Unwanted::default());
        let id = |n: usize| root_id(n as u32);
        unwanted.remember(id(0), Refusal::Future, &state);
        unwanted.remember(id(0), Refusal::Forged, &state);
        assert!(!unwanted.contains(&id(0), &state));
        (0..=UNWANTED_IDS_MAX).for_each(|n| unwanted.remember(id(n), Refusal::Unrelated, &state));
        assert_eq!(unwanted.verdicts.len(), UNWANTED_IDS_MAX);
        assert!(!unwanted.contains(&id(0), &state) && unwanted.contains(&id(UNWANTED_IDS_MAX), &state));
    }
}
