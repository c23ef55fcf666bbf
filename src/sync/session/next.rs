//! What comes next on a link: the one decision what is asked, in which order, and when.
//!
//! Live subscriptions come first, so that nothing published meanwhile is missed. Then comes the search for what ended the last
//! link, alone. Then, as far as subscriptions are free: ids that reconciliations have found, the sweeps that wait, and, when
//! none does, a poll or a part of an audit, whichever was not the last.
//!
//! Each question is one line in the log, at debug: its class, what it asks, and why now. What is to come is told by
//! [`Session::explain`].

use log::debug;

use super::auditing::audited_by;
use super::reconciling::Fetch;
use super::{Number, Purpose, Session, Task};
use crate::limits::EXPLAIN_LINES_MAX;
use crate::sync::Cx;
use crate::sync::agenda::{AuditManner, Begun, Class};
use crate::sync::filters::{Bounds, Subject, Unit};
use crate::time::{Instant, Now};

/// What comes next.
enum Next {
    /// All that is to be live and has room is opened.
    Live,
    /// Some events of a reconciliation are asked for, by their ids.
    Fetch(Box<Fetch>),
    /// One sweep is asked: its next page, or its set.
    Sweep(Box<Task>),
    /// The next page of one is asked alone.
    Alone(Box<Task>),
    /// Nothing is asked.
    Wait(Wait),
}

/// Why nothing is asked, and until when if nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Why.
    pub why: WaitWhy,
    /// Until then; `None`: until something comes.
    pub until: Option<Instant>,
}

/// Why nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitWhy {
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

impl Default for Wait {
    fn default() -> Wait {
        Wait { why: WaitWhy::Idle, until: None }
    }
}

impl WaitWhy {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            WaitWhy::Cooldown => "the relay said that we ask too fast",
            WaitWhy::LockedOut => "the relay does not answer us",
            WaitWhy::Authentication => "the relay has yet to say whether it knows us",
            WaitWhy::Unproductive => "answers brought nothing new, and cost what they may in an hour",
            WaitWhy::Answers => "answers are awaited",
            WaitWhy::Due => "it is not due yet",
            WaitWhy::Idle => "everything is live",
        }
    }
}

impl Session {
    /// Asks for as much as the relay's subscriptions allow. Every input ends with it that changes what is to be asked, or
    /// what may be.
    pub fn pump(&mut self, cx: &mut Cx<'_>) {
        self.shed(cx);
        loop {
            match self.next(cx) {
                Next::Live => self.open_pending(cx),
                Next::Fetch(fetch) => self.ask_ids(*fetch, cx),
                Next::Alone(task) => self.ask_page(*task, cx),
                Next::Sweep(task) => self.ask_sweep(*task, cx),
                Next::Wait(wait) => {
                    let pauses = wait.why == WaitWhy::Unproductive && self.wait.why != WaitWhy::Unproductive;
                    cx.metrics.sweep_pauses += u64::from(pauses);
                    self.wait = wait;
                    break;
                }
            }
        }
    }

    /// Why nothing more is asked now, and until when that is so if nothing comes.
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// Until when nothing is asked, because the relay's answers bring nothing new.
    pub fn paused_until(&self) -> Option<Instant> {
        self.wait.until.filter(|_| self.wait.why == WaitWhy::Unproductive)
    }

