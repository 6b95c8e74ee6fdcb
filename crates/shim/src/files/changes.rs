//! What a container changed of its image, in the order in which dockerd lists it: a directory before what is in it, in each
//! directory first what is there, then what is gone.
//!
//! Only the container's own layer is walked; where overlayfs hides or moves whole directories of the image, those are
//! compared name by name.

use std::{collections::BTreeSet, io, os::fd::OwnedFd, path::Path};

use longshore_tarball::unpack::is_whiteout;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Change, ChangeKind, Failure,
    tree::{Tree, is, names, os, trouble},
};

/// Changes in one answer.
const BATCH: usize = 500;
const DEPTH_MAX: usize = 300;

/// Finds all changes between `base` and what `tree` shows; `upper` is the layer that has them.
pub(super) fn find(
    tree: &Tree,
    base: &OwnedFd,
    upper: &Path,
    mut tell: impl FnMut(Vec<Change>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |e: io::Error| trouble("compare with the image", e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |fd: &OwnedFd| rustix::fs::openat(fd, ".", flags, Mode::empty());
    let layer = rustix::fs::open(upper, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let mut walk = Walk { found: Vec::new() };
    let (now, before) = (
        open(&tree.root).map_err(|e| failed(e.into()))?,
        open(base).map_err(|e| failed(e.into()))?,
    );
    walk.both(&mut String::new(), &now, &before, Some(&layer), 0)
        .map_err(failed)?;
    let mut found = walk.found.into_iter().peekable();
    while found.peek().is_some() {
        tell(found.by_ref().take(BATCH).collect())?;
    }
    Ok(())
}

struct Walk {
    found: Vec<Change>,
}

impl Walk {
    /// A directory that the image has too. `layer` is the container's own part of it; without one every name is compared.
    fn both(
        &mut self,
        path: &mut String,
        now: &OwnedFd,
        before: &OwnedFd,
        layer: Option<&OwnedFd>,
        depth: usize,
    ) -> io::Result<()> {
        deep(depth)?;
        let merged = layer.filter(|layer| !replaces(layer));
        let candidates: BTreeSet<Vec<u8>> = match merged {
            Some(layer) => listed(layer)?,
            None => listed(now)?.union(&listed(before)?).cloned().collect(),
        };
        let mut gone = Vec::new();
        for name in &candidates {
            let (old, new) = (look(before, name)?, look(now, name)?);
            let length = path.len();
            path.push('/');
            path.push_str(&String::from_utf8_lossy(name));
            match (old, new) {
                (Some(old), Some(new)) => {
                    let at = self.found.len();
                    let differs = differ(&old, &new);
                    if is(&old, FileType::Directory) && is(&new, FileType::Directory) {
                        let own = match merged {
                            Some(layer) => descend(layer, name)?,
                            None => None,
                        };
                        if let (Some(now), Some(before)) =
                            (descend(now, name)?, descend(before, name)?)
                        {
                            self.both(path, &now, &before, own.as_ref(), depth + 1)?;
                        }
                    }
                    if differs || self.found.len() > at {
                        self.found.insert(at, change(path, ChangeKind::Modified));
                    }
                }
                (None, Some(new)) => {
                    self.found.push(change(path, ChangeKind::Added));
                    if is(&new, FileType::Directory)
                        && let Some(now) = descend(now, name)?
                    {
                        self.added(path, &now, depth + 1)?;
                    }
                }
                (Some(_), None) => gone.push(change(path, ChangeKind::Deleted)),
                (None, None) => {}
            }
            path.truncate(length);
        }
        self.found.append(&mut gone);
        Ok(())
    }

    /// A directory that the image has not: all in it is new.
    fn added(&mut self, path: &mut String, now: &OwnedFd, depth: usize) -> io::Result<()> {
        deep(depth)?;
        for name in listed(now)? {
            let length = path.len();
            path.push('/');
            path.push_str(&String::from_utf8_lossy(&name));
            if let Some(stat) = look(now, &name)? {
                self.found.push(change(path, ChangeKind::Added));
                if is(&stat, FileType::Directory)
                    && let Some(now) = descend(now, &name)?
                {
                    self.added(path, &now, depth + 1)?;
                }
            }
            path.truncate(length);
        }
        Ok(())
    }
}

fn deep(depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(())
}

fn change(path: &str, kind: ChangeKind) -> Change {
    Change {
        path: path.to_owned(),
        kind,
    }
}

fn listed(directory: &OwnedFd) -> io::Result<BTreeSet<Vec<u8>>> {
    Ok(names(directory)?
        .into_iter()
        .map(std::ffi::CString::into_bytes)
        .collect())
}

/// True when this part of the layer hides the image's directory, or is another one of the image that was moved here.
fn replaces(layer: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "trusted.overlay.redirect"]
        .iter()
        .any(|name| rustix::fs::fgetxattr(layer, *name, &mut [0u8; 1024][..]).is_ok())
}

/// None when there is nothing of this name, or a mark that says so.
fn look(directory: &OwnedFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_whiteout(&stat) => Ok(None),
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// None when it is no directory (any more).
fn descend(directory: &OwnedFd, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, os(name), flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Mode, owner, device; for anything but a directory size and time of the last change too.
fn differ(old: &Stat, new: &Stat) -> bool {
    let content = !is(old, FileType::Directory)
        && (old.st_size != new.st_size
            || (old.st_mtime, old.st_mtime_nsec) != (new.st_mtime, new.st_mtime_nsec));
    old.st_mode != new.st_mode
        || old.st_uid != new.st_uid
        || old.st_gid != new.st_gid
        || old.st_rdev != new.st_rdev
        || content
}
