//! SIGTERM and SIGINT: the first asks the loop to stop, a second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook_mio::v1_0::Signals as Pipe;

/// Exit status after a second signal.
pub const SECOND_SIGNAL_STATUS: i32 = 130;

/// The signals that end the process, as something to poll.
pub struct Signals {
    pipe: Pipe,
}

impl Signals {
    /// Catches SIGTERM and SIGINT for the whole process from now on.
    ///
    /// # Errors
    ///
    /// If the system refuses to register them.
    pub fn catch(registry: &Registry, token: Token) -> io::Result<Self> {
        // The second signal must work while the loop is stuck in a slow commit, so the handler itself exits. It looks at
        // the flag before the next line's handler sets it: the order of registration is what makes it the second.
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, SECOND_SIGNAL_STATUS, Arc::clone(&seen))?;
            flag::register(signal, Arc::clone(&seen))?;
        }
        let mut pipe = Pipe::new([SIGTERM, SIGINT])?;
        registry.register(&mut pipe, token, Interest::READABLE)?;
        Ok(Signals { pipe })
    }

    /// Whether one has come since the last call.
    pub fn pending(&mut self) -> bool {
        self.pipe.pending().count() > 0
    }
}
