//! Values of `--log-opt`: sizes, addresses, tags, and which labels and variables go along with each line.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use longshore_model::{Error, Result};
use longshore_shim::protocol::RemoteAddress;
use regex_lite::Regex;

use super::record::Definition;

/// `10m`, `1.5g`, `512`, `-1` (no limit): bytes, decimal units as go-units reads them (`FromHumanSize`).
///
/// # Errors
/// Text that is no size.
pub(crate) fn size(text: &str) -> Result<u64> {
    scaled(text, 1000.0)
}

/// As [`size`] with binary units (`RAMInBytes`).
///
/// # Errors
/// Text that is no size.
pub(crate) fn memory_size(text: &str) -> Result<u64> {
    scaled(text, 1024.0)
}

fn scaled(text: &str, base: f64) -> Result<u64> {
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    if text.trim() == "-1" {
        return Ok(0);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| bad())?;
    let unit = lower[digits..]
        .trim()
        .trim_end_matches('b')
        .trim_end_matches('i');
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(bad()),
    };
    let bytes = number * base.powi(power);
    if !(0.0..1e18).contains(&bytes) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within range above"
    )]
    Ok(bytes as u64)
}

/// Go's `strconv.ParseBool`.
///
/// # Errors
/// Any other text.
pub(crate) fn boolean(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(Error::invalid(format!(
            "strconv.ParseBool: parsing {text:?}: invalid syntax"
        ))),
    }
}

/// What goes along with each line: labels named by `labels=a,b` or matched by `labels-regex`, variables by `env` and
/// `env-regex`.
///
/// # Errors
/// A regular expression that is none.
pub(crate) fn extra(
    definition: &Definition,
    option: &impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let spec = &definition.spec;
    let variables: BTreeMap<&str, &str> = spec
        .process
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .collect();
    let labels: BTreeMap<&str, &str> = spec
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut all = BTreeMap::new();
    for (from, list, pattern) in [
        (&labels, "labels", "labels-regex"),
        (&variables, "env", "env-regex"),
    ] {
        let list = option(list).unwrap_or_default();
        let named: Vec<&str> = list.split(',').filter(|name| !name.is_empty()).collect();
        let pattern = match option(pattern).filter(|text| !text.is_empty()) {
            Some(text) => Some(Regex::new(&text).map_err(|error| {
                Error::invalid(format!("error parsing regexp: {error}: `{text}`"))
            })?),
            None => None,
        };
        for (name, value) in from {
            if named.contains(name) || pattern.as_ref().is_some_and(|p| p.is_match(name)) {
                all.insert((*name).to_owned(), (*value).to_owned());
            }
        }
    }
    Ok(all)
}

/// The `attrs` object of json-file's lines.
///
/// # Errors
/// As [`extra`] and [`tag`].
pub(crate) fn attributes(
    definition: &Definition,
    option: &impl Fn(&str) -> Option<String>,
) -> Result<String> {
    let mut attributes = extra(definition, option)?;
    if let Some(template) = option("tag").filter(|tag| !tag.is_empty()) {
        attributes.insert("tag".to_owned(), tag(definition, &template)?);
    }
    if attributes.is_empty() {
        return Ok(String::new());
    }
    Ok(serde_json::to_string(&attributes).unwrap_or_default())
}

