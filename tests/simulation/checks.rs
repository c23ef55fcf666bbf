//! What must hold at every step, judged from outside: from what the process puts out, from what reached it, from what it
//! logs, and from the bytes that a power cut would leave. Each check keeps its own small model and knows nothing of the
//! program's.

pub mod claims;
pub mod durable;
pub mod health;
pub mod link;
pub mod machine;
pub mod network;
pub mod pace;
pub mod rates;
pub mod rules;
pub mod window;

use crate::clock::{Micros, SECOND};
use crate::events::{EventRef, SimEvent};
use crate::link::Far;
use claims::Claims;
use durable::Durable;
use grasp_sync::engine::CloseReason;
use health::HealthCheck;
use link::{Allowed, LinkCheck};
use machine::Machine;
use network::NetworkCheck;
use pace::Pace;
use rates::Rates;
use rules::{Bench, Rules};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use window::WindowCheck;

pub type Verdict = Result<(), String>;

/// How long after a commit what it dropped may still explain what the next one holds.
const TURBULENCE: Micros = SECOND;
/// A relay is let go when the window closes, up to 5 s after its last repo went.
const LET_GO: Micros = 6 * SECOND;

#[derive(Default)]
pub struct Checks {
    pub links: BTreeMap<u64, LinkCheck>,
    /// What relays have told in their documents, by relay.
    told: BTreeMap<usize, Allowed>,
    /// One dial at a time to each relay, and none too early.
    pub health: BTreeMap<usize, HealthCheck>,
    pub network: NetworkCheck,
    heard_at: Micros,
    pub machine: Machine,
    pub window: WindowCheck,
    pub pace: Pace,
    rates: Rates,
    pub claims: Claims,
    pub rules: Rules,
    /// What is durable by the last look.
    pub durable: Durable,
    /// Until when a relay that no repo needs any more may still be dialled.
    let_go: BTreeMap<String, Micros>,
    /// Until when commits are judged mildly: something was replaced or deleted a moment ago.
    turbulent_until: Micros,
    /// Ids that were answered with `OK true` or served: never to be lost.
    pub acknowledged: BTreeSet<String>,
    /// The latest time that the wall clock has shown.
    latest_wall: u64,
    /// Relays of which some link was ended by what came on it.
    broken: BTreeSet<usize>,
    /// Ids that must never be stored.
    pub forbidden: BTreeMap<String, &'static str>,
    /// Everything that was ever really signed, by id.
    pub genuine: BTreeMap<String, EventRef>,
}

/// The moments by which a commit is judged.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By a clock that stands still while the machine sleeps.
    pub at: Micros,
    /// The least and the greatest that the wall clock showed lately.
    pub wall: (u64, u64),
}

impl Checks {
    /// A process begins with these settings: what was known of the last one's links is void.
    pub fn restart(&mut self, at: Micros, wall: u64, rules: Rules) {
        self.health.clear();
        self.rates = Rates::default();
        self.network = NetworkCheck::default();
        self.heard_at = at;
        self.machine.restart(at);
        self.window.restart();
        self.pace.on_window();
        let lists = |rules: &Rules| (rules.deny_authors.clone(), rules.deny_repos.clone(), rules.archive.clone());
        self.claims.void |= lists(&self.rules) != lists(&rules) && self.durable.last_seq() > 0;
        self.rules = rules;
        self.durable.refresh_needed(&self.rules);
        let now = self.durable.shared(&self.rules);
        self.claims.on_shared(wall, now);
        self.claims.on_named(wall, self.rules.named(self.durable.announcements.values()));
    }

    /// The link to relay `n` has ended.
    pub fn on_link_end(&mut self, n: usize, reason: CloseReason) {
        if matches!(reason, CloseReason::Protocol | CloseReason::TooLarge) {
            self.broken.insert(n);
        }
    }

    /// Judges a dial to relay `n` at `url`, beside links to `busy`, of which so many are open.
    pub fn on_dial(&mut self, at: Micros, n: usize, url: &str, busy: &[Far], open: usize) -> Verdict {
        if busy.contains(&Far::Relay(n)) {
            return Err(format!("a second link to {url}"));
        }
        self.rates.on_dial(at, url)?;
        if self.health.entry(n).or_default().goes_on() {
            return self.on_contact(at, url);
        }
        self.on_new_dial(at, n, open).map_err(|e| format!("{url}: {e}"))?;
        self.on_contact(at, url)
    }

