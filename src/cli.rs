//! The command line: which command, which configuration file, and the flags that set configuration keys.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::Arg;
use lexopt::ValueExt as _;

use grasp_sync::config::keys::{self, KEYS, Key, Kind};

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// The flags that set keys, in the order given.
    pub flags: Vec<(&'static Key, OsString)>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sync and serve until stopped.
    Run,
    /// Take events from JSON lines.
    Import {
        /// The file; `None` is standard input.
        file: Option<PathBuf>,
        /// Whether the acceptance policy applies.
        policy: bool,
    },
    /// Write all events as JSON lines.
    Export {
        /// The file; `None` is standard output.
        file: Option<PathBuf>,
        /// Whether to read the store page by page, and write what holds of a damaged one.
        salvage: bool,
    },
    /// Look at everything in the store, and say what does not hold.
    Verify,
    /// Print the effective configuration.
    CheckConfig,
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Why a command line makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageError {
    /// The first word is no command.
    UnknownCommand(String),
    /// A flag that does not exist.
    UnknownFlag(String),
    /// A flag lacks its value.
    ValueMissing(String),
    /// A switch was given a value.
    ValueUnexpected(String),
    /// A word too many.
    Unexpected(String),
    /// `import` without a file.
    ImportFileMissing,
    /// `--no-policy` with another command than `import`.
    NoPolicyWithoutImport,
    /// `--salvage` with another command than `export`.
    SalvageWithoutExport,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsageError::UnknownCommand(word) => {
                write!(f, "unknown command {word:?}; want run, import, export, verify or check-config")
            }
            UsageError::UnknownFlag(flag) => write!(f, "unknown flag {}; see --help", flag.escape_debug()),
            UsageError::ValueMissing(flag) => write!(f, "{}: value missing; see --help", flag.escape_debug()),
            UsageError::ValueUnexpected(flag) => write!(f, "{}: takes no value; see --help", flag.escape_debug()),
            UsageError::Unexpected(word) => write!(f, "unexpected argument {word:?}; see --help"),
            UsageError::ImportFileMissing => f.write_str("import: file missing; give FILE, or - for standard input"),
            UsageError::SalvageWithoutExport => f.write_str("--salvage: belongs to export only; remove it"),
            UsageError::NoPolicyWithoutImport => f.write_str("--no-policy: belongs to import only; remove it"),
        }
    }
}

impl std::error::Error for UsageError {}

/// Parses the arguments, the program's name first. `--help` and `--version` win over what follows them.
///
/// # Errors
///
/// The first argument that makes no sense.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut words: Vec<OsString> = Vec::new();
    let mut invocation = Invocation { command: Command::Run, config_file: None, flags: Vec::new() };
    let (mut policy, mut salvage) = (true, false);
    while let Some(argument) = parser.next().map_err(usage_error)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Invocation { command: Command::Help, ..invocation }),
            Arg::Short('V') | Arg::Long("version") => {
                return Ok(Invocation { command: Command::Version, ..invocation });
            }
            Arg::Long("config") => invocation.config_file = Some(parser.value().map_err(usage_error)?.into()),
            Arg::Long("no-policy") => policy = false,
            Arg::Long("salvage") => salvage = true,
            Arg::Long(name) => {
                let key = KEYS.iter().find(|key| key.flag.is_some_and(|flag| flag.name == name));
                let Some(key) = key else { return Err(UsageError::UnknownFlag(format!("--{name}"))) };
                let value = match key.kind {
                    Kind::Switch => OsString::from("true"),
                    _ => parser.value().map_err(usage_error)?,
                };
                invocation.flags.push((key, value));
            }
            Arg::Short(letter) => return Err(UsageError::UnknownFlag(format!("-{letter}"))),
            Arg::Value(word) => words.push(word),
        }
    }
    invocation.command = command(words, policy, salvage)?;
    Ok(invocation)
}

fn command(words: Vec<OsString>, policy: bool, salvage: bool) -> Result<Command, UsageError> {
    let mut words = words.into_iter();
    let name = match words.next() {
        None => String::from("run"),
        Some(word) => word.string().map_err(usage_error)?,
    };
    let (command, rest) = match name.as_str() {
        "run" => (Command::Run, words.next()),
        "import" => {
            let file = words.next().ok_or(UsageError::ImportFileMissing)?;
            (Command::Import { file: (file != "-").then(|| file.into()), policy }, words.next())
        }
        "export" => {
            let file = words.next().filter(|file| file != "-").map(Into::into);
            (Command::Export { file, salvage }, words.next())
        }
        "verify" => (Command::Verify, words.next()),
        "check-config" => (Command::CheckConfig, words.next()),
        _ => return Err(UsageError::UnknownCommand(name)),
    };
    if let Some(word) = rest {
        return Err(UsageError::Unexpected(word.to_string_lossy().into_owned()));
    }
    match command {
        _ if salvage && !matches!(command, Command::Export { .. }) => Err(UsageError::SalvageWithoutExport),
        Command::Import { .. } => Ok(command),
        _ if !policy => Err(UsageError::NoPolicyWithoutImport),
        _ => Ok(command),
    }
}

