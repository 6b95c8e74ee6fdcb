//! Mounts of images (`--mount type=image`): their layers, read-only.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    },
};

use crate::{mounts, rootfs};

/// The tree of an image, or of what lies at `subpath` in it, mounted nowhere yet. `layers`: topmost first. `place` is a
/// directory of the host that nobody looks at in this mount namespace.
///
/// # Errors
/// `ENOENT` for a subpath that is not there; what the kernel says about the mount.
pub(crate) fn tree(layers: &[PathBuf], subpath: &str, place: &Path) -> io::Result<OwnedFd> {
    let whole = match layers {
        [] => return Err(io::Error::from_raw_os_error(libc::ENOENT)),
        // An overlay wants two layers or one that is written to.
        [only] => mounts::clone_path(only, false)?,
        layers => overlay(layers)?,
    };
    if subpath.is_empty() {
        return Ok(whole);
    }
    // Only what is mounted somewhere can be cloned in part.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&whole, "", CWD, place, flags)?;
    let part = mounts::locate(whole.as_fd(), subpath)
        .map_err(io::Error::from)
        .and_then(|found| mounts::clone_fd(found.as_fd(), false));
    unmount(place, UnmountFlags::DETACH)?;
    part
}

fn overlay(layers: &[PathBuf]) -> io::Result<OwnedFd> {
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
