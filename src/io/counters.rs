//! What only the shell can count; added to the engine's metrics when they are asked for.

use std::fmt::Write;

use crate::time::Duration;

/// Counters of the event loop, all since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Of these, those that took longer than [`crate::limits::TURN_SLOW`], commits left out.
    pub slow_turns: u64,
    /// Processor time of the longest of them, commits included.
    pub longest_turn: Duration,
    /// Upgrades answered with 503 because of `limits.clients_max` or `limits.clients_per_address`.
    pub clients_refused: u64,
    /// Connections closed because of [`crate::limits::HTTP_PENDING_MAX`], or at once because of
    /// [`crate::limits::CONNECTION_RATE`].
    pub connections_refused: u64,
    /// Headers of trusted proxies that could not be read: PROXY protocol and `X-Forwarded-For`.
    pub proxy_headers_refused: u64,
    /// HTTP answers other than an upgrade.
    pub http_answers: u64,
    /// Pages answered with 500.
    pub page_faults: u64,
    /// Bytes read from open links, TLS included.
    pub link_bytes_in: u64,
    /// Bytes written to open links, TLS included.
    pub link_bytes_out: u64,
}

/// Every metric of the shell's: name, Prometheus type, meaning; those of the engine are in [`crate::metrics::TABLE`].
pub const TABLE: &[(&str, &str, &str)] = &[
    ("grasp_sync_loop_turns_total", "counter", "Turns of the event loop"),
    ("grasp_sync_loop_slow_turns_total", "counter", "Turns longer than 50 ms, commits left out"),
    (
        "grasp_sync_loop_longest_turn_seconds",
        "gauge",
        "Processor time of the longest turn of the event loop since the start, commits included",
    ),
    ("grasp_sync_clients_refused_total", "counter", "Clients turned away with 503: clients_max or clients_per_address"),
    (
        "grasp_sync_connections_refused_total",
        "counter",
        "Connections closed or answered with 429 because of how many their address has or how often it comes",
    ),
    (
        "grasp_sync_proxy_headers_refused_total",
        "counter",
        "Headers of trusted proxies that cannot be read: PROXY protocol or X-Forwarded-For",
    ),
    ("grasp_sync_http_answers_total", "counter", "Answers over HTTP other than an upgrade"),
    ("grasp_sync_page_faults_total", "counter", "Bugs of ours that were answered with 500 in place of a page"),
    ("grasp_sync_link_bytes_in_total", "counter", "Bytes read from links, with what TLS and WebSocket add"),
    ("grasp_sync_link_bytes_out_total", "counter", "Bytes written to links, with what TLS and WebSocket add"),
    ("grasp_sync_buffers_bytes", "gauge", "Memory in use that all links share"),
];

impl Counters {
    /// In the order of [`TABLE`].
    fn values(&self, buffers: usize) -> [f64; TABLE.len()] {
        [
            self.turns as f64,
            self.slow_turns as f64,
            self.longest_turn.as_secs_f64(),
            self.clients_refused as f64,
            self.connections_refused as f64,
            self.proxy_headers_refused as f64,
            self.http_answers as f64,
            self.page_faults as f64,
            self.link_bytes_in as f64,
            self.link_bytes_out as f64,
            buffers as f64,
        ]
    }

    /// The engine's metrics with these among them; the text stays well-formed in either of its formats.
    ///
    /// `buffers`: bytes of the links' shared memory in use.
    pub fn add_to(&self, mut text: String, buffers: usize) -> String {
        const END: &str = "# EOF\n";
        let is_open_metrics = text.ends_with(END);
        if is_open_metrics {
            text.truncate(text.len() - END.len());
        }
        for ((name, kind, help), value) in TABLE.iter().zip(self.values(buffers)) {
            // In OpenMetrics a counter's metadata goes without the suffix that its samples bear.
            let family = if is_open_metrics { name.trim_end_matches("_total") } else { name };
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {family} {help}\n# TYPE {family} {kind}\n{name} {value}\n");
        }
        if is_open_metrics {
            text += END;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_stay_well_formed() {
        let counters = Counters { turns: 3, ..Counters::default() };
        let open = counters.add_to("# TYPE a counter\na_total 1\n# EOF\n".into(), 0);
        assert!(open.starts_with("# TYPE a counter\n"));
        assert!(open.contains("# TYPE grasp_sync_loop_turns counter\ngrasp_sync_loop_turns_total 3\n"));
        assert_eq!(open.matches("# EOF").count(), 1);
        assert!(open.ends_with("# EOF\n"));
        let plain = counters.add_to(String::new(), 0);
        assert!(plain.contains("# TYPE grasp_sync_loop_turns_total counter\ngrasp_sync_loop_turns_total 3\n"));
        assert!(!plain.contains("EOF"));
    }

    #[test]
    fn each_metric_has_its_own_value_and_is_not_one_of_the_engine_too() {
        let counters = Counters {
            turns: 1,
            slow_turns: 2,
            longest_turn: Duration::from_secs(3),
            clients_refused: 4,
            connections_refused: 5,
            proxy_headers_refused: 6,
            http_answers: 7,
            page_faults: 8,
            link_bytes_in: 9,
            link_bytes_out: 10,
        };
        let text = counters.add_to(String::new(), 11);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected: Vec<String> = (1..).zip(TABLE).map(|(value, (name, ..))| format!("{name} {value}")).collect();
        assert_eq!(samples, expected);
        for (name, kind, _) in TABLE {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
            assert!(crate::metrics::TABLE.iter().all(|(other, ..)| other != name), "{name} is there twice");
        }
    }
}
