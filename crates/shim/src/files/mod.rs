//! Files in and out of containers: stat, archives both ways, export, diff. Each request is carried out by a process of its
//! own that the zygote forks: it enters or makes mount namespaces, reads and writes what a container may change under its
//! hands, and can be killed when a file system of the container does not answer.
//!
//! | daemon sends | helper answers | data |
//! |---|---|---|
//! | `Stat` | `Stat` | |
//! | `Pack` + pipe to write | `Stat`, then `Done` when the archive is whole | tar into the pipe |
//! | `Export` + pipe to write | `Ready`, then `Done` | tar into the pipe |
//! | `Unpack` + pipe to read | `Done` | tar from the pipe, packed or not |
//! | `Changes` | `Changes` as often as needed, then `Done` | |
//!
//! `Hello` with the helper's pidfd comes first, `Failed` ends any exchange. The request is postcard (always the same
//! binary), answers are JSON in frames.

mod changes;
pub mod client;
mod extract;
mod helper;
mod pack;
mod tree;

use std::path::PathBuf;

pub use client::FilesClient;
pub(crate) use helper::helper_main;
pub use longshore_launcher::view::ViewPlan;
use serde::{Deserialize, Serialize};

/// What a helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct FilesRequest {
    pub view: ViewPlan,
    pub work: Work,
}

/// Paths are the container's, as the client gave them: relative ones begin at the root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    Stat {
        path: String,
    },
    Pack {
        path: String,
    },
    Unpack {
        path: String,
        /// Neither a directory takes the place of something else, nor the other way round.
        keep_kinds: bool,
        /// What is made belongs to this user of the container instead of the archive's owners; empty keeps those.
        owner: String,
        /// The container's root may not be written to (mounts below it may).
        read_only_root: bool,
    },
    Export,
    Changes {
        /// The container's own layer.
        upper: PathBuf,
        /// Topmost first.
        lower: Vec<PathBuf>,
    },
}

/// What a helper says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The first word; it carries the helper's pidfd.
    Hello,
    Stat(PathStat),
    /// The container's root is open.
    Ready,
    Changes(Vec<Change>),
    Done,
    Failed(Failure),
}

/// One file as `X-Docker-Container-Path-Stat` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Last part of the path asked for.
    pub name: String,
    pub size: i64,
    /// As stat(2) has it.
    pub mode: u32,
    /// Seconds and nanoseconds since the epoch.
    pub modified: (i64, u32),
    /// For a symbolic link: where it leads, as a path in the container; else empty.
    pub link_target: String,
}

/// How a path differs from the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub path: String,
    pub kind: ChangeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The path asked for is not there.
    NotFound,
    /// The request's fault.
    Invalid,
    /// Something failed.
    System,
    /// The root of a running container could not be opened: most likely it has just ended.
    Gone,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}
