//! What the page at the own relay's address tells, and the operator's name.

use std::ops::ControlFlow;

use nostr::event::Event;

use super::Engine;
use crate::limits::{PAGE_CANDIDATES_MAX, PAGE_REPOS_MAX};
use crate::protocol::filter::Filter;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, Announcement};
use crate::serve::info::names;
use crate::serve::page::{Facts, Listed, page};
use crate::store::{Query, StoreError};
use crate::sync::coverage::Coverage;
use crate::sync::relay::StateName;
use crate::time::{Now, UnixTime};

impl Engine {
    /// The page for people, HTML.
    pub fn page_html(&self, now: Now) -> String {
        // A store that cannot be read stops the process soon; until then the page does without.
        let newest = self.newest_repos(now.wall).unwrap_or_default();
        let relays = self.relays.iter().map(|(_, entry)| &entry.relay);
        let linked = relays.filter(|relay| relay.session().is_some());
        let is_complete = |coverage: &Coverage| matches!(coverage, Coverage::Full | Coverage::Polled);
        let complete = linked.clone().filter(|relay| {
            relay.state_name() == StateName::Live && is_complete(&Coverage::of(relay)) && relay.is_caught_up()
        });
        let facts = Facts {
            repos: self.state.repos_followed(),
            events: self.store.last_seq(),
            relays: self.relays.len(),
            connected: linked.clone().count(),
            complete: complete.count(),
            newest,
        };
        page(&self.settings, &facts)
    }

    /// The operator's name (NIP-05), JSON; `None` if no key is configured.
    pub fn names_json(&self, name: Option<&str>) -> Option<String> {
        names(&self.settings, name)
    }

    /// The repos that are followed and were announced last, the newest first.
    fn newest_repos(&self, now: UnixTime) -> Result<Vec<Listed>, StoreError> {
        let mut newest = Vec::new();
        let mut list = |_, json: &str| {
            let event = Event::from_json(json).ok();
            let announced = event.and_then(|event| Some((Announcement::from_event(&event, 0)?.addr, event)));
            let followed = announced.filter(|(addr, _)| self.state.is_followed(addr));
            newest.extend(followed.and_then(|(addr, event)| Listed::of(&event, addr)));
            if newest.len() < PAGE_REPOS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let mut query = Query::new(Filter::of_kind(ANNOUNCEMENT_KIND), self.store.last_seq(), PAGE_CANDIDATES_MAX);
        self.store.query(&mut query, now, PAGE_CANDIDATES_MAX, &mut list)?;
        Ok(newest)
    }
}
