//! What a scenario looks at, and how it fails.

use super::{CACHE_BYTES, World};
use crate::checks::durable::Durable;
use crate::checks::link::LinkCheck;
use crate::checks::rules::Bench;
use crate::checks::{Checks, Moment, Verdict};
use crate::clock::{Micros, SECOND};
use crate::disk::{DiskFaults, Lost};
use crate::events::EventRef;
use crate::link::Far;
use crate::model_relay::ModelRelay;
use grasp_sync::store::{Progress, Store, StoreError};
use grasp_sync::time::{Instant, Now};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

impl World {
    pub fn now(&self) -> Now {
        self.clock.seen_by(self.started + self.asleep)
    }

    /// The time, but for what the machine has slept since the process began: what a process with the best of monotonic
    /// clocks would have counted.
    pub fn awake(&self) -> Micros {
        self.clock.now() - self.asleep
    }

    /// What a power cut would leave now.
    pub fn durable(&mut self) -> &Durable {
        let verdict = self.refresh_durable();
        self.demand(verdict);
        &self.checks.durable
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

    /// Takes in what has been committed since the last look: from the store of the process, and now and then, or when
    /// there is none, from the disk itself.
    pub(super) fn refresh_durable(&mut self) -> Verdict {
        let syncs = self.disk.syncs();
        if self.seen_syncs == syncs {
            return Ok(());
        }
        self.seen_syncs = syncs;
        let now = Moment { at: self.awake(), wall: self.clock.wall_lately() };
        let unneeded = match self.process.as_ref().and_then(|p| p.store()) {
            Some(store) if !self.commits.is_multiple_of(self.look_every) => {
                let text = |seq| store.event_json(seq).map_err(unreadable);
                let mut new = Vec::new();
                for seq in self.checks.durable.last_seq() + 1..=store.last_seq() {
                    new.extend(text(seq)?.map(|text| (seq, text)));
                }
                let progress = store.progress().map_err(unreadable)?;
                // What cannot be read counts as held: the process will hear of it soon enough.
                let unneeded = self.checks.on_durable(now, new, &|seq| text(seq).is_ok_and(|text| text.is_none()))?;
                self.judge_claims(now, &progress)?;
                unneeded
            }
            _ => {
                let (image, progress) = self.read_disk()?;
                let unneeded = self.checks.on_image(now, image)?;
                self.judge_claims(now, &progress)?;
                unneeded
            }
        };
        for url in unneeded {
            let relay = self.relays.iter().position(|r| r.url == url);
            relay.filter(|_| !self.checks.needs(&url)).map(|n| self.checks.health.remove(&n));
        }
        Ok(())
    }

    /// Holds what progress claims against what relays have, as soon as it claims anything new: what is missing now may
    /// be had by other ways before the next look at the disk.
    fn judge_claims(&mut self, now: Moment, progress: &[Progress]) -> Verdict {
        self.checks.claims.void |= self.clock.was_set();
        if !self.checks.claims.is_news(progress) {
            return Ok(());
        }
        let Checks { rules, durable, claims, .. } = &mut self.checks;
        let bench = Bench { rules, durable, signed: None, replaces: false, wall: now.wall };
        claims.judge(progress, &self.relays, &is_trusted, &bench)
    }

    /// What a power cut would leave now.
    fn read_disk(&self) -> Result<OnDisk, String> {
        let image = self.disk.after(Lost::All);
        image.set_faults(DiskFaults::default());
        let (mut events, mut progress) = (Vec::new(), Vec::new());
        if !image.is_blank() {
            let store = Store::open(image, CACHE_BYTES).map_err(unreadable)?;
            let read = store.for_each(&mut |seq, json| {
                events.push((seq, json.to_owned()));
                ControlFlow::Continue(())
            });
            read.map_err(unreadable)?;
            progress = store.progress().map_err(unreadable)?;
        }
        Ok((events, progress))
    }

    /// Hears what the process has logged.
    pub(super) fn listen(&mut self) {
        for line in crate::ear::take() {
            let verdict = self.checks.machine.on_line(self.awake(), &line, &self.checks.rules);
            if line.contains(": fault: ") {
                let left = self.faults_to_come.checked_sub(1);
                self.faults_to_come = left.unwrap_or_else(|| self.fail(&line));
            }
            if let Some(logged) = &mut self.logged {
                logged.push(line.clone());
            }
            self.trace.say(self.clock.now(), line);
            self.demand(verdict);
        }
    }

    /// Looks whether the window is as it should be at this moment.
    pub(super) fn look_at_window(&mut self) {
        let Some(process) = self.process.as_ref() else { return };
        let seen = process.window_closes_at().map(Instant::as_micros);
        let length = self.settings.timing.batch_window.as_micros();
        let closed = self.checks.window.observe(self.now().mono.as_micros(), length, seen);
        match closed {
            Ok(true) => {
                self.checks.machine.on_window_closed(self.awake());
                self.checks.pace.on_window();
            }
            Ok(false) => {}
            Err(why) => self.fail(&why),
        }
    }

    /// Looks whether what waits anywhere is within its bound.
    pub fn look_at_bounds(&self) {
        let text = self.process.as_ref().map(|p| p.metrics_text()).unwrap_or_default();
        let verdict = bounds(&text);
        self.demand(verdict);
    }

    /// Whether the store says that a repo is confirmed on a relay.
    pub fn is_confirmed(&self, relay: &str, address: &str) -> bool {
        let store = self.process.as_ref().and_then(|p| p.store()).expect("a process with a store runs");
        let progress = store.progress().unwrap_or_else(|e| self.fail(&unreadable(e)));
        let url = super::relay_url(relay);
        let it = |p: &Progress| matches!(p, Progress::Confirmed { relay, repo, .. } if relay.as_str() == url && repo.to_string() == address);
        progress.iter().any(it)
    }

    /// A metric that has no labels.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.process.as_ref().map(|p| p.metrics_text()).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|v| v.parse().ok()).unwrap_or_else(|| self.fail(&format!("no metric {name}")))
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

    pub fn say(&mut self, what: &str) {
        self.trace.say(self.clock.now(), what.to_owned());
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

/// Events by number, and what is said to be complete.
type OnDisk = (Vec<(u64, String)>, Vec<Progress>);

/// Whether a relay answers whatever it holds and tells its subscribers of whatever comes.
fn is_trusted(relay: &ModelRelay) -> bool {
    let config = &relay.config;
    // Past its limit of subscriptions strfry sends EOSE and is not live.
    config.liar.is_none() && config.flavour.name.starts_with("strfry") && relay.known_breaches().is_empty()
}

fn unreadable(error: StoreError) -> String {
    format!("the store cannot be read: {error:?}")
}

/// Judges the queues that `/metrics` tells of.
fn bounds(text: &str) -> Verdict {
    let of = |metric: &'static str| {
        text.lines().filter_map(move |line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "))
    };
    let limits: BTreeMap<&str, &str> = of("grasp_sync_queue_limit").collect();
    for (queue, depth) in of("grasp_sync_queue_depth") {
        let limit = limits.get(queue).ok_or_else(|| format!("{queue} has no limit"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{queue}: {e}: {text}"));
        if number(depth)? > number(limit)? {
            return Err(format!("{queue}: {depth}, but the limit is {limit}"));
        }
    }
    Ok(())
}

#[test]
fn a_queue_above_its_bound_is_found() {
    let text = |depth: u64| {
        format!("grasp_sync_queue_depth{{queue=\"q\"}} {depth}\ngrasp_sync_queue_limit{{queue=\"q\"}} 3\n")
    };
    bounds(&text(3)).expect("within");
    assert!(bounds(&text(4)).is_err());
    assert!(bounds("grasp_sync_queue_depth{queue=\"q\"} 1\n").is_err(), "no limit");
}
