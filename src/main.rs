//! Arguments to exit code.

mod cli;
mod exit;
mod rescue;
mod transfer;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use grasp_sync::config::{Config, RawConfig};
use grasp_sync::engine::Engine;
use grasp_sync::intake::Rules;
use grasp_sync::io::clock::Clock;
use grasp_sync::io::disk::Disk;
use grasp_sync::io::event_loop::{EventLoop, LoopOptions, NameSource, RunError};
use grasp_sync::io::{files, secret, tls};
use grasp_sync::limits::EVENT_ESCAPE_BYTES_MAX;
use grasp_sync::store::{Store, StoreError};
use redb::backends::FileBackend;

use cli::{Command, Invocation};
use exit::{Exit, Failure, Remedy};

fn main() -> ExitCode {
    grasp_sync::fault::watch();
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
    match &invocation.command {
        Command::Help => print(&cli::help()),
        Command::Version => print(cli::VERSION),
        Command::CheckConfig => check_config(&gather(&invocation)?),
        Command::Run => run(gather(&invocation)?.check()?),
        Command::Import { file, policy } => import(gather(&invocation)?.check()?, file.as_deref(), *policy),
        Command::Export { file, salvage: false } => export(&gather(&invocation)?, file.as_deref()),
        Command::Export { file, salvage: true } => rescue::salvage(&gather(&invocation)?, file.as_deref()),
        Command::Verify => rescue::verify(&gather(&invocation)?),
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

fn run(mut config: Config) -> Result<Exit, Failure> {
    start_log("info");
    let tls = tls::client_config(config.ca_file.as_deref())
        .map_err(|error| Failure::CaFile { path: config.ca_file.clone().unwrap_or_default(), error })?;
    if let Some(path) = &config.auth_key_file {
        let key = secret::read_key(path).map_err(|error| Failure::AuthKeyFile { path: path.clone(), error })?;
        config.settings.auth_key = Some(key);
    }
    let limits = &mut config.settings.limits;
    let open_files = files::raise_limit();
    if files::fit(limits, open_files) {
        log::warn!(
            "only {open_files} files may be open: limits.relays_max is {} and limits.clients_max {}; raise the limit \
             (`ulimit -n`, `LimitNOFILE`)",
            limits.relays_max,
            limits.clients_max
        );
    }
    // The addresses first: they are the quicker to fail, and nothing is served before the loop turns.
    let mut event_loop = EventLoop::bind(LoopOptions {
        listen: config.listen,
        admin_listen: config.admin_listen,
        allow_private: config.allow_private_relays,
        service: config.settings.service.clone(),
        tls,
        connect_timeout: config.settings.timing.connect_timeout,
        loopback_exempt: config.settings.limits.loopback_exempt,
        clients_max: config.settings.limits.clients_max,
        clients_per_address: config.settings.limits.clients_per_address,
        trusted_proxies: config.trusted_proxies,
        buffers_bytes: config.settings.limits.buffers_bytes,
        names: NameSource::System,
    })
    .map_err(Failure::Bind)?;
    event_loop.catch_signals().map_err(Failure::Bind)?;
    make_dir(&config.data_dir)?;
    let path = store_path(&config.data_dir);
    let failure = |error| Failure::Store { path: path.clone(), error };
    let store = open_store(&path, config.store_cache_bytes)?;
    event_loop.watch_disk(Disk::of(&path));
    let mut engine = Engine::new(store, config.settings, event_loop.now()).map_err(failure)?;
    event_loop.run(&mut engine).map_err(|error| match error {
        RunError::Poll(error) => Failure::Poll(error),
        RunError::Store(error) => failure(error),
    })?;
    engine.close().map_err(failure)?;
    Ok(Exit::Ok)
}

fn import(config: Config, file: Option<&Path>, policy: bool) -> Result<Exit, Failure> {
    start_log("warn");
    let input = transfer::Input::open(file)?;
    make_dir(&config.data_dir)?;
    let path = store_path(&config.data_dir);
    let failure = |error| Failure::Store { path: path.clone(), error };
    let store = open_store(&path, config.store_cache_bytes)?;
    let clock = Clock::start();
    let line_bytes_max = config.settings.limits.event_bytes_max * EVENT_ESCAPE_BYTES_MAX;
    let mut engine = Engine::new(store, config.settings, clock.now()).map_err(failure)?;
    let rules = if policy { Rules::All } else { Rules::ValidOnly };
    let take = |line: &str| {
        let outcome = engine.import(clock.now(), line, rules)?;
        if engine.commit_due(clock.now(), false) {
            engine.commit_or_fail(clock.now())?;
        }
        Ok(outcome)
    };
    let summary = transfer::import(input, line_bytes_max, take, failure);
    // What was taken before a failure to read is kept. After a failure of the store there is nothing to save.
    if !matches!(summary, Err(Failure::Store { .. })) {
        engine.commit_or_fail(clock.now()).map_err(failure)?;
        engine.close().map_err(failure)?;
    }
    let summary = summary?;
    print(&format!("{summary}\n"))?;
    Ok(if summary.failed_total() == 0 { Exit::Ok } else { Exit::ImportIncomplete })
}

fn export(raw: &RawConfig, file: Option<&Path>) -> Result<Exit, Failure> {
    start_log("warn");
    let (path, cache_bytes) = existing_store(raw)?;
    let store = open_store(&path, cache_bytes)?;
    transfer::export(file, |line| {
        store.for_each(line).map_err(|error| Failure::Store { path: path.clone(), error })?;
        match store.damage_found() {
            false => Ok(()),
            true => {
                Err(Failure::Damaged { path: path.clone(), found: "an event is damaged".into(), remedy: Remedy::Start })
            }
        }
    })?;
    Ok(Exit::Ok)
}

/// The file of a store that is there, and how much of it is kept in memory.
fn existing_store(raw: &RawConfig) -> Result<(PathBuf, usize), Failure> {
    let (data_dir, cache_bytes) = raw.check_store()?;
    let path = store_path(&data_dir);
    if path.is_file() { Ok((path, cache_bytes)) } else { Err(Failure::NoStore { path }) }
}

/// Starts the log on standard error. `RUST_LOG` beats `level`.
fn start_log(level: &str) {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}

/// The store's file in `data_dir`.
fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("store.redb")
}

fn make_dir(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| Failure::File { path: path.to_path_buf(), error })
}

fn open_store(path: &Path, cache_bytes: usize) -> Result<Store, Failure> {
    let failure = |error: StoreError| Failure::Store { path: path.to_path_buf(), error };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| Failure::File { path: path.to_path_buf(), error })?;
    let backend = FileBackend::new(file).map_err(|error| failure(error.into()))?;
    Store::open(backend, cache_bytes).map_err(failure)
}
