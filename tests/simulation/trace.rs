//! What happened last, for a person: printed when a scenario fails, with the command that plays it again.

use crate::clock::{Micros, SECOND};
use std::collections::VecDeque;

/// Lines kept; older ones are forgotten.
const LINES_MAX: usize = 400;
/// Characters of one line.
const LINE_CHARS_MAX: usize = 240;

pub struct Trace {
    lines: VecDeque<String>,
    /// FNV-1a over everything that the process put out, with its time.
    hash: u64,
}

impl Trace {
    pub fn new() -> Trace {
        Trace { lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// A line of the story.
    pub fn say(&mut self, at: Micros, what: &str) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let mut line = format!("{:>10}.{:06}  ", at / SECOND, at % SECOND);
        line.extend(what.chars().take(LINE_CHARS_MAX));
        if what.chars().count() > LINE_CHARS_MAX {
            line.push_str(&format!(" … ({} bytes)", what.len()));
        }
        self.lines.push_back(line);
    }

    /// Takes an output of the process into the hash.
    pub fn hash(&mut self, at: Micros, output: &str) {
        for byte in at.to_le_bytes().iter().chain(output.as_bytes()).chain(&[0xff]) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn outputs_hash(&self) -> u64 {
        self.hash
    }

    /// The story's end, for standard error.
    pub fn print(&self, scenario: &str, seed: u64) {
        eprintln!("--- the last {} steps (seconds of simulated time)", self.lines.len());
        for line in &self.lines {
            eprintln!("{line}");
        }
        eprintln!("--- replay: SIM_SEED={seed} cargo test --test simulation {scenario}");
    }
}

#[test]
fn the_trace_is_bounded_and_the_hash_depends_on_order() {
    let mut trace = Trace::new();
    (0..LINES_MAX + 5).for_each(|n| trace.say(n as u64, &"x".repeat(1_000)));
    assert_eq!(trace.lines.len(), LINES_MAX);
    assert!(trace.lines.iter().all(|l| l.chars().count() < LINE_CHARS_MAX + 60));
    let mut other = Trace::new();
    trace.hash(1, "a");
    trace.hash(1, "b");
    other.hash(1, "b");
    other.hash(1, "a");
    assert_ne!(trace.outputs_hash(), other.outputs_hash());
}
