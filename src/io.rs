//! The world: sockets, clocks, names, signals. Everything here is a thin, bounded layer under the engine.

pub mod answer;
pub mod clock;
pub mod connections;
pub mod counters;
pub mod crowd;
pub mod dial;
pub mod disk;
pub mod event_loop;
pub mod fetch;
pub mod files;
pub mod frame_meter;
pub mod handshake;
pub mod http;
pub mod http_body;
pub mod inbound;
pub mod link;
pub mod listeners;
pub mod outlet;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod pipe;
pub mod places;
pub mod proxies;
pub mod proxy_header;
pub mod resolver;
pub mod secret;
pub mod signals;
pub mod tls;
pub mod transport;
