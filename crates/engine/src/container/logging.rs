//! Where a container's output goes, by driver and options, and what `docker logs` can read of it.

use std::path::{Path, PathBuf};

use longshore_model::{Error, Result};
use longshore_shim::protocol::{
    FilePlan, LogPlan, RemoteAddress, RemotePlan, RemoteProtocol, SyslogFormat,
};
use longshore_store::Durability;

use super::{actor::Actor, log_values as values, record::Definition, spec::LogSpec};

/// Bytes a json-file; five are kept. Ample for reading back, yet no container fills a disk; dockerd has no limit.
const JSON_SIZE: u64 = 100_000_000;
/// Bytes a file of the local driver, and of the cache beside drivers that cannot be read: as in dockerd.
const LOCAL_SIZE: u64 = 20 << 20;
const FILES: u32 = 5;
/// Bytes that wait in non-blocking mode, unless `max-buffer-size` says otherwise.
const BUFFER: u64 = 1 << 20;
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A driver that keeps its entries elsewhere.
fn is_remote(driver: &str) -> bool {
    matches!(driver, "journald" | "syslog")
}

/// The file that has a container's log, in the container's directory; None when nothing is kept here.
pub(crate) fn kept(spec: &LogSpec, dir: &Path, id: &str) -> Option<PathBuf> {
    let disabled = spec.options.get("cache-disabled");
    let cached = !disabled.is_some_and(|text| values::boolean(text).unwrap_or(false));
    match spec.driver.as_str() {
        "none" => None,
        "local" => Some(dir.join("container.log")),
        driver if is_remote(driver) => cached.then(|| dir.join("container-cached.log")),
        _ => Some(dir.join(format!("{id}-json.log"))),
    }
}

/// The plan for the shim.
///
/// # Errors
/// A driver that is not there, a value that cannot be read.
pub(crate) fn plan(definition: &Definition) -> Result<LogPlan> {
    let spec = &definition.spec.log;
    let option = |name: &str| spec.options.get(name).cloned();
    let paths = &definition.paths;
    // Records of an older version have the log's path only.
    let path = PathBuf::from(if paths.kept.is_empty() {
        &paths.log
    } else {
        &paths.kept
    });
    match spec.driver.as_str() {
        "none" => Ok(LogPlan::default()),
        "json-file" | "" => {
            let mut file = rotation("", JSON_SIZE, false, &option)?;
            file.path = path;
            file.attrs = values::attributes(definition, &option)?;
            Ok(LogPlan {
                file: Some(file),
                remote: None,
            })
        }
        "local" => {
            let mut file = rotation("", LOCAL_SIZE, true, &option)?;
            file.path = path;
            Ok(LogPlan {
                file: Some(file),
                remote: None,
            })
        }
        driver if is_remote(driver) => {
            let mut file = rotation("cache-", LOCAL_SIZE, true, &option)?;
            file.path = path;
            let disabled = match option("cache-disabled") {
                Some(text) => values::boolean(&text)?,
                None => false,
            };
            Ok(LogPlan {
                file: (!disabled).then_some(file),
                remote: Some(RemotePlan {
                    address: address(driver, &option)?,
                    protocol: protocol(driver, definition, &option)?,
                    buffer: buffer(&option)?,
                }),
            })
        }
        other => Err(Error::not_implemented(format!(
            "log driver \"{other}\" is not implemented by longshore yet"
        ))),
    }
}

fn rotation(
    prefix: &str,
    default_size: u64,
    default_compress: bool,
    option: &impl Fn(&str) -> Option<String>,
) -> Result<FilePlan> {
    let of = |name: &str| option(&format!("{prefix}{name}"));
    let max_size = match of("max-size") {
        Some(text) => values::size(&text)?,
        None => default_size,
    };
    let max_file = match of("max-file") {
        Some(text) => text
            .parse::<u32>()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::invalid("max-file cannot be less than 1"))?,
        None => FILES,
    };
    let compress = match of("compress") {
        Some(text) => values::boolean(&text)?,
        None => default_compress,
    };
    if compress && max_file < 2 && of("compress").is_some() {
        return Err(Error::invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ));
    }
    Ok(FilePlan {
        path: PathBuf::new(),
        max_size,
        max_file,
        compress,
        attrs: String::new(),
    })
}

fn address(driver: &str, option: &impl Fn(&str) -> Option<String>) -> Result<RemoteAddress> {
    if driver == "journald" {
        return Ok(RemoteAddress::UnixDatagram(PathBuf::from(JOURNAL)));
    }
    values::syslog_address(&option("syslog-address").unwrap_or_default())
}

fn protocol(
    driver: &str,
    definition: &Definition,
    option: &impl Fn(&str) -> Option<String>,
) -> Result<RemoteProtocol> {
    let template = option("tag").filter(|tag| !tag.is_empty());
    let tag = values::tag(definition, template.as_deref().unwrap_or("{{.ID}}"))?;
    if driver == "syslog" {
        let format = match option("syslog-format").as_deref().unwrap_or_default() {
            "" => SyslogFormat::Unix,
            "rfc3164" => SyslogFormat::Rfc3164,
            "rfc5424" => SyslogFormat::Rfc5424,
            "rfc5424micro" => SyslogFormat::Rfc5424Micro,
            _ => return Err(Error::invalid("invalid syslog format")),
        };
        return Ok(RemoteProtocol::Syslog {
            format,
            facility: values::facility(&option("syslog-facility").unwrap_or_default())?,
            tag,
        });
    }
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut fields = vec![
        field("CONTAINER_ID", definition.id.short()),
        field("CONTAINER_ID_FULL", definition.id.as_str()),
        field("CONTAINER_NAME", &definition.name),
        field("CONTAINER_TAG", &tag),
        field("IMAGE_NAME", &definition.spec.image),
        field("SYSLOG_IDENTIFIER", &tag),
    ];
    for (name, value) in values::extra(definition, option)? {
        fields.push((journal_name(&name), value));
    }
    Ok(RemoteProtocol::Journald { fields })
}

/// The journal takes capitals, digits and underscores, and no underscore in front.
fn journal_name(name: &str) -> String {
    let plain = |c: char| {
        let c = c.to_ascii_uppercase();
        if c.is_ascii_alphanumeric() { c } else { '_' }
    };
    let name: String = name.chars().map(plain).collect();
    name.trim_start_matches('_').to_owned()
}

fn buffer(option: &impl Fn(&str) -> Option<String>) -> Result<Option<u64>> {
    if option("mode").as_deref() != Some("non-blocking") {
        return Ok(None);
    }
    match option("max-buffer-size") {
        Some(text) => values::memory_size(&text)
            .map(Some)
            .map_err(|error| error.context("error parsing option max-buffer-size")),
        None => Ok(Some(BUFFER)),
    }
}

impl Actor {
    /// The shim cannot write the log, or can again: the operator is told, and whoever watches events.
    pub(super) async fn log_trouble(&mut self, text: String, failing: bool) {
        let id = &self.definition.id;
        if failing {
            tracing::error!(container = %id, "{text}");
        } else {
            tracing::warn!(container = %id, "{text}");
        }
        let action = if failing { "log_error" } else { "log_warning" };
        let event = self.event(action, [("error".to_owned(), text)].into());
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::warn!(container = %self.definition.id, "trouble with the log is not recorded: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_journal_fields() {
        assert_eq!(journal_name("com.example.x-1"), "COM_EXAMPLE_X_1");
        assert_eq!(journal_name("_a"), "A");
    }
}
