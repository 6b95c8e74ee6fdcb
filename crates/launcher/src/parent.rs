//! The launching side: runs in the shim, outside the container.

use std::os::fd::OwnedFd;

use crate::{
    cgroup::Cgroup,
    plan::{LaunchFailure, LaunchPlan},
};

/// The container's ends of its standard streams. `None` is /dev/null. Ignored when the process has a terminal.
/// The launcher gives pipes to the container's user, so that /dev/stdout can be opened again by a non-root process.
#[derive(Debug, Default)]
pub struct StdioFds {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// A process that has been executed: the first of a container or an exec.
#[derive(Debug)]
pub struct LaunchedProcess {
    /// In the caller's pid namespace. Always the caller's own child: it reaps it.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Field 22 of /proc/pid/stat: tells the process from a later one of the same pid.
    pub start_time: u64,
    /// The master of its terminal, close-on-exec, when the process asked for one.
    pub terminal: Option<OwnedFd>,
}

/// A running container.
#[derive(Debug)]
pub struct Launched {
    pub process: LaunchedProcess,
    /// Holds the mounts alive after the last process has gone, so that their release is off the exit path.
    pub mnt_ns: OwnedFd,
    /// Removed by the caller after the end: [`Cgroup::remove`].
    pub cgroup: Cgroup,
}

/// Makes the container and executes its process. Blocks until the exec has succeeded or failed; whatever was made is taken away again on
/// failure, except interfaces, which go with their namespace.
///
/// # Errors
/// [`LaunchFailure`] with the text that follows `unable to start container process: ` in Docker's messages; for
/// `Invalid` the whole text.
pub fn launch(plan: &LaunchPlan, stdio: StdioFds) -> Result<Launched, LaunchFailure> {
    let _ = (plan, stdio);
    Err(LaunchFailure::system("launch", rustix::io::Errno::NOSYS))
}
