//! Flags, environment and TOML to one checked [`Config`] (spec section 12).
//!
//! What was typed ([`RawConfig`]) becomes what can be used ([`Config`]) in one step, so that nothing below ever sees an
//! unchecked value. Flags beat the environment, which beats the file, which beats the defaults of [`keys::KEYS`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nostr::key::PublicKey;
use nostr::nips::nip19::FromBech32;

use crate::limits::{Limits, Timing};
use crate::protocol::network::Network;
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::RepoAddr;
use crate::settings::{Profile, Settings};
use crate::time::Duration;

pub mod keys;
mod raw;

use keys::{Key, Kind};
use raw::Given;
pub use raw::{Origin, RawConfig};

/// The configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the engine is told.
    pub settings: Settings,
    /// Address of the own relay.
    pub listen: SocketAddr,
    /// Address of metrics, health and status.
    pub admin_listen: SocketAddr,
    /// Directory of the store, relative to the working directory.
    pub data_dir: PathBuf,
    /// PEM file of further certificate authorities. Not read here.
    pub ca_file: Option<PathBuf>,
    /// File with the secret key by which relays know us (NIP-42). Not read here.
    pub auth_key_file: Option<PathBuf>,
    /// Whether relays at private addresses may be dialled.
    pub allow_private_relays: bool,
    /// Proxies that are believed for whom they speak.
    pub trusted_proxies: Vec<Network>,
    /// Bytes of the store's cache.
    pub store_cache_bytes: usize,
}

/// Why there is no configuration. Each is one line that names the source, the key and the remedy.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigError {
    /// The file could not be read, or is not UTF-8.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::ErrorKind,
    },
    /// The file is not TOML.
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        why: String,
    },
    /// The file has a key that does not exist.
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key.
        name: String,
        /// The one that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The environment has a variable with our prefix that belongs to no key.
    UnknownVariable {
        /// The variable.
        name: String,
    },
    /// A value is not what its key takes.
    BadValue {
        /// Where it stands.
        origin: Origin,
        /// Its key.
        key: &'static Key,
        /// The value, or the item of a list.
        value: String,
    },
    /// `bootstrap` lists the own relay, which is never dialled.
    OwnRelay {
        /// Where it stands.
        origin: Origin,
        /// The item.
        url: RelayUrl,
    },
    /// Two values cannot both be.
    Contradiction {
        /// The key to change, and where it stands.
        origin: Origin,
        /// Its key.
        key: &'static Key,
        /// What it has to be, as against `other`.
        must_be: Relation,
        /// The other key.
        other: &'static Key,
    },
    /// `domain` was not given.
    DomainMissing {
        /// The file, if one was named.
        file: Option<PathBuf>,
    },
}

