//! Everything the launcher needs to know to make one container: data only, no look-ups left to do on the host.
//! The engine builds it, the shim carries it out in its own process, then drops it.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// One container, ready to be launched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// 64 hex digits.
    pub id: String,
    pub rootfs: RootfsPlan,
    /// In the order in which they are mounted, after /proc, /dev, /sys and the like.
    pub mounts: Vec<MountPlan>,
    pub namespaces: NamespacePlan,
    /// Set in the uts namespace when it is new.
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Interfaces to make when the network namespace is new. `lo` always comes up.
    pub interfaces: Vec<InterfacePlan>,
    /// Set where the engine's name server serves a new network namespace.
    #[serde(default)]
    pub resolver: Option<ResolverPlan>,
    /// `name=value`, written under /proc/sys of the new namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Absolute paths in the container; missing ones are passed over.
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub devices: DevicePlan,
    /// Bytes for /dev/shm when the ipc namespace is new (`private`, `shareable`).
    pub shm_size: u64,
    /// `ipc=none`: no /dev/shm at all.
    #[serde(default)]
    pub no_shm: bool,
    /// /sys/fs/cgroup may be written to, although the container is not privileged.
    #[serde(default)]
    pub writable_cgroups: bool,
    pub cgroup: CgroupPlan,
    pub process: ProcessPlan,
    /// Our init is pid 1 and runs the process as its child; it shows itself as `/sbin/docker-init`.
    pub init: bool,
    pub privileged: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootfsPlan {
    /// Directories of the read-only layers, topmost first; never empty.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub read_only: bool,
    /// Propagation of the root mount: false = rprivate/rslave as Docker does; true when a bind asks for shared or slave.
    pub shared_propagation: bool,
}

/// One mount besides the standard ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path in the container; resolved inside the root with openat2. Missing directories (or, for a file, the file) are made.
    pub target: String,
    pub kind: MountKind,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of the host, opened before pivot_root.
    Bind {
        source: PathBuf,
        recursive: bool,
        /// Read-only for mounts below as well: `Some(true)` must, `None` may (falls back silently), `Some(false)` only the top.
        read_only_recursive: Option<bool>,
        /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; empty means rprivate.
        propagation: String,
        /// For volumes: copy what the image holds at `target` into the (empty) source first. Owner, mode and times too.
        copy_up: bool,
    },
    /// `data` are further options of tmpfs(5) such as `size=`, `mode=`, `uid=`; flags are exec, dev, suid as told.
    Tmpfs {
        data: Vec<(String, String)>,
        flags: Vec<String>,
    },
    /// Layers of an image, topmost first, always read-only; or what lies at `subpath` in them (empty: all).
    Image {
        layers: Vec<PathBuf>,
        subpath: String,
    },
}

/// Where a container's name server listens, over UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverPlan {
    pub address: Ipv4Addr,
    pub port: u16,
    /// nf_tables messages, one transaction, that lead port 53 of the address to `port`.
    pub rules: Vec<u8>,
}

/// One namespace of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    New,
    Host,
    /// Of this process, pinned by its start time (field 22 of /proc/pid/stat) against pid reuse.
    JoinPid {
        pid: i32,
        start_time: u64,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamespacePlan {
    pub pid: NamespaceMode,
    pub net: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts: NamespaceMode,
    /// `New` is Docker's `private`.
    pub cgroup: NamespaceMode,
    /// The host's /dev/shm directory to bind when ipc is shared with the host; None makes a new tmpfs. When ipc is joined,
    /// the other container's /dev/shm is taken, whatever the path says.
    pub shm_from: Option<PathBuf>,
}

/// A veth pair: one end on a bridge of the host, the other born inside the container. Or, if it is `stacked`, one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfacePlan {
    /// Name of the host end (at most 15 bytes).
    pub host_name: String,
    /// ifindex of the bridge it joins.
    pub bridge_index: u32,
    /// Name inside, `eth0`.
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, at most one a family; the unspecified address stands for a route without a gateway.
    pub gateways: Vec<IpAddr>,
    /// False: no IPv6 on this interface at all (`disable_ipv6`).
    pub ipv6: bool,
    /// The host end's port in the bridge is isolated from other isolated ports (icc=false).
    pub isolated: bool,
    /// No veth pair and no host end: a link on top of one of the host's.
    #[serde(default)]
    pub stacked: Option<StackedPlan>,
}

