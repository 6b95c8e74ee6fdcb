//! Writes a layer's archive into a directory that overlayfs takes as a lower layer.
//!
//! Every path is resolved by the kernel inside the directory (openat2, RESOLVE_IN_ROOT), so that neither `..` nor a link
//! in the archive leads out. Whiteouts become what overlayfs reads: a 0:0 character device, or the opaque mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
};

use super::{
    attributes::{mode, owner, set_attributes, set_xattrs, timestamps},
    reader::{Entry, Kind, TarReader, Time, invalid},
};

/// What an archive may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of content.
    pub bytes: u64,
    pub entries: u64,
    /// Bytes that must stay free on the file system, so that a bomb does not take the engine's own state down.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 4 << 40,
            // The largest images in use have some hundred thousand a layer; directories are remembered to the end.
            entries: 4_000_000,
            reserve: 64 << 20,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    pub bytes: u64,
    pub entries: u64,
    /// Directories that the archive uses but does not describe: their owner and mode are the lower layers' to say.
    pub implied: BTreeSet<Vec<u8>>,
}

const OPAQUE: &str = "trusted.overlay.opaque";
/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 64 << 20;
const ENTRIES_PER_LOOK: u64 = 4096;
/// Links followed while missing parents are made.
const LINKS_MAX: u32 = 40;

/// Unpacks a whole archive below `root`, an empty directory. `gone` is a directory on the same file system for what later
/// entries replace.
pub fn unpack<R: Read>(
    tar: &mut TarReader<R>,
    root: OwnedFd,
    gone: &OwnedFd,
    limits: Limits,
) -> io::Result<Unpacked> {
    let mut unpacker = Unpacker {
        root,
        gone,
        limits,
        result: Unpacked::default(),
        times: BTreeMap::new(),
        parent: None,
        unlooked: 0,
        replaced: 0,
        buffer: vec![0; 256 * 1024],
    };
    while let Some(entry) = tar.next_entry()? {
        unpacker.result.entries += 1;
        if unpacker.result.entries > limits.entries {
            return Err(invalid("too many entries in archive"));
        }
        if unpacker.result.entries.is_multiple_of(ENTRIES_PER_LOOK) {
            unpacker.look()?;
        }
        unpacker
            .apply(tar, &entry)
            .map_err(|e| name_error(&entry, &e))?;
    }
    unpacker.finish_times()?;
    Ok(unpacker.result)
}

