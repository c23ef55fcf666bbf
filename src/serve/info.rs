//! The document that the own relay gives about itself over HTTP (NIP-11).

use serde_json::json;

use crate::limits::{
    CLIENT_SUBSCRIPTIONS_MAX, FUTURE_SECS_MAX, MESSAGE_BYTES_MAX, QUERY_LIMIT_MAX, SUBSCRIPTION_ID_CHARS_MAX,
};
use crate::protocol::relay_url::Service;

/// What the own relay does: events, deletion requests, this document, expiration. Protected events (NIP-70) are refused
/// without a way to authenticate (NIP-42), which is that NIP's default, not its support.
const SUPPORTED_NIPS: [u16; 4] = [1, 9, 11, 40];

/// The NIP-11 document, JSON. `archives`: the operator keeps repos that do not list the service (GRASP-05).
/// `event_bytes_max`: of one event in canonical JSON.
///
/// `supported_grasps` has the form of GRASP-01 and names what this program does of them; the git side of the service is
/// another program's.
pub fn relay_info(service: &Service, archives: bool, event_bytes_max: usize) -> String {
    let grasps: &[&str] = if archives { &["GRASP-02", "GRASP-05"] } else { &["GRASP-02"] };
    json!({
        "name": service.to_string(),
        "description": format!(
            "Every event of the git repositories that {service} hosts, brought in from all the relays they use."
        ),
        "software": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "supported_nips": SUPPORTED_NIPS,
        "supported_grasps": grasps,
        "repo_acceptance_criteria": format!(
            "Announcements that list {service} in both clone and relays, and what their maintainers and repositories bring."
        ),
        "limitation": {
            "max_message_length": MESSAGE_BYTES_MAX,
            // In characters: no event of more can be small enough.
            "max_content_length": event_bytes_max,
            "max_subscriptions": CLIENT_SUBSCRIPTIONS_MAX,
            "max_limit": QUERY_LIMIT_MAX,
            "default_limit": QUERY_LIMIT_MAX,
            "max_subid_length": SUBSCRIPTION_ID_CHARS_MAX,
            "created_at_upper_limit": FUTURE_SECS_MAX,
            "auth_required": false,
            "payment_required": false,
            "restricted_writes": true,
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_json_with_the_limits_that_hold() {
        let service = Service::parse("git.example.org/path").unwrap();
        let document: serde_json::Value = serde_json::from_str(&relay_info(&service, false, 196_608)).unwrap();
        assert_eq!(document["name"], "git.example.org/path");
        assert_eq!(document["supported_nips"], serde_json::json!([1, 9, 11, 40]));
        assert_eq!(document["supported_grasps"], serde_json::json!(["GRASP-02"]));
        assert_eq!(document["limitation"]["max_limit"], QUERY_LIMIT_MAX);
        assert_eq!(document["limitation"]["max_message_length"], MESSAGE_BYTES_MAX);
        assert_eq!(document["limitation"]["max_content_length"], 196_608);
        let archiving: serde_json::Value = serde_json::from_str(&relay_info(&service, true, 196_608)).unwrap();
        assert_eq!(archiving["supported_grasps"], serde_json::json!(["GRASP-02", "GRASP-05"]));
    }
}
