//! What a closed window means to each relay, and telling them. Strangers choose how many repos a relay is said to carry, so
//! one turn of the loop tells a bounded part, and what is left goes on in the next. Until all is told no further window
//! closes: each relay hears of the windows one after the other.

use std::collections::{BTreeMap, VecDeque};

use super::Engine;
use crate::limits::{NEWS_PART_ITEMS, NEWS_STEP_ITEMS};
use crate::protocol::relay_url::RelayUrl;
use crate::state::{Changes, RepoId};
use crate::store::StoreError;
use crate::sync::relay::News;
use crate::time::Now;

/// What relays have yet to be told, by their keys. No more than the state holds for each.
#[derive(Debug)]
pub(super) struct Untold(VecDeque<(usize, News)>);

impl Untold {
    /// A relay is forgotten; another may get its key.
    pub(super) fn forget(&mut self, key: usize) {
        self.0.retain(|(of, _)| *of != key);
    }

    /// The next part, of at most so many repos and root events, and for whom.
    fn next(&mut self, max: usize) -> Option<(usize, News)> {
        let (key, mut news) = self.0.pop_front()?;
        let part = news.take(max);
        if !news.is_empty() {
            self.0.push_front((key, news));
        }
        Some((key, part))
    }
}

impl Engine {
    /// The window has closed: relays without repos are forgotten, followed ones are asked for what is new to them, and
    /// new ones are followed.
    pub(super) fn act_on_window(&mut self, now: Now, changes: Changes) -> Result<(), StoreError> {
        self.metrics.windows += 1;
        self.state.on_window_closed();
        let unneeded = self.keys.iter().filter(|(url, _)| !self.state.needs(url)).map(|(_, key)| *key);
        for key in unneeded.collect::<Vec<_>>() {
            self.forget_relay(now, key)?;
        }
        self.untold = Some(Untold(self.news_by_relay(&changes).into_iter().collect()));
        self.tell_on(now)
    }

    /// Goes on telling relays of the window that has closed.
    pub(super) fn tell_on(&mut self, now: Now) -> Result<(), StoreError> {
        let mut left = NEWS_STEP_ITEMS;
        while let Some(untold) = &mut self.untold {
            let Some((key, news)) = untold.next(NEWS_PART_ITEMS) else {
                self.untold = None;
                let more = self.state.requery_more();
                self.unconfirm(&more);
                self.window.add(now.mono, Changes { upto: self.store.last_seq(), ..more });
                return self.assign_places(now);
            };
            self.drive(now, key, |relay, cx| relay.on_window(&news, cx))?;
            left = left.saturating_sub(news.len().max(1));
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// What each followed relay is to be told: what is new to it, or nothing, if it has only lost something.
    fn news_by_relay(&self, changes: &Changes) -> BTreeMap<usize, News> {
        let mut by_relay: BTreeMap<usize, News> = BTreeMap::new();
        let mut tell = |url: &RelayUrl, what: &dyn Fn(&mut News)| {
            self.keys.get(url).into_iter().for_each(|key| what(by_relay.entry(*key).or_default()));
        };
        for (url, repos) in &changes.gained {
            tell(url, &|news| news.gained.extend(repos));
        }
        for (url, repos) in &changes.maintainers_changed {
            tell(url, &|news| news.maintainers_changed.extend(repos));
        }
        for url in changes.lost.keys() {
            tell(url, &|_| ());
        }
        let mut keys_of: BTreeMap<RepoId, Vec<usize>> = BTreeMap::new();
        for root in &changes.roots {
            for repo in self.state.repos_of_root(*root) {
                let keys = keys_of.entry(*repo).or_insert_with(|| {
                    self.state.relays_of(*repo).iter().filter_map(|url| self.keys.get(url)).copied().collect()
                });
                keys.iter().for_each(|key| _ = by_relay.entry(*key).or_default().roots.insert(*root));
            }
        }
        by_relay.values_mut().for_each(|news| news.upto = changes.upto);
        by_relay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::RootId;

    #[test]
    fn large_news_is_told_in_parts_in_order_and_only_the_last_says_how_far_it_goes() {
        let repos = |range: std::ops::Range<u32>| range.map(RepoId::of_number).collect();
        let whole = News {
            gained: repos(0..5),
            maintainers_changed: repos(3..9),
            roots: (0..6).map(RootId::of_number).collect(),
            upto: 77,
        };
        let lost = News { upto: 77, ..News::default() };
        let mut untold = Untold([(4, whole.clone()), (2, lost.clone()), (9, whole.clone())].into());
        let mut told = News::default();
        let mut parts = Vec::new();
        while let Some((4, part)) = untold.next(4) {
            parts.push((part.len(), part.upto));
            told.gained.extend(part.gained);
            told.maintainers_changed.extend(part.maintainers_changed);
            told.roots.extend(part.roots);
            told.upto = part.upto;
            if untold.0.len() == 2 {
                break;
            }
        }
        assert_eq!(parts, [(4, 0), (4, 0), (4, 0), (4, 0), (1, 77)]);
        assert_eq!(told, whole);
        untold.forget(9);
        assert_eq!(untold.next(4), Some((2, lost)), "who has only lost something is told, too");
        assert_eq!(untold.next(4), None);
    }
}
