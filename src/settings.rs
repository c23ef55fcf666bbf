//! What the core is told about the service it keeps complete, the bounds and the durations.

use nostr::key::PublicKey;

use crate::limits::{Limits, Timing};
use crate::protocol::auth::AuthKey;
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::RepoAddr;

/// Checked by `config`, which outside tests and benches is the only place that makes one.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service as announcements name it.
    pub service: Service,
    /// Relays that are always followed.
    pub bootstrap: Vec<RelayUrl>,
    /// Authors whose events are refused.
    pub deny_authors: Vec<PublicKey>,
    /// Repos whose events are refused.
    pub deny_repos: Vec<RepoAddr>,
    /// Repos kept although their announcement does not list the service (GRASP-05).
    pub archive: Vec<RepoAddr>,
    /// What the operator says of the own relay.
    pub profile: Profile,
    /// The key by which relays that want to know us do (NIP-42).
    pub auth_key: Option<AuthKey>,
    /// Bounds.
    pub limits: Limits,
    /// Durations.
    pub timing: Timing,
}

/// What the operator says of the own relay, for its document (NIP-11) and its page. What is not said is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// What it is called.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// A small square picture.
    pub icon: Option<String>,
    /// A wide picture.
    pub banner: Option<String>,
    /// How to reach the operator.
    pub contact: Option<String>,
    /// The operator's key.
    pub pubkey: Option<PublicKey>,
    /// The terms of service.
    pub terms_of_service: Option<String>,
    /// The privacy policy.
    pub privacy_policy: Option<String>,
    /// What may be published.
    pub posting_policy: Option<String>,
    /// Countries whose laws apply.
    pub countries: Vec<String>,
    /// Languages spoken.
    pub languages: Vec<String>,
    /// What it is about.
    pub tags: Vec<String>,
}

impl Settings {
    /// A service with the default bounds and durations, that follows nobody from its configuration and refuses nobody.
    pub fn of(service: Service) -> Settings {
        Settings {
            service,
            bootstrap: Vec::new(),
            deny_authors: Vec::new(),
            deny_repos: Vec::new(),
            archive: Vec::new(),
            profile: Profile::default(),
            auth_key: None,
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}
