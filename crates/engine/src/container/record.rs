//! What is stored of a container: its definition (written at create and rename) and its run (written at each change of
//! state), two rows of one table. A row that cannot be read is quarantined; the other containers start.

use std::path::PathBuf;

use longshore_model::{ContainerId, Timestamp, mount::MountSpec, port::PublishedPort};
use longshore_store::{Lease, Store};
use serde::{Deserialize, Serialize};

use super::{
    health::Health,
    networking::Plugged,
    phase::Phase,
    snapshot::{ImageIdentity, MountPoint, Paths, State},
    spec::ContainerSpec,
};

/// The key suffix of a container's run row; its definition's key is the bare id.
pub(crate) const RUN_SUFFIX: &str = ".run";

/// The part of a container that stays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub version: u32,
    pub id: ContainerId,
    pub name: String,
    pub created: Timestamp,
    pub spec: ContainerSpec,
    pub echo: String,
    pub image: ImageIdentity,
    /// Lower layers of the root, topmost first.
    pub layers: Vec<PathBuf>,
    /// Executable and arguments.
    pub command: Vec<String>,
    /// Host name inside, chosen at create.
    pub hostname: String,
    pub mounts: Vec<ResolvedMount>,
    pub paths: Paths,
}

impl Definition {
    /// Leases on the images that are mounted.
    pub(crate) fn mounted_images(&self, store: &Store) -> Vec<Lease> {
        let images = self.mounts.iter().filter_map(|mount| mount.image.as_ref());
        images
            .filter_map(|image| Lease::take(store, &image.id))
            .collect()
    }
}

/// A mount with its volume named and made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ResolvedMount {
    pub spec: MountSpec,
    pub point: MountPoint,
    /// A volume made for this container alone: goes with it on `rm -v` or `--rm`.
    pub anonymous: bool,
    /// Of an image that is mounted: which one, and its layers, topmost first.
    #[serde(default)]
    pub image: Option<MountedImage>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MountedImage {
    pub id: String,
    pub layers: Vec<PathBuf>,
}

/// The part that changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub state: State,
    /// How often it was started.
    #[serde(default)]
    pub starts: u64,
    /// How often a run has ended.
    #[serde(default)]
    pub exits: u64,
    #[serde(default)]
    pub restart_count: u32,
    /// The user stopped it: a restart policy leaves it alone.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// How often its shim has told of a want of memory in this run.
    #[serde(default)]
    pub ooms: u64,
    #[serde(default)]
    pub health: Option<Health>,
    /// New limits are recorded and on their way to the kernel.
    #[serde(default)]
    pub updating: bool,
    /// What the run is on, in the order of connection.
    #[serde(default)]
    pub endpoints: Vec<Plugged>,
    /// As `endpoints` was stored when there was only the default bridge.
    #[serde(default, skip_serializing)]
    pub endpoint: Option<longshore_network::Endpoint>,
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    #[serde(default)]
    pub sandbox_id: String,
    /// It ran once: the networks show their id (dockerd fills it at the first start).
    #[serde(default)]
    pub networked: bool,
    /// It was renamed while on a network: only then dockerd shows DNS names on the default bridge.
    #[serde(default)]
    pub renamed: bool,
}

impl RunRecord {
    pub(crate) fn new() -> Self {
        Self {
            state: State {
                phase: Phase::Created,
                exit_code: 0,
                oom_killed: false,
                error: String::new(),
                started_at: Timestamp(0),
                finished_at: Timestamp(0),
            },
            starts: 0,
            exits: 0,
            restart_count: 0,
            stopped_by_user: false,
            ooms: 0,
            health: None,
            updating: false,
            endpoints: Vec::new(),
            endpoint: None,
            ports: Vec::new(),
            sandbox_id: String::new(),
            networked: false,
            renamed: false,
        }
    }
}
