//! What each question of a link is for. The names of subscriptions begin with it, so that a relay's log and ours can be
//! read side by side.

use std::fmt;

use crate::sync::filters::Subject;

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What is new, from now on.
    Live,
    /// The search for what ended a link.
    Search,
    /// The history of announcements and states.
    Announcements,
    /// The history of root events.
    Roots,
    /// The history of what tags repos and root events.
    Backfill,
    /// Deletions.
    Deletions,
    /// What is new of what is not live.
    Poll,
    /// What came late, or was missed.
    Audit,
    /// Events that a reconciliation has found, by their ids.
    Fetch,
    /// Sets of ids, compared (NIP-77).
    Reconcile,
}

/// Bits of a [`Number`] that tell its class.
const CLASS_BITS: u32 = 4;

/// Digits of as many questions as no link ever asks: they leave room for the class.
const NTH_DIGITS_MAX: usize = 17;

/// What a subscription or exchange of a link is known by: in the order in which they were opened, with its class. The
/// same is never used twice on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(u64);

impl Class {
    const ALL: [Class; 10] = [
        Class::Live,
        Class::Search,
        Class::Announcements,
        Class::Roots,
        Class::Backfill,
        Class::Deletions,
        Class::Poll,
        Class::Audit,
        Class::Fetch,
        Class::Reconcile,
    ];

    /// Of the history that a question asks for.
    pub fn of_history(subject: &Subject) -> Class {
        match subject {
            Subject::Announcements | Subject::Identifiers(_) => Class::Announcements,
            Subject::RootKinds => Class::Roots,
            Subject::Everything | Subject::RepoTag(..) | Subject::RootTag(..) | Subject::ThreadTag(..) => {
                Class::Backfill
            }
            Subject::Deletions(_) | Subject::DeletionsOf(_) => Class::Deletions,
        }
    }

    /// The name in logs and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Class::Live => "live",
            Class::Search => "search",
            Class::Announcements => "announcements",
            Class::Roots => "roots",
            Class::Backfill => "backfill",
            Class::Deletions => "deletions",
            Class::Poll => "poll",
            Class::Audit => "audit",
            Class::Fetch => "fetch",
            Class::Reconcile => "reconcile",
        }
    }

    fn of_letter(letter: u8) -> Option<Class> {
        Some(match letter {
            b'l' => Class::Live,
            b's' => Class::Search,
            b'a' => Class::Announcements,
            b'r' => Class::Roots,
            b'b' => Class::Backfill,
            b'd' => Class::Deletions,
            b'p' => Class::Poll,
            b'u' => Class::Audit,
            b'f' => Class::Fetch,
            b'n' => Class::Reconcile,
            _ => return None,
        })
    }

    fn letter(self) -> char {
        match self {
            Class::Live => 'l',
            Class::Search => 's',
            Class::Announcements => 'a',
            Class::Roots => 'r',
            Class::Backfill => 'b',
            Class::Deletions => 'd',
            Class::Poll => 'p',
            Class::Audit => 'u',
            Class::Fetch => 'f',
            Class::Reconcile => 'n',
        }
    }
}

impl Number {
    /// The number of the question that was opened as the `nth`, from 0.
    pub fn new(nth: u64, class: Class) -> Number {
        Number(nth << CLASS_BITS | class as u64)
    }

    /// Before all that are opened as the `nth` or later.
    pub fn before(nth: u64) -> Number {
        Number(nth.saturating_mul(1 << CLASS_BITS))
    }

    /// As which it was opened.
    pub fn nth(self) -> u64 {
        self.0 >> CLASS_BITS
    }

    /// What the question is for.
    pub fn class(self) -> Class {
        Class::ALL[(self.0 & ((1 << CLASS_BITS) - 1)) as usize]
    }

    /// The number that a name names, written in the one way in which we write it.
    pub fn named(name: &str) -> Option<Number> {
        let (letter, digits) = name.as_bytes().split_first()?;
        let class = Class::of_letter(*letter)?;
        // With each event its subscription is looked up: this is quicker than what reads any number.
        let as_we_do = digits == b"0" || digits.first().is_some_and(|digit| *digit != b'0');
        if !as_we_do || digits.len() > NTH_DIGITS_MAX {
            return None;
        }
        let nth = digits
            .iter()
            .try_fold(0, |nth, digit| digit.is_ascii_digit().then(|| 10 * nth + u64::from(digit - b'0')))?;
        Some(Number::new(nth, class))
    }
}

/// The name of the subscription: short, plain and never used twice on a link.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.class().letter(), self.nth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_we_give_names_a_number() {
        for class in Class::ALL {
            for nth in [0, 1, 10, 99_999_999_999_999_999] {
                let number = Number::new(nth, class);
                assert_eq!((number.nth(), number.class()), (nth, class));
                assert_eq!(Number::named(&number.to_string()), Some(number));
            }
        }
        for name in ["", "b", "b00", "b01", "b+1", "b-1", "b 1", "h1", "1", "B1", "b18446744073709551615", "é1"] {
            assert_eq!(Number::named(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_are_in_the_order_in_which_they_were_opened() {
        assert!(Number::new(1, Class::Reconcile) < Number::new(2, Class::Live));
        assert!(
            Number::new(1, Class::Reconcile) < Number::before(2) && Number::before(2) <= Number::new(2, Class::Live)
        );
        assert!(Number::new(3, Class::Reconcile) < Number::before(u64::MAX));
    }
}
