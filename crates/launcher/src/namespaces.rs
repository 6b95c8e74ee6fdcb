//! Which namespaces a container gets, and how.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
};

use longshore_sys::namespace;

use crate::{
    failure::Context,
    plan::{LaunchFailure, NamespaceMode, NamespacePlan},
};

/// Namespaces of other processes, opened before the clone while their owners are certainly the ones meant.
#[derive(Debug)]
pub(crate) struct Joins {
    /// For the parent: where its children's pids live.
    pub pid: Option<OwnedFd>,
    /// For the child: (namespace, `CLONE_NEW*`).
    others: Vec<(OwnedFd, i32)>,
}

/// Flags of clone3 for what is new from birth. Network and cgroup namespaces follow in the child: the one takes long and
/// is better made while the parent works, the other has to see the cgroups already joined.
pub(crate) fn clone_flags(plan: &NamespacePlan) -> u64 {
    let flag = |mode: &NamespaceMode, flag: i32| if *mode == NamespaceMode::New { flag } else { 0 };
    let flags = libc::CLONE_NEWNS
        | flag(&plan.pid, libc::CLONE_NEWPID)
        | flag(&plan.ipc, libc::CLONE_NEWIPC)
        | flag(&plan.uts, libc::CLONE_NEWUTS);
    flags as u64
}

/// Opens the namespaces to join.
///
/// # Errors
/// `Invalid` when a process to join has ended.
pub(crate) fn open_joins(plan: &NamespacePlan) -> Result<Joins, LaunchFailure> {
    let mut others = Vec::new();
    for (mode, name, kind) in [
        (&plan.net, "net", libc::CLONE_NEWNET),
        (&plan.ipc, "ipc", libc::CLONE_NEWIPC),
        (&plan.uts, "uts", libc::CLONE_NEWUTS),
        (&plan.cgroup, "cgroup", libc::CLONE_NEWCGROUP),
    ] {
        if let Some(fd) = open(mode, name)? {
            others.push((fd, kind));
        }
    }
    Ok(Joins {
        pid: open(&plan.pid, "pid")?,
        others,
    })
}

fn open(mode: &NamespaceMode, name: &str) -> Result<Option<OwnedFd>, LaunchFailure> {
    let NamespaceMode::JoinPid { pid, start_time } = *mode else {
        return Ok(None);
    };
    let gone = || {
        LaunchFailure::invalid(format!(
            "cannot join the {name} namespace of process {pid}: it has ended"
        ))
    };
    let file = File::open(format!("/proc/{pid}/ns/{name}")).map_err(|_| gone())?;
    // Checked after the open: the pid still meant our process at that time.
    if start_time_of(pid) != Some(start_time) {
        return Err(gone());
    }
    Ok(Some(file.into()))
}

/// When the process was started: field 22 of /proc/pid/stat, in clock ticks since boot. `None` when there is no such process.
pub fn start_time_of(pid: i32) -> Option<u64> {
    let mut buffer = [0u8; 1024];
    let length = File::open(format!("/proc/{pid}/stat"))
        .ok()?
        .read(&mut buffer)
        .ok()?;
    let text = std::str::from_utf8(&buffer[..length]).ok()?;
    // The command name in parentheses may hold anything, spaces and parentheses too.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

impl Joins {
    /// In the child: enters those of the given kinds (`CLONE_NEW*`).
    pub(crate) fn enter(&self, kinds: i32) -> Result<(), LaunchFailure> {
        for (fd, kind) in self.others.iter().filter(|(_, kind)| kinds & kind != 0) {
            namespace::enter(fd.as_fd(), *kind).context("join a namespace")?;
        }
        Ok(())
    }
}

/// Our children are born in another pid namespace while this lives.
#[derive(Debug)]
pub(crate) struct PidNamespaceVisit(OwnedFd);

impl PidNamespaceVisit {
    pub(crate) fn begin(namespace_fd: &OwnedFd) -> Result<Self, LaunchFailure> {
        let own: OwnedFd = File::open("/proc/self/ns/pid")
            .context("open our pid namespace")?
            .into();
        namespace::enter(namespace_fd.as_fd(), libc::CLONE_NEWPID)
            .context("join the pid namespace")?;
        Ok(Self(own))
    }
}

impl Drop for PidNamespaceVisit {
    fn drop(&mut self) {
        // Cannot fail for the namespace that the caller itself is in.
        let _ = namespace::enter(self.0.as_fd(), libc::CLONE_NEWPID);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_start_time() {
        let pid = std::process::id() as i32;
        let start = start_time_of(pid).unwrap();
        assert!(start > 0);
        assert_eq!(start_time_of(pid), Some(start));
        assert_eq!(start_time_of(i32::MAX), None);
    }
}