    /// A dial begins: by the relay's own record, or as a probe.
    fn on_new_dial(&mut self, at: Micros, n: usize, open: usize) -> Verdict {
        match self.health.entry(n).or_default().on_dial(at) {
            Err(_) if self.network.may_be_offline(open) => self.network.on_probe(at),
            verdict => {
                self.pace.on_dial(n);
                verdict
            }
        }
    }

    /// Somebody was heard, while so many links were open: if the network of this side was down, it is no more.
    pub fn on_life(&mut self, at: Micros, open: usize) {
        if self.network.may_be_offline(open) {
            let (began, lives) = (self.heard_at, self.network.lives);
            self.health.values_mut().for_each(|health| health.on_return(began, at, lives));
        }
        self.network.on_life();
        self.heard_at = at;
    }

    /// A dial of relay `n`, or its link, has ended while `open` others were open. During an outage that counts for nothing.
    pub fn on_end(&mut self, at: Micros, n: usize, stable: bool, open: usize) {
        if stable || !self.network.may_be_offline(open) {
            self.health.entry(n).or_default().on_end(at, stable, self.network.lives);
        }
    }

    fn on_contact(&self, at: Micros, url: &str) -> Verdict {
        let needed = self.needs(url) || self.let_go.get(url).is_some_and(|until| at <= *until);
        if !needed {
            return Err(format!("no followed repo needs {url}"));
        }
        Ok(())
    }

    /// Judges the question to relay `n` at `url` what it is.
    pub fn on_inquiry(&mut self, at: Micros, n: usize, url: &str, busy: &[Far], open: usize) -> Verdict {
        let links = busy.iter().filter(|far| **far == Far::Relay(n)).count();
        if links > 1 {
            return Err(format!("a third link to {url}"));
        }
        self.rates.on_dial(at, url)?;
        let verdict = self.health.entry(n).or_default().on_inquiry(at, links > 0);
        let verdict = verdict.and_then(|()| if links > 0 { Ok(()) } else { self.on_new_dial(at, n, open) });
        verdict.map_err(|e| format!("{url}: {e}"))?;
        self.on_contact(at, url)
    }

    /// A relay has told what it allows; what it told before holds no more.
    pub fn on_told(&mut self, n: usize, document: &str) {
        self.told.insert(n, Allowed::told(document));
    }

    /// The judge of a new link to a relay.
    pub fn link_to(&self, n: usize) -> LinkCheck {
        let allowed = self.told.get(&n).copied().unwrap_or_default();
        LinkCheck::within(allowed).after_break(self.broken.contains(&n))
    }

    /// An inquiry has ended. If it began a dial and `failed`, so has the dial.
    pub fn on_inquiry_end(&mut self, at: Micros, n: usize, failed: bool, beside: bool, open: usize) {
        self.health.entry(n).or_default().on_inquiry_end(!failed || beside);
        if failed && !beside {
            self.pace.on_link_lost(n);
            self.on_end(at, n, false, open);
        }
    }

    /// The process forgets relay `n`, which no repo needs, or none did for a moment.
    pub fn on_forgotten(&mut self, n: usize, unneeded: bool) {
        if unneeded {
            self.health.remove(&n);
        } else {
            self.health.entry(n).or_default().forget_inquiry();
        }
    }

    /// Whether a repo needs a relay now, or the operator does.
    pub fn needs(&self, url: &str) -> bool {
        self.rules.bootstrap.contains(url) || self.durable.needed_relays().contains(url)
    }

