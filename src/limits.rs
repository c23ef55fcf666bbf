//! Every bound of the program, in one place: what it bounds, what happens there, and which metric counts it.
//!
//! [`Limits`] and [`Timing`] hold the few that an operator may set (spec section 12); their `Default` is the contract's.
//! All others are constants. Relations that must hold between them are checked at compile time at the end of the file.

use crate::time::Duration;

/// So many at once, and one more in each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many at once.
    pub burst: u64,
    /// Time in which one more is allowed.
    pub interval: Duration,
}

impl Rate {
    /// `per_second` in the long run, `burst` at once.
    pub const fn per_second(per_second: u64, burst: u64) -> Rate {
        Rate { burst, interval: Duration::from_micros(1_000_000 / per_second) }
    }
}

/// Bounds that the configuration may set, table `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Relays followed at once; further ones are not dialled and are counted (`grasp_sync_relays_refused_total`).
    pub relays_max: usize,
    /// Relays taken from one announcement, the first ones; the rest are counted (`grasp_sync_relays_refused_total`).
    pub relays_per_repo_max: usize,
    /// Bytes of one event in canonical JSON (NIP-01), however it was escaped on the wire; larger ones are refused
    /// (`event_too_large`).
    pub event_bytes_max: usize,
    /// Values in one tag list of one filter.
    pub filter_values_max: usize,
    /// Live filters on one relay above which its subscriptions are consolidated.
    pub consolidate_above_filters: usize,
    /// Client links to the own relay; further ones get HTTP 503 (`grasp_sync_clients_refused_total`).
    pub clients_max: usize,
    /// Bytes that all links may hold beyond [`LINK_OWN_BYTES`] each. Beyond: the account that holds most loses its largest
    /// link (`grasp_sync_links_closed_total{reason="memory"}`).
    pub buffers_bytes: usize,
    /// Client links of one account, an IPv4 address or a /64 of IPv6; further ones get HTTP 503
    /// (`grasp_sync_clients_refused_total`).
    pub clients_per_address: usize,
    /// Events that clients may publish of one author, in repos whose maintainer he is not; 0: as many as come. Beyond: OK
    /// false, `blocked: quota` (`quota_author_events`).
    pub author_events_max: u64,
    /// Bytes of their JSON, likewise (`quota_author_bytes`).
    pub author_bytes_max: u64,
    /// Repos that one author may announce to us by clients, likewise (`quota_author_repos`).
    pub author_repos_max: usize,
    /// Events that clients may publish in one repo, by others than its maintainers, likewise (`quota_repo_events`).
    pub repo_events_max: u64,
    /// Bytes of their JSON, likewise (`quota_repo_bytes`).
    pub repo_bytes_max: u64,
    /// Bytes of the disk that the store's file may take; 0: as many as there are. At this: nothing more is stored
    /// (`grasp_sync_storage_short`).
    pub store_bytes_max: u64,
    /// Bytes of the disk that stay free; 0: none. Below: nothing more is stored (`grasp_sync_storage_short`).
    pub disk_free_bytes_min: u64,
    /// Whether clients of this machine itself, where a proxy may stand for everybody, and relays at private and loopback
    /// addresses are free of bounds that go by address.
    pub loopback_exempt: bool,
    /// Whether relays may be dialled at private and loopback addresses, and are free of bounds that go by host and port.
    pub private_relays_exempt: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            relays_max: 1024,
            relays_per_repo_max: 16,
            event_bytes_max: 196_608,
            filter_values_max: 100,
            consolidate_above_filters: 70,
            clients_max: 512,
            buffers_bytes: 32 << 20,
            clients_per_address: 32,
            author_events_max: 100_000,
            author_bytes_max: 256 << 20,
            author_repos_max: 1_000,
            repo_events_max: 1_000_000,
            repo_bytes_max: 2_048 << 20,
            store_bytes_max: 0,
            disk_free_bytes_min: 256 << 20,
            loopback_exempt: true,
            private_relays_exempt: false,
        }
    }
}

/// Durations that the configuration may set, table `[timing]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Length of the batching window (spec section 4).
    pub batch_window: Duration,
    /// Subtracted from every `since`, in seconds (spec section 2).
    pub overlap_secs: u64,
    /// Time between full catch-ups with one relay.
    pub daily_catchup: Duration,
    /// First delay after a failure; doubles with each further one.
    pub backoff_base: Duration,
    /// Largest delay while a relay is not dead.
    pub backoff_max: Duration,
    /// Time without a success after which a relay is dead.
    pub dead_after: Duration,
    /// Time between tries of a dead relay.
    pub dead_retry: Duration,
    /// Silence kept after a relay said that it limits our rate.
    pub rate_limit_cooldown: Duration,
    /// Life after which a connection counts as a success even before layer 1 has ended.
    pub stable_after: Duration,
    /// Deadline for resolving, TCP, TLS and WebSocket together.
    pub connect_timeout: Duration,
    /// Silence after which a sweep has failed.
    pub sweep_timeout: Duration,
    /// Silence on a link after which it is pinged.
    pub ping: Duration,
    /// Silence after a ping after which the link is closed.
    pub pong_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            batch_window: Duration::from_secs(5),
            overlap_secs: 900,
            daily_catchup: Duration::from_secs(86_400),
            backoff_base: Duration::from_secs(5),
            backoff_max: Duration::from_secs(3_600),
            dead_after: Duration::from_secs(86_400),
            dead_retry: Duration::from_secs(86_400),
            rate_limit_cooldown: Duration::from_secs(65),
            stable_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(30),
            sweep_timeout: Duration::from_secs(60),
            ping: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(30),
        }
    }
}

// Links.

