//! The writable directory of an overlay as a layer's archive: what [`super::unpack`] reads, the other way.
//!
//! A container may change the tree meanwhile. It is reached by descriptors alone, so that nothing leads out of it, and a
//! file has in the archive the length that it had when it was opened.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, major, minor},
    io::Errno,
};

use super::{
    reader::{Entry, Kind, Time, invalid},
    sparse::Map,
    unpack::is_whiteout,
    writer::TarWriter,
};

const BUFFER: usize = 256 * 1024;
/// Each level costs a descriptor while the walk is in it.
const DEPTH_MAX: usize = 900;
/// Smaller holes are written as zeros, which compress to nothing and every reader knows.
const HOLES_MIN: u64 = 1 << 20;
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Writes all that is in `upper`, each directory in front of what is in it, names in their order. What overlayfs marks as
/// gone becomes `.wh.NAME`, an opaque directory gets `.wh..wh..opq`. Returns how many entries there are: 0 for a
/// container that changed nothing.
///
/// # Errors
/// The receiver's; files that cannot be read; directories that overlayfs has moved (`redirect_dir`), which only the
/// mounted overlay can show.
pub fn pack<W: Write>(upper: &OwnedFd, tar: &mut TarWriter<W>) -> io::Result<u64> {
    let mut packer = Packer {
        tar,
        links: HashMap::new(),
        entries: 0,
        buffer: vec![0; BUFFER],
    };
    let root = Level::open(upper, c".", b"")?;
    let mut stack = vec![root];
    while let Some(level) = stack.last_mut() {
        let Some(name) = level.names.pop() else {
            stack.pop();
            continue;
        };
        let path = [level.path.as_slice(), name.to_bytes()].concat();
        let below = packer
            .entry(&level.fd, &name, &path)
            .map_err(|e| named(&path, &e))?;
        if let Some(below) = below {
            if stack.len() >= DEPTH_MAX {
                return Err(named(&path, &io::Error::from(Errno::NAMETOOLONG)));
            }
            stack.push(below);
        }
    }
    Ok(packer.entries)
}

/// A directory under way.
struct Level {
    fd: OwnedFd,
    /// With its slash; empty for the root.
    path: Vec<u8>,
    /// What is still to do, the last first.
    names: Vec<CString>,
}

impl Level {
    fn open(parent: &OwnedFd, name: &CStr, path: &[u8]) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_by(|a, b| b.cmp(a));
        Ok(Self {
            fd,
            path: path.to_vec(),
            names,
        })
    }
}

struct Packer<'a, W: Write> {
    tar: &'a mut TarWriter<W>,
    /// Files with several names, by device and inode: the first of the names.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<'_, W> {
    /// One name of a directory; the directory below it, if it is one.
    fn entry(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8]) -> io::Result<Option<Level>> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Gone since the directory was read.
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if is_whiteout(&stat) {
            self.mark(&whiteout(path), &stat)?;
            return Ok(None);
        }
        if name.to_bytes().starts_with(b".wh.") {
            return Err(invalid("a name that stands for a removed file in layers"));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.directory(parent, name, path, &stat).map(Some);
        }
        if kind == FileType::Socket {
            // No archive can hold one; left out, as everywhere.
            return Ok(None);
        }
        if stat.st_nlink > 1 {
            let known = self.links.get(&(stat.st_dev, stat.st_ino)).cloned();
            if let Some(first) = known {
                let mut link = entry(path, Kind::HardLink, &stat);
                link.link = first;
                return self.begin(&link).map(|()| None);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let here = by_descriptor(parent, name);
        match kind {
            FileType::RegularFile => self.file(parent, name, path)?,
            FileType::Symlink => {
                let mut link = entry(path, Kind::Symlink, &stat);
                link.link = rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes();
                link.xattrs = xattrs(&here)?;
                self.begin(&link)?;
            }
            _ => {
                let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
                let kind = match kind {
                    FileType::CharacterDevice => Kind::Char { major, minor },
                    FileType::BlockDevice => Kind::Block { major, minor },
                    FileType::Fifo => Kind::Fifo,
                    _ => return Err(invalid("unknown type of file")),
                };
                let mut node = entry(path, kind, &stat);
                node.xattrs = xattrs(&here)?;
                self.begin(&node)?;
            }
        }
        Ok(None)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> io::Result<Level> {
        let here = by_descriptor(parent, name);
        let path = [path, b"/"].concat();
        let mut folder = entry(&path, Kind::Directory, stat);
        folder.xattrs = xattrs(&here)?;
        self.begin(&folder)?;
        if overlay_mark(&here, "opaque")?.is_some_and(|value| value == b"y") {
            self.mark(&[path.as_slice(), b".wh..wh..opq"].concat(), stat)?;
        }
        Level::open(parent, name, &path)
    }

    fn file(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid("changed into something else"));
        }
        let mut header = entry(path, Kind::File, &stat);
        header.xattrs = wanted_xattrs(
            |buffer| rustix::fs::flistxattr(&file, buffer),
            |name, buffer| rustix::fs::fgetxattr(&file, name, buffer),
        )?;
        header.size = stat.st_size.unsigned_abs();
        header.sparse = pieces(&file, &stat)?;
        self.begin(&header)?;
        let whole = [(0, header.size)];
        let file = File::from(file);
        for &(offset, length) in header.sparse.as_ref().map_or(&whole[..], |map| &map.pieces) {
            self.copy(&file, offset, length)?;
        }
        Ok(())
    }

    fn copy(&mut self, file: &File, mut at: u64, length: u64) -> io::Result<()> {
        let end = at + length;
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let got = match file.read_at(&mut self.buffer[..want], at) {
                // Cut short meanwhile: the header has promised more.
                Ok(0) => {
                    self.buffer[..want].fill(0);
                    want
                }
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.tar.write(&self.buffer[..got])?;
            at += got as u64;
        }
        Ok(())
    }

    /// An empty file that says something about others.
    fn mark(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        let mut mark = entry(path, Kind::File, stat);
        // Readers that do not know marks get a file that nobody can mind.
        (mark.mode, mark.uid, mark.gid) = (0, 0, 0);
        self.begin(&mark)
    }

    fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.entries += 1;
        self.tar.begin(entry)
    }
}

