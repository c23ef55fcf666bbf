//! What a relay's free text means. NIP-01 gives CLOSED a machine-readable prefix; NOTICE has none, and many relays put
//! the same words in either. Only what changes our behaviour is told apart; all else is [`Refusal::Other`].

use crate::limits::REFUSAL_BYTES_READ;

/// Why a relay did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More subscriptions are open than it allows; it may say how many it does.
    TooManySubscriptions(Option<usize>),
    /// More filters in one REQ than it allows; it may say how many it does.
    TooManyFilters(Option<usize>),
    /// A filter has more values than it takes.
    FilterTooLarge,
    /// The message is longer than it takes; it may say how many bytes it does.
    MessageTooLarge(Option<usize>),
    /// The filter's `limit` is larger than it takes.
    LimitTooHigh,
    /// We ask too fast.
    RateLimited,
    /// It answers only who has authenticated (NIP-42).
    AuthRequired,
    /// It takes the filter for a scraper's, or misses something in it.
    Underspecified,
    /// The filter asks for more than it supports.
    Unsupported,
    /// The filter asks for tags of upper-case letters, which it does not know (NIP-22 has them).
    UpperCaseTags,
    /// It does not answer us, whatever we ask.
    Restricted,
    /// Nothing that we could act on.
    Other,
}

impl Refusal {
    /// Reads the reason of a CLOSED, or a NOTICE.
    pub fn of(text: &str) -> Refusal {
        let text = prefix(text);
        let upper_case = text.contains("#A\" is not allowed") || text.contains("#E\" is not allowed");
        let text = text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        // The wordings come before the prefixes: some relays put one kind under the prefix of another.
        if has(&["too many concurrent req", "subscription count", "too many subscriptions", "number of subscriptions"])
            || has(&["too many reqs", "subscriptions are allowed"])
        {
            Refusal::TooManySubscriptions(number_in(&text))
        } else if has(&["too many filters", "max_filters", "arr too big"]) {
            Refusal::TooManyFilters(number_in(&text))
        } else if has(&["too many tag values", "too many ids", "too many authors", "too many kinds"])
            || has(&["filter items too large", "too many event tags", "too many values", "filter too large"])
        {
            Refusal::FilterTooLarge
        } else if has(&["message too large", "payload reached size limit", "message is too big", "message too big"]) {
            Refusal::MessageTooLarge(number_in(text.rsplit(['>', ':']).next().unwrap_or_default()))
        } else if upper_case {
            Refusal::UpperCaseTags
        } else if has(&["limit is too high", "limit too high", "limit too large"]) {
            Refusal::LimitTooHigh
        } else if has(&RATE_LIMITED) {
            Refusal::RateLimited
        } else if has(&["auth-required"]) {
            Refusal::AuthRequired
        } else if has(&["underspecified", "scraper", "must be specified", "empty filter"]) {
            Refusal::Underspecified
        } else if has(&["too many things to filter for"]) || text.starts_with("unsupported:") {
            Refusal::Unsupported
        } else if text.starts_with("restricted:") {
            Refusal::Restricted
        } else {
            Refusal::Other
        }
    }

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::TooManySubscriptions(_) => "too_many_subscriptions",
            Refusal::TooManyFilters(_) => "too_many_filters",
            Refusal::FilterTooLarge => "filter_too_large",
            Refusal::MessageTooLarge(_) => "message_too_large",
            Refusal::LimitTooHigh => "limit_too_high",
            Refusal::RateLimited => "rate_limited",
            Refusal::AuthRequired => "auth_required",
            Refusal::Underspecified => "underspecified",
            Refusal::Unsupported => "unsupported",
            Refusal::UpperCaseTags => "upper_case_tags",
            Refusal::Restricted => "restricted",
            Refusal::Other => "other",
        }
    }

    /// Whether it speaks of what was asked, so that one of the open subscriptions has not been opened, even where no
    /// subscription is named.
    pub fn is_of_a_question(self) -> bool {
        !matches!(self, Refusal::RateLimited | Refusal::AuthRequired | Refusal::Other)
    }
}

/// The words with which relays say that we ask too fast.
pub const RATE_LIMITED: [&str; 6] =
    ["rate-limited", "rate limited", "rate limit", "slow down", "too many requests", "too fast"];

/// The part of a relay's words that is read for what it means.
pub fn prefix(text: &str) -> &str {
    let mut ends = (0..=text.len().min(REFUSAL_BYTES_READ)).rev();
    &text[..ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0)]
}

