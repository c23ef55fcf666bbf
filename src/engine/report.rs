//! What the engine says of itself: `/metrics` and `/status.json` (spec section 11).

use log::info;
use serde_json::{Value, json};

use crate::engine::{Engine, Entry};
use crate::limits::{
    BATCH_EVENTS_MAX, CLIENT_BYTES_MAX, CLIENT_HELD_EVENTS_MAX, FANOUT_BACKLOG_MAX, REFUSED_IDS_MAX,
    RELAY_SUBSCRIPTIONS_MAX, WAITING_NAMED_MAX,
};
use crate::metrics::{Gauges, QueueSample, RelaySample};
use crate::protocol::relay_url::RelayUrl;
use crate::shares::room::Shortage;
use crate::sync::budget::{Budget, Learned};
use crate::sync::coverage::Coverage;
use crate::sync::filters::Unit;
use crate::sync::gap::Gap;
use crate::sync::places::LeftOut;
use crate::sync::plan::filter_count;
use crate::sync::relay::StateName;
use crate::sync::session::{Line, Session};
use crate::time::{Duration, Instant, Now, UnixTime};

impl Engine {
    /// Metrics in the Prometheus text format (spec section 11).
    pub fn metrics_text(&self) -> String {
        let relays: Vec<RelaySample> = self.relays.iter().map(|(_, entry)| sample(entry)).collect();
        let busiest = self.relays.iter().filter_map(|(_, entry)| entry.relay.session());
        let queue = |name, depth, limit| QueueSample { name, depth, limit };
        let gauges = Gauges {
            offline: self.network.is_offline(),
            shortages: Shortage::ALL.map(|why| (why.name(), self.room.shortage() == Some(why))).into(),
            space: self.room.space(),
            repos: self.state.repos_followed(),
            root_events: self.state.roots_held(),
            store_last_seq: self.store.last_seq(),
            clients: self.serve.clients(),
            client_subscriptions: self.serve.subscriptions(),
            client_reconciliations: self.serve.reconciliations(),
            ready_set_bytes: self.serve.ready_bytes(),
            waiting: self.waiting(),
            queues: vec![
                queue("batch_events", self.store.batch_events(), BATCH_EVENTS_MAX),
                queue("refused_ids", self.intake.refused_ids(), REFUSED_IDS_MAX),
                queue("client_held_events", self.serve.held_most(), CLIENT_HELD_EVENTS_MAX),
                queue("client_bytes", self.serve.bytes_most(), CLIENT_BYTES_MAX),
                queue("dials", self.dials.waiting(), self.settings.limits.relays_max),
                queue("fan_out", self.serve.spreading(), FANOUT_BACKLOG_MAX),
                queue("relays", self.relays.len(), self.settings.limits.relays_max),
                queue("clients", self.serve.clients(), self.settings.limits.clients_max),
                queue(
                    "relay_subscriptions",
                    busiest.map(|session| session.open_subscriptions()).max().unwrap_or(0),
                    RELAY_SUBSCRIPTIONS_MAX,
                ),
            ],
            states: &STATE_NAMES,
        };
        self.metrics.render(&gauges, &relays)
    }

    /// When the batching window closes, if one is open. For tests and simulations.
    pub fn window_closes_at(&self) -> Option<Instant> {
        self.window.closes_at()
    }

    /// While relays catch up, says every few seconds how far that is, in one line for all. Never wakes the process: it
    /// speaks only when something has happened anyway.
    pub(super) fn report_progress(&mut self, now: Now) {
        if now.mono < self.progress_due {
            return;
        }
        self.progress_due = now.mono + PROGRESS_PERIOD;
        let (mut relays, mut done, mut total, mut new) = (0, 0, 0, 0);
        for (_, entry) in &self.relays {
            let catching_up = entry.relay.state_name() == StateName::Catchup;
            let Some(round) = entry.relay.session().filter(|_| catching_up).map(Session::round) else { continue };
            if round.began.mono + PROGRESS_PERIOD > now.mono {
                continue;
            }
            let sweeps = round.pass.sweeps_done();
            (relays, done, total, new) = (relays + 1, done + sweeps.0, total + sweeps.1, new + round.tally.new);
        }
        if relays > 0 {
            info!("catching up with {relays} relays: {done} of {total} sweeps, {new} new events so far");
        }
    }

