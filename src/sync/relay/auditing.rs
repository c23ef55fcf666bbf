//! What a relay's machine passes on of what its session wants to know of the store.

use nostr::key::PublicKey;

use super::Relay;
use crate::sync::Cx;
use crate::sync::agenda::pass::{ThreadPart, WantedThread};
use crate::sync::session::Session;

impl Relay {
    /// Whether the machine waits for [`Relay::add_authors`].
    pub fn wants_authors(&self) -> bool {
        self.session().is_some_and(Session::wants_authors)
    }

    /// The authors whose events are held, in the order of their keys: their deletions are asked for.
    pub fn add_authors(&mut self, authors: &[PublicKey], cx: &mut Cx<'_>) {
        self.tell(cx, |session, cx| session.add_authors(authors, cx));
    }

    /// Of what it is wanted to be known with [`Relay::add_thread`] which events tag it.
    pub fn wanted_thread(&self, cx: &Cx<'_>) -> Option<WantedThread<'_>> {
        self.session()?.wanted_thread(cx.now)
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
