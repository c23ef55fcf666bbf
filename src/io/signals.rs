//! SIGTERM and SIGINT: the first asks the loop to stop, a second ends the process at once. SIGHUP does nothing: by the
//! system's default it would end the process, and service managers send it to have a configuration read again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook_mio::v1_0::Signals as Pipe;

/// Exit status after a second signal.
pub const SECOND_SIGNAL_STATUS: i32 = 130;

/// The signals that reach the loop, as something to poll.
pub struct Signals {
    pipe: Pipe,
    /// Whether the log says that SIGHUP does nothing.
    is_hangup_logged: bool,
}

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP for the whole process from now on.
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
        let mut pipe = Pipe::new([SIGTERM, SIGINT, SIGHUP])?;
        registry.register(&mut pipe, token, Interest::READABLE)?;
        Ok(Signals { pipe, is_hangup_logged: false })
    }

    /// Takes what has come since the last call; says whether one of it asks to stop.
    pub fn ask_to_stop(&mut self) -> bool {
        let Signals { pipe, is_hangup_logged } = self;
        let mut stop = false;
        for signal in pipe.pending() {
            if signal != SIGHUP {
                stop = true;
            } else if !std::mem::replace(is_hangup_logged, true) {
                log::info!("SIGHUP: the configuration is read at start only");
            }
        }
        stop
    }
}