    /// The JSON of `/status.json`: what is followed, and per relay its state, since when and why, how much is live and
    /// how much polled, sweeps left, through, and when something is next due.
    pub fn status_json(&self, now: Now) -> String {
        let waits = |(url, why): (&RelayUrl, &LeftOut)| json!({ "url": url.as_str(), "why": why.to_string() });
        let waiting = self.left_out.iter().take(WAITING_NAMED_MAX).map(waits);
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "service": self.settings.service.to_string(),
            "uptime_secs": now.mono.since(self.started.mono).as_secs(),
            "network": {
                "state": if self.network.is_offline() { "offline" } else { "online" },
                "since": self.network.since().as_secs(),
            },
            "repos": self.state.repos_followed(),
            "root_events": self.state.roots_held(),
            "store": { "last_seq": self.store.last_seq(), "batch_events": self.store.batch_events() },
            "storage": self.storage_status(),
            "clients": self.serve.clients(),
            "client_subscriptions": self.serve.subscriptions(),
            "window_closes_in_secs": self.window.closes_at().map(|at| at.since(now.mono).as_secs_f64()),
            "relays_waiting": {
                "count": self.left_out.len(),
                "first": waiting.collect::<Vec<_>>(),
            },
        });
        // Relay by relay: a tree of all of them takes many times the memory of its text.
        let mut text = written(&status);
        text.truncate(text.len() - "\n}".len());
        text += ",\n  \"relays\": [";
        for (n, key) in self.keys.values().enumerate() {
            text += if n == 0 { "\n" } else { ",\n" };
            text += &written(&self.relay_status(&self.relays[*key], now));
        }
        text += "]\n}";
        text
    }

    /// How many relays are listed and not followed, by why.
    fn waiting(&self) -> Vec<(&'static str, u64)> {
        let count = |why: LeftOut| self.left_out.values().filter(|of| **of == why).count() as u64;
        LeftOut::ALL.into_iter().map(|why| (why.name(), count(why))).collect()
    }

    /// Whether anything can be stored, and how much room there is.
    fn storage_status(&self) -> Value {
        let (shortage, space) = (self.room.shortage(), self.room.space());
        json!({
            "state": if shortage.is_some() { "short" } else { "enough" },
            "why": shortage.map(|why| why.to_string()),
            "since": self.room.since().map(UnixTime::as_secs),
            "disk_free_bytes": space.map(|space| space.disk_free),
            "store_bytes": space.map(|space| space.store),
        })
    }

    fn relay_status(&self, entry: &Entry, now: Now) -> Value {
        let relay = &entry.relay;
        let (entered, why) = relay.entered();
        let session = relay.session();
        let coverage = Coverage::of(relay);
        let values = |units: &mut dyn Iterator<Item = &Unit>| {
            let (mut repos, mut roots) = (0, 0);
            for unit in units {
                match unit {
                    Unit::Announcements | Unit::Identifiers(_) | Unit::Everything => {}
                    Unit::Repos(chunk) => repos += chunk.len(),
                    Unit::Roots(chunk) => roots += chunk.len(),
                }
            }
            json!({ "repos": repos, "root_events": roots })
        };
        let secs_until = |at: Option<Instant>| json!(at.map(|at| at.since(now.mono).as_secs_f64()));
        let manner = relay.budget().manner();
        let mut status = json!({
            "url": relay.url().as_str(),
            "state": relay.state_name().as_str(),
            "since": entered.as_secs(),
            "why": why.to_string(),
            "last_lost": relay.last_lost().map(|(why, at)| json!({ "at": at.as_secs(), "why": why.to_string() })),
            "health": relay.health().name(),
            "failures": relay.health().failures(),
            "through": some_time(relay.progress().through()),
            "last_full_catchup": some_time(relay.progress().full_catchup()),
            "last_audit": some_time(relay.budget().audited_at),
            "repos": self.state.repo_count_of(relay.url()),
            "root_events": self.state.root_count_of(relay.url()),
            "gap_events": relay.totals().gap_events,
            "idle_drop_secs": relay.budget().idle.secs(),
            "coverage": coverage.name(),
            "coverage_why": coverage.why(),
            "gaps": relay.budget().gaps.iter().map(gap).collect::<Vec<_>>(),
            "limits": limits(relay.budget(), self.settings.limits.filter_values_max),
            "full_catchups": { "by": manner.by, "why": manner.why },
            "next_due_in_secs": secs_until(entry.timer.map(|(at, _)| at)),
        });
        if let Some(session) = session {
            let (done, total) = session.round().pass.sweeps_done();
            let polled: Vec<&Unit> = session.units().polled().collect();
            status["subscriptions"] = json!(session.open_subscriptions());
            status["live"] = values(&mut session.live_units());
            status["live"]["filters"] = json!(session.live_filters());
            status["polled"] = values(&mut polled.iter().copied());
            status["polled"]["filters"] = json!(filter_count(polled.iter().copied()));
            status["filtering"] = json!(if session.filtering().is_unfiltered() { "none" } else { "by_tag" });
            status["audit_secs"] = json!(session.audits().period().as_secs());
            let reached = session.units().reached();
            status["polled"]["covered"] = json!(reached.map(|reached| reached.complete.as_secs()));
            status["polled"]["quick"] = json!(reached.map(|reached| reached.polled.as_secs()));
            let wait = session.wait();
            status["asks_next"] = json!({
                "waits": wait.why.words(),
                "until_secs": secs_until(wait.until),
                "agenda": session.explain().iter().map(|line| asks(line, now)).collect::<Vec<_>>(),
            });
            status["sweeps_left"] = json!(total - done);
            status["sweeps_failed"] = json!(relay.is_incomplete());
            status["paused_secs"] = secs_until(session.paused_until());
            status["cooldown_secs"] = secs_until(session.cooldown_until());
        }
        status
    }
}

