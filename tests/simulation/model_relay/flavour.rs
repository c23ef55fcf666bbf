//! The relay implementations that are in use, each as a row of what it allows, what it says when that is passed, and in
//! which ways it is peculiar. `relay-facts.md` names the line of code behind each entry.

use super::{Oddities, RelayConfig};
use crate::clock::{MINUTE, Micros, SECOND};

/// What is said to someone who passes a limit. `{n}` and `{max}` stand for what was asked and what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing; the message is as if it had never come.
    Nothing,
    /// A NOTICE, which names no subscription.
    Notice(&'static str),
    /// The stored events and EOSE, and then a NOTICE: the subscription is not live.
    NoticeAfterEose(&'static str),
    /// A NOTICE, and EOSE as if nothing were held. The subscription is live.
    NoticeAndEose(&'static str),
    /// EOSE as if nothing were held. The subscription is live.
    EoseAlone,
    Closed(&'static str),
    /// The WebSocket is closed with this code.
    Hangup(u16),
    /// A NOTICE, then the WebSocket is closed.
    NoticeAndHangup(&'static str, u16),
}

/// So much, and what follows on more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub max: usize,
    pub told: Told,
}

const fn at_most(max: usize, told: Told) -> Limit {
    Limit { max, told }
}

const NONE: Limit = at_most(usize::MAX, Told::Nothing);

/// How many values a filter may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    Any,
    /// Decoded bytes in one tag list, and tag lists in one filter.
    BytesOfTag(Limit, usize),
    /// All tag lists together.
    InFilter(Limit),
    /// More are taken modulo something: a few of them are looked at, and nobody is told.
    Wraps(usize),
}

/// Events that a filter is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    pub max: usize,
    /// Where the filter has no `limit`.
    pub absent: usize,
    /// Where it asks for more than `max`.
    pub above: Above,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    Gives(usize),
    Refuses(&'static str),
}

/// The same for all three.
const fn capped(max: usize) -> Cap {
    Cap { max, absent: max, above: Above::Gives(max) }
}

const fn cap(max: usize, otherwise: usize) -> Cap {
    Cap { max, absent: otherwise, above: Above::Gives(otherwise) }
}

/// What a rate limit counts, over all links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    Filters,
    Subscriptions,
    Messages,
    /// In both directions; the bucket is filled again only when the client sends.
    Bytes,
    Dials,
    /// NEG-OPEN.
    Reconciliations,
}

/// A bucket of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub of: Counted,
    pub burst: u64,
    /// So many come back …
    pub refill: u64,
    /// … in this time.
    pub every: Micros,
    pub told: Told,
}

/// When a relay ends a link for lack of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    Never,
    /// After so long without any subscription: close 1008.
    Unsubscribed(Micros),
    /// After so long without any frame from us: the socket just ends.
    Quiet(Micros),
}

/// What a relay makes of NIP-77.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciling {
    /// It is not spoken: this is told to every message of it.
    Refused(Told),
    Spoken(Spoken),
}

/// How NIP-77 is spoken. What is told as `Closed` is said as NEG-ERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Raw bytes of a frame that it sends; twice as many in hexadecimal.
    pub frame: u64,
    /// Events that a filter may match.
    pub events: Limit,
    /// Whether NEG-ERR names that number as its fourth element.
    pub names_max: bool,
    /// Reconciliations on one link.
    pub at_once: Limit,
    /// It forgets one after so long without a message.
    pub forgets_after: Micros,
    /// When it forgets, which it notices with the next message.
    pub forgotten: Told,
    /// To a message for one that it does not know.
    pub unknown: Told,
    /// To a message that the protocol does not allow.
    pub nonsense: Told,
    /// Whether its times are ticks of 100 ns in place of seconds: the sets never lie in the same order.
    pub in_ticks: bool,
}

