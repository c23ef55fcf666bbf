//! Strangers over real sockets, who break the rules or keep them, and what they cost. One attack at a time:
//! `cargo test --test hostile NAME -- --nocapture`.

// What each attack has cost is of interest when it is run by itself.
#![allow(clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]

#[path = "../support/mod.rs"]
mod support;

mod memory;
mod places;
mod relays;
mod storage;
mod stranger;
