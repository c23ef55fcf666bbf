//! The sweeps of one link that wait to be asked, in order, and those whose try has failed, until they are due again.

use std::collections::VecDeque;

use crate::sync::agenda::task::{Purpose, Task};
use crate::time::Instant;

/// Sweeps for which an empty queue keeps room.
const KEPT: usize = 16;

/// Sweeps in the order of their turn. In a large catch-up thousands wait to be reconciled while the relay reconciles some,
/// and whatever it says it may have a subscription free for one of the others: so those stand apart.
#[derive(Debug, Default)]
pub struct Queue {
    reconcilable: VecDeque<Waiting>,
    others: VecDeque<Waiting>,
    /// Tried again then.
    retries: Vec<(Instant, Task)>,
    /// The number of the last that went before all others, and of the last that went behind them.
    ends: (i64, i64),
}

#[derive(Debug)]
struct Waiting {
    /// Its place among all.
    number: i64,
    /// Boxed: a queue grows by doubling.
    task: Box<Task>,
}

impl Waiting {
    fn is_of_round(&self) -> bool {
        self.task.purpose == Purpose::Round
    }
}

impl Queue {
    /// Puts a sweep before all that wait.
    pub fn push_front(&mut self, task: Task) {
        self.ends.0 -= 1;
        let number = self.ends.0;
        self.line_of(&task).push_front(Waiting { number, task: Box::new(task) });
    }

    /// Puts a sweep behind all that wait.
    pub fn push_back(&mut self, task: Task) {
        self.ends.1 += 1;
        let number = self.ends.1;
        self.line_of(&task).push_back(Waiting { number, task: Box::new(task) });
    }

    /// A sweep is tried again at some time, behind all that wait then.
    pub fn retry(&mut self, task: Task, at: Instant) {
        self.retries.push((at, task));
    }