/// Bytes in which JSON may write one byte of an event, as in `\u0041`. An event that travels in so many times the bytes of
/// the largest is refused unread (`event_too_large`), as is a longer line of an import.
pub const EVENT_ESCAPE_BYTES_MAX: usize = 6;
/// Bytes of one WebSocket message of a client, and of one that we send. Beyond: the link is closed with 1009.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes read from one link's socket since its last whole message, control frames left out: a message in the smallest
/// of fragments fits. Beyond: as for a message that is too large.
pub const MESSAGE_WIRE_BYTES_MAX: usize = 4 << 20;
/// Bytes waiting to be written to one link. Beyond: the link is closed (`out_buffer_full`).
pub const LINK_OUT_BYTES_MAX: usize = 4 << 20;
/// Bytes that each link may hold without using the memory that all links share.
pub const LINK_OWN_BYTES: usize = 64 << 10;
/// What a link holds is told to that memory in steps of so many bytes.
pub const LINK_HOLD_STEP_BYTES: usize = 16 << 10;
/// Bytes waiting to be written to one link. Beyond: it is not read until some of them have gone out.
pub const LINK_UNSENT_BYTES_MAX: usize = 256 << 10;
/// Bytes of a frame from which on a link is read no further than the ends of frames, so that its memory can be given back.
pub const LINK_LARGE_FRAME_BYTES: usize = 16 << 10;
/// Time from the first byte of a message to its last. After: the link is closed with 1008
/// (`grasp_sync_links_closed_total{reason="message_timeout"}`).
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of tungstenite's eager read buffer, one per link.
pub const LINK_READ_BUFFER_BYTES: usize = 8 << 10;
/// Bytes gathered before a write is tried without a flush.
pub const LINK_WRITE_BUFFER_BYTES: usize = 16 << 10;
/// Bytes of memory for what is to be written that one link keeps when all of it has gone out.
pub const LINK_OUT_BYTES_KEPT: usize = 2 << 10;
/// Bytes of pings, pongs and close frames that wait behind that. Beyond: the last pong alone.
pub const LINK_CONTROL_BYTES_MAX: usize = 4 << 10;
/// Messages read from one link in one turn of the loop; the rest waits on the ready list.
pub const LINK_READS_PER_TURN: usize = 64;
/// Bytes read from one link's socket in one turn of the loop; the rest waits on the ready list.
pub const LINK_READ_BYTES_PER_TURN: usize = 256 << 10;
/// Time that reading one link takes in one turn of the loop, the work on its last message left out: less where many are
/// ready, so that all of them are read in [`READ_TIME_PER_TURN`]. The rest waits on the ready list.
pub const LINK_READ_TIME_PER_TURN: Duration = Duration::from_millis(3);
/// Time that reading all links takes in one turn of the loop, likewise; the links behind wait on the ready list.
pub const READ_TIME_PER_TURN: Duration = Duration::from_millis(3);
/// Time of a processor by which one connection may be ahead of its share and is driven next all the same, before those that
/// have taken more.
pub const LINK_AHEAD_TIME: Duration = Duration::from_millis(2);
/// Microseconds of a processor of which a quarter counts, each time that a connection is driven.
pub const LINK_CHEAP_MICROS: u64 = 300;
/// Messages read from all links in one turn of the loop; the links behind wait on the ready list.
pub const READS_PER_TURN: usize = 512;
/// Time that one turn of the loop should take at most, commits left out. Beyond: it is counted as slow.
pub const TURN_SLOW: Duration = Duration::from_millis(50);
/// Time for the closing handshake of a link. After: the socket is dropped.
pub const LINK_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one WebSocket message of a relay: the largest frame of a reconciliation (NIP-77) that relays are known to send
/// is 1 MiB, twice that in hexadecimal. Beyond: the link is closed with 1009. One that is not whole yet is held in
/// memory, for every relay at worst.
pub const RELAY_MESSAGE_BYTES_MAX: usize = 9 << 18;
/// Addresses of one relay that are tried; the rest is ignored.
pub const DIAL_ADDRESSES_MAX: usize = 8;
/// Time for one address to take a TCP connection while there are others to try. After: the next one.
pub const DIAL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two readings of the resolver's files, which follow on a name that no server answered for.
pub const RESOLVER_RELOAD_MIN: Duration = Duration::from_secs(60);
/// Time for a relay to answer with its NIP-11 document once it is connected. After: it has none.
pub const INFO_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a NIP-11 document. Beyond: the relay has none (`grasp_sync_relay_info_total{result="too_large"}`).
pub const INFO_BYTES_MAX: usize = 64 << 10;
/// Bytes of the line that begins a chunk of such an answer. Beyond: the relay has no document. With it, what is read of
/// one answer is bounded too, however little each chunk carries.
pub const HTTP_CHUNK_LINE_BYTES_MAX: usize = 64;
/// TLS sessions kept to be resumed; beyond, the oldest is forgotten and its relay gets a full handshake.
pub const TLS_SESSIONS_MAX: usize = 128;
/// Files that are neither links nor those of who comes in nor questions to name servers: the store, the log, the poll, the
/// doors, and links that are being closed. See [`crate::io::files`].
pub const OWN_FILES_MAX: usize = 64;
/// Bytes of the head of an HTTP request. Beyond: 431 and close.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 << 10;
/// Header lines of an HTTP request. Beyond: likewise.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Bytes of a PROXY protocol header of a trusted proxy. Beyond: 400 and close (`grasp_sync_proxy_headers_refused_total`).
pub const PROXY_HEADER_BYTES_MAX: usize = 4 << 10;
/// Addresses in `X-Forwarded-For` that are looked at, from the last. Beyond: if all of these are trusted proxies, the first
/// of them counts as the client.
pub const FORWARDED_HOPS_MAX: usize = 16;
/// Bytes of the head of an answer to what we ask over HTTP, with those of the interim answers before it: a relay behind a
/// proxy that sets many cookies and policies sends 9 KiB. Beyond: no link and no document
/// (`grasp_sync_links_closed_total{reason="head_too_large"}`).
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 << 10;
/// Header lines of one such answer. Beyond: likewise.
pub const ANSWER_HEADERS_MAX: usize = 256;
/// Longest time for which a relay that answers 429 or 503 is left alone because its `Retry-After` says so. Beyond: it is
/// dialled after this time.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Time for an HTTP request head to arrive. After: close.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for an HTTP response to be taken and the peer to hang up. After: close.
pub const HTTP_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a listener rests after the system had no socket to give; callers wait in the kernel.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// A last commit that took longer than this makes `/health` answer 503.
pub const HEALTH_COMMIT_MAX: Duration = Duration::from_secs(10);
/// Connections taken from one listener in one turn; the rest waits in the kernel.
pub const ACCEPTS_PER_TURN: usize = 32;
/// Connections of one listener that have not yet become a client link or been answered. Beyond: the account that has most of
/// them loses its oldest (`grasp_sync_connections_refused_total`).
pub const HTTP_PENDING_MAX: usize = 256;
/// The same of one account. Beyond: it loses its oldest (likewise).
pub const HTTP_PENDING_PER_ACCOUNT: usize = 16;
/// Documents of the admin listener, `/metrics` and `/status.json`, that were not taken. Beyond: the oldest is dropped, with
/// its connection (likewise).
pub const ADMIN_DOCUMENTS_MAX: usize = 4;
/// Time between the first signal and exit (spec section 12).
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

// The outgoing side: what we put on one relay. Where the relay's own limits are told or learned, those hold instead.