    /// Takes in what has become durable since the last look, oldest first, and what has gone; judges both. Says which
    /// relays nothing needs any more.
    pub fn on_durable(
        &mut self,
        now: Moment,
        new: Vec<(u64, String)>,
        gone: &dyn Fn(u64) -> bool,
    ) -> Result<Vec<String>, String> {
        self.latest_wall = self.latest_wall.max(now.wall.1);
        let events = new.iter().map(|(_, text)| self.known(text)).collect::<Result<Vec<_>, _>>()?;
        for event in events.iter().filter(|e| !self.genuine.contains_key(&e.id)).cloned().collect::<Vec<_>>() {
            self.genuine.insert(event.id.clone(), event);
        }
        let may_have_gone = self.durable.may_have_gone(&events, now.wall.1);
        for ((seq, text), event) in new.iter().zip(&events) {
            if rules::ROOT_KINDS.contains(&event.kind) {
                self.claims.on_root(&event.id, now.wall.1);
            }
            self.durable.add(*seq, event.clone(), text);
        }
        let removed: Vec<EventRef> =
            may_have_gone.into_iter().filter(|seq| gone(*seq)).filter_map(|seq| self.durable.remove(seq)).collect();
        if !removed.is_empty() || events.iter().any(|e| e.kind == 5 || e.replace_key().is_some()) {
            self.turbulent_until = now.at + TURBULENCE;
        }
        if let Some(lost) = removed.iter().find(|e| !self.durable.excuses(e, now.wall.1)) {
            return Err(format!("lost {} (kind {})", lost.id, lost.kind));
        }
        let signed = (now.at <= self.turbulent_until).then_some(&self.genuine);
        let bench = Bench { rules: &self.rules, durable: &self.durable, signed: None, replaces: true, wall: now.wall };
        let mild = Bench { signed, ..bench };
        for event in &events {
            bench.judge(event).or_else(|_| mild.judge(event))?;
        }
        let announced = |e: &EventRef| e.kind == 30617;
        if events.iter().any(announced) || removed.iter().any(announced) {
            return Ok(self.note_needed(now));
        }
        Ok(Vec::new())
    }

    fn note_needed(&mut self, now: Moment) -> Vec<String> {
        self.claims.on_shared(now.wall.1, self.durable.shared(&self.rules));
        self.claims.on_named(now.wall.1, self.rules.named(self.durable.announcements.values()));
        let before = self.durable.needed_relays().clone();
        self.durable.refresh_needed(&self.rules);
        let gone: Vec<String> = before.difference(self.durable.needed_relays()).cloned().collect();
        self.let_go.extend(gone.iter().map(|url| (url.clone(), now.at + LET_GO)));
        gone
    }

    /// The event behind a stored text, if someone really signed it and it may be stored.
    fn known(&self, text: &str) -> Result<EventRef, String> {
        let stored: Value = serde_json::from_str(text).map_err(|e| format!("stored no JSON ({e}): {text}"))?;
        let id = stored["id"].as_str().unwrap_or("");
        let Some(event) = self.genuine.get(id) else {
            // Some liar's own: it may be stored if it is really signed.
            let signed = nostr::event::Event::from_json(text).is_ok_and(|e| e.verify().is_ok());
            let event = SimEvent::from_json(text).filter(|_| signed).map(Rc::new);
            return event.ok_or_else(|| format!("stored {id}, which nobody signed"));
        };
        if let Some(why) = self.forbidden.get(id) {
            return Err(format!("stored {id}: {why}"));
        }
        let signed: Value = serde_json::from_str(&event.json).expect("the world's own");
        if stored != signed {
            return Err(format!("stored {id} otherwise than it was signed: {text}"));
        }
        Ok(event.clone())
    }

    /// Compares what a power cut would leave, read from the disk itself, with what was taken in commit by commit.
    pub fn on_image(&mut self, now: Moment, image: Vec<(u64, String)>) -> Result<Vec<String>, String> {
        let held: BTreeMap<u64, &str> = image.iter().map(|(seq, text)| (*seq, text.as_str())).collect();
        let lost: Vec<u64> = self.durable.stored().map(|(seq, _)| seq).filter(|seq| !held.contains_key(seq)).collect();
        let new: Vec<(u64, String)> =
            image.iter().filter(|(seq, _)| self.durable.text(*seq).is_none()).cloned().collect();
        if let Some((seq, _)) = image.iter().find(|(seq, text)| self.durable.text(*seq).is_some_and(|t| t != text)) {
            return Err(format!("number {seq} has changed on the disk"));
        }
        let mut needless = self.on_durable(now, new, &|seq| !held.contains_key(&seq))?;
        for seq in lost {
            let Some(event) = self.durable.remove(seq) else { continue };
            if !self.durable.excuses(&event, now.wall.1) {
                return Err(format!("lost {} (kind {}), which was durable", event.id, event.kind));
            }
            needless.extend(self.note_needed(now));
        }
        Ok(needless)
    }

