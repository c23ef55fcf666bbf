//! What broke a link is looked for, so that everything else can be asked around it (spec section 6).
//!
//! An answer that ended the link, because a message was too large or none at all, would end the next one, too. So the
//! questions that were open are asked alone on the next link, before anything else. The one that ends that link as well is cut
//! into parts, by time and then by values, and so on, until the second and the value are known: a gap, around which
//! sweeps go from then on. Nothing is claimed by what is asked here; it only finds the place.
//!
//! The place is near where the page broke off, so the parts nearest to that are the shortest at first.

use std::collections::VecDeque;

use crate::contract::CloseReason;
use crate::limits::{DETOUR_LINKS_MAX, DETOUR_PARTS_MAX};
use crate::state::State;
use crate::sync::filters::Subject;
use crate::sync::gap::{Gap, GapReason, Gaps, Span};
use crate::sync::paging::Walk;
use crate::time::{Now, UnixTime};

/// A question whose answer may have ended a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// What it asks.
    pub subject: Subject,
    /// About which time, as far as that had not come.
    pub span: Span,
    /// The place is likely to be near where that begins, in the order of the walk.
    pub is_near: bool,
}

/// What is looked for on one relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detours {
    /// One of these has ended a link, if any has: each is asked alone, in this order.
    suspects: VecDeque<Suspect>,
    /// Links that the place has cost.
    links: u32,
    /// What is live begins now, not with the overlap: something in it ended the link.
    live_from_now: bool,
}

/// What was open when a link ended.
#[derive(Debug)]
pub enum Open {
    /// A question that was asked alone.
    Suspect(Span),
    /// Questions of any other sort.
    Some(Vec<Suspect>),
    /// Live subscriptions at most.
    Live,
}

/// Why an answer has ended a link, if that was why.
pub fn reason_of(reason: CloseReason) -> Option<GapReason> {
    match reason {
        CloseReason::TooLarge => Some(GapReason::TooLarge),
        CloseReason::Protocol => Some(GapReason::Broken),
        _ => None,
    }
}

impl Detours {
    /// The question to ask alone.
    pub fn next(&self) -> Option<&Suspect> {
        self.suspects.front()
    }

    /// Whether something is to be asked alone.
    pub fn is_open(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether what is live begins now, not with the overlap.
    pub fn are_live_from_now(&self) -> bool {
        self.live_from_now
    }

    /// A catch-up has ended: what is live may begin with the overlap again.
    pub fn on_caught_up(&mut self) {
        self.live_from_now = false;
    }

    /// The question that was asked alone has had its answer, or cannot be answered: it was not that one.
    pub fn on_answer(&mut self) {
        self.suspects.pop_front();
    }

    /// A link has ended by an answer. What cannot be asked around in any smaller part is a gap. Says whether it is.
    pub fn on_break(
        &mut self,
        open: Open,
        reason: GapReason,
        gaps: &mut Gaps,
        walk: Walk,
        now: Now,
        state: &State,
    ) -> bool {
        match open {
            Open::Live => self.live_from_now = true,
            Open::Some(suspects) => (self.suspects, self.links) = (suspects.into(), 1),
            Open::Suspect(span) => {
                let Some(suspect) = self.suspects.pop_front() else { return false };
                self.links += 1;
                self.suspects.clear();
                let is_near = suspect.is_near || span.secs() < suspect.span.secs();
                let suspect = Suspect { span, is_near, ..suspect };
                let parts = if self.links < DETOUR_LINKS_MAX { suspect.parts(gaps, walk) } else { Vec::new() };
                if parts.is_empty() {
                    gaps.add(suspect.into_gap(reason, now.wall, state));
                    return true;
                }
                self.suspects = parts.into();
            }
        }
        false
    }
}

impl Suspect {
    fn into_gap(self, reason: GapReason, now: UnixTime, state: &State) -> Gap {
        Gap { span: self.span, what: self.subject.whole(None, false, state), reason, found_at: now }
    }

