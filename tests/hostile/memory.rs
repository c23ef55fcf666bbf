//! What strangers can make us hold: at most 128 MiB resident, whatever they do (spec section 16).

use crate::relays::{Script, endless, listen};
use crate::stranger::{DOMAIN, Scene, Stranger};
use crate::support::events::{Author, event_message, tag, unix_now};
use crate::support::process::Setup;
use crate::support::wait::wait_until;
use std::sync::LazyLock;
use std::time::Duration;

const MIB_MAX: u64 = 128;
const SOON: Duration = Duration::from_secs(60);

fn closed_for_memory(scene: &Scene) -> f64 {
    scene.process.metrics().sum("grasp_sync_links_closed_total", &["side=\"client\"", "reason=\"memory\""])
}

#[test]
fn messages_that_are_never_whole() {
    let mut scene = Scene::new(&Setup::new(DOMAIN));
    // Each may be cut off while it writes.
    let mut strangers = scene.strangers(400, |_, stranger| _ = stranger.begin_message(1 << 20));
    wait_until("links are closed", SOON, || closed_for_memory(&scene) > 300.0);
    let (relay, mut n) = (scene.process.relay(), 0);
    scene.judge_beside("400 clients with a message of 1 MiB without end", MIB_MAX, || {
        n += 1;
        if let Ok(mut stranger) = Stranger::connect(relay) {
            let _ = stranger.begin_message(1 << 20);
            strangers[n % 400] = stranger;
        }
    });
}

