//! One village for each relay implementation: what it alone holds is had, what is published arrives at once, no limit
//! that the program could know is passed, and nothing is asked for ever.

use crate::clock::{DAY, HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::{Flavour, Liar, RelayConfig};
use crate::setup::OLD;
use crate::world::World;

/// REQs that one relay gets in an hour once everything is had.
const REQS_PER_HOUR_MAX: usize = 400;
/// Dials of one relay in a day, a restart included.
const DIALS_PER_DAY_MAX: usize = 16;

/// Repos of several owners, of which all but the announcement of the first is on the relay `far` alone.
pub(super) struct Hamlet {
    pub owners: Vec<Author>,
    pub issues: Vec<EventRef>,
    pub all: Vec<EventRef>,
}

impl Hamlet {
    pub fn build(w: &mut World, config: RelayConfig) -> Hamlet {
        w.add_relay("hub", RelayConfig::strfry());
        w.bootstrap("hub");
        w.add_relay("far", config);
        let owners: Vec<Author> = (1..=3).map(Author::new).collect();
        let mut issues = Vec::new();
        let mut all = Vec::new();
        for (n, owner) in owners.iter().enumerate() {
            let announcement = owner.announcement("alpha", &["wss://hub.example", "wss://far.example"], OLD + n as u64);
            w.hold(if n == 0 { "hub" } else { "far" }, &announcement);
            all.push(announcement);
            let state = owner.state("alpha", OLD + 50);
            w.hold("far", &state);
            all.push(state);
        }
        for n in 0..120 {
            let owner = &owners[n as usize % 3];
            let issue = owner.issue(&owner.repo("alpha"), OLD + 100 + n / 4, &n.to_string());
            all.push(owner.comment(&issue, OLD + 1_000 + n, "a comment"));
            issues.push(issue);
        }
        all.extend(issues.iter().cloned());
        w.hold_all("far", &all[1..]);
        Hamlet { owners, issues, all }
    }

    /// An issue and a comment on an old one are published, and are here within seconds.
    pub fn lives(&mut self, w: &mut World, what: &str) {
        let now = w.clock.wall();
        let issue = self.owners[1].issue(&self.owners[1].repo("alpha"), now, what);
        let comment = self.owners[2].comment(&self.issues[7], now, what);
        w.publish("far", &issue);
        w.publish("far", &comment);
        w.run_until(what, 3 * SECOND, |w| w.has_all([&issue, &comment]));
        self.all.extend([issue, comment]);
    }
}

pub(super) fn bounded(w: &mut World) {
    let from = w.clock.now();
    w.run_for(HOUR);
    let reqs = w.relay("far").reqs_since(from).count();
    assert!(reqs <= REQS_PER_HOUR_MAX, "{reqs} REQs in an hour");
    let dials = w.relay("far").dials.len();
    assert!(dials <= DIALS_PER_DAY_MAX, "{dials} dials");
    let breaches = format!("{:?}", w.relay("far").known_breaches());
    assert_eq!(breaches, "[]");
}

fn complete_with(name: &'static str, config: RelayConfig) {
    let mut world = World::new(name, crate::seed());
    let w = &mut world;
    eprintln!("{name}: SIM_SEED={}", w.seed);
    let mut hamlet = Hamlet::build(w, config);
    w.start();
    w.run_until("everything", HOUR, |w| w.has_all(&hamlet.all));
    w.run_until("live", HOUR, |w| w.relay_status("far")["state"] == "Live");
    w.run_for(2 * MINUTE);
    hamlet.lives(w, "live");
    bounded(w);
    w.kill();
    w.run_for(MINUTE);
    w.start();
    w.run_until("live again", HOUR, |w| w.relay_status("far")["state"] == "Live");
    w.run_for(2 * MINUTE);
    hamlet.lives(w, "live after a restart");
    w.run_for(DAY);
    w.run_until("live after a day", HOUR, |w| w.relay_status("far")["state"] == "Live");
    w.run_for(2 * MINUTE);
    hamlet.lives(w, "live after a day");
    bounded(w);
    assert!(w.has_all(&hamlet.all));
    let status = w.relay_status("far");
    assert_eq!((&status["sweeps_failed"], &status["sweeps_left"]), (&false.into(), &0.into()), "{status:#}");
}

macro_rules! villages {
    ($($test:ident: $flavour:literal;)*) => {
        $(#[test]
        fn $test() {
            complete_with(stringify!($test), Flavour::named($flavour).config());
        })*

        #[test]
        fn every_flavour_that_can_be_complete_is_shown_to_be() {
            let shown = [$($flavour),*];
            for flavour in Flavour::ALL {
                assert_eq!(shown.contains(&flavour.name), flavour.complete, "{}", flavour.name);
            }
        }
    };
}

villages! {
    a_village_on_strfry: "strfry";
    a_village_on_strfry_1_0: "strfry-1.0";
    a_village_on_nostr_rs_relay: "nostr-rs-relay";
    a_village_on_nostr_rs_relay_under_load: "nostr-rs-relay-under-load";
    a_village_on_khatru_with_badger: "khatru-badger";
    a_village_on_khatru_with_negentropy: "khatru-negentropy";
    a_village_on_khatru_with_lmdb: "khatru-lmdb";
    a_village_on_khatru_with_sqlite: "khatru-sqlite";
    a_village_on_khatru_with_postgres: "khatru-postgres";
    a_village_on_khatru_with_sane_defaults: "khatru-sane-defaults";
    a_village_on_wot_relay: "wot-relay";
    a_village_on_ngit_relay: "ngit-relay";
    a_village_on_chorus: "chorus";
    a_village_on_rnostr: "rnostr";
    a_village_on_relay_builder: "relay-builder";
    a_village_on_netstr: "netstr";
}

#[test]
fn a_village_on_a_relay_that_lies_and_yet_gives_all() {
    for liar in
        [Liar::Strangers, Liar::Forger, Liar::Alterer, Liar::Endless, Liar::Challenger, Liar::Nagger, Liar::Confused]
    {
        assert!(liar.gives_all());
        complete_with("a_village_on_a_relay_that_lies_and_yet_gives_all", RelayConfig::strfry().lying(liar));
    }
}
