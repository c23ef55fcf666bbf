//! Faults: a panic in the machine of one relay or of one client ends that link alone (spec section 16, "Isolation").
//!
//! [`isolate`] runs what belongs to one party and catches its panic. What all parties share, the store first of all, runs
//! inside [`shared`] even then: a panic there may leave anything half done, and is not caught. Nor is one that comes while
//! nobody is isolated.
//!
//! [`watch`] arranges what the process does with a panic. One that is caught is described by the [`Fault`] alone. Any
//! other aborts the process before the stack is unwound: nothing that is half done is carried to the disk, as with a
//! power cut.
//!
//! The panic hook belongs to the whole process and is given no argument, so it looks up here, thread by thread, what is
//! being run.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use crate::limits::{FAULT_BACKTRACES_MAX, FAULT_FRAMES_MAX, FAULT_MESSAGE_CHARS_MAX};

/// Whose machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The relay with this key.
    Relay(usize),
    /// The client with this number.
    Client(u64),
    /// Whoever asks for a page over HTTP.
    Page,
}

/// What a panic would mean now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The end of the process: nobody is isolated.
    Exposed,
    /// The end of one link.
    Isolated,
    /// The end of the process: one party uses what belongs to all.
    Shared,
}

/// A panic that was caught. `Display` gives one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    message: String,
    /// File, line and column; `None` where [`watch`] was not called.
    location: Option<String>,
    /// The innermost functions, that of the panic first.
    frames: Vec<String>,
}

/// What the panic hook has seen of a panic that is about to be caught.
struct Seen {
    location: Option<String>,
    frames: Vec<String>,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Exposed) };
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    static INJECTED: Cell<Option<(Party, u32)>> = const { Cell::new(None) };
    static BACKTRACES: Cell<u32> = const { Cell::new(0) };
}

/// Runs what belongs to one party alone.
///
/// # Errors
///
/// If it has panicked. What it has changed is then anywhere between before and after: the caller lets go of all that
/// belongs to the party.
#[inline]
pub fn isolate<R>(party: Party, act: impl FnOnce() -> R) -> Result<R, Fault> {
    let outer = MODE.replace(Mode::Isolated);
    let mut done = None;
    let caught = panic::catch_unwind(AssertUnwindSafe(|| {
        done = Some(act());
        if INJECTED.get().is_some() {
            fail_if_injected(party);
        }
    }));
    let inner = MODE.replace(outer);
    match caught {
        Ok(()) => Ok(done.expect("what does not panic comes to its end")),
        Err(payload) if inner == Mode::Shared => panic::resume_unwind(payload),
        Err(payload) => Err(Fault::of(payload)),
    }
}

/// Runs what belongs to all parties while one of them is isolated: its panic is not caught.
#[inline]
pub fn shared<R>(act: impl FnOnce() -> R) -> R {
    let outer = MODE.get();
    if outer == Mode::Isolated {
        MODE.set(Mode::Shared);
    }
    let done = act();
    // Not reached by a panic, so that whoever catches it sees where it came from.
    MODE.set(outer);
    done
}

/// From now on a panic that is caught is seen with its backtrace and printed nowhere, and any other aborts the process as
/// soon as it is printed.
pub fn watch() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if MODE.get() == Mode::Isolated {
            SEEN.set(Some(Seen::of(info)));
        } else {
            print(info);
            std::process::abort();
        }
    }));
}

/// For tests and simulations: a party's machine panics when it has acted `times` times more on this thread.
pub fn inject(party: Party, times: u32) {
    INJECTED.set(Some((party, times)));
}

#[cold]
fn fail_if_injected(party: Party) {
    let Some((of, times)) = INJECTED.get() else { return };
    if of == party {
        INJECTED.set((times > 1).then(|| (of, times - 1)));
        assert!(times > 1, "a fault was injected");
    }
}

