//! The engine: every decision of the program, as one value. [`Input`] in, [`Output`] out; see the crate's documentation
//! for the contract with its caller.

use crate::limits::{Limits, Timing};
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::RepoAddr;
use crate::store::{Store, StoreError};
use crate::time::{Duration, Instant, Now};

/// What the engine is told about the service it keeps complete. Checked by `config`, which is the only place that makes one.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service as announcements name it.
    pub service: Service,
    /// Relays that are always followed.
    pub bootstrap: Vec<RelayUrl>,
    /// Authors whose events are refused.
    pub deny_authors: Vec<nostr::key::PublicKey>,
    /// Repos whose events are refused.
    pub deny_repos: Vec<RepoAddr>,
    /// Repos kept although their announcement does not list the service (GRASP-05).
    pub archive: Vec<RepoAddr>,
    /// Bounds.
    pub limits: Limits,
    /// Durations.
    pub timing: Timing,
}

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
    /// The name has no address, or no server answered for it.
    Resolve,
    /// Every address of the name is private, and private relays are not allowed.
    PrivateAddress,
    /// No address took the TCP connection.
    Connect,
    /// TLS failed: certificate, host name or protocol.
    Tls,
    /// The WebSocket handshake was answered with something other than 101; the HTTP status, 0 if it was not HTTP.
    Handshake(u16),
    /// Connecting took longer than its deadline.
    Timeout,
    /// The peer closed: its close code, or 1006 if the socket just ended.
    Peer(u16),
    /// The peer broke the WebSocket protocol.
    Protocol,
    /// A message or frame was larger than [`crate::limits::MESSAGE_BYTES_MAX`].
    TooLarge,
    /// More than [`crate::limits::LINK_OUT_BYTES_MAX`] waited to be written.
    OutBufferFull,
    /// Reading or writing failed.
    Io,
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
    /// The link is gone, or never came to be. The engine has not asked for this, or it has and this is the end of it.
    Closed {
        /// The link.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// The last commit took this long.
    CommitTook(Duration),
    /// Time has passed: deadlines that are due fire, queries go a step on. Given at least once a turn.
    Tick,
    /// The process is about to end: every link is closed with 1001. The caller commits afterwards.
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
}

/// The deterministic core. Owns the store, the sync state, the relays' machines and the clients' sessions.
pub struct Engine {
    store: Store,
    settings: Settings,
}

impl Engine {
    /// Builds the state from the store (spec section 3) and dials the relays it names.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn new(store: Store, settings: Settings, now: Now) -> Result<Engine, StoreError> {
        let _ = now;
        Ok(Engine { store, settings })
    }

    /// Takes one input. Outputs wait in [`Engine::poll_output`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read. The engine must not be used afterwards.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError> {
        let _ = (now, input, &self.store, &self.settings);
        Ok(())
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Input::Tick`] is next needed even if nothing happens. A time not after `now` means: at once.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Whether the batch should be committed now. `idle`: the caller has nothing more to read.
    pub fn commit_due(&self, now: Now, idle: bool) -> bool {
        let _ = (now, idle);
        false
    }

    /// Makes the batch durable, then acknowledges and serves its events. The caller reports how long it took with
    /// [`Input::CommitTook`].
    ///
    /// # Errors
    ///
    /// If the store cannot write. Nothing of the batch was acknowledged; the process must end.
    pub fn commit(&mut self, now: Now) -> Result<(), StoreError> {
        let _ = now;
        Ok(())
    }

    /// Metrics in the Prometheus text format (spec section 11).
    pub fn metrics_text(&self, now: Now) -> String {
        let _ = now;
        String::new()
    }

    /// The JSON of `/status.json` (spec section 11).
    pub fn status_json(&self, now: Now) -> String {
        let _ = now;
        String::from("{}")
    }

    /// The NIP-11 document of the own relay.
    pub fn relay_info_json(&self) -> String {
        String::from("{}")
    }
}
