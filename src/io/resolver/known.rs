//! Names that have had addresses: where a relay once was, one is more likely than where none ever was.

use std::collections::{BTreeSet, VecDeque};

use crate::limits::DNS_KNOWN_NAMES_MAX;

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Known {
    names: BTreeSet<String>,
    by_age: VecDeque<String>,
}

impl Known {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn insert(&mut self, name: &str) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        self.by_age.push_back(name.to_owned());
        if self.by_age.len() > DNS_KNOWN_NAMES_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.names.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut known = Known::default();
        for n in 0..=DNS_KNOWN_NAMES_MAX {
            known.insert(&n.to_string());
            known.insert(&n.to_string());
        }
        assert!(!known.contains("0") && known.contains("1"));
        assert_eq!((known.names.len(), known.by_age.len()), (DNS_KNOWN_NAMES_MAX, DNS_KNOWN_NAMES_MAX));
    }
}
