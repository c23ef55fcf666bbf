//! nostr-rs-relay with the configuration FILE and its database in DIR: `--config FILE --db DIR`.

use lexopt::prelude::{Long, ValueExt};
use nostr_rs_relay::config::Settings;
use nostr_rs_relay::server::start_server;
use std::error::Error;
use std::sync::mpsc;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let (mut config, mut directory) = (None, None);
    let mut flags = lexopt::Parser::from_env();
    while let Some(flag) = flags.next()? {
        match flag {
            Long("config") => config = Some(flags.value()?.string()?),
            Long("db") => directory = Some(flags.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut settings = Settings::new(&config)?;
    settings.database.data_directory = directory.ok_or("--db is missing")?;
    // It stops when something comes through here, and nothing does.
    let (_stop, stops) = mpsc::channel();
    start_server(&settings, stops).map_err(|e| e.to_string().into())
}
