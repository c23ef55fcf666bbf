//! Waiting for conditions. The only place of the tests that lets time pass: every wait has a deadline and ends as soon
//! as its condition holds.

use std::time::{Duration, Instant};

/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks at `condition` until it gives a value, and panics, naming `what`, if it has not within `deadline`.
pub fn wait_for<T>(what: &str, deadline: Duration, condition: impl FnMut() -> Option<T>) -> T {
    wait_at_most(deadline, condition).unwrap_or_else(|| panic!("not within {deadline:?}: {what}"))
}

/// Like [`wait_for`], for a condition that is just true or not.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Looks at `condition` until it gives a value; `None` after `deadline`.
pub fn wait_at_most<T>(deadline: Duration, condition: impl FnMut() -> Option<T>) -> Option<T> {
    wait_looking_every(PAUSE, deadline, condition)
}

/// Like [`wait_at_most`], with a longer pause: for looks that cost the process under test time that is being measured.
pub fn wait_looking_every<T>(
    pause: Duration,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::park_timeout(pause);
    }
}

/// Lets `window` pass while something is measured over it: not a wait for a condition, the time itself is the subject.
pub fn measure_over(window: Duration) {
    let end = Instant::now() + window;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