    fn next(&mut self, cx: &mut Cx<'_>) -> Next {
        if let Some(wait) = self.must_wait() {
            return Next::Wait(wait);
        }
        if self.has_room_live() {
            return Next::Live;
        }
        if self.budget.detours.is_open() {
            return self
                .next_alone()
                .map_or(Next::Wait(self.waits(WaitWhy::Answers, cx.now)), |task| Next::Alone(Box::new(task)));
        }
        self.agenda.begin_step(cx.state.last_seq(), cx.now.mono);
        if let Some(until) = self.budget.unproductive.spent_until(cx.now.mono) {
            return Next::Wait(Wait { why: WaitWhy::Unproductive, until: Some(until) });
        }
        if !self.has_slot() {
            return Next::Wait(self.waits(WaitWhy::Answers, cx.now));
        }
        if let Some(fetch) = self.next_fetch(cx) {
            return Next::Fetch(Box::new(fetch));
        }
        if self.agenda.queue.is_empty() {
            self.begin_due(cx);
        }
        match self.next_task(cx) {
            Some(task) => Next::Sweep(Box::new(task)),
            None if !self.agenda.queue.is_empty() => Next::Wait(self.waits(WaitWhy::Answers, cx.now)),
            None => Next::Wait(self.waits_for_what_is_due(cx.now)),
        }
    }

    /// Why nothing may be asked, whatever there is.
    pub(super) fn must_wait(&self) -> Option<Wait> {
        if self.cooldown_until.is_some() {
            return Some(Wait { why: WaitWhy::Cooldown, until: self.cooldown_until });
        }
        if self.lockout().is_some() {
            return Some(Wait { why: WaitWhy::LockedOut, until: None });
        }
        self.auth.is_pending().then_some(Wait { why: WaitWhy::Authentication, until: None })
    }

    /// What will wait like the others then, or is to be looked up, may come sooner than an answer.
    fn waits(&self, why: WaitWhy, now: Now) -> Wait {
        let lookups = self.agenda.next_thread_at(now.mono);
        Wait { why, until: self.agenda.queue.next_retry().into_iter().chain(lookups).min() }
    }

    fn waits_for_what_is_due(&self, now: Now) -> Wait {
        let Some(due) = self.agenda.next_due() else { return self.waits(WaitWhy::Idle, now) };
        let until = self.waits(WaitWhy::Due, now).until.map_or(due, |at| at.min(due));
        Wait { why: WaitWhy::Due, until: Some(until) }
    }

    /// Begins a poll or the next step of an audit, if one is due.
    fn begin_due(&mut self, cx: &mut Cx<'_>) {
        let manner = AuditManner { by: audited_by(&self.budget), audited: self.budget.audited_at };
        while let Some(begun) = self.agenda.begin_due(manner, cx.settings.timing.overlap_secs, cx.now) {
            match begun {
                Begun::Poll => cx.metrics.polls += 1,
                Begun::Audit => cx.metrics.audits += 1,
                Begun::AuditStep => {}
                Begun::AuditOver(complete) => {
                    complete.into_iter().for_each(|began| self.budget.note_audit(began));
                    continue;
                }
            }
            break;
        }
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

    /// What is to be asked, the next first; of much, the first [`EXPLAIN_LINES_MAX`].
    pub fn explain(&self) -> Vec<Line> {
        let pending =
            self.agenda.units.pending().map(|unit| Line::of_unit(Class::Live, unit, "it is new, or was lost", None));
        let alone = self.budget.detours.next().map(|suspect| Line {
            class: Class::Search,
            about: suspect.subject.summary(),
            why: SEARCH,
            due: None,
        });
        let waiting = self.agenda.queue.in_order().map(|task| self.line(task, None));
        let retries = self.agenda.queue.retries().map(|(task, at)| self.line(task, Some(at)));
        let audit = self.agenda.next_audit_at().map(|due| Line {
            class: Class::Audit,
            about: "everything that is followed".to_owned(),
            why: AUDIT,
            due: Some(due),
        });
        let polled = self.agenda.polls_due().map(|(unit, due)| Line::of_unit(Class::Poll, unit, POLL, Some(due)));
        pending.chain(alone).chain(waiting).chain(retries).chain(audit).chain(polled).take(EXPLAIN_LINES_MAX).collect()
    }

    fn line(&self, task: &Task, due: Option<Instant>) -> Line {
        Line { class: class_of(task), about: task.sweep.subject().summary(), why: self.why(task), due }
    }

    fn why(&self, task: &Task) -> &'static str {
        match task.purpose {
            Purpose::Round => self.agenda.round.why.words(),
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
