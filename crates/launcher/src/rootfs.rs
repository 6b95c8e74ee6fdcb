//! The container's root: an overlay of the image's layers, and the pivot into it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use longshore_sys::mount::{Attributes, set_attributes};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change,
        move_mount, unmount,
    },
};

use crate::{
    failure::Context,
    mounts,
    plan::{LaunchFailure, RootfsPlan},
};

/// Longest value that fsconfig(2) takes.
const FSCONFIG_VALUE: usize = 255;

/// Cuts the process's mounts off from the host's: nothing mounted from now on shows outside. Trees that were cloned before keep their ties.
pub(crate) fn make_private() -> Result<(), LaunchFailure> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("make the mounts private")
}

/// Makes the overlay, attached nowhere yet; None where only mount(2) can make it. The kernel lists mounts in the order in
/// which they were made: the root comes first for whoever reads /proc/mounts, so it is made before anything else.
pub(crate) fn create(plan: &RootfsPlan) -> Result<Option<OwnedFd>, LaunchFailure> {
    match overlay(plan) {
        // Before Linux 6.7 there is no `lowerdir+`.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        result => result.map(Some).context("mount the root file system"),
    }
}

/// Mounts the overlay over its own upper directory: a place in this mount namespace that nobody else looks at.
pub(crate) fn mount(plan: &RootfsPlan, created: Option<OwnedFd>) -> Result<OwnedFd, LaunchFailure> {
    match created {
        Some(root) => attach(&root, plan).map(|()| root),
        None => classic_overlay(plan),
    }
    .context("mount the root file system")
}

fn overlay(plan: &RootfsPlan) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    set_layers(&context, &plan.lower)?;
    fsconfig_set_string(&context, "upperdir", &plan.upper)?;
    fsconfig_set_string(&context, "workdir", &plan.work)?;
    // Some kernels' defaults differ: the upper directory alone must tell what changed (commit, diff).
    fsconfig_set_string(&context, "redirect_dir", "off")?;
    fsconfig_set_string(&context, "metacopy", "off")?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// Tells a new overlay its lower directories, topmost first.
pub(crate) fn set_layers(context: &OwnedFd, layers: &[PathBuf]) -> io::Result<()> {
    match joined(layers) {
        Some(lower) if lower.len() <= FSCONFIG_VALUE => {
            fsconfig_set_string(context, "lowerdir", lower)?;
        }
        _ => {
            for layer in layers {
                fsconfig_set_string(context, "lowerdir+", layer)?;
            }
        }
    }
    Ok(())
}

fn attach(root: &OwnedFd, plan: &RootfsPlan) -> io::Result<()> {
    Ok(move_mount(
        root.as_fd(),
        "",
        CWD,
        &plan.upper,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// All layers as one value, if no path needs an escape.
fn joined(layers: &[PathBuf]) -> Option<String> {
    let paths: Option<Vec<&str>> = layers
        .iter()
        .map(|path| path.to_str().filter(|p| !p.contains([':', '\\', ','])))
        .collect();
    Some(paths?.join(":"))
}

/// mount(2), whose options may be a page long: layers are named relative to the directory that they share.
fn classic_overlay(plan: &RootfsPlan) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let base = shared_parent(
        plan.lower
            .iter()
            .chain([&plan.upper, &plan.work])
            .map(|p| p.as_path()),
    );
    let relative = |path: &Path| -> io::Result<String> {
        let text = path
            .strip_prefix(&base)
            .ok()
            .and_then(Path::to_str)
            .ok_or_else(invalid)?;
        Ok(text
            .replace('\\', "\\\\")
            .replace(':', "\\:")
            .replace(',', "\\,"))
    };
    let lower: io::Result<Vec<String>> = plan.lower.iter().map(|p| relative(p)).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
        lower?.join(":"),
        relative(&plan.upper)?,
        relative(&plan.work)?
    );
    let options = std::ffi::CString::new(options)?;
    rustix::process::chdir(&base)?;
    rustix::mount::mount(
        "overlay",
        &plan.upper,
        "overlay",
        rustix::mount::MountFlags::empty(),
        options.as_c_str(),
    )?;
    Ok(rustix::fs::open(
        &plan.upper,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn shared_parent<'a>(paths: impl Iterator<Item = &'a Path>) -> std::path::PathBuf {
    let mut shared: Option<std::path::PathBuf> = None;
    for path in paths {
        let parent = path.parent().unwrap_or(Path::new("/"));
        shared = Some(match shared {
            None => parent.to_owned(),
            Some(mut so_far) => {
                while !parent.starts_with(&so_far) && so_far.pop() {}
                so_far
            }
        });
    }
    shared.unwrap_or_else(|| "/".into())
}

/// Makes `root` the process's root and takes the host's mounts away.
pub(crate) fn pivot(root: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    let old = rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open the host's root")?;
    rustix::process::fchdir(root).context("enter the root file system")?;
    // Both at one place: the old root ends up on top of the new one and is taken off again.
    rustix::process::pivot_root(".", ".").context("pivot_root")?;
    rustix::process::fchdir(&old).context("enter the old root")?;
    unmount(".", UnmountFlags::DETACH).context("unmount the old root")?;
    rustix::process::chdir("/").context("enter the new root")
}

/// Last touches that need all mounts to be there.
pub(crate) fn finish(plan: &RootfsPlan, root: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    if plan.read_only {
        mounts::make_read_only(root, false).context("make the root file system read-only")?;
    }
    if plan.shared_propagation {
        let attributes = Attributes {
            propagation: libc::MS_SHARED,
            ..Attributes::default()
        };
        set_attributes(root, "", false, &attributes).context("share the root mount")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_parents() {
        let of = |paths: &[&str]| shared_parent(paths.iter().map(Path::new));
        assert_eq!(of(&["/a/b/c", "/a/b/d/e", "/a/x"]), Path::new("/a"));
        assert_eq!(of(&["/a/b/c"]), Path::new("/a/b"));
        assert_eq!(of(&["/a/b", "/c/d"]), Path::new("/"));
    }
}
