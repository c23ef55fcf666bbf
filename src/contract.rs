//! The words between the engine and whoever drives it: what can happen, what is wanted, and the names of links.

use std::fmt;

use crate::protocol::relay_url::RelayUrl;
use crate::shares::Account;
use crate::shares::room::Space;
use crate::time::{Duration, UnixTime};

/// Names one socket. Numbers are never used twice, so a late word about a link that is gone is recognised as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkId {
    /// A link we dialled; numbered by the engine in [`Output::Dial`].
    Relay(u64),
    /// A client that came in; numbered by the caller in [`Input::Accepted`].
    Client(u64),
}

/// Why a link ended, as far as this side can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// The name has no address, as a name server says, or is none.
    Resolve,
    /// Name servers answered, but none could say.
    NameServersFailed,
    /// No name server answered at all: this side's own fault, as far as can be told.
    NoNameServer,
    /// Every address of the name is private, and private relays are not allowed.
    PrivateAddress,
    /// Every address of the name is one on which we listen ourselves.
    OwnAddress,
    /// To every address of the name lead [`crate::limits::ADDRESS_LINKS_MAX`] links already.
    AddressFull,
    /// No address took the TCP connection, and one refused it.
    Connect,
    /// No address could even be tried: this side has no way there.
    NoRoute,
    /// TLS failed: certificate, host name or protocol.
    Tls,
    /// The WebSocket handshake was answered with something other than 101; the HTTP status, 0 if it was not HTTP.
    Handshake(u16),
    /// The same, and the answer says when to come back (RFC 9110, section 10.2.3).
    RetryAfter {
        /// The HTTP status: 429 or 503.
        status: u16,
        /// When.
        retry: RetryAfter,
    },
    /// The handshake was answered with a redirect that is not followed.
    Redirect(RedirectRefusal),
    /// The head of the answer to the handshake was longer than [`crate::limits::ANSWER_HEAD_BYTES_MAX`], or had more lines
    /// than [`crate::limits::ANSWER_HEADERS_MAX`].
    HeadTooLarge,
    /// Connecting took longer than its deadline.
    Timeout,
    /// The peer closed: its close code, or 1006 if the socket just ended.
    Peer(u16),
    /// The peer broke the WebSocket protocol.
    Protocol,
    /// A message or frame was larger than [`crate::limits::RELAY_MESSAGE_BYTES_MAX`], of a client than
    /// [`crate::limits::MESSAGE_BYTES_MAX`].
    TooLarge,
    /// A message was not whole [`crate::limits::MESSAGE_TIMEOUT`] after its first byte.
    MessageTimeout,
    /// More than [`crate::limits::LINK_OUT_BYTES_MAX`] waited to be written.
    OutBufferFull,
    /// The links' memory was used up, and this one held most of it ([`crate::shares::Pool`]).
    Memory,
    /// Reading or writing failed.
    Io,
}

/// When a relay that answers 429 or 503 says that it may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryAfter {
    /// So much later than its answer.
    Wait(Duration),
    /// At this time.
    At(UnixTime),
}

impl RetryAfter {
    /// How long that is from `now` on: nothing if it is over.
    pub fn wait(self, now: UnixTime) -> Duration {
        match self {
            RetryAfter::Wait(wait) => wait,
            RetryAfter::At(at) => Duration::from_secs(at.as_secs().saturating_sub(now.as_secs())),
        }
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RetryAfter::Wait(wait) => write!(f, "after {} s", wait.as_secs()),
            RetryAfter::At(at) => write!(f, "at {at}"),
        }
    }
}

/// Why a redirect is not followed (spec section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RedirectRefusal {
    /// The answer to a redirect was another one.
    Second,
    /// It leads to `ws`.
    Insecure,
    /// Its `Location` is missing, or no relay's.
    Location,
    /// It leads to our own service.
    Own,
}

impl fmt::Display for RedirectRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedirectRefusal::Second => "redirected a second time",
            RedirectRefusal::Insecure => "redirected to ws",
            RedirectRefusal::Location => "redirected to no relay",
            RedirectRefusal::Own => "redirected to this service",
        })
    }
}

