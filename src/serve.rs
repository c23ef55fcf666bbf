//! The own relay: what clients ask for and get.

pub mod fanout;
pub mod session;
