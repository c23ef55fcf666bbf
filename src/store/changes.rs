//! What commits have added and removed of late, for whoever keeps something that was made of the store as it was.
//!
//! It is remembered while somebody asks for it, and as much as fits; a reader that is too far behind begins anew.

use super::id_sets::SetItem;
use super::memtable::Keys;
use crate::limits::CHANGES_KEPT_MAX;
use std::cell::Cell;
use std::collections::VecDeque;

/// An event that was stored or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The event.
    pub item: SetItem,
    /// Its kind.
    pub kind: u16,
    /// Whether it was stored.
    pub is_added: bool,
}

/// How far a reader has come with the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeMark(u64);

/// Changes of the last commits, in their order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    is_watched: Cell<bool>,
    kept: VecDeque<Change>,
    /// How many there were before those that are kept.
    before: u64,
}

impl Changes {
    /// From now on changes are remembered, or not any more.
    pub(super) fn watch(&self, is_watched: bool) {
        self.is_watched.set(is_watched);
    }

    /// A commit has removed and added these.
    #[inline]
    pub(super) fn on_commit<'a>(&mut self, removed: &[Keys], added: impl Iterator<Item = &'a Keys>, is_known: bool) {
        if self.is_watched.get() && is_known {
            self.keep(removed, added);
        } else {
            // No mark is good any more, those of before this commit included.
            self.before += self.kept.len() as u64 + 1;
            self.kept = VecDeque::new();
        }
    }

    fn keep<'a>(&mut self, removed: &[Keys], added: impl Iterator<Item = &'a Keys>) {
        let change = |keys: &Keys, is_added| Change {
            item: SetItem { created_at: keys.created_at, id: keys.id.0 },
            kind: keys.kind(),
            is_added,
        };
        self.kept.extend(removed.iter().map(|keys| change(keys, false)));
        self.kept.extend(added.map(|keys| change(keys, true)));
        let excess = self.kept.len().saturating_sub(CHANGES_KEPT_MAX);
        self.kept.drain(..excess);
        self.before += excess as u64;
    }

    /// Where whoever reads the store now has come.
    pub(super) fn mark(&self) -> ChangeMark {
        ChangeMark(self.before + self.kept.len() as u64)
    }

    /// What has changed since a mark; `None` if that is not known any more.
    pub(super) fn since(&self, mark: ChangeMark) -> Option<impl ExactSizeIterator<Item = &Change>> {
        let passed = mark.0.checked_sub(self.before)?;
        Some(self.kept.range(usize::try_from(passed).ok()?..))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::testing::event;
    use super::*;

    #[test]
    fn changes_are_told_to_whoever_has_watched_since() {
        let mut store = Store::in_memory();
        let first = event(1, 1, 10, &[], "");
        store.stage(first.clone()).unwrap();
        let early = store.change_mark();
        store.commit().unwrap();
        assert!(store.changes_since(early).is_none(), "nobody watched");
        store.watch_changes(true);
        let mark = store.change_mark();
        assert_eq!(store.changes_since(mark).unwrap().count(), 0);
        let deletion = event(1, 5, 11, &[&["e", &first.id.to_hex()]], "");
        store.stage(deletion.clone()).unwrap();
        store.commit().unwrap();
        let told: Vec<_> = store.changes_since(mark).unwrap().map(|c| (c.item.id, c.kind, c.is_added)).collect();
        assert_eq!(told, [(first.id.to_bytes(), 1, false), (deletion.id.to_bytes(), 5, true)]);
        store.watch_changes(false);
        store.stage(event(1, 1, 12, &[], "")).unwrap();
        store.commit().unwrap();
        assert!(store.changes_since(mark).is_none());
    }

    #[test]
    fn a_reader_too_far_behind_begins_anew() {
        let mut changes = Changes::default();
        changes.watch(true);
        let keys: Vec<Keys> = (0..4_096).map(|n| Keys::of(n, &event(1, 1, n, &[], ""))).collect();
        let mark = changes.mark();
        for _ in 0..CHANGES_KEPT_MAX / keys.len() {
            changes.on_commit(&[], keys.iter(), true);
        }
        assert_eq!(changes.since(mark).unwrap().count(), CHANGES_KEPT_MAX);
        changes.on_commit(&keys[..1], [].into_iter(), true);
        assert!(changes.since(mark).is_none());
        let mark = changes.mark();
        changes.on_commit(&[], [].into_iter(), false);
        assert!(changes.since(mark).is_none(), "what went is not known");
    }
}
