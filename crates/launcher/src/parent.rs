//! The launching side: runs in the shim, outside the container.

use std::os::fd::{AsFd, OwnedFd};

use longshore_sys::{
    clone::{Child, CloneOptions, clone_process},
    namespace,
    process::send_signal,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::{
    cgroup::Cgroup,
    channel::{Channel, Word},
    child::{self, Birth},
    failure::Context,
    namespaces::{self, PidNamespaceVisit},
    net,
    plan::{LaunchFailure, LaunchPlan, NamespaceMode},
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
    /// Sockets of its name server, UDP and TCP, when the plan has one.
    pub resolver: Vec<OwnedFd>,
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
    let cgroup = Cgroup::open(&plan.cgroup.path);
    let result = launch_in(plan, stdio, &cgroup);
    match result {
        Ok((process, mnt_ns)) => Ok(Launched {
            process,
            mnt_ns,
            cgroup,
        }),
        Err(failure) => {
            // The first failure is the one to tell; a group that stays is found again by the engine's recovery.
            let _ = cgroup.remove();
            Err(failure)
        }
    }
}

fn launch_in(
    plan: &LaunchPlan,
    stdio: StdioFds,
    cgroup: &Cgroup,
) -> Result<(LaunchedProcess, OwnedFd), LaunchFailure> {
    let unified = cgroup
        .create_unified(&plan.cgroup)
        .context("make the cgroup")?;
    let joins = namespaces::open_joins(&plan.namespaces)?;
    let (ours, theirs) = Channel::pair().context("make the channel to the child")?;
    let child = {
        let _visit = joins
            .pid
            .as_ref()
            .map(PidNamespaceVisit::begin)
            .transpose()?;
        let options = CloneOptions {
            namespaces: namespaces::clone_flags(&plan.namespaces),
            cgroup: unified.as_ref().map(AsFd::as_fd),
            close_in_child: &[ours.as_fd()],
        };
        let birth = Birth {
            plan,
            joins: &joins,
            cgroup,
            stdio,
            channel: theirs,
        };
        clone_process(&options, move || child::run(birth)).context("clone3")?
    };
    drop(unified);
    // Taken while the child certainly lives: a short program may have ended before anybody could look again.
    let mnt_ns = namespace::mount_namespace(child.pid, child.pidfd.as_fd())
        .context("open the mount namespace");
    let attended = mnt_ns.and_then(|mnt_ns| {
        attend(plan, cgroup, &child, &ours)?;
        Ok(mnt_ns)
    });
    await_exec(child, &ours, attended)
}

/// The parent's share of the work while the child mounts.
fn attend(
    plan: &LaunchPlan,
    cgroup: &Cgroup,
    child: &Child,
    channel: &Channel,
) -> Result<(), LaunchFailure> {
    cgroup.create_v1(&plan.cgroup).context("make the cgroups")?;
    if channel.send(&Word::Cgroups).is_err() {
        // The child has failed already; what it said is still to be read.
        return Ok(());
    }
    if plan.namespaces.net == NamespaceMode::New && !plan.interfaces.is_empty() {
        match channel.receive().context("listen to the container")? {
            Some(Word::NetworkNamespace) => {}
            Some(Word::Failed(failure)) => return Err(failure),
            _ => return Err(died()),
        }
        net::create(&plan.interfaces, child.pid)?;
        let _ = channel.send(&Word::Interfaces);
    }
    Ok(())
}

fn died() -> LaunchFailure {
    LaunchFailure::system(
        "error during container init: the process has ended",
        rustix::io::Errno::SRCH,
    )
}

/// Reads the child's words until it has executed its program; ends and reaps it when anything failed.
/// `attended` is what the parent made meanwhile.
pub(crate) fn await_exec<T>(
    child: Child,
    channel: &Channel,
    attended: Result<T, LaunchFailure>,
) -> Result<(LaunchedProcess, T), LaunchFailure> {
    match attended.and_then(|made| Ok((listen(channel)?, made))) {
        Ok((heard, made)) => {
            let process = LaunchedProcess {
                start_time: namespaces::start_time_of(child.pid).unwrap_or(0),
                pid: child.pid,
                pidfd: child.pidfd,
                terminal: heard.terminal,
                resolver: heard.resolver,
            };
            Ok((process, made))
        }
        Err(failure) => {
            end(&child.pidfd);
            // What the child had to say before it ended is nearer to the cause than what the parent saw of it.
            match listen(channel) {
                Err(said) if said != died() => Err(said),
                _ => Err(failure),
            }
        }
    }
}

/// What a child hands out on its way.
#[derive(Default)]
struct Heard {
    terminal: Option<OwnedFd>,
    resolver: Vec<OwnedFd>,
}

fn listen(channel: &Channel) -> Result<Heard, LaunchFailure> {
    let mut heard = Heard::default();
    let mut executing = false;
    loop {
        match channel.receive().context("listen to the container")? {
            Some(Word::Terminal(master)) => heard.terminal = Some(master),
            Some(Word::Resolver(socket)) => heard.resolver.push(socket),
            Some(Word::Executing) => executing = true,
            Some(Word::Failed(failure)) => return Err(failure),
            Some(_) => {}
            None if executing => return Ok(heard),
            None => return Err(died()),
        }
    }
}

/// Kills and reaps a child that is of no use.
fn end(pidfd: &OwnedFd) {
    let _ = send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
}
