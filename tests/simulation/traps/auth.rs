//! Relays that answer only those whom they know (NIP-42), with a key and without.

use super::flavours::Hamlet;
use crate::clock::{DAY, HOUR, MINUTE};
use crate::model_relay::{Flavour, Liar, ModelRelay, Quirk, RelayConfig, closed};
use crate::world::World;
use grasp_sync::protocol::auth::AuthKey;

/// A hamlet on a relay of this kind, and a key to be known by.
fn keyed(name: &'static str, config: RelayConfig) -> (World, Hamlet) {
    let mut w = World::new(name, crate::seed());
    eprintln!("{name}: SIM_SEED={}", w.seed);
    let hamlet = Hamlet::build(&mut w, config);
    w.settings.auth_key = AuthKey::parse(&"42".repeat(32));
    assert!(w.settings.auth_key.is_some());
    (w, hamlet)
}

fn proofs(relay: &ModelRelay) -> (usize, usize) {
    (relay.auths.iter().filter(|(_, proof)| *proof).count(), relay.auths.len())
}

#[test]
fn a_relay_that_wants_auth_gives_everything_to_who_has_a_key() {
    let name = "a_relay_that_wants_auth_gives_everything_to_who_has_a_key";
    let (mut w, mut hamlet) = keyed(name, Flavour::named("khatru-auth").config());
    w.start();
    w.run_until("everything", HOUR, |w| w.has_all(&hamlet.all));
    w.run_until("live", HOUR, |w| w.relay_status("far")["state"] == "Live");
    w.run_for(MINUTE);
    hamlet.lives(&mut w, "live");
    assert_eq!(proofs(w.relay("far")), (1, 1), "once on the link");
    w.drop_links("far");
    w.run_until("live again", HOUR, |w| w.relay_status("far")["state"] == "Live");
    w.run_for(MINUTE);
    hamlet.lives(&mut w, "live again");
    assert_eq!(proofs(w.relay("far")), (2, 2), "once on each link");
    let status = w.relay_status("far");
    assert_eq!(status["sweeps_failed"], false, "{status:#}");
    assert!(w.relay("far").known_breaches().is_empty());
}

#[test]
fn a_relay_that_knows_us_and_will_not_have_us_is_left_alone_for_a_day() {
    let told_at_once: &[Quirk] = &[Quirk::AuthRequired, Quirk::MembersOnly { told_at_once: true }];
    let members = Flavour::named("khatru-members");
    for flavour in [members.clone(), Flavour { quirks: told_at_once, ..members }] {
        let name = "a_relay_that_knows_us_and_will_not_have_us_is_left_alone_for_a_day";
        let (mut w, _) = keyed(name, flavour.config());
        w.start();
        w.run_for(3 * HOUR);
        let status = w.relay_status("far");
        let expected = (&"Backoff".into(), &"it is restricted to others".into());
        assert_eq!((&status["state"], &status["why"]), expected);
        w.run_for(3 * DAY);
        let far = w.relay("far");
        assert!((3..=5).contains(&far.dials.len()), "{} dials", far.dials.len());
        assert_eq!(proofs(far), (far.dials.len(), far.dials.len()));
        assert!(far.reqs.len() <= 12 * far.dials.len(), "{} REQs", far.reqs.len());
    }
}

/// Some policies want a proof for one filter only: it is given, and nothing is lost.
#[test]
fn a_refusal_in_the_middle_is_answered_too() {
    let (mut w, mut hamlet) = keyed("a_refusal_in_the_middle_is_answered_too", Flavour::named("chorus").config());
    w.start();
    w.run_until("everything", HOUR, |w| w.has_all(&hamlet.all));
    w.run_until("live", HOUR, |w| w.relay_status("far")["state"] == "Live");
    assert_eq!(proofs(w.relay("far")), (0, 0), "nothing was refused for want of it");
    let live: Vec<String> = w.relay("far").sessions().values().flat_map(|s| s.subscriptions.keys().cloned()).collect();
    assert!(!live.is_empty());
    for subscription in &live {
        w.relay_says("far", &closed(subscription, "auth-required: At least one matching event requires AUTH"));
    }
    w.run_for(MINUTE);
    assert_eq!(proofs(w.relay("far")), (1, 1));
    hamlet.lives(&mut w, "live again");
}

/// A relay that neither sends a challenge nor says what it makes of the answer.
#[test]
fn silence_about_who_we_are_is_a_refusal() {
    let (mut w, _) = keyed("silence_about_who_we_are_is_a_refusal", RelayConfig::strfry());
    let why = "auth-required: we know you not";
    w.relay("far").refusals.extend((0..10_000).map(|_| Some(crate::model_relay::Refusal::Closed(why))));
    w.start();
    w.run_for(30 * MINUTE);
    let status = w.relay_status("far");
    assert_eq!((&status["state"], &status["why"]), (&"Backoff".into(), &"it wants us to authenticate".into()));
    assert_eq!(w.relay("far").dials.len(), 1);
}

#[test]
fn a_storm_of_challenges_is_not_answered() {
    let name = "a_storm_of_challenges_is_not_answered";
    let (mut w, mut hamlet) = keyed(name, Flavour::named("chorus").config().lying(Liar::Challenger));
    w.start();
    w.run_until("everything", HOUR, |w| w.has_all(&hamlet.all));
    w.run_for(MINUTE);
    hamlet.lives(&mut w, "live");
    assert_eq!(proofs(w.relay("far")), (0, 0));
    assert!(w.metric("grasp_sync_auth_challenges_total") > 1_000);
}