/// Bytes of a challenge (NIP-42). Longer ones are not answered.
pub const AUTH_CHALLENGE_BYTES_MAX: usize = 512;
/// Bytes of the file with our secret key. Beyond: exit status 2.
pub const AUTH_KEY_FILE_BYTES_MAX: usize = 1_024;
/// Subscriptions open on one relay that has not said how many it allows, sweeps included.
pub const RELAY_SUBSCRIPTIONS_UNTOLD: usize = 10;
/// Subscriptions open on any relay, whatever it says.
pub const RELAY_SUBSCRIPTIONS_MAX: usize = 256;
/// Subscriptions that are kept free of live ones, for sweeps.
pub const LIVE_SUBSCRIPTIONS_RESERVE: usize = 2;
/// Bytes of live REQs that one relay may have left unanswered. Beyond: the next waits for an EOSE.
pub const LIVE_REQ_BYTES_IN_FLIGHT: usize = 1 << 20;
/// Sweeps in flight on one relay.
pub const SWEEPS_IN_FLIGHT_MAX: usize = 4;
/// Events that are not ours, for each of ours, that a relay which is followed by time alone may hold. Beyond: it is followed
/// in chunks, part of them polled.
pub const UNFILTERED_FOREIGN_PER_OWN_MAX: u64 = 10;
/// Events that are not ours below which their share says nothing.
pub const UNFILTERED_FOREIGN_MIN: u64 = 1_000;
/// Filters in one REQ.
pub const REQ_FILTERS_MAX: usize = 10;
/// Bytes of one REQ to a relay that has not said what it takes: 90 % of the 128 KiB that the strictest common relay does.
pub const REQ_BYTES_UNTOLD: usize = 131_072 / 10 * 9;
/// Bytes of one REQ, whatever the relay says: 90 % of 512 KiB, the most that several take.
pub const REQ_BYTES_TOLD_MAX: usize = 524_288 / 10 * 9;
/// Bytes of one REQ that every relay is supposed to take: three filters with the longest of identifiers.
pub const REQ_BYTES_MIN: usize = 16 << 10;
/// Values in one tag list of one filter where larger filters carry more: some relays count the bytes of a list in 16
/// bits.
pub const FILTER_VALUES_WIDE_MAX: usize = 900;
/// Smallest `limit` that a relay which refuses large ones is asked for.
pub const PAGE_LIMIT_MIN: usize = 20;
/// Bytes of a refusal that are read for what it means; the words that count come first.
pub const REFUSAL_BYTES_READ: usize = 256;
/// Time for which what a relay's refusals have taught is believed. After: it is tried anew, for relays are upgraded.
pub const LEARNED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// `limit` that a sweep asks for in one page.
pub const SWEEP_PAGE_LIMIT: usize = 500;
/// `limit` of a page of layer 1 on a relay that has closed one with the usual limit: some take a filter of kinds alone
/// for a scraper's unless it asks for no more than this.
pub const SWEEP_PAGE_LIMIT_SMALL: usize = 100;
/// Ids of one second that a sweep keeps to tell new ones from those it had. Beyond: the sweep has failed.
pub const SWEEP_BOUNDARY_IDS_MAX: usize = 65_536;
/// Pages of one sweep. Beyond: the sweep has failed (`pages_exceeded`).
pub const SWEEP_PAGES_MAX: usize = 20_000;
/// Events in one page of a sweep. Beyond: the sweep has failed (`flood`); no relay we know sends more than asked.
pub const SWEEP_PAGE_EVENTS_MAX: usize = 5_000;
/// A page of one second with at least this many events may have hit the relay's cap; the smallest caps seen are 60.
pub const SWEEP_FULL_PAGE_MIN: usize = 20;
/// Events of a page that may have been cut though nothing says so: no relay gives fewer at once unless it says so.
pub const SWEEP_CAP_MIN: usize = 5;
/// Questions of one link that are split by time, because of events that cannot be placed. Beyond: a gap. One such place
/// in fifty years is found with 31.
pub const SWEEP_TIME_SPLITS_MAX: usize = 1_024;
/// Repos on the page at the own relay's address.
pub const PAGE_REPOS_MAX: usize = 8;
/// Characters of a repo's name, and of its description, on that page. Beyond: cut off.
pub const PAGE_TEXT_CHARS_MAX: usize = 80;
/// Bytes of the identifier of a repo there. Beyond: it is not listed.
pub const PAGE_IDENTIFIER_BYTES_MAX: usize = 100;
/// Bytes of that page, whatever is announced.
pub const PAGE_BYTES_MAX: usize = 20_000;
/// Announcements that are looked at for it: those that were replaced, or name no repo of ours, are passed over.
pub const PAGE_CANDIDATES_MAX: usize = 200;

