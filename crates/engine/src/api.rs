//! Requests and answers of the engine, one shape for every client version. `wire` turns HTTP into these.

use std::collections::BTreeMap;

use longshore_model::{Event, Timestamp};

pub use crate::container::{
    Change, Updated,
    archive::{ArchiveStream, ChangeKind, FileChange, PathStat, UnpackRequest},
    health::{Health, HealthResult, HealthStatus},
    phase::Phase,
    snapshot::{EndpointState, ImageIdentity, MountPoint, Snapshot, State},
    spec::*,
};

/// `POST /containers/create`.
pub struct CreateRequest {
    /// `?name=`, empty for a generated one; a leading slash is allowed.
    pub name: String,
    pub spec: ContainerSpec,
    /// The accepted request as wire wants it back in [`Snapshot::echo`].
    pub echo: String,
}

pub struct Created {
    pub id: String,
    pub warnings: Vec<String>,
}

/// `?condition=` of wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    NotRunning,
    NextExit,
    Removed,
}

/// How a wait ended.
#[derive(Clone, Debug)]
pub struct WaitResult {
    pub exit_code: i64,
    /// `Error.Message`, for a container that could not be started or removed.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct AttachRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Play the log first.
    pub logs: bool,
    /// Go on with live output.
    pub stream: bool,
    /// The detach sequence as raw bytes, default ctrl-p ctrl-q; only looked for with a tty.
    pub detach_keys: Vec<u8>,
}

/// A client's end of a container's or an exec's stdio: a stream socket to the shim.
/// Reads give multiplexed frames (no tty) or raw bytes (tty) until the process has ended *and* its exit is recorded and
/// visible; writes go to stdin, shutdown of the write side is its end.
pub struct StdioStream {
    pub socket: Option<tokio::net::UnixStream>,
    pub tty: bool,
    /// Frames of the log to send before the live stream, already multiplexed (empty unless asked).
    pub replay: Vec<u8>,
    /// Waited for after the end of the socket, before the client's stream ends: resolves when the exit is visible.
    pub settled: Option<tokio::sync::oneshot::Receiver<()>>,
}

/// `GET /containers/{id}/logs`.
#[derive(Clone, Debug, Default)]
pub struct LogsRequest {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// None: all.
    pub tail: Option<u64>,
    /// Nanoseconds since the epoch.
    pub since: Option<i64>,
    pub until: Option<i64>,
}

/// One line of a container's log.
#[derive(Clone, Debug)]
pub struct LogLine {
    pub stderr: bool,
    pub time: Timestamp,
    /// With its end of line, if it has one.
    pub line: Vec<u8>,
    /// `details=1`: from the labels/env log options.
    pub attrs: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub struct RemoveRequest {
    pub force: bool,
    /// Anonymous volumes go too.
    pub volumes: bool,
    /// Remove the link (`name` is `/parent/alias`), not the container.
    pub link: bool,
}

pub struct TopResult {
    pub titles: Vec<String>,
    pub processes: Vec<Vec<String>>,
}

pub struct PruneReport {
    pub deleted: Vec<String>,
    pub space_reclaimed: u64,
}

/// `POST /containers/{id}/exec`.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub privileged: bool,
    pub tty: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub detach_keys: String,
    /// Rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// An exec as inspect shows it.
#[derive(Clone, Debug)]
pub struct ExecSnapshot {
    pub id: String,
    pub container_id: String,
    pub spec: ExecSpec,
    pub running: bool,
    /// None before it has ended.
    pub exit_code: Option<i32>,
    pub pid: i32,
}

/// Filters as the client gave them: name -> values. `wire` has checked names against the endpoint's list.
pub type Filters = BTreeMap<String, Vec<String>>;

/// Which events a subscriber wants.
#[derive(Clone, Debug, Default)]
pub struct EventsRequest {
    /// Nanoseconds since the epoch.
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub filters: Filters,
}

/// A subscription: the backlog first, then live events with no gap and no repetition. Ends (None) at `until`, at
/// daemon shutdown, or when this reader fell hopelessly behind (bounded buffer).
pub struct EventStream {
    pub backlog: std::vec::IntoIter<Event>,
    pub live: Option<tokio::sync::mpsc::Receiver<Event>>,
    pub until: Option<i64>,
}

/// One image in a list.
#[derive(Clone, Debug, Default)]
pub struct ImageSummary {
    pub id: String,
    /// The image that it was made from here; empty for one that came from elsewhere.
    pub parent: String,
    pub created: Timestamp,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// It has no name at all, not even one with a digest.
    pub nameless: bool,
    pub labels: BTreeMap<String, String>,
    /// Bytes: blobs plus unpacked layers, as dockerd with the containerd store counts.
    pub size: u64,
    /// Bytes of what other images have as well; -1: not counted.
    pub shared_size: i64,
    /// What the name stands for: the manifest, or the index of several.
    pub target: ImageTarget,
    /// Empty unless asked for.
    pub manifests: Vec<ManifestSummary>,
}

/// A pointer to content, in OCI's words.
#[derive(Clone, Debug, Default)]
pub struct ImageTarget {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub annotations: BTreeMap<String, String>,
    pub platform: Option<ImagePlatform>,
}

#[derive(Clone, Debug, Default)]
pub struct ImagePlatform {
    pub architecture: String,
    pub os: String,
    pub os_version: String,
    pub variant: String,
}

/// One manifest of an image.
#[derive(Clone, Debug, Default)]
pub struct ManifestSummary {
    pub target: ImageTarget,
    /// Its content is here.
    pub available: bool,
    /// Bytes of its blobs.
    pub content_size: u64,
    pub kind: ManifestKind,
}

#[derive(Clone, Debug, Default)]
pub enum ManifestKind {
    Image {
        platform: ImagePlatform,
        /// Bytes of its unpacked layers.
        unpacked_size: u64,
        /// Ids of the containers that run it.
        containers: Vec<String>,
    },
    /// A statement about another manifest, by its digest.
    Attestation { about: String },
    #[default]
    Unknown,
}

/// How to list images.
#[derive(Clone, Debug, Default)]
pub struct ImageQuery {
    /// Also those without a name that others were made from.
    pub all: bool,
    pub filters: Filters,
    pub manifests: bool,
    pub shared_size: bool,
}

/// Everything about one image.
#[derive(Clone, Debug, Default)]
pub struct ImageDetail {
    pub summary: ImageSummary,
    /// The image's configuration blob as it is (OCI/Docker image config).
    pub config: serde_json::Value,
    /// `sha256:` diff ids, base first.
    pub diff_ids: Vec<String>,
    pub last_tagged: Option<Timestamp>,
}

/// Which statements about an image to give.
#[derive(Clone, Debug, Default)]
pub struct AttestationQuery {
    /// `os/arch[/variant]`
    pub platform: Option<String>,
    /// Predicate types; empty: all.
    pub types: Vec<String>,
    /// With their content.
    pub statement: bool,
}

/// An in-toto statement about an image.
#[derive(Clone, Debug, Default)]
pub struct Attestation {
    pub target: ImageTarget,
    pub predicate_type: String,
    pub statement: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default)]
