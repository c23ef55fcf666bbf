//! What relays and clients say in the engine's world.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::World;
use super::pool::PoolEvent;
use crate::contract::{CloseReason, Input, LinkId};
use crate::fuzzing::refusals::refusal;
use crate::shares::Account;

/// Rounds of answers in one step: a sweep asks for its next page with every one.
const ROUNDS: usize = 6;

impl World<'_> {
    fn hear(&mut self, relay: u64, text: &str) {
        if self.checks.relays.contains_key(&relay) {
            self.input(Input::Text { link: LinkId::Relay(relay), text });
        }
    }

    /// An open link to a relay.
    fn pick_link(&mut self) -> Option<u64> {
        let open: Vec<u64> = self.checks.relays.iter().filter(|(_, far)| far.is_open).map(|(n, _)| *n).collect();
        (!open.is_empty()).then(|| open[self.pick(open.len())])
    }

    /// A subscription on one of them.
    fn pick_subscription(&mut self) -> Option<(u64, String)> {
        let link = self.pick_link()?;
        let names: Vec<String> = self.checks.relays[&link].subscriptions.keys().cloned().collect();
        (!names.is_empty()).then(|| (link, names[self.pick(names.len())].clone()))
    }

    fn pick_refusal(&mut self) -> String {
        refusal(self.byte().into())
    }

    fn hear_event(&mut self, relay: u64, subscription: &str, held: &PoolEvent) {
        self.hand_in(held.event.id);
        self.hear(relay, &format!(r#"["EVENT",{},{}]"#, json!(subscription), held.json));
    }

    /// Some events of the pool, whether they were asked for or not.
    pub(super) fn deliver(&mut self) {
        let Some((link, subscription)) = self.pick_subscription() else { return };
        let pool = &self.prepared.pool.events;
        let first = self.pick(pool.len());
        let count = self.byte() & 31;
        for held in pool.iter().cycle().skip(first).take(1 + usize::from(count)) {
            self.hear_event(link, &subscription, held);
        }
    }

    pub(super) fn end_stored(&mut self) {
        if let Some((link, subscription)) = self.pick_subscription() {
            self.hear(link, &json!(["EOSE", subscription]).to_string());
        }
    }

    /// Relays that hold the whole pool answer everything that is open, and what is asked then; or that hold nothing.
    pub(super) fn answer_all(&mut self) {
        let choice = self.byte();
        let (cap, is_one) = ([500, 3, 20, 0][usize::from(choice & 3)], choice & 4 != 0);
        let only = if is_one { self.pick_link() } else { None };
        for _ in 0..ROUNDS {
            let mut asked = Vec::new();
            for (n, far) in self.checks.relays.iter_mut().filter(|(n, _)| only.is_none_or(|only| only == **n)) {
                for (subscription, req) in far.subscriptions.iter_mut().filter(|(_, req)| !req.is_answered) {
                    req.is_answered = true;
                    asked.push((*n, subscription.clone(), req.filters.clone()));
                }
            }
            for (link, subscription, filters) in asked {
                let pool = &self.prepared.pool;
                for held in filters.iter().flat_map(|filter| pool.page(filter, cap)) {
                    self.hear_event(link, &subscription, held);
                }
                self.hear(link, &json!(["EOSE", subscription]).to_string());
            }
        }
    }

    pub(super) fn refuse_subscription(&mut self) {
        let Some((link, subscription)) = self.pick_subscription() else { return };
        let word = &self.pick_refusal();
        if let Some(far) = self.checks.relays.get_mut(&link) {
            far.subscriptions.remove(&subscription);
        }
        self.note_rest(link, word);
        self.hear(link, &json!(["CLOSED", subscription, word]).to_string());
    }

    pub(super) fn give_notice(&mut self) {
        let Some(link) = self.pick_link() else { return };
        let word = &self.pick_refusal();
        self.note_rest(link, word);
        self.hear(link, &json!(["NOTICE", word]).to_string());
    }

    fn note_rest(&mut self, link: u64, word: &str) {
        let until = self.micros + self.settings.timing.rate_limit_cooldown.as_micros();
        let asks_for_rest = ["slow down", "rate limited,", "Rate limit"].iter().any(|words| word.contains(words));
        if let Some(far) = self.checks.relays.get_mut(&link).filter(|_| asks_for_rest) {
            far.quiet_until = until;
        }
    }

    pub(super) fn say_something_odd(&mut self) {
        let Some(link) = self.pick_link() else { return };
        let choice = self.byte();
        let id = "0".repeat(64);
        let pool = &self.prepared.pool.events;
        let held = &pool[usize::from(choice >> 3) % pool.len()];
        let altered = held.json.replace("\"kind\":", "\"kind\":0");
        let exchange = self.checks.relays[&link].exchanges.first().cloned().unwrap_or_default();
        let lists_one = format!("6100000201{}", held.event.id);
        let of_exchange = match choice >> 3 & 3 {
            0 => json!(["AUTH", "challenge"]),
            1 => json!(["NEG-MSG", exchange, "61"]),
            2 => json!(["NEG-MSG", exchange, lists_one]),
            _ if choice & 32 != 0 => json!(["NEG-ERR", exchange, "blocked: too many query results", choice]),
            _ => json!(["NEG-ERR", exchange, self.pick_refusal()]),
        };
        let texts = [
            of_exchange.to_string(),
            json!(["OK", id, choice & 8 == 0, "why"]).to_string(),
            "[".to_owned(),
            format!(r#"["EVENT","0",{altered}]"#),
            format!(r#"["EVENT","nobody's",{}]"#, held.json),
            json!(["EVENT", "0", {"id": id, "created_at": choice}]).to_string(),
            json!(["EOSE", choice.to_string()]).to_string(),
            json!(["CLOSED", "nobody's", ""]).to_string(),
        ];
        // EOSE may name one that is open.
        self.hand_in(held.event.id);
        self.hear(link, &texts[usize::from(choice & 7)]);
        self.input(Input::Alive { link: LinkId::Relay(link) });
    }

    // Clients.

    fn pick_client(&mut self) -> Option<LinkId> {
        let clients: Vec<u64> = self.checks.clients.iter().copied().collect();
        (!clients.is_empty()).then(|| LinkId::Client(clients[self.pick(clients.len())]))
    }

    pub(super) fn add_client(&mut self) {
        let client = self.next_client;
        self.next_client += 1;
        self.checks.clients.insert(client);
        self.input(Input::Accepted {
            link: LinkId::Client(client),
            account: Account::of(Ipv4Addr::new(192, 0, 2, client as u8).into()),
        });
    }

    pub(super) fn client_asks(&mut self) {
        let Some(link) = self.pick_client() else { return };
        let choice = self.byte();
        let pool = &self.prepared.pool.events;
        let held = &pool[self.pick(pool.len())].event;
        let filter = match choice >> 2 & 7 {
            0 => json!({}),
            1 => json!({"kinds": [30_617, 1_621]}),
            2 => json!({"ids": [held.id]}),
            3 => json!({"authors": [held.pubkey], "limit": 3}),
            4 => json!({"#e": [held.id], "#E": [held.id]}),
            5 => json!({"since": held.created_at, "limit": 0}),
            6 => json!({"until": held.created_at}),
            _ => json!({"kinds": ["no"]}),
        };
        let filters = vec![filter.clone(), json!({"kinds": [1_111], "limit": choice >> 5})];
        let name = (choice & 3).to_string();
        let parts = [vec![json!("REQ"), json!(name)], filters].concat();
        self.input(Input::Text { link, text: &Value::from(parts).to_string() });
    }

    pub(super) fn client_publishes(&mut self) {
        let Some(link) = self.pick_client() else { return };
        let pool = &self.prepared.pool.events;
        let held = &pool[self.pick(pool.len())];
        self.hand_in(held.event.id);
        self.input(Input::Text { link, text: &format!(r#"["EVENT",{}]"#, held.json) });
    }

    pub(super) fn client_moves(&mut self) {
        let Some(link) = self.pick_client() else { return };
        let choice = self.byte();
        match choice % 6 {
            0 | 1 => self.input(Input::Drained { link }),
            2 => self.input(Input::Text { link, text: &json!(["CLOSE", (choice >> 5).to_string()]).to_string() }),
            3 => self.input(Input::Text { link, text: "[\"HELLO\"]" }),
            4 => self.input(Input::Alive { link }),
            _ => {
                if let LinkId::Client(n) = link {
                    self.checks.clients.remove(&n);
                }
                self.input(Input::Closed { link, reason: CloseReason::Peer(1001) });
            }
        }
    }
}
