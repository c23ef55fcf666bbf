//! What of clients' messages is not done, and why: the names of counters, and the words for the client.

use std::borrow::Cow;

use super::reconcile::Failure;
use crate::limits::{
    CLIENT_COUNTS_MAX, CLIENT_FILTER_VALUES_MAX, CLIENT_FILTERS_MAX, CLIENT_RECONCILIATIONS_MAX,
    CLIENT_SUBSCRIPTIONS_MAX, SUBSCRIPTION_ID_CHARS_MAX,
};
use crate::protocol::message::MessageError;

/// Why a client's message is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Message(MessageError),
    EventId,
    SubscriptionId,
    TooManyFilters,
    TooManyValues,
    TooManySubscriptions,
    TooManyBytes,
    TooManyReqs,
    TooManyEvents,
    LongScan,
    TooManyCounts,
    LongCount,
    Reconciliation(Failure),
}

impl Refusal {
    /// The label of its counter.
    pub(super) fn name(self) -> &'static str {
        match self {
            Refusal::Message(MessageError::NotJson) => "not_json",
            Refusal::Message(MessageError::NotAMessage) => "not_a_message",
            Refusal::Message(MessageError::UnknownType) => "unknown_type",
            Refusal::Message(MessageError::BadArguments) => "bad_arguments",
            Refusal::EventId => "event_id",
            Refusal::SubscriptionId => "subscription_id",
            Refusal::TooManyFilters => "too_many_filters",
            Refusal::TooManyValues => "too_many_values",
            Refusal::TooManySubscriptions => "too_many_subscriptions",
            Refusal::TooManyBytes => "too_many_bytes",
            Refusal::TooManyReqs => "too_many_reqs",
            Refusal::TooManyEvents => "too_many_events",
            Refusal::LongScan => "long_scan",
            Refusal::TooManyCounts => "too_many_counts",
            Refusal::LongCount => "long_count",
            Refusal::Reconciliation(Failure::TooMany) => "too_many_reconciliations",
            Refusal::Reconciliation(Failure::TooLarge(_)) => "set_too_large",
            Refusal::Reconciliation(Failure::Unknown) => "unknown_reconciliation",
            Refusal::Reconciliation(Failure::NotHex | Failure::Malformed(_)) => "negentropy",
            Refusal::Reconciliation(Failure::Impatient) => "impatient",
            Refusal::Reconciliation(Failure::Idle) => "idle_reconciliation",
            Refusal::Reconciliation(Failure::Outdated) => "outdated_set",
        }
    }

    /// What the client is told, with its NIP-01 prefix.
    pub(super) fn text(self) -> Cow<'static, str> {
        match self {
            Refusal::Message(error) => format!("invalid: {error}").into(),
            Refusal::EventId => "invalid: an event has one id, of 64 lower-case hexadecimal digits".into(),
            Refusal::SubscriptionId => {
                format!("invalid: a subscription id has 1 to {SUBSCRIPTION_ID_CHARS_MAX} characters").into()
            }
            Refusal::TooManyFilters => {
                format!("invalid: too many filters, at most {CLIENT_FILTERS_MAX} in a REQ").into()
            }
            Refusal::TooManyValues => {
                format!("invalid: too many values, at most {CLIENT_FILTER_VALUES_MAX} in a filter").into()
            }
            Refusal::TooManySubscriptions => {
                format!("blocked: too many subscriptions, at most {CLIENT_SUBSCRIPTIONS_MAX} at once").into()
            }
            Refusal::LongScan => "error: too much to look through, ask for something narrower".into(),
            Refusal::TooManyCounts => format!("blocked: too many COUNTs, at most {CLIENT_COUNTS_MAX} at once").into(),
            Refusal::LongCount => "blocked: too much to count, ask for something narrower".into(),
            Refusal::Reconciliation(failure) => failure_text(failure),
            Refusal::TooManyBytes => "blocked: open subscriptions take too much memory, close some first".into(),
            Refusal::TooManyReqs => "rate-limited: too many REQs from this address, slow down".into(),
            Refusal::TooManyEvents => "rate-limited: too many EVENTs from this address, slow down".into(),
        }
    }
}

/// The same for a reconciliation, in the words that the clients of other relays know.
fn failure_text(failure: Failure) -> Cow<'static, str> {
    match failure {
        Failure::TooMany => {
            format!("blocked: too many concurrent NEG requests, at most {CLIENT_RECONCILIATIONS_MAX} at once").into()
        }
        Failure::TooLarge(_) => "blocked: too many query results".into(),
        Failure::Unknown => "closed: unknown subscription handle".into(),
        Failure::NotHex => "invalid: PROTOCOL-ERROR, the payload is not hexadecimal".into(),
        Failure::Malformed(why) => format!("invalid: PROTOCOL-ERROR, {why}").into(),
        Failure::Impatient => "invalid: PROTOCOL-ERROR, the last message has not been answered".into(),
        Failure::Idle => "closed: you took too long to respond".into(),
        Failure::Outdated => "closed: too much has changed, begin anew".into(),
    }
}
