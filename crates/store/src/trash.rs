//! What is no longer wanted: renamed away at once, deleted later by the housekeeper.

use std::{
    ffi::CStr,
    fs::File,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use longshore_model::{Error, Result};
use rustix::{
    fs::{AtFlags, Dir, IFlags, Mode, OFlags},
    io::Errno,
};

use crate::{durable, housekeeper::Chore};

/// The trash directory of a data root.
#[derive(Clone)]
pub struct Trash {
    path: PathBuf,
    chores: Sender<Chore>,
    counter: Arc<AtomicU64>,
}

impl Trash {
    pub fn new(data_root: &Path, chores: Sender<Chore>) -> Self {
        Self {
            path: data_root.join("trash"),
            chores,
            counter: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Takes `path` out of sight with one rename. `false`: it was not there.
    ///
    /// # Errors
    /// When the rename fails, for example because something is mounted on it.
    pub fn take(&self, path: &Path) -> Result<bool> {
        loop {
            let number = self.counter.fetch_add(1, Ordering::Relaxed);
            let to = self.path.join(format!("{}-{number}", std::process::id()));
            match durable::rename_new(path, &to) {
                Ok(()) => {
                    let _ = self.chores.send(Chore::Trash);
                    return Ok(true);
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(false),
                Err(error) => {
                    return Err(Error::io(format_args!("remove {}", path.display()), error));
                }
            }
        }
    }
}

/// Deletes everything in the trash, as far as it can; what stays is tried again at the next start.
///
/// Directories inside are moved up into the trash instead of being descended into: depth costs neither stack nor
/// descriptors, and a mount point (which cannot be renamed) is never entered, so that nothing beyond it is deleted.
pub fn empty(trash: &Path, stopping: &AtomicBool) {
    let Ok(root) = open(trash) else {
        return;
    };
    let mut counter = 0u64;
    loop {
        let Ok(entries) = Dir::read_from(&root) else {
            return;
        };
        let mut progress = false;
        for entry in entries.flatten() {
            if stopping.load(Ordering::Relaxed) {
                return;
            }
            let name = entry.file_name();
            if !is_dots(name) {
                progress |= remove(&root, name, &mut counter, stopping);
            }
        }
        if !progress {
            return;
        }
    }
}

/// Deletes one entry of the trash. Says whether anything changed.
fn remove(root: &File, name: &CStr, counter: &mut u64, stopping: &AtomicBool) -> bool {
    match rustix::fs::unlinkat(root, name, AtFlags::empty()) {
        Ok(()) => return true,
        Err(Errno::ISDIR) => {}
        Err(Errno::PERM) if thaw(root, name) => {
            if rustix::fs::unlinkat(root, name, AtFlags::empty()).is_ok() {
                return true;
            }
        }
        Err(_) => return false,
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::openat(root, name, flags, Mode::empty()) else {
        return false;
    };
    let folder = File::from(folder);
    let mut progress = false;
    if let Ok(entries) = Dir::read_from(&folder) {
        for entry in entries.flatten() {
            let inner = entry.file_name();
            if is_dots(inner) {
                continue;
            }
            if stopping.load(Ordering::Relaxed) {
                return progress;
            }
            progress |= remove_inner(root, &folder, inner, counter);
        }
    }
    progress | rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR).is_ok()
}

fn remove_inner(root: &File, folder: &File, name: &CStr, counter: &mut u64) -> bool {
    let error = match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => return true,
        Err(error) => error,
    };
    if error == Errno::PERM && (thaw(folder, name) | thaw(folder, c".")) {
        return rustix::fs::unlinkat(folder, name, AtFlags::empty()).is_ok()
            || move_up(root, folder, name, counter);
    }
    error == Errno::ISDIR
        && (rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR).is_ok()
            || move_up(root, folder, name, counter))
}

fn move_up(root: &File, folder: &File, name: &CStr, counter: &mut u64) -> bool {
    for _ in 0..1000 {
        *counter += 1;
        let to = format!("up-{}-{counter}", std::process::id());
        match rustix::fs::renameat_with(folder, name, root, &to, rustix::fs::RenameFlags::NOREPLACE)
        {
            Ok(()) => return true,
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) => return thaw(folder, name),
            Err(_) => return false,
        }
    }
    false
}

/// Takes the immutable and append-only flags away. `false`: there were none.
fn thaw(folder: &File, name: &CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) else {
        return false;
    };
    let frozen = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(file.as_fd()) {
        Ok(now) if now.intersects(frozen) => {
            rustix::fs::ioctl_setflags(file.as_fd(), now - frozen).is_ok()
        }
        _ => false,
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
