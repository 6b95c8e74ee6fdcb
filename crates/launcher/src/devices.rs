//! /dev: nodes, links, and the nodes of the host for privileged containers.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Uid, makedev},
    io::Errno,
};

use crate::{
    failure::Context,
    mounts::{self, Target},
    plan::{DeviceNode, DevicePlan, LaunchFailure},
};

/// (name, major, minor) of what every container has.
const STANDARD: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills the fresh tmpfs `dev` with the standard nodes and links.
pub(crate) fn populate(dev: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    for (name, major, minor) in STANDARD {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(
            dev,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )
        .context(format_args!("make device node /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).context(format_args!("link /dev/{name}"))?;
    }
    if Path::new("/proc/kcore").exists() {
        rustix::fs::symlinkat("/proc/kcore", dev, "core").context("link /dev/core")?;
    }
    Ok(())
}

/// The nodes that the plan adds; a privileged container's are read from the host's /dev, so this runs before the pivot.
pub(crate) fn add(plan: &DevicePlan, root: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    if plan.all {
        let mut nodes = Vec::new();
        collect(Path::new("/dev"), &mut nodes).context("read the host's devices")?;
        for node in &nodes {
            make(root, node)?;
        }
    }
    for node in &plan.nodes {
        make(root, node)?;
    }
    Ok(())
}

fn make(root: BorrowedFd<'_>, node: &DeviceNode) -> Result<(), LaunchFailure> {
    let doing = || format!("error creating device nodes: {:?}", node.path);
    let (directory, name) = node.path.rsplit_once('/').unwrap_or(("", &node.path));
    if matches!(name, "" | "." | "..") {
        return Err(LaunchFailure::invalid(format!(
            "invalid device path {:?}",
            node.path
        )));
    }
    let directory = mounts::ensure(root, directory, Target::Directory).context(doing())?;
    let kind = if node.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let number = makedev(node.major, node.minor);
    match rustix::fs::mknodat(
        &directory,
        name,
        kind,
        Mode::from_raw_mode(node.mode & 0o7777),
        number,
    ) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat =
                rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).context(doing())?;
            if stat.st_rdev == number && FileType::from_raw_mode(stat.st_mode) == kind {
                return Ok(());
            }
            rustix::fs::unlinkat(&directory, name, AtFlags::empty()).context(doing())?;
            rustix::fs::mknodat(
                &directory,
                name,
                kind,
                Mode::from_raw_mode(node.mode & 0o7777),
                number,
            )
            .context(doing())?;
        }
        Err(error) => return Err(LaunchFailure::system(doing(), error)),
    }
    if node.uid != 0 || node.gid != 0 {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::chownat(
            &directory,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .context(doing())?;
    }
    Ok(())
}

/// Device nodes of the host, but for what a container has of its own.
fn collect(directory: &Path, nodes: &mut Vec<DeviceNode>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let path = entry.path();
        // Devices come and go while we look.
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if metadata.is_dir() {
            let own = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
            if !own.iter().any(|own| name == *own) {
                collect(&path, nodes)?;
            }
            continue;
        }
        let kind = metadata.file_type();
        let Some(path) = path.to_str().map(str::to_owned) else {
            continue;
        };
        if name == "console" || !(kind.is_block_device() || kind.is_char_device()) {
            continue;
        }
        nodes.push(DeviceNode {
            path,
            block: kind.is_block_device(),
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
            mode: metadata.permissions().mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        });
    }
    Ok(())
}

/// A descriptor of `name` in `dev` that is certainly /dev/null, for masks and standard streams.
pub(crate) fn null(dev: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, LaunchFailure> {
    let fd = mounts::locate_strictly(dev, "null").context("open /dev/null")?;
    if !is_null(fd.as_fd()).context("look at /dev/null")? {
        return Err(LaunchFailure::system(
            "/dev/null is something else",
            Errno::NXIO,
        ));
    }
    Ok(fd)
}

pub(crate) fn is_null(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == makedev(1, 3),
    )
}