#[test]
fn replies_that_are_never_read() {
    let mut scene = Scene::new(&Setup::new(DOMAIN));
    (0..30).for_each(|_| scene.issue(100_000));
    let ask = |stranger: &mut Stranger| (0..20).for_each(|n| _ = stranger.send(&format!(r#"["REQ","{n}",{{}}]"#)));
    let mut strangers = scene.strangers(400, |_, stranger| ask(stranger));
    let (relay, mut n) = (scene.process.relay(), 0);
    scene.judge_beside("400 clients that do not read their replies", MIB_MAX, || {
        n += 1;
        if let Ok(mut stranger) = Stranger::connect(relay) {
            ask(&mut stranger);
            strangers[n % 400] = stranger;
        }
    });
}

#[test]
fn filters_of_many_values() {
    let mut scene = Scene::new(&Setup::new(DOMAIN));
    let ask = |n: u64, stranger: &mut Stranger| {
        for m in 0..5_u64 {
            let filter = |f: u64| {
                let ids: Vec<String> =
                    (0..600).map(|v| format!("\"{:064x}\"", (n << 40) + (m << 32) + (f << 16) + v)).collect();
                format!("{{\"#e\":[{}]}}", ids.join(","))
            };
            let filters: Vec<String> = (0..20).map(filter).collect();
            let _ = stranger.send(&format!("[\"REQ\",\"{m}\",{}]", filters.join(",")));
        }
    };
    let mut strangers = scene.strangers(100, ask);
    wait_until("links are closed", SOON, || closed_for_memory(&scene) > 0.0);
    let (relay, mut n) = (scene.process.relay(), 0);
    scene.judge_beside("100 clients with 60,000 values each", MIB_MAX, || {
        n += 1;
        if let Ok(mut stranger) = Stranger::connect(relay) {
            ask(n, &mut stranger);
            strangers[n as usize % 100] = stranger;
        }
    });
}

#[test]
fn filters_of_many_kinds() {
    let mut scene = Scene::new(&Setup::new(DOMAIN));
    let kinds: Vec<String> = (0..2_000).map(|kind| (2_000 + kind).to_string()).collect();
    let ask = |stranger: &mut Stranger| {
        for n in 0..64 {
            let _ = stranger.send(&format!("[\"REQ\",\"{n}\",{{\"kinds\":[{}]}}]", kinds.join(",")));
        }
    };
    let mut strangers = scene.strangers(70, |_, stranger| ask(stranger));
    wait_until("links are closed", SOON, || closed_for_memory(&scene) > 0.0);
    let (relay, mut n) = (scene.process.relay(), 0);
    scene.judge_beside("70 clients with 64 filters of 2,000 kinds", MIB_MAX, || {
        n += 1;
        if let Ok(mut stranger) = Stranger::connect(relay) {
            ask(&mut stranger);
            strangers[n % 70] = stranger;
        }
    });
}

#[test]
fn subscriptions_to_everything() {
    for reads in [true, false] {
        let mut scene = Scene::new(&Setup::new(DOMAIN));
        let mut strangers = scene.strangers(400, |_, stranger| {
            for n in 0..64 {
                stranger.send(&format!(r#"["REQ","{n}",{{"limit":0}}]"#)).expect("it is served");
            }
            stranger.wait_for(r#"["EOSE","63"]"#).expect("it is answered");
        });
        let readers: Vec<_> = if reads {
            strangers.drain(..).map(|stranger| std::thread::spawn(|| stranger.drain())).collect()
        } else {
            Vec::new()
        };
        (0..5).for_each(|_| scene.issue(10_000));
        let what = if reads { "read" } else { "do not read" };
        scene.judge(&format!("400 clients with 64 subscriptions to everything that {what}"), MIB_MAX);
        // Before they are waited for.
        drop(scene);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader does not panic"));
    }
}

#[test]
fn documents_that_are_never_taken() {
    let mut setup = Setup::new(DOMAIN);
    for n in 0..500 {
        setup = setup.bootstrap(&format!("ws://127.0.0.1:{}/{n}", 20_000 + n));
    }
    let mut scene = Scene::new(&setup);
    let admin = scene.process.admin();
    let ask = || Stranger::ask(admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a connection");
    let mut strangers: Vec<_> = (0..200).map(|_| ask()).collect();
    let mut n = 0;
    scene.judge_beside("200 answers of /metrics that are not read", MIB_MAX, || {
        n += 1;
        strangers[n % 200] = ask();
    });
}

/// Three frames with a text each as large as a relay's may be, about.
static LARGE_FRAMES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = format!(r#"["NOTICE","{}"]"#, "x".repeat(2_290_000));
    let mut frame = vec![0x81, 127];
    frame.extend((text.len() as u64).to_be_bytes());
    frame.extend(text.bytes());
    frame.repeat(3)
});

/// A service that follows so many relays, all of one peer.
fn following(relays: usize, script: Script) -> Scene {
    let port = listen(script);
    let setup = Setup::new(DOMAIN).toml("[timing]\nconnect_timeout_secs = 60\n");
    Scene::new(&(0..relays).fold(setup, |setup, n| setup.bootstrap(&format!("ws://127.0.0.1:{port}/{n}"))))
}

fn of_relays(scene: &Scene, metric: &str, labels: &[&str]) -> f64 {
    scene.process.metrics().sum(metric, &[&["side=\"relay\""], labels].concat())
}

#[test]
fn messages_of_a_thousand_relays_that_are_never_whole() {
    let mut scene = following(1_000, |socket| endless(socket, &LARGE_FRAMES[..2_000_000], b""));
    wait_until("links are closed", SOON.saturating_mul(3), || {
        of_relays(&scene, "grasp_sync_links_closed_total", &["reason=\"memory\""]) > 500.0
    });
    scene.judge("1,000 relays with a message of 2.2 MiB without end", MIB_MAX);
}

#[test]
fn large_messages_of_many_relays_at_once() {
    let mut scene = following(100, |socket| endless(socket, &LARGE_FRAMES, b""));
    wait_until("most of it came or was refused", SOON.saturating_mul(2), || {
        let closed = of_relays(&scene, "grasp_sync_links_closed_total", &["reason=\"memory\""]);
        of_relays(&scene, "grasp_sync_bytes_received_total", &[]) > 400e6 || closed > 80.0
    });
    scene.judge("100 relays that send messages of 2.2 MiB at once", MIB_MAX);
}

/// Issues of a stranger, of 128 KB each, that name the repo and 1,380 more that there are not.
#[test]
fn issues_that_name_many_repos_that_are_not() {
    const ISSUES: u64 = 1_420;
    let setup = Setup::new(DOMAIN);
    let mut scene = Scene::new(&setup);
    // An index is written whole, when 80,000 entries wait, of which one of these brings more than a thousand.
    scene.turn_max = Duration::from_secs(2);
    let repo = Author::from_seed(1).repo("tree");
    let issue = |n: u64| {
        let stranger = Author::from_seed(100 + n % 10);
        let made_up = |m: u64| tag(["a", &format!("30617:{:064x}:{n}.{m}", n << 32 | m)]);
        let tags = std::iter::once(tag(["a", &repo])).chain((0..1_380).map(made_up));
        stranger.sign(1_621, unix_now(), tags.collect(), "")
    };
    let mut client = scene.process.client();
    let mut bytes = 0;
    for first in (0..ISSUES).step_by(20) {
        let issues: Vec<_> = (first..first + 20).map(issue).collect();
        issues.iter().for_each(|issue| client.send(event_message(issue)));
        for issue in &issues {
            let answer = client.answer_to(issue).expect("an answer to each");
            assert!(answer.accepted, "{}", answer.why);
            bytes += event_message(issue).len();
        }
    }
    assert!(bytes > 160 << 20, "{bytes}");
    scene.judge("issues of 1,380 made-up repos each, 168 MiB", MIB_MAX);
    scene.process.stop_within(SOON);
    let mut again = Scene::of(setup.start());
    again.judge("the same after a restart", MIB_MAX);
}
