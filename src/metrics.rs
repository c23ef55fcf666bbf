//! Every counter in one place, and their text for Prometheus (spec section 11).
//!
//! Counters are plain numbers: the core is single-threaded and must give the same text for the same inputs. Values that
//! others hold anyway (states, queue depths) are not copied here on every change but handed to [`Metrics::render`] as
//! [`Gauges`] and [`RelaySample`]s. Reasons are counted by name, so that whoever decides them needs no entry here; their
//! names must be a closed list of constants, never a peer's words.
//!
//! The text is Prometheus' format 0.0.4, in which a name stands for itself. The OpenMetrics format would add `_total` to
//! every counter and forbid it on the gauges that dashboards know by such names.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::shares::room::Space;
use crate::time::Duration;

mod values;

pub use values::{By, BySide, BySource, Counts, Histogram, Label, Side, Source};

/// Every metric of the engine: name, Prometheus type, meaning. What is rendered is exactly this, in this order; the shell adds
/// its own (`io::counters::TABLE`).
pub const TABLE: &[(&str, &str, &str)] = &[
    ("ngit_sync_relay_connected", "gauge", "Whether the link to {relay} is up: 0 or 1"),
    ("ngit_sync_connection_attempts_total", "counter", "Connections tried to {relay}, by {result}: success or failure"),
    ("ngit_sync_relay_status", "gauge", "Health of {relay}: 1 healthy, 2 backoff, 3 dead"),
    ("ngit_sync_relay_failures", "gauge", "Failures of {relay} since its last success"),
    ("ngit_sync_events_total", "counter", "New events stored, by {source}: live, catchup, client or import"),
    ("ngit_sync_gap_events_total", "counter", "New events of {relay} that only a catch-up found"),
    ("ngit_sync_relays_tracked_total", "gauge", "Relays followed"),
    ("ngit_sync_relays_connected_total", "gauge", "Relays connected"),
    ("ngit_sync_relays_dead_total", "gauge", "Relays without a success for dead_after"),
    ("grasp_sync_build_info", "gauge", "1, with the {version} that runs"),
    ("grasp_sync_repos", "gauge", "Repos followed"),
    ("grasp_sync_root_events", "gauge", "Root events of all repos"),
    ("grasp_sync_relays_refused_total", "counter", "Relay URLs not followed, by {reason}"),
    (
        "grasp_sync_relays_waiting",
        "gauge",
        "Relays listed and not followed, by {reason}: there are relays_max, or too many of one host or author",
    ),
    (
        "grasp_sync_maintainers_refused_total",
        "counter",
        "Maintainers that count for nothing, by {reason}: an announcement lists too many, or an identifier has too many",
    ),
    ("grasp_sync_offline", "gauge", "Whether nothing can be reached, so that relays are not to blame: 0 or 1"),
    ("grasp_sync_offline_probes_total", "counter", "Dials made to see whether nothing can be reached still"),
    ("grasp_sync_relay_state_entries_total", "counter", "Times a relay entered a {state}"),
    ("grasp_sync_relays_in_state", "gauge", "Relays in each {state}"),
    ("grasp_sync_relay_filters", "gauge", "Filters of {relay}, by whether they are {held} live or polled"),
    (
        "grasp_sync_relay_coverage",
        "gauge",
        "How much of what a relay shares is covered: 0 away, 1 full, 2 polled, 3 reduced, 4 incomplete, 5 refused, 6 gaps",
    ),
    (
        "grasp_sync_relay_polled_whole_timestamp_seconds",
        "gauge",
        "Moment up to which everything that is polled on a relay is complete, with what came to it late",
    ),
    (
        "grasp_sync_relay_polled_timestamp_seconds",
        "gauge",
        "Moment up to which everything that is polled on a relay has been asked for",
    ),
    ("grasp_sync_relay_subscriptions", "gauge", "Subscriptions open on {relay}"),
    ("grasp_sync_relay_sweeps_left", "gauge", "Sweeps of {relay} not yet finished"),
    (
        "grasp_sync_relay_info_total",
        "counter",
        "Relays asked what they say of themselves (NIP-11), by {result}: read, not_json, or why there was no document",
    ),
    ("grasp_sync_windows_total", "counter", "Windows closed"),
    ("grasp_sync_sweeps_total", "counter", "Sweeps ended, by {outcome}"),
    ("grasp_sync_sweep_pages_total", "counter", "Pages that sweeps received"),
    (
        "grasp_sync_reconciliations_total",
        "counter",
        "Sweeps reconciled (NIP-77), by {outcome}; all but complete go on by pages",
    ),
    ("grasp_sync_reconcile_ids_needed_total", "counter", "Ids that reconciliations found to be needed"),
    ("grasp_sync_reconcile_ids_unserved_total", "counter", "Ids that relays listed and did not serve"),
    (
        "grasp_sync_sweep_pauses_total",
        "counter",
        "Times a relay had used up what pages without news may cost in an hour",
    ),
    ("grasp_sync_sweep_gaps_total", "counter", "Places whose events a relay has and that cannot be had from it"),
    (
        "grasp_sync_live_subscriptions_lost_total",
        "counter",
        "Live subscriptions closed or never answered by a relay, by {reason}",
    ),
    ("grasp_sync_polls_total", "counter", "Polls of what does not fit live"),
    ("grasp_sync_notices_total", "counter", "NOTICEs from relays"),
    ("grasp_sync_auth_challenges_total", "counter", "challenges from relays that want to know who we are (NIP-42)"),
    ("grasp_sync_audits_total", "counter", "Audits begun: what came late, or was missed, is looked for"),
    (
        "grasp_sync_audit_left_out_total",
        "counter",
        "Events and authors beyond those about which an audit asks, and chunks that too much tags to be looked up",
    ),
    ("grasp_sync_relay_refusals_total", "counter", "Subscriptions that relays refused or closed, by what they said"),
    ("grasp_sync_rate_limit_cooldowns_total", "counter", "Cooldowns begun because a relay limits our rate"),
    ("grasp_sync_messages_received_total", "counter", "Text messages received, by {side}: relay or client"),
    ("grasp_sync_messages_sent_total", "counter", "Text messages sent, by {side}"),
    ("grasp_sync_bytes_received_total", "counter", "Bytes of text messages received, by {side}"),
    ("grasp_sync_bytes_sent_total", "counter", "Bytes of text messages sent, by {side}"),
    ("grasp_sync_messages_refused_total", "counter", "Messages dropped or refused, by {reason}"),
    ("grasp_sync_events_received_total", "counter", "Events received from anyone, copies included, by {source}"),
    ("grasp_sync_event_bytes_total", "counter", "Bytes of new events stored, by {source}"),
    ("grasp_sync_events_duplicate_total", "counter", "Events received that were known already"),
    ("grasp_sync_events_refused_total", "counter", "Events refused, by {reason}"),
    ("grasp_sync_events_expired_total", "counter", "Stored events removed because they expired (NIP-40)"),
    (
        "grasp_sync_store_damaged_total",
        "counter",
        "Stored events that did not hold when they were read: forgotten, and fetched again",
    ),
    (
        "grasp_sync_storage_short",
        "gauge",
        "Whether nothing can be stored, by {reason}: write, disk_free or store_max; relays are left alone meanwhile",
    ),
    ("grasp_sync_commits_without_room_total", "counter", "Commits that found no room on the disk"),
    ("grasp_sync_disk_free_bytes", "gauge", "Bytes free on the disk of the store"),
    ("grasp_sync_store_bytes", "gauge", "Bytes of the disk that the store's file takes"),
    ("grasp_sync_events_removed_total", "counter", "Stored events removed because they were replaced or deleted"),
    ("grasp_sync_store_last_seq", "gauge", "Sequence number of the last event stored"),
    ("grasp_sync_batch_events", "histogram", "Events in a committed batch"),
    ("grasp_sync_commit_seconds", "histogram", "How long a commit took"),
    ("grasp_sync_queue_depth", "gauge", "What waits in each {queue}"),
    ("grasp_sync_queue_limit", "gauge", "The bound of each {queue}"),
    ("grasp_sync_clients", "gauge", "Clients connected to the own relay"),
    ("grasp_sync_client_subscriptions", "gauge", "Subscriptions that clients have open"),
    ("grasp_sync_clients_closed_total", "counter", "Clients closed by us, by {reason}"),
    ("grasp_sync_client_events_sent_total", "counter", "Events sent to clients, by {part}: stored or live"),
    ("grasp_sync_client_counts_total", "counter", "COUNTs of clients answered (NIP-45)"),
    ("grasp_sync_client_reconciliations", "gauge", "Reconciliations that clients have open (NIP-77)"),
    (
        "grasp_sync_client_reconciliations_ended_total",
        "counter",
        "Reconciliations of clients, by {how} they ended: closed, replaced, idle or failed",
    ),
    ("grasp_sync_ready_set_bytes", "gauge", "Bytes of the sets kept ready for the reconciliations of all clients"),
    ("grasp_sync_pings_sent_total", "counter", "Pings sent, by {side}"),
    ("grasp_sync_links_closed_total", "counter", "Links that ended, by {side} and {reason}"),
    ("grasp_sync_faults_total", "counter", "Bugs of ours that ended the link of one relay or client, by {side}"),
];

