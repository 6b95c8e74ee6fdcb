//! From settings to [`DaemonConfig`]: defaults, values read and checked.

use std::{net::IpAddr, path::PathBuf};

use longshore_model::config::{AddressPool, BridgeConfig, DaemonConfig, ImageGc, Listen};
use serde_json::Value;

use super::settings::Settings;
use crate::units;

/// The socket that every client knows.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Group of the socket unless told otherwise; it may be missing.
pub const DEFAULT_GROUP: &str = "docker";
const DEFAULT_TCP_PORT: u16 = 2375;
const DEFAULT_SHM_SIZE: u64 = 64 << 20;

/// Decides all values.
///
/// # Errors
/// The first value that cannot be read, in words for the operator.
pub fn build(settings: &Settings) -> Result<DaemonConfig, String> {
    let debug = settings.switch("debug").unwrap_or(false);
    let exec_root = absolute(settings.text("exec-root").unwrap_or("/run/longshore"))?;
    check_storage_driver(settings)?;
    Ok(DaemonConfig {
        listen: listen(&settings.list("hosts"))?,
        data_root: absolute(settings.text("data-root").unwrap_or("/var/lib/longshore"))?,
        pidfile: Some(match settings.text("pidfile") {
            Some(path) => absolute(path)?,
            None => exec_root.join("longshore.pid"),
        }),
        exec_root,
        group: settings.text("group").unwrap_or(DEFAULT_GROUP).to_owned(),
        debug,
        log_level: log_level(settings)?,
        bridge: bridge(settings)?,
        default_address_pools: address_pools(settings)?,
        labels: labels(settings)?,
        dns: addresses(settings.list("dns"))?,
        dns_search: settings.list("dns-search"),
        dns_options: settings.list("dns-opts"),
        default_shm_size: shm_size(settings)?,
        default_log_driver: settings
            .text("log-driver")
            .unwrap_or("json-file")
            .to_owned(),
        default_log_options: log_options(settings),
        default_init: settings.switch("init").unwrap_or(false),
        default_ulimits: ulimits(settings)?,
        cgroup_parent: settings
            .text("cgroup-parent")
            .unwrap_or_default()
            .to_owned(),
        shutdown_timeout: match settings.number("shutdown-timeout").unwrap_or(15) {
            seconds if seconds < 0 => u64::MAX,
            seconds => seconds.unsigned_abs(),
        },
        insecure_registries: settings.list("insecure-registries"),
        registry_mirrors: settings.list("registry-mirrors"),
        proxies: ["http-proxy", "https-proxy", "no-proxy"].map(|name| {
            let said = settings.text(name);
            said.or_else(|| settings.field("http-proxy", name))
                .map(str::to_owned)
        }),
        max_download_attempts: match settings.number("max-download-attempts") {
            None => 5,
            Some(number) => u32::try_from(number)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("invalid max download attempts: {number}"))?,
        },
        max_concurrent_downloads: at_once(settings, "max-concurrent-downloads", 3)?,
        max_concurrent_uploads: at_once(settings, "max-concurrent-uploads", 5)?,
        image_gc: image_gc(settings.value("image-gc"))?,
        default_cgroupns_mode: cgroupns_mode(settings)?,
        no_new_privileges: settings.switch("no-new-privileges").unwrap_or(false),
    })
}

/// A number of transfers; 0 means dockerd's default, as there.
fn at_once(settings: &Settings, name: &str, default: usize) -> Result<usize, String> {
    match settings.number(name) {
        None | Some(0) => Ok(default),
        Some(number) => usize::try_from(number)
            .map_err(|_| format!("invalid {}: {number}", name.replace('-', " "))),
    }
}

/// `{"high": 85, "low": 75, "keep-labels": ["keep"], "min-age": "2m"}`: percents of the data root's file system.
///
/// # Errors
/// A key that there is not, or a value that makes no sense.
fn image_gc(value: Option<&Value>) -> Result<Option<ImageGc>, String> {
    let given = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(given)) => given,
        Some(other) => return Err(format!("image-gc must be an object, not {other}")),
    };
    let known = ["high", "low", "keep-labels", "min-age"];
    if let Some(other) = given.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("image-gc has no key {other}"));
    }
    let percent = |key: &str| {
        let value = given.get(key).ok_or(format!("image-gc lacks {key}"))?;
        let number = value.as_u64().and_then(|n| u8::try_from(n).ok());
        number
            .filter(|n| (1..100).contains(n))
            .ok_or(format!("image-gc: {key} must be a percentage, not {value}"))
    };
    let (high, low) = (percent("high")?, percent("low")?);
    if low > high {
        return Err(format!("image-gc: low ({low}) is above high ({high})"));
    }
    let keep = match given.get("keep-labels") {
        None => Vec::new(),
        Some(list) => serde_json::from_value(list.clone())
            .map_err(|_| format!("image-gc: keep-labels must be a list of texts, not {list}"))?,
    };
    let min_age = match given.get("min-age") {
        None => 120_000_000_000,
        Some(text) => text
            .as_str()
            .and_then(units::duration)
            .ok_or(format!("image-gc: min-age must be a duration, not {text}"))?,
    };
    Ok(Some(ImageGc {
        high,
        low,
        keep,
        min_age: std::time::Duration::from_nanos(u64::try_from(min_age).unwrap_or(0)),
    }))
}

