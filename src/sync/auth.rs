//! Whether a link's relay knows who we are (NIP-42). A challenge costs nothing: it is answered only where something was
//! refused for want of an answer, or where the relay's document says that it will be, and once on each link.

use nostr::event::EventId;

use crate::limits::AUTH_CHALLENGE_BYTES_MAX;
use crate::protocol::auth::AuthKey;
use crate::protocol::relay_url::RelayUrl;
use crate::time::{Duration, Instant, Now};

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing has been refused for want of an answer.
    Unwanted,
    /// Something has; there is no challenge to answer yet.
    Wanted {
        since: Instant,
    },
    /// A challenge was answered by this event.
    Answered {
        by: EventId,
        at: Instant,
    },
    Accepted,
    /// The relay will not have us, or has not said that it will.
    Refused,
}

/// What has become of a link's wish to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was refused may be asked again.
    Accepted,
    /// What was refused stays so.
    Refused,
}

/// One link's dealings with NIP-42.
#[derive(Debug)]
pub struct Auth {
    /// The last one that came: it takes the place of those before it.
    challenge: Option<Box<str>>,
    standing: Standing,
}

impl Default for Auth {
    fn default() -> Self {
        Auth { challenge: None, standing: Standing::Unwanted }
    }
}

impl Auth {
    /// The relay sent a challenge. One that is empty or too long is passed over; returns whether it was taken.
    pub fn on_challenge(&mut self, challenge: &str) -> bool {
        let fits = (1..=AUTH_CHALLENGE_BYTES_MAX).contains(&challenge.len());
        if fits {
            self.challenge = Some(challenge.into());
        }
        fits
    }

    /// Something was refused for want of an answer, or will be. Returns whether an answer may still help: if not,
    /// nothing that is refused so need be asked again on this link.
    pub fn want(&mut self, key: Option<&AuthKey>, now: Instant) -> bool {
        match self.standing {
            _ if key.is_none() => false,
            Standing::Unwanted => {
                self.standing = Standing::Wanted { since: now };
                true
            }
            Standing::Wanted { .. } | Standing::Answered { .. } => true,
            // It knows us, and that was not enough.
            Standing::Accepted | Standing::Refused => false,
        }
    }

    /// The message that answers, if one is wanted and there is a challenge.
    pub fn answer(&mut self, key: Option<&AuthKey>, relay: &RelayUrl, now: Now) -> Option<String> {
        let Standing::Wanted { .. } = self.standing else { return None };
        let (by, text) = key?.answer(relay, self.challenge.as_deref()?, now.wall);
        self.standing = Standing::Answered { by, at: now.mono };
        Some(text)
    }

    /// The relay said of an event of ours whether it takes it.
    pub fn on_ok(&mut self, id: EventId, accepted: bool) -> Option<Outcome> {
        match self.standing {
            Standing::Answered { by, .. } if by == id => {
                self.standing = if accepted { Standing::Accepted } else { Standing::Refused };
                Some(if accepted { Outcome::Accepted } else { Outcome::Refused })
            }
            _ => None,
        }
    }

    /// Time has passed: a relay that neither sends a challenge nor says what it makes of our answer has refused us.
    pub fn on_time(&mut self, now: Instant, timeout: Duration) -> Option<Outcome> {
        let due = self.deadline(timeout).is_some_and(|at| at <= now);
        due.then(|| {
            self.standing = Standing::Refused;
            Outcome::Refused
        })
    }

    /// Whether nothing more should be asked until it is known what the relay makes of us.
    pub fn is_pending(&self) -> bool {
        matches!(self.standing, Standing::Wanted { .. } | Standing::Answered { .. })
    }

    /// Whether the relay knows us.
    pub fn is_accepted(&self) -> bool {
        self.standing == Standing::Accepted
    }

    /// When [`Auth::on_time`] matters.
    pub fn deadline(&self, timeout: Duration) -> Option<Instant> {
        match self.standing {
            Standing::Wanted { since } => Some(since + timeout),
            Standing::Answered { at, .. } => Some(at + timeout),
            Standing::Unwanted | Standing::Accepted | Standing::Refused => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn key() -> AuthKey {
        AuthKey::parse(&"01".repeat(32)).expect("a key")
    }

    fn relay() -> RelayUrl {
        RelayUrl::parse("wss://relay.example.com").expect("a URL")
    }

    fn now(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_700_000_000 + secs) }
    }

