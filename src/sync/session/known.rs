//! How a link makes itself known to a relay that wants that (NIP-42). While it is open what the relay makes of us,
//! nothing is asked; what was refused for want of an answer waits with the rest.

use nostr::event::EventId;

use super::{Lockout, Reception, Session};
use crate::contract::Output;
use crate::protocol::relay_url::RelayUrl;
use crate::sync::Cx;
use crate::sync::auth::Outcome;

impl Session {
    /// The relay sent a challenge.
    pub fn on_challenge(&mut self, challenge: &str, relay: &RelayUrl, cx: &mut Cx<'_>) {
        self.auth.on_challenge(challenge);
        self.make_known(relay, cx);
    }

    /// Answers the relay's challenge, if there is one and something was refused for want of an answer.
    pub fn make_known(&mut self, relay: &RelayUrl, cx: &mut Cx<'_>) {
        if let Some(text) = self.auth.answer(cx.settings.auth_key.as_ref(), relay, cx.now) {
            cx.out.push_back(Output::Send { link: self.link, text });
        }
    }

    /// The relay said of an event of ours whether it takes it.
    pub fn on_ok(&mut self, id: EventId, accepted: bool, cx: &mut Cx<'_>) {
        match self.auth.on_ok(id, accepted) {
            Some(Outcome::Refused) => self.stay_unknown(Lockout::Restricted, cx),
            Some(Outcome::Accepted) => self.pump(cx),
            None => {}
        }
    }

    /// Something was refused because the relay does not know us. Says whether that may still change.
    pub(super) fn wants_to_be_known(&mut self, cx: &Cx<'_>) -> bool {
        self.auth.want(cx.settings.auth_key.as_ref(), cx.now.mono)
    }

    /// Ends the wait for a relay that says nothing.
    pub(super) fn end_unknown(&mut self, cx: &mut Cx<'_>) {
        if self.auth.on_time(cx.now.mono, cx.settings.timing.sweep_timeout).is_some() {
            self.stay_unknown(Lockout::AuthRequired, cx);
        }
    }

    /// What was refused stays so. If that is all, the relay is left alone; else what else there is goes on.
    fn stay_unknown(&mut self, lockout: Lockout, cx: &mut Cx<'_>) {
        if self.has_answered() {
            return self.pump(cx);
        }
        self.reception = Reception::LockedOut(lockout);
        self.pump(cx);
    }
}