/// What one value has to be as against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Not larger.
    AtMost,
    /// Not the same.
    OtherThan,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { file, error } => {
                write!(f, "{}: cannot read the configuration file: {error}; check --config", file.display())
            }
            ConfigError::Syntax { file, line, why } => {
                write!(f, "{}:{line}: not TOML: {}", file.display(), why.escape_debug())
            }
            ConfigError::UnknownKey { file, name, nearest } => {
                write!(f, "{}: unknown key {name:?}; ", file.display())?;
                match nearest {
                    Some(nearest) => write!(f, "did you mean {nearest}?"),
                    None => f.write_str("remove it; --help lists all keys"),
                }
            }
            ConfigError::UnknownVariable { name } => {
                write!(f, "{name}: no key has this variable; unset it; --help lists all keys")
            }
            ConfigError::BadValue { origin, key, value } => {
                let shown: String = value.chars().take(100).collect();
                write!(f, "{origin}: {} = {shown:?}: want {}", key.name, key.kind)
            }
            ConfigError::OwnRelay { origin, url } => {
                write!(f, "{origin}: bootstrap = \"{url}\": that is our own relay (see domain); remove it")
            }
            ConfigError::Contradiction { origin, key, must_be, other } => {
                let must_be = match must_be {
                    Relation::AtMost => "at most",
                    Relation::OtherThan => "other than",
                };
                write!(f, "{origin}: {}: has to be {must_be} {}; change one of them", key.name, other.name)
            }
            ConfigError::DomainMissing { file } => {
                if let Some(file) = file {
                    write!(f, "{}: ", file.display())?;
                }
                f.write_str("domain is not set; give --domain HOST, GRASP_SYNC_DOMAIN=HOST or domain = \"HOST\" in --config FILE")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl RawConfig {
    /// Checks every value and builds the configuration.
    ///
    /// # Errors
    ///
    /// The first value that is not what its key takes, or `domain` missing.
    pub fn check(&self) -> Result<Config, ConfigError> {
        let domain = key("domain");
        if self.given(domain).is_none() {
            return Err(ConfigError::DomainMissing { file: self.file.clone() });
        }
        let service = self.text(domain, |text| Service::parse(text).ok())?.expect("domain was just found");
        let bootstrap = self.list("bootstrap", |text| RelayUrl::parse(text).ok())?;
        if let Some(own) = bootstrap.iter().find(|url| service.is_at(url)) {
            return Err(ConfigError::OwnRelay { origin: self.origin("bootstrap"), url: own.clone() });
        }
        let listen = self.address("listen")?;
        let admin_listen = self.address("admin_listen")?;
        if listen == admin_listen && listen.port() != 0 {
            return Err(self.contradiction("admin_listen", Relation::OtherThan, "listen"));
        }
        let (data_dir, store_cache_bytes) = self.check_store()?;
        Ok(Config {
            settings: Settings {
                service,
                bootstrap,
                deny_authors: self.list("policy.deny_authors", parse_author)?,
                deny_repos: self.list("policy.deny_repos", RepoAddr::parse)?,
                archive: self.list("policy.archive", RepoAddr::parse)?,
                profile: self.profile()?,
                // Read from its file by whoever is going to dial.
                auth_key: None,
                limits: self.limits()?,
                timing: self.timing()?,
            },
            listen,
            admin_listen,
            data_dir,
            ca_file: self.text(key("ca_file"), parse_path)?,
            auth_key_file: self.text(key("auth_key_file"), parse_path)?,
            allow_private_relays: self.switch("allow_private_relays"),
            trusted_proxies: self.list("limits.trusted_proxies", Network::parse)?,
            store_cache_bytes,
        })
    }

    /// Checks only what the store needs: `data_dir` and the bytes of its cache. For `export`, which needs no `domain`.
    ///
    /// # Errors
    ///
    /// If one of the two is not what its key takes.
    pub fn check_store(&self) -> Result<(PathBuf, usize), ConfigError> {
        let data_dir = self.text(key("data_dir"), parse_path)?.expect("data_dir has a default");
        let cache_mib = self.size("store_cache_mib")?;
        Ok((data_dir, cache_mib << 20))
    }

    fn profile(&self) -> Result<Profile, ConfigError> {
        let text = |name| self.text(key(name), parse_text);
        let link = |name| self.text(key(name), parse_link);
        Ok(Profile {
            name: text("relay.name")?,
            description: text("relay.description")?,
            icon: link("relay.icon")?,
            banner: link("relay.banner")?,
            contact: text("relay.contact")?,
            pubkey: self.text(key("relay.pubkey"), parse_author)?,
            terms_of_service: link("relay.terms_of_service")?,
            privacy_policy: link("relay.privacy_policy")?,
            posting_policy: link("relay.posting_policy")?,
            countries: self.list("relay.countries", parse_word)?,
            languages: self.list("relay.languages", parse_word)?,
            tags: self.list("relay.tags", parse_word)?,
        })
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        Ok(Limits {
            relays_max: self.size("limits.relays_max")?,
            relays_per_repo_max: self.size("limits.relays_per_repo_max")?,
            event_bytes_max: self.size("limits.event_bytes_max")?,
            filter_values_max: self.size("limits.filter_values_max")?,
            consolidate_above_filters: self.size("limits.consolidate_above_filters")?,
            clients_max: self.size("limits.clients_max")?,
            buffers_bytes: self.size("limits.buffers_mib")? << 20,
            clients_per_address: self.size("limits.clients_per_address")?,
            author_events_max: self.number("limits.author_events_max")?,
            author_bytes_max: self.number("limits.author_mib_max")? << 20,
            author_repos_max: self.size("limits.author_repos_max")?,
            repo_events_max: self.number("limits.repo_events_max")?,
            repo_bytes_max: self.number("limits.repo_mib_max")? << 20,
            store_bytes_max: self.number("limits.store_mib_max")? << 20,
            disk_free_bytes_min: self.number("limits.disk_free_mib_min")? << 20,
            loopback_exempt: self.switch("limits.loopback_exempt"),
            private_relays_exempt: self.switch("allow_private_relays") && self.switch("limits.loopback_exempt"),
        })
    }

    fn timing(&self) -> Result<Timing, ConfigError> {
        let secs = |name| self.number(name).map(Duration::from_secs);
        let timing = Timing {
            batch_window: secs("timing.batch_window_secs")?,
            overlap_secs: self.number("timing.overlap_secs")?,
            daily_catchup: secs("timing.daily_catchup_secs")?,
            backoff_base: secs("timing.backoff_base_secs")?,
            backoff_max: secs("timing.backoff_max_secs")?,
            dead_after: secs("timing.dead_after_secs")?,
            dead_retry: secs("timing.dead_retry_secs")?,
            rate_limit_cooldown: secs("timing.rate_limit_cooldown_secs")?,
            stable_after: secs("timing.stable_after_secs")?,
            connect_timeout: secs("timing.connect_timeout_secs")?,
            sweep_timeout: secs("timing.sweep_timeout_secs")?,
            ping: secs("timing.ping_secs")?,
            pong_timeout: secs("timing.pong_timeout_secs")?,
        };
        if timing.backoff_base > timing.backoff_max {
            return Err(self.contradiction("timing.backoff_base_secs", Relation::AtMost, "timing.backoff_max_secs"));
        }
        Ok(timing)
    }

    /// A value that is text; `None` if it was not given and has no default.
    fn text<T>(&self, key: &'static Key, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let Some(given) = self.given(key) else { return Ok(None) };
        let text = given.value.as_str().expect("gathering checked the shape of every value");
        match parse(text) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(bad_value(&given, key, text)),
        }
    }

    /// The items of a list, each once, in the order given.
    fn list<T: PartialEq>(&self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ConfigError> {
        let key = key(name);
        let given = self.given(key).expect("lists have a default");
        let mut items = Vec::new();
        for item in given.value.as_array().expect("gathering checked the shape of every value") {
            let text = item.as_str().expect("gathering checked the shape of every item");
            let parsed = parse(text).ok_or_else(|| bad_value(&given, key, text))?;
            if !items.contains(&parsed) {
                items.push(parsed);
            }
        }
        Ok(items)
    }

    fn address(&self, name: &'static str) -> Result<SocketAddr, ConfigError> {
        let address = self.text(key(name), |text| text.parse().ok())?;
        Ok(address.expect("addresses have a default"))
    }

    fn switch(&self, name: &'static str) -> bool {
        let given = self.given(key(name)).expect("switches have a default");
        given.value.as_bool().expect("gathering checked the shape of every value")
    }

    fn number(&self, name: &'static str) -> Result<u64, ConfigError> {
        let key = key(name);
        let Kind::Number { min, max } = key.kind else { panic!("{name} is no number") };
        let given = self.given(key).expect("numbers have a default");
        let number = given.value.as_integer().expect("gathering checked the shape of every value");
        let in_range = u64::try_from(number).ok().filter(|number| (min..=max).contains(number));
        in_range.ok_or_else(|| bad_value(&given, key, &number.to_string()))
    }

    fn size(&self, name: &'static str) -> Result<usize, ConfigError> {
        // Every size's largest value is far below 2³².
        Ok(usize::try_from(self.number(name)?).expect("sizes are small"))
    }

    fn origin(&self, name: &'static str) -> Origin {
        self.given.get(name).map_or(Origin::Default, |given| given.origin.clone())
    }

    /// The error is told where the value that somebody gave stands.
    fn contradiction(&self, name: &'static str, must_be: Relation, other: &'static str) -> ConfigError {
        let origin = match self.origin(name) {
            Origin::Default => self.origin(other),
            given => given,
        };
        ConfigError::Contradiction { origin, key: key(name), must_be, other: key(other) }
    }
}

/// The key called `name`. Panics if there is none: names are written out in this file only.
fn key(name: &'static str) -> &'static Key {
    keys::find(name).unwrap_or_else(|| panic!("no key {name}"))
}

fn bad_value(given: &Given, key: &'static Key, value: &str) -> ConfigError {
    ConfigError::BadValue { origin: given.origin.clone(), key, value: value.to_owned() }
}

fn parse_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// Characters of a text that the operator says to people, at most.
const TEXT_CHARS_MAX: usize = 1_000;
/// Characters of one word in a list.
const WORD_CHARS_MAX: usize = 64;

fn parse_text(text: &str) -> Option<String> {
    let fits = (1..=TEXT_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

fn parse_link(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    parse_text(url.as_str())
}

fn parse_word(text: &str) -> Option<String> {
    parse_text(text).filter(|word| word.chars().count() <= WORD_CHARS_MAX)
}

/// `npub1…` (NIP-19) or 64 hex digits; other NIP-19 and NIP-21 forms are refused, since they say more than a key.
fn parse_author(text: &str) -> Option<PublicKey> {
    if text.starts_with("npub1") { PublicKey::from_bech32(text).ok() } else { PublicKey::from_hex(text).ok() }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    const HEX: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    const NPUB: &str = "npub10xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqpkge6d";

    /// Gathers from a file with `toml` in it, variables and flags, and checks.
    fn load(toml: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config, ConfigError> {
        gather(toml, environment, flags)?.check()
    }

    fn gather(
        toml: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<RawConfig, ConfigError> {
        // The name of the test's thread is the test's: no two tests share a file.
        let name = std::thread::current().name().unwrap_or("main").replace(':', "-");
        let file = std::env::temp_dir().join(format!("grasp-sync-{}-{name}.toml", std::process::id()));
        std::fs::write(&file, toml).unwrap();
        let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let flags: Vec<_> = flags.iter().map(|(name, value)| (key(name), OsString::from(value))).collect();
        let raw = RawConfig::gather(Some(&file), environment, &flags);
        std::fs::remove_file(&file).unwrap();
        raw
    }

    fn line(error: ConfigError) -> String {
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line}");
        match line.split_once(".toml: ") {
            Some((_, rest)) => rest.to_owned(),
            None => line,
        }
    }

    #[test]
    fn defaults_are_the_contract() {
        let config = load("domain = 'git.example.com'", &[], &[]).unwrap();
        assert_eq!(config.settings.limits, Limits::default());
        assert_eq!(config.settings.timing, Timing::default());
        assert_eq!(config.store_cache_bytes, crate::limits::STORE_CACHE_BYTES);
        assert_eq!(config.listen.to_string(), "127.0.0.1:7334");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:7335");
        assert_eq!(config.data_dir, PathBuf::from("grasp-sync-data"));
        assert_eq!((config.ca_file, config.auth_key_file), (None, None));
        assert!(!config.allow_private_relays);
        assert!(config.trusted_proxies.is_empty());
        assert!(config.settings.bootstrap.is_empty());
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let toml = "domain = 'file.example'\nlisten = '127.0.0.1:1'\n[timing]\nping_secs = 7\npong_timeout_secs = 8";
        let environment = [("GRASP_SYNC_DOMAIN", "env.example"), ("GRASP_SYNC_TIMING_PING_SECS", "9"), ("HOME", "/")];
        let config = load(toml, &environment, &[("domain", "flag.example")]).unwrap();
        assert_eq!(config.settings.service.to_string(), "flag.example");
        assert_eq!(config.settings.timing.ping, Duration::from_secs(9));
        assert_eq!(config.settings.timing.pong_timeout, Duration::from_secs(8));
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn lists_are_comma_separated_in_the_environment_and_repeated_as_flags() {
        let toml = "domain = 'a.example'\nbootstrap = ['wss://file.example']";
        let urls = |config: Config| config.settings.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>();
        let environment = [("GRASP_SYNC_BOOTSTRAP", "wss://b.example, wss://c.example,wss://b.example/")];
        assert_eq!(urls(load(toml, &environment, &[]).unwrap()).len(), 2, "the same relay twice is one");
        let flags = [("bootstrap", "wss://d.example"), ("bootstrap", "ws://e.example")];
        assert_eq!(urls(load(toml, &environment, &flags).unwrap()), ["wss://d.example", "ws://e.example"]);
        assert!(urls(load(toml, &[("GRASP_SYNC_BOOTSTRAP", "")], &[]).unwrap()).is_empty());
    }

    #[test]
    fn policy_lists_take_npub_hex_and_addresses() {
        let toml = format!(
            "domain = 'a.example'\n[policy]\ndeny_authors = ['{NPUB}', '{HEX}']\narchive = ['30617:{HEX}:a:b']\n\
             deny_repos = ['30617:{HEX}:c']"
        );
        let settings = load(&toml, &[], &[]).unwrap().settings;
        assert_eq!(settings.deny_authors, [PublicKey::from_hex(HEX).unwrap()], "two spellings of one key");
        assert_eq!(settings.archive[0].identifier, "a:b");
        assert_eq!(settings.deny_repos[0].identifier, "c");
        for bad in [HEX, NPUB, "30618:aa:b", ""] {
            let toml = format!("domain = 'a.example'\n[policy]\narchive = ['{bad}']");
            assert!(matches!(load(&toml, &[], &[]), Err(ConfigError::BadValue { .. })), "{bad}");
        }
    }

    #[test]
    fn every_error_is_one_line_with_source_key_and_remedy() {
        let d = "domain = 'a.example'\n";
        let with = |rest: &str| line(load(&format!("{d}{rest}"), &[], &[]).unwrap_err());
        assert_eq!(with("lisen = '1'"), "unknown key \"lisen\"; did you mean listen?");
        assert_eq!(with("[colours]\nred = 1"), "unknown key \"colours\"; remove it; --help lists all keys");
        assert_eq!(with("[timing]\npings = 1"), "unknown key \"timing.pings\"; remove it; --help lists all keys");
        assert_eq!(with("listen = 5"), format!("listen = \"5\": want {}", Kind::Address));
        assert_eq!(with("timing = 5"), "unknown key \"timing\"; remove it; --help lists all keys");
        assert_eq!(with("[limits]\nrelays_max = 0"), "limits.relays_max = \"0\": want a whole number from 1 to 65536");
        assert_eq!(
            with("bootstrap = ['https://b.example']"),
            format!("bootstrap = \"https://b.example\": want {}", Kind::Relays)
        );
        assert_eq!(
            with("[limits]\ntrusted_proxies = ['127.0.0.1', '10.0.0.1/8']"),
            format!("limits.trusted_proxies = \"10.0.0.1/8\": want {}", Kind::Networks)
        );
        assert!(with("bootstrap = ['wss://a.example']").contains("our own relay"));
        assert!(with("admin_listen = '127.0.0.1:7334'").contains("admin_listen: has to be other than listen"));
        assert!(with("[timing]\nbackoff_base_secs = 4000").contains("at most timing.backoff_max_secs"));
        let missing = line(load("", &[], &[]).unwrap_err());
        assert!(missing.starts_with("domain is not set; give --domain"), "{missing}");
        let variable = line(load(d, &[("GRASP_SYNC_LISEN", "")], &[]).unwrap_err());
        assert!(variable.starts_with("GRASP_SYNC_LISEN: no key has this variable"), "{variable}");
        let flag = line(load(d, &[], &[("listen", "nowhere")]).unwrap_err());
        assert!(flag.starts_with("--listen: listen = \"nowhere\": want an IP address"), "{flag}");
        let syntax = load("domain = \n", &[], &[]).unwrap_err();
        assert!(matches!(syntax, ConfigError::Syntax { line: 1, .. }), "{syntax}");
        assert!(!syntax.to_string().contains('\n'));
    }

    #[test]
    fn what_check_config_prints_reads_back_as_the_same() {
        let environment = [("GRASP_SYNC_STORE_CACHE_MIB", "32"), ("GRASP_SYNC_BOOTSTRAP", "wss://b.example")];
        let raw = gather("domain = 'a.example'", &environment, &[("allow_private_relays", "true")]).unwrap();
        let printed = raw.effective();
        assert!(printed.contains("store_cache_mib = 32 # GRASP_SYNC_STORE_CACHE_MIB"), "{printed}");
        let again = load(&printed, &[], &[]).unwrap();
        assert_eq!(format!("{again:?}"), format!("{:?}", raw.check().unwrap()));
    }
}
