//! A mount that a user asked for, in one shape for `-v`, `--mount`, `--tmpfs` and image volumes.

use serde::{Deserialize, Serialize};

/// Where the content of a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host. `create`: make a directory when it is missing (`-v` does, `--mount` refuses).
    Bind { path: String, create: bool },
    /// A named volume, or an anonymous one when `name` is empty (the engine then chooses 64 hex digits).
    Volume {
        name: String,
        driver: String,
        options: std::collections::BTreeMap<String, String>,
        labels: std::collections::BTreeMap<String, String>,
        no_copy: bool,
        subpath: String,
    },
    /// An image's files, read-only; `subpath` inside them (empty: all).
    Image { reference: String, subpath: String },
    /// A tmpfs. Size in bytes (0: the kernel's default), mode bits (None: 01777), further mount options as given.
    Tmpfs {
        size: u64,
        mode: Option<u32>,
        options: String,
    },
}

/// A mount as requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    pub source: MountSource,
    /// Absolute path inside the container.
    pub target: String,
    pub read_only: bool,
    /// `rprivate`, `private`, `rshared`, `shared`, `rslave`, `slave` or empty for the default (rprivate).
    pub propagation: String,
    /// The mode text of `-v src:dst:MODE` as given ("" for --mount): echoed in inspect's `Mounts[].Mode`.
    pub mode: String,
    /// False for `bind-nonrecursive`.
    pub recursive: bool,
    /// Read-only mounts below it too (`bind-recursive=readonly`; Docker >= 25 makes ro binds recursive where it can).
    pub read_only_recursive: ReadOnlyRecursive,
    /// Came from `HostConfig.Mounts` (not `Binds`): missing sources are refused.
    pub from_mounts: bool,
}

/// How far read-only reaches below a bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadOnlyRecursive {
    /// Try, fall back to the top mount only.
    #[default]
    IfPossible,
    No,
    Force,
}