/// Time for which a page is held open after EOSE, to see whether a relay says it too early.
pub const LATE_PROBE: Duration = Duration::from_secs(1);
/// Time for which a relay is believed to send everything before EOSE; then a full catch-up looks at it again.
pub const PUNCTUAL_FOR: Duration = Duration::from_secs(20 * 3_600);
/// Events of a page that is held open for that, by its EOSE, from which it shows that the relay is punctual. Of fewer, nothing
/// may be missing but what the relay sends first; so many such pages are held open all the same.
pub const LATE_PROBE_EVENTS: usize = 3;
/// Silence after which a page is over, after EOSE, of a relay that says it too early.
pub const LATE_WAIT: Duration = Duration::from_secs(2);
/// Age from which an event that comes after EOSE was stored before, and is not news.
pub const LATE_AGE_SECS: u64 = 60;
/// Pages of one link that are remembered after their EOSE, to tell what comes for them too late.
pub const LATE_PAGES_MAX: usize = 64;
/// Gaps of one relay that are kept and listed. Beyond: the oldest is listed no more; all are counted.
pub const GAPS_MAX: usize = 32;
/// Links that the search for what ends a link may cost. Beyond: all that has not been ruled out is the gap.
pub const DETOUR_LINKS_MAX: u32 = 14;
/// Parts into which a question that ends a link is cut at once.
pub const DETOUR_PARTS_MAX: usize = 32;
/// Questions to come of one relay that `/status.json` lists. Beyond: they are left out.
pub const EXPLAIN_LINES_MAX: usize = 20;
/// Wait before a place whose answer ended the link is asked about again.
pub const GAP_RETRY_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Pages an hour of one relay that bring nothing new. Beyond: the next waits until enough of it has come back; what is live
/// goes on.
pub const UNPRODUCTIVE_PAGES_HOURLY: u64 = 36_000;
/// Bytes an hour that one relay may send in answer to pages of events that were held already or are refused. Beyond: the
/// next page waits, as for [`UNPRODUCTIVE_PAGES_HOURLY`]. Enough for a full catch-up of 400,000 known events.
pub const UNPRODUCTIVE_BYTES_HOURLY: u64 = 512 << 20;
/// Tries of one sweep on one link. Beyond: its items stay unconfirmed until the next catch-up.
pub const SWEEP_ATTEMPTS_MAX: u32 = 3;
/// Wait before a failed sweep is tried again on the same link.
pub const SWEEP_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Wait before a full catch-up that ended incomplete is tried again on the same link.
pub const FULL_CATCHUP_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Bytes a second of REQs that polls may cost one relay: many units are polled more slowly, never more heavily.
pub const POLL_BYTES_PER_SEC: usize = 32 << 10;
/// Seconds before its last poll from which a unit is asked for by a quick one; once per overlap it is asked for
/// since the overlap.
pub const QUICK_POLL_OVERLAP_SECS: u64 = 60;
/// Shortest time between two polls of one unit.
pub const POLL_PERIOD: Duration = Duration::from_secs(60);
/// Longest and usual time between the beginnings of two audits (spec section 6) by pages: what they find is here within
/// four hours, with a quarter of an hour for the audit itself.
pub const AUDIT_PERIOD_MAX: Duration = Duration::from_secs(225 * 60);
/// The same where the relay reconciles: within an hour.
pub const AUDIT_PERIOD_RECONCILED: Duration = Duration::from_secs(50 * 60);
/// Seconds before the last audit from which one by pages asks. What is dated further back when it comes to a relay waits
/// for the full catch-up. What was created since then is downloaded again each time.
pub const AUDIT_LOOK_BACK_SECS: u64 = 4 * 3_600;
/// The same where the relay reconciles: what is held costs only ids there.
pub const AUDIT_LOOK_BACK_RECONCILED_SECS: u64 = 86_400;
/// Time over which the audits of several links begin that were due when the process started.
pub const AUDIT_SPREAD: Duration = Duration::from_secs(120);
/// Age in seconds up to which audits ask what tags an event; for older ones the full catch-up does.
pub const AUDIT_THREAD_SECS: u64 = 30 * 86_400;
/// Events about which one audit asks what tags them. Beyond: the full catch-up does (`grasp_sync_audit_left_out_total`).
pub const AUDIT_THREAD_IDS_MAX: usize = 65_536;
/// Authors about whose deletions one audit asks. Beyond: as for [`AUDIT_THREAD_IDS_MAX`].
pub const AUDIT_AUTHORS_MAX: usize = 10_000;
/// Index entries that are looked at to find what tags one chunk of repos or root events. Beyond: nothing is asked about what
/// tags that (`grasp_sync_audit_left_out_total`).
pub const THREAD_ENTRIES_MAX: usize = 1 << 20;
/// Such looks for one full catch-up in one turn of the loop; then comes a pause, for the loop does nothing else meanwhile.
pub const THREAD_LOOKUPS_AT_ONCE: usize = 8;
/// See [`THREAD_LOOKUPS_AT_ONCE`].
pub const THREAD_LOOKUP_PAUSE: Duration = Duration::from_millis(10);
/// Repos and root events of which relays are told in one turn of the loop, once a window has closed. At this: the next
/// relay is told in the next turn.
pub const NEWS_STEP_ITEMS: usize = 2_000;
/// Repos and root events of which one relay is told at once. Beyond: it is told of the others in the next turn, as of
/// another window.
pub const NEWS_PART_ITEMS: usize = 16_000;
/// Authors looked up in one go, for the relays that ask about deletions; then comes a pause of [`LOOKUP_PAUSE`].
pub const AUTHORS_PER_LOOKUP: usize = 4_000;
/// See [`AUTHORS_PER_LOOKUP`].
pub const LOOKUP_PAUSE: Duration = Duration::from_millis(10);
/// Index entries looked at in one go for a set of ids, or for what tags a chunk; then comes a pause of [`LOOKUP_PAUSE`].
pub const SEARCH_STEP_ENTRIES: usize = 20_000;
/// The same in the first go, which comes at once: most sets are found by it.
pub const SEARCH_FIRST_ENTRIES: usize = 5_000;
/// Shortest time between two audits, on a relay that keeps missing something.
pub const AUDIT_PERIOD_MIN: Duration = Duration::from_secs(900);
/// Time after which a relay that refuses to answer us at all (it wants us to authenticate, or restricts itself to others)
/// is tried again.
pub const REFUSED_RETRY_AFTER: Duration = Duration::from_secs(86_400);
/// Events on one link that nothing was asked for, in parts per hundred of all, that cost it; below
/// [`UNASKED_EVENTS_MIN`] events none do.
pub const UNASKED_PERCENT_MAX: u64 = 50;
/// See [`UNASKED_PERCENT_MAX`].
pub const UNASKED_EVENTS_MIN: u64 = 1_000;
/// Frames from one relay that bring nothing (pings, nonsense, challenges, NOTICEs, events for no subscription) in
/// [`USELESS_FRAMES_PERIOD`]. Beyond: the link is closed with 1008 (`flood`). What is under way of a few closed pages is
/// less.
pub const USELESS_FRAMES_MAX: u32 = 50_000;
/// Such frames that a live event counts for whose signature was verified, and that was refused: what it costs us. Honest
/// relays are asked live for little else than what is taken in.
pub const VAIN_EVENT_FRAMES: u32 = 10;
/// Bytes that such an event of a page counts for at least, as for [`UNPRODUCTIVE_BYTES_HOURLY`].
pub const VAIN_EVENT_BYTES: usize = 2 << 10;
/// Live events in [`USELESS_FRAMES_PERIOD`] whose id or signature is wrong, up to which a relay keeps its link whatever else it
/// sends. Beyond, if they are more than [`FORGED_PERCENT_MAX`] of all: the link is closed with 1008 (`forged`).
pub const FORGED_EVENTS_MAX: u64 = 100;
/// See [`FORGED_EVENTS_MAX`].
pub const FORGED_PERCENT_MAX: u64 = 50;
/// See [`USELESS_FRAMES_MAX`].
pub const USELESS_FRAMES_PERIOD: Duration = Duration::from_secs(60);
/// Relays whose deadlines are acted on in one turn of the loop. Beyond: in the next turn, which comes at once.
pub const RELAYS_PER_TICK: usize = 16;
/// Time for which a relay is not asked again what it says of itself, whether it answered or not. An hour less than a
/// day, so that it is due whenever the daily turn is.
pub const INFO_PERIOD: Duration = Duration::from_secs(23 * 3_600);
/// Seconds that the wall clock must gain on the monotonic one between two frames for the machine to have slept.
pub const SLEEP_SECS_MIN: u64 = 10;
/// Time after a sleep for what was sent before it to be read; until then `through` stands still.
pub const BACKLOG_READ_WITHIN: Duration = Duration::from_secs(60);
/// Longest time that a moved `through` waits for an event to be committed with.
pub const THROUGH_SAVE_AFTER: Duration = Duration::from_secs(300);

/// Seconds by which a recorded moment may lie ahead of the wall clock, which may be corrected a little. Beyond: the clock
/// was wrong, and the relay gets a full catch-up.
pub const CLOCK_SLACK_SECS: u64 = 900;
/// Relays whose failures are remembered though no repo needs them now. Beyond: the one that may be tried soonest is
/// forgotten.
pub const FORGOTTEN_RELAYS_MAX: usize = 1_024;

// Isolation (spec section 16).

/// Functions named in the log for one fault. Those further out are left out.
pub const FAULT_FRAMES_MAX: usize = 12;
/// Faults whose functions are looked up, which takes long. Beyond: the log has their place alone.
pub const FAULT_BACKTRACES_MAX: u32 = 100;
/// Characters of a fault's message in the log. The rest is left out.
pub const FAULT_MESSAGE_CHARS_MAX: usize = 500;

// Our own outage (spec section 7).

