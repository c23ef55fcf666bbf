//! Every configuration key, once: name, kind, default, flag and meaning. `--help`, the sample configuration and the
//! README's table are written from [`KEYS`], so they cannot disagree with what is read.

use std::fmt;
use std::fmt::Write as _;

use toml::Value;

/// Prefix of the environment variables, one per key: `timing.ping_secs` is `GRASP_SYNC_TIMING_PING_SECS`.
pub const VARIABLE_PREFIX: &str = "GRASP_SYNC_";

/// What a key's value is, and so how each source spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `host[:port][/path]`, as announcements name the service.
    Service,
    /// Relay URLs.
    Relays,
    /// IP address and port to listen on.
    Address,
    /// A path, relative to the working directory.
    Path,
    /// `true` or `false`.
    Switch,
    /// Public keys: `npub1…` or 64 hex digits.
    Authors,
    /// Repository addresses: `30617:<64 hex digits>:<identifier>`.
    Repos,
    /// IP addresses and networks.
    Networks,
    /// Text for a person.
    Text,
    /// A web address.
    Link,
    /// A public key: `npub1…` or 64 hex digits.
    Author,
    /// Words.
    Words,
    /// A whole number within bounds, both included.
    Number {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
}

impl Kind {
    /// Whether a value is a list. The environment separates its items by commas, a flag is repeated.
    pub const fn is_list(self) -> bool {
        matches!(self, Kind::Relays | Kind::Authors | Kind::Repos | Kind::Networks | Kind::Words)
    }
}

/// What would have been right, as the end of "want …".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Service => f.write_str("host[:port][/path] without a scheme, such as \"git.example.com\""),
            Kind::Relays => f.write_str("a list of relay URLs, such as [\"wss://relay.example.com\"]"),
            Kind::Address => f.write_str("an IP address and a port, such as \"127.0.0.1:7334\""),
            Kind::Path => f.write_str("a path in quotes"),
            Kind::Switch => f.write_str("true or false"),
            Kind::Authors => f.write_str("a list of public keys, each \"npub1…\" or 64 hex digits"),
            Kind::Repos => f.write_str("a list of repositories, each \"30617:<64 hex digits>:<identifier>\""),
            Kind::Networks => {
                f.write_str("a list of IP addresses and networks, such as [\"127.0.0.1\", \"10.0.0.0/8\"]")
            }
            Kind::Text => f.write_str("text of 1 to 1,000 characters without control characters"),
            Kind::Link => f.write_str("a web address, such as \"https://example.com/icon.png\""),
            Kind::Author => f.write_str("a public key, \"npub1…\" or 64 hex digits"),
            Kind::Words => f.write_str("a list of words of 1 to 64 characters, such as [\"DE\", \"FR\"]"),
            Kind::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
        }
    }
}

/// A command-line flag that sets a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the leading dashes.
    pub name: &'static str,
    /// What stands for its value in `--help`; empty for a switch.
    pub value: &'static str,
}

/// One configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in the TOML file, with its table: `timing.ping_secs`.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Its default, written as TOML; `None` if there is none.
    pub default: Option<&'static str>,
    /// The flag that sets it.
    pub flag: Option<Flag>,
    /// What it does, in one sentence.
    pub meaning: &'static str,
}

impl Key {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_uppercase().replace('.', "_"))
    }

    /// The default as a TOML value.
    pub fn default_value(&self) -> Option<Value> {
        let document = format!("v = {}", self.default?);
        let mut table: toml::Table = document.parse().expect("defaults in the table are TOML");
        table.remove("v")
    }

    /// The TOML table it is in, empty for the root.
    fn table(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(table, _)| table)
    }

    /// Its name within its TOML table.
    fn local_name(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, name)| name)
    }
}

/// The key called `name`.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that was probably meant by `name`: the same but for case, dashes or a forgotten table, or one within two
/// edits.
pub fn nearest(name: &str) -> Option<&'static str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let wanted = plain(name);
    let local = |s: &str| s.rsplit('.').next().unwrap_or_default().to_owned();
    let same_local = KEYS.iter().find(|key| local(key.name) == local(&wanted));
    let closest = || {
        let by_distance = |key: &&Key| edit_distance(&wanted, key.name).min(edit_distance(&wanted, key.local_name()));
        KEYS.iter().min_by_key(by_distance).filter(|key| by_distance(key) <= 2)
    };
    same_local.or_else(closest).map(|key| key.name)
}

