//! Every counter in one place.
