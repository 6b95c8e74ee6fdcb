//! A tar stream into a directory of a container, by dockerd's rules. Nothing that the archive says or the container changes
//! meanwhile leads out of the container's root: each name's folder is resolved by openat2, the name itself is made in it
//! without following anything.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use longshore_launcher::user;
use longshore_tarball::{
    attributes::{mode, set_xattrs, timestamps},
    codec::decompress,
    reader::{Entry, Kind, TarReader, Time},
    unpack::{clean, split},
};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, StatVfsMountFlags, StatxFlags, Uid},
    io::Errno,
};

use super::{
    Failure,
    tree::{Tree, absolute, failure, invalid, is, names, os, trouble},
};

/// What is left of a request behind the archive is read up to this, so that its client sees an answer.
const REST_MAX: u64 = 64 << 20;

/// How to write.
pub(super) struct Rules {
    pub keep_kinds: bool,
    /// A user of the container, or empty.
    pub owner: String,
    pub read_only_root: bool,
}

/// Unpacks `archive` below `path`, which must be a directory.
pub(super) fn into(tree: &Tree, path: &str, rules: &Rules, archive: File) -> Result<(), Failure> {
    let path = absolute(path);
    let target = target(tree, &path)?;
    writable(tree, &target, rules.read_only_root)?;
    let owner = owner(tree, &rules.owner)?;
    let mut rest = archive.try_clone().map_err(|e| trouble("read", e))?;
    let broken = |e: io::Error| trouble("read archive", e);
    let (_, stream) = decompress(archive).map_err(broken)?;
    let mut tar = TarReader::new(stream);
    let mut extractor = Extractor {
        tree,
        path: path.trim_end_matches('.').trim_end_matches('/').to_owned(),
        keep_kinds: rules.keep_kinds,
        owner,
        times: BTreeMap::new(),
        folder: None,
        buffer: vec![0; 256 << 10],
    };
    while let Some(entry) = tar.next_entry().map_err(archive_error)? {
        extractor.entry(&mut tar, &entry)?;
    }
    extractor.finish_times();
    // Archives may be padded; a client that could not send all of it would not look for the answer.
    let _ = io::copy(&mut tar.into_inner().take(REST_MAX), &mut io::sink());
    let _ = io::copy(&mut Read::by_ref(&mut rest).take(REST_MAX), &mut io::sink());
    Ok(())
}

fn archive_error(error: io::Error) -> Failure {
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        // Go has one text for all that can be wrong with a header.
        io::ErrorKind::InvalidData => "archive/tar: invalid tar header".to_owned(),
        _ => return trouble("read archive", error),
    };
    Failure {
        kind: super::FailureKind::System,
        message,
    }
}

fn target(tree: &Tree, path: &str) -> Result<OwnedFd, Failure> {
    let place = tree
        .open(path.as_bytes(), OFlags::PATH)
        .map_err(|e| failure(format_args!("lstat {path}"), e))?;
    let stat = rustix::fs::fstat(&place).map_err(|e| trouble(format_args!("lstat {path}"), e))?;
    if !is(&stat, FileType::Directory) {
        return Err(invalid("extraction point is not a directory"));
    }
    Ok(place)
}

/// A read-only volume and a read-only root are told apart as in dockerd.
fn writable(tree: &Tree, target: &OwnedFd, read_only_root: bool) -> Result<(), Failure> {
    let below = mount_of(target) != mount_of(&tree.root);
    if !below && read_only_root {
        return Err(invalid("container rootfs is marked read-only"));
    }
    let flags = rustix::fs::fstatvfs(target).map(|s| s.f_flag);
    if below && flags.is_ok_and(|f| f.contains(StatVfsMountFlags::RDONLY)) {
        return Err(invalid("mounted volume is marked read-only"));
    }
    Ok(())
}

