//! What happens in a drawn world, one step at a time.

use super::Swarm;
use super::options::one_of;
use crate::client::req;
use crate::clock::{DAY, HOUR, MINUTE, Micros, SECOND};
use crate::disk::{DiskFaults, Fails, Lost};
use crate::events::EventRef;
use crate::model_relay::{Mode, Refusal, notice};
use crate::world::{World, relay_url};
use grasp_sync::engine::CloseReason;
use grasp_sync::protocol::relay_url::RelayUrl;
use grasp_sync::protocol::repo::RepoAddr;
use nostr::key::PublicKey;
use serde_json::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Announce,
    Root,
    Comment,
    // What else people do.
    Late,
    State,
    Delete,
    DeleteRepo,
    Burst,
    Junk,
    Expiring,
    Client,
    // What goes wrong.
    Drop,
    Cut,
    Silence,
    Stall,
    SlowRelay,
    SlowClient,
    Mode,
    Partition,
    Kill,
    Stop,
    Reconfigure,
    DiskFault,
    Refuse,
    Limit,
    WallSlips,
    WallLeaps,
    Suspend,
    /// Our own network goes down for a while.
    Outage,
}

use Action::*;

impl Action {
    pub const ALWAYS: [Action; 3] = [Announce, Root, Comment];
    pub const EVENTS: [Action; 8] = [Late, State, Delete, DeleteRepo, Burst, Junk, Expiring, Client];
    pub const TROUBLES: [Action; 17] = [
        Drop,
        Cut,
        Silence,
        Stall,
        SlowRelay,
        SlowClient,
        Mode,
        Partition,
        Kill,
        Stop,
        Reconfigure,
        DiskFault,
        Refuse,
        Limit,
        WallSlips,
        WallLeaps,
        Suspend,
    ];
}

impl Swarm {
    pub fn act(&mut self, w: &mut World, action: Action) {
        let wall = w.clock.wall();
        let relay = self.any_relay(w);
        match action {
            Announce => self.announce(w),
            Root => {
                let at = self.pen.when(&mut w.rng, wall);
                let event = self.pen.root(&mut w.rng, at);
                self.spread(w, &event);
            }
            Comment => {
                let at = self.pen.when(&mut w.rng, wall);
                let event = self.pen.comment(&mut w.rng, at);
                self.spread(w, &event);
            }
            Late => {
                let event = self.pen.comment(&mut w.rng, wall);
                let late = w.rng.below(3 * DAY);
                self.late(w, late, &relay, &event);
            }
            State => {
                let event = self.pen.state(&mut w.rng, wall);
                self.spread(w, &event);
            }
            Delete => {
                if let Some(event) = self.pen.delete(&mut w.rng, wall) {
                    self.spread(w, &event);
                }
            }
            DeleteRepo => {
                if let Some((event, relays)) = self.pen.delete_repo(&mut w.rng, wall) {
                    // Everyone who heard of the announcement hears of its end.
                    relays.iter().for_each(|r| w.publish(&format!("r{r}"), &event));
                    self.spread(w, &event);
                }
            }
            Burst => self.burst(w, &relay),
            Junk => {
                let event = self.pen.junk(&mut w.rng, wall);
                self.spread(w, &event);
            }
            Expiring => {
                let event = self.pen.expiring(&mut w.rng, wall);
                self.spread(w, &event);
            }
            Client => self.client(w),
            trouble => self.trouble(w, trouble, &relay),
        }
    }

    fn any_relay(&self, w: &mut World) -> String {
        format!("r{}", w.rng.below(self.relays as u64))
    }

    pub fn announce(&mut self, w: &mut World) {
        let wall = w.clock.wall();
        let n = self.pen.announce(&mut w.rng, self.relays, wall);
        let repo = &self.pen.repos[n];
        let Some(event) = repo.announced.clone() else { return };
        let listed = repo.relays.clone();
        let acceptance = self.pen.acceptance(&w.rng, n, wall);
        w.publish("r0", &event);
        if let Some(event) = &acceptance {
            listed.iter().for_each(|relay| w.publish(&format!("r{relay}"), event));
        }
        for relay in listed {
            let late = if w.rng.below(4) == 0 { w.rng.below(10 * MINUTE) } else { 0 };
            self.late(w, late, &format!("r{relay}"), &event);
        }
    }

    /// Publishes to the relays of some repo and sometimes to others, now or later, or lets the event turn up there
    /// without a word.
    pub fn spread(&mut self, w: &mut World, event: &EventRef) {
        let repo = w.rng.below(self.pen.repos.len() as u64) as usize;
        let mut to: Vec<String> = self.pen.repos[repo].relays.iter().map(|r| format!("r{r}")).collect();
        to.push(self.any_relay(w));
        for relay in to {
            let late = one_of(&mut w.rng, &[0, 0, 0, 0, 30 * SECOND, 14 * MINUTE, DAY]);
            let late = if late == 0 { 0 } else { w.rng.below(late) };
            self.late(w, late, &relay, event);
        }
    }

