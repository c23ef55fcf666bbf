//! The core as a library, without sockets: for what cannot be seen from outside, or would take too many of them.

use super::common::DOMAIN;
use grasp_sync::engine::Settings;
use grasp_sync::limits::{Limits, Timing};
use grasp_sync::protocol::relay_url::Service;

/// An instance for the service of the worlds.
pub fn settings() -> Settings {
    Settings {
        service: Service::parse(DOMAIN).expect("a service"),
        bootstrap: Vec::new(),
        deny_authors: Vec::new(),
        deny_repos: Vec::new(),
        archive: Vec::new(),
        auth_key: None,
        limits: Limits::default(),
        timing: Timing::default(),
    }
}
