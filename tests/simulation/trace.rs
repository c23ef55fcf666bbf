//! What happened last, for a person: printed when a scenario fails, with the command that plays it again. Lines are kept
//! as they come and formatted only when printed, for nearly all of them never are.

use crate::clock::{Micros, SECOND};
use serde_json::Value;
use std::collections::VecDeque;
use std::rc::Rc;

/// Lines kept, unless `SIM_LINES` says more; older ones are forgotten.
const LINES_MAX: u64 = 400;
/// Characters of one line.
const LINE_CHARS_MAX: usize = 240;

enum Line {
    Said(String),
    /// Something that the process was told by one end of a link.
    Heard(Rc<str>, Rc<str>),
    /// Something that the process says to one end of a link.
    Told(Rc<str>, Rc<str>),
}

pub struct Trace {
    lines: VecDeque<(Micros, Line)>,
    lines_max: usize,
    /// Over everything that the process put out, with its time.
    hash: u64,
}

impl Trace {
    pub fn new() -> Trace {
        Trace { lines: VecDeque::new(), lines_max: crate::number("SIM_LINES", LINES_MAX) as usize, hash: 0 }
    }

    /// A line of the story.
    pub fn say(&mut self, at: Micros, what: String) {
        self.push(at, Line::Said(what));
    }

    pub fn heard(&mut self, at: Micros, from: &Rc<str>, text: &Rc<str>) {
        self.push(at, Line::Heard(from.clone(), text.clone()));
    }

    pub fn told(&mut self, at: Micros, to: &Rc<str>, text: &Rc<str>) {
        self.push(at, Line::Told(to.clone(), text.clone()));
    }

    fn push(&mut self, at: Micros, line: Line) {
        if self.lines.len() >= self.lines_max {
            self.lines.pop_front();
        }
        self.lines.push_back((at, line));
    }

    /// Takes an output of the process into the hash: its kind, its link, and its text if it has one.
    pub fn hash(&mut self, at: Micros, kind: u64, link: u64, text: &str) {
        for word in [at, kind, link, text.len() as u64] {
            self.mix(word);
        }
        let mut words = text.as_bytes().chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.mix(u64::from_le_bytes(last));
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub fn outputs_hash(&self) -> u64 {
        self.hash
    }

    /// The story's end, for standard error.
    pub fn print(&self, scenario: &str, seed: u64, about: &str) {
        eprintln!("--- the last {} steps (seconds of simulated time)", self.lines.len());
        for (at, line) in &self.lines {
            eprintln!("{}", line.show(*at));
        }
        if !about.is_empty() {
            eprintln!("--- drawn from the seed: {about}");
        }
        eprintln!("--- replay: SIM_SEED={seed} SIM_SEEDS=1 cargo test --test simulation {scenario}");
    }
}

impl Line {
    fn show(&self, at: Micros) -> String {
        let what = match self {
            Line::Said(what) => what.clone(),
            Line::Heard(from, text) => format!("{from} says {}", brief(text)),
            Line::Told(to, text) => format!("{to} gets {}", brief(text)),
        };
        let mut line = format!("{:>10}.{:06}  ", at / SECOND, at % SECOND);
        line.extend(what.chars().take(LINE_CHARS_MAX));
        if what.chars().count() > LINE_CHARS_MAX {
            line.push_str(&format!(" … ({} bytes)", what.len()));
        }
        line
    }
}

/// A message: events by id, kind and time only.
fn brief(text: &str) -> String {
    if !text.starts_with("[\"EVENT\"") {
        return text.to_owned();
    }
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    let event = if message[1].is_object() { &message[1] } else { &message[2] };
    let id = event["id"].as_str().and_then(|id| id.get(..8)).unwrap_or("?");
    let subscription = message[1].as_str().unwrap_or("");
    format!("EVENT {subscription} {id} kind {} at {}", event["kind"], event["created_at"])
}

#[test]
fn the_trace_is_bounded_and_the_hash_depends_on_order() {
    let mut trace = Trace::new();
    (0..trace.lines_max + 5).for_each(|n| trace.say(n as u64, "x".repeat(1_000)));
    assert_eq!(trace.lines.len(), trace.lines_max);
    assert!(trace.lines.iter().all(|(at, line)| line.show(*at).chars().count() < LINE_CHARS_MAX + 60));
    let hash = |outputs: &[(u64, &str)]| {
        let mut trace = Trace::new();
        outputs.iter().for_each(|(link, text)| trace.hash(1, 0, *link, text));
        trace.outputs_hash()
    };
    assert_ne!(hash(&[(1, "a"), (1, "b")]), hash(&[(1, "b"), (1, "a")]));
    assert_ne!(hash(&[(1, "ab")]), hash(&[(1, "a"), (1, "b")]));
    assert_ne!(hash(&[(1, "abcdefgh")]), hash(&[(2, "abcdefgh")]));
}

#[test]
fn an_event_is_shown_by_id_kind_and_time() {
    let text = r#"["EVENT","s",{"id":"0123456789abcdef","kind":7,"created_at":9,"content":"long"}]"#;
    assert_eq!(brief(text), "EVENT s 01234567 kind 7 at 9");
    assert_eq!(brief(r#"["EOSE","s"]"#), r#"["EOSE","s"]"#);
}
