//! Further processes in a running container.

use std::os::fd::BorrowedFd;

use crate::{
    parent::{LaunchedProcess, StdioFds},
    plan::{LaunchFailure, ProcessPlan},
};

/// The container that a process joins.
#[derive(Clone, Copy, Debug)]
pub struct ExecTarget<'a> {
    /// Its first process.
    pub pid: i32,
    pub pidfd: BorrowedFd<'a>,
    /// `CgroupPlan::path`.
    pub cgroup_path: &'a str,
}

/// Runs one more process inside the container's namespaces and cgroups. Blocks until the exec has succeeded or failed.
///
/// # Errors
/// As for [`crate::parent::launch`], without the prefix `error during container init: `.
pub fn exec_in(
    target: &ExecTarget<'_>,
    process: &ProcessPlan,
    stdio: StdioFds,
) -> Result<LaunchedProcess, LaunchFailure> {
    let _ = (target, process, stdio);
    Err(LaunchFailure::system("exec", rustix::io::Errno::NOSYS))
}