/// Hosts that must have given no sign of life since anybody has, for silence to count as an outage of our own; of fewer it
/// is their fault.
pub const OUTAGE_HOSTS_MIN: usize = 3;
/// Hosts remembered that have given no sign of life since anybody has. Beyond: the next is not noted.
pub const OUTAGE_HOSTS_MAX: usize = 4_096;
/// Wait between the first two probes of an outage; each further wait is twice as long
/// (`grasp_sync_offline_probes_total`).
pub const PROBE_WAIT_MIN: Duration = Duration::from_secs(5);
/// Longest wait between two probes of an outage.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);
/// After so many probes there is one more of a relay that was failing before, in half the time: those that stood well
/// may be gone for good.
pub const PROBES_PER_DOUBTFUL: u64 = 8;

// Places (spec section 16).

/// URLs of one host and port that are followed; bootstrap relays are not among them. Beyond: not followed
/// (`grasp_sync_relays_refused_total{reason="host"}`).
pub const HOST_URLS_MAX: usize = 4;
/// Relays followed that one author alone lists. Beyond: not followed (`grasp_sync_relays_refused_total{reason="author"}`).
pub const AUTHOR_RELAYS_MAX: usize = 32;
/// Relays of one author that come before the next so many of any other, where there are more than `limits.relays_max`.
pub const AUTHOR_SHARE_STEP: usize = 4;
/// Time for which a relay that is not reached keeps its place while others wait for one.
pub const PLACE_KEPT_FOR: Duration = Duration::from_secs(86_400);
/// Time between two looks who is to have a place, while somebody waits for one.
pub const PLACES_PERIOD: Duration = Duration::from_secs(5);
/// Relays that are looked at in one turn of the loop to find who is to have a place. Beyond: the rest waits for the next.
pub const PLACES_STEP: usize = 2_000;
/// Relays that are looked at in one go of that.
pub const PLACES_PART: usize = 500;
/// Records of relays that are not followed which one commit writes. Beyond: the rest waits for the next.
pub const RECORDS_PER_BATCH: usize = 4_000;
/// Relays that wait for a place and are named in the status. Beyond: counted alone.
pub const WAITING_NAMED_MAX: usize = 1_024;
/// Links to one resolved address, an IPv6 network (`/64`) being one, with those being dialled and closed. Beyond: the next
/// dial fails (`grasp_sync_links_closed_total{side="relay",reason="address_full"}`).
pub const ADDRESS_LINKS_MAX: usize = 16;
/// Dials of relays in a second, with the questions what they say of themselves (NIP-11). Beyond: the next waits for its turn
/// (`grasp_sync_queue_depth{queue="dials"}`).
pub const DIALS_PER_SEC: u64 = 50;
/// Time from one dial of a host and port to the next: a second, and by how much a dial may come late. Sooner: the next waits
/// for its turn.
pub const HOST_DIAL_PERIOD: Duration = Duration::from_millis(1_050);

// Idle proxies (spec section 7).

/// Least silence before a link was dropped that may be the doing of an idle proxy. Below: the drop counts as any other.
pub const IDLE_SILENCE_MIN: Duration = Duration::from_secs(6);
/// Two such silences count as the same if they differ by no more than this or a tenth.
pub const IDLE_SILENCE_SLACK: Duration = Duration::from_secs(2);
/// Shortest time between two pings that keep a link open through an idle proxy.
pub const IDLE_PING_MIN: Duration = Duration::from_secs(5);

// Reconciliation (NIP-77).

/// Bytes of one step that we send, before hexadecimal doubles them: some relays take no longer message.
pub const RECONCILE_FRAME_BYTES: u64 = 60_000;
/// Bytes of a list of ids that no relay has cut to fit a frame: the protocol's smallest frame has 4,096, and
/// implementations stop 200 before its end.
pub const RECONCILE_UNCUT_BYTES: usize = 3_800;
/// Reconciliations open on one relay that has shown that it reconciles; one until then.
pub const RECONCILIATIONS_MAX: usize = 4;
/// Ids that all reconciliations hold in memory. Beyond: the question is asked by pages (`no_room`).
pub const RECONCILE_IDS_MAX: usize = 1 << 20;
/// For so long what is held about some root events is not looked up again for another letter, or another relay: what has
/// come since costs a few bytes on the wire.
pub const SET_KEPT_FOR: Duration = Duration::from_secs(10);
/// Chunks of root events of which it is kept.
pub const SETS_KEPT_MAX: usize = 16;
/// Ids for which it is kept: beyond, it is looked up anew each time.
pub const SET_KEPT_IDS_MAX: usize = 1_024;
/// Ids found by one reconciliation that wait to be fetched. Beyond: they are fetched before it goes on.
pub const RECONCILE_NEEDED_MAX: usize = 16_384;
/// Events fetched by one reconciliation that were refused. Beyond: the question is asked by pages (`endless`).
pub const RECONCILE_USELESS_MAX: usize = 65_536;
/// Messages of a relay in one pass of a reconciliation. Beyond: the question is asked by pages (`endless`).
pub const RECONCILE_MESSAGES_MAX: usize = 1_024;
/// Passes of one reconciliation. Beyond: the question is asked by pages (`endless`).
pub const RECONCILE_PASSES_MAX: usize = 128;
/// Ids in one REQ.
pub const FETCH_IDS_MAX: usize = 250;
/// Ids in one REQ to a relay that answers more of them with little or nothing.
pub const FETCH_IDS_MIN: usize = 25;
/// Failures in a row of a relay that reconciles, after which it counts as one that does not.
pub const NEGENTROPY_STRIKES_MAX: u8 = 3;
/// Time after which a relay that did not reconcile is asked once more.
pub const NEGENTROPY_RETRY_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Time after which a full catch-up is done by pages all the same: they find what a peer's reconciling loses.
pub const FULL_BY_PAGES_EVERY: Duration = Duration::from_secs(7 * 86_400);
/// Ids remembered that some relay was found to have and is to be asked for. Beyond: the oldest is forgotten, and may be
/// fetched from two relays.
pub const CLAIMED_IDS_MAX: usize = 16_384;
/// Time after which such a claim counts no more: the relay that was asked is slow, or gone.
pub const CLAIM_HOLDS_FOR: Duration = Duration::from_secs(10);
/// Wait before it is looked whether what is fetched from another relay has come; each further wait is twice as long.
pub const ELSEWHERE_FIRST_LOOK: Duration = Duration::from_millis(25);
/// Longest such wait. Beyond: it is fetched from this relay, too.
pub const ELSEWHERE_WAIT_MAX: Duration = Duration::from_millis(1_000);
/// Ids remembered of one relay that it lists and does not serve. Beyond: they are asked for every time.
pub const UNSERVED_IDS_MAX: usize = 1_024;
/// Ids of refused events remembered so that no reconciliation fetches them again. Beyond: the oldest is forgotten.
pub const UNWANTED_IDS_MAX: usize = 65_536;
/// Counters of what is taken in, by what an unrelated event may hang on. Where two share one, a refused event is fetched
/// once more for nothing.
pub const UNWANTED_COUNTERS: usize = 1 << 14;