/// The only number in a text, if there is exactly one and it is no nonsense.
fn number_in(text: &str) -> Option<usize> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let number = numbers.next()?.parse().ok().filter(|number| *number > 0)?;
    numbers.next().is_none().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::refusals::{REFUSALS, refusal};
    use std::collections::BTreeSet;

    /// The words of real relays, to the letter, and where they use them.
    #[test]
    fn the_words_of_real_relays() {
        use Refusal::*;
        for (text, refusal) in [
            // strfry
            ("ERROR: too many concurrent REQs", TooManySubscriptions(None)),
            ("ERROR: bad req: arr too big", TooManyFilters(None)),
            ("ERROR: bad req: total filter items too large", FilterTooLarge),
            ("ERROR: bad msg: negentropy disabled", Other),
            // nostr-rs-relay
            ("Subscription error: Maximum concurrent subscription count reached", TooManySubscriptions(None)),
            ("message too large (300000 > 262144)", MessageTooLarge(Some(262_144))),
            ("could not parse command", Other),
            // khatru, its stores and its policies
            ("rate-limited: there is a bug in the client, no one should be making so many requests", RateLimited),
            ("auth-required: all requests must be authenticated", AuthRequired),
            ("too many tag values", FilterTooLarge),
            ("too many ids", FilterTooLarge),
            ("blocked: too many things to filter for", Unsupported),
            ("blocked: can't handle empty filters", Underspecified),
            ("blocked: an author must be specified to get their kind:1 notes", Underspecified),
            ("restricted: you are not a member", Restricted),
            ("failed to parse envelope: unknown envelope label", Other),
            // chorus
            ("blocked: No more than 128 subscriptions are allowed at any one time", TooManySubscriptions(Some(128))),
            ("invalid: Filter is underspecified. Scrapers are not allowed", Underspecified),
            ("Rate limit exceeded.", RateLimited),
            ("Closing due to error(s)", Other),
            ("auth-required: At least one matching event requires AUTH", AuthRequired),
            // rnostr
            ("invalid: limitation.max_filters 10", TooManyFilters(Some(10))),
            ("Number of subscriptions exceeds limit", TooManySubscriptions(None)),
            ("payload reached size limit.", MessageTooLarge(None)),
            // rust-nostr's builder
            ("rate-limited: too many REQs", TooManySubscriptions(None)),
            // nostream
            (
                "Subscription rejected: Too many subscriptions: Number of subscriptions must be less than or equal to 10",
                TooManySubscriptions(Some(10)),
            ),
            (
                "Subscription rejected: Too many filters: Number of filters per subscription must be less then or equal to 10",
                TooManyFilters(Some(10)),
            ),
            ("Duplicate subscription g3: Ignoring", Other),
            ("rate limited", RateLimited),
            ("invalid: \"[2].#A\" is not allowed", UpperCaseTags),
            // netstr
            ("invalid: too many filters", TooManyFilters(None)),
            ("invalid: too many subscriptions", TooManySubscriptions(None)),
            ("invalid: filter limit is too high", LimitTooHigh),
            ("rate-limited: slow down there chief", RateLimited),
            // NIP-01
            ("unsupported: filter contains unknown elements", Unsupported),
            ("error: could not connect to the database", Other),
            ("error: shutting down idle subscription", Other),
            ("", Other),
        ] {
            assert_eq!(Refusal::of(text), refusal, "{text}");
        }
    }

    /// What tests draw from speaks of everything that is told apart.
    #[test]
    fn every_refusal_has_a_wording_that_tests_draw() {
        let drawn: BTreeSet<&str> = (0..REFUSALS).map(|choice| Refusal::of(&refusal(choice)).name()).collect();
        assert_eq!(drawn.len(), 12, "{drawn:?}");
        let numbers = |name| {
            let drawn = (0..REFUSALS).map(|choice| Refusal::of(&refusal(choice)));
            drawn
                .filter(|refusal| refusal.name() == name)
                .map(|refusal| format!("{refusal:?}"))
                .collect::<BTreeSet<_>>()
        };
        for name in ["too_many_subscriptions", "too_many_filters", "message_too_large"] {
            assert!(numbers(name).len() > 5, "{:?}", numbers(name));
        }
    }

    #[test]
    fn a_long_text_is_read_no_further_than_its_beginning() {
        assert_eq!(Refusal::of(&format!("rate-limited: {}", "é".repeat(1 << 20))), Refusal::RateLimited);
        assert_eq!(Refusal::of(&format!("{}rate-limited: ", "é".repeat(1 << 20))), Refusal::Other);
    }

    #[test]
    fn a_number_counts_only_if_it_is_the_only_one() {
        assert_eq!(number_in("no more than 128 of them"), Some(128));
        assert_eq!(number_in("12 of 20"), None);
        assert_eq!(number_in("0"), None);
        assert_eq!(number_in("99999999999999999999999"), None);
        assert_eq!(number_in("none"), None);
    }
}
