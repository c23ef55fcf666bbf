//! The batching window (spec section 4): it opens on the first change and closes exactly one length later, whatever
//! else arrives. Without it each new event would become a subscription of its own; with an end that moved, a steady
//! trickle would never be acted on.

use crate::state::Changes;
use crate::time::{Duration, Instant};

/// Changes waiting to be acted on.
#[derive(Debug)]
pub struct Window {
    length: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    closes_at: Instant,
    changes: Changes,
}

impl Window {
    /// A closed window.
    pub fn new(length: Duration) -> Self {
        Window { length, open: None }
    }

    /// Takes a change in. Opens the window if it is closed and there is something to act on.
    pub fn add(&mut self, now: Instant, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let open = self.open.get_or_insert_with(|| Open { closes_at: now + self.length, changes: Changes::default() });
        open.changes.merge(changes);
    }

    /// When the window closes, if it is open.
    pub fn closes_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.closes_at)
    }

    /// Closes the window if its time has come, and hands over what it gathered.
    pub fn close_if_due(&mut self, now: Instant) -> Option<Changes> {
        self.open.take_if(|open| open.closes_at <= now).map(|open| open.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::relay_url::RelayUrl;
    use std::collections::BTreeSet;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn lost(relay: &str) -> Changes {
        Changes { lost: [(RelayUrl::parse(relay).unwrap(), BTreeSet::new())].into(), ..Changes::default() }
    }

    #[test]
    fn later_changes_do_not_move_the_end() {
        let mut window = Window::new(Duration::from_secs(5));
        window.add(at(1_000), lost("wss://a.example"));
        for millis in (1_100..6_000).step_by(100) {
            window.add(at(millis), lost("wss://b.example"));
            assert_eq!(window.closes_at(), Some(at(6_000)));
        }
        assert_eq!(window.close_if_due(at(5_999)), None);
        assert_eq!(window.close_if_due(at(6_000)).unwrap().lost.len(), 2);
        assert_eq!(window.closes_at(), None);
    }

    #[test]
    fn the_next_change_opens_a_new_one() {
        let mut window = Window::new(Duration::from_secs(5));
        window.add(at(0), lost("wss://a.example"));
        assert!(window.close_if_due(at(7_000)).is_some());
        window.add(at(9_000), lost("wss://a.example"));
        assert_eq!(window.closes_at(), Some(at(14_000)));
    }

    #[test]
    fn nothing_to_act_on_opens_nothing() {
        let mut window = Window::new(Duration::from_secs(5));
        window.add(at(0), Changes { relays_refused: 3, ..Changes::default() });
        assert_eq!(window.closes_at(), None);
    }
}
