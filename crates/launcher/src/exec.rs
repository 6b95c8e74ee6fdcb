//! Further processes in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use longshore_sys::{
    clone::{CloneOptions, clone_process},
    namespace,
};
use rustix::{
    fs::{Mode, OFlags},
    process::DumpableBehavior,
};

use crate::{
    cgroup::Cgroup,
    channel::{Channel, Word},
    devices,
    failure::Context,
    mounts::IN_ROOT,
    namespaces::PidNamespaceVisit,
    parent::{LaunchedProcess, StdioFds, await_exec},
    plan::{LaunchFailure, ProcessPlan},
    process::{self, Candidate, Streams},
    pty,
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

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Runs one more process inside the container's namespaces and cgroups. Blocks until the exec has succeeded or failed.
///
/// # Errors
/// As for [`crate::parent::launch`], without the prefix `error during container init: `.
pub fn exec_in(
    target: &ExecTarget<'_>,
    process: &ProcessPlan,
    stdio: StdioFds,
) -> Result<LaunchedProcess, LaunchFailure> {
    let cgroup = Cgroup::open(target.cgroup_path);
    let unified = cgroup
        .open_unified()
        .context("open the container's cgroup")?;
    let pid_namespace: OwnedFd = std::fs::File::open(format!("/proc/{}/ns/pid", target.pid))
        .context("open the container's pid namespace")?
        .into();
    if !longshore_sys::process::is_alive(target.pidfd) {
        return Err(LaunchFailure::system(
            "join the container",
            rustix::io::Errno::SRCH,
        ));
    }
    let (ours, theirs) = Channel::pair().context("make the channel to the child")?;
    // What goes over to the child: taken in its copy, closed in ours.
    let mut gifts = Some((stdio, theirs));
    let mut born_in = |group: Option<BorrowedFd<'_>>| {
        let options = CloneOptions {
            namespaces: 0,
            cgroup: group,
            close_in_child: &[ours.as_fd()],
        };
        clone_process(&options, || match gifts.take() {
            Some((stdio, theirs)) => run(target, process, stdio, &cgroup, theirs),
            None => 1,
        })
    };
    let child = {
        let _visit = PidNamespaceVisit::begin(&pid_namespace)?;
        match born_in(unified.as_ref().map(AsFd::as_fd)) {
            // An engine or a service manager inside has handed controllers on: the group takes no processes any more.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let group = cgroup
                    .open_group_of(target.pid)
                    .context("open the cgroup of the container's first process")?;
                born_in(Some(group.as_fd()))
            }
            result => result,
        }
        .context("clone3")?
    };
    drop(gifts);
    await_exec(child, &ours, Ok(())).map(|(process, ())| process)
}

fn run(
    target: &ExecTarget<'_>,
    process: &ProcessPlan,
    stdio: StdioFds,
    cgroup: &Cgroup,
    channel: Channel,
) -> i32 {
    let (channel, failure) = match join(target, process, stdio, cgroup, &channel) {
        Err(failure) => (channel, failure),
        Ok((root, streams)) => Candidate {
            root: root.as_fd(),
            process,
            streams,
            channel,
            init: false,
        }
        .execute(),
    };
    let _ = channel.send(&Word::Failed(failure));
    1
}

fn join(
    target: &ExecTarget<'_>,
    process: &ProcessPlan,
    stdio: StdioFds,
    cgroup: &Cgroup,
    channel: &Channel,
) -> Result<(OwnedFd, Streams), LaunchFailure> {
    // Before the container's processes can see us.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("make the process not dumpable")?;
    process::set_oom_score_adj(process.oom_score_adj)?;
    cgroup.join_v1().context("join the cgroups")?;
    let host_null = open_null(open_root("open the host's root")?.as_fd())?;
    namespace::enter(target.pidfd, NAMESPACES).context("join the container's namespaces")?;
    let root = open_root("open the container's root")?;
    let _ = namespace::join_session_keyring("_ses.exec");
    // The container's own node has its own path; but only if it still is what it should be.
    let null = open_null(root.as_fd()).unwrap_or(host_null);
    let terminal = if process.terminal {
        Some(terminal(process, root.as_fd(), channel)?)
    } else {
        None
    };
    Ok((
        root,
        Streams {
            stdio,
            terminal,
            null,
        },
    ))
}

fn open_root(doing: &str) -> Result<OwnedFd, LaunchFailure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).context(doing)
}

/// /dev/null below `root`, for reading and writing. Looked at before it is opened: opening an unknown device may do things.
fn open_null(root: BorrowedFd<'_>) -> Result<OwnedFd, LaunchFailure> {
    let open =
        |flags| longshore_sys::resolve::open(root, "dev/null", flags | OFlags::CLOEXEC, IN_ROOT);
    let path = open(OFlags::PATH).context("open /dev/null")?;
    if devices::is_null(path.as_fd()).unwrap_or(false) {
        let null = open(OFlags::RDWR | OFlags::NOCTTY).context("open /dev/null")?;
        if devices::is_null(null.as_fd()).unwrap_or(false) {
            return Ok(null);
        }
    }
    Err(LaunchFailure::system(
        "/dev/null is something else",
        rustix::io::Errno::NXIO,
    ))
}

fn terminal(
    process: &ProcessPlan,
    root: BorrowedFd<'_>,
    channel: &Channel,
) -> Result<OwnedFd, LaunchFailure> {
    let pts = longshore_sys::resolve::open(
        root,
        "dev/pts",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        IN_ROOT,
    )
    .context("open the container's /dev/pts")?;
    let terminal = pty::open(pts.as_fd()).context("open a terminal")?;
    if let Some((rows, columns)) = process.console_size {
        pty::set_window_size(&terminal.master, rows, columns).context("size the terminal")?;
    }
    channel
        .send(&Word::Terminal(terminal.master))
        .context("hand out the terminal")?;
    Ok(terminal.slave)
}
