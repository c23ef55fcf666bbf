//! What a relay's free text means. NIP-01 gives CLOSED a machine-readable prefix; NOTICE has none, and many relays
//! put the same words in either. Only what changes our behaviour is recognised here.

/// Whether a CLOSED reason or a NOTICE says that we ask too fast: the prefix `rate-limited:` (NIP-01), or the wordings
/// of relays that have no prefix.
pub fn is_rate_limit(text: &str) -> bool {
    const WORDINGS: [&str; 6] =
        ["rate-limited", "rate limited", "rate limit", "slow down", "too many requests", "too fast"];
    let text = text.to_ascii_lowercase();
    WORDINGS.iter().any(|wording| text.contains(wording))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limits_of_real_relays_are_recognised() {
        for text in [
            "rate-limited: there is a bug in the client, no one should be making so many requests",
            "rate-limited: slow down there chief",
            "rate-limited: too many REQs",
            "Rate limit exceeded.",
            "rate limited",
        ] {
            assert!(is_rate_limit(text), "{text}");
        }
    }

    #[test]
    fn other_refusals_are_not() {
        for text in [
            "ERROR: too many concurrent REQs",
            "ERROR: bad req: arr too big",
            "auth-required: all requests must be authenticated",
            "blocked: No more than 128 subscriptions are allowed at any one time",
            "invalid: Filter is underspecified. Scrapers are not allowed",
            "could not parse command",
            "",
        ] {
            assert!(!is_rate_limit(text), "{text}");
        }
    }
}