impl CloseReason {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::Resolve => "resolve",
            CloseReason::NameServersFailed => "name_servers_failed",
            CloseReason::NoNameServer => "no_name_server",
            CloseReason::PrivateAddress => "private_address",
            CloseReason::OwnAddress => "own_address",
            CloseReason::AddressFull => "address_full",
            CloseReason::Connect => "connect",
            CloseReason::NoRoute => "no_route",
            CloseReason::Tls => "tls",
            CloseReason::Handshake(_) => "handshake",
            CloseReason::RetryAfter { .. } => "retry_after",
            CloseReason::Redirect(_) => "redirect",
            CloseReason::HeadTooLarge => "head_too_large",
            CloseReason::Timeout => "timeout",
            CloseReason::Peer(_) => "peer",
            CloseReason::Protocol => "protocol",
            CloseReason::TooLarge => "too_large",
            CloseReason::MessageTimeout => "message_timeout",
            CloseReason::OutBufferFull => "out_buffer_full",
            CloseReason::Memory => "memory",
            CloseReason::Io => "io",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Resolve => f.write_str("name not resolved"),
            CloseReason::NameServersFailed => f.write_str("name servers failed"),
            CloseReason::NoNameServer => f.write_str("no name server answered"),
            CloseReason::PrivateAddress => f.write_str("private address"),
            CloseReason::OwnAddress => f.write_str("our own address"),
            CloseReason::AddressFull => f.write_str("too many links to its address"),
            CloseReason::Connect => f.write_str("connection refused"),
            CloseReason::NoRoute => f.write_str("no route"),
            CloseReason::Tls => f.write_str("tls failed"),
            CloseReason::Handshake(0) => f.write_str("no http answer to the handshake"),
            CloseReason::Handshake(status) => write!(f, "handshake answered with {status}"),
            CloseReason::RetryAfter { status, retry } => {
                write!(f, "handshake answered with {status}, to be tried again {retry}")
            }
            CloseReason::Redirect(refusal) => refusal.fmt(f),
            CloseReason::HeadTooLarge => f.write_str("head of the answer to the handshake too large"),
            CloseReason::Timeout => f.write_str("connecting took too long"),
            CloseReason::Peer(code) => write!(f, "closed by peer with {code}"),
            CloseReason::Protocol => f.write_str("websocket protocol broken"),
            CloseReason::TooLarge => f.write_str("message too large"),
            CloseReason::MessageTimeout => f.write_str("a message took too long"),
            CloseReason::OutBufferFull => f.write_str("reads too slowly"),
            CloseReason::Memory => f.write_str("memory for all links used up"),
            CloseReason::Io => f.write_str("i/o error"),
        }
    }
}

/// What can happen to the engine.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A dialled link finished its WebSocket handshake.
    Opened {
        /// The link.
        link: LinkId,
    },
    /// A client finished its WebSocket upgrade on the own relay.
    Accepted {
        /// The link, numbered by the caller.
        link: LinkId,
        /// Who pays for it.
        account: Account,
    },
    /// A text message.
    Text {
        /// The link it came on.
        link: LinkId,
        /// The whole message.
        text: &'a str,
    },
    /// Any other frame: ping, pong or binary. Proof of life.
    Alive {
        /// The link it came on.
        link: LinkId,
    },
    /// Everything sent so far on this link has been handed to the kernel.
    Drained {
        /// The link.
        link: LinkId,
    },
    /// The answer to [`Output::Inquire`]; its link is gone.
    Info {
        /// The link, as named there.
        link: LinkId,
        /// The body of the HTTP answer, or why there is none: [`CloseReason::Handshake`] if the relay was reached but
        /// serves no document that is worth reading.
        document: Result<&'a str, CloseReason>,
    },
    /// The link is gone, or never came to be. The engine has not asked for this, or it has and this is the end of it.
    Closed {
        /// The link.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// The last commit took this long.
    CommitTook(Duration),
    /// So much room there is. Given after each commit, and when [`Engine::space_due`](crate::engine::Engine::space_due)
    /// says so; whoever cannot tell never gives it.
    Space(Space),
    /// Time has passed: deadlines that are due fire, queries go a step on. Given at least once a turn.
    Tick,
    /// The process is about to end: every link is closed with 1001. The caller commits afterwards; before, too, if those
    /// whose events wait in the batch are to be told that they are kept.
    Stop,
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to a relay. Answered by [`Input::Opened`] or [`Input::Closed`].
    Dial {
        /// The new link.
        link: LinkId,
        /// Where to.
        url: RelayUrl,
    },
    /// Fetch the relay's NIP-11 document on a link of its own. Answered by [`Input::Info`], whatever happens.
    Inquire {
        /// The new link.
        link: LinkId,
        /// Of which relay.
        url: RelayUrl,
    },
    /// Send a text message.
    Send {
        /// On which link.
        link: LinkId,
        /// The message.
        text: String,
    },
    /// Send a WebSocket ping.
    Ping {
        /// On which link.
        link: LinkId,
    },
    /// Close the link, or stop dialling it. The engine forgets it at once; no [`Input::Closed`] is owed.
    Close {
        /// The link.
        link: LinkId,
        /// WebSocket close code (RFC 6455, section 7.4).
        code: u16,
    },
    /// The engine holds so many bytes for this link, in place of what it held before; [`crate::shares::Pool`] has to
    /// know. Said of open links alone, and not for small changes.
    Hold {
        /// The link.
        link: LinkId,
        /// Bytes, about.
        bytes: usize,
    },
}

impl Output {
    /// The link that it is about.
    pub fn link(&self) -> LinkId {
        match self {
            Output::Dial { link, .. }
            | Output::Inquire { link, .. }
            | Output::Send { link, .. }
            | Output::Ping { link }
            | Output::Close { link, .. }
            | Output::Hold { link, .. } => *link,
        }
    }
}