    /// Smaller questions that together ask the same, in the order in which they are asked; none if it cannot be cut.
    fn parts(&self, gaps: &Gaps, walk: Walk) -> Vec<Suspect> {
        if self.span.secs() == 0 {
            let values = parts_by_values(&self.subject);
            let parts = values.into_iter().map(|subject| Suspect { subject, span: self.span, is_near: false });
            return if self.subject.values() > 1 { parts.collect() } else { Vec::new() };
        }
        // The same event may match other questions.
        let known = gaps.iter().filter(|gap| gap.reason.ends_link() && gap.span.secs() == 0);
        let known = known.map(|gap| gap.span).filter(|span| span.meets(&self.span));
        let spans = known.chain(parts_by_time(self.span, self.is_near, walk));
        spans.map(|span| Suspect { subject: self.subject.clone(), span, is_near: false }).collect()
    }
}

/// Cuts some time into parts, in the order of the walk. `is_near`: each is as long as all before it together; else they are
/// alike.
fn parts_by_time(span: Span, is_near: bool, walk: Walk) -> Vec<Span> {
    let secs = span.secs() + 1;
    let even = secs.div_ceil(DETOUR_PARTS_MAX as u64);
    let mut parts = Vec::new();
    let mut begin = 0;
    while begin < secs {
        let length = if is_near { begin.max(1) } else { even };
        let (first, last) = (begin, (begin + length).min(secs) - 1);
        parts.push(match walk {
            Walk::Down => Span { from: span.to.minus_secs(last), to: span.to.minus_secs(first) },
            Walk::Up => Span { from: span.from.plus_secs(first), to: span.from.plus_secs(last) },
        });
        begin = last + 1;
    }
    parts
}

fn parts_by_values(subject: &Subject) -> Vec<Subject> {
    let mut parts = vec![subject.clone()];
    while 2 * parts.len() <= DETOUR_PARTS_MAX {
        let halves: Vec<Subject> =
            parts.iter().flat_map(|part| part.halves().map_or_else(|| vec![part.clone()], Vec::from)).collect();
        if halves.len() == parts.len() {
            break;
        }
        parts = halves;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{Bench, author};

    const SPAN: Span = Span { from: UnixTime::EPOCH, to: UnixTime::from_secs(1_700_000_000) };

    fn by(authors: impl IntoIterator<Item = u8>) -> Subject {
        Subject::Deletions(authors.into_iter().map(author).collect())
    }

    /// Looks for what breaks links, among deletions by eight authors. `breaks`: the time left when the answer to a question
    /// ends the link. Returns the links that ended, and the gap.
    fn look(breaks: impl Fn(&Suspect) -> Option<Span>) -> (u32, Gap) {
        let bench = Bench::new();
        let (mut detours, mut gaps) = (Detours::default(), Gaps::default());
        let first = Suspect { subject: by(1..=8), span: SPAN, is_near: false };
        let mut open = Open::Some(vec![first]);
        for links in 1.. {
            if detours.on_break(open, GapReason::TooLarge, &mut gaps, Walk::Down, bench.now, &bench.state) {
                return (links, gaps.iter().next().expect("it was found").clone());
            }
            let span = loop {
                let suspect = detours.next().expect("one of them breaks the link");
                if let Some(span) = breaks(suspect) {
                    break span;
                }
                detours.on_answer();
            };
            open = Open::Suspect(span);
        }
        unreachable!("it ends when it is found")
    }

    #[test]
    fn what_breaks_links_is_found_by_time_and_then_by_values() {
        let bench = Bench::new();
        for (at, who) in [(0, 1), (1_234_567_890, 3), (1_700_000_000, 8)] {
            let second = Span::of_second(UnixTime::from_secs(at));
            let is_of = |subject: &Subject| subject.singles().contains(&by([who]));
            let (links, gap) = look(|asked| (asked.span.meets(&second) && is_of(&asked.subject)).then_some(asked.span));
            assert_eq!((gap.span, gap.what), (second, by([who]).whole(None, false, &bench.state)));
            assert!(links <= DETOUR_LINKS_MAX, "{links}");
        }
    }

    #[test]
    fn a_place_that_moves_costs_no_more_links_than_any_other() {
        // Each time the answer to the longest part breaks off, and not at its beginning.
        let (links, gap) = look(|asked| {
            let is_last = asked.span.from == UnixTime::EPOCH;
            is_last.then(|| Span { to: asked.span.to.minus_secs(1), ..asked.span })
        });
        assert_eq!(links, DETOUR_LINKS_MAX);
        assert!(gap.span.secs() > 0, "all that was not ruled out");
    }
}
