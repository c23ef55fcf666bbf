//! What comes in on a listener.