    /// Those that are due again wait like the others.
    pub fn on_time(&mut self, now: Instant) {
        for (_, task) in self.retries.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.push_back(task);
        }
    }

    /// When the next is due again.
    pub fn next_retry(&self) -> Option<Instant> {
        self.retries.iter().map(|(at, _)| *at).min()
    }

    /// Those whose try has failed.
    pub fn retries(&self) -> impl Iterator<Item = (&Task, Instant)> {
        self.retries.iter().map(|(at, task)| (task, *at))
    }

    /// Whether none waits, but for those that are not due again yet.
    pub fn is_empty(&self) -> bool {
        self.reconcilable.is_empty() && self.others.is_empty()
    }

    /// Those that wait, in the order of their turn.
    pub fn in_order(&self) -> impl Iterator<Item = &Task> {
        let mut all: Vec<&Waiting> = self.reconcilable.iter().chain(&self.others).collect();
        all.sort_unstable_by_key(|waiting| waiting.number);
        all.into_iter().map(|waiting| &*waiting.task)
    }

    /// How many of one purpose do, or will again.
    pub fn count(&self, purpose: Purpose) -> usize {
        let waiting = self.reconcilable.iter().chain(&self.others).map(|waiting| &*waiting.task);
        waiting.chain(self.retries.iter().map(|(_, task)| task)).filter(|task| task.purpose == purpose).count()
    }

    /// Drops those of the round.
    pub fn drop_round(&mut self) {
        self.retain(|waiting| !waiting.is_of_round());
        self.retries.clear();
    }

    /// Keeps those of the round alone.
    pub fn keep_round(&mut self) {
        self.retain(Waiting::is_of_round);
    }

    fn retain(&mut self, stays: impl Fn(&Waiting) -> bool) {
        self.reconcilable.retain(&stays);
        self.others.retain(stays);
    }

    /// Takes the first that may be asked, if need be of those alone that are not to be reconciled.
    pub fn take_first(&mut self, to_reconcile: bool, may_ask: impl Fn(&Task) -> bool) -> Option<Task> {
        let first = |line: &VecDeque<Waiting>| {
            let at = line.iter().position(|waiting| may_ask(&waiting.task))?;
            Some((line[at].number, at))
        };
        let other = first(&self.others);
        let reconcilable = if to_reconcile { first(&self.reconcilable) } else { None };
        let taken = match (reconcilable, other) {
            (Some(reconcilable), Some(other)) if other < reconcilable => self.others.remove(other.1),
            (Some((_, at)), _) => self.reconcilable.remove(at),
            (None, Some((_, at))) => self.others.remove(at),
            (None, None) => None,
        };
        // A catch-up's thousands leave no memory behind.
        if self.is_empty() {
            self.reconcilable.shrink_to(KEPT);
            self.others.shrink_to(KEPT);
        }
        taken.map(|waiting| *waiting.task)
    }

    fn line_of(&mut self, task: &Task) -> &mut VecDeque<Waiting> {
        match task.is_reconcilable() {
            true => &mut self.reconcilable,
            false => &mut self.others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::filters::Subject;
    use crate::sync::sweep::Sweep;
    use crate::time::UnixTime;

    /// A sweep to be reconciled, or of the round but not whole, or of a poll, or of an audit.
    fn task(purpose: Purpose, since: Option<u64>) -> Task {
        Task::new(Sweep::new(Subject::Everything, since.map(UnixTime::from_secs)), purpose)
    }

    fn since(task: Option<Task>) -> Option<u64> {
        task.map(|task| task.sweep.since().map_or(0, UnixTime::as_secs))
    }

    #[test]
    fn sweeps_keep_their_order_whether_they_may_be_reconciled_or_not() {
        let mut queue = Queue::default();
        queue.push_back(task(Purpose::Round, None));
        queue.push_back(task(Purpose::Round, Some(1)));
        queue.push_back(task(Purpose::Round, None));
        queue.push_front(task(Purpose::Poll, Some(2)));
        queue.push_front(task(Purpose::Round, None));
        let order: Vec<_> = std::iter::from_fn(|| since(queue.take_first(true, |_| true))).collect();
        assert_eq!(order, [0, 2, 0, 1, 0]);
        assert!(queue.is_empty() && queue.count(Purpose::Round) == 0);
    }

    #[test]
    fn what_may_not_be_asked_now_is_passed_over() {
        let mut queue = Queue::default();
        queue.push_back(task(Purpose::Round, None));
        queue.push_back(task(Purpose::Round, Some(1)));
        queue.push_back(task(Purpose::Round, Some(2)));
        let not_1 = |task: &Task| task.sweep.since() != Some(UnixTime::from_secs(1));
        assert_eq!(since(queue.take_first(false, not_1)), Some(2), "neither the one that waits nor the first");
        assert_eq!(since(queue.take_first(false, not_1)), None);
        assert_eq!(since(queue.take_first(true, not_1)), Some(0));
        assert_eq!(since(queue.take_first(true, |_| true)), Some(1));
    }

    #[test]
    fn a_round_ends_with_all_its_sweeps_and_the_others_without_them() {
        let all = || {
            let mut queue = Queue::default();
            queue.push_back(task(Purpose::Poll, Some(1)));
            queue.push_back(task(Purpose::Round, None));
            queue.push_back(task(Purpose::Round, Some(2)));
            queue.push_back(task(Purpose::Audit, Some(3)));
            queue
        };
        let mut queue = all();
        assert!(queue.count(Purpose::Round) > 0);
        queue.drop_round();
        assert!(queue.count(Purpose::Round) == 0);
        assert_eq!(since(queue.take_first(true, |_| true)), Some(1));
        assert!(queue.count(Purpose::Round) == 0);
        assert_eq!(since(queue.take_first(true, |_| true)), Some(3));
        assert!(queue.is_empty());
        let mut queue = all();
        queue.keep_round();
        assert_eq!(since(queue.take_first(true, |_| true)), Some(0));
        assert!(queue.count(Purpose::Round) > 0);
        assert_eq!(since(queue.take_first(true, |_| true)), Some(2));
        assert!(queue.is_empty());
    }
}
