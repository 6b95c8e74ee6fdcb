//! How much a directory holds.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use longshore_model::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

/// What a directory tree takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated blocks, directories included, hard links once: what containerd reports as a snapshot's size.
    pub allocated: u64,
    /// Lengths of the files, hard links once.
    pub apparent: u64,
    pub inodes: u64,
}

/// Bytes allocated below `path`, without leaving its file system. Entries that vanish meanwhile do not count.
///
/// # Errors
/// When `path` itself cannot be read.
pub fn measure(path: &Path) -> Result<Usage> {
    let fail = |e: std::io::Error| Error::io(format_args!("read {}", path.display()), e);
    let top = std::fs::symlink_metadata(path).map_err(fail)?;
    let mut usage = Usage {
        allocated: top.blocks() * 512,
        apparent: 0,
        inodes: 1,
    };
    let root = File::open(path).map_err(fail)?;
    let mut linked = HashSet::new();
    let mut open = vec![PathBuf::from(".")];
    while let Some(folder) = open.pop() {
        // Something may be running in there: a directory swapped for a link must not lead out.
        let opened = openat2(
            &root,
            &folder,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        );
        let Ok(entries) = opened.and_then(|fd| Dir::read_from(&fd).map(|dir| (fd, dir))) else {
            continue;
        };
        for entry in entries.1.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&entries.0, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_dev != top.dev()
                || (stat.st_nlink > 1 && !is_dir && !linked.insert(stat.st_ino))
            {
                continue;
            }
            usage.allocated += stat.st_blocks.unsigned_abs() * 512;
            usage.inodes += 1;
            if is_dir {
                open.push(folder.join(OsStr::from_bytes(name.to_bytes())));
            } else {
                usage.apparent += stat.st_size.unsigned_abs();
            }
        }
    }
    Ok(usage)
}

pub fn apparent(path: &Path) -> Result<u64> {
    measure(path).map(|usage| usage.apparent)
}
