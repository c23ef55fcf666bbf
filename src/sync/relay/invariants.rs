//! What must hold of a relay between two inputs, whatever it says: for tests and fuzz targets.

use super::Relay;
#[cfg(test)]
use super::linked_in;
use crate::state::State;
#[cfg(test)]
use crate::sync::Cx;
use crate::sync::filters::Unit;

impl Relay {
    /// Panics if the parts contradict each other, or if something that the relay shares and that was planned is not
    /// followed: neither live, nor polled, nor waiting to be live.
    pub fn assert_invariants(&self, state: &State) {
        let Some(linked) = self.linked() else {
            assert!(self.budget.is_some(), "no session has it");
            return;
        };
        linked.session.assert_invariants();
        let followed = linked.session.followed();
        assert!(followed.meets(&Unit::Announcements), "{}: layer 1 is not followed", self.url);
        for repo in linked.planned.iter().filter(|repo| state.shares(&self.url, **repo)) {
            let addr = state.addr(*repo);
            assert!(followed.meets(&Unit::Repos([*repo].into())), "{}: {addr} is not followed", self.url);
            for root in state.roots_of_repo(*repo).filter(|root| state.root_seq(*root) <= linked.planned_upto) {
                let id = state.root_event_id(root);
                assert!(followed.meets(&Unit::Roots([root].into())), "{}: {id} is not followed", self.url);
            }
        }
    }

    /// Panics if an input has left something unasked that may be asked.
    #[cfg(test)]
    pub fn assert_pumped(&mut self, cx: &mut Cx<'_>) {
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.assert_pumped(cx);
        }
    }
}
