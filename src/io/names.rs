//! Stand-in for the resolver: address literals and `localhost` only.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Answers at once.
#[derive(Debug, Default)]
pub struct Names {
    answers: VecDeque<(u64, Vec<IpAddr>)>,
}

impl Names {
    /// Asks for the addresses of `host`.
    pub fn resolve(&mut self, query: u64, host: &str) {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) if host == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Err(_) => Vec::new(),
        };
        self.answers.push_back((query, addresses));
    }

    /// The next answer.
    pub fn poll_answer(&mut self) -> Option<(u64, Vec<IpAddr>)> {
        self.answers.pop_front()
    }
}

/// Stand-in for the guard.
pub fn is_public(address: IpAddr) -> bool {
    !address.is_loopback()
}
