//! What only the shell can count; added to the engine's metrics when they are asked for.

use std::fmt::Write;

/// Counters of the event loop, all since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Of these, those that took longer than [`crate::limits::TURN_SLOW`], commits left out.
    pub slow_turns: u64,
    /// Upgrades answered with 503 because of `limits.clients_max`.
    pub clients_refused: u64,
    /// Connections closed at once because of [`crate::limits::HTTP_PENDING_MAX`].
    pub connections_refused: u64,
    /// Headers of trusted proxies that could not be read: PROXY protocol and `X-Forwarded-For`.
    pub proxy_headers_refused: u64,
    /// HTTP answers other than an upgrade.
    pub http_answers: u64,
    /// Bytes read from open links, TLS included.
    pub link_bytes_in: u64,
    /// Bytes written to open links, TLS included.
    pub link_bytes_out: u64,
}

impl Counters {
    /// The engine's metrics with these among them; the text stays well-formed in either of its formats.
    ///
    /// `buffers`: bytes of the links' shared memory in use.
    pub fn add_to(&self, mut text: String, buffers: usize) -> String {
        const END: &str = "# EOF\n";
        let is_open_metrics = text.ends_with(END);
        if is_open_metrics {
            text.truncate(text.len() - END.len());
        }
        let mut add = |name: &str, help: &str, value: u64| {
            // In OpenMetrics a counter's metadata goes without the suffix that its samples bear.
            let family = if is_open_metrics { name.trim_end_matches("_total") } else { name };
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {family} {help}\n# TYPE {family} counter\n{name} {value}\n");
        };
        add("grasp_sync_loop_turns_total", "Turns of the event loop.", self.turns);
        add("grasp_sync_loop_slow_turns_total", "Turns longer than 50 ms, commits left out.", self.slow_turns);
        add("grasp_sync_clients_refused_total", "Clients refused because of limits.clients_max.", self.clients_refused);
        add("grasp_sync_connections_refused_total", "Connections closed at once.", self.connections_refused);
        add(
            "grasp_sync_proxy_headers_refused_total",
            "Headers of trusted proxies that could not be read.",
            self.proxy_headers_refused,
        );
        add("grasp_sync_http_answers_total", "HTTP answers other than an upgrade.", self.http_answers);
        add("grasp_sync_link_bytes_in_total", "Bytes read from links.", self.link_bytes_in);
        add("grasp_sync_link_bytes_out_total", "Bytes written to links.", self.link_bytes_out);
        let _ = write!(
            text,
            "# HELP grasp_sync_buffers_bytes Memory in use that all links share.\n# TYPE grasp_sync_buffers_bytes gauge\ngrasp_sync_buffers_bytes {buffers}\n"
        );
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
}
