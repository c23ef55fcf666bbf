//! Refused events that nothing yet known could make acceptable, so that no reconciliation (NIP-77) fetches them again.
//!
//! A verdict that is not final holds only as long as what it was found by: each refusal hinges on a number that grows
//! when something is taken in, or goes, that could change it. The verdict is on a verified event, whoever sent it.
//!
//! An unrelated event may come to belong by any of the few that it refers to. Were all that is taken in to count, each new
//! comment would have everything unrelated fetched again; a list of those few ids for each would take tens of MB. So what
//! is taken in is counted in a fixed number of counters, by its id, its address and its author, and a verdict names the
//! counters of what it waits for.

use nostr::event::{Event, EventId};
use nostr::key::PublicKey;

use super::recent::Recent;
use crate::limits::{THREAD_PARENTS_MAX, UNWANTED_COUNTERS, UNWANTED_IDS_MAX};
use crate::policy::Refusal;
use crate::protocol::reference::{Address, Reference, references};
use crate::protocol::repo::GRASP_LIST_KIND;
use crate::state::State;
use crate::time::UnixTime;

/// The ids, and what their refusals hinge on.
#[derive(Debug)]
pub(super) struct Unwanted {
    verdicts: Recent<EventId, Verdict>,
    /// Events taken in.
    taken: u64,
    /// Events taken in, by what others may refer to them by.
    taken_as: Box<[u32]>,
    /// Times that events went which nothing newer replaced.
    losses: u64,
}

/// A refusal, and the number that it hinges on as it was then.
#[derive(Debug)]
struct Verdict {
    refusal: Refusal,
    created_at: UnixTime,
    /// All that was known when it was judged was committed, so that a search of the store has seen it.
    settled: bool,
    /// Counters that are part of the number.
    waits_for: Box<[u16]>,
    at: u64,
}

impl Default for Unwanted {
    fn default() -> Self {
        let taken_as = vec![0; UNWANTED_COUNTERS].into();
        Unwanted { verdicts: Recent::new(UNWANTED_IDS_MAX), taken: 0, taken_as, losses: 0 }
    }
}

impl Unwanted {
    /// A verified event was refused, but not for good.
    pub fn remember(&mut self, event: &Event, refusal: Refusal, settled: bool, state: &State) {
        let waits_for = if refusal == Refusal::Unrelated { may_hang_on(event) } else { Box::default() };
        let Some(at) = self.hinge(refusal, &waits_for, state) else { return };
        let created_at = event.created_at.into();
        self.verdicts.insert(event.id, Verdict { refusal, created_at, settled, waits_for, at });
    }

    /// Whether an event need not be fetched: it would be refused again.
    pub fn contains(&self, id: &EventId, state: &State) -> bool {
        self.standing(id, state).is_some()
    }

    /// Why an event is refused again without another look at it, and when it was created.
    pub fn verdict(&self, id: &EventId, state: &State) -> Option<(Refusal, UnixTime)> {
        let verdict = self.standing(id, state).filter(|verdict| verdict.settled)?;
        Some((verdict.refusal, verdict.created_at))
    }

    fn standing(&self, id: &EventId, state: &State) -> Option<&Verdict> {
        let same = |verdict: &&Verdict| self.hinge(verdict.refusal, &verdict.waits_for, state) == Some(verdict.at);
        self.verdicts.get(id).filter(same)
    }

    /// An event was taken in. `lost`: others went for it that it does not replace.
    pub fn on_taken_in(&mut self, event: &Event, lost: bool) {
        self.taken += 1;
        self.losses += u64::from(lost);
        let address = Address::of(event).map(|address| of_address(&address));
        for counter in [of_id(&event.id), of_author(&event.pubkey)].into_iter().chain(address) {
            let taken = &mut self.taken_as[usize::from(counter)];
            *taken = taken.wrapping_add(1);
        }
    }

