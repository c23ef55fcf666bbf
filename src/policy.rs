//! What belongs here.
