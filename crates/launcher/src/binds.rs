//! The user's mounts: binds, volumes, tmpfs.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use longshore_sys::{
    mount::{Attributes, set_attributes},
    namespace,
};
use rustix::mount::MountAttrFlags;

use crate::{
    copy,
    failure::{Context, errno_text},
    image_mount,
    mounts::{self, NODEV, NOEXEC, NOSUID, RDONLY, Target},
    plan::{LaunchFailure, LaunchPlan, MountKind, MountPlan, NamespaceMode},
};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Files of /proc that a container manager may put its own version over (lxcfs).
const PROC_ALLOWED: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// What has to be taken from the host's mounts before they are left: one entry a mount of the plan, `None` for tmpfs.
#[derive(Debug)]
pub(crate) struct Sources {
    binds: Vec<Option<OwnedFd>>,
    /// The /dev/shm to share, with another container or the host.
    pub shm: Option<OwnedFd>,
}

/// Opens all sources as detached trees with the propagation that is asked for. Runs before the mounts are made private: a tree that is to
/// be shared or slave needs its tie to the host's mount.
pub(crate) fn open_sources(plan: &LaunchPlan) -> Result<Sources, LaunchFailure> {
    let mut sources = open_binds(&plan.mounts)?;
    if let Some(path) = &plan.namespaces.shm_from {
        let tree = shared_shm(plan, path).context("open the shared /dev/shm")?;
        set_propagation(tree.as_fd(), "").context("open the shared /dev/shm")?;
        sources.shm = Some(tree);
    }
    Ok(sources)
}

/// The sources of binds and volumes alone.
pub(crate) fn open_binds(mounts: &[MountPlan]) -> Result<Sources, LaunchFailure> {
    let mut binds = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let MountKind::Bind {
            source,
            recursive,
            propagation,
            ..
        } = &mount.kind
        else {
            binds.push(None);
            continue;
        };
        let failed = |error| failure(mount, &source.display(), error);
        let tree = crate::mounts::clone_path(source, *recursive).map_err(failed)?;
        set_propagation(tree.as_fd(), propagation).map_err(failed)?;
        binds.push(Some(tree));
    }
    Ok(Sources { binds, shm: None })
}

/// The host's /dev/shm, or that of the container whose ipc namespace is joined. A mount can be cloned only from within its
/// own mount namespace: for the other container's, this process goes there and comes back.
fn shared_shm(plan: &LaunchPlan, path: &Path) -> std::io::Result<OwnedFd> {
    let NamespaceMode::JoinPid { pid, .. } = plan.namespaces.ipc else {
        return mounts::clone_path(path, false);
    };
    let here = std::fs::File::open("/proc/self/ns/mnt")?;
    let there = std::fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
    namespace::enter(there.as_fd(), libc::CLONE_NEWNS)?;
    let tree = mounts::clone_path(Path::new("/dev/shm"), false);
    namespace::enter(here.as_fd(), libc::CLONE_NEWNS)?;
    tree
}

