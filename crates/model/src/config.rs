//! How a daemon was set up: flags and daemon.json merged, paths decided. Made by the binary, read by engine and wire.

use std::{net::IpAddr, path::PathBuf};

/// One place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Unix(PathBuf),
    Tcp(String),
    /// systemd socket activation; `*` or empty takes all descriptors passed.
    Fd(String),
}

/// What `--bridge`, `--bip` and friends say.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Name of the default bridge's link, `docker0` unless told otherwise. `none` switches the default bridge off.
    pub name: String,
    /// Address and prefix length of the bridge, if given.
    pub bip: Option<(IpAddr, u8)>,
    pub mtu: u32,
    /// Where `-p` without an address binds, `0.0.0.0` and `::` unless given.
    pub default_ip: Option<IpAddr>,
    pub icc: bool,
    pub ip_masquerade: bool,
    pub ip_forward: bool,
}

/// A block of addresses that is cut into subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// Address and prefix length of the block.
    pub base: (IpAddr, u8),
    /// Prefix length of the subnets.
    pub size: u8,
}

/// When images are removed because the disk fills up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageGc {
    /// Percent of the data root's file system in use above which images go.
    pub high: u8,
    /// Percent below which no more go.
    pub low: u8,
    /// Labels (`key` or `key=value`) of images that stay.
    pub keep: Vec<String>,
    /// Images that came, got a name or were used so lately stay.
    pub min_age: std::time::Duration,
}

/// The daemon's configuration.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    pub listen: Vec<Listen>,
    /// Durable state (default `/var/lib/longshore`).
    pub data_root: PathBuf,
    /// State that ends with a reboot (default `/run/longshore`).
    pub exec_root: PathBuf,
    pub pidfile: Option<PathBuf>,
    /// Group that owns the unix socket.
    pub group: String,
    pub debug: bool,
    pub log_level: String,
    pub bridge: BridgeConfig,
    /// Where networks get their subnets from; empty: Docker's own.
    pub default_address_pools: Vec<AddressPool>,
    pub labels: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub default_shm_size: u64,
    pub default_log_driver: String,
    pub default_log_options: Vec<(String, String)>,
    pub default_init: bool,
    pub default_ulimits: Vec<(String, i64, i64)>,
    pub cgroup_parent: String,
    /// Seconds that a stopping daemon waits for its streams.
    pub shutdown_timeout: u64,
    /// Registries reachable by plain HTTP or with unverified certificates.
    pub insecure_registries: Vec<String>,
    pub registry_mirrors: Vec<String>,
    /// Proxies for registries, where they differ from the environment's: for HTTP, for HTTPS, and who is reached directly.
    pub proxies: [Option<String>; 3],
    /// Tries of a download that makes no progress.
    pub max_download_attempts: u32,
    /// Layers that are fetched at the same time, over all pulls.
    pub max_concurrent_downloads: usize,
    /// Layers that one push sends at the same time.
    pub max_concurrent_uploads: usize,
    /// None: images stay until somebody removes them.
    pub image_gc: Option<ImageGc>,
    pub default_cgroupns_mode: Option<String>,
    pub no_new_privileges: bool,
}
