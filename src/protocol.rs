//! What travels between relays and clients, as types that cannot hold nonsense.

pub mod message;
pub mod relay_url;
pub mod repo;
