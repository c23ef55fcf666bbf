//! NIP-34: repository addresses, announcements, states, root events.

use nostr::key::PublicKey;

/// The address of a repository: `30617:<pubkey>:<d>`; `d` may itself contain `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoAddr {
    /// The announcement's author.
    pub author: PublicKey,
    /// The announcement's `d` tag.
    pub identifier: String,
}
