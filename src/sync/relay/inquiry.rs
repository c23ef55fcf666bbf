//! What a relay says of itself (NIP-11): asked before it is dialled and at the daily turn, at most once in
//! [`INFO_PERIOD`], answered or not. A relay that cannot be reached to be asked, or says that it is busy, is not dialled
//! as well: that was the dial.

use log::debug;

use super::{Relay, State, Step, Why, linked_in};
use crate::contract::{CloseReason, LinkId, Output};
use crate::limits::INFO_PERIOD;
use crate::protocol::relay_info::RelayInfo;
use crate::sync::Cx;
use crate::sync::dials::Caller;
use crate::time::{Instant, UnixTime};

/// An inquiry on a link of its own, beside the open link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inquiry {
    pub link: LinkId,
    pub deadline: Instant,
}

impl Relay {
    /// The link on which it is being asked what it is, if it is.
    pub fn inquiry(&self) -> Option<LinkId> {
        match &self.state {
            State::Connecting { step: Step::Inquiring(link), .. } => Some(*link),
            _ => self.linked()?.inquiry.map(|inquiry| inquiry.link),
        }
    }

    /// The answer to an inquiry: the body of an HTTP answer, or why there is none. If nobody could be reached, the dial
    /// that was to follow has failed.
    pub fn on_answer(&mut self, link: LinkId, document: Result<&str, CloseReason>, cx: &mut Cx<'_>) {
        if self.inquiry() != Some(link) {
            return;
        }
        let read = document.map(RelayInfo::from_json);
        let result = match &read {
            Ok(Ok(_)) => "read",
            Ok(Err(_)) => "not_json",
            Err(reason) => reason.name(),
        };
        cx.metrics.relay_info.add(result);
        debug!("{}: relay information: {result}", self.url);
        let info = read.ok().and_then(Result::ok);
        if let Err(reason) = document {
            self.heed_retry_after(reason, cx);
        }
        match (linked_in(&mut self.state), document) {
            (Some(linked), _) => {
                linked.inquiry = None;
                self.on_info(info, cx);
            }
            (None, Err(reason)) if puts_off_dial(reason) => {
                // It may have more to say when it can be reached.
                if reason != CloseReason::Timeout {
                    self.budget_mut().asked_at = UnixTime::EPOCH;
                    self.inquire_not_before = Instant::ZERO;
                }
                cx.metrics.relay_links_closed.add(reason.name());
                self.lose_link(Why::LinkClosed(reason), cx);
            }
            (None, _) => {
                self.note_reached(cx);
                self.on_info(info, cx);
                self.connect(cx);
            }
        }
    }

    /// The relay was asked what it is. `None`: it has not said; what it said before stands.
    fn on_info(&mut self, info: Option<RelayInfo>, cx: &mut Cx<'_>) {
        self.budget_mut().on_info(info);
        self.note_budget();
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.pump(cx);
        }
    }

    fn is_inquiry_due(&self, cx: &Cx<'_>) -> bool {
        // The wall clock counts across restarts; it may jump.
        self.budget().asks_again(cx.now.wall) && cx.now.mono >= self.inquire_not_before
    }

    /// Begins an inquiry if it is time for one.
    pub(super) fn inquire_if_due(&mut self, cx: &mut Cx<'_>) -> Option<LinkId> {
        if !self.is_inquiry_due(cx) {
            return None;
        }
        self.budget_mut().asked_at = cx.now.wall;
        self.inquire_not_before = cx.now.mono + INFO_PERIOD;
        let link = cx.new_link();
        cx.out.push_back(Output::Inquire { link, url: self.url.clone() });
        Some(link)
    }

    /// Begins one beside the open link, at once or when its turn comes, if it is time for one.
    pub(super) fn inquire_beside_if_due(&mut self, cx: &mut Cx<'_>) {
        let is_due = self.inquiry().is_none() && self.is_inquiry_due(cx);
        if is_due && cx.dials.ask(cx.now.mono, &self.url, Caller::Known) {
            self.inquire_beside(cx);
        }
    }

    /// Begins one beside the open link.
    pub(super) fn inquire_beside(&mut self, cx: &mut Cx<'_>) {
        if self.inquiry().is_some() {
            return;
        }
        let Some(link) = self.inquire_if_due(cx) else { return };
        let deadline = cx.now.mono + cx.settings.timing.connect_timeout;
        linked_in(&mut self.state).expect("only called with a link").inquiry = Some(Inquiry { link, deadline });
    }

    /// The relay is not where it was asked what it is: if it has said nothing, it is asked where it was found.
    pub(super) fn inquire_elsewhere(&mut self, cx: &mut Cx<'_>) {
        if self.budget().info.is_none() {
            self.budget_mut().asked_at = UnixTime::EPOCH;
            self.inquire_not_before = Instant::ZERO;
            self.inquire_beside_if_due(cx);
        }
    }

    /// Gives up an inquiry beside the open link that has taken too long.
    pub(super) fn give_up_slow_inquiry(&mut self, cx: &mut Cx<'_>) {
        let inquiry = self.linked().and_then(|linked| linked.inquiry);
        if inquiry.is_some_and(|inquiry| inquiry.deadline <= cx.now.mono) {
            self.drop_inquiry(cx);
            cx.metrics.relay_info.add(CloseReason::Timeout.name());
        }
    }

    /// Forgets an inquiry beside the open link.
    pub(super) fn drop_inquiry(&mut self, cx: &mut Cx<'_>) {
        if let Some(Inquiry { link, .. }) = linked_in(&mut self.state).and_then(|linked| linked.inquiry.take()) {
            cx.out.push_back(Output::Close { link, code: 1001 });
        }
    }
}

/// Whether nobody was there to ask, or whoever was does not want to be asked now.
fn puts_off_dial(reason: CloseReason) -> bool {
    match reason {
        CloseReason::Resolve
        | CloseReason::NameServersFailed
        | CloseReason::NoNameServer
        | CloseReason::PrivateAddress
        | CloseReason::OwnAddress
        | CloseReason::AddressFull
        | CloseReason::Connect
        | CloseReason::NoRoute
        | CloseReason::Tls
        | CloseReason::RetryAfter { .. }
        | CloseReason::Timeout => true,
        CloseReason::Handshake(_)
        | CloseReason::Redirect(_)
        | CloseReason::HeadTooLarge
        | CloseReason::Peer(_)
        | CloseReason::Protocol
        | CloseReason::TooLarge
        | CloseReason::MessageTimeout
        | CloseReason::OutBufferFull
        | CloseReason::Memory
        | CloseReason::Io => false,
    }
}