/// Levenshtein distance, in bytes: names are ASCII, and it only ranks suggestions.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Columns of a terminal that `--help` fills at most.
const HELP_COLUMNS: usize = 79;
/// Column at which the meaning of a flag starts in `--help`.
const HELP_INDENT: usize = 28;

/// The list of flags in `--help`: those that set a key.
pub fn help_flags() -> String {
    let mut out = String::new();
    for key in KEYS {
        let Some(flag) = key.flag else { continue };
        let left = format!("  --{} {}", flag.name, flag.value);
        let default = match key.default {
            Some(default) if key.kind != Kind::Switch && !key.kind.is_list() => {
                format!(" Default: {}", default.trim_matches('"'))
            }
            _ => String::new(),
        };
        let text = wrap(&format!("{}{default}", key.meaning), HELP_INDENT);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{left:<HELP_INDENT$}{}", text.trim_start());
    }
    out
}

/// The list of all keys in `--help`.
pub fn help_keys() -> String {
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    wrap(&names.join(" "), 2)
}

/// Breaks `text` between words so that each line, indented by `indent` spaces, fits a terminal.
fn wrap(text: &str, indent: usize) -> String {
    let mut out = " ".repeat(indent);
    let mut column = indent;
    for word in text.split_whitespace() {
        if column > indent && column + 1 + word.len() > HELP_COLUMNS {
            let _ = write!(out, "\n{}", " ".repeat(indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

/// The commented sample configuration, `contrib/grasp-sync.toml`: every key at its default.
pub fn sample() -> String {
    let mut out = String::from(
        "# Sample configuration of grasp-sync: every key at its default. Only `domain` must be set.\n\
         # Flags beat GRASP_SYNC_* environment variables, which beat this file. An unknown key is refused.\n\
         # Relative paths start at the working directory. Check with: grasp-sync check-config --config FILE\n",
    );
    let mut table = "";
    for key in KEYS {
        if key.table() != table {
            table = key.table();
            let _ = write!(out, "\n[{table}]\n");
        }
        let _ = write!(out, "\n# {}", key.meaning);
        if let Kind::Number { min, max } = key.kind {
            let _ = write!(out, " From {min} to {max}.");
        }
        let _ = match key.default {
            Some(default) => write!(out, "\n{} = {default}\n", key.local_name()),
            None if key.name == "domain" => write!(out, "\ndomain = \"git.example.com\"\n"),
            None => write!(out, "\n# {} = \"/path/to/file\"\n", key.local_name()),
        };
    }
    out
}

/// The README's configuration table.
pub fn markdown_table() -> String {
    let mut out = String::from("| key | default | flag | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = match key.default {
            Some(default) => format!("`{}`", default.trim_matches('"')),
            None if key.name == "domain" => String::from("required"),
            None => String::from("none"),
        };
        let flag = key.flag.map_or(String::new(), |flag| format!("`--{}`", flag.name));
        let _ = writeln!(out, "| `{}` | {default} | {flag} | {} |", key.name, key.meaning);
    }
    out
}

const YEAR_SECS: u64 = 31_536_000;
/// A duration that would be nonsense at zero.
const SECONDS: Kind = Kind::Number { min: 1, max: YEAR_SECS };

const fn key(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default: Some(default), flag: None, meaning }
}

const fn flagged(key: Key, name: &'static str, value: &'static str) -> Key {
    Key { flag: Some(Flag { name, value }), ..key }
}

const fn without_default(key: Key) -> Key {
    Key { default: None, ..key }
}

const fn text(name: &'static str, meaning: &'static str) -> Key {
    without_default(key(name, Kind::Text, "", meaning))
}

const fn link(name: &'static str, meaning: &'static str) -> Key {
    without_default(key(name, Kind::Link, "", meaning))
}

const fn number(min: u64, max: u64) -> Kind {
    Kind::Number { min, max }
}

/// Every key, in the order of the sample: root first, then table by table.
pub const KEYS: &[Key] = &[
    flagged(
        without_default(key(
            "domain",
            Kind::Service,
            "",
            "The service to keep complete, as repository announcements name it: host[:port][/path].",
        )),
        "domain",
        "HOST",
    ),
    flagged(
        key(
            "bootstrap",
            Kind::Relays,
            "[]",
            "Relays that are always followed, and where the first announcements come from.",
        ),
        "bootstrap",
        "URL",
    ),
    flagged(
        key("listen", Kind::Address, "\"127.0.0.1:7334\"", "Address of the own relay: WebSocket and NIP-11."),
        "listen",
        "ADDR",
    ),
    flagged(
        key("admin_listen", Kind::Address, "\"127.0.0.1:7335\"", "Address of /metrics, /health and /status.json."),
        "admin-listen",
        "ADDR",
    ),
    flagged(
        key("data_dir", Kind::Path, "\"grasp-sync-data\"", "Directory of the store; made if it is missing."),
        "data-dir",
        "DIR",
    ),
    flagged(
        key(
            "allow_private_relays",
            Kind::Switch,
            "false",
            "Connect to relays at private, loopback and link-local addresses too.",
        ),
        "allow-private-relays",
        "",
    ),
    without_default(key(
        "ca_file",
        Kind::Path,
        "",
        "PEM file of certificate authorities trusted for wss in addition to the built-in ones.",
    )),
    flagged(
        without_default(key(
            "auth_key_file",
            Kind::Path,
            "",
            "File with one secret key, `nsec1…` or 64 hex digits, by which relays that want it know us (NIP-42); nobody \
             else may be allowed to read it.",
        )),
        "auth-key-file",
        "FILE",
    ),
    key("store_cache_mib", number(1, 65_536), "16", "Memory for the store's cache, in MiB."),
    key("policy.deny_authors", Kind::Authors, "[]", "Authors whose events are refused: `npub1…` or 64 hex digits."),
    key("policy.deny_repos", Kind::Repos, "[]", "Repositories whose events are refused: `30617:<hex>:<identifier>`."),
    key(
        "policy.archive",
        Kind::Repos,
        "[]",
        "Repositories kept although they do not list the service (GRASP-05): `30617:<hex>:<identifier>`.",
    ),
    text("relay.name", "What the own relay is called (NIP-11); without it, the service's name."),
    text("relay.description", "What the own relay is for (NIP-11)."),
    link("relay.icon", "A small square picture (NIP-11)."),
    link("relay.banner", "A wide picture (NIP-11)."),
    text("relay.contact", "How to reach the operator (NIP-11): `mailto:…` or a web address."),
    without_default(key(
        "relay.pubkey",
        Kind::Author,
        "",
        "The operator's public key (NIP-11), also served at `/.well-known/nostr.json` (NIP-05).",
    )),
    link("relay.terms_of_service", "The terms of service (NIP-11)."),
    link("relay.privacy_policy", "The privacy policy (NIP-11)."),
    link("relay.posting_policy", "What may be published (NIP-11)."),
    key("relay.countries", Kind::Words, "[]", "Countries whose laws apply, by their ISO 3166-1 codes (NIP-11)."),
    key("relay.languages", Kind::Words, "[]", "Languages spoken here, as IETF tags (NIP-11)."),
    key("relay.tags", Kind::Words, "[]", "What this relay is about (NIP-11)."),
    key("limits.relays_max", number(1, 65_536), "1024", "Relays followed at once; further ones are not dialled."),
    key("limits.relays_per_repo_max", number(1, 1_000), "16", "Relays taken from one announcement, the first ones."),
    // The largest leaves room in a message of `MESSAGE_BYTES_MAX` for what surrounds the event.
    key(
        "limits.event_bytes_max",
        number(1_024, 1_000_000),
        "196608",
        "Bytes of one event in canonical JSON; larger ones are refused.",
    ),
    key("limits.filter_values_max", number(1, 100), "100", "Values in one tag list of a filter sent to a relay."),
    key(
        "limits.consolidate_above_filters",
        number(1, 100_000),
        "70",
        "Live filters on one relay above which its subscriptions are consolidated.",
    ),
    key(
        "limits.clients_max",
        number(1, 100_000),
        "512",
        "Clients of the own relay at once; further ones get HTTP 503.",
    ),
    key(
        "limits.clients_per_address",
        number(1, 100_000),
        "32",
        "Clients of one IPv4 address or one /64 of IPv6; further ones get HTTP 503.",
    ),
    key(
        "limits.buffers_mib",
        number(1, 65_536),
        "32",
        "Memory that all connections share beyond 64 KiB each, in MiB; who holds most of it is closed first.",
    ),
    key(
        "limits.author_events_max",
        number(0, 1 << 40),
        "100000",
        "Events that clients may publish of one author, in repositories of others. 0: no bound.",
    ),
    key("limits.author_mib_max", number(0, 1 << 30), "256", "The same in MiB of JSON. 0: no bound."),
    key(
        "limits.author_repos_max",
        number(0, 1_000_000),
        "1000",
        "Repositories that one author may announce by clients. 0: no bound.",
    ),
    key(
        "limits.repo_events_max",
        number(0, 1 << 40),
        "1000000",
        "Events that clients may publish in one repository, by others than its maintainers. 0: no bound.",
    ),
    key("limits.repo_mib_max", number(0, 1 << 30), "2048", "The same in MiB of JSON. 0: no bound."),
    key(
        "limits.store_mib_max",
        number(0, 1 << 30),
        "0",
        "Disk that the store's file may take, in MiB; then nothing more is stored until it is smaller. 0: no bound.",
    ),
    key(
        "limits.disk_free_mib_min",
        number(0, 1 << 30),
        "256",
        "Disk that stays free, in MiB; below, nothing more is stored until there is a quarter more. 0: no bound.",
    ),
    key(
        "limits.loopback_exempt",
        Kind::Switch,
        "true",
        "Whether clients on this machine, and relays at private addresses, are free of bounds that go by address.",
    ),
    key(
        "limits.trusted_proxies",
        Kind::Networks,
        "[]",
        "Proxies that are believed for whom they speak, by `X-Forwarded-For` or the PROXY protocol: IP addresses and networks.",
    ),
    key("timing.batch_window_secs", SECONDS, "5", "Seconds for which changes are gathered before relays are asked."),
    key("timing.overlap_secs", SECONDS, "900", "Seconds subtracted from every `since`."),
    key("timing.daily_catchup_secs", SECONDS, "86400", "Seconds between two full catch-ups with one relay."),
    key(
        "timing.backoff_base_secs",
        SECONDS,
        "5",
        "Seconds before the first reconnect after a failure; doubles each time.",
    ),
    key("timing.backoff_max_secs", SECONDS, "3600", "Longest time between reconnects while a relay is not dead."),
    key("timing.dead_after_secs", SECONDS, "86400", "Seconds without a success after which a relay is dead."),
    key("timing.dead_retry_secs", SECONDS, "86400", "Seconds between tries of a dead relay."),
    key("timing.rate_limit_cooldown_secs", SECONDS, "65", "Seconds of silence after a relay said it limits our rate."),
    key("timing.stable_after_secs", SECONDS, "60", "Seconds after which a connection counts as a success."),
    key("timing.connect_timeout_secs", SECONDS, "30", "Seconds for resolving, TCP, TLS and WebSocket together."),
    key("timing.sweep_timeout_secs", SECONDS, "60", "Seconds without a message after which a sweep has failed."),
    key("timing.ping_secs", SECONDS, "30", "Seconds of silence after which a link is pinged."),
    key("timing.pong_timeout_secs", SECONDS, "30", "Seconds without an answer to a ping after which a link is closed."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tables_are_contiguous() {
        let mut tables: Vec<&str> = KEYS.iter().map(Key::table).collect();
        tables.dedup();
        assert_eq!(tables, ["", "policy", "relay", "limits", "timing"]);
        let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }

    #[test]
    fn variables_spell_the_table_too() {
        assert_eq!(find("timing.ping_secs").unwrap().variable(), "GRASP_SYNC_TIMING_PING_SECS");
        assert_eq!(find("domain").unwrap().variable(), "GRASP_SYNC_DOMAIN");
    }

    #[test]
    fn nearest_sees_through_slips_and_nothing_else() {
        assert_eq!(nearest("lisen"), Some("listen"));
        assert_eq!(nearest("data-dir"), Some("data_dir"));
        assert_eq!(nearest("ping_secs"), Some("timing.ping_secs"));
        assert_eq!(nearest("limits.ping_secs"), Some("timing.ping_secs"));
        assert_eq!(nearest("colour"), None);
    }

    #[test]
    fn the_sample_is_toml_with_every_default() {
        let sample: toml::Table = sample().parse().unwrap();
        for key in KEYS {
            let mut at = sample.get(key.name.split('.').next().unwrap());
            if !key.table().is_empty() {
                at = at.and_then(|table| table.get(key.local_name()));
            }
            if let Some(default) = key.default_value() {
                assert_eq!(at, Some(&default), "{}", key.name);
            }
        }
    }
}
