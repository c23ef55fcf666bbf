//! After a panic of the machine (spec section 16, "Isolation"): it begins anew, as if the relay had broken the link.
//!
//! What it knows is plain data, each change of which is whole, and stays: the state with the link, its session and what
//! was planned, is let go of. What it claims to have is taken back to what it claimed before it acted, for a machine that
//! has failed may have been wrong about that, too; what it has withdrawn meanwhile stays withdrawn.

use std::collections::BTreeSet;

use super::{Relay, State, Why, linked_in};
use crate::contract::LinkId;
use crate::state::RepoId;
use crate::store::Progress;
use crate::sync::Cx;
use crate::time::UnixTime;

/// What is to be known of a machine before it acts, should that fail.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// The links that are to be closed.
    pub links: [Option<LinkId>; 2],
    through: UnixTime,
    full_catchup: UnixTime,
}

impl Relay {
    /// To be kept while the machine acts.
    pub fn before(&self) -> Before {
        let (through, full_catchup) = (self.progress.through(), self.progress.full_catchup());
        Before { links: self.links(), through, full_catchup }
    }

    /// The machine has failed while it acted: it waits in Backoff and dials again later. Returns repos that it had confirmed
    /// just now, for the caller to write that they are not.
    pub fn recover(&mut self, before: &Before, cx: &mut Cx<'_>) -> Vec<RepoId> {
        let (now, timing) = (cx.now.mono, &cx.settings.timing);
        let until = match self.linked().filter(|linked| linked.stable) {
            Some(linked) => {
                let lived = now.since(linked.session.opened_at()) >= timing.stable_after;
                self.health.on_breach(now, lived, timing)
            }
            None => self.health.on_failure(now, timing),
        };
        let until = until.max(self.dial_not_before);

        let of_session = linked_in(&mut self.state).map(|linked| linked.session.take_budget());
        let budget = self.budget.take().or(of_session).unwrap_or_default();
        // Twice in a row, and what is known of the relay may be what the machine cannot live with.
        let fails_again = self.lost.is_some_and(|(why, _)| why == Why::Fault);
        self.budget = Some(if fails_again { budget.anew() } else { budget });

        let unsaved = std::mem::take(&mut self.unsaved);
        let confirmed = |progress: &Progress| match progress {
            Progress::Confirmed { repo, .. } => cx.state.repo_id(repo),
            _ => None,
        };
        let confirmed: BTreeSet<RepoId> = unsaved.iter().filter_map(confirmed).collect();
        let unconfirmed = self.progress.forget(&confirmed);
        let through = self.progress.through().min(before.through);
        self.progress.restore(through, self.progress.full_catchup().min(before.full_catchup));
        let stays = |progress: &Progress| matches!(progress, Progress::Budget { .. } | Progress::ForgetRepo { .. });
        self.unsaved = unsaved.into_iter().filter(stays).collect();
        self.unsaved.push(self.progress_record());
        self.through_moved_at = None;

        if before.links.iter().any(Option::is_some) {
            cx.metrics.relay_links_closed.add("fault");
        }
        self.lost = Some((Why::Fault, cx.now.wall));
        cx.dials.withdraw(&self.url);
        let from = self.state_name();
        self.state = State::Backoff { until };
        self.note_entry(from, Why::Fault, cx);
        unconfirmed
    }
}