impl Seen {
    fn of(info: &PanicHookInfo<'_>) -> Seen {
        let taken = BACKTRACES.get();
        BACKTRACES.set(taken.saturating_add(1));
        let frames = match taken < FAULT_BACKTRACES_MAX {
            true => frames(&Backtrace::force_capture().to_string()),
            false => Vec::new(),
        };
        Seen { location: info.location().map(ToString::to_string), frames }
    }
}

impl Fault {
    #[cold]
    fn of(payload: Box<dyn Any + Send>) -> Fault {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
        let Seen { location, frames } = SEEN.take().unwrap_or(Seen { location: None, frames: Vec::new() });
        Fault { message: one_line(text), location, frames }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault: {}", self.message)?;
        if let Some(location) = &self.location {
            write!(f, ", at {location}")?;
        }
        if !self.frames.is_empty() {
            write!(f, ", in {}", self.frames.join(" < "))?;
        }
        Ok(())
    }
}

/// A message may hold a peer's words: it is neither long nor more than one line.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(FAULT_MESSAGE_CHARS_MAX).collect()
}

/// The names of the innermost functions in the text of a backtrace, without those that make a panic and look at it.
fn frames(backtrace: &str) -> Vec<String> {
    let named = backtrace.lines().filter_map(|line| {
        let (number, name) = line.trim_start().split_once(": ")?;
        number.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
    });
    let panics = |name: &&str| PANIC_FRAMES.iter().any(|of| name.trim_start_matches('<').starts_with(of));
    named.skip_while(panics).take(FAULT_FRAMES_MAX).map(one_line).collect()
}

/// How the names of functions begin that are on the stack of every panic.
const PANIC_FRAMES: [&str; 6] = ["std::", "core::", "alloc::", "rust_begin_unwind", "__rustc", "grasp_sync::fault"];

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: Party = Party::Relay(3);

    #[test]
    fn a_panic_of_one_party_is_caught_and_told_in_one_line() {
        let fault = isolate(RELAY, || assert_eq!(1, 2, "they said \"{}\"", "no\r\n")).expect_err("it panics");
        let line = fault.to_string();
        assert!(line.starts_with("fault: assertion") && line.contains("they said \"no  \""), "{line}");
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(isolate(RELAY, || 7), Ok(7), "and the next is as good as any");
        let long = isolate(RELAY, || panic!("{}", "x".repeat(100_000))).expect_err("it panics");
        assert!(long.to_string().len() < 1_000);
    }

    #[test]
    fn a_panic_in_what_belongs_to_all_is_not_caught() {
        let caught = panic::catch_unwind(|| isolate(RELAY, || shared(|| panic!("the store")))).expect_err("it goes on");
        assert_eq!(caught.downcast_ref::<&str>(), Some(&"the store"));
        assert_eq!(MODE.get(), Mode::Exposed);
        let after = isolate(RELAY, || {
            assert_eq!(shared(|| 5), 5);
            panic!("the machine")
        });
        assert_eq!(after.expect_err("its own again").message, "the machine");
    }

    #[test]
    fn a_fault_is_injected_once_into_one_party() {
        let acts = |party| isolate(party, || ()).is_ok();
        inject(RELAY, 2);
        assert!(acts(Party::Client(3)) && acts(RELAY) && acts(Party::Relay(4)));
        assert!(!acts(RELAY));
        assert!(acts(RELAY), "only once");
    }

    #[test]
    fn a_backtrace_begins_where_the_panic_was() {
        let text = "   0: <std::backtrace::Backtrace>::force_capture\n             at /rustc/x/std/src/backtrace.rs:1:2\n   \
                    1: grasp_sync::fault::Seen::of\n   2: core::panicking::panic_fmt\n   3: grasp_sync::sync::relay::Relay::settle\n   \
                    4: core::ops::function::FnOnce::call_once\n";
        assert_eq!(frames(text), ["grasp_sync::sync::relay::Relay::settle", "core::ops::function::FnOnce::call_once"]);
        let deep: String = (0..100).map(|n| format!("  {n}: of_{n}\n")).collect();
        assert_eq!(frames(&deep).len(), FAULT_FRAMES_MAX);
    }
}
