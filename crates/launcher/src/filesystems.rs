//! The file systems that every container has: /proc, /dev, /sys and what belongs below.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::MountAttrFlags,
};

use crate::{
    cgroup::Cgroup,
    devices,
    failure::Context,
    mounts::{self, NODEV, NOEXEC, NOSUID, RDONLY, Target},
    plan::{LaunchFailure, LaunchPlan, NamespaceMode},
};

/// Descriptors of mounts that are certainly ours, whatever the image says.
#[derive(Debug)]
pub(crate) struct Own {
    /// The container's procfs.
    pub proc: OwnedFd,
    /// The tmpfs at /dev.
    pub dev: OwnedFd,
    /// The devpts at /dev/pts.
    pub pts: OwnedFd,
}

/// Mounts /proc, /dev with its nodes, /dev/pts and /sys.
pub(crate) fn mount_first(plan: &LaunchPlan, root: BorrowedFd<'_>) -> Result<Own, LaunchFailure> {
    let no = NOSUID | NODEV | NOEXEC;
    let proc = at_top(root, "proc", "proc", &[], no)?;
    let strict = NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = at_top(
        root,
        "dev",
        "tmpfs",
        &[("mode", "755"), ("size", "65536k")],
        strict,
    )?;
    devices::populate(dev.as_fd())?;
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts = below(
        dev.as_fd(),
        "pts",
        "devpts",
        "devpts",
        &options,
        NOSUID | NOEXEC,
    )?;
    devices::add(&plan.devices, root)?;
    let sys = if plan.privileged { no } else { no | RDONLY };
    at_top(root, "sys", "sysfs", &[], sys)?;
    Ok(Own { proc, dev, pts })
}

/// Mounts the cgroups, /dev/mqueue and /dev/shm; the process has joined its cgroups by now.
pub(crate) fn mount_second(
    plan: &LaunchPlan,
    root: BorrowedFd<'_>,
    own: &Own,
    cgroup: &Cgroup,
    shm: Option<&OwnedFd>,
) -> Result<(), LaunchFailure> {
    let no = NOSUID | NODEV | NOEXEC;
    cgroups(plan, root, cgroup)?;
    let dev = own.dev.as_fd();
    if !user_mounts_at(plan, "/dev/mqueue") {
        below(dev, "mqueue", "mqueue", "mqueue", &[], no)?;
    }
    if plan.no_shm || user_mounts_at(plan, "/dev/shm") {
        return Ok(());
    }
    match shm {
        Some(tree) => {
            let target = directory_in(dev, "shm")?;
            mounts::attach(tree.as_fd(), target.as_fd()).context("mount /dev/shm")
        }
        None => {
            let size = plan.shm_size.to_string();
            let options = [("mode", "1777"), ("size", size.as_str())];
            let options = if plan.shm_size == 0 {
                &options[..1]
            } else {
                &options[..]
            };
            below(dev, "shm", "tmpfs", "shm", options, no).map(drop)
        }
    }
}

/// A mount of the user at exactly this path replaces ours.
fn user_mounts_at(plan: &LaunchPlan, path: &str) -> bool {
    plan.mounts
        .iter()
        .any(|mount| mount.target.trim_end_matches('/') == path)
}

