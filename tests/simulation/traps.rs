//! The traps of `relay-facts.md`: real relays as they are, and those that mean ill.

mod auth;
mod eose;
mod flavours;
mod hostile;
mod passed;
mod unfiltered;
mod unlearned;