/// The level that the log starts with, `debug` winning over `log-level`.
///
/// # Errors
/// A level that there is not.
pub fn log_level(settings: &Settings) -> Result<String, String> {
    let level = settings.text("log-level").unwrap_or("info");
    match level {
        "trace" | "debug" | "info" | "warn" | "warning" | "error" | "fatal" | "panic" => {
            Ok(if settings.switch("debug") == Some(true) {
                "debug"
            } else {
                level
            }
            .to_owned())
        }
        other => Err(format!("invalid logging level: {other}")),
    }
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("bad path {path:?}: {error}"))
}

fn check_storage_driver(settings: &Settings) -> Result<(), String> {
    match settings.text("storage-driver") {
        None | Some("overlay2" | "overlayfs") => Ok(()),
        Some(other) => Err(format!(
            "storage-driver {other} is not supported: overlay2 is the only one"
        )),
    }
}

/// `-H` as dockerd reads it.
fn listen(hosts: &[String]) -> Result<Vec<Listen>, String> {
    if hosts.is_empty() {
        return Ok(vec![Listen::Unix(DEFAULT_SOCKET.into())]);
    }
    let mut listen = Vec::new();
    for host in hosts {
        let host = host.trim();
        let one = match host.split_once("://") {
            _ if host.is_empty() => Listen::Unix(DEFAULT_SOCKET.into()),
            Some(("unix", "")) => Listen::Unix(DEFAULT_SOCKET.into()),
            Some(("unix", path)) => Listen::Unix(absolute(path)?),
            Some(("fd", name)) => Listen::Fd(name.to_owned()),
            Some(("tcp", address)) => Listen::Tcp(tcp_address(address)?),
            Some(_) => return Err(format!("invalid bind address format: {host}")),
            None if host.contains('/') => {
                return Err(format!(
                    "invalid bind address format: {host} (a socket is unix://{host})"
                ));
            }
            None => Listen::Tcp(tcp_address(host)?),
        };
        if !listen.contains(&one) {
            listen.push(one);
        }
    }
    Ok(listen)
}

/// `host:port` with dockerd's defaults: 127.0.0.1 for no address at all, every address for no host before the port.
fn tcp_address(address: &str) -> Result<String, String> {
    let bad = || format!("invalid bind address ({address}): want tcp://ADDRESS:PORT");
    if address.is_empty() {
        return Ok(format!("127.0.0.1:{DEFAULT_TCP_PORT}"));
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (
            host,
            if port.is_empty() {
                DEFAULT_TCP_PORT
            } else {
                port.parse().map_err(|_| bad())?
            },
        ),
        None => (address, DEFAULT_TCP_PORT),
        // An address with colons and no brackets.
        Some(_) if address.ends_with(']') => (address, DEFAULT_TCP_PORT),
        Some(_) => return Err(bad()),
    };
    if host.contains(['/', '?', '#']) {
        return Err(bad());
    }
    Ok(format!(
        "{}:{port}",
        if host.is_empty() { "[::]" } else { host }
    ))
}

fn bridge(settings: &Settings) -> Result<BridgeConfig, String> {
    let mtu = settings
        .number("mtu")
        .filter(|mtu| *mtu != 0)
        .unwrap_or(1500);
    let name = settings.text("bridge").unwrap_or("docker0");
    // The kernel's rule for link names (IFNAMSIZ with its NUL).
    if name.len() > 15 || name == "." || name == ".." || name.contains(['/', ':', ' ']) {
        return Err(format!("invalid bridge name {name:?}"));
    }
    Ok(BridgeConfig {
        name: name.to_owned(),
        bip: settings.text("bip").map(prefix).transpose()?,
        mtu: u32::try_from(mtu)
            .ok()
            .filter(|mtu| (68..=65535).contains(mtu))
            .ok_or_else(|| format!("invalid MTU {mtu}: want 68 to 65535"))?,
        default_ip: settings.text("ip").map(address).transpose()?,
        icc: settings.switch("icc").unwrap_or(true),
        ip_masquerade: settings.switch("ip-masq").unwrap_or(true),
        ip_forward: settings.switch("ip-forward").unwrap_or(true),
    })
}

