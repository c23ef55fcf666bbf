//! One normal form per relay.

use std::fmt;

/// The URL of a remote relay in its normal form (spec section 3): equal URLs are equal strings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayUrl(String);

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The GRASP service, as announcements name it: `host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    host: String,
    port: Option<u16>,
    path: String,
}
