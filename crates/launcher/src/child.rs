//! What happens inside the container before its process exists: runs in the forked copy, with all privileges, in new namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use longshore_sys::namespace;
use rustix::{
    fs::{Mode, OFlags},
    process::DumpableBehavior,
};

use crate::{
    binds,
    cgroup::Cgroup,
    channel::{Channel, Word},
    failure::Context,
    filesystems::{self, Own},
    mounts::{self, Target},
    namespaces::Joins,
    net,
    parent::StdioFds,
    plan::{LaunchFailure, LaunchFailureKind, LaunchPlan, NamespaceMode},
    process::{self, Candidate, Streams},
    pty, resolver, rootfs,
};

/// What the child of a launch starts with.
#[derive(Debug)]
pub(crate) struct Birth<'a> {
    pub plan: &'a LaunchPlan,
    pub joins: &'a Joins,
    pub cgroup: &'a Cgroup,
    pub stdio: StdioFds,
    pub channel: Channel,
}

/// Becomes the container's first process, or reports why not and returns the exit code.
pub(crate) fn run(birth: Birth<'_>) -> i32 {
    let Birth {
        plan,
        joins,
        cgroup,
        stdio,
        channel,
    } = birth;
    let (channel, mut failure) = match prepare(plan, joins, cgroup, stdio, &channel) {
        Err(failure) => (channel, failure),
        Ok((root, streams)) => Candidate {
            root: root.as_fd(),
            process: &plan.process,
            streams,
            channel,
            init: plan.init,
        }
        .execute(),
    };
    if failure.kind != LaunchFailureKind::Invalid {
        failure
            .message
            .insert_str(0, "error during container init: ");
    }
    // Nobody to tell when the parent is gone.
    let _ = channel.send(&Word::Failed(failure));
    1
}

