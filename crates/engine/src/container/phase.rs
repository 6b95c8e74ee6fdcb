//! The states of a container, each with the data that exists only in it, and what is allowed in each.
//! Pure: no I/O, so that the rules can be tested as a table.

use longshore_model::{Error, Result};
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
    /// Ended; its restart policy brings it back after a pause. Dockerd counts it among the running ones.
    Restarting,
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
            Self::Created
            | Self::Starting
            | Self::Restarting
            | Self::Exited
            | Self::Removing
            | Self::Dead => 0,
        }
    }
    /// Running, or about to run again.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Restarting)
    }
    /// Docker's word in `State.Status`.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Created | Self::Starting => "created",
            Self::Running { paused: false, .. } => "running",
            Self::Running { paused: true, .. } => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// May a run begin now? `NotModified` when it already runs.
    pub(crate) fn may_start(&self) -> Result<()> {
        match self {
            Self::Created | Self::Exited => Ok(()),
            Self::Running { paused: true, .. } => Err(Error::conflict(
                "cannot start a paused container, try unpause instead",
            )),
            Self::Starting | Self::Restarting | Self::Running { paused: false, .. } => {
                Err(Error::not_modified())
            }
            Self::Removing | Self::Dead => Err(Error::conflict(
                "container is marked for removal and cannot be started",
            )),
        }
    }

    /// May it be frozen now? `id` is for the text.
    pub(crate) fn may_pause(&self, id: &str) -> Result<()> {
        match self {
            Self::Running { paused: false, .. } => Ok(()),
            Self::Running { paused: true, .. } => {
                Err(Error::conflict(format!("container {id} is already paused")))
            }
            Self::Restarting => Err(Error::conflict(format!(
                "container {id} is restarting, wait until the container is running"
            ))),
            Self::Created | Self::Starting | Self::Exited | Self::Removing | Self::Dead => {
                Err(Error::conflict(format!("container {id} is not running")))
            }
        }
    }

    /// May it be removed now? `id` and `given` are for the text.
    pub(crate) fn may_remove(&self, id: &str, given: &str, force: bool) -> Result<()> {
        match self {
            Self::Created | Self::Exited | Self::Dead => Ok(()),
            Self::Starting | Self::Restarting | Self::Running { .. } if force => Ok(()),
            Self::Restarting => Err(Error::conflict(format!(
                "cannot remove container \"{id}\": container is restarting: stop the container before removing or force \
                 remove"
            ))),
            Self::Running { paused: true, .. } => Err(Error::conflict(format!(
                "cannot remove container \"{id}\": container is paused and must be unpaused first"
            ))),
            Self::Starting | Self::Running { .. } => Err(Error::conflict(format!(
                "cannot remove container \"{id}\": container is running: stop the container before removing or force \
                 remove"
            ))),
            Self::Removing => Err(Error::conflict(format!(
                "removal of container {given} is already in progress"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::ErrorKind;

    use super::Phase;

    fn running(paused: bool) -> Phase {
        Phase::Running {
            pid: 7,
            start_time: 1,
            paused,
        }
    }

    #[test]
    fn start_table() {
        for (phase, want) in [
            (Phase::Created, None),
            (Phase::Exited, None),
            (running(false), Some(ErrorKind::NotModified)),
            (running(true), Some(ErrorKind::Conflict)),
            (Phase::Starting, Some(ErrorKind::NotModified)),
            (Phase::Restarting, Some(ErrorKind::NotModified)),
            (Phase::Removing, Some(ErrorKind::Conflict)),
            (Phase::Dead, Some(ErrorKind::Conflict)),
        ] {
            assert_eq!(phase.may_start().err().map(|e| e.kind), want, "{phase:?}");
        }
    }

    #[test]
    fn remove_table() {
        for (phase, force, want) in [
            (Phase::Created, false, true),
            (Phase::Exited, false, true),
            (Phase::Dead, false, true),
            (running(false), false, false),
            (running(false), true, true),
            (running(true), true, true),
            (Phase::Starting, false, false),
            (Phase::Starting, true, true),
            (Phase::Restarting, false, false),
            (Phase::Restarting, true, true),
            (Phase::Removing, true, false),
        ] {
            assert_eq!(
                phase.may_remove("id", "name", force).is_ok(),
                want,
                "{phase:?} force={force}"
            );
        }
    }
}
