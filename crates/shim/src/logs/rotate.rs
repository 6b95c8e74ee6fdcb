//! Rotated log files: `LOG.1` is the youngest, then `LOG.2`...; compressed ones end in `.gz`.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};
use longshore_sys::clone::{CloneOptions, clone_process};
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// `LOG.<index>` or `LOG.<index>.gz`.
pub fn rotated_path(log: &Path, index: u32, compressed: bool) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{index}{}", if compressed { ".gz" } else { "" }));
    name.into()
}

/// Moves the log out of the way: `LOG` to `LOG.1`, `LOG.1` to `LOG.2`, and so on; the oldest of `max_file` files goes.
/// With `max_file` 1 the log is simply removed. Readers keep their place, since no file is ever cut short.
pub fn rotate(log: &Path, max_file: u32) -> io::Result<()> {
    if max_file < 2 {
        return absent_is_fine(fs::remove_file(log));
    }
    for compressed in [false, true] {
        absent_is_fine(fs::remove_file(rotated_path(log, max_file - 1, compressed)))?;
        for index in (1..max_file - 1).rev() {
            let (from, to) = (index, index + 1);
            absent_is_fine(fs::rename(
                rotated_path(log, from, compressed),
                rotated_path(log, to, compressed),
            ))?;
        }
    }
    absent_is_fine(fs::rename(log, rotated_path(log, 1, false)))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A compression under way in a forked child: the container's output does not wait for it.
pub struct Compressing {
    child: Option<OwnedFd>,
}

impl Compressing {
    /// Compresses `LOG.1` into `LOG.1.gz`.
    pub fn start(log: &Path) -> io::Result<Self> {
        let options = CloneOptions::default();
        match clone_process(&options, || i32::from(compress(log).is_err())) {
            Ok(child) => Ok(Self {
                child: Some(child.pidfd),
            }),
            // A process with threads cannot fork safely; a full process table must not lose the rotation either.
            Err(_) => compress(log).map(|()| Self { child: None }),
        }
    }

    /// Waits for the end: the next rotation would move the file away under it.
    pub fn wait(&mut self) {
        if let Some(pidfd) = self.child.take() {
            // Whoever reaped it first, it has ended then: ECHILD is fine.
            let _ = waitid(
                WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
                WaitIdOptions::EXITED,
            );
        }
    }
}

/// Written to a temporary name first, so that a reader sees a whole file or none. The comment field holds the inode number of the
/// original: by it a follower that still reads the original finds its place.
fn compress(log: &Path) -> io::Result<()> {
    let (plain, packed) = (rotated_path(log, 1, false), rotated_path(log, 1, true));
    let mut unfinished = packed.clone().into_os_string();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    let result = pack(&plain, &unfinished)
        .and_then(|()| fs::rename(&unfinished, &packed))
        .and_then(|()| fs::remove_file(&plain));
    if result.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    result
}

fn pack(plain: &Path, packed: &Path) -> io::Result<()> {
    let mut source = File::open(plain)?;
    let inode = source.metadata()?.ino();
    let target = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(packed)?;
    let mut encoder = GzBuilder::new()
        .comment(inode.to_string())
        .write(target, Compression::default());
    let mut buffer = vec![0; 64 << 10];
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            count => encoder.write_all(&buffer[..count])?,
        }
    }
    encoder.finish().map(drop)
}