const BATCH_EVENTS_BOUNDS: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0];
const COMMIT_SECONDS_BOUNDS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// Every counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// New events stored. Counted when durable.
    pub events_new: BySource,
    /// Their bytes, as they came.
    pub event_bytes_new: BySource,
    /// Events received, copies included.
    pub events_received: BySource,
    /// Events received that were known already.
    pub events_duplicate: u64,
    /// Events refused, by the name of the refusal.
    pub events_refused: Counts,
    /// Stored events that expired.
    pub events_expired: u64,
    /// Stored events that did not hold when they were read.
    pub store_damaged: u64,
    /// Commits that found no room.
    pub commits_without_room: u64,
    /// Stored events that were replaced or deleted.
    pub events_removed: u64,
    /// Relay URLs not followed, by reason.
    pub relays_refused: Counts,
    /// Maintainers that count for nothing, by reason.
    pub maintainers_refused: Counts,
    /// Times a relay entered a state, by its name.
    pub state_entries: Counts,
    /// Dials made to see whether our own network still is down.
    pub offline_probes: u64,
    /// Relays asked for their NIP-11 document, by what came of it.
    pub relay_info: Counts,
    /// Windows closed.
    pub windows: u64,
    /// Sweeps ended, by the name of the outcome.
    pub sweeps: Counts,
    /// Pages received.
    pub sweep_pages: u64,
    /// Sweeps reconciled, by the name of the outcome.
    pub reconciliations: Counts,
    /// Ids found to be needed.
    pub reconcile_needed: u64,
    /// Ids listed and not served.
    pub reconcile_unserved: u64,
    /// Times a relay had used up what pages without news may cost in an hour.
    pub sweep_pauses: u64,
    /// Seconds that a sweep could not look behind.
    pub sweep_gaps: u64,
    /// Live subscriptions that a relay closed or never answered.
    pub live_lost: Counts,
    /// NOTICEs from relays.
    pub notices: u64,
    /// AUTHs from relays.
    pub auth_challenges: u64,
    /// Polls begun.
    pub polls: u64,
    /// Turns begun that look after live subscriptions.
    pub audits: u64,
    /// Events and authors that audits leave to full catch-ups, and chunks that too much tags.
    pub audit_left_out: u64,
    /// Subscriptions refused, by what the relay said.
    pub refusals: Counts,
    /// Cooldowns begun.
    pub rate_limit_cooldowns: u64,
    /// Text messages received.
    pub messages_received: BySide,
    /// Text messages sent.
    pub messages_sent: BySide,
    /// Bytes of text messages received.
    pub bytes_received: BySide,
    /// Bytes of text messages sent.
    pub bytes_sent: BySide,
    /// Messages dropped or refused, by reason.
    pub messages_refused: Counts,
    /// Clients closed by us, by reason.
    pub clients_closed: Counts,
    /// Stored events sent to clients.
    pub client_events_stored: u64,
    /// Live events sent to clients.
    pub client_events_live: u64,
    /// COUNTs answered.
    pub client_counts: u64,
    /// Reconciliations of clients, by how they ended.
    pub client_reconciliations: Counts,
    /// Pings sent.
    pub pings_sent: BySide,
    /// Relay links that ended, by reason.
    pub relay_links_closed: Counts,
    /// Client links that ended, by reason.
    pub client_links_closed: Counts,
    /// Panics that ended one link.
    pub faults: BySide,
    batch_events: Histogram,
    commit_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            events_new: By::default(),
            event_bytes_new: By::default(),
            events_received: By::default(),
            events_duplicate: 0,
            events_refused: Counts::default(),
            events_expired: 0,
            store_damaged: 0,
            commits_without_room: 0,
            events_removed: 0,
            relays_refused: Counts::default(),
            maintainers_refused: Counts::default(),
            offline_probes: 0,
            state_entries: Counts::default(),
            relay_info: Counts::default(),
            windows: 0,
            sweeps: Counts::default(),
            sweep_pages: 0,
            reconciliations: Counts::default(),
            reconcile_needed: 0,
            reconcile_unserved: 0,
            sweep_pauses: 0,
            sweep_gaps: 0,
            live_lost: Counts::default(),
            notices: 0,
            auth_challenges: 0,
            polls: 0,
            audits: 0,
            audit_left_out: 0,
            refusals: Counts::default(),
            rate_limit_cooldowns: 0,
            messages_received: By::default(),
            messages_sent: By::default(),
            bytes_received: By::default(),
            bytes_sent: By::default(),
            messages_refused: Counts::default(),
            clients_closed: Counts::default(),
            client_events_stored: 0,
            client_events_live: 0,
            client_counts: 0,
            client_reconciliations: Counts::default(),
            pings_sent: By::default(),
            relay_links_closed: Counts::default(),
            client_links_closed: Counts::default(),
            faults: By::default(),
            batch_events: Histogram::new(BATCH_EVENTS_BOUNDS),
            commit_seconds: Histogram::new(COMMIT_SECONDS_BOUNDS),
        }
    }
}