// Intake and store.

/// Seconds by which `created_at` may lie ahead of the wall clock (spec section 8).
pub const FUTURE_SECS_MAX: u64 = 900;
/// Events that one refers to, each once, of which it is looked whether they belong here, so that it may hang on one (spec
/// section 8). Beyond: they do not count (`unrelated`).
pub const THREAD_PARENTS_MAX: usize = 16;
/// Index entries that the judgement of one event looks at to find whether a root event or an announcement tags it. Beyond:
/// it counts as untagged, and the next judgement of the same event goes on from there.
pub const TAGGED_CANDIDATES_MAX: usize = 4_000;
/// Events of which it is remembered how far that has come. Beyond: the one judged longest ago begins anew.
pub const TAGGED_SEARCHES_MAX: usize = 1_024;
/// Events in one batch. At this: commit. More would keep the loop too long, and take longer to come than a batch may wait.
pub const BATCH_EVENTS_MAX: usize = 4_000;
/// Bytes of events in one batch. At this: commit.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Age of the oldest event in a batch. At this: commit.
pub const BATCH_AGE_MAX: Duration = Duration::from_millis(200);
/// Commits may take one part in this many of recent time before a batch has to wait for its age or size.
pub const COMMIT_SHARE: u64 = 10;
/// The same while a client waits for the batch, whether or not there is more to read.
pub const AWAITED_COMMIT_SHARE: u64 = 4;
/// Authors whose public key is kept ready for verification. Beyond: the oldest is forgotten and found again.
pub const AUTHOR_KEYS_MAX: usize = 2_048;
/// Events looked at in one turn of the loop for those that tag a repo whose announcement came after them. Beyond: the next
/// turn goes on, and at the end relays are asked about the repo anew.
pub const ADOPTION_STEP_CANDIDATES: usize = 1_000;
/// Repos of one identifier about which relays are asked once more by one window, because somebody became invited or confirmed.
/// Beyond: the next windows have the rest.
pub const REQUERIED_REPOS_MAX: usize = 500;
/// Ids refused for good that are remembered in memory. Beyond: the oldest is forgotten and judged again.
pub const REFUSED_IDS_MAX: usize = 65_536;
/// Events that have expired and wait to be removed, of which it is made sure that no set of ids has them.
pub const EXPIRED_LEFT_OUT_MAX: usize = 4_096;
/// Shortest time between two looks for events that have expired (NIP-40). Until then queries skip them.
pub const EXPIRY_PERIOD: Duration = Duration::from_secs(60);
/// Events removed by one look for expired ones; the rest waits for the next.
pub const EXPIRY_BATCH: usize = 1_000;
/// Time between two looks at the disk while there is no room on it.
pub const ROOM_LOOK_PERIOD: Duration = Duration::from_secs(5);
/// Wait before what found no room on the disk is written again, although there seems to be some; doubles each time.
pub const ROOM_RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest such wait: each try that fails has the store opened anew.
pub const ROOM_RETRY_MAX: Duration = Duration::from_secs(600);
/// By one part in so many the disk must have more free than it must, before something is stored again.
pub const DISK_FREE_MARGIN: u64 = 4;
/// By one part in so many the store must be smaller than it may, likewise.
pub const STORE_MARGIN: u64 = 16;
/// Index entries of committed events that wait in memory to be written together: some 8 an event, 50 bytes each. At
/// this: the next commit writes the index for which most waits.
pub const STORE_MEMTABLE_MAX: usize = 80_000;
/// Ids remembered that the store lacks, 33 bytes each. Beyond: they are looked up again.
pub const STORE_NEGATIVE_CACHE_IDS: usize = 8_192;
/// Bytes of one event that a salvage finds in a damaged file: twice what `limits.event_bytes_max` allows. Beyond: it counts
/// as lost.
pub const SALVAGE_EVENT_BYTES_MAX: usize = 2_000_000;
/// Bytes of memory for writing one event that are kept for the next.
pub const SCRATCH_BYTES_KEPT: usize = 16 << 10;
/// Default bytes of the store's cache.
pub const STORE_CACHE_BYTES: usize = 16 << 20;
/// Candidates that one query may look at in one turn; the rest waits for the next.
pub const QUERY_STEP_CANDIDATES: usize = 1_000;

/// Bytes of an event that count as one candidate more: it has to be read to see whether it matches.
pub const QUERY_CANDIDATE_BYTES: usize = 1 << 10;
/// Values of a filter that count as one candidate each time that a query begins or goes on: each is looked up in an index.
pub const QUERY_CANDIDATE_VALUES: usize = 2;

// The own relay.

