//! What to ask whom, and when.
pub mod filters;
pub mod health;
pub mod refusal;
pub mod state;
pub mod sweep;
pub mod window;
