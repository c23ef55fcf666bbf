//! grasp-sync keeps a GRASP git service complete: see `README.md` for what it does and `engine` for how it is driven.
//!
//! # The map
//!
//! Imports point only down this list; [`io`] alone touches sockets, clocks, files and the environment.
//!
//! | room | what it decides |
//! |---|---|
//! | `main.rs`, `cli.rs`, `exit.rs`, `transfer.rs`, `rescue.rs` | arguments to exit code; import and export, and what to do about a damaged store |
//! | [`config`] | flags, environment and TOML to one checked configuration |
//! | [`io`] | the world: event loop, links, resolver, HTTP |
//! | [`engine`] | routes inputs to the machines below and their values back out |
//! | [`sync`] | what to ask whom, and when |
//! | [`serve`] | the own relay |
//! | [`intake`] | the one way in for an event |
//! | [`policy`] | what belongs here |
//! | [`state`] | what is followed: the two maps, a room of their own because `policy` and `intake` judge by them too |
//! | [`store`] | what is kept |
//! | [`contract`], [`settings`] | the engine's words with its caller, and what it is told about its service; apart from it because `sync` speaks them |
//! | [`shares`] | who pays for what strangers make us hold and do: accounts, the pool of memory, rates |
//! | [`protocol`] | what travels |
//! | [`timer_wheel`], [`metrics`], [`fault`], [`time`], [`limits`] | deadlines, counters, whose panic ends what, time as a value, bounds |
//!
//! # The engine's contract
//!
//! ```text
//! engine.handle(now, Input)                  what happened
//! engine.poll_output() -> Option<Output>     what to do, until None
//! engine.next_deadline() -> Option<Instant>  when to come back
//! ```
//!
//! **The same inputs in the same order give the same outputs, byte for byte.** No clock, thread, environment or
//! randomness inside; `now` comes in with every input and the store's backend is chosen by the caller.

pub mod config;
pub mod contract;
pub mod engine;
pub mod fault;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod intake;
pub mod io;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod protocol;
pub mod serve;
pub mod settings;
pub mod shares;
pub mod state;
pub mod store;
pub mod sync;
pub mod time;
pub mod timer_wheel;
