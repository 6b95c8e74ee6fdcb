//! Mounting by descriptor, and finding places inside a root without ever leaving it.
//!
//! An image is hostile input: `/dev`, `/proc/x` or a mount's target may be a symbolic link to anywhere. So no path of a container is ever
//! given to a call that resolves it against our own root: openat2 resolves inside the root and yields a descriptor, and what is
//! mounted is moved onto that descriptor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use longshore_sys::mount::{Attributes, set_attributes};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

pub(crate) const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
pub(crate) const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Resolution for paths of the container: inside the root, and never through a link of procfs.
pub(crate) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Resolution for names below a directory that we made ourselves.
pub(crate) const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A new file system, mounted nowhere yet. Options are `key=value`, or `key` alone for a flag.
pub(crate) fn new_filesystem(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// A detached copy of the mount at a host's path.
pub(crate) fn clone_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, clone_flags(recursive))?)
}

/// A detached copy of the mount (or the part of one) that a descriptor refers to.
pub(crate) fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(
        fd,
        "",
        clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH,
    )?)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags | OpenTreeFlags::AT_RECURSIVE
    } else {
        flags
    }
}

/// Mounts `tree` on what `target` refers to. Afterwards `tree` refers to the mount in its place.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}

/// Makes a mount read-only (`MOUNT_ATTR_RDONLY`).
pub(crate) fn make_read_only(mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attributes = Attributes {
        set: RDONLY.bits().into(),
        ..Attributes::default()
    };
    set_attributes(mount, "", recursive, &attributes)
}

/// Opens a path of the container as a location only (`O_PATH`).
pub(crate) fn locate(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    longshore_sys::resolve::open(root, inside(path), OFlags::PATH | OFlags::CLOEXEC, IN_ROOT)
}

/// Opens a name below a directory that is ours, as a location only; no link is followed.
pub(crate) fn locate_strictly(
    directory: BorrowedFd<'_>,
    name: &str,
) -> rustix::io::Result<OwnedFd> {
    longshore_sys::resolve::open(
        directory,
        name,
        OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        STRICT,
    )
}

/// The path without empty and `.` parts, `..` taken off as in a path without links; never empty.
fn inside(path: &str) -> String {
    let parts = parts(path);
    if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    }
}

fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts
}

/// What a mount's target has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Directory,
    /// Anything but a directory.
    File,
}

/// Locates a mount's target inside the root and makes what is missing: directories with mode 0755, an empty file with 0755 as runc does.
///
/// # Errors
/// `ENOTDIR`, `EISDIR` when something of the other kind is there; `ENOENT` for a dangling link.
pub(crate) fn ensure(
    root: BorrowedFd<'_>,
    path: &str,
    target: Target,
) -> rustix::io::Result<OwnedFd> {
    let found = match locate(root, path) {
        Err(Errno::NOENT) => make(root, path, target)?,
        result => result?,
    };
    match (target, is_directory(found.as_fd())?) {
        (Target::Directory, false) => Err(Errno::NOTDIR),
        (Target::File, true) => Err(Errno::ISDIR),
        _ => Ok(found),
    }
}

fn make(root: BorrowedFd<'_>, path: &str, target: Target) -> rustix::io::Result<OwnedFd> {
    let parts = parts(path);
    let mut here = locate(root, "/")?;
    for (index, part) in parts.iter().enumerate() {
        // From the top each time: a link on the way is resolved as the container would.
        let so_far = parts[..=index].join("/");
        here = match locate(root, &so_far) {
            Err(Errno::NOENT) => {
                if index + 1 == parts.len() && target == Target::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(
                        &here,
                        *part,
                        flags | OFlags::NOFOLLOW,
                        Mode::from_raw_mode(0o755),
                    )
                    .map_err(dangling)?;
                } else {
                    rustix::fs::mkdirat(&here, *part, Mode::from_raw_mode(0o755))
                        .map_err(dangling)?;
                }
                locate_strictly(here.as_fd(), part)?
            }
            result => result?,
        };
    }
    Ok(here)
}

/// A name that cannot be resolved but exists is a link to nowhere.
fn dangling(error: Errno) -> Errno {
    if error == Errno::EXIST {
        Errno::NOENT
    } else {
        error
    }
}

pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (std::path::PathBuf, OwnedFd) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("longshore-mounts-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let fd =
            rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (path, fd)
    }

    #[test]
    fn missing_parts_are_made_inside_the_root() {
        let (path, fd) = root();
        ensure(fd.as_fd(), "/a/../b/c", Target::Directory).unwrap();
        ensure(fd.as_fd(), "/d/file", Target::File).unwrap();
        assert!(
            path.join("b/c").is_dir() && path.join("d/file").is_file() && !path.join("a").exists()
        );
        assert_eq!(
            ensure(fd.as_fd(), "/b", Target::File).unwrap_err(),
            Errno::ISDIR
        );
        assert_eq!(
            ensure(fd.as_fd(), "/d/file", Target::Directory).unwrap_err(),
            Errno::NOTDIR
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let (path, fd) = root();
        let outside =
            std::env::temp_dir().join(format!("longshore-outside-{}", std::process::id()));
        symlink(&outside, path.join("abs")).unwrap();
        symlink("../../../../../../tmp", path.join("up")).unwrap();
        // Both are resolved with the root as `/`; what they name does not exist there.
        assert_eq!(
            ensure(fd.as_fd(), "/abs/x", Target::Directory).unwrap_err(),
            Errno::NOENT
        );
        assert_eq!(
            ensure(fd.as_fd(), "/up/x", Target::Directory).unwrap_err(),
            Errno::NOENT
        );
        std::fs::create_dir(path.join("tmp")).unwrap();
        ensure(fd.as_fd(), "/up/x", Target::Directory).unwrap();
        assert!(path.join("tmp/x").is_dir() && !outside.exists());
        std::fs::remove_dir_all(path).unwrap();
    }
}
