//! What the program logs, heard line by line: its own account of each change of state, judged by `checks::machine` and
//! shown in the trace. Each test thread hears its own world only.

use log::{LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;
use std::sync::Once;

struct Ear;

thread_local!(static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

impl Log for Ear {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        HEARD.with_borrow_mut(|heard| heard.push(record.args().to_string()));
    }
    fn flush(&self) {}
}

/// Begins to listen; what an earlier world left is forgotten.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Ear).expect("nobody else listens");
        log::set_max_level(LevelFilter::Info);
    });
    take();
}

/// The lines since the last call.
pub fn take() -> Vec<String> {
    HEARD.with_borrow_mut(std::mem::take)
}
