//! A container's file system for a process that is not in it: copies in and out, diff, export.
//!
//! The caller is a process of its own with one thread: it visits or makes mount namespaces. Everything is reached by the
//! root's descriptor; no path of the container is ever resolved against our own root.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use longshore_sys::namespace;
use rustix::{
    fs::{Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    binds,
    failure::Context,
    mounts::{self, Target},
    namespaces::start_time_of,
    plan::{LaunchFailure, MountPlan, RootfsPlan},
    rootfs,
};

/// Whose root to look at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ViewPlan {
    /// Of a running container, as its processes see it, or (`mounts` false) without what is mounted below the root.
    Running {
        pid: i32,
        start_time: u64,
        mounts: bool,
    },
    /// Of one that does not run: put together from its layers and mounts.
    Idle {
        rootfs: RootfsPlan,
        mounts: Vec<MountPlan>,
        /// False: what is made on the way (mount points) does not reach the container's own layer.
        writable: bool,
    },
}

/// The root as a place (`O_PATH`), valid as long as the calling process lives. Afterwards no path is the host's any more, /proc
/// included.
///
/// # Errors
/// The container has ended, or a mount failed.
pub fn root(plan: &ViewPlan) -> Result<OwnedFd, LaunchFailure> {
    match plan {
        ViewPlan::Running {
            pid,
            start_time,
            mounts,
        } => running(*pid, *start_time, *mounts).context("open the container's root"),
        ViewPlan::Idle {
            rootfs,
            mounts,
            writable,
        } => idle(rootfs, mounts, *writable),
    }
}

/// Goes into the container's mount namespace. It stays there when it is to see the mounts: the kernel keeps those from being
/// removed together with what they cover only for processes of the same namespace.
fn running(pid: i32, start_time: u64, mounts: bool) -> io::Result<OwnedFd> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let there = File::open(format!("/proc/{pid}/ns/mnt")).map_err(|_| gone())?;
    // Checked after the open: the pid still meant the container's process at that time.
    if start_time_of(pid) != Some(start_time) {
        return Err(gone());
    }
    let here = File::open("/proc/self/ns/mnt")?;
    namespace::enter(there.as_fd(), libc::CLONE_NEWNS)?;
    if mounts {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        return Ok(rustix::fs::open("/", flags, Mode::empty())?);
    }
    let root = mounts::clone_path(Path::new("/"), false);
    // For the layers' paths are the host's.
    namespace::enter(here.as_fd(), libc::CLONE_NEWNS)?;
    root
}

fn idle(
    plan: &RootfsPlan,
    mount_plans: &[MountPlan],
    writable: bool,
) -> Result<OwnedFd, LaunchFailure> {
    namespace::unshare(libc::CLONE_NEWNS).context("make a mount namespace")?;
    let sources = binds::open_binds(mount_plans)?;
    rootfs::make_private()?;
    let plan = if writable {
        plan.clone()
    } else {
        above(plan).context("make a place for mount points")?
    };
    let created = rootfs::create(&plan)?;
    let root = rootfs::mount(&plan, created)?;
    binds::mount_all(mount_plans, root.as_fd(), &sources, &plan.work)?;
    Ok(root)
}

/// The container's layers, its own one too, below a new upper layer in memory. A start of the container meanwhile has the
/// upper layer for itself.
fn above(plan: &RootfsPlan) -> io::Result<RootfsPlan> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(&plan.work, flags, Mode::empty())?;
    let memory = mounts::new_filesystem(
        "tmpfs",
        "tmpfs",
        &[("mode", "700")],
        MountAttrFlags::empty(),
    )?;
    mounts::attach(memory.as_fd(), place.as_fd())?;
    let (upper, work) = (plan.work.join("upper"), plan.work.join("work"));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    // The new upper layer is the root's own look.
    let top = std::fs::metadata(&plan.upper)?;
    std::os::unix::fs::chown(&upper, Some(top.uid()), Some(top.gid()))?;
    std::fs::set_permissions(&upper, top.permissions())?;
    let mut lower = vec![plan.upper.clone()];
    lower.extend_from_slice(&plan.lower);
    Ok(RootfsPlan {
        lower,
        upper,
        work,
        ..plan.clone()
    })
}

/// What a container's root was before it changed anything: its layers without its own one, read-only.
///
/// # Errors
/// What mounting the overlay said.
pub fn base(layers: &[PathBuf]) -> Result<OwnedFd, LaunchFailure> {
    open_base(layers).context("mount the image's layers")
}

fn open_base(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let [only] = layers {
        return Ok(rustix::fs::open(only, flags, Mode::empty())?);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    rootfs::set_layers(&context, layers)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?)
}

/// Makes a directory of the container and those above it where they are missing, as root with mode 0755.
///
/// # Errors
/// As openat2(2) and mkdirat(2); `ENOTDIR` when something else is there.
pub fn ensure_directory(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    mounts::ensure(root.as_fd(), path, Target::Directory)
}
