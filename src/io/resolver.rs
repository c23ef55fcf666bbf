//! Names to addresses on the same poll.