/// What no number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// A filter without `limit` is answered oldest first.
    OldestFirst,
    /// A REQ whose filters are all `limit:0` gets no EOSE.
    LimitZeroUnanswered,
    /// The filters of a held subscription again, under whatever id.
    SameFilters(Told),
    /// A filter that uses fewer than two of authors, kinds and tags gets an empty EOSE and is not live.
    LimitScrapers,
    /// Every so many-th query is cut off: some events, no EOSE, but live.
    CutsOff(u64),
    /// Each filter is a query and a listener of its own: an event that two of them match comes twice, a second REQ of
    /// the same id adds to the first, and a refused filter leaves the listeners of those before it.
    FiltersAlone,
    /// One pattern is made of all values of a tag: with more than one nothing is found. Live is not concerned.
    OnePattern,
    /// The values are looked for in all tags, whatever their name. Live is not concerned.
    TagNameIgnored,
    /// A filter without any value is refused.
    NoEmptyFilters,
    /// A filter with more than two tag lists, and more than four kinds and tag lists together, is refused.
    NoComplexFilters,
    /// A filter that could match kind 1 must name an author.
    AntiSyncBots,
    /// Every REQ is refused, with a challenge, until the client has proved who it is.
    AuthRequired,
    /// Who has proved who it is may still not be among those that are answered; told as soon as that is known, or with
    /// each REQ.
    MembersOnly { told_at_once: bool },
    /// A challenge comes as soon as the link is open.
    Challenges,
    /// A REQ that asks for ids alone is closed, before or after its EOSE.
    IdsOnlyClosed { after_eose: bool },
    /// A REQ that replaces a held one counts against the limit of subscriptions too.
    ReplacementCounts,
    /// A filter of kinds alone needs `limit` up to 100 or a range up to two hours. Refusals are errors, and errors cost
    /// the link: each 0.4, at 1.0 it is closed.
    NoScrapers,
    /// More live events than this at one moment: the rest is lost without a word.
    LosesBehind(usize),
    /// A message that it cannot read ends the link.
    HangsUpOnNonsense,
    /// Tag lists of upper-case letters are not known: NOTICE, and the REQ is dropped.
    LowerCaseTags,
    /// EOSE has a third element (NIP-67).
    HintsAtEnd,
    /// Refuses events more than this many seconds ahead of its clock.
    RefusesFuture(u64),
}

#[derive(Clone, Debug)]
pub struct Flavour {
    pub name: &'static str,
    pub subscriptions: Limit,
    pub filters: Limit,
    pub values: Values,
    pub cap: Cap,
    pub message_bytes: Limit,
    pub reconciling: Reconciling,
    pub rates: &'static [Rate],
    /// Time between its pings.
    pub pings: Option<Micros>,
    pub idle: Idle,
    pub quirks: &'static [Quirk],
    /// Its NIP-11 document, if it serves one.
    pub info: Option<&'static str>,
    /// Whether the program becomes complete with it. Where not, `traps` says what it does instead.
    pub complete: bool,
}

use Counted::{Bytes, Dials, Filters, Messages, Reconciliations, Subscriptions};
use Quirk::*;
use Told::{Closed, EoseAlone, Hangup, Notice, NoticeAfterEose, NoticeAndEose, NoticeAndHangup};

/// As strfry renders it from its configuration.
const STRFRY_INFO: &str = r#"{"contact":"unset","description":"This is a strfry instance.","limitation":{"max_limit":500,"max_message_length":131072,"max_subscriptions":200},"name":"strfry default","negentropy":1,"pubkey":"unset","software":"git+https://github.com/hoytech/strfry.git","supported_nips":[1,2,4,9,11,22,28,40,70,77],"version":"1.0.4"}"#;

const STRFRY: Flavour = Flavour {
    name: "strfry",
    subscriptions: at_most(200, NoticeAfterEose("ERROR: too many concurrent REQs")),
    filters: at_most(200, Closed("ERROR: bad req: arr too big")),
    values: Values::BytesOfTag(at_most(65_535, Closed("ERROR: bad req: total filter items too large")), 3),
    cap: capped(500),
    message_bytes: at_most(131_072, Hangup(1009)),
    reconciling: Reconciling::Spoken(Spoken {
        frame: 500_000,
        events: at_most(1_000_000, Closed("blocked: too many query results")),
        names_max: true,
        at_once: at_most(200, Notice("ERROR: too many concurrent NEG requests")),
        forgets_after: Micros::MAX,
        unknown: Closed("closed: unknown subscription handle"),
        nonsense: Closed("PROTOCOL-ERROR"),
        forgotten: Told::Nothing,
        in_ticks: false,
    }),
    rates: &[],
    pings: Some(55 * SECOND),
    idle: Idle::Never,
    quirks: &[RefusesFuture(900)],
    info: Some(STRFRY_INFO),
    complete: true,
};

