//! The world's own tests: a scripted process in the engine's place shows that links, clock and checks do what they say.

use crate::clock::{MINUTE, Micros, SECOND};
use crate::events::Author;
use crate::model_relay::{Mode, RelayConfig};
use crate::world::{Process, World};
use grasp_sync::engine::{Input, LinkId, Output};
use grasp_sync::protocol::relay_url::RelayUrl;
use grasp_sync::store::StoreError;
use grasp_sync::time::{Duration, Instant, Now};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Dials one relay, asks for what is live, pings every 30 s, and redials after `redial`.
struct Script {
    outputs: VecDeque<Output>,
    heard: Arc<Mutex<Vec<String>>>,
    url: RelayUrl,
    redial: Duration,
    dial_at: Option<Instant>,
    ping_at: Option<Instant>,
    links: u64,
    greeting: String,
    spins: bool,
}

impl Script {
    fn hear(&self, what: &str) {
        self.heard.lock().expect("one thread").push(what.to_owned());
    }
}

impl Process for Script {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError> {
        match input {
            Input::Opened { link } => {
                self.hear("opened");
                self.ping_at = Some(now.mono + Duration::from_secs(30));
                let since = now.wall.minus_secs(900);
                let text = self.greeting.replace("SINCE", &since.to_string());
                self.outputs.push_back(Output::Send { link, text });
            }
            Input::Text { text, .. } => self.hear(text),
            Input::Alive { .. } => self.hear("alive"),
            Input::Closed { .. } => {
                self.hear("closed");
                self.ping_at = None;
                self.dial_at = Some(now.mono + self.redial);
            }
            _ => {}
        }
        if self.dial_at.is_some_and(|t| t <= now.mono) {
            self.dial_at = None;
            self.links += 1;
            self.outputs.push_back(Output::Dial { link: LinkId::Relay(self.links), url: self.url.clone() });
        }
        if self.ping_at.is_some_and(|t| t <= now.mono) {
            self.ping_at = Some(now.mono + Duration::from_secs(30));
            self.outputs.push_back(Output::Ping { link: LinkId::Relay(self.links) });
        }
        Ok(())
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
    fn next_deadline(&self) -> Option<Instant> {
        if self.spins { Some(Instant::ZERO) } else { self.dial_at.into_iter().chain(self.ping_at).min() }
    }
    fn commit_due(&self, _: Now, _: bool) -> bool {
        false
    }
    fn commit(&mut self, _: Now) -> Result<(), StoreError> {
        Ok(())
    }
    fn status_json(&self, _: Now) -> String {
        String::from("{}")
    }
}

type Heard = Arc<Mutex<Vec<String>>>;

const LIVE: &str = r#"["REQ","l",{"kinds":[30617,30618],"since":SINCE,"limit":500}]"#;

fn world(redial: Micros, greeting: &'static str, spins: bool) -> (World, Heard) {
    let heard = Heard::default();
    let ears = heard.clone();
    let boot = move |_disk, _settings, _now| {
        let script = Script {
            outputs: VecDeque::new(),
            heard: ears.clone(),
            url: RelayUrl::parse("wss://hub.example").expect("a relay URL"),
            redial: Duration::from_micros(redial),
            dial_at: Some(Instant::ZERO),
            ping_at: None,
            links: 0,
            greeting: greeting.to_owned(),
            spins,
        };
        Ok(Box::new(script) as Box<dyn Process>)
    };
    let mut world = World::around("script", crate::seed(), Box::new(boot));
    world.add_relay("hub", RelayConfig::strfry());
    world.bootstrap("hub");
    (world, heard)
}

fn heard(heard: &Heard, what: &str) -> usize {
    heard.lock().expect("one thread").iter().filter(|h| h.contains(what)).count()
}

#[test]
fn messages_travel_both_ways_and_pings_are_answered() {
    let (mut w, ears) = world(5 * SECOND, LIVE, false);
    w.start();
    w.run_for(0);
    // The script acts on its first input only.
    w.run_until("EOSE", SECOND, |_| heard(&ears, "EOSE") == 1);
    let now = w.clock.wall();
    w.publish("hub", &Author::new(1).state("x", now));
    w.publish("hub", &Author::new(1).state("y", now - 901));
    w.run_for(MINUTE);
    assert_eq!(heard(&ears, "EVENT"), 1, "the second is older than what was asked for");
    assert!(heard(&ears, "alive") >= 1);
    assert_eq!(w.links_to("hub"), 1);
    assert_eq!(w.open_filters("hub"), 1);
}

#[test]
fn a_broken_link_is_noticed_and_a_silent_one_is_not() {
    let (mut w, ears) = world(5 * SECOND, LIVE, false);
    w.start();
    w.run_until("EOSE", SECOND, |_| heard(&ears, "EOSE") == 1);
    w.drop_links("hub");
    w.run_until("redialled", 6 * SECOND, |_| heard(&ears, "opened") == 2);
    w.run_for(SECOND);
    w.silence_links("hub");
    w.run_for(5 * MINUTE);
    assert_eq!((heard(&ears, "closed"), heard(&ears, "alive")), (1, 0));
}

#[test]
fn a_kill_takes_the_links_with_it() {
    let (mut w, ears) = world(5 * SECOND, LIVE, false);
    w.start();
    w.run_until("EOSE", SECOND, |_| heard(&ears, "EOSE") == 1);
    w.kill();
    assert_eq!(w.relay("hub").sessions().len(), 0);
    w.run_for(MINUTE);
    w.start();
    w.run_until("EOSE again", SECOND, |_| heard(&ears, "EOSE") == 2);
}

#[test]
#[should_panic(expected = "ms too early")]
fn redialling_too_early_is_caught() {
    let (mut w, _) = world(4 * SECOND, LIVE, false);
    w.relay("hub").mode = Mode::HangsUp;
    w.start();
    w.run_for(MINUTE);
}

#[test]
#[should_panic(expected = "the first REQ of a connection")]
fn sweeping_before_live_is_caught() {
    let (mut w, _) = world(SECOND, r#"["REQ","s",{"kinds":[30617,30618],"limit":500}]"#, false);
    w.start();
    w.run_for(SECOND);
}

#[test]
#[should_panic(expected = "busy loop")]
fn a_busy_loop_is_caught() {
    let (mut w, _) = world(SECOND, LIVE, true);
    w.start();
    w.run_for(SECOND);
}

#[test]
fn the_same_seed_gives_the_same_outputs() {
    let run = || {
        let (mut w, _) = world(5 * SECOND, LIVE, false);
        w.start();
        w.run_for(3 * MINUTE);
        (w.outputs_hash(), w.turns)
    };
    assert_eq!(run(), run());
}
