//! NIP-42 as relays take it: whose proof of who it is counts, and what is said of it.

use super::ModelRelay;
use super::flavour::Quirk;
use super::talk::{Wire, challenge_of};
use crate::clock::Micros;
use crate::events::SimEvent;
use nostr::event::Event;
use serde_json::{Value, json};

/// What those hear who are known and yet not answered.
pub(super) const NOT_A_MEMBER: &str = "restricted: you are not a member";

/// Seconds by which a proof may be older or newer than the relay's clock.
const FRESH_SECS: u64 = 600;

impl ModelRelay {
    /// Whether it ever asks who a client is.
    pub(super) fn challenges(&self) -> bool {
        self.config.flavour.has(Quirk::AuthRequired) || self.config.flavour.has(Quirk::Challenges)
    }

    /// Whether a link's client has proved who it is.
    pub(super) fn knows(&self, session: u64) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.known)
    }

    pub(super) fn on_auth(&mut self, at: Micros, event: &Value, wire: &mut Wire) {
        let id = event["id"].as_str().unwrap_or("").to_owned();
        let proves = self.is_proof(at, wire.session(), event);
        self.auths.push((at, proves));
        let why = match proves {
            false => "error: failed to authenticate",
            true if self.config.flavour.has(Quirk::MembersOnly { told_at_once: true }) => NOT_A_MEMBER,
            true => "",
        };
        if let Some(session) = self.sessions.get_mut(&wire.session()) {
            session.known |= proves;
        }
        wire.say(json!(["OK", id, why.is_empty(), why]).to_string());
    }

    /// Signed by its author, for this relay, this link's challenge and this time.
    fn is_proof(&self, at: Micros, session: u64, event: &Value) -> bool {
        let json = event.to_string();
        let Some(proof) = SimEvent::from_json(&json) else { return false };
        let is_signed = Event::from_json(&json).is_ok_and(|e| e.verify().is_ok());
        let challenge = challenge_of(session);
        is_signed
            && proof.kind == 22_242
            && proof.values("relay").eq([&*self.url])
            && proof.values("challenge").eq([&*challenge])
            && proof.created_at.abs_diff(self.wall(at)) <= FRESH_SECS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WALL_START;
    use crate::events::Author;
    use crate::model_relay::{Act, Flavour, Reply};

    const REQ: &str = r#"["REQ","s",{"kinds":[1],"limit":1}]"#;
    const EOSE: &str = r#"["EOSE","s"]"#;

    fn says(relay: &mut ModelRelay, text: &str) -> Vec<String> {
        let text_of = |r: Reply| if let Act::Say(text) = r.act { Some(text) } else { None };
        relay.on_text(0, 1, text).into_iter().filter_map(text_of).collect()
    }

    fn relay(flavour: Flavour) -> ModelRelay {
        let mut relay = ModelRelay::new("wss://r.example", flavour.config());
        relay.open(0, 1);
        relay
    }

    fn proves(relay: &mut ModelRelay, kind: u16, at: u64, url: &str, challenge: &str) -> (bool, String) {
        let proof = Author::new(1).sign(kind, at, &[&["relay", url], &["challenge", challenge]], "");
        let said = says(relay, &format!("[\"AUTH\",{}]", proof.json));
        let ok: Value = serde_json::from_str(&said[0]).expect("JSON");
        assert_eq!((&ok[0], &ok[1]), (&"OK".into(), &Value::from(&*proof.id)));
        (ok[2].as_bool().expect("a flag"), ok[3].as_str().expect("a text").to_owned())
    }

    #[test]
    fn a_proof_is_for_this_relay_link_and_time() {
        let url = "wss://r.example";
        let mut relay = relay(Flavour::named("khatru-auth"));
        assert_eq!(says(&mut relay, REQ)[0], r#"["AUTH","challenge 1"]"#);
        for (kind, at, to, challenge) in [
            (1, WALL_START, url, "challenge 1"),
            (22_242, WALL_START - 601, url, "challenge 1"),
            (22_242, WALL_START, "wss://other.example", "challenge 1"),
            (22_242, WALL_START, url, "challenge 2"),
        ] {
            let failed = (false, "error: failed to authenticate".to_owned());
            assert_eq!(proves(&mut relay, kind, at, to, challenge), failed, "{kind} {at} {to} {challenge}");
            assert_eq!(says(&mut relay, REQ).len(), 2);
        }
        assert_eq!(proves(&mut relay, 22_242, WALL_START, url, "challenge 1"), (true, String::new()));
        assert_eq!(says(&mut relay, REQ), [EOSE]);
        assert_eq!(relay.auths.iter().filter(|(_, proof)| *proof).count(), 1);
        relay.open(0, 2);
        assert!(!relay.knows(2), "each link for itself");
    }

    #[test]
    fn who_is_known_may_still_be_refused() {
        let url = "wss://r.example";
        let mut late = relay(Flavour::named("khatru-members"));
        assert_eq!(proves(&mut late, 22_242, WALL_START, url, "challenge 1"), (true, String::new()));
        assert_eq!(says(&mut late, REQ), [r#"["CLOSED","s","restricted: you are not a member"]"#]);
        let quirks = &[Quirk::AuthRequired, Quirk::MembersOnly { told_at_once: true }];
        let mut at_once = relay(Flavour { quirks, ..Flavour::named("khatru-auth") });
        assert_eq!(proves(&mut at_once, 22_242, WALL_START, url, "challenge 1"), (false, NOT_A_MEMBER.to_owned()));
    }
}
