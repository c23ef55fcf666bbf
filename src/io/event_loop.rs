//! The mio poll loop.
