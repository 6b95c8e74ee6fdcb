//! What a container is asked to be, in the engine's own terms. Written once at create (merged with its image's
//! configuration), stored, never edited but by rename and update.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use longshore_model::mount::MountSpec;
pub use longshore_shim::protocol::Resources;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the client named it.
    pub image: String,
    pub process: ProcessSpec,
    /// Empty: the short id (or the host's, or the joined container's).
    pub hostname: String,
    pub domainname: String,
    pub labels: BTreeMap<String, String>,
    /// `80/tcp`
    pub exposed_ports: BTreeSet<String>,
    /// Targets of anonymous volumes (`Config.Volumes`, image VOLUMEs).
    pub anonymous_volumes: BTreeSet<String>,
    /// As given or from the image. Durations in nanoseconds.
    pub healthcheck: Option<Healthcheck>,
    /// Runs `CMD-SHELL` checks; empty: `/bin/sh -c`.
    pub shell: Vec<String>,
    pub stop_signal: String,
    /// Seconds; None: 10.
    pub stop_timeout: Option<i64>,
    pub mounts: Vec<MountSpec>,
    /// (container name or id, "ro" | "rw" | "")
    pub volumes_from: Vec<(String, String)>,
    pub network: NetworkSpec,
    /// `""`/`private`, `host`, `container:<x>`
    pub pid_mode: Mode,
    pub ipc_mode: IpcMode,
    pub uts_host: bool,
    /// `Some(true)` = private, `Some(false)` = host, None = the daemon's default (private on v2, host on v1).
    pub cgroupns_private: Option<bool>,
    pub security: SecuritySpec,
    pub resources: Resources,
    /// Host devices: (path on host, path in container, cgroup permissions).
    pub devices: Vec<(String, String, String)>,
    pub device_cgroup_rules: Vec<String>,
    pub cgroup_parent: String,
    /// (name such as `nofile`, soft, hard)
    pub ulimits: Vec<(String, i64, i64)>,
    pub oom_score_adj: i32,
    pub sysctls: BTreeMap<String, String>,
    /// Bytes; 0: the daemon's default (64 MiB).
    pub shm_size: u64,
    pub init: Option<bool>,
    pub auto_remove: bool,
    pub restart: RestartPolicy,
    pub log: LogSpec,
    pub runtime: String,
    pub annotations: BTreeMap<String, String>,
    /// `linux`, or `linux/amd64` as asked by `?platform=`.
    pub platform: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessSpec {
    /// None: the image's. `Some(vec![])` or `Some(vec![""])`: cleared by the client.
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    /// Rows, columns (`HostConfig.ConsoleSize` is [height, width]); 0 when not known.
    pub console_size: (u16, u16),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Private,
    Host,
    Container(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    #[default]
    Private,
    Shareable,
    Host,
    Container(String),
    /// No /dev/shm at all.
    None,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// `default` and `bridge`.
    #[default]
    Bridge,
    Host,
    None,
    Container(String),
    /// A user-defined network.
    Named(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    pub mode: NetworkMode,
    /// By network name as given (`default` folded to `bridge`).
    pub endpoints: BTreeMap<String, EndpointSpec>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// `name:address` as given.
    pub extra_hosts: Vec<String>,
    /// `container:alias` as given.
    pub links: Vec<String>,
    pub port_bindings: Vec<PortBindingSpec>,
    pub publish_all: bool,
    pub disabled: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    pub ipv4_address: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub mac_address: Option<[u8; 6]>,
    pub aliases: Vec<String>,
    pub links: Vec<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub gw_priority: i64,
    /// The network's id when the container was created or connected; empty in records of old.
    pub network_id: String,
    /// By `network connect`: its names and network are known before the first start.
    pub connected: bool,
    /// The request as wire wants it back in [`super::snapshot::EndpointState::echo`]; empty where create's own echo has it.
    pub echo: String,
}

/// One entry of `HostConfig.PortBindings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBindingSpec {
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`
    pub protocol: String,
    pub host_ip: Option<IpAddr>,
    /// 0: ephemeral. A range takes the first free port of it.
    pub host_port: u16,
    pub host_port_end: u16,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecuritySpec {
    pub privileged: bool,
    /// Upper case with `CAP_`; `ALL` possible.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub no_new_privileges: Option<bool>,
    pub seccomp: SeccompSpec,
    pub read_only_rootfs: bool,
    /// None: Docker's list. Privileged containers have none.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub group_add: Vec<String>,
    pub userns_mode: String,
    /// `apparmor=<profile>` as given; empty: the default, `unconfined`: none.
    pub apparmor: String,
    /// `writable-cgroups=`: /sys/fs/cgroup is mounted writable.
    pub writable_cgroups: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompSpec {
    #[default]
    Default,
    Unconfined,
    /// A profile in Docker's JSON.
    Profile(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`; empty as given means no.
    pub name: String,
    pub maximum_retry_count: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// Empty: the daemon's default.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// A health check is configured (and not switched off with `NONE`).
    pub fn has_health(&self) -> bool {
        self.healthcheck
            .as_ref()
            .is_some_and(|check| super::health::command(check, &self.shell).is_some())
    }
}
