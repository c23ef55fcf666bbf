//! Relays that others wrote, each as a process of its own with an empty store. Which programs they are is said by
//! variables that `tests/peers/run` sets.

use crate::support::client::Client;
use crate::support::events::event_message;
use crate::support::process::{TempDir, free_port};
use crate::support::wait::{wait_for, wait_until};
use nostr::event::Event;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a relay may take to listen: some load an interpreter and lay out a database first.
const START: Duration = Duration::from_secs(60);
/// EVENTs on their way to a relay that are not answered yet.
const UNANSWERED: usize = 64;

/// A relay that runs until this value is dropped.
pub struct Foreign {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
    /// A process group of its own, killed as a whole.
    group: bool,
}

impl Foreign {
    /// rust-nostr's relay, with flags as `rust-nostr/src/bin/relay.rs` names them; `--lmdb` gets a directory of its own.
    pub fn rust_nostr(flags: &[&str]) -> Foreign {
        let dir = TempDir::new("rust-nostr");
        let mut command = Command::new(program("PEERS_RUST_NOSTR_RELAY"));
        command.args(flags).current_dir(dir.path());
        // Taking in 10,000 events is not what is tested.
        command.args(["--events-per-minute", "1000000"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the relay starts");
        let mut url = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut url).expect("it prints its URL");
        let address = url.trim().trim_start_matches("ws://").parse().unwrap_or_else(|e| panic!("{url:?}: {e}"));
        Foreign { child, address, dir, group: false }.listening()
    }

    /// nostr-rs-relay with its defaults and `limits`, lines of its `[limits]` table.
    pub fn nostr_rs_relay(limits: &str) -> Foreign {
        let dir = TempDir::new("nostr-rs-relay");
        let port = free_port();
        let config = format!("[network]\naddress = \"127.0.0.1\"\nport = {port}\n\n[limits]\n{limits}\n");
        let config = dir.write("config.toml", config);
        let mut command = Command::new(program("PEERS_NOSTR_RS_RELAY"));
        command.arg("--config").arg(config).arg("--db").arg(dir.path());
        Foreign::spawn(command, port, dir)
    }

    /// nostr_relay, in Python, with SQLite and its defaults, but for the age of events: it refuses those older than a
    /// year.
    pub fn nostr_relay() -> Foreign {
        let dir = TempDir::new("nostr_relay");
        let port = free_port();
        let database = dir.path().join("nostr.sqlite3");
        let config = dir.write(
            "config.yaml",
            format!(
                "DEBUG: false\nrelay_name: a peer\noldest_event: 315360000\n\
                 storage:\n  sqlalchemy.url: sqlite+aiosqlite:///{}\n  num_concurrent_reqs: 10\n  num_concurrent_adds: 2\n  \
                 validators:\n    - nostr_relay.validators.is_not_too_large\n    - nostr_relay.validators.is_signed\n    \
                 - nostr_relay.validators.is_recent\n\
                 verification:\n  nip05_verification: disabled\nauthentication:\n  enabled: false\n\
                 gunicorn:\n  bind: 127.0.0.1:{port}\n  workers: 1\n  loglevel: warning\n  reload: false\n\
                 subscription_limit: 32\nmax_limit: 6000\n",
                database.display(),
            ),
        );
        let mut command = Command::new(program("PEERS_NOSTR_RELAY"));
        command.arg("-c").arg(config).arg("serve");
        Foreign::spawn(command, port, dir)
    }

    fn spawn(mut command: Command, port: u16, dir: TempDir) -> Foreign {
        use std::os::unix::process::CommandExt;
        let log = File::create(dir.path().join("log")).expect("the directory is writable");
        let both = log.try_clone().expect("a file");
        // Servers of several processes end together.
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(log).stderr(both).process_group(0);
        let child = command.spawn().expect("the relay starts");
        Foreign { child, address: SocketAddr::from(([127, 0, 0, 1], port)), dir, group: true }.listening()
    }

    fn listening(mut self) -> Foreign {
        wait_until("the relay listens", START, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("it ended at once: {status}\n{}", self.log());
            }
            Client::try_connect(self.address).is_ok()
        });
        self
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Publishes `events` as any client would; the relay must take every one of them.
    pub fn publish(&self, events: &[Event]) {
        let mut client = Client::connect(self.address);
        for (n, event) in events.iter().enumerate() {
            client.send(event_message(event));
            if let Some(earlier) = n.checked_sub(UNANSWERED) {
                taken(&mut client, &events[earlier]);
            }
        }
        events[events.len().saturating_sub(UNANSWERED)..].iter().for_each(|event| taken(&mut client, event));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn taken(client: &mut Client, event: &Event) {
    let answer = client.answer_to(event).unwrap_or_else(|| panic!("no OK for {}", event.id));
    assert!(answer.accepted, "the relay refused {} of kind {}: {}", event.id, event.kind, answer.why);
}

/// The program that a variable names.
pub fn program(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: use tests/peers/run"));
    PathBuf::from(path)
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if self.group {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).status();
        }
        let _ = self.child.kill();
        wait_for("the relay ends", START, || self.child.try_wait().ok().flatten());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of the relay ---\n{}\n---", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}
