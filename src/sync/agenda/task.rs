//! A sweep that is part of a pass, and its fate so far.

use crate::sync::reconcile::Unserved;
use crate::sync::sweep::Sweep;

/// Why a sweep is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The relay is not complete before it has ended.
    Round,
    /// A poll of what is not live.
    Poll,
    /// A part of an audit.
    Audit,
    /// Asked alone, to find what ends the link.
    Detour,
}

/// A sweep and its fate so far.
#[derive(Debug)]
pub struct Task {
    /// The question, and how far its answer has come.
    pub sweep: Sweep,
    /// Why it is asked.
    pub purpose: Purpose,
    /// Tries that failed.
    pub failures: u32,
    /// It is not to be reconciled: that was tried.
    pub by_pages: bool,
    /// What its reconciliation listed and did not serve.
    pub unserved: Unserved,
}

impl Task {
    /// One that has not been tried.
    pub fn new(sweep: Sweep, purpose: Purpose) -> Task {
        Task { sweep, purpose, failures: 0, by_pages: false, unserved: Unserved::default() }
    }

    /// Whether it may be reconciled, where the relay and the round are for that: what audits ask, and what is asked from
    /// the beginning. Of a shorter time there is less than a set's frame.
    pub fn is_reconcilable(&self) -> bool {
        let is_long = match self.purpose {
            Purpose::Round => self.sweep.since().is_none(),
            Purpose::Audit => true,
            Purpose::Poll | Purpose::Detour => false,
        };
        is_long && self.sweep.until().is_none() && !self.by_pages
    }
}
