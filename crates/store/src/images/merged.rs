//! What a path is when layers are stacked, as overlayfs would show it. Used only on layers, never on a running root.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags},
    io::Errno,
    process::{Gid, Uid},
};

use crate::tarball::unpack::is_whiteout;

/// A directory found in a stack of layers.
pub struct Found {
    pub stat: Stat,
    fd: OwnedFd,
}

/// The directory at `path` (clean, no leading slash) in `layers` (topmost first); `None` when there is none.
/// Links on the way are not followed: overlayfs merges directories, not what links point to.
pub fn directory(layers: &[PathBuf], path: &[u8]) -> Option<Found> {
    let mut candidates: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    let ends = (1..=path.len()).filter(|&i| i == path.len() || path[i] == b'/');
    let mut last = None;
    for end in ends {
        let prefix = OsStr::from_bytes(&path[..end]);
        let mut next = Vec::new();
        last = None;
        for layer in candidates {
            let Some(stat) = stat(layer, prefix) else {
                continue;
            };
            if is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            let fd = open(layer, prefix)?;
            let opaque = is_opaque(&fd);
            if last.is_none() {
                last = Some(Found { stat, fd });
            }
            next.push(layer);
            if opaque {
                break;
            }
        }
        last.as_ref()?;
        candidates = next;
    }
    last
}

/// Gives the directory `to` the owner, mode, times and attributes of `from`.
pub fn copy_attributes(from: &Found, to: &OwnedFd) -> rustix::io::Result<()> {
    let stat = &from.stat;
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(&from.fd, to)?;
    rustix::fs::futimens(to, &times(stat))
}

/// Modification time as both times.
pub fn times(stat: &Stat) -> rustix::fs::Timestamps {
    let spec = rustix::fs::Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    rustix::fs::Timestamps {
        last_access: spec,
        last_modification: spec,
    }
}

fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let mut names = vec![0u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names[..length].split(|b| *b == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_opaque(fd: &OwnedFd) -> bool {
    let mut value = [0u8; 1];
    matches!(
        rustix::fs::fgetxattr(fd, "trusted.overlay.opaque", value.as_mut_slice()),
        Ok(1) if value[0] == b'y'
    )
}

fn root(layer: &Path) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(layer, flags, Mode::empty()).ok()
}

fn open(layer: &Path, path: &OsStr) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    longshore_sys::resolve::open(root(layer)?, path, flags, resolve).ok()
}

fn stat(layer: &Path, path: &OsStr) -> Option<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH;
    let fd = longshore_sys::resolve::open(root(layer)?, path, flags, resolve).ok()?;
    rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH).ok()
}
