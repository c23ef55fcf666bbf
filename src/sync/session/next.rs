//! What comes next on a link: the one decision what is asked, in which order, and when.
//!
//! Live subscriptions come first, so that nothing published meanwhile is missed. Then comes the search for what ended the last
//! link, alone. Then, as far as subscriptions are free: ids that reconciliations have found, the sweeps that wait, and, when
//! none does, a poll or a part of an audit, whichever was not the last.
//!
//! Each question is one line in the log, at debug: its class, what it asks, and why now. What is to come is told by
//! [`Session::explain`].

use log::debug;

use super::subscription::{Purpose, Task};
use super::{Number, Session};
use crate::limits::EXPLAIN_LINES_MAX;
use crate::sync::Cx;
use crate::sync::agenda::Class;
use crate::sync::filters::{Bounds, Subject, Unit};
use crate::time::{Instant, Now};

/// What is asked next.
enum Next {
    /// All that is to be live and has room.
    Live,
    /// One sweep: its next page, or its set.
    Sweep(Box<Task>),
    /// A page that is asked alone.
    Alone(Box<Task>),
}

/// Why nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The relay has said that we ask too fast.
    Cooldown,
    /// The relay answers nothing that we ask.
    LockedOut,
    /// The relay has yet to say what it makes of us.
    Authentication,
    /// Answers bring nothing new, and have cost what they may in an hour.
    Unproductive,
    /// Answers are awaited.
    Answers,
    /// Something is due later.
    Due,
    /// There is nothing to ask.
    Idle,
}

/// Something that is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What for.
    pub class: Class,
    /// What about.
    pub about: String,
    /// Why it is asked, or not yet.
    pub why: &'static str,
    /// When it is due; `None`: as soon as a subscription is free.
    pub due: Option<Instant>,
}

impl Wait {
    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            Wait::Cooldown => "the relay said that we ask too fast",
            Wait::LockedOut => "the relay does not answer us",
            Wait::Authentication => "the relay has yet to say whether it knows us",
            Wait::Unproductive => "answers brought nothing new, and cost what they may in an hour",
            Wait::Answers => "answers are awaited",
            Wait::Due => "it is not due yet",
            Wait::Idle => "everything is live",
        }
    }
}

impl Session {
    /// Asks for as much as the relay's subscriptions allow.
    pub fn pump(&mut self, cx: &mut Cx<'_>) {
        self.shed(cx);
        while let Some(next) = self.next(cx) {
            match next {
                Next::Live => self.open_pending(cx),
                Next::Alone(task) => self.ask_page(*task, cx),
                Next::Sweep(task) => self.ask_sweep(*task, cx),
            }
        }
    }

    /// `None`: nothing, for the reason that [`Session::wait`] gives.
    fn next(&mut self, cx: &mut Cx<'_>) -> Option<Next> {
        if !self.may_ask() {
            return None;
        }
        if self.has_room_live() {
            return Some(Next::Live);
        }
        if self.budget.detours.is_open() {
            return self.next_alone().map(|task| Next::Alone(Box::new(task)));
        }
        self.begin_stage(cx);
        if self.note_pause(cx) {
            return None;
        }
        while self.has_slot() && self.fetch(cx) {}
        if !self.has_slot() {
            return None;
        }
        if self.queue.is_empty() {
            self.begin_turn(cx);
        }
        self.next_task(cx).map(|task| Next::Sweep(Box::new(task)))
    }

    fn ask_sweep(&mut self, task: Task, cx: &mut Cx<'_>) {
        let subject = task.sweep.subject();
        if self.is_left_out(subject) {
            return self.end(task, true, cx);
        }
        if subject.values() > self.shape(cx).values {
            // A question of more than one value can be cut.
            return match task.sweep.halves() {
                Some(halves) => self.split(task, halves.into(), cx),
                None => self.fail(task, cx),
            };
        }
        if let Some(task) = self.go_around(task, cx).and_then(|task| self.take_up(task, cx)) {
            self.ask_page(task, cx);
        }
    }

    /// Why nothing is asked now, and until when that is so if nothing comes.
    pub fn wait(&self, now: Now) -> (Wait, Option<Instant>) {
        if self.cooldown_until.is_some() {
            return (Wait::Cooldown, self.cooldown_until);
        }
        if self.lockout.is_some() {
            return (Wait::LockedOut, None);
        }
        if self.auth.is_pending() {
            return (Wait::Authentication, None);
        }
        if let Some(until) = self.paused_until(now.mono) {
            return (Wait::Unproductive, Some(until));
        }
        if self.budget.detours.is_open() || !self.queue.is_empty() || !self.has_slot() {
            return (Wait::Answers, None);
        }
        match [self.agenda.next_poll_at(), self.next_audit_at()].into_iter().flatten().min() {
            Some(due) => (Wait::Due, Some(due)),
            None => (Wait::Idle, None),
        }
    }

