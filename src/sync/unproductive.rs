//! How much of our time and line one relay may take for catch-ups that bring nothing: pages without anything new, and the
//! bytes of events that were held already or are refused. What is new costs nothing here; its bounds are the policy's.
//!
//! An hour's worth may be used at once, and comes back evenly. A relay that has used it up is asked for the next page when
//! enough has come back; what is live goes on.

use crate::limits::{UNPRODUCTIVE_BYTES_HOURLY, UNPRODUCTIVE_PAGES_HOURLY};
use crate::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3_600);

/// What one relay has used of it. Each field is the moment at which everything used so far will have come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unproductive {
    pages: Instant,
    bytes: Instant,
}

impl Unproductive {
    /// A page ended, or was given up, that brought nothing new.
    pub fn on_page(&mut self, now: Instant) {
        use_up(&mut self.pages, 1, UNPRODUCTIVE_PAGES_HOURLY, now);
    }

    /// An event of so many bytes came for a page, or for ids that were asked for, and was not new.
    pub fn on_event(&mut self, bytes: usize, now: Instant) {
        use_up(&mut self.bytes, bytes as u64, UNPRODUCTIVE_BYTES_HOURLY, now);
    }

    /// Until when no page may be asked for, if that is in the future.
    pub fn spent_until(&self, now: Instant) -> Option<Instant> {
        let back = self.pages.max(self.bytes);
        let until = Instant::from_micros(back.as_micros().saturating_sub(HOUR.as_micros()));
        (until > now).then_some(until)
    }
}

fn use_up(back: &mut Instant, amount: u64, hourly: u64, now: Instant) {
    let takes = HOUR.as_micros().saturating_mul(amount).div_ceil(hourly);
    *back = (*back).max(now) + Duration::from_micros(takes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_micros(5_000_000);

    /// Uses the unproductive as fast as it admits until `end`; says how often.
    fn greedy(end: Instant, mut take: impl FnMut(&mut Unproductive, Instant)) -> u64 {
        let (mut unproductive, mut now, mut taken) = (Unproductive::default(), START, 0);
        while now <= end {
            match unproductive.spent_until(now) {
                Some(until) => now = until,
                None => {
                    take(&mut unproductive, now);
                    taken += 1;
                }
            }
        }
        taken
    }

    #[test]
    fn an_hours_pages_may_be_used_at_once_and_come_back_evenly() {
        let at_once = greedy(START, Unproductive::on_page);
        assert!((UNPRODUCTIVE_PAGES_HOURLY..=UNPRODUCTIVE_PAGES_HOURLY + 1).contains(&at_once), "{at_once}");
        let in_two_hours = greedy(START + HOUR + HOUR, Unproductive::on_page);
        assert!(
            (3 * UNPRODUCTIVE_PAGES_HOURLY..=3 * UNPRODUCTIVE_PAGES_HOURLY + 2).contains(&in_two_hours),
            "{in_two_hours}"
        );
    }

    #[test]
    fn bytes_are_counted_beside_pages() {
        const EACH: usize = 64 << 10;
        let at_once = greedy(START, |unproductive, now| unproductive.on_event(EACH, now));
        assert!(
            (at_once - 1) * EACH as u64 <= UNPRODUCTIVE_BYTES_HOURLY
                && at_once * EACH as u64 >= UNPRODUCTIVE_BYTES_HOURLY
        );
        let mut unproductive = Unproductive::default();
        (0..=UNPRODUCTIVE_BYTES_HOURLY / 2 / EACH as u64).for_each(|_| unproductive.on_event(EACH, START));
        (0..=UNPRODUCTIVE_PAGES_HOURLY / 2).for_each(|_| unproductive.on_page(START));
        assert_eq!(unproductive.spent_until(START), None, "half of each");
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let mut unproductive = Unproductive::default();
        let late = START + HOUR.saturating_mul(1_000);
        unproductive.on_page(START);
        (0..=UNPRODUCTIVE_PAGES_HOURLY).for_each(|_| unproductive.on_page(late));
        assert!(unproductive.spent_until(late).is_some());
    }

    #[test]
    fn small_events_are_not_free() {
        let mut unproductive = Unproductive::default();
        (0..1_000_000).for_each(|_| unproductive.on_event(100, START));
        assert!(
            unproductive.bytes.since(START)
                >= Duration::from_micros(1_000_000 * 100 * HOUR.as_micros() / UNPRODUCTIVE_BYTES_HOURLY)
        );
    }
}