/// Mounts at a directory of the root that must not be reached through a link: an image that makes `/proc` a link gets an error.
fn at_top(
    root: BorrowedFd<'_>,
    name: &str,
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, LaunchFailure> {
    let target = directory_in(root, name)?;
    place(target.as_fd(), name, kind, kind, options, attributes)
}

/// Mounts at a directory made in one of our own mounts.
fn below(
    parent: BorrowedFd<'_>,
    name: &str,
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, LaunchFailure> {
    let target = directory_in(parent, name)?;
    place(target.as_fd(), name, kind, source, options, attributes)
}

fn place(
    target: BorrowedFd<'_>,
    name: &str,
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, LaunchFailure> {
    let doing = || format!("error mounting {kind:?} to rootfs at {name:?}");
    let tree = mounts::new_filesystem(kind, source, options, attributes).context(doing())?;
    mounts::attach(tree.as_fd(), target).context(doing())?;
    Ok(tree)
}

/// Opens a real directory (no link), making it when missing.
fn directory_in(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, LaunchFailure> {
    let open = || {
        longshore_sys::resolve::open(
            parent,
            name,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            mounts::STRICT,
        )
    };
    match open() {
        Err(rustix::io::Errno::NOENT) => {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
                .context(format_args!("make the mount point {name:?}"))?;
            open()
        }
        result => result,
    }
    .context(format_args!(
        "the mount point {name:?} must be a plain directory"
    ))
}

fn cgroups(plan: &LaunchPlan, root: BorrowedFd<'_>, cgroup: &Cgroup) -> Result<(), LaunchFailure> {
    let layout = cgroup.layout();
    let no = NOSUID | NODEV | NOEXEC;
    let access = if plan.privileged || plan.writable_cgroups {
        no
    } else {
        no | RDONLY
    };
    let private = plan.namespaces.cgroup == NamespaceMode::New;
    let target = mounts::ensure(root, "/sys/fs/cgroup", Target::Directory)
        .context("locate /sys/fs/cgroup")?;
    if layout.v1.is_empty() {
        if layout.unified.is_none() {
            return Ok(());
        }
        return place(
            target.as_fd(),
            "/sys/fs/cgroup",
            "cgroup2",
            "cgroup",
            &[],
            access,
        )
        .map(drop);
    }
    let top = place(
        target.as_fd(),
        "/sys/fs/cgroup",
        "tmpfs",
        "tmpfs",
        &[("mode", "755")],
        no,
    )?;
    for hierarchy in &layout.v1 {
        let doing = || {
            format!(
                "error mounting \"cgroup\" to rootfs at \"/sys/fs/cgroup/{}\"",
                hierarchy.name
            )
        };
        let place_at = directory_in(top.as_fd(), &hierarchy.name)?;
        if private {
            let options: Vec<(&str, &str)> = hierarchy
                .controllers
                .iter()
                .map(|c| match c.split_once('=') {
                    Some(pair) => pair,
                    None => (c.as_str(), ""),
                })
                .chain(
                    hierarchy.controllers[0]
                        .starts_with("name=")
                        .then_some(("none", "")),
                )
                .collect();
            place(
                place_at.as_fd(),
                &hierarchy.name,
                "cgroup",
                "cgroup",
                &options,
                access,
            )?;
        } else {
            let source = hierarchy.mount.join(cgroup.path());
            let tree = mounts::clone_path(&source, false).context(doing())?;
            restrict(tree.as_fd(), access).context(doing())?;
            mounts::attach(tree.as_fd(), place_at.as_fd()).context(doing())?;
        }
        if hierarchy.controllers.len() > 1 {
            for controller in &hierarchy.controllers {
                rustix::fs::symlinkat(hierarchy.name.as_str(), &top, controller.as_str())
                    .context(doing())?;
            }
        }
    }
    Ok(())
}

fn restrict(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> std::io::Result<()> {
    let attributes = longshore_sys::mount::Attributes {
        set: attributes.bits().into(),
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    longshore_sys::mount::set_attributes(tree, "", false, &attributes)
}

/// Writes a file of the container's own procfs; `name` is relative to it.
pub(crate) fn write_proc(own: &Own, name: &str, value: &str) -> std::io::Result<()> {
    let file = longshore_sys::resolve::open(
        &own.proc,
        name,
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        mounts::STRICT | ResolveFlags::NO_XDEV,
    )?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Read-only paths, then masks, as runc orders them. Missing paths are passed over.
pub(crate) fn protect(
    plan: &LaunchPlan,
    root: BorrowedFd<'_>,
    own: &Own,
) -> Result<(), LaunchFailure> {
    for path in &plan.readonly_paths {
        let doing = || format!("set {path} read-only");
        let Some(target) = locate_if_there(root, path)? else {
            continue;
        };
        let tree = mounts::clone_fd(target.as_fd(), true).context(doing())?;
        mounts::make_read_only(tree.as_fd(), true).context(doing())?;
        mounts::attach(tree.as_fd(), target.as_fd()).context(doing())?;
    }
    let null = devices::null(own.dev.as_fd())?;
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked_paths {
        let doing = || format!("can't mask path {path:?}");
        let Some(target) = locate_if_there(root, path)? else {
            continue;
        };
        let tree = if mounts::is_directory(target.as_fd()).context(doing())? {
            match &empty {
                Some(first) => mounts::clone_fd(first.as_fd(), false).context(doing())?,
                None => {
                    let options = [("nr_inodes", "1"), ("size", "4k")];
                    let tree = mounts::new_filesystem("tmpfs", "tmpfs", &options, RDONLY)
                        .context(doing())?;
                    mounts::attach(tree.as_fd(), target.as_fd()).context(doing())?;
                    empty = Some(tree);
                    continue;
                }
            }
        } else {
            mounts::clone_fd(null.as_fd(), false).context(doing())?
        };
        mounts::attach(tree.as_fd(), target.as_fd()).context(doing())?;
    }
    Ok(())
}

fn locate_if_there(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, LaunchFailure> {
    match mounts::locate(root, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(LaunchFailure::system(
            format_args!("locate {path:?}"),
            error,
        )),
    }
}
