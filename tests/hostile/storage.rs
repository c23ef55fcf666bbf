//! What strangers may store, and what is left when the disk has no room.

use crate::stranger::{DOMAIN, Scene};
use crate::support::client::{Client, Published};
use crate::support::events::{Author, event_message, padding, unix_now};
use crate::support::process::{Process, Setup};
use crate::support::wait::wait_until;
use nostr::event::{Event, EventId};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB_MAX: u64 = 128;
const SOON: Duration = Duration::from_secs(60);

/// A file system in memory, of a size that can be changed; gone with the value.
struct Mount(PathBuf);

impl Mount {
    /// `None`, and why is printed, where this user may not mount.
    fn at(path: &Path, mib: u64) -> Option<Mount> {
        std::fs::create_dir_all(path).expect("a directory");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(path).output();
        match mount {
            Ok(done) if done.status.success() => Some(Mount(path.to_path_buf())),
            Ok(done) => {
                println!("skipped: cannot mount: {}", String::from_utf8_lossy(&done.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: cannot mount: {error}");
                None
            }
        }
    }

    fn resize(&self, mib: u64) {
        let options = format!("remount,size={mib}m");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("it was found before");
        assert!(done.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Events that a client publishes, until one is refused for want of room; those that were acknowledged are noted.
struct Flood {
    author: Author,
    repo: String,
    published: u64,
    acknowledged: Vec<EventId>,
}

impl Flood {
    /// By the owner of a repo, which he announces.
    fn begin(client: &mut Client) -> Flood {
        let author = Author::from_seed(1);
        client.publish_ok(&author.announcement("tree", &[DOMAIN], &[&format!("wss://{DOMAIN}")], unix_now() - 1_000));
        let repo = author.repo("tree");
        Flood { author, repo, published: 0, acknowledged: Vec::new() }
    }

    fn next(&mut self) -> Event {
        self.published += 1;
        self.author.root(1_621, &[&self.repo], "flood", unix_now(), &padding(self.published, 8_000))
    }

    fn publish(&mut self, client: &mut Client) -> Published {
        let event = self.next();
        let published = client.publish(&event);
        if published.accepted {
            self.acknowledged.push(event.id);
        }
        published
    }

    /// So many at once, as long as they are taken.
    fn until_full(&mut self, client: &mut Client) {
        for _ in 0..400 {
            let events: Vec<Event> = (0..50).map(|_| self.next()).collect();
            events.iter().for_each(|event| client.send(event_message(event)));
            let mut refused = false;
            for event in &events {
                let answer = client.answer_to(event).expect("an answer to each");
                match answer.accepted {
                    true => self.acknowledged.push(event.id),
                    false => {
                        assert!(answer.why.starts_with("error: "), "{}", answer.why);
                        refused = true;
                    }
                }
            }
            if refused {
                return;
            }
        }
        panic!("the disk is never full");
    }

    fn all_are_served(&self, client: &mut Client) {
        for ids in self.acknowledged.chunks(100) {
            assert_eq!(client.query(&json!({"ids": ids})).len(), ids.len(), "what was acknowledged is served");
        }
    }
}

/// A process on a disk of so many MiB, which a client fills.
fn filled(setup: &Setup, mib: u64) -> Option<(Mount, Process, Flood)> {
    let data = setup.store_file();
    let mount = Mount::at(data.parent().expect("a directory"), mib)?;
    let mut process = setup.start();
    let mut client = process.client();
    let mut flood = Flood::begin(&mut client);
    flood.until_full(&mut client);
    assert!(process.is_running(), "{}", process.log_text());
    assert!(flood.acknowledged.len() > 100, "{}", flood.acknowledged.len());
    Some((mount, process, flood))
}

fn refuses_and_serves(process: &mut Process, flood: &mut Flood, reason: &str) {
    let mut client = process.client();
    for _ in 0..20 {
        let published = flood.publish(&mut client);
        assert!(!published.accepted && published.why.starts_with("error: "), "{}", published.why);
    }
    flood.all_are_served(&mut client);
    let health = process.get("/health");
    assert_eq!(health.status, 503, "{}", health.body);
    let labels = [format!("reason=\"{reason}\"")];
    assert_eq!(process.metrics().sum("grasp_sync_storage_short", &[&labels[0]]) as u64, 1);
    assert_eq!(process.status()["storage"]["state"], "short");
    assert!(process.is_running());
}

fn takes_again(process: &Process, flood: &mut Flood) {
    let mut client = process.client();
    wait_until("room is found", SOON, || process.get("/health").status == 200);
    assert!(flood.publish(&mut client).accepted);
    flood.all_are_served(&mut client);
}

#[test]
fn a_disk_that_is_full_to_the_last_block_is_served_from_and_nothing_acknowledged_is_lost() {
    let setup = Setup::new(DOMAIN).toml("[limits]\ndisk_free_mib_min = 0");
    let Some((mount, mut process, mut flood)) = filled(&setup, 24) else { return };
    assert!(process.metrics().sum("grasp_sync_commits_without_room_total", &[]) >= 1.0);
    refuses_and_serves(&mut process, &mut flood, "write");
    mount.resize(64);
    takes_again(&process, &mut flood);
    // Full again, and killed.
    flood.until_full(&mut process.client());
    refuses_and_serves(&mut process, &mut flood, "write");
    process.kill();
    let process = setup.start();
    flood.all_are_served(&mut process.client());
    mount.resize(256);
    takes_again(&process, &mut flood);
    process.stop_within(SOON);
    println!("{} events acknowledged, all there", flood.acknowledged.len());
    assert!(setup.exported_ids().is_superset(&flood.acknowledged.iter().copied().collect()));
}

#[test]
fn below_the_floor_nothing_is_stored_and_above_it_something_is() {
    let setup = Setup::new(DOMAIN).toml("[limits]\ndisk_free_mib_min = 32");
    let Some((mount, mut process, mut flood)) = filled(&setup, 64) else { return };
    assert_eq!(process.metrics().sum("grasp_sync_commits_without_room_total", &[]) as u64, 0);
    refuses_and_serves(&mut process, &mut flood, "disk_free");
    mount.resize(160);
    takes_again(&process, &mut flood);
    process.stop_within(SOON);
}

#[test]
fn a_store_takes_no_more_than_it_may() {
    let setup = Setup::new(DOMAIN).toml("[limits]\nstore_mib_max = 16");
    let mut process = setup.start();
    let mut client = process.client();
    let mut flood = Flood::begin(&mut client);
    flood.until_full(&mut client);
    refuses_and_serves(&mut process, &mut flood, "store_max");
    let bytes = process.metrics().sum("grasp_sync_store_bytes", &[]) as u64;
    assert!((16 << 20..32 << 20).contains(&bytes), "{bytes}");
    process.stop_within(SOON);
}

/// As if the clients came from elsewhere, and with quotas that a test can meet.
fn quotas() -> Setup {
    Setup::new(DOMAIN).toml(
        "[limits]\nloopback_exempt = false\nauthor_events_max = 300\nauthor_repos_max = 20\nrepo_events_max = 700\nrepo_mib_max = 1",
    )
}

/// What became of some events: how many were taken, and why the first that was not.
fn publish_all(client: &mut Client, events: &[Event]) -> (usize, String) {
    let (mut taken, mut why) = (0, String::new());
    for events in events.chunks(50) {
        events.iter().for_each(|event| client.send(event_message(event)));
        for event in events {
            let answer = client.answer_to(event).expect("an answer to each");
            taken += usize::from(answer.accepted);
            if !answer.accepted && why.is_empty() {
                why = answer.why;
            }
        }
    }
    (taken, why)
}

#[test]
fn who_floods_meets_his_quota_and_then_that_of_the_repo() {
    let setup = quotas();
    let mut scene = Scene::new(&setup);
    let repo = Author::from_seed(1).repo("tree");
    let issues = |n: u64| {
        let author = Author::from_seed(100 + n);
        let issue = |i| author.issue(&repo, &format!("{n}.{i}"), unix_now());
        (0..310).map(issue).collect::<Vec<_>>()
    };
    let mut client = scene.process.client();
    let first = issues(1);
    let (taken, why) = publish_all(&mut client, &first);
    assert_eq!((taken, &*why), (300, "blocked: quota of 300 events of this author"));
    let (taken, _) = publish_all(&mut client, &issues(2));
    assert_eq!(taken, 300, "another author has his own");
    let (taken, why) = publish_all(&mut client, &issues(3));
    assert_eq!((taken, &*why), (100, "blocked: quota of 700 events in this repository by others"));
    scene.judge("930 issues of three strangers", MIB_MAX);
    let metrics = scene.process.metrics();
    assert_eq!(metrics.sum("grasp_sync_events_refused_total", &["reason=\"quota_author_events\""]) as u64, 20);
    assert_eq!(metrics.sum("grasp_sync_events_refused_total", &["reason=\"quota_repo_events\""]) as u64, 210);
    // It outlasts the process, and what is deleted is given back.
    scene.process.stop_within(SOON);
    let process = setup.start();
    let mut client = process.client();
    let another = |n: u64| Author::from_seed(101).issue(&repo, &format!("again {n}"), unix_now());
    assert!(!client.publish(&another(1)).accepted);
    client.publish_ok(&Author::from_seed(101).deletion(&[&first[0], &first[1]], unix_now()));
    assert_eq!(publish_all(&mut client, &[another(1), another(2), another(3)]).0, 2);
    process.stop_within(SOON);
}

#[test]
fn large_events_meet_the_bytes_of_a_repo_and_its_maintainer_none() {
    let scene = Scene::new(&quotas());
    let (owner, repo) = (Author::from_seed(1), Author::from_seed(1).repo("tree"));
    let mut client = scene.process.client();
    let large = |author: &Author, n| author.root(1_621, &[&repo], "large", unix_now(), &padding(n, 100_000));
    let stranger = Author::from_seed(50);
    let (taken, why) = publish_all(&mut client, &(0..15).map(|n| large(&stranger, n)).collect::<Vec<_>>());
    assert_eq!((taken, &*why), (10, "blocked: quota of 1 MiB in this repository by others"));
    let (taken, why) = publish_all(&mut client, &(100..150).map(|n| large(&owner, n)).collect::<Vec<_>>());
    assert_eq!((taken, &*why), (50, ""));
}

#[test]
fn one_key_announces_so_many_repos() {
    let mut scene = Scene::new(&quotas());
    let stranger = Author::from_seed(60);
    let service = format!("wss://{DOMAIN}");
    let announce = |n: u64| stranger.announcement(&format!("r{n}"), &[DOMAIN], &[&service], unix_now() - 100);
    let mut client = scene.process.client();
    let (taken, why) = publish_all(&mut client, &(0..40).map(announce).collect::<Vec<_>>());
    assert_eq!((taken, &*why), (20, "blocked: quota of 20 repositories announced by this author"));
    client.publish_ok(&stranger.announcement("r3", &[DOMAIN], &[&service], unix_now()));
    client.publish_ok(&Author::from_seed(61).announcement("r3", &[DOMAIN], &[&service], unix_now()));
    assert!(scene.process.is_running());
}

#[test]
fn an_author_that_publishes_without_pause_is_slowed_down_and_others_are_not() {
    let mut scene = Scene::new(&Setup::new(DOMAIN));
    let repo = Author::from_seed(1).repo("tree");
    let author = Author::from_seed(70);
    let mut client = scene.process.client();
    let issues: Vec<Event> = (0..2_500).map(|n| author.issue(&repo, &n.to_string(), unix_now())).collect();
    let (taken, why) = publish_all(&mut client, &issues);
    // Some come back while this takes.
    assert!((2_000..2_500).contains(&taken), "{taken}");
    assert_eq!(why, "rate-limited: too many events of this author, slow down");
    client.publish_ok(&Author::from_seed(71).issue(&repo, "another", unix_now()));
    scene.judge("2,500 events of one author", MIB_MAX);
}
