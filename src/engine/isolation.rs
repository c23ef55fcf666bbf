//! A bug in the machine of one relay or of one client ends that link alone (spec section 16, "Isolation").

use log::error;
use slab::Slab;

use super::supply::Hints;
use super::{Engine, Entry, Publisher};
use crate::contract::{LinkId, Output};
use crate::fault::{Fault, Party, inject, isolate};
use crate::intake::Intake;
use crate::metrics::{Label, Side};
use crate::protocol::message::{MessageError, RelayMessage, parse_relay_message};
use crate::store::{Progress, Store};
use crate::sync::Cx;
use crate::sync::relay::Before;
use crate::sync::session::Origin;
use crate::time::Now;

/// RFC 6455: something unexpected keeps this side from going on.
const INTERNAL_ERROR: u16 = 1011;

/// What the subscription is to a relay's machine for which an event came.
#[derive(Clone, Copy, Debug)]
pub(super) enum AskedFor {
    Open {
        origin: Origin,
        /// Only the policy can tell whether the event was asked for.
        leaves_to_policy: bool,
    },
    /// A page that was closed at its EOSE of late.
    JustClosed,
    /// None of ours, or the message brings no event.
    Nothing,
}

/// A message of a relay, and what it was asked for.
type Read<'a> = (Result<RelayMessage<'a>, MessageError>, AskedFor);

impl Engine {
    /// Lets a relay's machine act, or something be done for it alone. `None` if that has panicked: its links are closed,
    /// and it waits in Backoff. What `act` uses of what belongs to all relays is [`crate::fault::shared`].
    #[inline]
    pub(super) fn alone<R>(
        &mut self,
        now: Now,
        key: usize,
        act: impl FnOnce(&mut Slab<Entry>, &Store, &Intake, &mut Hints, &mut Cx<'_>) -> R,
    ) -> Option<R> {
        let before = self.relays[key].relay.before();
        self.alone_since(now, key, &before, act)
    }

    /// The same for a machine of which that is known.
    #[inline]
    pub(super) fn alone_since<R>(
        &mut self,
        now: Now,
        key: usize,
        before: &Before,
        act: impl FnOnce(&mut Slab<Entry>, &Store, &Intake, &mut Hints, &mut Cx<'_>) -> R,
    ) -> Option<R> {
        let said_before = self.out.len();
        let (relays, store, intake, hints, mut cx) = self.split(now);
        match isolate(Party::Relay(key), || act(relays, store, intake, hints, &mut cx)) {
            Ok(done) => Some(done),
            Err(fault) => {
                // What it has said last may be nonsense, or be about a link that it knows nothing of any more.
                self.out.truncate(said_before);
                self.on_relay_fault(now, key, before, &fault);
                None
            }
        }
    }

    /// Reads what a relay has sent, and looks up what its machine asked for it. `None` if that has panicked.
    #[inline]
    pub(super) fn read<'a>(&mut self, now: Now, key: usize, text: &'a str) -> Option<Read<'a>> {
        let relay = &self.relays[key].relay;
        // A message is large, and moved as seldom as can be.
        let (mut message, mut asked) = (None, AskedFor::Nothing);
        let read = isolate(Party::Relay(key), || {
            let parsed = message.insert(parse_relay_message(text));
            if let Ok(RelayMessage::Event { subscription, .. }) = parsed {
                asked = match relay.origin(subscription) {
                    Some(origin) => AskedFor::Open { origin, leaves_to_policy: relay.leaves_to_policy(subscription) },
                    None if relay.has_just_closed(subscription) => AskedFor::JustClosed,
                    None => AskedFor::Nothing,
                };
            }
        });
        match read {
            Ok(()) => message.map(|message| (message, asked)),
            Err(fault) => {
                // Reading changes nothing of the machine.
                let before = self.relays[key].relay.before();
                self.on_relay_fault(now, key, &before, &fault);
                None
            }
        }
    }

    /// An event has made intake panic.
    pub(super) fn on_publisher_fault(&mut self, now: Now, publisher: Publisher, fault: &Fault) {
        match publisher {
            Publisher::Relay { key, .. } => {
                // Intake changes nothing of the machine.
                let before = self.relays[key].relay.before();
                self.on_relay_fault(now, key, &before, fault);
            }
            Publisher::Client(client) => self.serve.on_fault(client, fault, &mut self.metrics),
            Publisher::Import(_) => unreachable!("nobody is isolated"),
        }
    }

    fn on_relay_fault(&mut self, now: Now, key: usize, before: &Before, fault: &Fault) {
        self.metrics.faults.add(Side::Relay);
        error!("{}: {fault}", self.relays[key].relay.url());
        let closed = before.links.into_iter().flatten().map(|link| Output::Close { link, code: INTERNAL_ERROR });
        self.out.extend(closed);
        let (relays, .., mut cx) = self.split(now);
        let relay = &mut relays[key].relay;
        let unconfirmed = relay.recover(before, &mut cx);
        let (url, deadline) = (relay.url().clone(), relay.next_deadline(&cx));
        for repo in unconfirmed {
            let repo = self.state.addr(repo).clone();
            self.store.stage_progress(Progress::ForgetRepo { relay: url.clone(), repo });
        }
        self.carry_away(key, before, deadline);
    }

    /// Panics that were caught, of either side. For tests and fuzz targets, which must not take them for nothing.
    pub fn faults(&self) -> u64 {
        Side::ALL.iter().map(|side| self.metrics.faults.count(*side)).sum()
    }

    /// For tests and simulations: the machine of the relay or client at the other end of a link panics when it has acted
    /// `times` times more.
    pub fn inject_fault(&self, link: LinkId, times: u32) {
        match link {
            LinkId::Relay(_) => self.links.get(&link).into_iter().for_each(|key| inject(Party::Relay(*key), times)),
            LinkId::Client(client) => inject(Party::Client(client), times),
        }
    }
}