struct Unpacker<'a> {
    root: OwnedFd,
    gone: &'a OwnedFd,
    limits: Limits,
    result: Unpacked,
    /// Directories' times, set at the end: making entries changes them.
    times: BTreeMap<Vec<u8>, Time>,
    /// The last parent directory: entries mostly come folder by folder.
    parent: Option<(Vec<u8>, OwnedFd)>,
    unlooked: u64,
    replaced: u64,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn apply<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> io::Result<()> {
        let path = clean(&entry.path)?;
        let Some((folder, name)) = split(&path) else {
            // The root itself.
            if entry.kind == Kind::Directory {
                let root = self.root.try_clone()?;
                set_attributes(&root, entry)?;
                self.times.insert(Vec::new(), entry.mtime);
            }
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(folder, hidden);
        }
        let parent = self.take_parent(folder)?;
        let done = self.make(tar, entry, &path, &parent, name);
        self.parent = Some((folder.to_vec(), parent));
        done
    }

    fn make<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        path: &[u8],
        parent: &OwnedFd,
        name: &[u8],
    ) -> io::Result<()> {
        let name_os = OsStr::from_bytes(name);
        if entry.kind == Kind::Directory {
            return self.directory(entry, path, parent, name);
        }
        match entry.kind {
            Kind::HardLink => {
                let target = clean(&entry.link)?;
                let (folder, target_name) =
                    split(&target).ok_or_else(|| invalid("hard link to the root"))?;
                let target_parent = self.open_folder(folder)?;
                if folder == split(path).map_or(&[][..], |s| s.0) && target_name == name {
                    return Err(invalid("hard link to itself"));
                }
                self.clear(parent, name)?;
                // Without AT_SYMLINK_FOLLOW: a link to a symlink is a link to the symlink.
                rustix::fs::linkat(
                    &target_parent,
                    OsStr::from_bytes(target_name),
                    parent,
                    name_os,
                    AtFlags::empty(),
                )?;
                return Ok(());
            }
            Kind::File => {
                self.clear(parent, name)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name_os, flags, Mode::from_raw_mode(0o600))?;
                let file = File::from(file);
                self.copy(tar, entry, &file)?;
                let file = OwnedFd::from(file);
                set_attributes(&file, entry)?;
                rustix::fs::futimens(&file, &timestamps(entry.mtime))?;
                return Ok(());
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(invalid("symbolic link without a target"));
                }
                self.clear(parent, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name_os)?;
            }
            Kind::Char { major, minor } => {
                self.node(parent, name, FileType::CharacterDevice, major, minor)?;
            }
            Kind::Block { major, minor } => {
                self.node(parent, name, FileType::BlockDevice, major, minor)?;
            }
            Kind::Fifo => self.node(parent, name, FileType::Fifo, 0, 0)?,
            Kind::Directory | Kind::Other(_) => {
                return Err(invalid("unhandled tar entry type"));
            }
        }
        let (uid, gid) = owner(entry)?;
        rustix::fs::chownat(
            parent,
            name_os,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if entry.kind != Kind::Symlink {
            rustix::fs::chmodat(parent, name_os, mode(entry), AtFlags::empty())?;
        }
        let here = format!("/proc/self/fd/{}", parent.as_raw_fd());
        let here = Path::new(&here).join(name_os);
        set_xattrs(entry, |key, value| {
            rustix::fs::lsetxattr(&here, key, value, XattrFlags::empty())
        })?;
        rustix::fs::utimensat(
            parent,
            name_os,
            &timestamps(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    fn directory(
        &mut self,
        entry: &Entry,
        path: &[u8],
        parent: &OwnedFd,
        name: &[u8],
    ) -> io::Result<()> {
        let name_os = OsStr::from_bytes(name);
        let mut opaque = false;
        match rustix::fs::mkdirat(parent, name_os, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => match stat(parent, name)? {
                Some(found) if is(&found, FileType::Directory) => {}
                found => {
                    // A directory in the place of a whiteout: what is below it in lower layers stays hidden.
                    opaque = found.is_some_and(|found| is_whiteout(&found));
                    self.clear(parent, name)?;
                    rustix::fs::mkdirat(parent, name_os, Mode::from_raw_mode(0o700))?;
                }
            },
            Err(error) => return Err(error.into()),
        }
        let folder = open_directory(parent, name)?;
        set_attributes(&folder, entry)?;
        if opaque {
            rustix::fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())?;
        }
        self.result.implied.remove(path);
        self.times.insert(path.to_vec(), entry.mtime);
        Ok(())
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        kind: FileType,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.clear(parent, name)?;
        rustix::fs::mknodat(
            parent,
            OsStr::from_bytes(name),
            kind,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(major, minor),
        )?;
        Ok(())
    }

    /// `.wh.NAME` hides NAME of the lower layers, `.wh..wh..opq` all of a directory.
    fn whiteout(&mut self, folder: &[u8], hidden: &[u8]) -> io::Result<()> {
        let parent = self.take_parent(folder)?;
        let result = self.hide(&parent, hidden);
        self.parent = Some((folder.to_vec(), parent));
        result
    }

    fn hide(&mut self, parent: &OwnedFd, hidden: &[u8]) -> io::Result<()> {
        match hidden {
            b".wh..opq" => {
                rustix::fs::fsetxattr(parent, OPAQUE, b"y", XattrFlags::empty())?;
                return Ok(());
            }
            // Bookkeeping of AUFS, which some old images carry.
            other if other.starts_with(b".wh.") => return Ok(()),
            b"" | b"." | b".." => return Err(invalid("malformed whiteout")),
            _ => {}
        }
        match stat(parent, hidden)? {
            None => self.node(parent, hidden, FileType::CharacterDevice, 0, 0),
            // This layer has the name itself, which hides the lower layers' file, but merges with their directory.
            Some(found) if is(&found, FileType::Directory) => {
                let folder = open_directory(parent, hidden)?;
                rustix::fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())?;
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    fn copy<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        file: &File,
    ) -> io::Result<()> {
        let whole = [(0, entry.size)];
        let pieces = entry.sparse.as_ref().map_or(&whole[..], |map| &map.pieces);
        for &(offset, length) in pieces {
            let (mut at, end) = (offset, offset + length);
            while at < end {
                let want = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len());
                let got = tar.read_content(&mut self.buffer[..want])?;
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.write_all_at(&self.buffer[..got], at)?;
                at += got as u64;
                self.count(got as u64)?;
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size)?;
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> io::Result<()> {
        self.result.bytes += bytes;
        self.unlooked += bytes;
        if self.result.bytes > self.limits.bytes {
            return Err(invalid("archive too large"));
        }
        if self.unlooked >= LOOK_EVERY {
            self.look()?;
        }
        Ok(())
    }

    /// Is there room left for the others?
    fn look(&mut self) -> io::Result<()> {
        self.unlooked = 0;
        let room = rustix::fs::fstatvfs(&self.root)?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        // Some file systems (btrfs) count no inodes at all.
        let few_inodes = room.f_files > 0 && room.f_favail < 1000;
        if free < self.limits.reserve || few_inodes {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// Makes the place of `name` free.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                self.replaced += 1;
                rustix::fs::renameat(
                    parent,
                    OsStr::from_bytes(name),
                    self.gone,
                    format!("replaced-{}", self.replaced),
                )?;
                // What was known of the directory and below it is void; a descriptor may point into it.
                self.parent = None;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn take_parent(&mut self, folder: &[u8]) -> io::Result<OwnedFd> {
        match self.parent.take() {
            Some((known, fd)) if known == folder => Ok(fd),
            _ => match self.open_folder(folder) {
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                    self.make_folder(folder, &mut LINKS_MAX.clone())
                }
                other => other,
            },
        }
    }

    fn open_folder(&self, folder: &[u8]) -> io::Result<OwnedFd> {
        if folder.is_empty() {
            return self.root.try_clone();
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = OsStr::from_bytes(folder);
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename elsewhere on the machine while `..` was resolved.
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Makes missing directories on the way to `folder`, through links that lead to nothing yet as well.
    fn make_folder(&mut self, folder: &[u8], links: &mut u32) -> io::Result<OwnedFd> {
        let mut here = self.root.try_clone()?;
        let ends = (1..=folder.len()).filter(|&i| i == folder.len() || folder[i] == b'/');
        for end in ends {
            let prefix = &folder[..end];
            match self.open_folder(prefix) {
                Ok(found) => {
                    here = found;
                    continue;
                }
                Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                Err(e) => return Err(e),
            }
            let (above, name) = split(prefix).unwrap_or((&[], prefix));
            let name_os = OsStr::from_bytes(name);
            match rustix::fs::mkdirat(&here, name_os, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    here = open_directory(&here, name)?;
                    rustix::fs::fchmod(&here, Mode::from_raw_mode(0o755))?;
                    self.result.implied.insert(prefix.to_vec());
                }
                Err(Errno::EXIST) => {
                    *links = links
                        .checked_sub(1)
                        .ok_or_else(|| io::Error::from(Errno::LOOP))?;
                    let target = rustix::fs::readlinkat(&here, name_os, Vec::new())?;
                    let target = target.as_bytes();
                    let mut way = if target.starts_with(b"/") {
                        Vec::new()
                    } else {
                        above.to_vec()
                    };
                    way.push(b'/');
                    way.extend_from_slice(target);
                    here = self.make_folder(&clean(&way)?, links)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(here)
    }

    fn finish_times(&mut self) -> io::Result<()> {
        let implied = std::mem::take(&mut self.times);
        for (path, time) in implied {
            match self.open_folder(&path) {
                Ok(folder) => rustix::fs::futimens(&folder, &timestamps(time))?,
                // Replaced by something else later in the archive.
                Err(e)
                    if [Errno::NOENT, Errno::NOTDIR]
                        .iter()
                        .any(|known| e.raw_os_error() == Some(known.raw_os_error())) => {}
                Err(e) => return Err(e),
            }
        }
        // A directory that was replaced is not implied any more.
        let implied = std::mem::take(&mut self.result.implied);
        self.result.implied = implied
            .into_iter()
            .filter(|path| self.open_folder(path).is_ok())
            .collect();
        Ok(())
    }
}

/// Components joined by single slashes: no leading slash, no `.`; `..` goes up, at most to the root.
pub fn clean(path: &[u8]) -> io::Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part if part.contains(&0) => return Err(invalid("NUL in a path")),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Folder and name of a clean path; `None` for the root.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    })
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        parent,
        OsStr::from_bytes(name),
        flags,
        Mode::empty(),
    )?)
}

fn stat(parent: &OwnedFd, name: &[u8]) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is(stat: &rustix::fs::Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// What overlayfs reads as "this name is gone".
pub fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    is(stat, FileType::CharacterDevice) && stat.st_rdev == 0
}

fn name_error(entry: &Entry, error: &io::Error) -> io::Error {
    let path = String::from_utf8_lossy(&entry.path);
    io::Error::new(
        error.kind(),
        format!("{path}: {}", longshore_model::error::go_errno(error)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("./a/b/", "a/b"),
            ("/etc//x", "etc/x"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            (".", ""),
            ("/", ""),
            ("", ""),
        ] {
            assert_eq!(clean(path.as_bytes()).unwrap(), want.as_bytes());
        }
        assert!(clean(b"a\0b").is_err());
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
    }
}