const STRFRY_1_0: Flavour = Flavour {
    name: "strfry-1.0",
    info: None,
    subscriptions: at_most(20, NoticeAfterEose("ERROR: too many concurrent REQs")),
    filters: at_most(20, Notice("ERROR: bad req: arr too big")),
    values: Values::BytesOfTag(at_most(65_535, Notice("ERROR: bad req: total filter items too large")), 3),
    ..STRFRY
};

const NOSTR_RS_RELAY: Flavour = Flavour {
    name: "nostr-rs-relay",
    subscriptions: at_most(32, Notice("Subscription error: Maximum concurrent subscription count reached")),
    filters: NONE,
    values: Values::Any,
    cap: capped(usize::MAX),
    message_bytes: at_most(262_144, Notice("message too large ({n} > {max})")),
    reconciling: Reconciling::Refused(Notice("could not parse command")),
    rates: &[],
    pings: Some(5 * MINUTE),
    idle: Idle::Quiet(20 * MINUTE),
    quirks: &[OldestFirst, LimitZeroUnanswered, SameFilters(Told::Nothing)],
    info: None,
    complete: true,
};

const NOSTR_RS_RELAY_LIMIT_SCRAPERS: Flavour = Flavour {
    name: "nostr-rs-relay-limit-scrapers",
    quirks: &[OldestFirst, LimitZeroUnanswered, SameFilters(Told::Nothing), LimitScrapers],
    complete: false,
    ..NOSTR_RS_RELAY
};

const NOSTR_RS_RELAY_UNDER_LOAD: Flavour = Flavour {
    name: "nostr-rs-relay-under-load",
    quirks: &[OldestFirst, LimitZeroUnanswered, SameFilters(Told::Nothing), CutsOff(7)],
    ..NOSTR_RS_RELAY
};

const KHATRU_BADGER: Flavour = Flavour {
    name: "khatru-badger",
    subscriptions: NONE,
    filters: NONE,
    values: Values::Any,
    cap: cap(1_000, 250),
    message_bytes: at_most(512_000, Hangup(1009)),
    reconciling: Reconciling::Refused(Notice("failed to parse envelope: unknown envelope label")),
    rates: &[],
    pings: Some(30 * SECOND),
    idle: Idle::Never,
    quirks: &[FiltersAlone],
    info: None,
    complete: true,
};

/// It is an option of the relay's author.
const KHATRU_NEGENTROPY: Flavour = Flavour {
    name: "khatru-negentropy",
    reconciling: Reconciling::Spoken(Spoken {
        frame: 1 << 20,
        events: at_most(16_777_216, Told::Nothing),
        names_max: false,
        at_once: NONE,
        forgets_after: 7 * SECOND,
        unknown: Closed("CLOSED"),
        nonsense: Closed("invalid negentropy protocol version"),
        forgotten: Told::Nothing,
        in_ticks: false,
    }),
    ..KHATRU_BADGER
};

const KHATRU_LMDB: Flavour = Flavour { name: "khatru-lmdb", cap: cap(1_500, 375), ..KHATRU_BADGER };

const SQL_VALUES: Values = Values::InFilter(at_most(100, NoticeAndEose("too many tag values")));

const KHATRU_SQLITE: Flavour = Flavour {
    name: "khatru-sqlite",
    values: SQL_VALUES,
    cap: capped(100),
    quirks: &[FiltersAlone, TagNameIgnored],
    ..KHATRU_BADGER
};

const KHATRU_POSTGRES: Flavour =
    Flavour { name: "khatru-postgres", values: SQL_VALUES, cap: capped(100), ..KHATRU_BADGER };

const KHATRU_MYSQL: Flavour = Flavour {
    name: "khatru-mysql",
    values: Values::InFilter(at_most(100, EoseAlone)),
    cap: capped(100),
    quirks: &[FiltersAlone, OnePattern],
    complete: false,
    ..KHATRU_BADGER
};

const BUG_IN_THE_CLIENT: Told =
    Closed("rate-limited: there is a bug in the client, no one should be making so many requests");

const KHATRU_SANE_DEFAULTS: Flavour = Flavour {
    name: "khatru-sane-defaults",
    rates: &[
        Rate { of: Filters, burst: 100, refill: 20, every: MINUTE, told: BUG_IN_THE_CLIENT },
        Rate { of: Dials, burst: 100, refill: 1, every: 5 * MINUTE, told: Told::Nothing },
    ],
    ..KHATRU_BADGER
};

