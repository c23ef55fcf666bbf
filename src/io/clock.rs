//! The only place that reads the machine's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::time::{Instant, Now, UnixTime};

/// Both clocks. The monotonic one counts from the making of this value.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// Starts the monotonic clock at [`Instant::ZERO`].
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Clock { start: std::time::Instant::now() }
    }

    /// This moment. The wall clock shows 1970 if the machine's is set to before that.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Now {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Now { mono: Instant::from_micros(micros), wall: UnixTime::from_secs(wall) }
    }

    /// This moment on a clock that only goes on while this thread has a processor: what something took by itself, however busy
    /// the machine is with others.
    pub fn processor_time(&self) -> Instant {
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        let (secs, nanos) = (u64::try_from(spent.tv_sec), u64::try_from(spent.tv_nsec));
        Instant::from_micros(secs.unwrap_or(0).saturating_mul(1_000_000) + nanos.unwrap_or(0) / 1_000)
    }
}