/// A queue as it stands: its name, what waits, its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSample {
    /// Its name in the metrics.
    pub name: &'static str,
    /// What waits.
    pub depth: usize,
    /// Its bound.
    pub limit: usize,
}

/// What others hold, at the moment of the scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Whether nothing can be reached.
    pub offline: bool,
    /// Whether nothing can be stored, by reason.
    pub shortages: Vec<(&'static str, bool)>,
    /// What the store takes of the disk and what is free, if that is known.
    pub space: Option<Space>,
    /// Repos followed.
    pub repos: usize,
    /// Root events of all repos.
    pub root_events: usize,
    /// The store's last sequence number.
    pub store_last_seq: u64,
    /// Clients connected.
    pub clients: usize,
    /// Subscriptions that clients have open.
    pub client_subscriptions: usize,
    /// Reconciliations that clients have open.
    pub client_reconciliations: usize,
    /// Bytes of the sets that are kept ready for all clients.
    pub ready_set_bytes: usize,
    /// Relays that are listed and not followed, by reason.
    pub waiting: Vec<(&'static str, u64)>,
    /// Queues against their bounds.
    pub queues: Vec<QueueSample>,
    /// The names of all relay states, so that a state without relays reads 0.
    pub states: &'static [&'static str],
}

/// One relay, at the moment of the scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelaySample {
    /// Its URL.
    pub url: String,
    /// The name of its state.
    pub state: &'static str,
    /// Whether its link is up.
    pub connected: bool,
    /// 1 healthy, 2 backoff, 3 dead.
    pub status: u8,
    /// Failures since the last success.
    pub failures: u64,
    /// Connections that succeeded.
    pub attempts_ok: u64,
    /// Connections that failed.
    pub attempts_failed: u64,
    /// New events that only a catch-up found.
    pub gap_events: u64,
    /// Filters held live.
    pub live_filters: usize,
    /// Filters that are polled.
    pub polled_filters: usize,
    /// How much of what it shares is covered: 0 away, 1 full, 2 polled, 3 reduced, 4 incomplete, 5 refused,
    /// 6 gaps.
    pub coverage: u8,
    /// The moment up to which everything that is polled is complete; `None` if nothing is.
    pub polled_whole: Option<u64>,
    /// The moment up to which everything that is polled has been asked for; `None` if nothing is.
    pub polled: Option<u64>,
    /// Subscriptions open.
    pub subscriptions: usize,
    /// Sweeps not yet finished.
    pub sweeps_left: usize,
}