    /// Until when nothing is asked, as [`Session::wait`] says: with each input, so that a slot is looked for only when
    /// something is due.
    pub(super) fn next_due(&self, now: Now) -> Option<Instant> {
        if self.cooldown_until.is_some() || self.paused || !self.may_ask() {
            return self.wait(now).1;
        }
        let due = [self.agenda.next_poll_at(), self.next_audit_at()].into_iter().flatten().min()?;
        if due > now.mono { Some(due) } else { self.wait(now).1 }
    }

    /// What is to be asked, the next first; of much, the first [`EXPLAIN_LINES_MAX`].
    pub fn explain(&self) -> Vec<Line> {
        let pending =
            self.agenda.pending().map(|unit| Line::of_unit(Class::Live, unit, "it is new, or was lost", None));
        let alone = self.budget.detours.next().map(|suspect| Line {
            class: Class::Search,
            about: suspect.subject.summary(),
            why: SEARCH,
            due: None,
        });
        let waiting = self.queue.in_order().map(|task| self.line(task, None));
        let retries = self.retries.iter().map(|(at, task)| self.line(task, Some(*at)));
        let audit = self.next_audit_at().map(|due| Line {
            class: Class::Audit,
            about: "everything that is followed".to_owned(),
            why: AUDIT,
            due: Some(due),
        });
        let polled = self.agenda.due().map(|(unit, due)| Line::of_unit(Class::Poll, unit, POLL, Some(due)));
        pending.chain(alone).chain(waiting).chain(retries).chain(audit).chain(polled).take(EXPLAIN_LINES_MAX).collect()
    }

    fn line(&self, task: &Task, due: Option<Instant>) -> Line {
        Line { class: class_of(task), about: task.sweep.subject().summary(), why: self.why(task), due }
    }

    fn why(&self, task: &Task) -> &'static str {
        match task.purpose {
            Purpose::Round => self.round.why.words(),
            Purpose::Poll => POLL,
            Purpose::Audit => AUDIT,
            Purpose::Detour => SEARCH,
        }
    }

    /// One line in the log for a question.
    pub(super) fn log_ask(&self, number: Number, about: &str, bounds: Bounds, why: &str) {
        let Bounds { since, until, limit } = bounds;
        let (since, until) = (since.map_or(0, |at| at.as_secs()), until.map_or(u64::MAX, |at| at.as_secs()));
        debug!("{}: asks {number}, {}: {about} [{since}..{until}] {limit}; {why}", self.url, number.class().name());
    }

    pub(super) fn log_task(&self, number: Number, task: &Task, bounds: Bounds) {
        if log::log_enabled!(log::Level::Debug) {
            let about = task.sweep.subject().summary();
            let why = format!("{}; page {}, try {}", self.why(task), task.sweep.pages() + 1, task.failures + 1);
            self.log_ask(number, &about, bounds, &why);
        }
    }
}

impl Line {
    fn of_unit(class: Class, unit: &Unit, why: &'static str, due: Option<Instant>) -> Line {
        Line { class, about: unit.summary(), why, due }
    }
}

const POLL: &str = "it does not fit live";
const AUDIT: &str = "what came late, or was missed";
const SEARCH: &str = "its answer may have ended the last link";

/// What a task is for.
pub(super) fn class_of(task: &Task) -> Class {
    match task.purpose {
        Purpose::Round => Class::of_history(task.sweep.subject()),
        Purpose::Poll => Class::Poll,
        Purpose::Audit => Class::Audit,
        Purpose::Detour => Class::Search,
    }
}

/// A subject in a few words.
impl Subject {
    fn summary(&self) -> String {
        match self {
            Subject::Announcements => "announcements and states".to_owned(),
            Subject::RootKinds => "root events by kind".to_owned(),
            Subject::Everything => "everything".to_owned(),
            Subject::Identifiers(names) => format!("announcements and states of {} identifiers", names.len()),
            Subject::RepoTag(letter, repos) => format!("#{letter} of {} repos", repos.len()),
            Subject::RootTag(letter, roots) => format!("#{letter} of {} root events", roots.len()),
            Subject::ThreadTag(letter, ids) => format!("#{letter} of {} other events", ids.len()),
            Subject::Deletions(authors) => format!("deletions by {} authors", authors.len()),
            Subject::DeletionsOf(kinds) => format!("deletions of {} kinds", kinds.len()),
        }
    }
}

/// A unit in a few words.
impl Unit {
    pub(super) fn summary(&self) -> String {
        match self {
            Unit::Announcements => "announcements and states".to_owned(),
            Unit::Identifiers(names) => format!("announcements and states of {} identifiers", names.len()),
            Unit::Everything => "everything".to_owned(),
            Unit::Repos(repos) => format!("{} repos", repos.len()),
            Unit::Roots(roots) => format!("{} root events", roots.len()),
        }
    }
}
