//! The repos about which relays are to be asked once more, because somebody became invited or confirmed for their identifier.
//! Anybody may announce any identifier, so there may be any number of them: each window has a bounded part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nostr::key::PublicKey;

use super::RepoId;
use super::authority::{Authority, IdentifierId};
use crate::limits::REQUERIED_REPOS_MAX;
use crate::protocol::relay_url::RelayUrl;

type ByRelay = BTreeMap<RelayUrl, BTreeSet<RepoId>>;

/// The identifiers of which some repos are still to be handed out.
#[derive(Debug, Default)]
pub(super) struct Requeries(VecDeque<Requery>);

#[derive(Debug)]
struct Requery {
    identifier: IdentifierId,
    /// Those up to this author's were handed out.
    after: Option<PublicKey>,
    /// Somebody else became something meanwhile.
    again: bool,
}

impl Requeries {
    /// Somebody became invited or confirmed. Returns the first part, with what was `gained` just now.
    pub fn begin<'a>(
        &mut self,
        identifier: IdentifierId,
        gained: ByRelay,
        authority: &Authority,
        relays_of: impl Fn(RepoId) -> &'a [RelayUrl],
    ) -> ByRelay {
        let mut part = gained;
        match self.0.iter_mut().find(|requery| requery.identifier == identifier) {
            Some(requery) => requery.again = true,
            None => {
                let requery = Requery { identifier, after: None, again: false };
                self.take_part(requery, &mut part, authority, relays_of);
            }
        }
        part
    }

    /// The next part of the one that waits longest.
    pub fn go_on<'a>(&mut self, authority: &Authority, relays_of: impl Fn(RepoId) -> &'a [RelayUrl]) -> ByRelay {
        let mut part = ByRelay::new();
        if let Some(requery) = self.0.pop_front() {
            self.take_part(requery, &mut part, authority, relays_of);
        }
        part
    }

    fn take_part<'a>(
        &mut self,
        mut requery: Requery,
        part: &mut ByRelay,
        authority: &Authority,
        relays_of: impl Fn(RepoId) -> &'a [RelayUrl],
    ) {
        let mut left = REQUERIED_REPOS_MAX;
        for (author, repo) in authority.repos_after(requery.identifier, requery.after) {
            if left == 0 {
                return self.0.push_back(requery);
            }
            left -= 1;
            requery.after = Some(author);
            for relay in relays_of(repo) {
                part.entry(relay.clone()).or_default().insert(repo);
            }
        }
        if requery.again {
            self.0.push_back(Requery { after: None, again: false, ..requery });
        }
    }
}
