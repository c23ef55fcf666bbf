//! What to ask whom, and when.