fn mount_of(place: &OwnedFd) -> u64 {
    let stat = rustix::fs::statx(place, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    stat.map_or(0, |stat| stat.stx_mnt_id)
}

fn owner(tree: &Tree, name: &str) -> Result<Option<(Uid, Gid)>, Failure> {
    if name.is_empty() {
        return Ok(None);
    }
    let identity = user::resolve(tree.root.as_fd(), name, &[]).map_err(|e| invalid(e.message))?;
    Ok(Some((
        Uid::from_raw(identity.uid),
        Gid::from_raw(identity.gid),
    )))
}

struct Extractor<'a> {
    tree: &'a Tree,
    /// Of the directory that is extracted into, without a slash at its end.
    path: String,
    keep_kinds: bool,
    owner: Option<(Uid, Gid)>,
    /// Directories' times, set at the end: making entries changes them.
    times: BTreeMap<Vec<u8>, Time>,
    /// The last folder: entries mostly come folder by folder.
    folder: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Extractor<'_> {
    fn entry<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> Result<(), Failure> {
        let shown = String::from_utf8_lossy(&entry.path).into_owned();
        if leads_out(&entry.path) {
            return Err(trouble(
                format_args!("{shown:?} is outside of {:?}", self.path),
                Errno::INVAL,
            ));
        }
        let name = clean(&entry.path).map_err(|e| trouble(&shown, e))?;
        // The directory itself: it is there, and stays as it is.
        let Some((folder, last)) = split(&name) else {
            return Ok(());
        };
        let folder_fd = self.take_folder(folder)?;
        let made = self.make(tar, entry, &folder_fd, last, &name);
        self.folder = Some((folder.to_vec(), folder_fd));
        made?;
        if entry.kind == Kind::Directory {
            self.times.insert(name, entry.mtime);
        }
        Ok(())
    }

    /// A path below the target, as a path of the container.
    fn full(&self, name: &[u8]) -> Vec<u8> {
        [self.path.as_bytes(), b"/", name].concat()
    }

    fn take_folder(&mut self, folder: &[u8]) -> Result<OwnedFd, Failure> {
        match self.folder.take() {
            Some((known, fd)) if known == folder => Ok(fd),
            _ => self.open_folder(folder),
        }
    }

    /// Opens a folder, making what is missing on the way.
    fn open_folder(&self, folder: &[u8]) -> Result<OwnedFd, Failure> {
        let full = self.full(folder);
        let failed =
            |e: Errno| trouble(format_args!("mkdir {}", String::from_utf8_lossy(&full)), e);
        match self.tree.directory(&full) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) if !folder.is_empty() => {}
            Err(error) => return Err(failed(error)),
        }
        let (above, name) = split(folder).unwrap_or((&[], folder));
        let parent = self.open_folder(above)?;
        match rustix::fs::mkdirat(&parent, os(name), Mode::from_raw_mode(0o755)) {
            // Somebody else was faster, or a link leads to nothing: the look-up below tells.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        self.tree.directory(&full).map_err(|error| {
            failed(if error == Errno::NOENT {
                Errno::NOTDIR
            } else {
                error
            })
        })
    }

    fn make<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        folder: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Failure> {
        let full = String::from_utf8_lossy(&self.full(path)).into_owned();
        let failed = |doing: &str| {
            let text = format!("{doing} {full}");
            move |e: Errno| trouble(text, e)
        };
        let mut in_place = None;
        if let Some(found) = look(folder, name).map_err(failed("lstat"))? {
            self.may_replace(entry, &found, &full)?;
            let both = is(&found, FileType::Directory) && entry.kind == Kind::Directory;
            if !both {
                match remove(folder, name, 0) {
                    Ok(()) => {}
                    // A file that is mounted by itself: it can only be written anew.
                    Err(Errno::BUSY)
                        if entry.kind == Kind::File && is(&found, FileType::RegularFile) =>
                    {
                        in_place = Some(OFlags::TRUNC);
                    }
                    Err(error) => return Err(failed("unlinkat")(error)),
                }
            }
        }
        let name_os = os(name);
        match entry.kind {
            Kind::Directory => {
                match rustix::fs::mkdirat(folder, name_os, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed("mkdir")(error)),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(folder, name_os, flags, Mode::empty())
                    .map_err(failed("open"))?;
                self.dress(&made, entry)
                    .map_err(|e| trouble(format_args!("mkdir {full}"), e))
            }
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
                let flags = flags | in_place.unwrap_or(OFlags::CREATE | OFlags::EXCL);
                let file = rustix::fs::openat(folder, name_os, flags, Mode::from_raw_mode(0o600))
                    .map_err(failed("open"))?;
                let written = |e: io::Error| trouble(format_args!("write {full}"), e);
                let file = File::from(file);
                self.content(tar, entry, &file).map_err(written)?;
                let file = OwnedFd::from(file);
                self.dress(&file, entry).map_err(written)?;
                rustix::fs::futimens(&file, &timestamps(entry.mtime)).map_err(failed("chtimes"))
            }
            Kind::HardLink => self.link(entry, folder, name).map_err(failed("link")),
            Kind::Symlink => {
                rustix::fs::symlinkat(os(&entry.link), folder, name_os)
                    .map_err(failed("symlink"))?;
                self.dress_by_name(folder, name, entry)
                    .map_err(|e| trouble(format_args!("lchown {full}"), e))
            }
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                let kind = if matches!(entry.kind, Kind::Char { .. }) {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                self.node(entry, folder, name, kind, (major, minor))
                    .map_err(|e| trouble(format_args!("mknod {full}"), e))
            }
            Kind::Fifo => self
                .node(entry, folder, name, FileType::Fifo, (0, 0))
                .map_err(|e| trouble(format_args!("mknod {full}"), e)),
            Kind::Other(kind) => Err(invalid(format!("unhandled tar header type {kind}"))),
        }
    }

    fn may_replace(&self, entry: &Entry, found: &Stat, full: &str) -> Result<(), Failure> {
        if !self.keep_kinds {
            return Ok(());
        }
        let (have, want) = (
            is(found, FileType::Directory),
            entry.kind == Kind::Directory,
        );
        let texts = match (have, want) {
            (true, false) => ("directory", "non-directory"),
            (false, true) => ("non-directory", "directory"),
            _ => return Ok(()),
        };
        let target = if self.path.is_empty() {
            "/"
        } else {
            &self.path
        };
        Err(Failure {
            kind: super::FailureKind::System,
            message: format!(
                "cannot overwrite {} {full:?} with {} {target:?}",
                texts.0, texts.1
            ),
        })
    }

    fn link(&self, entry: &Entry, folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        if leads_out(&entry.link) {
            return Err(Errno::INVAL);
        }
        let target = clean(&entry.link).map_err(|_| Errno::INVAL)?;
        let (above, last) = split(&target).ok_or(Errno::ISDIR)?;
        let there = self.tree.directory(&self.full(above))?;
        // Without AT_SYMLINK_FOLLOW: a link to a symlink is a link to the symlink.
        rustix::fs::linkat(&there, os(last), folder, os(name), AtFlags::empty())
    }

    fn node(
        &self,
        entry: &Entry,
        folder: &OwnedFd,
        name: &[u8],
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(folder, os(name), kind, Mode::from_raw_mode(0o600), device)?;
        self.dress_by_name(folder, name, entry)
    }

    fn ids(&self, entry: &Entry) -> io::Result<(Uid, Gid)> {
        match self.owner {
            Some(owner) => Ok(owner),
            None => longshore_tarball::attributes::owner(entry),
        }
    }

    /// Owner first: it takes set-user-id bits and capabilities away.
    fn dress(&self, fd: &OwnedFd, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.ids(entry)?;
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        rustix::fs::fchmod(fd, mode(entry))?;
        set_xattrs(entry, |key, value| {
            rustix::fs::fsetxattr(fd, key, value, rustix::fs::XattrFlags::empty())
        })
    }

    /// Of what cannot be opened: links, devices, pipes.
    fn dress_by_name(&self, folder: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.ids(entry)?;
        let (name, nofollow) = (os(name), AtFlags::SYMLINK_NOFOLLOW);
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), nofollow)?;
        if entry.kind != Kind::Symlink {
            // The name may have become a link by now; the place itself is what gets the mode.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&place)?;
            if !is(&stat, FileType::Symlink) {
                let number = place.as_raw_fd().to_string();
                let descriptors = &self.tree.descriptors;
                rustix::fs::chmodat(descriptors, number, mode(entry), AtFlags::empty())?;
            }
        }
        rustix::fs::utimensat(folder, name, &timestamps(entry.mtime), nofollow)?;
        Ok(())
    }

    fn content<R: Read>(
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
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size)?;
        }
        Ok(())
    }

    fn finish_times(&self) {
        for (name, time) in &self.times {
            // Gone or replaced by now: nothing to set.
            if let Ok(folder) = self.tree.directory(&self.full(name)) {
                let _ = rustix::fs::futimens(&folder, &timestamps(*time));
            }
        }
    }
}

/// `../x`, `a/../../x`: names that would be found outside of the target. An absolute one begins at the target.
fn leads_out(path: &[u8]) -> bool {
    if path.starts_with(b"/") {
        return false;
    }
    let mut depth = 0usize;
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn look(folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a name and, for a directory, all below it; never through a link.
fn remove(folder: &OwnedFd, name: &[u8], depth: usize) -> rustix::io::Result<()> {
    if depth > 500 {
        return Err(Errno::NAMETOOLONG);
    }
    match rustix::fs::unlinkat(folder, os(name), AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        result => return result,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(folder, os(name), flags, Mode::empty())?;
    for child in names(&directory).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))? {
        remove(&directory, child.to_bytes(), depth + 1)?;
    }
    rustix::fs::unlinkat(folder, os(name), AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::leads_out;

    #[test]
    fn names_that_lead_out() {
        for (name, out) in [
            ("a/b", false),
            ("../a", true),
            ("a/../b", false),
            ("a/../../b", true),
            ("/../a", false),
            ("./..", true),
        ] {
            assert_eq!(leads_out(name.as_bytes()), out, "{name}");
        }
    }
}
