//! What relays say when they refuse: a wording for every branch of `sync::refusal` and `sync::reconcile::refusal`, and the
//! numbers that they put into them. The simulator's relays speak from here, too; so nothing here refers to the crate.

/// Wordings; `{n}` stands for a number.
pub const WORDINGS: [&str; 44] = [
    "",
    // Too many subscriptions.
    "error: too many subscriptions, at most {n} at once",
    "blocked: No more than {n} subscriptions are allowed at any one time",
    "Subscription error: Maximum concurrent subscription count reached",
    "ERROR: too many concurrent REQs",
    "Number of subscriptions exceeds limit",
    "rate-limited: too many REQs ({n})",
    // Too many filters.
    "invalid: too many filters, at most {n}",
    "invalid: limitation.max_filters {n}",
    "ERROR: bad req: arr too big",
    // Filters and messages that are too large.
    "too many tag values",
    "ERROR: bad req: total filter items too large",
    "invalid: filter too large ({n})",
    "message too large ({n} > {n})",
    "message is too big: {n}",
    "payload reached size limit.",
    "invalid: \"[2].#A\" is not allowed",
    "invalid: filter limit is too high ({n})",
    // Too fast.
    "rate-limited: slow down there chief",
    "rate limited, {n} a minute",
    "Rate limit exceeded.",
    // Who we are.
    "auth-required: all requests must be authenticated",
    "auth-required: At least one matching event requires AUTH",
    "restricted: you are not a member",
    // What we ask.
    "invalid: Filter is underspecified. Scrapers are not allowed",
    "blocked: can't handle empty filters",
    "blocked: too many things to filter for",
    "unsupported: filter contains unknown elements",
    // Reconciliations.
    "blocked: too many query results",
    "RESULTS_TOO_BIG",
    "ERROR: too many concurrent NEG requests",
    "invalid: too many neg sessions, at most {n}",
    "closed: you took too long to respond",
    "closed: unknown subscription handle",
    "PROTOCOL-ERROR",
    "ERROR: negentropy error: parse ends prematurely",
    "blocked: Negentropy sync is disabled",
    "ERROR: bad msg: negentropy disabled",
    "failed to parse envelope: unknown envelope label",
    "could not parse command",
    // Nothing that could be acted on.
    "error: could not connect to the database",
    "error: shutting down idle subscription",
    "welcome to our relay",
    "blocked: you are not on the list",
];

/// Numbers in them: as many as may be open, fewer, none, more than there are, and no numbers. The first come up most.
pub const NUMBERS: [&str; 12] = [
    "2",
    "1",
    "0",
    "18446744073709551616",
    "5",
    "100",
    "3",
    "10",
    "65536",
    "18446744073709551615",
    "99999999999999999999999",
    "-1",
];

/// The wording that `choice` stands for, with its number.
pub fn refusal(choice: usize) -> String {
    let (wording, number) = (choice % WORDINGS.len(), choice / WORDINGS.len());
    WORDINGS[wording].replace("{n}", NUMBERS[number % NUMBERS.len()])
}

/// How many there are.
pub const REFUSALS: usize = WORDINGS.len() * NUMBERS.len();
