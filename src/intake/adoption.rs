//! Root events that the store holds already when a repo that they tag is announced. They are looked for in the store, a
//! bounded number of events in one turn of the loop. Most often one look is enough; where it is not, relays have been
//! asked about the repo meanwhile without all of its root events, and are asked anew when all are known.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use nostr::event::EventId;

use super::IntakeContext;
use crate::limits::ADOPTION_STEP_CANDIDATES;
use crate::protocol::filter::Filter;
use crate::protocol::repo::{ROOT_KINDS, RepoAddr};
use crate::protocol::root::root_from_json;
use crate::state::{Changes, RepoId};
use crate::store::{Known, Query, QueryStep, Seq, StoreError};

/// The repos whose root events are being looked for.
#[derive(Debug, Default)]
pub(super) struct Adoptions(VecDeque<Adoption>);

#[derive(Debug)]
struct Adoption {
    repo: RepoId,
    query: Query,
}

impl Adoptions {
    /// A repo has been announced for the first time.
    pub fn begin(&mut self, addr: &RepoAddr, context: &mut IntakeContext<'_>) -> Result<(), StoreError> {
        let Some(repo) = context.state.repo_id(addr) else { return Ok(()) };
        let filter = Filter::of_tag(ROOT_KINDS, b'a', &addr.to_string());
        let query = Query::new(filter, context.store.last_seq(), usize::MAX);
        let mut adoption = Adoption { repo, query };
        if adoption.step(context)? == QueryStep::More {
            self.0.push_back(adoption);
        }
        Ok(())
    }

    /// Whether there is more to look for.
    pub fn are_pending(&self) -> bool {
        !self.0.is_empty()
    }

    /// Goes on. Returns what relays are to be asked anew.
    pub fn step(&mut self, context: &mut IntakeContext<'_>) -> Result<Changes, StoreError> {
        let Some(mut adoption) = self.0.pop_front() else { return Ok(Changes::default()) };
        match adoption.step(context)? {
            QueryStep::More => self.0.push_back(adoption),
            QueryStep::Done => return Ok(context.state.regain(adoption.repo)),
        }
        Ok(Changes::default())
    }
}

impl Adoption {
    fn step(&mut self, context: &mut IntakeContext<'_>) -> Result<QueryStep, StoreError> {
        let addr = context.state.addr(self.repo).clone();
        let mut found: Vec<(EventId, Seq)> = Vec::new();
        // Its `a` tags beyond the first few do not count.
        let mut note = |seq, json: &str| {
            let root = root_from_json(json).filter(|(_, repos)| repos.contains(&addr));
            found.extend(root.map(|(id, _)| (id, seq)));
            ControlFlow::Continue(())
        };
        let step = context.store.query(&mut self.query, context.now.wall, ADOPTION_STEP_CANDIDATES, &mut note)?;
        let mut held = Vec::with_capacity(found.len());
        for (id, seq) in found {
            // The batch may be about to remove it.
            if matches!(context.store.known(&id)?, Some(Known::Stored { .. })) {
                held.push((id, seq));
            }
        }
        context.state.adopt(self.repo, &held);
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::StateChange;
    use crate::settings::Settings;
    use crate::state::State;
    use crate::store::Store;
    use crate::store::testing::event;
    use crate::sync::testing::{addr, announcement, settings};
    use crate::time::{Instant, Now, UnixTime};

    const NOW: Now = Now { mono: Instant::ZERO, wall: UnixTime::EPOCH };

    /// A store of so many issues of the repo `b`, in a state that knows the repo `a` alone.
    fn world(issues: u64, settings: &Settings) -> (Store, State) {
        let (mut store, mut state) = (Store::in_memory(), State::new(settings.clone()));
        state.set_announcement(&announcement(1, "a", &["one"]), 1);
        let (a, b) = (addr(1, "a").to_string(), addr(2, "b").to_string());
        for n in 0..issues {
            let tags: [&[&str]; 2] = [&["a", &b], &["a", &a]];
            let issue = event(3, 1_621, 10 + n, &tags[..1 + n as usize % 2], "");
            let seq = store.stage(issue.clone()).unwrap().seq;
            let _ = StateChange::of(&issue).apply(seq.max(2), &mut state);
            if n % 3 == 0 {
                store.stage(event(3, 1_111, 10 + n, &[&["a", &b]], "")).unwrap();
            }
        }
        store.commit().unwrap();
        state.on_committed();
        (store, state)
    }

    #[test]
    fn a_repo_has_the_root_events_that_came_before_it() {
        for issues in [10, 3 * ADOPTION_STEP_CANDIDATES as u64] {
            let settings = settings();
            let (mut store, mut state) = world(issues, &settings);
            let gone = event(3, 1_621, 10, &[&["a", &addr(2, "b").to_string()]], "");
            store.stage(event(3, 5, 11, &[&["e", &gone.id.to_hex()]], "")).unwrap();
            state.set_announcement(&announcement(2, "b", &["two"]), 1_000_000);
            let repo = state.repo_id(&addr(2, "b")).unwrap();
            let mut context = IntakeContext { now: NOW, store: &mut store, state: &mut state, settings: &settings };
            let mut adoptions = Adoptions::default();
            adoptions.begin(&addr(2, "b"), &mut context).unwrap();
            assert_eq!(adoptions.are_pending(), issues > 10);
            let (mut steps, mut regained) = (1, Changes::default());
            while adoptions.are_pending() {
                assert!(regained.is_empty(), "when all are known");
                assert!(context.state.roots_of_repo(repo).count() <= steps * ADOPTION_STEP_CANDIDATES);
                regained.merge(adoptions.step(&mut context).unwrap());
                steps += 1;
            }
            assert_eq!(regained.gained.len(), usize::from(issues > 10));
            assert_eq!(state.roots_of_repo(repo).count() as u64, issues - 1, "one is about to go");
        }
    }
}
