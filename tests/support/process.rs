//! The built binary as a child process: its configuration, its log, its signals and what the kernel says of it.

use super::client::Client;
use super::http::{self, Response};
use super::memory_group::MemoryGroup;
use super::wait::{wait_at_most, wait_for, wait_looking_every};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pause between two looks at metrics or status, which cost the process time.
const STATUS_PAUSE: Duration = Duration::from_millis(200);
/// How long a start may take before the test fails.
const START: Duration = Duration::from_secs(30);

/// A directory that is removed with the value.
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    pub fn new(what: &str) -> TempDir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{what}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the target directory is writable");
        TempDir { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into the directory.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, contents).expect("the directory is writable");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A port nothing listened on a moment ago: for a service whose announcements must name its port before it starts.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// What one instance is started with. Its data directory lives as long as this value, so that it can be started again.
pub struct Setup {
    dir: TempDir,
    domain: String,
    bootstrap: Vec<String>,
    listen: String,
    further: String,
    log: &'static str,
    files_max: Option<u32>,
}

impl Setup {
    /// An instance for the service `domain`, on free ports.
    pub fn new(domain: &str) -> Setup {
        Setup {
            dir: TempDir::new("grasp-sync"),
            domain: domain.to_owned(),
            bootstrap: Vec::new(),
            listen: "127.0.0.1:0".to_owned(),
            further: String::new(),
            log: "info",
            files_max: None,
        }
    }

    /// With a relay that is always followed.
    pub fn bootstrap(mut self, url: &str) -> Setup {
        self.bootstrap.push(url.to_owned());
        self
    }

    /// With a fixed port for the own relay.
    pub fn listen_on(mut self, port: u16) -> Setup {
        self.listen = format!("127.0.0.1:{port}");
        self
    }

    /// With further lines of TOML: top-level keys first, then tables.
    pub fn toml(mut self, lines: &str) -> Setup {
        self.further.push_str(lines);
        self.further.push('\n');
        self
    }

    /// With another `RUST_LOG`.
    pub fn log(mut self, filter: &'static str) -> Setup {
        self.log = filter;
        self
    }

    /// With so many files that may be open at most.
    pub fn files_max(mut self, files: u32) -> Setup {
        self.files_max = Some(files);
        self
    }

    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// The file that the store is in, once there is one.
    pub fn store_file(&self) -> PathBuf {
        self.dir.path().join("data").join("store.redb")
    }

    fn config_file(&self) -> PathBuf {
        let bootstrap: Vec<String> = self.bootstrap.iter().map(|url| format!("{url:?}")).collect();
        let text = format!(
            "domain = {:?}\nbootstrap = [{}]\nlisten = {:?}\nadmin_listen = \"127.0.0.1:0\"\ndata_dir = {:?}\nallow_private_relays = true\n{}",
            self.domain,
            bootstrap.join(", "),
            self.listen,
            self.dir.path().join("data").to_str().expect("a readable path"),
            self.further,
        );
        self.dir.write("config.toml", text)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(None, arguments)
    }

