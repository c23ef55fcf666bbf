//! How much of what a relay shares with us it lets us have, and why not all of it (spec section 11): said, never silent.

use crate::sync::budget::Learned;
use crate::sync::gap::GapReason;
use crate::sync::relay::Relay;
use crate::sync::session::Lockout;

/// How much of what a relay shares with us is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// No link is open, so nothing is covered now; what is missed comes after.
    Away,
    /// All of it, live.
    Full,
    /// All of it, a part by polls: it comes minutes late.
    Polled,
    /// Not what the relay refuses to be asked for.
    Reduced(Vec<&'static str>),
    /// Some questions have failed for now, and are asked again.
    Incomplete,
    /// Nothing.
    Refused(Lockout),
    /// Not what cannot be had though it is there: so many gaps, and why the last one is.
    Gaps(usize, GapReason),
}

impl Coverage {
    /// Of one relay, now.
    pub fn of(relay: &Relay) -> Coverage {
        if let Some(lockout) = relay.locked_out() {
            return Coverage::Refused(lockout);
        }
        let Some(session) = relay.session() else { return Coverage::Away };
        let reductions = reductions(&session.budget().learned);
        if relay.is_incomplete() {
            Coverage::Incomplete
        } else if let Some(last) = session.budget().gaps.iter().last() {
            Coverage::Gaps(session.budget().gaps.iter().count(), last.reason)
        } else if !reductions.is_empty() {
            Coverage::Reduced(reductions)
        } else if session.units().polled().next().is_some() {
            Coverage::Polled
        } else {
            Coverage::Full
        }
    }

    /// The name in `/status.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Coverage::Away => "away",
            Coverage::Full => "full",
            Coverage::Polled => "polled",
            Coverage::Reduced(_) => "reduced",
            Coverage::Incomplete => "incomplete",
            Coverage::Refused(_) => "refused",
            Coverage::Gaps(..) => "gaps",
        }
    }

    /// The number in metrics.
    pub fn code(&self) -> u8 {
        match self {
            Coverage::Away => 0,
            Coverage::Full => 1,
            Coverage::Polled => 2,
            Coverage::Reduced(_) => 3,
            Coverage::Incomplete => 4,
            Coverage::Refused(_) => 5,
            Coverage::Gaps(..) => 6,
        }
    }

    /// Why it is not full, in words.
    pub fn why(&self) -> String {
        match self {
            Coverage::Away => "no link is open".to_owned(),
            Coverage::Full => String::new(),
            Coverage::Polled => "the relay's subscriptions do not carry all of it live".to_owned(),
            Coverage::Reduced(reductions) => reductions.join("; "),
            Coverage::Incomplete => "some sweeps failed".to_owned(),
            Coverage::Gaps(gaps, reason) => format!("{gaps} gaps, the last one: {}", reason.why()),
            Coverage::Refused(Lockout::AuthRequired) => "the relay wants us to authenticate".to_owned(),
            Coverage::Refused(Lockout::Restricted) => "the relay is restricted to others".to_owned(),
        }
    }
}

fn reductions(learned: &Learned) -> Vec<&'static str> {
    let all = [
        (learned.named_kinds, "filters without kinds are refused: only kinds that are known to tag are asked for"),
        (
            learned.lower_case_tags,
            "upper-case tags are refused: comments deep in a thread are found through others only",
        ),
        (learned.tagged_layer_1, "filters of kinds alone are refused: only followed repositories are asked for"),
    ];
    all.into_iter().filter(|(holds, _)| *holds).map(|(_, why)| why).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reduction_is_said() {
        assert!(reductions(&Learned::default()).is_empty());
        let learned = Learned { named_kinds: true, lower_case_tags: true, tagged_layer_1: true, ..Learned::default() };
        let why = Coverage::Reduced(reductions(&learned)).why();
        assert_eq!(why.split("; ").count(), 3, "{why}");
    }

    #[test]
    fn names_and_numbers_tell_them_apart() {
        let all = [
            Coverage::Away,
            Coverage::Full,
            Coverage::Polled,
            Coverage::Reduced(Vec::new()),
            Coverage::Incomplete,
            Coverage::Refused(Lockout::AuthRequired),
            Coverage::Gaps(1, GapReason::FullSecond),
        ];
        for (n, coverage) in all.iter().enumerate() {
            assert_eq!(usize::from(coverage.code()), n, "{}", coverage.name());
        }
    }
}
