//! Who pays for what strangers make us hold and do (spec section 16): every link has an [`account`]. All links share one
//! [`pool`] of memory, and an account that holds most of it is the first to lose by it; how often an account may do
//! something, its [bucket](buckets) says; whose [turn](turns) it is goes by what each has taken. Whether anything can be stored at all, [`room`] says.

pub mod account;
pub mod buckets;
pub mod pool;
pub mod room;
pub mod turns;

pub use account::Account;
pub use buckets::Buckets;
pub use pool::Pool;
pub use room::Room;
pub use turns::{Share, Turns};
