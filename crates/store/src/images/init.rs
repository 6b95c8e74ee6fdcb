//! The folder on top of an image's layers that has Docker's mount points, so that no container makes them in its own
//! upper directory. One serves all images whose /etc, /dev, /proc and /sys look alike.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use longshore_model::{Error, Result};
use rustix::fs::{Mode, OFlags};

use super::merged::{self, Found};
use crate::tarball::codec::digest;

/// Directories that overlayfs merges: ours must not change how the image's own looks.
const MERGED: [&str; 4] = ["dev", "etc", "proc", "sys"];
const FOLDERS: [&str; 2] = ["dev/pts", "dev/shm"];
const FILES: [&str; 5] = [
    ".dockerenv",
    "dev/console",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
];

/// Makes the folder that suits `layers` (topmost first) below `init`, if it is not there yet; returns its name.
///
/// What the image has in these places is hidden, links included: with Docker an image whose /etc is a link gets an
/// /etc of its own too.
pub fn ensure(init: &Path, work: &Path, layers: &[PathBuf]) -> Result<String> {
    let found: Vec<(&str, Option<Found>)> = MERGED
        .iter()
        .map(|name| (*name, merged::directory(layers, name.as_bytes())))
        .collect();
    let mut looks = String::from("1");
    for (name, found) in &found {
        match found {
            Some(Found { stat, .. }) => looks.push_str(&format!(
                "|{name} {:o} {} {} {}.{}",
                stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec
            )),
            None => looks.push_str(&format!("|{name} -")),
        }
    }
    let name = digest(looks.as_bytes())[7..39].to_owned();
    let path = init.join(&name);
    if path.exists() {
        return Ok(name);
    }
    let fresh = work.join(format!("init-{}", &longshore_model::id::random_hex()[..16]));
    let fail = |e: io::Error| Error::io(format_args!("make {}", path.display()), e);
    build(&fresh, &found).map_err(fail)?;
    match std::fs::rename(&fresh, &path) {
        Ok(()) => Ok(name),
        // Somebody else was faster with the same content; ours goes with the work folder.
        Err(_) if path.exists() => Ok(name),
        Err(e) => Err(fail(e)),
    }
}

fn build(fresh: &Path, found: &[(&str, Option<Found>)]) -> io::Result<()> {
    let folder = |name: &str| -> io::Result<()> {
        let path = fresh.join(name);
        std::fs::create_dir(&path)?;
        Ok(rustix::fs::chmod(&path, Mode::from_raw_mode(0o755))?)
    };
    folder("")?;
    for name in MERGED.iter().chain(&FOLDERS) {
        folder(name)?;
    }
    for name in FILES {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o755);
        let file = rustix::fs::open(fresh.join(name), flags, mode)?;
        rustix::fs::fchmod(&file, mode)?;
    }
    std::os::unix::fs::symlink("/proc/mounts", fresh.join("etc/mtab"))?;
    for (name, found) in found {
        if let Some(found) = found {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            let path = fresh.join(OsStr::from_bytes(name.as_bytes()));
            let to: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
            merged::copy_attributes(found, &to)?;
        }
    }
    Ok(())
}