fn set_propagation(tree: BorrowedFd<'_>, propagation: &str) -> std::io::Result<()> {
    let (recursive, kind) = match propagation {
        "" | "rprivate" => (true, libc::MS_PRIVATE),
        "private" => (false, libc::MS_PRIVATE),
        "rslave" => (true, libc::MS_SLAVE),
        "slave" => (false, libc::MS_SLAVE),
        "rshared" => (true, libc::MS_SHARED),
        "shared" => (false, libc::MS_SHARED),
        _ => return Err(std::io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let attributes = Attributes {
        propagation: kind,
        ..Attributes::default()
    };
    set_attributes(tree, "", recursive, &attributes)
}

/// Mounts everything in the order given.
/// `work` is a directory that other mounts may go through on their way.
pub(crate) fn mount_all(
    mounts: &[MountPlan],
    root: BorrowedFd<'_>,
    sources: &Sources,
    work: &Path,
) -> Result<(), LaunchFailure> {
    for (mount, source) in mounts.iter().zip(&sources.binds) {
        match (&mount.kind, source) {
            (MountKind::Bind { .. }, Some(tree)) => bind(mount, tree.as_fd(), root)?,
            (MountKind::Tmpfs { data, flags }, _) => tmpfs(mount, data, flags, root)?,
            (MountKind::Image { layers, subpath }, _) => {
                image(mount, layers, subpath, work, root)?;
            }
            (MountKind::Bind { .. }, None) => {}
        }
    }
    Ok(())
}

fn failure(
    mount: &MountPlan,
    source: &dyn std::fmt::Display,
    error: impl Into<std::io::Error>,
) -> LaunchFailure {
    let error = error.into();
    LaunchFailure {
        kind: crate::plan::LaunchFailureKind::System,
        message: format!(
            "error mounting \"{source}\" to rootfs at {:?}: {}",
            mount.target,
            errno_text(&error)
        ),
    }
}

/// A mount inside /proc could hide the security state of the container from those that set it.
fn refuse_proc(mount: &MountPlan, target: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    let statfs = rustix::fs::fstatfs(target).context("look at a mount's target")?;
    if u64::try_from(statfs.f_type).ok() == Some(PROC_SUPER_MAGIC)
        && !PROC_ALLOWED.contains(&mount.target.as_str())
    {
        return Err(LaunchFailure {
            kind: crate::plan::LaunchFailureKind::System,
            message: format!(
                "error mounting to rootfs at {0:?}: check proc-safety of {0} mount: {0:?} cannot be mounted because it is inside /proc",
                mount.target
            ),
        });
    }
    Ok(())
}

fn bind(
    mount: &MountPlan,
    tree: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
) -> Result<(), LaunchFailure> {
    let MountKind::Bind {
        source,
        read_only_recursive,
        copy_up,
        ..
    } = &mount.kind
    else {
        return Ok(());
    };
    let shown = source.display();
    let failed = |error: std::io::Error| failure(mount, &shown, error);
    let directory = mounts::is_directory(tree).map_err(|e| failed(e.into()))?;
    let kind = if directory {
        Target::Directory
    } else {
        Target::File
    };
    let target = mounts::ensure(root, &mount.target, kind).map_err(|error| {
        // Whichever side is the directory, Docker's hint hangs on these words.
        let error = if error == rustix::io::Errno::ISDIR {
            rustix::io::Errno::NOTDIR
        } else {
            error
        };
        failed(error.into())
    })?;
    refuse_proc(mount, target.as_fd())?;
    if *copy_up && directory {
        copy::into_empty_volume(target.as_fd(), tree).map_err(failed)?;
    }
    if mount.read_only {
        match read_only_recursive {
            Some(false) => mounts::make_read_only(tree, false).map_err(failed)?,
            Some(true) => mounts::make_read_only(tree, true).map_err(failed)?,
            None => mounts::make_read_only(tree, true)
                .or_else(|_| mounts::make_read_only(tree, false))
                .map_err(failed)?,
        }
    }
    mounts::attach(tree, target.as_fd()).map_err(failed)
}

fn image(
    mount: &MountPlan,
    layers: &[PathBuf],
    subpath: &str,
    place: &Path,
    root: BorrowedFd<'_>,
) -> Result<(), LaunchFailure> {
    let failed = |error: std::io::Error| failure(mount, &"image", error);
    let tree = image_mount::tree(layers, subpath, place).map_err(failed)?;
    let directory = mounts::is_directory(tree.as_fd()).map_err(|e| failed(e.into()))?;
    let kind = if directory {
        Target::Directory
    } else {
        Target::File
    };
    let target = mounts::ensure(root, &mount.target, kind).map_err(|e| failed(e.into()))?;
    refuse_proc(mount, target.as_fd())?;
    set_propagation(tree.as_fd(), "").map_err(failed)?;
    mounts::make_read_only(tree.as_fd(), false).map_err(failed)?;
    mounts::attach(tree.as_fd(), target.as_fd()).map_err(failed)
}

fn tmpfs(
    mount: &MountPlan,
    data: &[(String, String)],
    flags: &[String],
    root: BorrowedFd<'_>,
) -> Result<(), LaunchFailure> {
    let failed = |error: std::io::Error| failure(mount, &"tmpfs", error);
    let existed = mounts::locate(root, &mount.target).ok();
    let target =
        mounts::ensure(root, &mount.target, Target::Directory).map_err(|e| failed(e.into()))?;
    refuse_proc(mount, target.as_fd())?;
    let mut options: Vec<(&str, String)> = Vec::new();
    if let Some(existing) = existed.filter(|_| !data.iter().any(|(key, _)| key == "mode")) {
        // The directory's mode shows through, as if nothing had been mounted.
        let stat = rustix::fs::fstat(existing).map_err(|e| failed(e.into()))?;
        options.push(("mode", format!("{:04o}", stat.st_mode & 0o7777)));
    }
    options.extend(
        data.iter()
            .map(|(key, value)| (key.as_str(), value.clone())),
    );
    let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let tree = mounts::new_filesystem(
        "tmpfs",
        "tmpfs",
        &options,
        tmpfs_attributes(flags, mount.read_only),
    )
    .map_err(failed)?;
    mounts::attach(tree.as_fd(), target.as_fd()).map_err(failed)
}

/// nosuid, nodev and noexec unless told otherwise; the last word counts.
fn tmpfs_attributes(flags: &[String], read_only: bool) -> MountAttrFlags {
    let mut attributes = NOSUID | NODEV | NOEXEC;
    for flag in flags {
        match flag.as_str() {
            "suid" => attributes -= NOSUID,
            "nosuid" => attributes |= NOSUID,
            "dev" => attributes -= NODEV,
            "nodev" => attributes |= NODEV,
            "exec" => attributes -= NOEXEC,
            "noexec" => attributes |= NOEXEC,
            "ro" => attributes |= RDONLY,
            "rw" => attributes -= RDONLY,
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "nodiratime" => attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            "strictatime" => attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            _ => {}
        }
    }
    if read_only {
        attributes |= RDONLY;
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_flags() {
        let of = |flags: &[&str]| {
            tmpfs_attributes(
                &flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>(),
                false,
            )
        };
        assert_eq!(of(&[]), NOSUID | NODEV | NOEXEC);
        assert_eq!(of(&["exec", "ro"]), NOSUID | NODEV | RDONLY);
        assert_eq!(of(&["suid", "dev", "exec", "noexec"]), NOEXEC);
    }
}
