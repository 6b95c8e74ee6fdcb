//! Flags and daemon.json brought together by dockerd's rules: a key that no option has is an error, and so is an option
//! given in both places.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::options::{OPTIONS, Opt, Shape, Support};
use crate::flags::{Kind, Parsed};

/// Where daemon.json is unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/docker/daemon.json";

/// All options that somebody set, by [`Opt::name`].
#[derive(Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    /// What the operator should read in the log.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Merges the command line with the file that it names, or [`DEFAULT_FILE`] if that is there.
    ///
    /// # Errors
    /// Unreadable or malformed file, unknown key, key of the wrong type, option given twice, option refused.
    pub fn load(parsed: &Parsed) -> Result<Settings, String> {
        let named = parsed.text("config-file");
        let path = Path::new(named.unwrap_or(DEFAULT_FILE));
        let file = match std::fs::read(path) {
            Ok(bytes) => read_object(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                Ok(Map::new())
            }
            Err(error) => Err(error.to_string()),
        };
        file.and_then(|file| Settings::merge(parsed, file))
            .map_err(|error| {
                format!(
                    "unable to configure the daemon with file {}: {error}",
                    path.display()
                )
            })
            .and_then(Settings::judge)
    }

    /// Merges the command line with the content of a file.
    fn merge(parsed: &Parsed, file: Map<String, Value>) -> Result<Settings, String> {
        let mut settings = Settings::default();
        let mut conflicts = Vec::new();
        for option in OPTIONS {
            let from_file = (!option.key.is_empty())
                .then(|| file.get(option.key))
                .flatten();
            let from_flag = from_flag(option, parsed);
            match (from_flag, from_file) {
                (Some(flag), Some(file)) => conflicts.push(format!(
                    "{}: (from flag: {}, from file: {})",
                    option.key,
                    as_go(&flag),
                    as_go(file)
                )),
                (Some(value), None) => {
                    settings.values.insert(option.name(), value);
                }
                (None, Some(value)) => {
                    check_shape(option, value)?;
                    settings.values.insert(option.name(), value.clone());
                }
                (None, None) => {}
            }
        }
        let unknown: Vec<&str> = file
            .keys()
            .map(String::as_str)
            .filter(|key| !OPTIONS.iter().any(|option| option.key == *key))
            .collect();
        if !unknown.is_empty() {
            return Err(format!(
                "the following directives don't match any configuration option: {}",
                unknown.join(", ")
            ));
        }
        if !conflicts.is_empty() {
            return Err(format!(
                "the following directives are specified both as a flag and in the configuration file: {}",
                conflicts.join(", ")
            ));
        }
        Ok(settings)
    }

    /// Warns about options that are not there yet, refuses those that must not be ignored.
    fn judge(mut self) -> Result<Settings, String> {
        for option in OPTIONS {
            let Some(value) = self.values.get(option.name()) else {
                continue;
            };
            let idle = matches!(value, Value::Bool(false) | Value::Null)
                || value.as_str().is_some_and(str::is_empty)
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(Map::is_empty);
            match option.support {
                Support::Refused if option.name() == "seccomp-profile" && value == "builtin" => {}
                Support::Refused if !idle => {
                    return Err(format!(
                        "{} is not supported yet, and to go on without it would not be safe",
                        option.name()
                    ));
                }
                // On by default in dockerd: to switch them off is what cannot be done.
                Support::Missing if option.name() == "iptables" => {
                    let warning = "iptables=false is not supported yet: rules are kept in an nftables table of our own";
                    self.warnings.extend(idle.then(|| warning.to_owned()));
                }
                Support::Missing if !idle => self.warnings.push(format!(
                    "{} is not supported yet and has no effect",
                    option.name()
                )),
                _ => {}
            }
        }
        if self.switch("live-restore") == Some(false) {
            self.warnings.push(
                "live-restore=false has no effect: containers always outlive the daemon".into(),
            );
        }
        Ok(self)
    }

    pub fn switch(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Value::as_bool)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    }

    /// A field of an option that is an object in the file, and has a flag for each field.
    pub fn field(&self, name: &str, field: &str) -> Option<&str> {
        let object = self.values.get(name).and_then(Value::as_object);
        object.and_then(|o| o.get(field)).and_then(Value::as_str)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.values.get(name).and_then(Value::as_i64)
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        let items = self.values.get(name).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }
}

