//! What a scenario looks at, and how it fails.

use super::{CACHE_BYTES, World};
use crate::checks::{Durable, LinkCheck, Verdict};
use crate::clock::{Micros, SECOND};
use crate::disk::{DiskFaults, Lost};
use crate::events::{EventRef, SimEvent};
use crate::link::Far;
use grasp_sync::store::Store;
use grasp_sync::time::Now;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;

impl World {
    pub fn now(&self) -> Now {
        self.clock.seen_by(self.started)
    }

    /// What a power cut would leave now.
    pub fn durable(&mut self) -> &Durable {
        let verdict = self.refresh_durable();
        self.demand(verdict);
        &self.durable.1
    }

    pub fn has(&mut self, event: &EventRef) -> bool {
        self.durable().has(event)
    }

    pub fn has_all<'a>(&mut self, events: impl IntoIterator<Item = &'a EventRef>) -> bool {
        let durable = self.durable();
        events.into_iter().all(|e| durable.has(e))
    }

    /// How many of `events` are missing, for messages.
    pub fn missing<'a>(&mut self, events: impl IntoIterator<Item = &'a EventRef>) -> usize {
        let durable = self.durable();
        events.into_iter().filter(|e| !durable.has(e)).count()
    }

    pub(super) fn refresh_durable(&mut self) -> Verdict {
        let syncs = self.disk.syncs();
        if self.durable.0 == syncs {
            return Ok(());
        }
        let image = self.disk.after(Lost::All);
        image.set_faults(DiskFaults::default());
        let mut events = BTreeMap::new();
        if !image.is_blank() {
            let store = Store::open(image, CACHE_BYTES).map_err(|e| format!("the store does not open: {e:?}"))?;
            let (mut old, by_seq) = (std::mem::take(&mut self.by_seq), &mut self.by_seq);
            let read = store.for_each(&mut |seq, json| {
                let event = old.remove(&seq).filter(|e| e.json == json);
                let event = event.unwrap_or_else(|| Rc::new(SimEvent::from_json(json).expect("a stored event")));
                events.insert(event.id.clone(), event.clone());
                by_seq.insert(seq, event);
                ControlFlow::Continue(())
            });
            read.map_err(|e| format!("the store cannot be read: {e:?}"))?;
        }
        self.durable = (syncs, Durable { events });
        self.checks.on_durable(&self.durable.1)
    }

    pub fn status(&self) -> Value {
        let text = self.process.as_ref().map(|p| p.status_json(self.now())).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_else(|e| self.fail(&format!("/status.json is not JSON ({e}): {text}")))
    }

    /// What `/status.json` says of a relay.
    pub fn relay_status(&self, relay: &str) -> Value {
        let status = self.status();
        let url = super::relay_url(relay);
        status["relays"].as_array().into_iter().flatten().find(|r| r["url"] == *url).cloned().unwrap_or(Value::Null)
    }

    pub fn outputs_hash(&self) -> u64 {
        self.trace.outputs_hash()
    }

    /// What this side has open on its link to a relay: filters.
    pub fn open_filters(&self, relay: &str) -> usize {
        let n = self.relay_number(relay);
        let serials = self.links.iter().filter(|(_, l)| l.far == Far::Relay(n)).map(|(s, _)| s);
        serials.filter_map(|s| self.checks.links.get(s)).map(LinkCheck::open_filters).sum()
    }

    /// When a relay was last dialled or asked something.
    pub fn last_asked(&self) -> Micros {
        let last = self.relays.iter().flat_map(|r| [r.dials.last().copied(), r.reqs.last().map(|q| q.at)]);
        last.flatten().max().unwrap_or(self.started).max(self.started)
    }

    pub(super) fn far_name(&self, serial: u64) -> String {
        match self.links.get(&serial).map(|l| l.far) {
            Some(Far::Relay(n)) => self.relays[n].url.clone(),
            Some(Far::Client(n)) => format!("client {n}"),
            None => String::from("a ghost"),
        }
    }

    pub fn say(&mut self, what: &str) {
        self.trace.say(self.clock.now(), what);
    }

    /// What can change the need for a relay is about to happen, or its need is about to be judged.
    pub(super) fn note_needed(&mut self) {
        let verdict = self.refresh_durable();
        self.demand(verdict);
        let urls: Vec<&str> = self.relays.iter().map(|r| &*r.url).collect();
        self.checks.note_needed(self.clock.now(), &self.durable.1, &urls, &self.settings.bootstrap);
    }

    pub(super) fn demand(&self, verdict: Verdict) {
        if let Err(why) = verdict {
            self.fail(&why);
        }
    }

    /// Ends the scenario; the trace is printed on the way out.
    pub fn fail(&self, why: &str) -> ! {
        panic!("at {:.6} s: {why}", self.clock.now() as f64 / SECOND as f64)
    }
}