const KHATRU_AUTH: Flavour =
    Flavour { name: "khatru-auth", quirks: &[FiltersAlone, AuthRequired], complete: false, ..KHATRU_BADGER };

const KHATRU_MEMBERS: Flavour = Flavour {
    name: "khatru-members",
    quirks: &[FiltersAlone, AuthRequired, MembersOnly { told_at_once: false }],
    complete: false,
    ..KHATRU_BADGER
};

const KHATRU_ANTI_SYNC_BOTS: Flavour =
    Flavour { name: "khatru-anti-sync-bots", quirks: &[FiltersAlone, AntiSyncBots], complete: false, ..KHATRU_BADGER };

const WOT_RELAY: Flavour = Flavour {
    name: "wot-relay",
    rates: &[
        Rate { of: Filters, burst: 30, refill: 5, every: MINUTE, told: BUG_IN_THE_CLIENT },
        Rate { of: Dials, burst: 30, refill: 10, every: 2 * MINUTE, told: Told::Nothing },
    ],
    quirks: &[FiltersAlone, NoEmptyFilters, NoComplexFilters],
    ..KHATRU_BADGER
};

const NGIT_RELAY: Flavour = Flavour {
    name: "ngit-relay",
    rates: &[Rate { of: Dials, burst: 2_000, refill: 10, every: MINUTE, told: Told::Nothing }],
    ..KHATRU_BADGER
};

const CHORUS: Flavour = Flavour {
    name: "chorus",
    subscriptions: at_most(128, Closed("blocked: No more than {max} subscriptions are allowed at any one time")),
    filters: NONE,
    values: Values::Wraps(990),
    cap: capped(usize::MAX),
    message_bytes: at_most(1 << 20, Hangup(1009)),
    reconciling: Reconciling::Refused(Closed("blocked: Negentropy sync is disabled")),
    rates: &[Rate {
        of: Bytes,
        burst: 16 << 20,
        refill: 1 << 20,
        every: SECOND,
        told: NoticeAndHangup("Rate limit exceeded.", 1008),
    }],
    pings: Some(60 * SECOND),
    idle: Idle::Unsubscribed(60 * SECOND),
    quirks: &[Challenges, IdsOnlyClosed { after_eose: false }, ReplacementCounts, NoScrapers],
    info: Some(CHORUS_INFO),
    complete: true,
};

const RNOSTR: Flavour = Flavour {
    name: "rnostr",
    subscriptions: at_most(20, Closed("Number of subscriptions exceeds limit")),
    filters: at_most(10, Closed("invalid: limitation.max_filters {max}")),
    values: Values::Any,
    cap: capped(300),
    message_bytes: at_most(524_288, Notice("payload reached size limit.")),
    reconciling: Reconciling::Refused(Notice("Unsupported message")),
    rates: &[],
    pings: Some(60 * SECOND),
    idle: Idle::Quiet(2 * MINUTE),
    quirks: &[RefusesFuture(900)],
    info: Some(RNOSTR_INFO),
    complete: true,
};

const RELAY_BUILDER: Flavour = Flavour {
    name: "relay-builder",
    subscriptions: at_most(500, Closed("rate-limited: too many REQs")),
    filters: NONE,
    values: Values::Any,
    cap: Cap { max: usize::MAX, absent: 500, above: Above::Gives(usize::MAX) },
    message_bytes: at_most(64 << 20, Hangup(1009)),
    reconciling: Reconciling::Spoken(Spoken {
        frame: 60_000,
        events: NONE,
        names_max: false,
        at_once: NONE,
        forgets_after: Micros::MAX,
        unknown: Closed("error: subscription not found"),
        nonsense: Hangup(1006),
        forgotten: Told::Nothing,
        in_ticks: false,
    }),
    rates: &[],
    pings: None,
    idle: Idle::Never,
    quirks: &[IdsOnlyClosed { after_eose: true }, LosesBehind(1_024), HangsUpOnNonsense],
    info: None,
    complete: true,
};

