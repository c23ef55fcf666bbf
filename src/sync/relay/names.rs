//! The states and the reasons for them, by name: for logs, metrics and status.

use std::fmt;

use crate::contract::CloseReason;
use crate::sync::network::Evidence;
use crate::sync::session::Lockout;

/// The states by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateName {
    /// Known, not yet dialled.
    Idle,
    /// Waiting for the next try.
    Backoff,
    /// Resolving, TCP, TLS, WebSocket.
    Connecting,
    /// Live subscriptions are open; history is being swept.
    Catchup,
    /// Everything was swept once.
    Live,
    /// Many small live subscriptions are being replaced by few.
    Consolidating,
    /// No longer needed.
    Closing,
}

impl StateName {
    /// All of them.
    pub const ALL: [StateName; 7] = [
        StateName::Idle,
        StateName::Backoff,
        StateName::Connecting,
        StateName::Catchup,
        StateName::Live,
        StateName::Consolidating,
        StateName::Closing,
    ];

    /// The name in logs, metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            StateName::Idle => "Idle",
            StateName::Backoff => "Backoff",
            StateName::Connecting => "Connecting",
            StateName::Catchup => "Catchup",
            StateName::Live => "Live",
            StateName::Consolidating => "Consolidating",
            StateName::Closing => "Closing",
        }
    }

    /// Whether the machine may go from `self` to `next`.
    pub fn leads_to(self, next: StateName) -> bool {
        use StateName::*;
        match self {
            Idle => matches!(next, Connecting | Backoff | Closing),
            Backoff => matches!(next, Connecting | Closing),
            Connecting => matches!(next, Catchup | Backoff | Closing),
            Catchup => matches!(next, Live | Consolidating | Connecting | Backoff | Closing),
            Live => matches!(next, Catchup | Consolidating | Connecting | Backoff | Closing),
            Consolidating => matches!(next, Live | Connecting | Backoff | Closing),
            Closing => false,
        }
    }
}

/// Why a state was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Some repo lists the relay, or the operator does.
    Needed,
    /// The wait is over.
    WaitOver,
    /// Our own network is down, and this is a try whether it still is.
    Probe,
    /// The link is open.
    Opened,
    /// The link is gone.
    LinkClosed(CloseReason),
    /// The relay did not answer a ping.
    Silent,
    /// Every sweep has finished.
    SweepsFinished,
    /// The last full catch-up is a day ago.
    DailyTurn,
    /// The live filters have become too many, or no longer fit.
    TooManyFilters,
    /// The relay shares fewer repos than it is asked about.
    ReposLost,
    /// It was asked for everything it has, and most of that is not ours.
    Crowded,
    /// The minimal set is open.
    Consolidated,
    /// The relay does not answer us at all.
    LockedOut(Lockout),
    /// The relay sends too much that it was not asked for.
    Unasked,
    /// The relay sends too much that brings nothing.
    Flood,
    /// The relay sends too many events whose id or signature is wrong.
    Forged,
    /// The relay answers in another way than was believed.
    Relearned,
    /// The machine failed, by a bug of ours.
    Fault,
    /// What it would send could not be stored.
    NoRoom,
    /// No repo needs the relay.
    Unneeded,
    /// Others come before it, and there are no more places.
    Outranked,
    /// The process ends.
    Stopping,
}

impl Why {
    /// Whether the relay has done what no relay may do.
    pub(super) fn breaks_rules(self) -> bool {
        matches!(
            self,
            Why::LinkClosed(CloseReason::Protocol | CloseReason::TooLarge) | Why::Unasked | Why::Flood | Why::Forged
        )
    }

    /// What the end of a link, or of a dial, for this reason says of our own network.
    pub(super) fn evidence(self) -> Evidence {
        match self {
            Why::LinkClosed(reason) => Evidence::of(reason),
            Why::Silent => Evidence::Silence,
            _ => Evidence::Nothing,
        }
    }

    /// Whether the other side, or something between, has dropped the link.
    pub(super) fn is_drop(self) -> bool {
        matches!(self, Why::LinkClosed(CloseReason::Peer(_) | CloseReason::Io))
    }

    /// The name in metrics of a rule of ours by which a link was closed, if that was why.
    pub(super) fn own_rule(self) -> Option<&'static str> {
        match self {
            Why::LockedOut(_) => Some("locked_out"),
            Why::Unasked => Some("unasked"),
            Why::Flood => Some("flood"),
            Why::Forged => Some("forged"),
            _ => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Needed => f.write_str("needed"),
            Why::WaitOver => f.write_str("wait is over"),
            Why::Probe => f.write_str("probing our own network"),
            Why::Opened => f.write_str("link open"),
            Why::LinkClosed(reason) => write!(f, "{reason}"),
            Why::Silent => f.write_str("no answer to ping"),
            Why::SweepsFinished => f.write_str("all sweeps finished"),
            Why::DailyTurn => f.write_str("daily turn"),
            Why::TooManyFilters => f.write_str("too many live filters"),
            Why::ReposLost => f.write_str("fewer repos"),
            Why::Crowded => f.write_str("mostly events of others"),
            Why::Consolidated => f.write_str("minimal set open"),
            Why::LockedOut(Lockout::AuthRequired) => f.write_str("it wants us to authenticate"),
            Why::LockedOut(Lockout::Restricted) => f.write_str("it is restricted to others"),
            Why::Unasked => f.write_str("too many events that were not asked for"),
            Why::Flood => f.write_str("too many frames that bring nothing"),
            Why::Forged => f.write_str("too many forged events"),
            Why::Relearned => f.write_str("its answers have shown that what was had may not be all"),
            Why::Fault => f.write_str("a fault of ours"),
            Why::NoRoom => f.write_str("nothing can be stored"),
            Why::Unneeded => f.write_str("no repo needs it"),
            Why::Outranked => f.write_str("others come before it"),
            Why::Stopping => f.write_str("stopping"),
        }
    }
}