fn prepare(
    plan: &LaunchPlan,
    joins: &Joins,
    cgroup: &Cgroup,
    stdio: StdioFds,
    channel: &Channel,
) -> Result<(OwnedFd, Streams), LaunchFailure> {
    // Nothing inside a joined pid namespace may look into us while we hold the host's descriptors.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("make the process not dumpable")?;
    rustix::process::umask(Mode::empty());
    enter_namespaces(plan, joins, channel)?;
    process::set_oom_score_adj(plan.process.oom_score_adj)?;

    let created = rootfs::create(&plan.rootfs)?;
    let sources = binds::open_sources(plan)?;
    rootfs::make_private()?;
    let root = rootfs::mount(&plan.rootfs, created)?;
    let own = filesystems::mount_first(plan, root.as_fd())?;
    expect(channel, |word| matches!(word, Word::Cgroups))?;
    join_cgroups(plan, joins, cgroup)?;
    filesystems::mount_second(plan, root.as_fd(), &own, cgroup, sources.shm.as_ref())?;
    binds::mount_all(&plan.mounts, root.as_fd(), &sources, &plan.rootfs.work)?;
    drop(sources);
    make_working_directory(root.as_fd(), &plan.process.cwd)?;
    rootfs::pivot(root.as_fd())?;

    let terminal = terminal(plan, &own, channel)?;
    configure_kernel(plan, &own, channel)?;
    rootfs::finish(&plan.rootfs, root.as_fd())?;
    filesystems::protect(plan, root.as_fd(), &own)?;
    // The kernel may be built without keyrings, or be out of quota for them; the old one is the shim's own, empty one.
    let _ = namespace::join_session_keyring(&format!("_ses.{}", plan.id));
    let null = rustix::fs::openat(
        &own.dev,
        "null",
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .context("open /dev/null")?;
    Ok((
        root,
        Streams {
            stdio,
            terminal,
            null,
        },
    ))
}

fn enter_namespaces(
    plan: &LaunchPlan,
    joins: &Joins,
    channel: &Channel,
) -> Result<(), LaunchFailure> {
    if plan.namespaces.net == NamespaceMode::New {
        namespace::unshare(libc::CLONE_NEWNET).context("make the network namespace")?;
        if !plan.interfaces.is_empty() {
            channel
                .send(&Word::NetworkNamespace)
                .context("talk to the shim")?;
        }
    }
    joins.enter(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)
}

fn join_cgroups(plan: &LaunchPlan, joins: &Joins, cgroup: &Cgroup) -> Result<(), LaunchFailure> {
    cgroup.join_v1().context("join the cgroups")?;
    if plan.namespaces.cgroup == NamespaceMode::New {
        namespace::unshare(libc::CLONE_NEWCGROUP).context("make the cgroup namespace")?;
    }
    joins.enter(libc::CLONE_NEWCGROUP)
}

/// Waits for one word of the parent; anything else means that it has given up.
fn expect(channel: &Channel, wanted: impl Fn(&Word) -> bool) -> Result<(), LaunchFailure> {
    match channel.receive().context("listen to the shim")? {
        Some(word) if wanted(&word) => Ok(()),
        _ => Err(LaunchFailure::system(
            "the shim gave up",
            rustix::io::Errno::CANCELED,
        )),
    }
}

/// As root, with mode 0755. What cannot be made is chdir's to report.
fn make_working_directory(root: BorrowedFd<'_>, cwd: &str) -> Result<(), LaunchFailure> {
    if !cwd.is_empty() && cwd != "/" {
        let _ = mounts::ensure(root, cwd, Target::Directory);
    }
    Ok(())
}

/// Opens the terminal, puts it at /dev/console, and hands its master out.
fn terminal(
    plan: &LaunchPlan,
    own: &Own,
    channel: &Channel,
) -> Result<Option<OwnedFd>, LaunchFailure> {
    if !plan.process.terminal {
        return Ok(None);
    }
    let terminal = pty::open(own.pts.as_fd()).context("open a terminal")?;
    if let Some((rows, columns)) = plan.process.console_size {
        pty::set_window_size(&terminal.master, rows, columns).context("size the terminal")?;
    }
    // The file and the mount below are in our own tmpfs and devpts: no name of the image is involved.
    let console = rustix::fs::openat(
        &own.dev,
        "console",
        OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY,
        Mode::from_raw_mode(0o666),
    )
    .context("make /dev/console")?;
    let tree = mounts::clone_fd(terminal.slave.as_fd(), false).context("mount /dev/console")?;
    mounts::attach(tree.as_fd(), console.as_fd()).context("mount /dev/console")?;
    channel
        .send(&Word::Terminal(terminal.master))
        .context("hand out the terminal")?;
    Ok(Some(terminal.slave))
}

/// Names, interfaces, sysctls.
fn configure_kernel(plan: &LaunchPlan, own: &Own, channel: &Channel) -> Result<(), LaunchFailure> {
    if plan.namespaces.uts == NamespaceMode::New {
        if let Some(name) = &plan.hostname {
            rustix::system::sethostname(name.as_bytes()).context("sethostname")?;
        }
        if let Some(name) = &plan.domainname {
            rustix::system::setdomainname(name.as_bytes()).context("setdomainname")?;
        }
    }
    if plan.namespaces.net == NamespaceMode::New {
        if !plan.interfaces.is_empty() {
            expect(channel, |word| matches!(word, Word::Interfaces))?;
            for interface in plan.interfaces.iter().filter(|i| !i.ipv6) {
                let file = format!("sys/net/ipv6/conf/{}/disable_ipv6", interface.name);
                match filesystems::write_proc(own, &file, "1") {
                    // The kernel has no IPv6 at all.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    result => result.context("disable IPv6")?,
                }
            }
        }
        net::configure(&plan.interfaces)?;
        if let Some(resolver) = &plan.resolver {
            resolver::hand_out(resolver, channel)?;
        }
    }
    for (name, value) in &plan.sysctls {
        let file = sysctl_file(name)
            .ok_or_else(|| LaunchFailure::invalid(format!("invalid sysctl name {name:?}")))?;
        filesystems::write_proc(own, &file, value)
            .context(format_args!("open sysctl {name} file"))?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` below /proc. In a name whose first separator is a dot, a slash stands for a dot within a part (`net.ipv4.conf.eth0/100.x`).
fn sysctl_file(name: &str) -> Option<String> {
    let path: String = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then(|| format!("sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names() {
        for bad in ["", "net/../../1/mem", "/etc/x", "a..b"] {
            assert_eq!(sysctl_file(bad), None, "{bad}");
        }
        assert_eq!(
            sysctl_file("net.ipv4.ip_forward").as_deref(),
            Some("sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            sysctl_file("net/ipv4/conf/eth0.1/x").as_deref(),
            Some("sys/net/ipv4/conf/eth0.1/x")
        );
        assert_eq!(
            sysctl_file("net.ipv4.conf.eth0/1.x").as_deref(),
            Some("sys/net/ipv4/conf/eth0.1/x")
        );
    }
}