/// Candidates that one REQ of a client may have looked at. Beyond: CLOSED, with what was found until then sent
/// (`grasp_sync_messages_refused_total{reason="long_scan"}`). Some seconds of our time: a filter that means something to an
/// index needs a hundredth.
pub const CLIENT_SCAN_CANDIDATES_MAX: usize = 1_000_000;
/// Subscriptions of one client. Beyond: CLOSED.
pub const CLIENT_SUBSCRIPTIONS_MAX: usize = 64;
/// Filters in one client's REQ. Beyond: CLOSED.
pub const CLIENT_FILTERS_MAX: usize = 20;
/// Characters of a subscription id (NIP-01). Beyond: NOTICE.
pub const SUBSCRIPTION_ID_CHARS_MAX: usize = 64;
/// Values over all lists of one client's filter. Beyond: CLOSED.
pub const CLIENT_FILTER_VALUES_MAX: usize = 2_000;
/// Stored events that one filter of a client gets at most, asked for or not (NIP-11 `max_limit`).
pub const QUERY_LIMIT_MAX: usize = 500;
/// Bytes of stored events put into one client's link before it must have drained.
pub const CLIENT_PAGE_BYTES: usize = 64 << 10;
/// Bytes on one client's link up to which a live event is put there at once. Beyond: it waits as a sequence number, and is
/// read from the store again.
pub const CLIENT_LIVE_BYTES: usize = 128 << 10;
/// Candidates that one client's query may look at before the next client has its turn.
pub const CLIENT_STEP_CANDIDATES: usize = 100;
/// Candidates by which one client may be ahead of its share and is next all the same.
pub const CLIENT_AHEAD_CANDIDATES: u64 = 200;
/// Candidates that such a turn counts for at least.
pub const CLIENT_STEP_CANDIDATES_MIN: usize = 20;
/// Live events that wait, as sequence numbers, for one client to read on. Beyond: the client is closed with 1013
/// (`grasp_sync_clients_closed_total{reason="slow"}`).
pub const CLIENT_HELD_EVENTS_MAX: usize = 32_768;
/// EVENTs of one address. Beyond: OK false, `rate-limited:`.
pub const EVENT_RATE: Rate = Rate::per_second(50, 5_000);
/// Events that one author has clients publish, in repos whose maintainer he is not. Beyond: OK false, `rate-limited:`.
pub const AUTHOR_RATE: Rate = Rate::per_second(20, 2_000);
/// REQs of one address. Beyond: CLOSED, `rate-limited:`.
pub const REQ_RATE: Rate = Rate::per_second(50, 2_000);
/// Connections of one address to one of our listeners. Beyond: closed at once (`grasp_sync_connections_refused_total`).
pub const CONNECTION_RATE: Rate = Rate::per_second(10, 256);
/// Accounts, or authors, whose rate is remembered. Beyond: those that have used least of theirs start afresh.
pub const BUCKETS_MAX: usize = 16_384;
/// Index entries that one COUNT, or the set of one reconciliation (NIP-77), may have looked at. Beyond: CLOSED, or NEG-ERR
/// with this number (`long_count`, `set_too_large`).
pub const CLIENT_ENTRIES_MAX: usize = 1_000_000;
/// Index entries that cost as much as looking at one candidate of a query.
pub const ENTRIES_PER_CANDIDATE: usize = 16;
/// COUNTs of one client that wait for their answer. Beyond: CLOSED (`too_many_counts`).
pub const CLIENT_COUNTS_MAX: usize = 16;
/// Reconciliations of one client. Beyond: NEG-ERR (`too_many_reconciliations`).
pub const CLIENT_RECONCILIATIONS_MAX: usize = 8;
/// Bytes of memory that the sets of one client's reconciliations take; of the set kept for all, only what is kept for
/// this client alone. Beyond: NEG-ERR with the number of events that would fit (`set_too_large`). They come out of the
/// memory that all links share.
pub const CLIENT_SETS_BYTES_MAX: usize = 16 << 20;
/// Silence in a reconciliation of a client after which it has ended: NEG-ERR.
pub const CLIENT_RECONCILIATION_IDLE: Duration = Duration::from_secs(60);
/// Bytes of one step of a client's reconciliation, before hexadecimal doubles them, as far as is known what it takes.
pub const CLIENT_FRAME_BYTES: usize = 60_000;
/// The same for a client that has itself sent as much.
pub const CLIENT_FRAME_BYTES_MAX: usize = 500_000;
/// Ranges in one step of a client's reconciliation. Beyond: NEG-ERR (`negentropy`). The largest message has room for fewer
/// fingerprints.
pub const CLIENT_RANGES_MAX: usize = 32_768;
/// Sets kept ready for all clients: of every event, and of some kinds.
pub const READY_SETS_MAX: usize = 2;
/// Time for which a set is kept ready after it was last asked for.
pub const READY_SET_KEPT_FOR: Duration = Duration::from_secs(600);
/// Stored and removed events that are remembered while a set is kept ready. It is brought up to date before there are more.
pub const CHANGES_KEPT_MAX: usize = 1 << 16;
/// Of these, as many as a set is brought up to date by at once.
pub const CHANGES_APPLIED_AT: usize = 8_192;
/// Bytes of memory that one client's open subscriptions take, about. Beyond: CLOSED. They come out of the memory that all
/// links share.
pub const CLIENT_BYTES_MAX: usize = 8 << 20;
/// What comparing new events with live subscriptions and sending them may cost in one turn of the loop, in lookups of a
/// value, some 50 to 100 ns each. Beyond: the rest waits for the next turn (`grasp_sync_queue_depth{queue="fan_out"}`).
pub const FANOUT_STEP_COST: u64 = 60_000;
/// Values of subscriptions that have ended which one turn of the loop takes out of what new events are compared with. Beyond:
/// the rest waits for the next turn, and is not compared with.
pub const FANOUT_LEAVING_STEP: usize = 2_000;
/// Events that wait for that, as sequence numbers. Beyond: with each commit the client for which most was compared is closed
/// with 1013 (`grasp_sync_clients_closed_total{reason="costly"}`).
pub const FANOUT_BACKLOG_MAX: usize = 20_000;

// What travels.

/// Bytes of one relay URL, as written and in its normal form. Beyond: no relay (`grasp_sync_relays_refused_total`).
pub const RELAY_URL_BYTES_MAX: usize = 512;
/// Bytes of a repo's identifier. Beyond: no repo (its announcement is malformed), so that a filter of 100 addresses
/// always fits into one REQ.
pub const IDENTIFIER_BYTES_MAX: usize = 512;
/// Repos that one root event belongs to, the first ones that its `a` tags name. Beyond: it is no root event of them, though
/// it belongs here by them; what tags it does by it.
pub const ROOT_REPOS_MAX: usize = 16;
/// Maintainers taken from one announcement, the first ones; the rest are counted
/// (`grasp_sync_maintainers_refused_total{reason="announcement"}`).
pub const MAINTAINERS_LISTED_MAX: usize = 64;
/// Maintainers of all repos of one identifier that are confirmed because they accepted; those who own one of them are not
/// among them. Beyond: they wait for a place, unconfirmed, and are counted
/// (`grasp_sync_maintainers_refused_total{reason="identifier"}`).
pub const CONFIRMED_MAX: usize = 256;

// Names.

/// Names being asked for at once; each has at most two sockets. Beyond: they queue.
pub const DNS_LOOKUPS_MAX: usize = 64;
/// Of these, names that have never had addresses. Beyond: they queue, behind those that have.
pub const DNS_STRANGERS_MAX: usize = 56;
/// Time that the lookup of such a name has to itself. After: it gives its place to one that queues (`ResolveError::Busy`).
pub const DNS_STRANGER_TIME: Duration = Duration::from_secs(1);
/// Names remembered that have had addresses. Beyond: the oldest is a stranger again.
pub const DNS_KNOWN_NAMES_MAX: usize = 4_096;
/// Lookups waiting for an answer, queued ones included. Beyond: refused at once (`ResolveError::Busy`).
pub const DNS_WAITING_MAX: usize = 4_096;
/// Names whose answer is remembered. Beyond: the one that would expire first is forgotten.
pub const DNS_CACHE_NAMES_MAX: usize = 1_024;
/// Addresses kept of one name. Beyond: the rest is ignored.
pub const DNS_ADDRESSES_MAX: usize = 16;
/// Aliases (CNAME) followed inside one answer. Beyond: the answer counts as a failure of the server.
pub const DNS_ALIASES_MAX: usize = 16;
/// Bytes of one DNS message over TCP. Beyond: the server has failed. Sixteen times what UDP carries without EDNS.
pub const DNS_MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Datagrams that answer something else than was asked. At this: the question is asked anew, from another port.
pub const DNS_STRAYS_MAX: usize = 16;
/// Shortest and longest time that an answer is remembered, whatever its TTL says.
pub const DNS_TTL_SECS_MIN: u32 = 5;
/// See [`DNS_TTL_SECS_MIN`].
pub const DNS_TTL_SECS_MAX: u32 = 86_400;
/// Time for which it is remembered that a name or its addresses do not exist.
pub const DNS_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Time that the second address family gets after the first has brought addresses.
pub const DNS_OTHER_FAMILY_WAIT: Duration = Duration::from_secs(1);
/// Servers taken from resolv.conf, the first ones (as in `resolv.conf(5)`).
pub const DNS_SERVERS_MAX: usize = 3;
/// Longest time for one try, whatever `options timeout` says.
pub const DNS_TIMEOUT_SECS_MAX: u32 = 10;
/// Most rounds over all servers, whatever `options attempts` says (as in `resolv.conf(5)`).
pub const DNS_ATTEMPTS_MAX: u32 = 5;
/// Bytes read of the hosts file and of resolv.conf. Beyond: the rest is ignored, with a warning.
pub const HOSTS_BYTES_MAX: usize = 4 << 20;
/// Names taken from the hosts file. Beyond: the rest is ignored, with a warning.
pub const HOSTS_NAMES_MAX: usize = 16_384;

