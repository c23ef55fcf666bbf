//! A NIP-01 client of the own relay, as the world has it: it remembers everything it is told.

use crate::clock::Micros;
use crate::events::{EventRef, SimEvent};
use serde_json::{Value, json};

#[derive(Default)]
pub struct ModelClient {
    /// Everything received, in order.
    pub received: Vec<(Micros, Value)>,
    pub closed: Option<u16>,
}

impl ModelClient {
    pub fn on_text(&mut self, at: Micros, text: &str) {
        self.received.push((at, serde_json::from_str(text).expect("the own relay speaks JSON")));
    }

    fn of_type<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a (Micros, Value)> {
        self.received.iter().filter(move |(_, m)| m[0] == name)
    }

    /// The answer to a published event: accepted, and what was said.
    pub fn ok(&self, event: &SimEvent) -> Option<(bool, &str)> {
        self.of_type("OK").find(|(_, m)| m[1] == *event.id).map(|(_, m)| (m[2] == true, m[3].as_str().unwrap_or("")))
    }

    /// When `event` came in for any subscription.
    pub fn got(&self, event: &SimEvent) -> Option<Micros> {
        self.of_type("EVENT").find(|(_, m)| m[2]["id"] == *event.id).map(|(at, _)| *at)
    }

    /// Ids that came in for `subscription`, in order.
    pub fn ids(&self, subscription: &str) -> Vec<String> {
        let events = self.of_type("EVENT").filter(|(_, m)| m[1] == subscription);
        events.filter_map(|(_, m)| m[2]["id"].as_str().map(str::to_owned)).collect()
    }

    pub fn eose(&self, subscription: &str) -> bool {
        self.of_type("EOSE").any(|(_, m)| m[1] == subscription)
    }
}

pub fn req(subscription: &str, filter: &Value) -> String {
    json!(["REQ", subscription, filter]).to_string()
}

pub fn publish(event: &EventRef) -> String {
    format!("[\"EVENT\",{}]", event.json)
}