const NOSTREAM: Flavour = Flavour {
    name: "nostream",
    subscriptions: at_most(
        10,
        Notice(
            "Subscription rejected: Too many subscriptions: Number of subscriptions must be less than or equal to {max}",
        ),
    ),
    filters: at_most(
        10,
        Notice(
            "Subscription rejected: Too many filters: Number of filters per subscription must be less then or equal to {max}",
        ),
    ),
    values: Values::Any,
    cap: Cap { max: 5_000, absent: 500, above: Above::Gives(5_000) },
    message_bytes: at_most(524_288, Hangup(1009)),
    reconciling: Reconciling::Refused(Told::Nothing),
    rates: &[Rate { of: Messages, burst: 240, refill: 240, every: MINUTE, told: Notice("rate limited") }],
    pings: Some(120 * SECOND),
    idle: Idle::Never,
    quirks: &[
        OldestFirst,
        SameFilters(Notice("Duplicate subscription {id}: Ignoring")),
        LowerCaseTags,
        RefusesFuture(900),
    ],
    info: Some(NOSTREAM_INFO),
    complete: false,
};

const SLOW_DOWN: Told = Closed("rate-limited: slow down there chief");

const NETSTR: Flavour = Flavour {
    name: "netstr",
    subscriptions: at_most(50, Closed("invalid: too many subscriptions")),
    filters: at_most(20, Closed("invalid: too many filters")),
    values: Values::Any,
    cap: Cap { max: 1_000, absent: 1_000, above: Above::Refuses("invalid: filter limit is too high") },
    message_bytes: at_most(524_288, Notice("invalid: message is too large")),
    reconciling: Reconciling::Spoken(Spoken {
        frame: 60_000,
        events: at_most(500_000, Closed("blocked: too many results")),
        names_max: false,
        at_once: at_most(1, Closed("invalid: too many subscriptions")),
        forgets_after: MINUTE,
        unknown: Closed("closed: unknown subscription id"),
        nonsense: Closed("error: internal error while processing your message"),
        forgotten: Closed("closed: you took too long to respond"),
        in_ticks: true,
    }),
    rates: &[
        Rate { of: Subscriptions, burst: 60, refill: 60, every: MINUTE, told: SLOW_DOWN },
        Rate { of: Reconciliations, burst: 5, refill: 5, every: MINUTE, told: SLOW_DOWN },
    ],
    pings: None,
    idle: Idle::Never,
    quirks: &[],
    info: None,
    complete: true,
};

/// It says nothing of filters and limits.
const CHORUS_INFO: &str = r#"{"software":"https://github.com/mikedilger/chorus","supported_nips":[1,2,4,9,11,42],"limitation":{"max_message_length":1048576,"max_subscriptions":128}}"#;

/// It says everything.
const RNOSTR_INFO: &str = r#"{"software":"rnostr","supported_nips":[1,2,4,9,11,12,15,16,20,22,25,26,28,33,40],"limitation":{"max_message_length":524288,"max_subscriptions":20,"max_filters":10,"max_limit":300,"max_subid_length":100,"auth_required":false,"payment_required":false}}"#;

/// Of filters it names the wrong number; its limit is that of a larger page than it gives without one.
const NOSTREAM_INFO: &str = r#"{"software":"nostream","supported_nips":[1,2,4,9,11,12,15,16,20,22,26,28,33,40],"limitation":{"max_message_length":524288,"max_subscriptions":10,"max_filters":2500,"max_limit":5000,"max_subid_length":256,"auth_required":false}}"#;

impl Flavour {
    pub const ALL: [Flavour; 22] = [
        STRFRY,
        STRFRY_1_0,
        NOSTR_RS_RELAY,
        NOSTR_RS_RELAY_LIMIT_SCRAPERS,
        NOSTR_RS_RELAY_UNDER_LOAD,
        KHATRU_BADGER,
        KHATRU_LMDB,
        KHATRU_SQLITE,
        KHATRU_POSTGRES,
        KHATRU_MYSQL,
        KHATRU_SANE_DEFAULTS,
        KHATRU_AUTH,
        KHATRU_ANTI_SYNC_BOTS,
        WOT_RELAY,
        NGIT_RELAY,
        CHORUS,
        RNOSTR,
        RELAY_BUILDER,
        NOSTREAM,
        NETSTR,
        KHATRU_NEGENTROPY,
        KHATRU_MEMBERS,
    ];

    pub fn named(name: &str) -> Flavour {
        Flavour::ALL.into_iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no flavour {name}"))
    }

    pub fn config(self) -> RelayConfig {
        RelayConfig { flavour: self, keeps_everything: false, liar: None, odd: Oddities::default() }
    }

    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    pub(super) fn rate(&self, of: Counted) -> Option<&Rate> {
        self.rates.iter().find(|r| r.of == of)
    }
}