    /// Events have expired.
    pub fn on_expired(&mut self) {
        self.losses += 1;
    }

    /// What a refusal hinges on; `None` if time alone may change it.
    fn hinge(&self, refusal: Refusal, waits_for: &[u16], state: &State) -> Option<u64> {
        match refusal {
            Refusal::Ephemeral | Refusal::Protected => Some(0),
            // Who is confirmed.
            Refusal::NotAMaintainer => Some(state.authority_version()),
            // Who is invited, and which announcements are held. Both numbers only grow.
            Refusal::ForeignAnnouncement => Some(state.authority_version() + state.last_announcement_seq()),
            // Root events, too, and whether anything that it refers to is held.
            Refusal::Unrelated => {
                let taken = |counter: &u16| u64::from(self.taken_as[usize::from(*counter)]);
                let parents = waits_for.iter().map(taken).sum::<u64>();
                Some(state.authority_version() + state.last_seq() + parents)
            }
            // Whether anything of its author's is held.
            Refusal::DeletesNothing => Some(self.taken),
            // Whether the newer version is still held.
            Refusal::Superseded => Some(self.losses),
            // Of clients alone.
            Refusal::AuthorRate | Refusal::Quota(_) => None,
            // For good, and remembered as such; or on a copy that is no verified event; or by the clock.
            Refusal::Expired | Refusal::Deleted | Refusal::DeniedAuthor | Refusal::DeniedRepo => None,
            Refusal::TooLarge | Refusal::Malformed | Refusal::NotAsked | Refusal::Forged | Refusal::Future => None,
        }
    }
}

/// The counters of what an event could come to belong by.
fn may_hang_on(event: &Event) -> Box<[u16]> {
    let author = (event.kind.as_u16() == GRASP_LIST_KIND).then(|| of_author(&event.pubkey));
    let referred = references(event, THREAD_PARENTS_MAX).map(|reference| match reference {
        Reference::Event(id) => of_id(&id),
        Reference::Address(address) => of_address(&address),
    });
    author.into_iter().chain(referred).collect()
}

/// By its last bytes: the first are alike where work was put into an id (NIP-13).
fn of_id(id: &EventId) -> u16 {
    counter(id.as_bytes())
}

fn of_author(author: &PublicKey) -> u16 {
    counter(author.as_bytes())
}

fn of_address(address: &Address<'_>) -> u16 {
    // FNV-1a. Whoever makes two addresses meet has an event fetched once more for nothing.
    let before = u32::from(of_author(&address.author)) << 16 | u32::from(address.kind);
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    counter(&address.identifier.bytes().fold(before, fold).to_be_bytes())
}

