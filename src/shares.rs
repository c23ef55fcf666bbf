//! Who pays for what strangers make us hold (spec section 16): every link has an [`account`], all links share one
//! [`pool`], and an account that does not pay is the first to lose by it.

pub mod account;
pub mod pool;

pub use account::Account;
pub use pool::Pool;