/// `base=10.0.0.0/8,size=24` on the command line, objects with these keys in daemon.json.
fn address_pools(settings: &Settings) -> Result<Vec<AddressPool>, String> {
    let Some(value) = settings
        .value("default-address-pools")
        .filter(|value| !value.is_null())
    else {
        return Ok(Vec::new());
    };
    let pools = value
        .as_array()
        .ok_or_else(|| format!("default-address-pools must be a list, not {value}"))?;
    pools.iter().map(address_pool).collect()
}

fn address_pool(value: &Value) -> Result<AddressPool, String> {
    let bad = |why: &str| format!("invalid default address pool {value}: {why}");
    let (mut base, mut size) = (None, None);
    match value {
        Value::Object(fields) => {
            base = fields
                .get("base")
                .and_then(Value::as_str)
                .map(str::to_owned);
            size = fields.get("size").map(ToString::to_string);
        }
        Value::String(text) => {
            for part in text.split(',') {
                match part.trim().split_once('=') {
                    Some(("base", value)) => base = Some(value.to_owned()),
                    Some(("size", value)) => size = Some(value.to_owned()),
                    _ => return Err(bad("want base=ADDRESS/PREFIX,size=PREFIX")),
                }
            }
        }
        _ => return Err(bad("want base and size")),
    }
    let base = base.ok_or_else(|| bad("no base"))?;
    let (address, length) = prefix(&base)?;
    let size: u8 = size
        .and_then(|size| size.parse().ok())
        .filter(|size| (length..=if address.is_ipv4() { 32 } else { 128 }).contains(size))
        .ok_or_else(|| bad("the size is no prefix length that fits into the base"))?;
    Ok(AddressPool {
        base: (address, length),
        size,
    })
}

fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let bad = || format!("invalid CIDR address: {text}");
    let (ip, length) = text.split_once('/').ok_or_else(bad)?;
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let length: u8 = length.parse().map_err(|_| bad())?;
    if length > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(bad());
    }
    Ok((ip, length))
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text} is not an ip address"))
}

fn addresses(texts: Vec<String>) -> Result<Vec<String>, String> {
    texts
        .iter()
        .map(|text| address(text).map(|ip| ip.to_string()))
        .collect()
}

fn labels(settings: &Settings) -> Result<Vec<String>, String> {
    let labels = settings.list("labels");
    for (index, label) in labels.iter().enumerate() {
        let Some((name, value)) = label.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("bad attribute format: {label}"));
        };
        let clash = labels[..index].iter().any(|other| {
            other
                .split_once('=')
                .is_some_and(|(other, its)| other == name && its != value)
        });
        if clash {
            return Err(format!("conflict labels for {name}"));
        }
    }
    Ok(labels)
}

fn shm_size(settings: &Settings) -> Result<u64, String> {
    match settings.value("default-shm-size") {
        None | Some(Value::Null) => Ok(DEFAULT_SHM_SIZE),
        Some(Value::Number(number)) => number
            .as_u64()
            .filter(|size| *size > 0)
            .ok_or_else(|| format!("invalid default-shm-size {number}")),
        Some(value) => {
            let text = value.as_str().unwrap_or_default();
            units::bytes(text)
                .filter(|size| *size > 0)
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| format!("invalid default-shm-size {text:?}"))
        }
    }
}

fn log_options(settings: &Settings) -> Vec<(String, String)> {
    let options = settings.value("log-opts").and_then(Value::as_object);
    options
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Flags say `nofile=1:2`, the file `{"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}`.
fn ulimits(settings: &Settings) -> Result<Vec<(String, i64, i64)>, String> {
    match settings.value("default-ulimits") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(texts)) => texts
            .iter()
            .map(|text| units::ulimit(text.as_str().unwrap_or_default()))
            .collect(),
        Some(Value::Object(limits)) => limits
            .iter()
            .map(|(name, limit)| {
                let field = |key: &str| {
                    limit[key]
                        .as_i64()
                        .ok_or_else(|| format!("invalid default-ulimits {name}: no number {key}"))
                };
                let (soft, hard) = (field("Soft")?, field("Hard")?);
                units::ulimit(&format!("{name}={soft}:{hard}"))
            })
            .collect(),
        Some(other) => Err(format!("default-ulimits must be an object, not {other}")),
    }
}