/// Fills a tag's template: `{{.Name}}/{{.ID}}`.
///
/// # Errors
/// A field that no container has, or one of Go's template functions.
pub(crate) fn tag(definition: &Definition, template: &str) -> Result<String> {
    let id = definition.id.as_str();
    let image = definition.image.id.trim_start_matches("sha256:");
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (field, behind) = after
            .split_once("}}")
            .ok_or_else(|| Error::invalid("template parsing error: unclosed action"))?;
        out.push_str(match field.trim() {
            ".ID" => definition.id.short(),
            ".FullID" => id,
            ".Name" => &definition.name,
            ".ImageID" => image.get(..12).unwrap_or(image),
            ".ImageFullID" => &definition.image.id,
            ".ImageName" => &definition.spec.image,
            ".Command" => definition.command.first().map_or("", String::as_str),
            ".DaemonName" => "docker",
            other => {
                return Err(Error::invalid(format!(
                    "template parsing error: {other:?} cannot be used in a log tag"
                )));
            }
        });
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads `syslog-address`; empty is the host's own.
///
/// # Errors
/// A protocol that is not spoken, a host that is not known, a socket that is not there.
pub(crate) fn syslog_address(text: &str) -> Result<RemoteAddress> {
    if text.is_empty() {
        let usual = ["/dev/log", "/var/run/syslog", "/var/run/log"];
        let there = usual.into_iter().find(|path| Path::new(path).exists());
        return Ok(RemoteAddress::local(PathBuf::from(
            there.unwrap_or(usual[0]),
        )));
    }
    let (protocol, rest) = text
        .split_once("://")
        .ok_or_else(|| Error::invalid(format!("unsupported transport: {text:?}")))?;
    match protocol {
        "unix" | "unixgram" => {
            let path = PathBuf::from(rest);
            std::fs::metadata(&path).map_err(|error| {
                let text = longshore_model::error::go_errno(&error);
                Error::invalid(format!("stat {}: {text}", path.display()))
            })?;
            Ok(if protocol == "unixgram" {
                RemoteAddress::UnixDatagram(path)
            } else {
                RemoteAddress::local(path)
            })
        }
        "tcp" => Ok(RemoteAddress::Tcp(network_address(rest)?)),
        "udp" => Ok(RemoteAddress::Udp(network_address(rest)?)),
        "tcp+tls" => Err(Error::not_implemented(
            "syslog over TLS is not implemented by longshore yet",
        )),
        other => Err(Error::invalid(format!("unsupported scheme: '{other}'"))),
    }
}

/// `host[:port]`, port 514 when none is given. Names are those of /etc/hosts: a static program asks no name server.
fn network_address(text: &str) -> Result<SocketAddr> {
    let text = text.trim_end_matches('/');
    if let Ok(whole) = text.parse() {
        return Ok(whole);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 514));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "514"));
    let port = port
        .parse()
        .map_err(|_| Error::invalid(format!("invalid port in syslog-address: {text}")))?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    named(&hosts, host)
        .map(|ip| SocketAddr::new(ip, port))
        .ok_or_else(|| Error::invalid(format!("lookup {host}: no such host")))
}

fn named(hosts: &str, wanted: &str) -> Option<IpAddr> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|name| name == wanted).then_some(ip)
    })
}

/// Syslog's facilities by name, or a number up to 23.
///
/// # Errors
/// Anything else.
pub(crate) fn facility(text: &str) -> Result<u8> {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4",
        "local5", "local6", "local7",
    ];
    if text.is_empty() {
        return Ok(3);
    }
    let number = NAMES.iter().position(|name| *name == text);
    let number = number.or_else(|| text.parse().ok().filter(|number| *number < 24));
    number
        .and_then(|number| u8::try_from(number).ok())
        .ok_or_else(|| Error::invalid("invalid syslog facility"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("10m", Some(10_000_000)),
            ("1.5k", Some(1500)),
            ("7", Some(7)),
            ("-1", Some(0)),
            ("x", None),
            ("1q", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
        assert_eq!(memory_size("4k").ok(), Some(4096));
    }

    #[test]
    fn facilities() {
        for (text, want) in [
            ("", Some(3)),
            ("daemon", Some(3)),
            ("local7", Some(23)),
            ("5", Some(5)),
            ("24", None),
            ("x", None),
        ] {
            assert_eq!(facility(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn addresses() {
        let shown = |text| syslog_address(text).map(|a| a.to_string());
        assert_eq!(shown("udp://127.0.0.1").unwrap(), "udp://127.0.0.1:514");
        assert_eq!(shown("tcp://[::1]:99").unwrap(), "tcp://[::1]:99");
        assert_eq!(
            shown("unix:///no/such").unwrap_err().message,
            "stat /no/such: no such file or directory"
        );
        assert!(shown("http://x").is_err() && shown("plain").is_err());
        assert_eq!(
            named("10.0.0.1 a b # c\n", "b"),
            Some("10.0.0.1".parse().unwrap())
        );
        assert_eq!(named("10.0.0.1 a b # c\n", "c"), None);
    }
}
