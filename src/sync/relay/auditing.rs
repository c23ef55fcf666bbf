//! What a relay's machine has to do with audits, and with what full catch-ups ask beyond the three layers: it passes on what
//! its session wants to know of the store.

use nostr::key::PublicKey;

use super::{Deletions, Relay, State};
use crate::sync::Cx;
use crate::sync::plan::deletion_sweeps;
use crate::sync::session::{Session, ThreadPart, WantedThread};

impl Relay {
    /// Whether the machine waits for [`Relay::add_authors`].
    pub fn wants_authors(&self) -> bool {
        self.wants_deletions() || self.session().is_some_and(Session::wants_authors)
    }

    fn wants_deletions(&self) -> bool {
        matches!(self.state, State::Catchup { deletions: Deletions::AuthorsWanted, .. })
    }

    /// The authors whose events are held, in the order of their keys: their deletions are asked for.
    pub fn add_authors(&mut self, authors: &[PublicKey], cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Catchup { linked, deletions: deletions @ Deletions::AuthorsWanted, .. } => {
                *deletions = Deletions::Settled;
                let shape = linked.session.shape(cx);
                linked.session.add_sweeps(deletion_sweeps(authors, shape));
                linked.session.pump(cx);
                self.run_transitions(cx);
            }
            _ => self.tell(cx, |session, cx| session.add_authors(authors, cx)),
        }
    }

    /// Of what it is wanted to be known with [`Relay::add_thread`] which events tag it.
    pub fn wanted_thread(&self, cx: &Cx<'_>) -> Option<WantedThread<'_>> {
        self.session()?.wanted_thread(cx)
    }

    /// Events that tag the unit of [`Relay::wanted_thread`].
    pub fn add_thread(&mut self, part: ThreadPart, cx: &mut Cx<'_>) {
        self.tell(cx, |session, cx| session.add_thread(part, cx));
    }

    /// Whether only the policy can tell whether what comes for a subscription was asked for.
    pub fn leaves_to_policy(&self, subscription: &str) -> bool {
        self.session().is_some_and(|session| session.leaves_to_policy(subscription))
    }
}
