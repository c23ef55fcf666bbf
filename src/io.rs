//! The world: sockets, clocks, names, signals. Everything here is a thin, bounded layer under the engine.

pub mod clock;
pub mod dial;
pub mod event_loop;
pub mod handshake;
pub mod http;
pub mod link;
pub mod resolver;
pub mod signals;
pub mod tls;
pub mod transport;