    /// Judges a message on its way to a client: nothing is shown or acknowledged before it is durable.
    pub fn on_client_send(&mut self, wall: u64, text: &str) -> Verdict {
        let message: Value = serde_json::from_str(text).map_err(|e| format!("not JSON ({e}): {text}"))?;
        let id = match message[0].as_str() {
            Some("OK") if message[2] == true => message[1].as_str(),
            Some("EVENT") => message[2]["id"].as_str(),
            _ => return Ok(()),
        };
        let id = id.ok_or_else(|| format!("no id: {text}"))?;
        let event = self.genuine.get(id).ok_or_else(|| format!("an event nobody signed: {text}"))?;
        if !self.durable.has(event) && !self.durable.excuses(event, wall) {
            return Err(format!("acknowledged or served before it was durable: {text}"));
        }
        self.acknowledged.insert(id.to_owned());
        Ok(())
    }

    /// Every acknowledged event must be held, or there is a reason.
    pub fn on_acknowledged(&mut self, wall: u64) -> Verdict {
        // What expired by a clock that was set back since is gone all the same, and may be of the future now.
        self.latest_wall = self.latest_wall.max(wall);
        let wall = self.latest_wall;
        for id in &self.acknowledged {
            let event = &self.genuine[id];
            if !self.durable.has(event) && !self.durable.excuses(event, wall) {
                return Err(format!("lost {id}, which was acknowledged"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Author;

    const NOW: Moment = Moment { at: 0, wall: (1_000, 1_000) };

    fn world() -> (Checks, Author, EventRef) {
        let author = Author::new(1);
        let announcement = author.announcement("x", &["wss://r.example"], 1);
        let mut checks = Checks::default();
        checks.genuine.insert(announcement.id.clone(), announcement.clone());
        checks.on_durable(NOW, vec![(1, announcement.json.clone())], &|_| false).expect("ours");
        (checks, author, announcement)
    }

    #[test]
    fn an_early_ok_and_a_loss_are_found() {
        let (mut checks, author, announcement) = world();
        let event = author.issue(&author.repo("x"), 1, "");
        checks.genuine.insert(event.id.clone(), event.clone());
        let ok = format!(r#"["OK","{}",true,""]"#, event.id);
        assert!(checks.on_client_send(1_000, &ok).is_err());
        checks.on_durable(NOW, vec![(2, event.json.clone())], &|_| false).expect("belongs");
        checks.on_client_send(1_000, &ok).expect("durable");
        let image = |events: &[(u64, &EventRef)]| events.iter().map(|(seq, e)| (*seq, e.json.clone())).collect();
        checks.on_image(NOW, image(&[(1, &announcement), (2, &event)])).expect("the same");
        assert!(checks.on_image(NOW, image(&[(1, &announcement)])).is_err(), "lost");
        assert!(checks.on_acknowledged(1_000).is_err(), "acknowledged, too");
    }

    #[test]
    fn only_what_was_signed_is_stored_and_as_it_was_signed() {
        let (mut checks, author, _) = world();
        let event = author.issue(&author.repo("x"), 1, "text");
        let store = |checks: &mut Checks, text: String| checks.on_durable(NOW, vec![(2, text)], &|_| false);
        assert!(store(&mut checks, event.json.replace("text", "other")).is_err(), "a false signature");
        checks.genuine.insert(event.id.clone(), event.clone());
        assert!(store(&mut checks, event.json.replace("text", "other")).is_err(), "altered");
        checks.forbidden.insert(event.id.clone(), "a test");
        assert!(store(&mut checks, event.json.clone()).is_err(), "forbidden");
    }

    #[test]
    fn relays_are_dialled_while_needed_and_a_moment_longer() {
        let (mut checks, author, _) = world();
        checks.on_dial(0, 0, "wss://r.example", &[], 0).expect("needed");
        assert!(checks.on_dial(0, 1, "wss://other.example", &[], 0).is_err());
        assert!(checks.on_dial(2 * SECOND, 0, "wss://r.example", &[Far::Relay(0)], 0).is_err(), "a second link");
        let gone = author.foreign_announcement("x", 2);
        checks.genuine.insert(gone.id.clone(), gone.clone());
        let needless = checks.on_durable(NOW, vec![(2, gone.json.clone())], &|seq| seq == 1).expect("replaces");
        assert_eq!(needless, ["wss://r.example"]);
        checks.on_dial(5 * SECOND, 0, "wss://r.example", &[], 0).expect("until the window closes");
        assert!(checks.on_dial(7 * SECOND, 0, "wss://r.example", &[], 0).is_err());
    }
}
