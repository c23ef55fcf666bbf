//! Arguments to exit code.

mod cli;
mod exit;

use std::io::{self, Write};
use std::process::ExitCode;

use grasp_sync::config::RawConfig;

use cli::{Command, Invocation};
use exit::{Exit, Failure};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()).map_err(Failure::from).and_then(carry_out) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // With standard error closed, the exit status still tells.
            let _ = writeln!(io::stderr(), "grasp-sync: {failure}");
            failure.exit().into()
        }
    }
}

fn carry_out(invocation: Invocation) -> Result<Exit, Failure> {
    match invocation.command {
        Command::Help => print(&cli::help()),
        Command::Version => print(cli::VERSION),
        Command::CheckConfig => check_config(&gather(&invocation)?),
        // The store and the event loop are not there yet.
        Command::Run | Command::Import { .. } | Command::Export { .. } => {
            gather(&invocation)?.check()?;
            Ok(Exit::Ok)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn gather(invocation: &Invocation) -> Result<RawConfig, Failure> {
    Ok(RawConfig::gather(invocation.config_file.as_deref(), std::env::vars_os(), &invocation.flags)?)
}

fn check_config(raw: &RawConfig) -> Result<Exit, Failure> {
    raw.check()?;
    print(&raw.effective())
}

/// Prints to standard output. A reader that has seen enough is no failure.
fn print(text: &str) -> Result<Exit, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::File { path: "standard output".into(), error })
        }
        _ => Ok(Exit::Ok),
    }
}