/// A macvlan or ipvlan link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackedPlan {
    /// `macvlan`, `ipvlan`
    pub kind: String,
    /// The kernel's number of the mode.
    pub mode: u32,
    /// ipvlan only.
    pub flags: u16,
    /// ifindex of the host's link.
    pub parent: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Every device node of the host's /dev (privileged).
    pub all: bool,
    pub nodes: Vec<DeviceNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path in the container, below /dev as a rule.
    pub path: String,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits, owner.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Path below the mount of each hierarchy, without leading slash: `docker/<id>`.
    pub path: String,
    pub resources: Resources,
    /// Rules in the form of devices.allow (`c 1:3 rwm`), after "deny all"; `allow_all_devices` for privileged.
    pub device_rules: Vec<String>,
    pub allow_all_devices: bool,
}

/// Limits; 0 / None / empty means not set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// cpu.shares (2 to 262144); converted to weight on v2.
    pub cpu_shares: u64,
    /// Microseconds.
    pub cpu_quota: i64,
    pub cpu_period: u64,
    pub cpu_rt_runtime: i64,
    pub cpu_rt_period: u64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Bytes. `memory_swap` is memory plus swap, -1 unlimited.
    pub memory: i64,
    pub memory_swap: i64,
    pub memory_reservation: i64,
    pub swappiness: Option<u64>,
    pub oom_kill_disable: bool,
    /// 0 not set, -1 unlimited.
    pub pids_limit: i64,
    pub blkio_weight: u16,
    /// (major, minor, value)
    pub blkio_weight_device: Vec<(u32, u32, u64)>,
    pub blkio_read_bps: Vec<(u32, u32, u64)>,
    pub blkio_write_bps: Vec<(u32, u32, u64)>,
    pub blkio_read_iops: Vec<(u32, u32, u64)>,
    pub blkio_write_iops: Vec<(u32, u32, u64)>,
}

/// A process to run in a container: its first one, or an exec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Never empty; args[0] is looked up in PATH of `env` inside the root.
    pub args: Vec<String>,
    /// `NAME=value`; HOME is added from passwd when missing, TERM is the engine's matter.
    pub env: Vec<String>,
    /// Made when missing (first process only). Empty: `/`.
    pub cwd: String,
    /// As given (`root`, `1000:1000`, `nobody:adm`, empty); resolved in the root's /etc/passwd and /etc/group.
    pub user: String,
    /// Names or numbers of further groups (`--group-add`).
    pub additional_groups: Vec<String>,
    /// Bit masks over capability numbers.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    /// Compiled seccomp filter: `struct sock_filter` array in native byte order. None: unconfined.
    pub seccomp: Option<Vec<u8>>,
    /// (RLIMIT_* number, soft, hard); u64::MAX is infinity.
    pub rlimits: Vec<(u32, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    pub terminal: bool,
    /// Rows, columns of the terminal at birth.
    pub console_size: Option<(u16, u16)>,
    /// False: stdin is /dev/null.
    pub stdin: bool,
}

/// Why a launch failed: the kind steers the exit code, the text is what follows
/// `unable to start container process: ` in Docker's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFailure {
    pub kind: LaunchFailureKind,
    /// As runc words it, for example
    /// `error during container init: exec: "nosuch": executable file not found in $PATH`.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchFailureKind {
    /// exit code 127
    NotFound,
    /// exit code 126: permission denied, is a directory, exec format error
    NotExecutable,
    /// exit code 125 + the user's fault (400): unknown user, bad cwd, bad mount
    Invalid,
    /// exit code 128: the engine's fault (500)
    System,
    /// exit code 128: the log cannot be opened (500); the whole text
    Log,
}
