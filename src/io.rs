//! The world: sockets, clocks, names, signals. Everything here is a thin, bounded layer under the engine.

pub mod address;
pub mod event_loop;
pub mod http;
pub mod link;
pub mod resolver;
pub mod tls;
