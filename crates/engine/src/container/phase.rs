//! The states of a container, each with the data that exists only in it, and what is allowed in each.

use serde::{Deserialize, Serialize};

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Created,
    /// Resources are being made for a run; found at start-up, it is undone.
    Starting,
    Running {
        pid: i32,
        start_time: u64,
        paused: bool,
    },
    Exited,
    /// Being removed; only a repeated removal is allowed.
    Removing,
    /// A removal failed half-way; only removal is allowed.
    Dead,
}

impl Phase {
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
    pub fn pid(&self) -> i32 {
        match self {
            Self::Running { pid, .. } => *pid,
            Self::Created | Self::Starting | Self::Exited | Self::Removing | Self::Dead => 0,
        }
    }
    /// Docker's word in `State.Status`.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Created | Self::Starting => "created",
            Self::Running { paused: false, .. } => "running",
            Self::Running { paused: true, .. } => "paused",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }
}
