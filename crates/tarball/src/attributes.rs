//! Owner, mode, times and extended attributes of what an archive makes.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{Mode, RawMode, Timespec, Timestamps, XattrFlags},
    io::Errno,
    process::{Gid, Uid},
};

use super::reader::{Entry, Time, invalid};

pub fn owner(entry: &Entry) -> io::Result<(Uid, Gid)> {
    let id = |id: u64| match u32::try_from(id) {
        // The highest number means "leave it" to chown.
        Ok(id) if id < u32::MAX => Ok(id),
        _ => Err(invalid("owner out of range")),
    };
    Ok((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?)))
}

pub fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode as RawMode & 0o7777)
}

/// Owner first: it takes set-user-id bits and capabilities away.
pub fn set_attributes(fd: &OwnedFd, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = owner(entry)?;
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    rustix::fs::fchmod(fd, mode(entry))?;
    set_xattrs(entry, |key, value| {
        rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())
    })
}

pub fn set_xattrs(
    entry: &Entry,
    set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>,
) -> io::Result<()> {
    for (key, value) in &entry.xattrs {
        // Overlayfs' own marks would redirect look-ups: they are ours to set, never the archive's.
        if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
            continue;
        }
        match set(OsStr::from_bytes(key), value) {
            Ok(()) => {}
            // The file system or the file's type has no such attributes: as with Docker, no reason to refuse the image.
            Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM) if key.starts_with(b"user.") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub fn timestamps(time: Time) -> Timestamps {
    let spec = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanos),
    };
    Timestamps {
        last_access: spec,
        last_modification: spec,
    }
}
