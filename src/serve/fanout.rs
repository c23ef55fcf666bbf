//! Stored events to matching live subscriptions.
