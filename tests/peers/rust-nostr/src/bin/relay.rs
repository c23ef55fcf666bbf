//! A relay made of `nostr-sdk` (before 0.45: `nostr-relay-builder`). Prints its URL, then serves until its standard input ends.
//!
//! ```text
//! relay [--port N] [--lmdb DIR] [--max-reqs N] [--events-per-minute N] [--max-limit N] [--default-limit N]
//!       [--auth read|write|both]
//! ```
//! Without a flag, its own default holds.

use lexopt::prelude::{Long, ValueExt};
use nostr_lmdb::NostrLmdb;
use nostr_sdk::local_relay::{LocalRelayBuilder, LocalRelayBuilderNip42, RateLimit};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let relay = from_flags().await?.build();
    relay.run().await?;
    println!("{}", relay.url().await);
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    Ok(())
}

async fn from_flags() -> Result<LocalRelayBuilder, Box<dyn Error>> {
    let mut builder = LocalRelayBuilder::default();
    let mut rate = RateLimit::default();
    let mut flags = lexopt::Parser::from_env();
    while let Some(flag) = flags.next()? {
        builder = match flag {
            Long("port") => builder.port(flags.value()?.parse()?),
            Long("lmdb") => builder.database(NostrLmdb::open(flags.value()?).await?),
            Long("max-limit") => builder.max_filter_limit(flags.value()?.parse()?),
            Long("default-limit") => builder.default_filter_limit(flags.value()?.parse()?),
            Long("auth") => builder.nip42(match flags.value()?.string()?.as_str() {
                "read" => LocalRelayBuilderNip42::read(),
                "write" => LocalRelayBuilderNip42::write(),
                "both" => LocalRelayBuilderNip42::read_and_write(),
                other => return Err(format!("--auth {other}: read, write or both").into()),
            }),
            Long("max-reqs") => {
                rate.max_reqs = flags.value()?.parse()?;
                builder
            }
            Long("events-per-minute") => {
                rate.notes_per_minute = flags.value()?.parse()?;
                builder
            }
            other => return Err(other.unexpected().into()),
        };
    }
    Ok(builder.rate_limit(rate))
}