/// What a relay allows, and where that is known from.
fn limits(budget: &Budget, values_max: usize) -> Value {
    let shape = budget.shape(values_max);
    json!({
        "subscriptions": budget.subscriptions(),
        "filters": shape.filters,
        "values": shape.values,
        "bytes": shape.bytes,
        "limit": budget.page_limit(false),
        "advertised": budget.info.is_some(),
        "learned": (budget.learned != Learned::default()).then(|| json!(budget.learned)),
    })
}

/// What is to be asked, why, and when.
fn asks(line: &Line, now: Now) -> Value {
    json!({
        "class": line.class.name(),
        "about": line.about,
        "why": line.why,
        "due_in_secs": line.due.map(|due| due.since(now.mono).as_secs_f64()),
    })
}

/// What cannot be had, where, and why.
fn gap(gap: &Gap) -> Value {
    json!({
        "from": gap.span.from.as_secs(),
        "to": gap.span.to.as_secs(),
        "what": gap.what,
        "reason": gap.reason.why(),
        "found": gap.found_at.as_secs(),
    })
}

/// Time between two lines about catch-ups under way.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

const STATE_NAMES: [&str; 7] = {
    let mut names = [""; 7];
    let mut n = 0;
    while n < names.len() {
        names[n] = StateName::ALL[n].as_str();
        n += 1;
    }
    names
};

fn some_time(time: UnixTime) -> Option<u64> {
    (time != UnixTime::EPOCH).then(|| time.as_secs())
}

fn sample(entry: &Entry) -> RelaySample {
    let relay = &entry.relay;
    let session = relay.session();
    let reached = session.and_then(|session| session.units().reached());
    let polled = session.map_or(0, |session| filter_count(session.units().polled()));
    RelaySample {
        url: relay.url().to_string(),
        state: relay.state_name().as_str(),
        connected: session.is_some(),
        status: relay.health().status_code(),
        failures: u64::from(relay.health().failures()),
        attempts_ok: relay.totals().dials_ok,
        attempts_failed: relay.totals().dials_failed,
        gap_events: relay.totals().gap_events,
        live_filters: session.map_or(0, |session| session.live_filters()),
        polled_filters: polled,
        coverage: Coverage::of(relay).code(),
        polled_whole: reached.map(|reached| reached.complete.as_secs()),
        polled: reached.map(|reached| reached.polled.as_secs()),
        subscriptions: session.map_or(0, |session| session.open_subscriptions()),
        sweeps_left: session.map_or(0, |session| {
            let (done, total) = session.round().pass.sweeps_done();
            total - done
        }),
    }
}

/// A part of the status as indented JSON.
fn written(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a status is always JSON")
}