    fn command_in(&self, group: Option<&MemoryGroup>, arguments: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_grasp-sync");
        let files = self.files_max.map(|files| format!("ulimit -n {files}; "));
        let join = group.map(|group| format!("echo $$ > {}; ", group.processes().display()));
        let first = [files, join].into_iter().flatten().collect::<String>();
        let mut command = Command::new(if first.is_empty() { binary } else { "sh" });
        if !first.is_empty() {
            command.args(["-c", &format!("{first}exec \"$0\" \"$@\""), binary]);
        }
        command.args(arguments).arg("--config").arg(self.config_file()).env("RUST_LOG", self.log);
        // The program refuses variables that it does not know, and the tests' own begin like its own.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GRASP_SYNC_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it listens.
    pub fn start(&self) -> Process {
        let mut process = self.spawn();
        process.wait_listening();
        process
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&self) -> Process {
        let group = MemoryGroup::asked_for();
        let mut child = self
            .command_in(group.as_ref(), &["run"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let of_thread = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                of_thread.lock().expect("no reader panics").push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Process { child, log, relay: None, admin: None, ended: None, group }
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.command(arguments).output().expect("the built binary starts")
    }

    /// Runs `import FILE` to its end.
    pub fn import(&self, file: &Path, flags: &[&str]) -> std::process::Output {
        self.command(&["import"]).args(flags).arg(file).output().expect("the built binary starts")
    }

    /// Runs `import` over the JSON lines of `events`, which must all be taken.
    pub fn import_events<'a>(&self, events: impl IntoIterator<Item = &'a nostr::event::Event>, flags: &[&str]) {
        let mut lines = String::new();
        for event in events {
            lines.push_str(&event.as_json());
            lines.push('\n');
        }
        let file = self.dir.write("import.jsonl", lines);
        let output = self.import(&file, flags);
        assert!(output.status.success(), "import failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `export` to its end and gives the ids of what the store holds. The daemon must not be running.
    pub fn exported_ids(&self) -> BTreeSet<nostr::event::EventId> {
        let file = self.dir.path().join("export.jsonl");
        // `export` overwrites nothing.
        let _ = std::fs::remove_file(&file);
        let output = self.command(&["export"]).arg(&file).output().expect("the built binary starts");
        assert!(output.status.success(), "export failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&file).expect("export writes the file");
        text.lines().map(|line| super::events::parse(line).id).collect()
    }
}

/// A running daemon. Dropping it kills it; if the test is panicking, its log is printed first.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    relay: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    ended: Option<ExitStatus>,
    /// After the child, which must have left it.
    group: Option<MemoryGroup>,
}

impl Process {
    /// Waits until it listens; its exit status if it ends instead.
    pub fn listens(&mut self) -> Result<(), ExitStatus> {
        let found = wait_at_most(START, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some(status);
                return Some(None);
            }
            let log = self.log.lock().expect("no reader panics");
            let (mut relay, mut admin) = (None, None);
            for line in log.iter() {
                if line.contains("own relay on ") {
                    relay = last_address(line);
                } else if line.contains("health and status on ") {
                    admin = last_address(line);
                }
            }
            Some(Some((relay?, admin?)))
        });
        match found {
            Some(Some((relay, admin))) => (self.relay, self.admin) = (Some(relay), Some(admin)),
            Some(None) => return Err(self.ended.expect("it has ended")),
            None => panic!("it does not say where it listens:\n{}", self.log_text()),
        }
        Ok(())
    }

    fn wait_listening(&mut self) {
        if let Err(status) = self.listens() {
            panic!("it ended at once: {status:?}\n{}", self.log_text());
        }
    }

    /// Where the own relay listens.
    pub fn relay(&self) -> SocketAddr {
        self.relay.expect("it was started with `start`")
    }

    /// Where metrics, health and status are.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("it was started with `start`")
    }

    /// The own relay's URL.
    pub fn url(&self) -> String {
        format!("ws://{}", self.relay())
    }

    pub fn client(&self) -> Client {
        Client::connect(self.relay())
    }

    pub fn get(&self, path: &str) -> Response {
        http::get(self.admin(), path, &[])
    }

    /// All metrics.
    pub fn metrics(&self) -> Metrics {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200, "{}", response.body);
        Metrics::parse(&response.body)
    }

    /// `/status.json`.
    pub fn status(&self) -> Value {
        let response = self.get("/status.json");
        assert_eq!(response.status, 200, "{}", response.body);
        serde_json::from_str(&response.body).unwrap_or_else(|e| panic!("status is not JSON ({e}): {}", response.body))
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        self.log.lock().expect("no reader panics").join("\n")
    }

    pub fn log_has(&self, text: &str) -> bool {
        self.log.lock().expect("no reader panics").iter().any(|line| line.contains(text))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.ended = Some(self.child.wait().expect("it is our child"));
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("`kill` exists");
        assert!(status.success(), "`kill -s {name}` failed");
    }

    /// SIGTERM, and its exit status; panics if it takes longer than `deadline`.
    pub fn stop_within(mut self, deadline: Duration) -> ExitStatus {
        self.terminate();
        self.exit_within(deadline)
    }

    /// Its exit status; panics if it takes longer than `deadline`.
    pub fn exit_within(&mut self, deadline: Duration) -> ExitStatus {
        let status = wait_for("the process ends", deadline, || self.child.try_wait().expect("it is our child"));
        self.ended = Some(status);
        status
    }

    fn proc_status(&self, field: &str) -> u64 {
        proc_status(&self.pid().to_string(), field)
    }

    pub fn threads(&self) -> u64 {
        self.proc_status("Threads")
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(&self.pid().to_string())
    }

    /// The most resident memory so far, in bytes.
    pub fn resident_bytes_peak(&self) -> u64 {
        self.proc_status("VmHWM") * 1024
    }

    /// The most memory that it had with what the kernel keeps for it, in bytes, if that is bounded.
    pub fn group_bytes_peak(&self) -> Option<u64> {
        self.group.as_ref().map(MemoryGroup::peak)
    }

