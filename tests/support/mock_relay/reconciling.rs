//! NIP-77 as strfry speaks it: one sealed set for each open reconciliation of a connection.

use super::data::{RelayData, RelayFilter};
use faster_hex::{hex_decode, hex_string};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::Value;
use std::collections::BTreeMap;

/// How a relay reconciles.
#[derive(Clone, Copy, Debug)]
pub struct Reconciles {
    /// Bytes of one frame before it becomes hexadecimal.
    pub frame_bytes_max: u64,
    /// Events of one set; more are refused by NEG-ERR.
    pub events_max: usize,
}

impl Default for Reconciles {
    /// strfry's: frames of 500,000 bytes, sets of 1,000,000 events.
    fn default() -> Self {
        Reconciles { frame_bytes_max: 500_000, events_max: 1_000_000 }
    }
}

/// The reconciliations that one connection has open.
#[derive(Default)]
pub(crate) struct Reconciliations(BTreeMap<String, NegentropyStorageVector>);

impl Reconciliations {
    /// The answer to a message whose type begins with `NEG-`, if it has one.
    pub(crate) fn answer(&mut self, message: &Value, how: Reconciles, data: &RelayData) -> Option<String> {
        let id = message[1].as_str()?;
        match message[0].as_str()? {
            "NEG-OPEN" => {
                let Some(filter) = RelayFilter::parse(&message[2]) else {
                    return Some(error(id, "ERROR: bad req: unrecognised filter item"));
                };
                let items = data.items(&filter);
                if items.len() > how.events_max {
                    return Some(error(id, "blocked: too many query results"));
                }
                let mut set = NegentropyStorageVector::with_capacity(items.len());
                for (created_at, event) in items {
                    set.insert(created_at, Id::from_byte_array(event.to_bytes())).expect("it is not sealed yet");
                }
                set.seal().expect("it is not sealed yet");
                self.0.insert(id.to_owned(), set);
                Some(self.step(id, &message[3], how))
            }
            "NEG-MSG" => Some(self.step(id, &message[2], how)),
            _ => {
                self.0.remove(id);
                None
            }
        }
    }

    fn step(&mut self, id: &str, payload: &Value, how: Reconciles) -> String {
        let Some(set) = self.0.get(id) else { return error(id, "closed: unknown subscription handle") };
        let mut server = Negentropy::borrowed(set, how.frame_bytes_max).expect("the frame is large enough");
        match payload.as_str().and_then(from_hex).and_then(|frame| server.reconcile(&frame).ok()) {
            Some(frame) => format!(r#"["NEG-MSG",{},"{}"]"#, Value::from(id), hex_string(&frame)),
            None => {
                self.0.remove(id);
                error(id, "PROTOCOL-ERROR")
            }
        }
    }
}

fn error(id: &str, reason: &str) -> String {
    format!(r#"["NEG-ERR",{},{}]"#, Value::from(id), Value::from(reason))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; text.len() / 2];
    hex_decode(text.as_bytes(), &mut bytes).ok().map(|()| bytes)
}