    /// An event reaches a relay after a while.
    fn late(&mut self, w: &mut World, after: Micros, relay: &str, event: &EventRef) {
        if after > 0 {
            let at = w.clock.now() + after;
            self.delayed.push((at, relay.to_owned(), event.clone()));
        } else if w.rng.below(12) == 0 {
            w.hold(relay, event);
        } else {
            w.publish(relay, event);
        }
    }

    /// Many events of one second.
    fn burst(&mut self, w: &mut World, relay: &str) {
        let wall = w.clock.wall();
        let (at, quietly) = (self.pen.when(&mut w.rng, wall), w.rng.below(2) == 0);
        let most = one_of(&mut w.rng, &[40, 40, 300]);
        for _ in 0..10 + w.rng.below(most) {
            let event = self.pen.comment(&mut w.rng, at);
            if quietly { w.hold(relay, &event) } else { w.publish(relay, &event) }
        }
    }

    fn client(&mut self, w: &mut World) {
        let wall = w.clock.wall();
        let client = w.connect_client();
        if w.rng.below(2) == 0 {
            let filter = json!({ "kinds": [1, 1111, 1617, 1618, 1619, 1621, 30617], "limit": 500 });
            w.client_sends(client, &req("all", &filter));
        }
        if w.rng.below(4) == 0 {
            w.slow_client(client, 2 * MINUTE);
        }
        for _ in 0..w.rng.below(4) {
            let event =
                if w.rng.below(3) == 0 { self.pen.junk(&mut w.rng, wall) } else { self.pen.root(&mut w.rng, wall) };
            w.client_publishes(client, &event);
        }
        self.clients.push(client);
    }

    fn trouble(&mut self, w: &mut World, trouble: Action, relay: &str) {
        let short = w.rng.below(5 * MINUTE);
        match trouble {
            Drop => w.drop_links(relay),
            Cut => w.cut_links(relay),
            Silence => w.silence_links(relay),
            Stall => w.stall_links(relay, short),
            SlowRelay => w.slow_relay(relay, short),
            SlowClient => {
                if let Some(client) = self.clients.last() {
                    w.slow_client(*client, short);
                }
            }
            Mode => {
                let modes = [Mode::Up, Mode::Up, Mode::Refuses, Mode::HangsUp, Mode::BlackHole];
                w.relay(relay).mode = one_of(&mut w.rng, &modes);
                if w.rng.below(2) == 0 {
                    w.drop_links(relay);
                }
            }
            Partition => self.partition(w),
            Kill => {
                let (seed, lost) = (w.rng.next_u64(), w.rng.below(4));
                w.kill_with([Lost::All, Lost::Nothing, Lost::Some(seed), Lost::Torn(seed)][lost as usize]);
                self.come_back(w);
            }
            Stop => {
                w.stop();
                self.come_back(w);
            }
            Reconfigure => {
                w.stop();
                self.reconfigure(w);
                self.come_back(w);
            }
            DiskFault => self.disk_fault(w),
            Refuse => {
                let refusals = [
                    Refusal::Closed("error: could not connect to the database"),
                    Refusal::Closed("rate-limited: slow down there chief"),
                    Refusal::Notice("ERROR: too many concurrent REQs"),
                    Refusal::NoEose,
                    Refusal::Nothing,
                ];
                let refusal = refusals[w.rng.below(5) as usize].clone();
                let pass = w.rng.below(5);
                // Long enough that a sweep fails for good, now and then.
                let times = one_of(&mut w.rng, &[1, 1, 4, 40]);
                let refusals = (0..pass).map(|_| None).chain(std::iter::repeat_n(Some(refusal), times));
                let refusals: Vec<Option<Refusal>> = refusals.collect();
                w.relay(relay).refusals.extend(refusals.iter().cloned());
                // Where many refuse, what is newly shared cannot be swept, and nothing may claim that it was.
                if times == 40 && w.rng.below(2) == 0 {
                    let all_but_the_first = (1..self.relays).map(|n| format!("r{n}"));
                    all_but_the_first.for_each(|r| w.relay(&r).refusals.extend(refusals.iter().cloned()));
                    (0..3).for_each(|_| self.announce(w));
                }
            }
            Limit => w.relay_says(relay, &notice("rate limited")),
            WallSlips => {
                let slip = w.rng.below(1_200) as i64 - 600;
                w.set_wall(slip);
            }
            WallLeaps => {
                let far = one_of(&mut w.rng, &[7_200, 86_400 * 3, 86_400 * 365 * 4]);
                let leap = w.rng.below(2 * far) as i64 - far as i64;
                w.set_wall(leap);
            }
            Suspend => {
                let (time, stands_still) = (one_of(&mut w.rng, &[MINUTE, HOUR, 30 * HOUR]), w.rng.below(2) == 0);
                w.suspend(time, stands_still);
            }
            Outage => self.outage(w),
            event => unreachable!("{event:?} is no trouble"),
        }
    }