/// `a/b` as `a/.wh.b`
fn whiteout(path: &[u8]) -> Vec<u8> {
    let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    [&path[..at], b".wh.", &path[at..]].concat()
}

fn entry(path: &[u8], kind: Kind, stat: &Stat) -> Entry {
    Entry {
        path: path.to_vec(),
        link: Vec::new(),
        kind,
        size: 0,
        sparse: None,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        mtime: Time {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        xattrs: Vec::new(),
    }
}

/// Attributes are read by path: neither links nor device nodes can be opened for it.
fn by_descriptor(parent: &OwnedFd, name: &CStr) -> PathBuf {
    let folder = format!("/proc/self/fd/{}", parent.as_raw_fd());
    Path::new(&folder).join(OsStr::from_bytes(name.to_bytes()))
}

/// The attributes of a name, without following links.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    wanted_xattrs(
        |buffer| rustix::fs::llistxattr(path, buffer),
        |name, buffer| rustix::fs::lgetxattr(path, name, buffer),
    )
}

/// The attributes that belong into a layer: capabilities, access lists, users' own. Labels of the host's security modules
/// and overlayfs' marks stay here.
fn wanted_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = match sized(list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0) {
        if name == b"trusted.overlay.redirect" || name == b"trusted.overlay.metacopy" {
            return Err(invalid(
                "moved by overlayfs (redirect_dir, metacopy): its content is elsewhere",
            ));
        }
        let wanted = name == b"security.capability"
            || name.starts_with(b"user.")
            || name.starts_with(b"system.posix_acl_");
        if !wanted || name.starts_with(b"user.overlay.") || name.contains(&b'=') {
            continue;
        }
        match sized(|buffer| get(OsStr::from_bytes(name), buffer)) {
            Ok(value) => found.push((name.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}

fn overlay_mark(path: &Path, mark: &str) -> io::Result<Option<Vec<u8>>> {
    let name = [OVERLAY, mark.as_bytes()].concat();
    let read = sized(|buffer| rustix::fs::lgetxattr(path, OsStr::from_bytes(&name), buffer));
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An answer whose length is not known: a small buffer first, the largest that the kernel gives then.
fn sized(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    for size in [1024, 64 * 1024] {
        let mut buffer = vec![0u8; size];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}

/// The pieces of a file with large holes; `None` for any other.
fn pieces(file: &OwnedFd, stat: &Stat) -> io::Result<Option<Map>> {
    let size = stat.st_size.unsigned_abs();
    let allocated = stat.st_blocks.unsigned_abs().saturating_mul(512);
    if size.saturating_sub(allocated) < HOLES_MIN {
        return Ok(None);
    }
    let mut map = Map::default();
    let (mut at, mut stored) = (0u64, 0u64);
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        map.push(start, end - start)?;
        stored += end - start;
        at = end;
    }
    // The last piece says where the file ends.
    if map
        .pieces
        .last()
        .is_none_or(|(from, length)| from + length < size)
    {
        map.push(size, 0)?;
    }
    Ok((size - stored >= HOLES_MIN).then_some(map))
}

fn named(path: &[u8], error: &io::Error) -> io::Error {
    let path = String::from_utf8_lossy(path);
    io::Error::new(
        error.kind(),
        format!("{path}: {}", longshore_model::error::go_errno(error)),
    )
}
