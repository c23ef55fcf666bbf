//! The one way in for an event.
