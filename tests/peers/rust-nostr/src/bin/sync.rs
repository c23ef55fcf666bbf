//! A stock client (`nostr-sdk`) that reconciles with one relay in both directions (NIP-77): `sync URL DIRECTORY`.
//!
//! The directory holds what the client has, as lines of JSON (`held`). What it has after that goes to `complete`, likewise.

use nostr_memory::MemoryDatabase;
use nostr_sdk::prelude::*;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a connection.
const ANSWER: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, directory] = arguments.as_slice() else { return Err("usage: sync URL DIRECTORY".into()) };
    let directory = Path::new(directory);
    let client = ClientBuilder::new().database(MemoryDatabase::unbounded()).build();
    for line in std::fs::read_to_string(directory.join("held"))?.lines() {
        client.database().save_event(&Event::from_json(line)?).await?;
    }
    client.add_relay(url).await?;
    let output = client.try_connect().timeout(ANSWER).await;
    if output.success.is_empty() {
        return Err(format!("no connection: {:?}", output.failed).into());
    }
    let output = client.sync(Filter::new()).opts(SyncOptions::new().direction(SyncDirection::Both)).await?;
    if !output.failed.is_empty() || output.value.send_failures.values().any(|of| !of.is_empty()) {
        return Err(format!("{:?} {:?}", output.failed, output.value.send_failures).into());
    }
    println!("nostr-sdk: {} sent, {} received", output.value.sent.len(), output.value.received.len());
    let held = client.database().query(Filter::new()).await?;
    let lines: String = held.into_iter().map(|event| event.as_json() + "\n").collect();
    std::fs::write(directory.join("complete"), lines)?;
    Ok(())
}