    fn come_back(&mut self, w: &mut World) {
        let down = one_of(&mut w.rng, &[SECOND, 10 * MINUTE, 20 * HOUR]);
        let down = w.rng.below(down);
        self.pass(w, down);
        w.start();
    }

    /// A set of relays cannot be reached for a while; links to them hang.
    fn partition(&mut self, w: &mut World) {
        let cut_off: Vec<String> = (0..self.relays).map(|n| format!("r{n}")).filter(|_| w.rng.below(3) == 0).collect();
        let time = one_of(&mut w.rng, &[20 * SECOND, 5 * MINUTE, 3 * HOUR]);
        for relay in &cut_off {
            w.stall_links(relay, time);
            w.relay(relay).mode = Mode::BlackHole;
        }
        self.pass(w, time);
        for relay in &cut_off {
            w.relay(relay).mode = Mode::Up;
        }
    }

    /// Our own network goes down for a while, in which the process may end and begin again.
    fn outage(&mut self, w: &mut World) {
        let dials = [CloseReason::NoRoute, CloseReason::NoNameServer, CloseReason::Timeout];
        let (dials, breaks) = (one_of(&mut w.rng, &dials), w.rng.below(2) == 0);
        let time = one_of(&mut w.rng, &[20 * SECOND, 5 * MINUTE, 3 * HOUR, 30 * HOUR]);
        w.cut_network(dials, breaks);
        for _ in 0..3 {
            let event = self.pen.comment(&mut w.rng, w.clock.wall());
            self.spread(w, &event);
            self.pass(w, time / 3);
            if w.rng.below(8) == 0 {
                w.stop();
                w.start();
            }
        }
        w.restore_network();
    }

    /// The operator changes something.
    fn reconfigure(&mut self, w: &mut World) {
        match w.rng.below(6) {
            0 if self.relays > 1 => {
                let n = 1 + w.rng.below(self.relays as u64 - 1);
                toggle(&mut w.settings.bootstrap, RelayUrl::parse(&relay_url(&format!("r{n}"))).expect("a relay URL"));
            }
            1 => {
                let n = w.rng.below(self.pen.authors.len() as u64) as usize;
                let author = PublicKey::from_hex(&self.pen.authors[n].hex).expect("a key");
                toggle(&mut w.settings.deny_authors, author);
            }
            2 | 3 => {
                let n = w.rng.below(self.pen.repos.len() as u64) as usize;
                let repo = RepoAddr::parse(&self.pen.address(n)).expect("an address");
                let denies = w.rng.below(2) == 0;
                toggle(if denies { &mut w.settings.deny_repos } else { &mut w.settings.archive }, repo);
            }
            4 => w.settings.limits.relays_per_repo_max = one_of(&mut w.rng, &[1, 2, 16]),
            _ => {
                w.settings.limits.filter_values_max = one_of(&mut w.rng, &[3, 20, 100]);
                w.settings.limits.consolidate_above_filters = one_of(&mut w.rng, &[12, 70]);
            }
        }
        let limits = &w.settings.limits;
        w.say(&format!(
            "settings: {} bootstrap relays, {} authors and {} repos denied, {} archived, {limits:?}",
            w.settings.bootstrap.len(),
            w.settings.deny_authors.len(),
            w.settings.deny_repos.len(),
            w.settings.archive.len()
        ));
    }

    /// The disk fails, the process with it sooner or later; it is started again and again until the disk is sound.
    fn disk_fault(&mut self, w: &mut World) {
        let after = w.rng.below(200);
        let fails = if w.rng.below(2) == 0 { Fails::Once(after) } else { Fails::From(after) };
        let mut faults = DiskFaults { seed: w.rng.next_u64(), ..DiskFaults::default() };
        match w.rng.below(4) {
            0 => faults.read = fails,
            1 => faults.change = fails,
            2 => faults.sync = fails,
            _ => faults.room = Some(w.disk_used() + (w.rng.below(256) << 10)),
        }
        w.disk_faults(faults);
        for _ in 0..1 + w.rng.below(4) {
            let event = self.pen.comment(&mut w.rng, w.clock.wall());
            self.spread(w, &event);
            self.pass(w, 30 * SECOND);
            if !w.is_running() {
                w.start();
            }
        }
        if w.is_running() && w.rng.below(2) == 0 {
            let seed = w.rng.next_u64();
            w.kill_with(Lost::Torn(seed));
        }
        w.disk_faults(DiskFaults::default());
        if !w.is_running() {
            w.start();
        }
    }
}

fn toggle<T: PartialEq>(list: &mut Vec<T>, item: T) {
    match list.iter().position(|held| *held == item) {
        Some(n) => _ = list.remove(n),
        None => list.push(item),
    }
}