    fn answer(auth: &mut Auth, secs: u64) -> Option<String> {
        auth.answer(Some(&key()), &relay(), now(secs))
    }

    fn id_in(message: &str) -> EventId {
        let message: serde_json::Value = serde_json::from_str(message).expect("JSON");
        EventId::from_hex(message[1]["id"].as_str().expect("an id")).expect("an id")
    }

    #[test]
    fn a_storm_of_challenges_is_not_answered() {
        let mut auth = Auth::default();
        (0..1_000).for_each(|n| assert!(auth.on_challenge(&n.to_string())));
        assert_eq!(answer(&mut auth, 0), None);
        assert!(!auth.is_pending());
        assert_eq!(auth.deadline(TIMEOUT), None);
    }

    #[test]
    fn the_last_challenge_is_answered_once_and_only_if_something_was_refused() {
        let mut auth = Auth::default();
        auth.on_challenge("first");
        auth.on_challenge("second");
        assert!(auth.want(Some(&key()), now(1).mono) && auth.is_pending());
        let message = answer(&mut auth, 1).expect("an answer");
        assert!(message.contains("second") && !message.contains("first"), "{message}");
        assert!(auth.want(Some(&key()), now(1).mono), "another refusal waits for the same word");
        auth.on_challenge("third");
        assert_eq!(answer(&mut auth, 2), None, "once");
        assert_eq!(auth.on_ok(EventId::from_byte_array([0; 32]), true), None, "another event");
        assert_eq!(auth.on_ok(id_in(&message), true), Some(Outcome::Accepted));
        assert!(auth.is_accepted() && !auth.is_pending());
        assert_eq!(auth.on_ok(id_in(&message), false), None, "said twice");
        assert!(!auth.want(Some(&key()), now(3).mono), "known, and still refused");
        assert_eq!(answer(&mut auth, 3), None);
    }

    #[test]
    fn a_challenge_may_come_after_the_refusal() {
        let mut auth = Auth::default();
        assert!(auth.want(Some(&key()), now(1).mono));
        assert_eq!(answer(&mut auth, 1), None, "nothing to answer yet");
        assert_eq!(auth.deadline(TIMEOUT), Some(now(61).mono));
        auth.on_challenge("late");
        let message = answer(&mut auth, 30).expect("an answer");
        assert_eq!(auth.deadline(TIMEOUT), Some(now(90).mono));
        assert_eq!(auth.on_ok(id_in(&message), false), Some(Outcome::Refused));
        assert!(!auth.want(Some(&key()), now(31).mono), "refused for good");
    }

    #[test]
    fn silence_is_a_refusal() {
        let mut auth = Auth::default();
        auth.on_challenge("x");
        auth.want(Some(&key()), now(1).mono);
        answer(&mut auth, 1).expect("an answer");
        assert_eq!(auth.on_time(now(60).mono, TIMEOUT), None);
        assert_eq!(auth.on_time(now(61).mono, TIMEOUT), Some(Outcome::Refused));
        assert_eq!(auth.on_time(now(62).mono, TIMEOUT), None, "told once");
    }

    #[test]
    fn without_a_key_nothing_helps() {
        let mut auth = Auth::default();
        auth.on_challenge("x");
        assert!(!auth.want(None, now(1).mono));
        assert!(!auth.is_pending());
        assert_eq!(auth.answer(None, &relay(), now(1)), None);
    }

    #[test]
    fn a_challenge_has_bounds() {
        let mut auth = Auth::default();
        assert!(!auth.on_challenge(""));
        assert!(!auth.on_challenge(&"x".repeat(AUTH_CHALLENGE_BYTES_MAX + 1)));
        auth.want(Some(&key()), now(1).mono);
        assert_eq!(answer(&mut auth, 1), None);
        assert!(auth.on_challenge(&"x".repeat(AUTH_CHALLENGE_BYTES_MAX)));
        assert!(answer(&mut auth, 1).is_some());
    }
}