const _: () = {
    assert!(LIVE_SUBSCRIPTIONS_RESERVE < RELAY_SUBSCRIPTIONS_UNTOLD);
    assert!(RELAY_SUBSCRIPTIONS_UNTOLD <= RELAY_SUBSCRIPTIONS_MAX);
    assert!(REQ_BYTES_MIN <= REQ_BYTES_UNTOLD && REQ_BYTES_UNTOLD <= REQ_BYTES_TOLD_MAX);
    // The largest REQ and all that may be unanswered leave room in the link's buffer.
    assert!(LIVE_REQ_BYTES_IN_FLIGHT + 2 * REQ_BYTES_TOLD_MAX < LINK_OUT_BYTES_MAX);
    assert!(PAGE_LIMIT_MIN >= SWEEP_FULL_PAGE_MIN);
    assert!(POLL_PERIOD.as_micros() < AUDIT_PERIOD_MIN.as_micros());
    assert!(AUDIT_PERIOD_MIN.as_micros() < AUDIT_PERIOD_RECONCILED.as_micros());
    assert!(AUDIT_PERIOD_RECONCILED.as_micros() < AUDIT_PERIOD_MAX.as_micros());
    assert!(AUDIT_LOOK_BACK_SECS <= AUDIT_LOOK_BACK_RECONCILED_SECS);
    assert!(SWEEP_FULL_PAGE_MIN <= SWEEP_PAGE_LIMIT_SMALL && SWEEP_PAGE_LIMIT_SMALL <= SWEEP_PAGE_LIMIT);
    // Three filters with one address each, every byte of its identifier escaped, and what is around them.
    assert!(3 * (6 * IDENTIFIER_BYTES_MAX + 1_024) < REQ_BYTES_MIN);
    assert!(LINK_WRITE_BUFFER_BYTES + MESSAGE_BYTES_MAX < LINK_OUT_BYTES_MAX);
    assert!(CLIENT_PAGE_BYTES <= CLIENT_LIVE_BYTES && CLIENT_LIVE_BYTES + MESSAGE_BYTES_MAX < LINK_OUT_BYTES_MAX);
    assert!(LINK_CLOSE_TIMEOUT.as_micros() < STOP_TIMEOUT.as_micros());
    assert!(LINK_READ_BYTES_PER_TURN >= LINK_READ_BUFFER_BYTES);
    assert!(LINK_LARGE_FRAME_BYTES > LINK_READ_BUFFER_BYTES && LINK_HOLD_STEP_BYTES < LINK_OWN_BYTES);
    assert!(MESSAGE_WIRE_BYTES_MAX > 3 * MESSAGE_BYTES_MAX + LINK_READ_BUFFER_BYTES);
    assert!(READS_PER_TURN >= LINK_READS_PER_TURN);
    assert!(LINK_READ_TIME_PER_TURN.as_micros() <= READ_TIME_PER_TURN.as_micros());
    assert!(READ_TIME_PER_TURN.as_micros() <= TURN_SLOW.as_micros() / 2);
    assert!(LINK_AHEAD_TIME.as_micros() < READ_TIME_PER_TURN.as_micros());
    assert!(BATCH_BYTES_MAX >= MESSAGE_BYTES_MAX);
    assert!(1 < AWAITED_COMMIT_SHARE && AWAITED_COMMIT_SHARE <= COMMIT_SHARE);
    assert!(QUERY_LIMIT_MAX >= SWEEP_PAGE_LIMIT);
    assert!(CLIENT_STEP_CANDIDATES > 0 && QUERY_STEP_CANDIDATES >= CLIENT_STEP_CANDIDATES);
    assert!(CLIENT_HELD_EVENTS_MAX >= BATCH_EVENTS_MAX);
    assert!(2 * CLIENT_FRAME_BYTES_MAX + 1_024 < MESSAGE_BYTES_MAX && CLIENT_FRAME_BYTES <= CLIENT_FRAME_BYTES_MAX);
    // One commit never changes more than is remembered.
    assert!(CHANGES_APPLIED_AT + 4 * BATCH_EVENTS_MAX < CHANGES_KEPT_MAX);
    assert!(RELAY_MESSAGE_BYTES_MAX >= MESSAGE_BYTES_MAX);
    assert!(2 * RECONCILE_FRAME_BYTES as usize + 64 < MESSAGE_BYTES_MAX);
    assert!(FETCH_IDS_MIN > 0 && FETCH_IDS_MIN <= FETCH_IDS_MAX && FETCH_IDS_MAX <= RECONCILE_NEEDED_MAX);
    assert!(RECONCILE_NEEDED_MAX <= RECONCILE_IDS_MAX);
    // A verdict names its counters by 16 bits.
    assert!(0 < UNWANTED_COUNTERS && UNWANTED_COUNTERS <= 1 << 16);
    assert!(DNS_STRANGERS_MAX < DNS_LOOKUPS_MAX && DNS_LOOKUPS_MAX < DNS_WAITING_MAX);
    // Names that hang make room as fast as relays are dialled.
    assert!(DNS_STRANGERS_MAX as u64 * 1_000_000 >= DIALS_PER_SEC * DNS_STRANGER_TIME.as_micros());
    assert!(IDLE_PING_MIN.as_micros() < IDLE_SILENCE_MIN.as_micros());
    assert!(PROBE_WAIT_MIN.as_micros() <= PROBE_WAIT_MAX.as_micros() && PROBES_PER_DOUBTFUL > 1);
    assert!(ROOM_LOOK_PERIOD.as_micros() <= ROOM_RETRY_MIN.as_micros());
    assert!(ROOM_RETRY_MIN.as_micros() < ROOM_RETRY_MAX.as_micros());
    assert!(DNS_TTL_SECS_MIN < DNS_TTL_SECS_MAX);
    assert!(0 < PLACES_PART && PLACES_PART <= PLACES_STEP);
    assert!(DIALS_PER_SEC > 1 && HOST_DIAL_PERIOD.as_micros() > 1_000_000);
};
