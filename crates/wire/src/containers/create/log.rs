//! The log driver and its options: which there are, and what each takes. Values are read by the engine.

use longshore_model::{Error, Result};

use crate::dto::hostconfig::HostConfig;

const JSON_FILE: &[&str] = &[
    "max-file",
    "max-size",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
];
const LOCAL: &[&str] = &["max-file", "max-size", "compress"];
const JOURNALD: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const SYSLOG: &[&str] = &[
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "tag",
];
/// What every driver takes.
const ALL: &[&str] = &["mode", "max-buffer-size"];
/// Of the copy that is kept here of what goes elsewhere.
const CACHE: &[&str] = &[
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];

/// Log drivers: the ones of this engine, the ones that only dockerd has, and the unknown.
///
/// # Errors
/// 400; 501 for a driver of dockerd that is not here.
pub fn check(host: &HostConfig, default: &str) -> Result<()> {
    let driver = match host.log_config.r#type.as_str() {
        "" => default,
        given => given,
    };
    let known = match driver {
        "none" => return Ok(()),
        "json-file" => JSON_FILE,
        "local" => LOCAL,
        "journald" => JOURNALD,
        "syslog" => SYSLOG,
        "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs" | "etwlogs" => {
            return Err(Error::not_implemented(format!(
                "log driver '{driver}' is not implemented yet; use json-file, local, journald, syslog or none"
            )));
        }
        other => {
            return Err(Error::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let options = || host.log_config.config.iter().flatten();
    let value = |name: &str| options().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
    match value("mode").unwrap_or_default() {
        "" | "blocking" | "non-blocking" => {}
        other => {
            return Err(Error::invalid(format!(
                "logger: logging mode not supported: {other}"
            )));
        }
    }
    if value("max-buffer-size").is_some() && value("mode") != Some("non-blocking") {
        return Err(Error::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ));
    }
    let takes = |name: &str| known.contains(&name) || ALL.contains(&name) || CACHE.contains(&name);
    for (name, _) in options() {
        if name.starts_with("syslog-tls-") && driver == "syslog" {
            return Err(Error::not_implemented(
                "syslog over TLS is not implemented by longshore yet",
            ));
        }
        if !takes(name) {
            return Err(Error::invalid(if driver == "local" {
                format!("unknown log opt '{name}' for log driver local")
            } else {
                format!("unknown log opt '{name}' for {driver} log driver")
            }));
        }
    }
    Ok(())
}
