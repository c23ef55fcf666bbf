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