/// The whole file as one JSON object; an empty file is an empty object, a byte order mark is passed over.
fn read_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// A flag's value as daemon.json would hold it.
fn from_flag(option: &Opt, parsed: &Parsed) -> Option<Value> {
    let flag = option.flag?;
    if !parsed.is_set(flag.name) {
        return None;
    }
    Some(match flag.kind {
        Kind::Switch => Value::Bool(parsed.on(flag.name)),
        Kind::Number => parsed.number(flag.name)?.into(),
        Kind::Text => parsed.text(flag.name)?.into(),
        Kind::List if option.shape == Shape::Map => Value::Object(
            parsed
                .list(flag.name)
                .iter()
                .map(|pair| match pair.split_once('=') {
                    Some((name, value)) => (name.to_owned(), value.into()),
                    None => (pair.clone(), "".into()),
                })
                .collect(),
        ),
        Kind::List => parsed.list(flag.name).into(),
    })
}

fn check_shape(option: &Opt, value: &Value) -> Result<(), String> {
    let (fits, wanted) = match option.shape {
        _ if value.is_null() => (true, ""),
        Shape::Any => (true, ""),
        Shape::Switch => (value.is_boolean(), "true or false"),
        Shape::Text => (value.is_string(), "a text"),
        Shape::Number => (value.is_i64(), "a whole number"),
        Shape::Bytes => (value.is_string() || value.is_u64(), "a size"),
        Shape::List => (
            value
                .as_array()
                .is_some_and(|items| items.iter().all(Value::is_string)),
            "a list of texts",
        ),
        Shape::Map => (
            value
                .as_object()
                .is_some_and(|items| items.values().all(Value::is_string)),
            "an object of texts",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(format!("{} must be {wanted}, not {value}", option.key))
}

/// A value as Go's `%v` prints it.
fn as_go(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(as_go).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(items) => {
            let pairs: Vec<String> = items
                .iter()
                .map(|(name, value)| format!("{name}:{}", as_go(value)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::options, flags};

    fn merge(arguments: &[&str], file: &str) -> Result<Settings, String> {
        let parsed = flags::parse(&options::flags(), arguments, flags::Order::Mixed).unwrap();
        read_object(file.as_bytes())
            .and_then(|file| Settings::merge(&parsed, file))
            .and_then(Settings::judge)
    }

    #[test]
    fn both_sources_add_up() {
        let settings = merge(
            &["-D", "--log-opt", "max-size=1m", "--mtu=1400"],
            r#"{"labels":["a=b"],"dns":[],"default-shm-size":"1g"}"#,
        )
        .unwrap();
        assert_eq!(settings.switch("debug"), Some(true));
        assert_eq!(settings.number("mtu"), Some(1400));
        assert_eq!(settings.list("labels"), ["a=b"]);
        assert_eq!(settings.value("log-opts").unwrap()["max-size"], "1m");
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn given_twice_is_an_error() {
        assert_eq!(
            merge(
                &["-H", "unix:///a", "--debug"],
                r#"{"hosts":["fd://","tcp://x"],"debug":true}"#
            )
            .unwrap_err(),
            "the following directives are specified both as a flag and in the configuration file: \
             debug: (from flag: true, from file: true), hosts: (from flag: [unix:///a], from file: [fd:// tcp://x])"
        );
    }

    #[test]
    fn typos_are_errors_and_known_gaps_warnings() {
        assert_eq!(
            merge(&[], r#"{"debgu":true,"x":1,"debug":true}"#).unwrap_err(),
            "the following directives don't match any configuration option: debgu, x"
        );
        let settings = merge(
            &["--containerd=/x"],
            r#"{"exec-opts":["native.cgroupdriver=systemd"],"features":{},"live-restore":false,"iptables":false}"#,
        )
        .unwrap();
        assert_eq!(settings.warnings.len(), 3, "{:?}", settings.warnings);
    }

    #[test]
    fn what_guards_the_host_is_refused() {
        for (flags, file) in [
            (&["--tlsverify"][..], ""),
            (&[][..], r#"{"tls":true}"#),
            (&["--userns-remap=default"][..], ""),
            (&[][..], r#"{"authorization-plugins":["x"]}"#),
        ] {
            assert!(merge(flags, file).unwrap_err().contains("not supported"));
        }
        assert!(merge(&["--tls=false"], r#"{"selinux-enabled":false}"#).is_ok());
    }

    #[test]
    fn wrong_types_and_broken_files() {
        assert_eq!(
            merge(&[], r#"{"debug":"yes"}"#).unwrap_err(),
            "debug must be true or false, not \"yes\""
        );
        assert!(merge(&[], r#"{"dns":[1]}"#).is_err());
        assert!(merge(&[], "{").is_err());
        assert!(merge(&[], "[]").is_err());
        assert!(merge(&[], "").is_ok());
        assert!(merge(&[], "\u{feff}{\"debug\":null}").is_ok());
    }
}