    /// How often it gave up the processor of its own accord: once per sleep in `poll`.
    pub fn voluntary_switches(&self) -> u64 {
        self.proc_status("voluntary_ctxt_switches")
    }

    /// Processor time used so far, user and system together.
    pub fn cpu_time(&self) -> Duration {
        cpu_time_of_thread(&self.pid().to_string())
    }
}

/// A number of `/proc/<pid>/status`.
fn proc_status(pid: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {field} in /proc/<pid>/status"))
}

/// Resident memory of process `pid` in bytes; `self` is the test itself.
pub fn resident_bytes(pid: &str) -> u64 {
    proc_status(pid, "VmRSS") * 1024
}

/// Processor time of the one thread of process `pid`, to the nanosecond where the kernel keeps it.
pub fn cpu_time_of_thread(pid: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let spent = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    spent.map_or_else(|| cpu_time(pid), Duration::from_nanos)
}

/// Processor time of `/proc/<pid>`, user and system together; `self` is the test itself.
pub fn cpu_time(pid: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The command name, in parentheses, may hold anything; counting starts after it.
    let fields: Vec<&str> = text[text.rfind(')').expect("the name ends") + 1..].split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // Linux gives user space 100 ticks a second on every architecture it runs on (USER_HZ).
    Duration::from_millis(ticks * 10)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- log of process {} ({:?}) ---\n{}\n---", self.pid(), self.ended, tail.join("\n"));
        } else if let Some(fault) = self.log_text().lines().find(|line| line.contains(": fault: ")) {
            panic!("a bug ended a link: {fault}");
        }
    }
}

fn last_address(line: &str) -> Option<SocketAddr> {
    line.split(|c: char| c.is_whitespace() || c == ',' || c == '/').rev().find_map(|word| word.parse().ok())
}

/// Samples of a Prometheus text.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<(String, String, f64)>,
    text: String,
}

impl Metrics {
    pub fn parse(text: &str) -> Metrics {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
                (name.to_owned(), labels.trim_end_matches('}').to_owned(), value)
            })
            .collect();
        Metrics { samples, text: text.to_owned() }
    }

    /// The sum over all series called `name` whose labels hold every one of `labels` (each as in `reason="forged"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples
            .iter()
            .filter(|(n, l, _)| n == name && labels.iter().all(|wanted| l.contains(wanted)))
            .map(|(_, _, value)| value)
            .sum()
    }

    /// Whether there is a series called `name` with these labels.
    pub fn has(&self, name: &str, labels: &[&str]) -> bool {
        self.samples.iter().any(|(n, l, _)| n == name && labels.iter().all(|wanted| l.contains(wanted)))
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// One relay of `/status.json`.
#[derive(Debug, Clone)]
pub struct RelayStatus {
    pub url: String,
    pub state: String,
    pub sweeps_left: u64,
    pub whole: Value,
}

impl Process {
    /// The relays it follows.
    pub fn relays(&self) -> Vec<RelayStatus> {
        let status = self.status();
        let relays = status["relays"].as_array().unwrap_or_else(|| panic!("no relays in {status}"));
        relays
            .iter()
            .map(|relay| RelayStatus {
                url: relay["url"].as_str().unwrap_or_default().to_owned(),
                state: relay["state"].as_str().unwrap_or_default().to_ascii_lowercase(),
                sweeps_left: relay["sweeps_left"].as_u64().unwrap_or(0),
                whole: relay.clone(),
            })
            .collect()
    }

    /// Waits until `count` relays are live with nothing left to sweep.
    pub fn wait_live(&self, count: usize, deadline: Duration) {
        let mut last = Vec::new();
        let live = wait_looking_every(STATUS_PAUSE, deadline, || {
            last = self.relays();
            let live = last.iter().filter(|r| r.state == "live" && r.sweeps_left == 0).count();
            (live >= count).then_some(())
        });
        assert!(live.is_some(), "not {count} live relays within {deadline:?}: {last:#?}");
    }

    /// Waits until `count` events have been stored since the start.
    pub fn wait_stored(&self, count: usize, deadline: Duration) {
        let stored =
            wait_looking_every(STATUS_PAUSE, deadline, || (self.events_stored() >= count as u64).then_some(()));
        assert!(stored.is_some(), "{} of {count} events stored within {deadline:?}", self.events_stored());
    }

    /// Events stored since the start, whatever their source.
    pub fn events_stored(&self) -> u64 {
        self.metrics().sum("ngit_sync_events_total", &[]) as u64
    }
}
