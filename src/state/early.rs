//! Root events that came before the announcement of a repo that they tag. What the store has of them is found there, a step at
//! a time (`intake::adoption`); what still waits for its commit is noted here, for until then nothing finds it.

use nostr::event::EventId;

use super::roots::push;
use super::{Changes, RepoId, State};
use crate::protocol::repo::RepoAddr;
use crate::store::Seq;

/// The root events of the batch, by the repos without a number that they tag. As large as the batch allows.
#[derive(Debug, Default)]
pub(super) struct Early(Vec<(RepoAddr, EventId, Seq)>);

impl Early {
    pub fn note(&mut self, addr: &RepoAddr, id: EventId, seq: Seq) {
        self.0.push((addr.clone(), id, seq));
    }

    pub fn forget(&mut self, id: &EventId) {
        self.0.retain(|(_, of, _)| of != id);
    }
}

impl State {
    /// The announcement of this repo will be set, which the store holds: root events before it belong to it, too.
    pub fn expect_announcement(&mut self, addr: &RepoAddr) {
        self.intern(addr);
    }

    /// What was taken in is committed: from now on the store finds it.
    pub fn on_committed(&mut self) {
        self.early.0 = Vec::new();
    }

    /// Root events that the store holds, in any order, belong to a repo that was announced after they came.
    pub fn adopt(&mut self, repo: RepoId, roots: &[(EventId, Seq)]) {
        let before = self.roots_of_repo(repo).count();
        for (id, seq) in roots {
            let root = match self.root_id(id) {
                Some(root) => {
                    self.roots.add_repo(root, repo);
                    root
                }
                None => self.roots.add(*id, *seq, &[repo]).expect("it has no number yet"),
            };
            push(&mut self.repo_mut(repo).roots, root);
        }
        let all = &mut self.repo_mut(repo).roots;
        all.sort();
        all.dedup();
        let now = all.len();
        self.count_roots(repo, before, now);
    }

    /// A repo is to be asked about anew on every relay that shares it, as if it had been lost and were back.
    pub fn regain(&self, repo: RepoId) -> Changes {
        let shared: Vec<_> = self.relays_of(repo).iter().map(|relay| (relay.clone(), [repo].into())).collect();
        let gained = shared.into_iter().collect();
        Changes { lost: Clone::clone(&gained), gained, upto: self.last_seq(), ..Changes::default() }
    }

    /// The same of those in the batch.
    pub(super) fn adopt_early(&mut self, repo: RepoId) {
        if self.early.0.is_empty() {
            return;
        }
        let addr = self.addr(repo).clone();
        let found = self.early.0.extract_if(.., |(of, ..)| *of == addr);
        let roots: Vec<(EventId, Seq)> = found.map(|(_, id, seq)| (id, seq)).collect();
        self.adopt(repo, &roots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{addr, announcement, relay, root_id, settings};

    #[test]
    fn what_tags_repos_that_nobody_has_announced_takes_no_memory() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "a", &["one"]), 1);
        for n in 0..1_000_u32 {
            let made_up = (0..16).map(|m| addr(2, &format!("{n}-{m}")));
            let tagged: Vec<RepoAddr> = made_up.chain([addr(1, "a")]).collect();
            let changes = state.add_root(root_id(n), u64::from(n) + 2, &tagged);
            assert_eq!(changes.roots.len(), 1);
            state.on_committed();
        }
        assert_eq!((state.repos.len(), state.repo_ids.len(), state.roots_held()), (1, 1, 1_000));
        assert_eq!(state.early.0.capacity(), 0);
        assert!(state.add_root(root_id(5_000), 2_000, &[addr(2, "x")]).is_empty());
        assert_eq!(state.roots_held(), 1_000, "it belongs to nothing");
    }

    #[test]
    fn root_events_of_the_batch_belong_to_what_is_announced_after_them() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "a", &["one"]), 1);
        state.add_root(root_id(1), 2, &[addr(1, "a"), addr(2, "b")]);
        state.add_root(root_id(2), 3, &[addr(2, "b")]);
        state.add_root(root_id(3), 4, &[addr(2, "b")]);
        state.remove_root(&root_id(3));
        state.set_announcement(&announcement(2, "b", &["two"]), 5);
        let ids = |name: &str| {
            let roots = state.roots_of(&relay(name));
            roots.iter().map(|root| *state.root_event_id(*root)).collect::<Vec<_>>()
        };
        assert_eq!(ids("one"), [root_id(1)]);
        assert_eq!(ids("two"), [root_id(1), root_id(2)]);
    }

    #[test]
    fn adopted_root_events_are_those_of_the_repo_whatever_their_order() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "a", &["one"]), 1);
        for n in 0..5 {
            state.add_root(root_id(n), u64::from(n) + 2, &[addr(1, "a"), addr(2, "b")]);
        }
        state.on_committed();
        state.set_announcement(&announcement(2, "b", &["two"]), 9);
        let repo = state.repo_id(&addr(2, "b")).unwrap();
        assert_eq!(state.roots_of_repo(repo).count(), 0, "the store has them");
        state.adopt(repo, &[(root_id(4), 6), (root_id(7), 7)]);
        state.adopt(repo, &[(root_id(1), 3), (root_id(4), 6)]);
        let ids: Vec<EventId> = state.roots_of(&relay("two")).iter().map(|root| *state.root_event_id(*root)).collect();
        assert_eq!(ids, [root_id(1), root_id(4), root_id(7)]);
        let changes = state.regain(repo);
        assert_eq!(changes.gained, [(relay("two"), [repo].into())].into());
        assert_eq!(changes.lost, changes.gained);
        state.remove_root(&root_id(4));
        assert_eq!(state.roots_of_repo(repo).count(), 2);
        assert_eq!(state.root_count_of(&relay("one")), 4);
    }
}
