//! What is kept.

/// Why the store could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The medium is full.
    Full,
}

/// The events, their indexes and the sync progress, in one redb database.
pub struct Store {}

/// A store sequence number.
pub type Seq = u64;

use crate::protocol::{relay_url::RelayUrl, repo::RepoAddr};
use crate::time::UnixTime;
/// Progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// a
    Confirmed {
        /// a
        relay: RelayUrl,
        /// a
        repo: RepoAddr,
        /// a
        seq: Seq,
    },
    /// a
    Relay {
        /// a
        relay: RelayUrl,
        /// a
        through: UnixTime,
        /// a
        full_catchup: UnixTime,
    },
    /// a
    ForgetRepo {
        /// a
        relay: RelayUrl,
        /// a
        repo: RepoAddr,
    },
    /// a
    ForgetRelay {
        /// a
        relay: RelayUrl,
    },
}