impl Metrics {
    /// A batch of `events` has been committed.
    pub fn on_batch(&mut self, events: usize) {
        self.batch_events.observe(events as f64);
    }

    /// The last commit took this long.
    pub fn on_commit(&mut self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// The text of a scrape, with every metric of [`TABLE`].
    pub fn render(&self, gauges: &Gauges, relays: &[RelaySample]) -> String {
        let mut sheet = Sheet::default();
        sheet.relays(relays);
        sheet.gauges(gauges, relays);
        sheet.counters(self);
        sheet.histogram("grasp_sync_batch_events", &self.batch_events);
        sheet.histogram("grasp_sync_commit_seconds", &self.commit_seconds);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sheet));
        let mut text = String::new();
        encode_registry(&mut text, &registry).expect("writing to a String does not fail");
        text
    }
}

type Labels = Vec<(&'static str, String)>;

/// The samples of one scrape, by metric.
#[derive(Debug, Default)]
struct Sheet {
    samples: BTreeMap<&'static str, Vec<(Labels, u64)>>,
    histograms: BTreeMap<&'static str, Histogram>,
}

impl Sheet {
    fn put(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        let labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.samples.entry(name).or_default().push((labels, value));
    }

    fn put_each(&mut self, name: &'static str, label: &'static str, values: impl Iterator<Item = (&'static str, u64)>) {
        for (value, count) in values {
            self.put(name, &[(label, value)], count);
        }
    }

    fn histogram(&mut self, name: &'static str, histogram: &Histogram) {
        self.histograms.insert(name, histogram.clone());
    }

    fn relays(&mut self, relays: &[RelaySample]) {
        for sample in relays {
            let relay = ("relay", sample.url.as_str());
            self.put("ngit_sync_relay_connected", &[relay], sample.connected.into());
            let attempts = "ngit_sync_connection_attempts_total";
            self.put(attempts, &[relay, ("result", "success")], sample.attempts_ok);
            self.put(attempts, &[relay, ("result", "failure")], sample.attempts_failed);
            self.put("ngit_sync_relay_status", &[relay], sample.status.into());
            self.put("ngit_sync_relay_failures", &[relay], sample.failures);
            self.put("ngit_sync_gap_events_total", &[relay], sample.gap_events);
            let filters = "grasp_sync_relay_filters";
            self.put(filters, &[relay, ("held", "live")], sample.live_filters as u64);
            self.put(filters, &[relay, ("held", "polled")], sample.polled_filters as u64);
            self.put("grasp_sync_relay_coverage", &[relay], sample.coverage.into());
            if let Some(covered) = sample.polled_whole {
                self.put("grasp_sync_relay_polled_whole_timestamp_seconds", &[relay], covered);
            }
            if let Some(polled) = sample.polled {
                self.put("grasp_sync_relay_polled_timestamp_seconds", &[relay], polled);
            }
            self.put("grasp_sync_relay_subscriptions", &[relay], sample.subscriptions as u64);
            self.put("grasp_sync_relay_sweeps_left", &[relay], sample.sweeps_left as u64);
        }
    }

    fn gauges(&mut self, gauges: &Gauges, relays: &[RelaySample]) {
        let connected = relays.iter().filter(|relay| relay.connected).count();
        let dead = relays.iter().filter(|relay| relay.status == 3).count();
        self.put("ngit_sync_relays_tracked_total", &[], relays.len() as u64);
        self.put("ngit_sync_relays_connected_total", &[], connected as u64);
        self.put("ngit_sync_relays_dead_total", &[], dead as u64);
        let mut states: BTreeMap<&'static str, u64> = gauges.states.iter().map(|state| (*state, 0)).collect();
        for relay in relays {
            *states.entry(relay.state).or_default() += 1;
        }
        self.put_each("grasp_sync_relays_in_state", "state", states.into_iter());
        self.put("grasp_sync_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.put("grasp_sync_offline", &[], gauges.offline.into());
        let shortages = gauges.shortages.iter().map(|(reason, is)| (*reason, u64::from(*is)));
        self.put_each("grasp_sync_storage_short", "reason", shortages);
        if let Some(Space { disk_free, store }) = gauges.space {
            self.put("grasp_sync_disk_free_bytes", &[], disk_free);
            self.put("grasp_sync_store_bytes", &[], store);
        }
        self.put_each("grasp_sync_relays_waiting", "reason", gauges.waiting.iter().copied());
        self.put("grasp_sync_repos", &[], gauges.repos as u64);
        self.put("grasp_sync_root_events", &[], gauges.root_events as u64);
        self.put("grasp_sync_store_last_seq", &[], gauges.store_last_seq);
        self.put("grasp_sync_clients", &[], gauges.clients as u64);
        self.put("grasp_sync_client_subscriptions", &[], gauges.client_subscriptions as u64);
        self.put("grasp_sync_client_reconciliations", &[], gauges.client_reconciliations as u64);
        self.put("grasp_sync_ready_set_bytes", &[], gauges.ready_set_bytes as u64);
        for queue in &gauges.queues {
            self.put("grasp_sync_queue_depth", &[("queue", queue.name)], queue.depth as u64);
            self.put("grasp_sync_queue_limit", &[("queue", queue.name)], queue.limit as u64);
        }
    }

    fn counters(&mut self, metrics: &Metrics) {
        self.put_each("ngit_sync_events_total", "source", metrics.events_new.iter());
        self.put_each("grasp_sync_event_bytes_total", "source", metrics.event_bytes_new.iter());
        self.put_each("grasp_sync_events_received_total", "source", metrics.events_received.iter());
        self.put("grasp_sync_events_duplicate_total", &[], metrics.events_duplicate);
        self.put_each("grasp_sync_events_refused_total", "reason", metrics.events_refused.iter());
        self.put("grasp_sync_events_expired_total", &[], metrics.events_expired);
        self.put("grasp_sync_store_damaged_total", &[], metrics.store_damaged);
        self.put("grasp_sync_commits_without_room_total", &[], metrics.commits_without_room);
        self.put("grasp_sync_events_removed_total", &[], metrics.events_removed);
        self.put_each("grasp_sync_relays_refused_total", "reason", metrics.relays_refused.iter());
        self.put_each("grasp_sync_maintainers_refused_total", "reason", metrics.maintainers_refused.iter());
        self.put_each("grasp_sync_relay_state_entries_total", "state", metrics.state_entries.iter());
        self.put("grasp_sync_offline_probes_total", &[], metrics.offline_probes);
        self.put_each("grasp_sync_relay_info_total", "result", metrics.relay_info.iter());
        self.put("grasp_sync_windows_total", &[], metrics.windows);
        self.put_each("grasp_sync_sweeps_total", "outcome", metrics.sweeps.iter());
        self.put("grasp_sync_sweep_pages_total", &[], metrics.sweep_pages);
        self.put_each("grasp_sync_reconciliations_total", "outcome", metrics.reconciliations.iter());
        self.put("grasp_sync_reconcile_ids_needed_total", &[], metrics.reconcile_needed);
        self.put("grasp_sync_reconcile_ids_unserved_total", &[], metrics.reconcile_unserved);
        self.put("grasp_sync_sweep_pauses_total", &[], metrics.sweep_pauses);
        self.put("grasp_sync_sweep_gaps_total", &[], metrics.sweep_gaps);
        self.put_each("grasp_sync_live_subscriptions_lost_total", "reason", metrics.live_lost.iter());
        self.put("grasp_sync_polls_total", &[], metrics.polls);
        self.put("grasp_sync_notices_total", &[], metrics.notices);
        self.put("grasp_sync_auth_challenges_total", &[], metrics.auth_challenges);
        self.put("grasp_sync_audits_total", &[], metrics.audits);
        self.put("grasp_sync_audit_left_out_total", &[], metrics.audit_left_out);
        self.put_each("grasp_sync_relay_refusals_total", "reason", metrics.refusals.iter());
        self.put("grasp_sync_rate_limit_cooldowns_total", &[], metrics.rate_limit_cooldowns);
        self.put_each("grasp_sync_messages_received_total", "side", metrics.messages_received.iter());
        self.put_each("grasp_sync_messages_sent_total", "side", metrics.messages_sent.iter());
        self.put_each("grasp_sync_bytes_received_total", "side", metrics.bytes_received.iter());
        self.put_each("grasp_sync_bytes_sent_total", "side", metrics.bytes_sent.iter());
        self.put_each("grasp_sync_messages_refused_total", "reason", metrics.messages_refused.iter());
        self.put_each("grasp_sync_clients_closed_total", "reason", metrics.clients_closed.iter());
        self.put("grasp_sync_client_counts_total", &[], metrics.client_counts);
        let ended = metrics.client_reconciliations.iter();
        self.put_each("grasp_sync_client_reconciliations_ended_total", "how", ended);
        let parts = [("stored", metrics.client_events_stored), ("live", metrics.client_events_live)];
        self.put_each("grasp_sync_client_events_sent_total", "part", parts.into_iter());
        self.put_each("grasp_sync_pings_sent_total", "side", metrics.pings_sent.iter());
        self.put_each("grasp_sync_faults_total", "side", metrics.faults.iter());
        for (side, counts) in [("relay", &metrics.relay_links_closed), ("client", &metrics.client_links_closed)] {
            for (reason, count) in counts.iter() {
                self.put("grasp_sync_links_closed_total", &[("side", side), ("reason", reason)], count);
            }
        }
    }
}

impl Collector for Sheet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, kind, meaning) in TABLE {
            let kind = match *kind {
                "counter" => MetricType::Counter,
                "gauge" => MetricType::Gauge,
                "histogram" => MetricType::Histogram,
                other => unreachable!("TABLE has no type {other}"),
            };
            let mut metric = encoder.encode_descriptor(name, meaning, None, kind)?;
            if let Some(histogram) = self.histograms.get(name) {
                let buckets = histogram.buckets();
                metric.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count(), &buckets, None)?;
            }
            for (labels, value) in self.samples.get(name).into_iter().flatten() {
                // As a gauge whatever its type: the counter's encoder would add a second `_total`.
                if labels.is_empty() {
                    metric.encode_gauge(value)?;
                } else {
                    metric.encode_family(labels)?.encode_gauge(value)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KNOWN_TO_DASHBOARDS: [&str; 9] = [
        "ngit_sync_relay_connected",
        "ngit_sync_connection_attempts_total",
        "ngit_sync_relay_status",
        "ngit_sync_relay_failures",
        "ngit_sync_events_total",
        "ngit_sync_gap_events_total",
        "ngit_sync_relays_tracked_total",
        "ngit_sync_relays_connected_total",
        "ngit_sync_relays_dead_total",
    ];

    fn full() -> String {
        let mut metrics = Metrics::default();
        metrics.events_new.add_many(Source::Catchup, 7);
        metrics.events_refused.add("event_too_large");
        metrics.relays_refused.add("own");
        metrics.maintainers_refused.add("announcement");
        metrics.state_entries.add("Live");
        metrics.relay_info.add("read");
        metrics.sweeps.add("done");
        metrics.reconciliations.add("complete");
        metrics.live_lost.add("closed");
        metrics.refusals.add("too_many_filters");
        metrics.messages_refused.add("not_json");
        metrics.clients_closed.add("slow");
        metrics.client_reconciliations.add("closed");
        metrics.relay_links_closed.add("peer");
        metrics.on_batch(1);
        metrics.on_batch(11);
        metrics.on_batch(20_000);
        metrics.on_commit(Duration::from_millis(2));
        let gauges = Gauges {
            offline: true,
            waiting: vec![("host", 3)],
            shortages: vec![("write", true)],
            space: Some(Space { disk_free: 1, store: 2 }),
            queues: vec![QueueSample { name: "batch_events", depth: 3, limit: 10_000 }],
            states: &["Idle", "Live"],
            ..Gauges::default()
        };
        let live = RelaySample {
            url: "wss://one.example".into(),
            state: "Live",
            connected: true,
            coverage: 1,
            polled_whole: Some(7),
            polled: Some(8),
            status: 1,
            attempts_ok: 2,
            attempts_failed: 5,
            ..RelaySample::default()
        };
        let dead = RelaySample {
            url: "wss://two.example/\"a\\b\n".into(),
            state: "Backoff",
            status: 3,
            failures: 30,
            ..RelaySample::default()
        };
        metrics.render(&gauges, &[live, dead])
    }

    /// Each sample line as its name, its labels as written, its value.
    fn samples(text: &str) -> Vec<(&str, &str, f64)> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                assert!(labels.ends_with('}'), "{line}");
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
                (name, &labels[..labels.len() - 1], value.parse().unwrap())
            })
            .collect()
    }

    fn value(text: &str, name: &str, labels: &str) -> f64 {
        let found: Vec<f64> =
            samples(text).into_iter().filter(|(n, l, _)| *n == name && *l == labels).map(|(_, _, v)| v).collect();
        assert_eq!(found.len(), 1, "{name}{{{labels}}} in {text}");
        found[0]
    }

    #[test]
    fn help_and_type_come_once_and_before_the_samples_of_their_name() {
        let text = full();
        let mut described = BTreeSet::new();
        let mut current: Option<(String, String)> = None;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let name = rest.split(' ').next().unwrap();
                assert!(described.insert(name.to_owned()), "{name} is described twice");
                current = Some((name.to_owned(), String::new()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let (described_name, current_kind) = current.as_mut().unwrap();
                assert_eq!(name, described_name);
                *current_kind = kind.to_owned();
            } else {
                let name = line.split([' ', '{']).next().unwrap();
                let (described_name, kind) = current.as_ref().unwrap();
                let suffix = name.strip_prefix(described_name.as_str()).unwrap();
                match kind.as_str() {
                    "histogram" => assert!(["_sum", "_count", "_bucket"].contains(&suffix), "{line}"),
                    _ => assert_eq!(suffix, "", "{line}"),
                }
            }
        }
        let table: BTreeSet<String> = TABLE.iter().map(|(name, _, _)| (*name).to_owned()).collect();
        assert_eq!(described, table);
        assert!(!text.contains("_total_total"));
    }

    #[test]
    fn every_metric_of_the_table_has_samples() {
        let text = full();
        for (name, kind, _) in TABLE {
            let name = if *kind == "histogram" { format!("{name}_count") } else { (*name).to_owned() };
            assert!(samples(&text).iter().any(|(n, _, _)| *n == name), "{name} is never put");
        }
    }

    #[test]
    fn everything_put_on_the_sheet_is_in_the_table() {
        let metrics = Metrics::default();
        let mut sheet = Sheet::default();
        let relays = [RelaySample::default()];
        let queues = vec![QueueSample { name: "q", depth: 0, limit: 0 }];
        sheet.relays(&relays);
        sheet.gauges(&Gauges { queues, ..Gauges::default() }, &relays);
        sheet.counters(&metrics);
        for name in sheet.samples.keys() {
            assert!(TABLE.iter().any(|(n, kind, _)| n == name && *kind != "histogram"), "{name}");
        }
    }

    #[test]
    fn the_names_that_dashboards_know_are_kept() {
        let text = full();
        let ours: BTreeSet<&str> =
            samples(&text).into_iter().map(|(name, _, _)| name).filter(|name| name.starts_with("ngit_sync_")).collect();
        assert_eq!(ours, BTreeSet::from(KNOWN_TO_DASHBOARDS));
        assert_eq!(value(&text, "ngit_sync_relay_connected", r#"relay="wss://one.example""#), 1.0);
        let attempts = "ngit_sync_connection_attempts_total";
        assert_eq!(value(&text, attempts, r#"relay="wss://one.example",result="success""#), 2.0);
        assert_eq!(value(&text, attempts, r#"relay="wss://one.example",result="failure""#), 5.0);
        assert_eq!(value(&text, "ngit_sync_events_total", r#"source="catchup""#), 7.0);
        assert_eq!(value(&text, "ngit_sync_events_total", r#"source="live""#), 0.0);
        assert_eq!(value(&text, "ngit_sync_relays_tracked_total", ""), 2.0);
        assert_eq!(value(&text, "ngit_sync_relays_connected_total", ""), 1.0);
        assert_eq!(value(&text, "ngit_sync_relays_dead_total", ""), 1.0);
        assert!(text.contains("# TYPE ngit_sync_relays_dead_total gauge\n"));
        assert!(text.contains("# TYPE ngit_sync_gap_events_total counter\n"));
    }

    #[test]
    fn label_values_are_escaped() {
        let text = full();
        let labels = r#"relay="wss://two.example/\"a\\b\n""#;
        assert_eq!(value(&text, "ngit_sync_relay_failures", labels), 30.0);
    }

    #[test]
    fn states_without_relays_read_zero() {
        let text = full();
        assert_eq!(value(&text, "grasp_sync_relays_in_state", r#"state="Idle""#), 0.0);
        assert_eq!(value(&text, "grasp_sync_relays_in_state", r#"state="Live""#), 1.0);
    }

    #[test]
    fn histograms_are_cumulative() {
        let text = full();
        assert_eq!(value(&text, "grasp_sync_batch_events_count", ""), 3.0);
        assert_eq!(value(&text, "grasp_sync_batch_events_sum", ""), 20_012.0);
        assert_eq!(value(&text, "grasp_sync_batch_events_bucket", r#"le="1.0""#), 1.0);
        assert_eq!(value(&text, "grasp_sync_batch_events_bucket", r#"le="100.0""#), 2.0);
        assert_eq!(value(&text, "grasp_sync_batch_events_bucket", r#"le="10000.0""#), 2.0);
        assert_eq!(value(&text, "grasp_sync_batch_events_bucket", r#"le="+Inf""#), 3.0);
    }

    #[test]
    fn the_table_has_no_line_that_breaks_the_text() {
        for (name, _, meaning) in TABLE {
            assert!(!meaning.contains(['\n', '\\']), "{name}");
        }
    }
}
