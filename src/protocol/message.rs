//! Client and relay messages (NIP-01).
