//! What everybody else sees of a container: an immutable value, replaced as a whole by its actor. Reading one never waits.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use longshore_model::{ContainerId, Timestamp, port::PublishedPort};

use serde::{Deserialize, Serialize};

use super::{health::Health, phase::Phase, spec::ContainerSpec};

/// A container at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: ContainerId,
    /// Without the slash.
    pub name: String,
    pub created: Timestamp,
    pub spec: Arc<ContainerSpec>,
    /// The accepted create request, wire's to read: inspect is a mirror (invariant 6).
    pub echo: Arc<str>,
    pub image: ImageIdentity,
    /// Executable and its arguments (`Path`, `Args`).
    pub command: Vec<String>,
    pub state: State,
    /// What it is mounted with, volumes named.
    pub mounts: Vec<MountPoint>,
    /// By network name. Before the first start: the wanted networks with empty fields.
    pub networks: BTreeMap<String, EndpointState>,
    /// Live port mappings; empty when not running.
    pub ports: Vec<PublishedPort>,
    /// 64 hex digits while running, else empty.
    pub sandbox_id: String,
    pub sandbox_key: String,
    pub hostname: String,
    pub restart_count: u32,
    /// Ids of execs that run.
    pub exec_ids: Vec<String>,
    pub paths: Paths,
    /// How often it was started.
    pub run: u64,
    /// How often a run has ended: lets a waiter tell the next exit from the last.
    pub exits: u64,
    /// From the first start on, where there is a health check.
    pub health: Option<Arc<Health>>,
    /// The container is gone; this is its last snapshot.
    pub removed: bool,
}

/// Which image a container was made from; survives the image's removal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageIdentity {
    /// `sha256:...`: the image id in list and inspect.
    pub id: String,
    pub manifest_media_type: String,
    pub manifest_digest: String,
    pub manifest_size: u64,
    pub architecture: String,
    pub os: String,
    pub variant: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Paths {
    /// The log as inspect shows it: json-file's only.
    pub log: String,
    /// What `docker logs` reads; empty when nothing is kept.
    #[serde(default)]
    pub kept: String,
    pub hosts: String,
    pub hostname: String,
    pub resolv_conf: String,
}

/// The part of a container that changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Why the last start failed, or empty.
    pub error: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

impl State {
    pub fn running(&self) -> bool {
        self.phase.is_running()
    }
    /// Pid of the first process in the host's pid namespace, 0 when not running.
    pub fn pid(&self) -> i32 {
        self.phase.pid()
    }
}

/// One mount of a container as inspect shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`
    pub kind: String,
    /// Volume name.
    pub name: String,
    pub source: String,
    pub destination: String,
    pub driver: String,
    pub mode: String,
    pub rw: bool,
    pub propagation: String,
    /// The folder of the volume or image that is mounted; empty: all of it. Not in inspect.
    #[serde(default)]
    pub subpath: String,
}

impl MountPoint {
    /// `--tmpfs` mounts are not in inspect's `Mounts` (they are in `HostConfig.Tmpfs`); they have no kind here.
    pub fn shown(&self) -> bool {
        !self.kind.is_empty()
    }
}

/// A container's place on a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EndpointState {
    pub network_id: String,
    pub endpoint_id: String,
    pub gateway: Option<IpAddr>,
    pub ip_address: Option<IpAddr>,
    pub ip_prefix: u8,
    /// `aa:bb:cc:dd:ee:ff` or empty.
    pub mac_address: String,
    pub ipv6_gateway: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub ipv6_prefix: u8,
    pub aliases: Vec<String>,
    pub dns_names: Vec<String>,
    pub links: Vec<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub gw_priority: i64,
    /// The request of a later connect, wire's to read; empty for what create asked for.
    pub echo: String,
}
