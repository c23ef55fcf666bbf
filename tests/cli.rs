//! The built binary from the outside: what it prints, what it leaves behind, and the status it exits with.
#![allow(clippy::disallowed_methods, reason = "tests of a process live by the real clock")]

mod support;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nostr::event::Event;
use support::events::{Author, altered, forged, json, sorted_ids};
use support::process::TempDir;
use support::wait::wait_for;

const OK: i32 = 0;
const IMPORT_INCOMPLETE: i32 = 1;
const USAGE: i32 = 2;
const STORE_LOCKED: i32 = 3;
const STORE_UNUSABLE: i32 = 4;
const CANNOT_BIND: i32 = 5;
const IO: i32 = 6;

const DOMAIN: &str = "grasp.test";
const DEADLINE: Duration = Duration::from_secs(30);

/// A working directory, and the binary in it with nothing of ours in its environment.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: TempDir::new("cli") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("grasp-sync-data/store.redb")
    }

    fn bare(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GRASP_SYNC_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.bare(env!("CARGO_BIN_EXE_grasp-sync"));
        command.args(line.split_whitespace());
        command
    }

    /// Runs a command to its end, or kills it at the deadline and panics.
    fn end_of(&self, mut command: Command) -> Ended {
        let (stdout, stderr) = (self.path("stdout"), self.path("stderr"));
        let create = |path| File::create(path).expect("the directory is writable");
        let child = command.stdout(create(&stdout)).stderr(create(&stderr)).spawn().expect("the program starts");
        let status = Running { child }.end();
        let text = |path| fs::read_to_string(path).expect("it prints UTF-8");
        Ended { status: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    fn run(&self, line: &str) -> Ended {
        self.end_of(self.command(line))
    }

    /// Starts the daemon on free ports and waits until it says where it listens, which is once it holds the store.
    fn start(&self) -> Running {
        let log = self.path("log");
        let file = File::create(&log).expect("the directory is writable");
        let mut command = self.command(&format!("--domain {DOMAIN} --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0"));
        let mut daemon = Running { child: command.stderr(file).spawn().expect("the binary starts") };
        wait_for("the daemon says where it listens", DEADLINE, || {
            let text = fs::read_to_string(&log).expect("the log is there");
            assert_eq!(daemon.child.try_wait().expect("it is our child"), None, "it ended at once: {text}");
            (text.matches("://127.0.0.1:").count() >= 2).then_some(())
        });
        daemon
    }

    fn import(&self, lines: impl AsRef<[u8]>, flags: &str) -> Ended {
        self.dir.write("import.jsonl", lines);
        self.run(&format!("import import.jsonl --domain {DOMAIN} {flags}"))
    }

    fn exported(&self) -> Vec<Event> {
        let ended = self.run("export");
        assert_eq!(ended.status, Some(OK), "{ended:?}");
        ended.stdout.lines().map(support::events::parse).collect()
    }
}

/// A child that is killed with the value.
struct Running {
    child: Child,
}

impl Running {
    fn end(mut self) -> ExitStatus {
        wait_for("the command ends", DEADLINE, || self.child.try_wait().expect("it is our child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// It failed with `status` and one line that holds every one of `words`.
    #[track_caller]
    fn failed(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stdout, "", "failures are told on standard error");
        assert_eq!(self.stderr.lines().count(), 1, "one line: {}", self.stderr);
        assert!(self.stderr.starts_with("grasp-sync: "), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
    }

    /// It was an import, and ended with `status` and this summary.
    #[track_caller]
    fn imported(&self, status: i32, summary: &str) {
        assert_eq!((self.status, self.stdout.trim_end()), (Some(status), summary), "{}", self.stderr);
    }
}

/// An announcement of our service, an issue and a comment: each belongs only once the one before is there.
fn thread() -> [Event; 3] {
    let (owner, user) = (Author::from_seed(1), Author::from_seed(2));
    let announcement = owner.announcement("repo", &[DOMAIN], &["wss://grasp.test"], 1_700_000_000);
    let issue = user.issue(&owner.repo("repo"), "one", 1_700_000_100);
    let comment = owner.comment(&issue, 1_700_000_200, "yes");
    [announcement, issue, comment]
}

fn lines<'a>(events: impl IntoIterator<Item = &'a Event>) -> String {
    events.into_iter().map(|event| json(event) + "\n").collect()
}

#[test]
fn an_import_begins_behind_a_byte_order_mark() {
    let place = Place::new();
    place.import(format!("\u{feff}{}", lines(&thread())), "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");
}

#[test]
fn a_hangup_is_logged_once_and_ends_nothing() {
    let place = Place::new();
    let mut daemon = place.start();
    let signal = |name: &str, daemon: &Running| {
        let status = Command::new("kill").args(["-s", name, &daemon.child.id().to_string()]).status();
        assert!(status.expect("`kill` exists").success());
    };
    let log = || fs::read_to_string(place.path("log")).expect("the log is there");
    signal("HUP", &daemon);
    wait_for("the hangup is logged", DEADLINE, || log().contains("SIGHUP").then_some(()));
    signal("HUP", &daemon);
    assert_eq!(daemon.child.try_wait().expect("it is our child"), None);
    signal("TERM", &daemon);
    assert_eq!(daemon.end().code(), Some(OK));
    assert_eq!(log().matches("SIGHUP").count(), 1, "{}", log());
}

#[test]
fn help_and_version_go_to_standard_output() {
    let place = Place::new();
    for line in ["--help", "-h", "import --help"] {
        let ended = place.run(line);
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(OK), ""));
        assert!(ended.stdout.contains("check-config") && ended.stdout.contains("--bootstrap"), "{}", ended.stdout);
    }
    let version = place.run("--version");
    assert_eq!(version.stdout, concat!("grasp-sync ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn bad_command_lines_are_usage_errors() {
    let place = Place::new();
    place.run("synchronise").failed(USAGE, &["synchronise", "import"]);
    place.run("--lisen 1").failed(USAGE, &["--lisen", "--help"]);
    place.run("--domain").failed(USAGE, &["--domain", "value missing"]);
    place.run("run fast").failed(USAGE, &["fast"]);
    place.run("import").failed(USAGE, &["import", "file missing"]);
    place.run("--no-policy").failed(USAGE, &["--no-policy"]);
}

#[test]
fn bad_configurations_name_source_key_and_remedy() {
    let place = Place::new();
    place.run("").failed(USAGE, &["domain", "--domain HOST", "GRASP_SYNC_DOMAIN"]);
    place.run("--domain https://a.example").failed(USAGE, &["--domain", "https://a.example", "git.example.com"]);
    place
        .run("--domain a.example --bootstrap http://b.example")
        .failed(USAGE, &["--bootstrap", "http://b.example", "wss://relay.example.com"]);
    place.run("--domain a.example --listen 7334").failed(USAGE, &["--listen", "7334", "127.0.0.1:7334"]);
    place.run("--config nowhere.toml").failed(USAGE, &["nowhere.toml", "--config"]);
    place.dir.write("unknown.toml", "domain = 'a.example'\nlisten_on = '127.0.0.1:1'\n");
    place.run("--config unknown.toml").failed(USAGE, &["unknown.toml", "listen_on"]);
    place.dir.write("latin1.toml", b"domain = 'caf\xe9.example'\n");
    place.run("--config latin1.toml").failed(USAGE, &["latin1.toml"]);
    place.dir.write("broken.toml", "domain = \n");
    place.run("--config broken.toml").failed(USAGE, &["broken.toml:1"]);
    let mut command = place.command("--domain a.example");
    command.env("GRASP_SYNC_LIMITS_RELAYS_MAX", "many");
    place.end_of(command).failed(USAGE, &["GRASP_SYNC_LIMITS_RELAYS_MAX", "many", "whole number"]);
    assert!(!place.path("grasp-sync-data").exists(), "nothing was made");
}

#[test]
fn check_config_prints_what_is_in_effect_and_its_own_output_is_a_configuration() {
    let place = Place::new();
    place.dir.write("config.toml", "domain = 'file.example'\n[timing]\nping_secs = 7\n");
    let mut command = place.command("check-config --config config.toml --listen 127.0.0.1:1");
    command.env("GRASP_SYNC_DOMAIN", "env.example");
    let first = place.end_of(command);
    assert_eq!((first.status, first.stderr.as_str()), (Some(OK), ""));
    for line in ["domain = \"env.example\" # GRASP_SYNC_DOMAIN", "ping_secs = 7 # config.toml"] {
        assert!(first.stdout.lines().any(|l| l == line), "{line} is not in {}", first.stdout);
    }
    place.dir.write("again.toml", &first.stdout);
    let again = place.run("check-config --config again.toml");
    let values =
        |text: &str| text.lines().map(|l| l.split(" # ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&again.stdout), values(&first.stdout));
    place.run("check-config").failed(USAGE, &["domain"]);
}

#[test]
fn an_unusable_ca_file_is_a_usage_error() {
    let place = Place::new();
    place.dir.write("empty.pem", "");
    for (file, why) in [("nowhere.pem", "nowhere.pem"), ("empty.pem", "certificate")] {
        let mut command = place.command("--domain a.example --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0");
        command.env("GRASP_SYNC_CA_FILE", file);
        place.end_of(command).failed(USAGE, &[file, why]);
    }
}

#[test]
fn an_unusable_auth_key_file_is_a_usage_error_that_does_not_repeat_it() {
    let place = Place::new();
    let secret = "01".repeat(32);
    for (file, text, mode, why) in [
        ("open.key", secret.as_str(), 0o644, "chmod 600"),
        ("group.key", secret.as_str(), 0o640, "mode 640"),
        ("bad.key", &secret[2..], 0o600, "secret key"),
    ] {
        place.dir.write(file, text);
        fs::set_permissions(place.path(file), fs::Permissions::from_mode(mode)).expect("our own file");
        let line = format!("--domain a.example --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --auth-key-file {file}");
        let ended = place.run(&line);
        ended.failed(USAGE, &[file, "auth_key_file", why]);
        assert!(!ended.stderr.contains(&secret[2..]), "{}", ended.stderr);
    }
    let mut command = place.command("--domain a.example --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0");
    command.env("GRASP_SYNC_AUTH_KEY_FILE", "nowhere.key");
    place.end_of(command).failed(USAGE, &["nowhere.key", "auth_key_file"]);
}

#[test]
fn a_taken_port_is_named() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let ended = place.run(&format!("--domain {DOMAIN} --listen {address} --admin-listen 127.0.0.1:0"));
    ended.failed(CANNOT_BIND, &[&address, "listen"]);
    let ended = place.run(&format!("--domain {DOMAIN} --listen 127.0.0.1:0 --admin-listen {address}"));
    ended.failed(CANNOT_BIND, &[&address, "admin_listen"]);
}

#[test]
fn a_store_in_use_is_left_alone() {
    let place = Place::new();
    place.import(lines(&thread()), "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");
    let daemon = place.start();
    place.run("export").failed(STORE_LOCKED, &["store.redb", "another process"]);
    place.run("export out.jsonl").failed(STORE_LOCKED, &["store.redb"]);
    assert!(!place.path("out.jsonl").exists() && !place.path("out.jsonl.part").exists());
    place.import(lines(&thread()), "").failed(STORE_LOCKED, &["store.redb"]);
    place
        .run("--domain a.example --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0")
        .failed(STORE_LOCKED, &["store.redb"]);
    drop(daemon);
    assert_eq!(place.exported().len(), 3);
}

#[test]
fn a_damaged_store_is_refused_and_not_written_to() {
    let place = Place::new();
    place.import(lines(&thread()), "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");
    let whole = fs::read(place.store()).expect("the store is there");
    let truncated = whole[..whole.len() / 2].to_vec();
    let mut overwritten = whole.clone();
    overwritten[..4096].fill(0x5a);
    let garbage: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (what, bytes) in [("truncated", truncated), ("overwritten", overwritten), ("garbage", garbage)] {
        fs::write(place.store(), &bytes).expect("the store is writable");
        place.run("export").failed(STORE_UNUSABLE, &["store.redb"]);
        place.import(lines(&thread()), "").failed(STORE_UNUSABLE, &["store.redb"]);
        let daemon = format!("--domain {DOMAIN} --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0");
        place.run(&daemon).failed(STORE_UNUSABLE, &["store.redb"]);
        assert!(fs::read(place.store()).expect("it is there") == bytes, "{what}: the file was changed");
    }
    fs::write(place.store(), whole).expect("the store is writable");
    assert_eq!(place.exported().len(), 3);
}

#[test]
fn a_data_dir_that_cannot_be_is_an_io_error() {
    let place = Place::new();
    place.dir.write("file", "");
    let daemon = format!("--domain {DOMAIN} --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --data-dir file/data");
    place.run(&daemon).failed(IO, &["file/data"]);
    place.run("export --data-dir nowhere").failed(USAGE, &["nowhere", "data_dir"]);
    assert!(!place.path("nowhere").exists());
}

#[test]
fn an_import_counts_every_line() {
    let place = Place::new();
    let [announcement, issue, comment] = thread();
    let stranger = Author::from_seed(3);
    let note = stranger.sign(1, 1_700_000_300, vec![], "of no repository");
    let other = stranger.comment(&issue, 1_700_000_400, "never seen unforged");
    let mut file = lines([&announcement, &issue]).into_bytes();
    file.extend(lines([&forged(&other), &altered(&other), &note]).bytes());
    file.extend(b"\n  \n{\"id\":\"00\",\n\xff\xfe\n");
    file.extend(format!("{{\"content\":\"{}\"}}\n", "x".repeat(1_200_000)).bytes());
    // Line 11: the last one, and without its end.
    file.extend(json(&comment).bytes());
    let failed = "6 failed (1 event_too_large, first in line 10; 2 forged, first in line 3; \
                  1 malformed, first in line 8; 1 not_utf8, first in line 9; 1 unrelated, first in line 5)";
    place.import(&file, "").imported(IMPORT_INCOMPLETE, &format!("3 new, 0 known, 0 outdated, {failed}"));
    place.import(&file, "").imported(IMPORT_INCOMPLETE, &format!("0 new, 3 known, 0 outdated, {failed}"));
    place.import(lines([&note]), "--no-policy").imported(OK, "1 new, 0 known, 0 outdated, 0 failed");
    let truncated = &json(&comment)[..100];
    place
        .import(truncated, "--no-policy")
        .imported(IMPORT_INCOMPLETE, "0 new, 0 known, 0 outdated, 1 failed (1 malformed, first in line 1)");
    place
        .import(lines([&forged(&stranger.sign(1, 1_700_000_400, vec![], "never"))]), "--no-policy")
        .imported(IMPORT_INCOMPLETE, "0 new, 0 known, 0 outdated, 1 failed (1 forged, first in line 1)");
    assert_eq!(sorted_ids(&place.exported()), sorted_ids([&announcement, &issue, &comment, &note]));
}

#[test]
fn a_dump_may_be_newest_first_and_standard_input_is_read_once() {
    let [announcement, issue, comment] = thread();
    let newest_first = lines([&comment, &issue, &announcement]);
    let place = Place::new();
    place.import(&newest_first, "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");

    let place = Place::new();
    place.dir.write("dump.jsonl", &newest_first);
    let mut command = place.command(&format!("import - --domain {DOMAIN}"));
    command.stdin(File::open(place.path("dump.jsonl")).expect("it was just written"));
    place
        .end_of(command)
        .imported(IMPORT_INCOMPLETE, "1 new, 0 known, 0 outdated, 2 failed (2 unrelated, first in line 1)");
}

#[test]
fn old_versions_are_no_failures() {
    let owner = Author::from_seed(1);
    let version = |at| owner.announcement("repo", &[DOMAIN], &["wss://grasp.test"], at);
    let file = lines([&version(1_700_000_000), &version(1_700_000_001)]);
    let place = Place::new();
    place.import(&file, "").imported(OK, "2 new, 0 known, 0 outdated, 0 failed");
    place.import(&file, "").imported(OK, "0 new, 1 known, 1 outdated, 0 failed");
    assert_eq!(place.exported().len(), 1);
}

#[test]
fn an_unreadable_import_makes_no_store() {
    let place = Place::new();
    fs::create_dir(place.path("directory")).expect("the directory is writable");
    place.run(&format!("import nowhere.jsonl --domain {DOMAIN}")).failed(USAGE, &["nowhere.jsonl"]);
    place.run(&format!("import directory --domain {DOMAIN}")).failed(USAGE, &["directory"]);
    place.run("import nowhere.jsonl").failed(USAGE, &["domain"]);
    assert!(!place.path("grasp-sync-data").exists());
}

#[test]
fn an_export_imports_as_the_same() {
    let place = Place::new();
    place.import(lines(&thread()), "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");
    let ended = place.run("export out.jsonl");
    assert_eq!((ended.status, ended.stdout.as_str(), ended.stderr.as_str()), (Some(OK), "", ""));
    let exported = fs::read_to_string(place.path("out.jsonl")).expect("the export is there");
    assert_eq!(exported, lines(&thread()), "in the order in which they were stored");
    assert_eq!(place.run("export -").stdout, exported);
    assert!(!place.path("out.jsonl.part").exists());

    place.run("export out.jsonl").failed(USAGE, &["out.jsonl", "exists"]);
    place.run("export nowhere/out.jsonl").failed(IO, &["nowhere/out.jsonl"]);

    let other = Place::new();
    other.import(&exported, "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");
    assert_eq!(other.run("export").stdout, exported);
}

#[test]
fn a_full_medium_loses_nothing_that_was_taken() {
    let place = Place::new();
    place.import(lines(&thread()), "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");

    // Where standard output cannot take it.
    let mut command = place.command("export");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has /dev/full");
    let stderr = File::create(place.path("stderr")).expect("the directory is writable");
    let child = command.stdout(full).stderr(stderr).spawn().expect("the binary starts");
    assert_eq!(Running { child }.end().code(), Some(IO));
    assert!(fs::read_to_string(place.path("stderr")).expect("it is there").contains("standard output"));

    // Where the store cannot grow: by the shell's limit on file sizes, which without its signal is an error of `write`.
    let author = Author::from_seed(9);
    let large: Vec<Event> = (0..64).map(|n| author.sign(1, 1_700_000_000 + n, vec![], "x".repeat(100_000))).collect();
    place.dir.write("large.jsonl", lines(&large));
    let size = fs::metadata(place.store()).expect("the store is there").len();
    let mut command = place.bare("sh");
    // POSIX counts the limit in blocks of 512 bytes.
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" import large.jsonl --no-policy --domain {DOMAIN} --data-dir \"$1\"",
        size.div_ceil(512) + 8
    );
    command.args(["-c", &script, env!("CARGO_BIN_EXE_grasp-sync"), "grasp-sync-data"]);
    place.end_of(command).failed(IO, &["store.redb", "no space"]);

    let left = place.exported();
    assert!(left.len() < 67, "the limit was met");
    assert_eq!(lines(&left[..3]), lines(&thread()), "what was taken before is there");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    place.import(lines(&thread()), "").imported(OK, "3 new, 0 known, 0 outdated, 0 failed");
    for line in ["export", "--help", "check-config --domain a.example"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let stderr = File::create(place.path("stderr")).expect("the directory is writable");
        let child = place.command(line).stdout(writer).stderr(stderr).spawn().expect("the binary starts");
        assert_eq!(Running { child }.end().code(), Some(OK), "{line}");
        assert_eq!(fs::read_to_string(place.path("stderr")).expect("it is there"), "");
    }
}
