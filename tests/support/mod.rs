//! What the real-socket tests and the benches share: signed events from a seed, a client, a relay of the test's own, the
//! built binary as a child process, and one way to wait.
#![allow(clippy::print_stderr, reason = "the log of a daemon belongs to the report of a failed test")]
#![allow(dead_code, unused_imports, reason = "each test binary compiles this module and uses its own part of it")]

pub mod certs;
pub mod client;
pub mod events;
pub mod gate;
pub mod http;
pub mod memory_group;
pub mod mock_relay;
pub mod process;
pub mod wait;
pub mod world;
