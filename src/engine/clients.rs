//! The engine's clients: what they say, what is done for each of them alone, and what they are sent.

use nostr::event::EventId;

use super::{Engine, Publisher};
use crate::contract::{LinkId, Output};
use crate::intake::Outcome;
use crate::metrics::{Metrics, Side, Source};
use crate::policy::Refusal;
use crate::serve::{Serve, ServeOutput};
use crate::store::{Store, StoreError};
use crate::time::Now;

impl Engine {
    pub(super) fn on_client_text(&mut self, now: Now, client: u64, text: &str) -> Result<(), StoreError> {
        self.metrics.messages_received.add(Side::Client);
        self.metrics.bytes_received.add_many(Side::Client, text.len() as u64);
        let published =
            self.with_client(client, |serve, store, metrics| serve.on_text(now, client, text, store, metrics));
        let Some(raw) = published.flatten() else { return Ok(()) };
        self.metrics.events_received.add(Source::Client);
        if self.refuse_for_room(client, &raw)? {
            return Ok(());
        }
        let Some(outcome) = self.offer(now, &raw, Publisher::Client(client))? else { return Ok(()) };
        match outcome {
            Outcome::Staged { .. } | Outcome::Pending { .. } => {
                self.pending_commit.acknowledgements.push((client, raw.id));
            }
            Outcome::Stored { .. } => {
                self.acknowledge(client, &raw.id, true, "duplicate: already have this event");
            }
            Outcome::Refused { refusal: Refusal::Quota(quota), .. } => {
                let why = quota.message(&self.settings.limits);
                self.acknowledge(client, &raw.id, false, &why);
            }
            Outcome::Refused { refusal, .. } | Outcome::RefusedBefore { refusal, .. } => {
                self.acknowledge(client, &raw.id, false, refusal.message());
            }
        }
        Ok(())
    }

    /// Lets the own relay act for one client. `None` if that has panicked: the client's link is closed.
    pub(super) fn with_client<R>(
        &mut self,
        client: u64,
        act: impl FnOnce(&mut Serve, &Store, &mut Metrics) -> R,
    ) -> Option<R> {
        let Engine { serve, store, metrics, .. } = self;
        serve.alone(client, metrics, |serve, metrics| act(serve, store, metrics))
    }

    /// Tells a client the fate of an event that it published.
    pub(super) fn acknowledge(&mut self, client: u64, event: &EventId, accepted: bool, why: &str) {
        self.with_client(client, |serve, _, _| serve.acknowledge(client, event, accepted, why));
    }

    pub(super) fn collect_served(&mut self) {
        while let Some(output) = self.serve.poll_output() {
            self.out.push_back(match output {
                ServeOutput::Send { client, text } => Output::Send { link: LinkId::Client(client), text },
                ServeOutput::Ping { client } => Output::Ping { link: LinkId::Client(client) },
                ServeOutput::Hold { client, bytes } => Output::Hold { link: LinkId::Client(client), bytes },
                ServeOutput::Close { client, code } => Output::Close { link: LinkId::Client(client), code },
            });
        }
    }
}
