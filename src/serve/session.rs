//! One client: NIP-01.
