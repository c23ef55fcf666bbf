//! What the process logs at information level while one scenario listens. Scenarios run on threads of their own, so each
//! hears only its own process.

use log::{LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Listener;

impl Log for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &Record<'_>) {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.push(record.args().to_string());
            }
        });
    }

    fn flush(&self) {}
}

/// The ear of one scenario.
pub struct LogLines(());

impl LogLines {
    /// Listens from now on.
    pub fn begin() -> LogLines {
        // A second call finds the listener in place.
        let _ = log::set_logger(&Listener);
        log::set_max_level(LevelFilter::Info);
        LINES.set(Some(Vec::new()));
        LogLines(())
    }

    /// What was heard.
    pub fn end(self) -> Vec<String> {
        LINES.take().unwrap_or_default()
    }
}
