//! How relays refuse to reconcile, and what that means. NEG-ERR names the reconciliation but has no list of reasons that
//! all keep to; relays that do not know NIP-77 say so in a NOTICE that names nothing.

use serde::{Deserialize, Serialize};

use crate::sync::refusal::{RATE_LIMITED, prefix};

/// Why a reconciliation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NegRefusal {
    /// The relay does not reconcile, or not with us.
    Unsupported,
    /// More events match than it reconciles.
    TooManyRecords,
    /// More reconciliations are open than it allows.
    TooManyAtOnce,
    /// We ask too fast.
    RateLimited,
    /// It has ended the reconciliation, or forgotten it.
    Ended,
    /// One side has broken the protocol in the other's eyes.
    Broken,
    /// It says nothing.
    Silent,
    /// The link was lost before it was first answered.
    LinkLost,
    /// Anything else.
    Other,
}

impl NegRefusal {
    /// Reads the reason of a NEG-ERR, or of a CLOSED that names a reconciliation.
    pub fn of_error(reason: &str, max_records: Option<u64>) -> NegRefusal {
        let text = prefix(reason).to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        // Wordings before prefixes: "blocked:" alone says nothing.
        let too_many = ["too many query results", "too many results", "too many records"];
        if max_records.is_some() || has(&too_many) || has(&["results_too_big", "too big", "too large"]) {
            NegRefusal::TooManyRecords
        } else if has(&["too many concurrent", "too many neg", "too many subscriptions"]) {
            NegRefusal::TooManyAtOnce
        } else if has(&RATE_LIMITED) {
            NegRefusal::RateLimited
        } else if has(&["took too long", "timed out", "timeout"]) || text.starts_with("closed") {
            NegRefusal::Ended
        } else if has(&["protocol-error", "negentropy error", "protocol error"]) {
            NegRefusal::Broken
        } else if has(&["disabled", "not supported", "unsupported", "not enabled", "not allowed"])
            || ["auth-required:", "restricted:"].iter().any(|prefix| text.starts_with(prefix))
        {
            NegRefusal::Unsupported
        } else {
            NegRefusal::Other
        }
    }

    /// Reads a NOTICE that came while a reconciliation waited for an answer; `None` if it does not speak of that.
    pub fn of_notice(notice: &str) -> Option<NegRefusal> {
        let text = prefix(notice).to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if has(&["too many concurrent neg"]) {
            Some(NegRefusal::TooManyAtOnce)
        } else if has(&RATE_LIMITED) {
            Some(NegRefusal::RateLimited)
        } else if has(&["negentropy error"]) {
            Some(NegRefusal::Broken)
        } else if has(&["failed to parse envelope", "could not parse command", "unsupported message", "bad msg"])
            || has(&["negentropy", "neg-open", "neg-msg", "unknown message", "unknown command", "unknown cmd"])
            || has(&["unknown envelope", "unrecognized", "unrecognised", "invalid message", "invalid command"])
        {
            Some(NegRefusal::Unsupported)
        } else {
            None
        }
    }

    /// The name in metrics and in the status.
    pub fn name(self) -> &'static str {
        match self {
            NegRefusal::Unsupported => "unsupported",
            NegRefusal::TooManyRecords => "too_many_records",
            NegRefusal::TooManyAtOnce => "too_many_at_once",
            NegRefusal::RateLimited => "rate_limited",
            NegRefusal::Ended => "ended",
            NegRefusal::Broken => "broken",
            NegRefusal::Silent => "silent",
            NegRefusal::LinkLost => "link_lost",
            NegRefusal::Other => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NegRefusal::*;
    use super::*;
    use crate::fuzzing::refusals::{REFUSALS, refusal};
    use std::collections::BTreeSet;

    #[test]
    fn what_relays_say_in_neg_err() {
        for (reason, max, refusal) in [
            // strfry
            ("blocked: too many query results", Some(1_000_000), TooManyRecords),
            ("blocked: too many query results", None, TooManyRecords),
            ("closed: unknown subscription handle", None, Ended),
            ("PROTOCOL-ERROR", None, Broken),
            // chorus
            ("blocked: Negentropy sync is disabled", None, Unsupported),
            // netstr
            ("blocked: too many results", None, TooManyRecords),
            ("closed: you took too long to respond", None, Ended),
            ("invalid: too many subscriptions", None, TooManyAtOnce),
            // NIP-77 before it had words of NIP-01
            ("RESULTS_TOO_BIG", None, TooManyRecords),
            ("CLOSED", None, Ended),
            ("rate-limited: slow down there chief", None, RateLimited),
            ("auth-required: who are you?", None, Unsupported),
            ("blocked: you are not on the list", None, Other),
            ("", None, Other),
        ] {
            assert_eq!(NegRefusal::of_error(reason, max), refusal, "{reason}");
        }
    }

    /// What tests draw from speaks of everything that is told apart in words.
    #[test]
    fn every_refusal_has_a_wording_that_tests_draw() {
        let drawn = (0..REFUSALS).map(|choice| NegRefusal::of_error(&refusal(choice), None).name());
        assert_eq!(drawn.collect::<BTreeSet<_>>().len(), 7, "all but silence and a lost link");
        let drawn = (0..REFUSALS).filter_map(|choice| NegRefusal::of_notice(&refusal(choice)));
        assert_eq!(drawn.map(NegRefusal::name).collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn what_relays_say_in_notices() {
        for (notice, refusal) in [
            // strfry
            ("ERROR: bad msg: negentropy disabled", Some(Unsupported)),
            ("ERROR: negentropy error: parse ends prematurely", Some(Broken)),
            ("ERROR: too many concurrent NEG requests", Some(TooManyAtOnce)),
            ("ERROR: bad msg: unknown cmd", Some(Unsupported)),
            // khatru, nostr-rs-relay, rnostr
            ("failed to parse envelope: unknown envelope label", Some(Unsupported)),
            ("could not parse command", Some(Unsupported)),
            ("Unsupported message", Some(Unsupported)),
            ("rate limited", Some(RateLimited)),
            // What speaks of something else, or of nothing.
            ("ERROR: too many concurrent REQs", None),
            ("ERROR: bad req: arr too big", None),
            ("welcome to our relay", None),
            ("", None),
        ] {
            assert_eq!(NegRefusal::of_notice(notice), refusal, "{notice}");
        }
    }
}
