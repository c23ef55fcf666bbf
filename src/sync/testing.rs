//! Small values for the tests of this room.

use std::collections::VecDeque;

use nostr::event::EventId;
use nostr::key::{Keys, PublicKey};

use crate::contract::Output;
use crate::metrics::Metrics;
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::{Announcement, RepoAddr};
use crate::settings::Settings;
use crate::state::State;
use crate::sync::Cx;
use crate::sync::dials::Dials;
use crate::sync::network::Network;
use crate::time::{Duration, Instant, Now, UnixTime};

pub fn relay(name: &str) -> RelayUrl {
    RelayUrl::parse(&format!("wss://{name}.example")).unwrap()
}

pub fn author(n: u8) -> PublicKey {
    Keys::parse(&format!("{n:064x}")).unwrap().public_key()
}

pub fn root_id(n: u32) -> EventId {
    let mut bytes = [0x11; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    EventId::from_slice(&bytes).unwrap()
}

pub fn addr(owner: u8, identifier: &str) -> RepoAddr {
    RepoAddr { author: author(owner), identifier: identifier.to_owned() }
}

pub fn settings() -> Settings {
    Settings { bootstrap: vec![relay("boot")], ..Settings::of(Service::parse("git.example").unwrap()) }
}

/// An announcement that lists our service and these relays.
pub fn announcement(owner: u8, identifier: &str, relays: &[&str]) -> Announcement {
    use nostr::nips::nip19::ToBech32;
    let npub = author(owner).to_bech32().unwrap();
    let own = RelayUrl::parse("wss://git.example").unwrap();
    Announcement {
        addr: addr(owner, identifier),
        clone_urls: vec![format!("https://git.example/{npub}/{identifier}.git")],
        relays: std::iter::once(own).chain(relays.iter().map(|name| relay(name))).collect(),
        relays_refused: 0,
        maintainers: Vec::new(),
        maintainers_refused: 0,
        author_left: false,
        created_at: UnixTime::from_secs(1_000),
    }
}

/// A world around one machine: what it sees, and what it says.
pub struct Bench {
    pub now: Now,
    pub settings: Settings,
    pub state: State,
    pub out: VecDeque<Output>,
    pub metrics: Metrics,
    pub network: Network,
    pub dials: Dials,
    /// Whether dials wait for their turn. Else each begins at once.
    pub waits: bool,
    next_link: u64,
}

impl Bench {
    pub fn new() -> Bench {
        let settings = settings();
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_700_000_000) };
        Bench {
            now,
            network: Network::new(now),
            dials: Dials::default(),
            waits: false,
            state: State::new(settings.clone()),
            settings,
            out: VecDeque::new(),
            metrics: Metrics::default(),
            next_link: 0,
        }
    }

    pub fn advance(&mut self, secs: u64) {
        self.now = Now { mono: self.now.mono + Duration::from_secs(secs), wall: self.now.wall.plus_secs(secs) };
    }

    pub fn cx(&mut self) -> Cx<'_> {
        if !self.waits {
            self.dials = Dials::default();
        }
        Cx {
            now: self.now,
            state: &self.state,
            settings: &self.settings,
            network: &mut self.network,
            dials: &mut self.dials,
            next_link: &mut self.next_link,
            out: &mut self.out,
            metrics: &mut self.metrics,
        }
    }

    /// The texts sent since the last look.
    pub fn sent(&mut self) -> Vec<String> {
        let outputs = std::mem::take(&mut self.out);
        outputs
            .into_iter()
            .filter_map(|output| match output {
                Output::Send { text, .. } => Some(text),
                _ => None,
            })
            .collect()
    }
}