fn cgroupns_mode(settings: &Settings) -> Result<Option<String>, String> {
    match settings.text("default-cgroupns-mode") {
        None => Ok(None),
        Some(mode @ ("host" | "private")) => Ok(Some(mode.to_owned())),
        Some(other) => Err(format!(
            "default cgroup namespace mode ({other}) is invalid; use \"host\" or \"private\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::options, flags};

    fn config(arguments: &[&str]) -> Result<DaemonConfig, String> {
        // A file that is there and empty, whatever this machine has under /etc.
        let mut all = vec!["--config-file", "/dev/null"];
        all.extend(arguments);
        let parsed = flags::parse(&options::flags(), &all, flags::Order::Mixed).unwrap();
        Settings::load(&parsed).and_then(|settings| build(&settings))
    }

    #[test]
    fn defaults() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen, [Listen::Unix(DEFAULT_SOCKET.into())]);
        assert_eq!(config.data_root, PathBuf::from("/var/lib/longshore"));
        assert_eq!(
            config.pidfile,
            Some(PathBuf::from("/run/longshore/longshore.pid"))
        );
        assert_eq!(config.bridge.name, "docker0");
        assert_eq!(config.bridge.mtu, 1500);
        assert!(config.bridge.icc && config.bridge.ip_masquerade && config.bridge.ip_forward);
        assert_eq!(config.default_shm_size, 67_108_864);
        assert_eq!(config.shutdown_timeout, 15);
        assert_eq!(config.log_level, "info");
    }

    #[test]
    fn default_pools() {
        let pools = |words: &[&str]| config(words).map(|config| config.default_address_pools);
        let ten = AddressPool {
            base: (IpAddr::from([10, 0, 0, 0]), 8),
            size: 24,
        };
        assert_eq!(
            pools(&["--default-address-pool", "base=10.0.0.0/8,size=24"]),
            Ok(vec![ten])
        );
        assert_eq!(pools(&[]), Ok(Vec::new()));
        for bad in [
            "base=10.0.0.0/8",
            "base=x,size=24",
            "base=10.0.0.0/8,size=7",
            "size=33",
        ] {
            assert!(pools(&["--default-address-pool", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        let listen = |host: &str| config(&["-H", host]).map(|config| config.listen[0].clone());
        let tcp = |address: &str| Ok(Listen::Tcp(address.into()));
        assert_eq!(listen("unix:///x.sock"), Ok(Listen::Unix("/x.sock".into())));
        assert_eq!(listen("unix://"), Ok(Listen::Unix(DEFAULT_SOCKET.into())));
        assert_eq!(listen("fd://"), Ok(Listen::Fd(String::new())));
        assert_eq!(listen("tcp://"), tcp("127.0.0.1:2375"));
        assert_eq!(listen("tcp://:2376"), tcp("[::]:2376"));
        assert_eq!(listen("0.0.0.0"), tcp("0.0.0.0:2375"));
        assert_eq!(listen("tcp://[::1]"), tcp("[::1]:2375"));
        assert_eq!(listen("tcp://[::1]:1"), tcp("[::1]:1"));
        for bad in [
            "npipe://x",
            "/x.sock",
            "tcp://a:99999",
            "tcp://a:1/p",
            "tcp://::1:1",
        ] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_that_cannot_be() {
        for bad in [
            &["--bip", "10.0.0.1"][..],
            &["--bip", "10.0.0.1/33"],
            &["--dns", "x"],
            &["--ip", "1.2.3"],
            &["--label", "x"],
            &["--label", "a=1", "--label", "a=2"],
            &["-l", "loud"],
            &["--mtu", "12"],
            &["--bridge", "longer-than-15-bytes"],
            &["--default-shm-size", "-1"],
            &["--default-ulimit", "nofile=2:1"],
            &["--storage-driver", "btrfs"],
            &["--default-cgroupns-mode", "x"],
        ] {
            assert!(config(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_that_can_be() {
        let config = config(&[
            "--bridge=ls0",
            "--bip=10.9.0.1/24",
            "--default-shm-size=128m",
            "--default-ulimit=nofile=1024:4096",
            "--log-opt=max-size=10m",
            "-D",
            "--shutdown-timeout=-1",
            "--icc=false",
        ])
        .unwrap();
        assert_eq!(config.bridge.bip, Some((IpAddr::from([10, 9, 0, 1]), 24)));
        assert_eq!(config.default_shm_size, 128 << 20);
        assert_eq!(config.default_ulimits, [("nofile".into(), 1024, 4096)]);
        assert_eq!(
            config.default_log_options,
            [("max-size".into(), "10m".into())]
        );
        assert_eq!(config.log_level, "debug");
        assert_eq!(config.shutdown_timeout, u64::MAX);
        assert!(!config.bridge.icc);
    }
}