/// The counter of what these bytes end with.
fn counter(bytes: &[u8]) -> u16 {
    let end: &[u8; 2] = bytes.last_chunk().expect("an id, a key or a hash");
    (usize::from(u16::from_be_bytes(*end)) % UNWANTED_COUNTERS) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::repo::RepoAddr;
    use crate::store::testing::event;
    use crate::sync::testing::{addr, announcement, root_id, settings};

    fn add_root(state: &mut State, seq: u64) {
        let repos: [RepoAddr; 1] = [addr(1, "x")];
        let _ = state.add_root(root_id(seq as u32), seq, &repos);
    }

    /// A note of second `n`.
    fn note(n: u64, tags: &[&[&str]]) -> Event {
        event(9, 1, n, tags, "")
    }

    #[test]
    fn each_refusal_holds_until_what_it_hinges_on_has_changed() {
        use Refusal::*;
        let all = [Ephemeral, Protected, ForeignAnnouncement, NotAMaintainer, Unrelated, DeletesNothing, Superseded];
        let (mut state, mut unwanted) = (State::new(settings()), Unwanted::default());
        let number = |refusal: Refusal| Refusal::ALL.iter().position(|of| *of == refusal).unwrap() as u64;
        let event = |refusal: Refusal| note(number(refusal), &[]);
        let taken = note(1_000, &[]);
        let mut forgotten = |change: &mut dyn FnMut(&mut State, &mut Unwanted)| {
            all.iter().for_each(|refusal| unwanted.remember(&event(*refusal), *refusal, true, &state));
            assert!(all.iter().all(|refusal| unwanted.contains(&event(*refusal).id, &state)));
            change(&mut state, &mut unwanted);
            all.into_iter().filter(|refusal| !unwanted.contains(&event(*refusal).id, &state)).collect::<Vec<_>>()
        };
        assert_eq!(forgotten(&mut |_, unwanted| unwanted.on_taken_in(&taken, false)), [DeletesNothing]);
        assert_eq!(forgotten(&mut |_, unwanted| unwanted.on_taken_in(&taken, true)), [DeletesNothing, Superseded]);
        assert_eq!(forgotten(&mut |_, unwanted| unwanted.on_expired()), [Superseded]);
        assert_eq!(forgotten(&mut |state, _| add_root(state, 1)), [Unrelated]);
        let announce = |state: &mut State, _: &mut Unwanted| {
            let _ = state.set_announcement(&announcement(1, "x", &["one"]), 2);
        };
        assert_eq!(forgotten(&mut { announce }), [ForeignAnnouncement, NotAMaintainer, Unrelated]);
        let unfollow = |state: &mut State, _: &mut Unwanted| _ = state.remove_announcement(&addr(1, "x"));
        assert_eq!(forgotten(&mut { unfollow }), [ForeignAnnouncement, NotAMaintainer, Unrelated], "it frees a place");
    }

    #[test]
    fn what_hangs_on_an_event_is_wanted_again_when_that_comes_and_nothing_else_is() {
        let (state, mut unwanted) = (State::new(settings()), Unwanted::default());
        let comment = event(2, 1_111, 5, &[], "");
        let article = event(3, 30_023, 5, &[&["d", "x:y"]], "");
        let address = format!("30023:{}:x:y", article.pubkey);
        let by_id = note(1, &[&["e", &comment.id.to_hex()]]);
        let by_address = note(2, &[&["A", &address]]);
        let list = event(4, GRASP_LIST_KIND, 5, &[], "");
        let all = [&by_id, &by_address, &list];
        let mut forgotten = |taken: &Event| {
            all.iter().for_each(|event| unwanted.remember(event, Refusal::Unrelated, true, &state));
            unwanted.on_taken_in(taken, false);
            all.iter().map(|event| !unwanted.contains(&event.id, &state)).collect::<Vec<_>>()
        };
        assert_eq!(forgotten(&event(5, 1_111, 5, &[], "")), [false, false, false]);
        assert_eq!(forgotten(&comment), [true, false, false]);
        assert_eq!(forgotten(&article), [false, true, false]);
        let newer = event(3, 30_023, 6, &[&["d", "x:y"]], "");
        assert_eq!(forgotten(&newer), [false, true, false], "whatever version");
        assert_eq!(forgotten(&event(4, 1_111, 5, &[], "")), [false, false, true]);
    }

    #[test]
    fn what_may_change_with_time_is_not_remembered_and_the_rest_is_bounded() {
        let (state, mut unwanted) = (State::new(settings()), Unwanted::default());
        let id = |n: usize| note(n as u64, &[]).id;
        unwanted.remember(&note(0, &[]), Refusal::Future, true, &state);
        unwanted.remember(&note(0, &[]), Refusal::Forged, true, &state);
        assert!(!unwanted.contains(&id(0), &state));
        (0..=UNWANTED_IDS_MAX).for_each(|n| unwanted.remember(&note(n as u64, &[]), Refusal::Unrelated, true, &state));
        assert_eq!(unwanted.verdicts.len(), UNWANTED_IDS_MAX);
        assert!(!unwanted.contains(&id(0), &state) && unwanted.contains(&id(UNWANTED_IDS_MAX), &state));
    }
}
