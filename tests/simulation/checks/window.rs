//! The batching window (spec section 4): it opens with the first change, closes exactly one length later, and nothing
//! that comes between moves its end.

use super::Verdict;
use crate::clock::Micros;

#[derive(Default)]
pub struct WindowCheck {
    closes_at: Option<Micros>,
}

impl WindowCheck {
    /// A new process has no window.
    pub fn restart(&mut self) {
        self.closes_at = None;
    }

    /// Judges what the process says of its window after it was given the moment `at` of its own clock. Says whether a
    /// window has closed.
    pub fn observe(&mut self, at: Micros, length: Micros, seen: Option<Micros>) -> Result<bool, String> {
        let before = std::mem::replace(&mut self.closes_at, seen);
        let opened_now = |end: Micros| if end == at + length { Ok(()) } else { Err(format!("ends at {end} µs")) };
        let fail = |e: String| format!("the window: at {at} µs {e}");
        match (before, seen) {
            (None, None) => Ok(false),
            (None, Some(end)) => opened_now(end).map(|()| false).map_err(fail),
            (Some(due), Some(end)) if due == end && at <= due => Ok(false),
            (Some(due), Some(end)) if due == end => Err(fail(format!("it is still open, due at {due} µs"))),
            (Some(due), _) if at < due => Err(fail(format!("its end of {due} µs has become {seen:?}"))),
            (Some(_), None) => Ok(true),
            (Some(_), Some(end)) => opened_now(end).map(|()| true).map_err(fail),
        }
    }

    /// After a commit that changed what is followed a window must be open.
    pub fn after_change(&self) -> Verdict {
        if self.closes_at.is_none() {
            return Err(String::from("what is followed has changed, and no window is open"));
        }
        Ok(())
    }
}

#[test]
fn the_window_is_judged() {
    let run = |seen: &[(Micros, Option<Micros>)]| {
        let mut window = WindowCheck::default();
        seen.iter().try_fold(false, |closed, (at, end)| Ok::<_, String>(closed | window.observe(*at, 5, *end)?))
    };
    assert_eq!(run(&[(0, None), (1, Some(6)), (3, Some(6)), (6, None), (7, None)]), Ok(true));
    assert_eq!(run(&[(1, Some(6)), (6, Some(11))]), Ok(true), "the next opens at once");
    assert!(run(&[(1, Some(7))]).is_err(), "too long");
    assert!(run(&[(1, Some(6)), (3, Some(8))]).is_err(), "its end moves");
    assert!(run(&[(1, Some(6)), (3, None)]).is_err(), "too early");
    assert!(run(&[(1, Some(6)), (7, Some(6))]).is_err(), "too late");
    assert!(WindowCheck::default().after_change().is_err());
}