pub struct HistoryEntry {
    pub id: String,
    pub created: Timestamp,
    pub created_by: String,
    pub tags: Vec<String>,
    pub size: u64,
    pub comment: String,
}

/// A line of `DELETE /images/{name}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageDeleted {
    Untagged(String),
    Deleted(String),
}

/// A network as list and inspect show it.
#[derive(Clone, Debug, Default)]
pub struct NetworkDetail {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    /// `bridge`, `host`, `null`
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub ipam_driver: String,
    pub ipam: Vec<IpamPool>,
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Running containers on it.
    pub containers: BTreeMap<String, NetworkMember>,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct IpamPool {
    pub subnet: String,
    pub gateway: String,
    pub ip_range: String,
    pub aux: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub struct NetworkMember {
    pub name: String,
    pub endpoint_id: String,
    pub mac_address: String,
    /// `172.17.0.2/16`
    pub ipv4_address: String,
    pub ipv6_address: String,
}

/// A volume.
#[derive(Clone, Debug, Default)]
pub struct VolumeDetail {
    pub name: String,
    pub driver: String,
    pub mountpoint: String,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub anonymous: bool,
    /// Containers that use it; -1 when not counted.
    pub ref_count: i64,
    /// Bytes; -1 when not counted.
    pub size: i64,
}

#[derive(Clone, Debug, Default)]
pub struct VolumeCreate {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// Numbers for `/info`.
#[derive(Clone, Debug, Default)]
pub struct SystemInfo {
    /// Stable for a data root (uuid form).
    pub id: String,
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
    pub images: usize,
    pub cgroup_version: u8,
    pub event_listeners: usize,
    pub memory_total: u64,
    pub cpus: usize,
    pub kernel_version: String,
    pub operating_system: String,
    pub os_version: String,
    pub hostname: String,
    pub ipv4_forwarding: bool,
    pub file_descriptors: usize,
    pub data_root: String,
    /// v1 controllers, v2 features present.
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpuset: bool,
    pub pids_limit: bool,
    pub oom_kill_disable: bool,
}

/// What `/system/df` counts.
#[derive(Default)]
pub struct DiskUsage {
    /// Bytes of all unpacked layers, each counted once.
    pub layers_size: u64,
    pub images: Vec<ImageSummary>,
    /// id -> (bytes of the writable layer, bytes of the whole root)
    pub container_sizes: BTreeMap<String, (u64, u64)>,
    pub volumes: Vec<VolumeDetail>,
}
