//! The configuration as given: each key with its value and where that came from. Nothing is checked here beyond the
//! shape of a value; [`RawConfig::check`](super::RawConfig::check) does the rest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Value;

use super::ConfigError;
use super::keys::{self, KEYS, Key, Kind, VARIABLE_PREFIX};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of keys.
    Default,
    /// The TOML file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A command-line flag, without its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The configuration as typed: the winning value of every key that was given.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    pub(super) given: BTreeMap<&'static str, Given>,
    /// The TOML file, for messages about what is missing from it.
    pub(super) file: Option<PathBuf>,
}

impl RawConfig {
    /// Gathers the three sources. `flags` are in the order given; a list's flags add up, otherwise the last wins.
    /// `environment` is the whole of it: variables without our prefix are passed over.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not TOML, if a key or `GRASP_SYNC_*` variable is unknown, or if a value does not
    /// have the shape of its kind.
    pub fn gather(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[(&'static Key, OsString)],
    ) -> Result<RawConfig, ConfigError> {
        let mut raw = RawConfig { given: BTreeMap::new(), file: file.map(Path::to_path_buf) };
        if let Some(file) = file {
            raw.take_file(file)?;
        }
        raw.take_environment(environment)?;
        raw.take_flags(flags)?;
        Ok(raw)
    }

    fn take_file(&mut self, file: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(file)
            .map_err(|error| ConfigError::Unreadable { file: file.to_path_buf(), error: error.kind() })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = 1 + text[..error.span().map_or(0, |span| span.start.min(text.len()))].matches('\n').count();
            ConfigError::Syntax { file: file.to_path_buf(), line, why: error.message().to_owned() }
        })?;
        for (name, value) in table {
            match value {
                Value::Table(inner) if keys::find(&name).is_none() => {
                    let known = KEYS.iter().any(|key| key.name.starts_with(&format!("{name}.")));
                    if !known {
                        return Err(self.unknown_key(file, name));
                    }
                    for (local, value) in inner {
                        self.take_file_key(file, format!("{name}.{local}"), value)?;
                    }
                }
                value => self.take_file_key(file, name, value)?,
            }
        }
        Ok(())
    }

    fn take_file_key(&mut self, file: &Path, name: String, value: Value) -> Result<(), ConfigError> {
        let Some(key) = keys::find(&name) else { return Err(self.unknown_key(file, name)) };
        let origin = Origin::File(file.to_path_buf());
        let fits = match key.kind {
            Kind::Service | Kind::Address | Kind::Path | Kind::Text | Kind::Link | Kind::Author => value.is_str(),
            Kind::Switch => value.is_bool(),
            Kind::Number { .. } => value.is_integer(),
            Kind::Relays | Kind::Authors | Kind::Repos | Kind::Networks | Kind::Words => {
                value.as_array().is_some_and(|items| items.iter().all(Value::is_str))
            }
        };
        if !fits {
            return Err(ConfigError::BadValue { origin, key, value: value.to_string() });
        }
        self.given.insert(key.name, Given { value, origin });
        Ok(())
    }

    fn unknown_key(&self, file: &Path, name: String) -> ConfigError {
        let nearest = keys::nearest(&name);
        ConfigError::UnknownKey { file: file.to_path_buf(), name, nearest }
    }

    fn take_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        for (name, text) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
            let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
                return Err(ConfigError::UnknownVariable { name: name.to_owned() });
            };
            let origin = Origin::Variable(name.to_owned());
            let text = text_of(text, key, &origin)?;
            let value = if key.kind.is_list() {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            } else {
                value_of(&text, key, &origin)?
            };
            self.given.insert(key.name, Given { value, origin });
        }
        Ok(())
    }

    fn take_flags(&mut self, flags: &[(&'static Key, OsString)]) -> Result<(), ConfigError> {
        for (key, text) in flags {
            let flag = key.flag.expect("the command line only yields keys that have a flag");
            let origin = Origin::Flag(flag.name);
            let text = text_of(text.clone(), key, &origin)?;
            if key.kind.is_list() {
                let item = Value::String(text);
                match self.given.get_mut(key.name) {
                    Some(Given { value: Value::Array(items), origin: Origin::Flag(_) }) => items.push(item),
                    _ => _ = self.given.insert(key.name, Given { value: Value::Array(vec![item]), origin }),
                }
            } else {
                let value = value_of(&text, key, &origin)?;
                self.given.insert(key.name, Given { value, origin });
            }
        }
        Ok(())
    }

    /// The effective configuration as TOML, each key with where its value came from: what `check-config` prints.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for key in KEYS {
            let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if of != table {
                table = of;
                // Writing to a String cannot fail.
                let _ = write!(out, "\n[{table}]\n");
            }
            let _ = match self.given(key) {
                Some(Given { value, origin: Origin::Default }) => writeln!(out, "{name} = {value}"),
                Some(Given { value, origin }) => {
                    writeln!(out, "{name} = {value} # {}", origin.to_string().escape_debug())
                }
                None => writeln!(out, "# {name} is not set"),
            };
        }
        out
    }

    /// The value of `key`: given, or its default.
    pub(super) fn given(&self, key: &Key) -> Option<Given> {
        let default = || key.default_value().map(|value| Given { value, origin: Origin::Default });
        self.given.get(key.name).cloned().or_else(default)
    }
}

/// A flag's or variable's text as UTF-8.
fn text_of(text: OsString, key: &'static Key, origin: &Origin) -> Result<String, ConfigError> {
    text.into_string().map_err(|text| ConfigError::BadValue {
        origin: origin.clone(),
        key,
        value: text.to_string_lossy().into_owned(),
    })
}

/// The value of a key that is no list, from a flag's or variable's text.
fn value_of(text: &str, key: &'static Key, origin: &Origin) -> Result<Value, ConfigError> {
    let value = match key.kind {
        Kind::Switch => text.parse().ok().map(Value::Boolean),
        Kind::Number { .. } => text.parse().ok().map(Value::Integer),
        _ => Some(Value::String(text.to_owned())),
    };
    value.ok_or_else(|| ConfigError::BadValue { origin: origin.clone(), key, value: text.to_owned() })
}