fn usage_error(error: lexopt::Error) -> UsageError {
    match error {
        lexopt::Error::MissingValue { option } => UsageError::ValueMissing(option.unwrap_or_default()),
        lexopt::Error::UnexpectedValue { option, .. } => UsageError::ValueUnexpected(option),
        lexopt::Error::UnexpectedOption(option) => UsageError::UnknownFlag(option),
        lexopt::Error::UnexpectedArgument(word) | lexopt::Error::NonUnicodeValue(word) => {
            UsageError::Unexpected(word.to_string_lossy().into_owned())
        }
        other => UsageError::Unexpected(other.to_string()),
    }
}

/// What `--version` prints.
pub const VERSION: &str = concat!("grasp-sync ", env!("CARGO_PKG_VERSION"), "\n");

/// What `--help` prints.
pub fn help() -> String {
    format!(
        "\
Keeps a GRASP git service complete: fetches every Nostr event that belongs to
the repositories of a service from all the relays they name, and serves it as a
relay.

Usage:
  grasp-sync [run] [OPTIONS]                sync and serve until stopped
  grasp-sync import FILE [OPTIONS]          take events from JSON lines; - is
                                            standard input, read only once
  grasp-sync export [FILE] [OPTIONS]        write all events as JSON lines, to
                                            a new file or standard output
  grasp-sync verify [OPTIONS]               look at all of the store, and say
                                            what is damaged
  grasp-sync check-config [OPTIONS]         print the effective configuration

Options:
  --config FILE             Configuration in TOML.
{flags}  --no-policy               With import: take what the policy would refuse too;
                            ids and signatures are still verified.
  --salvage                 With export: read a damaged store page by page, and
                            write every event that holds.
  -h, --help                Print this.
  -V, --version             Print the version.

Each key of the configuration can be set in the file, or in the environment as
GRASP_SYNC_ and its name in capitals: timing.ping_secs is
GRASP_SYNC_TIMING_PING_SECS; lists are separated by commas. Flags beat the
environment, which beats the file, which beats the defaults. The keys:
{keys}

RUST_LOG sets what is logged to standard error, by default info.
Exit status: 0 done, 1 some lines of an import failed, 2 mistake in command
line or configuration, 3 store locked, 4 store damaged or unusable, 5 cannot
listen, 6 input, output or disk full.
",
        flags = keys::help_flags(),
        keys = keys::help_keys(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, UsageError> {
        parse(std::iter::once("grasp-sync").chain(line.split_whitespace()).map(OsString::from))
    }

    fn command_of(line: &str) -> Command {
        parsed(line).unwrap().command
    }

    #[test]
    fn commands() {
        assert_eq!(command_of(""), Command::Run);
        assert_eq!(command_of("run"), Command::Run);
        assert_eq!(command_of("import -"), Command::Import { file: None, policy: true });
        assert_eq!(command_of("import --no-policy a"), Command::Import { file: Some("a".into()), policy: false });
        assert_eq!(command_of("export"), Command::Export { file: None, salvage: false });
        assert_eq!(command_of("--domain a export b"), Command::Export { file: Some("b".into()), salvage: false });
        assert_eq!(command_of("export --salvage -"), Command::Export { file: None, salvage: true });
        assert_eq!(command_of("verify"), Command::Verify);
        assert_eq!(command_of("check-config --config c"), Command::CheckConfig);
        assert_eq!(command_of("nonsense --help"), Command::Help);
        assert_eq!(command_of("-V"), Command::Version);
    }

    #[test]
    fn flags_keep_their_order_and_switches_take_no_value() {
        let flags = parsed("--bootstrap a --allow-private-relays --bootstrap=b").unwrap().flags;
        let flags: Vec<_> = flags.iter().map(|(key, value)| (key.name, value.to_str().unwrap())).collect();
        assert_eq!(flags, [("bootstrap", "a"), ("allow_private_relays", "true"), ("bootstrap", "b")]);
    }

    #[test]
    fn mistakes_are_named() {
        let mistake = |line: &str| parsed(line).unwrap_err();
        assert_eq!(mistake("imprt"), UsageError::UnknownCommand("imprt".into()));
        assert_eq!(mistake("--lisen a"), UsageError::UnknownFlag("--lisen".into()));
        assert_eq!(mistake("-x"), UsageError::UnknownFlag("-x".into()));
        assert_eq!(mistake("--domain"), UsageError::ValueMissing("--domain".into()));
        assert_eq!(mistake("--allow-private-relays=no"), UsageError::ValueUnexpected("--allow-private-relays".into()));
        assert_eq!(mistake("run now"), UsageError::Unexpected("now".into()));
        assert_eq!(mistake("import"), UsageError::ImportFileMissing);
        assert_eq!(mistake("run --no-policy"), UsageError::NoPolicyWithoutImport);
        assert_eq!(mistake("verify --salvage"), UsageError::SalvageWithoutExport);
        assert_eq!(mistake("verify now"), UsageError::Unexpected("now".into()));
    }

    #[test]
    fn help_fits_a_terminal_and_names_every_key() {
        let help = help();
        assert!(help.lines().all(|line| line.len() < 80));
        for key in KEYS {
            assert!(help.contains(key.name), "{}", key.name);
            assert!(key.flag.is_none_or(|flag| help.contains(&format!("--{} ", flag.name))), "{}", key.name);
        }
    }
}
