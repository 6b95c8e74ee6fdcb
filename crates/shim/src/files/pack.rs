//! Files of a container as a tar stream, with the names, order and headers that dockerd gives.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::OwnedFd,
};

use longshore_tarball::{
    reader::{Entry, Kind, Time},
    writer::TarWriter,
};
use rustix::{
    fs::{FileType, Mode, OFlags, Stat, major, minor},
    io::Errno,
};

use super::{
    Failure, PathStat,
    tree::{Tree, absolute, base, failure, is, names, os, trouble},
};

const PIPE: usize = 1 << 20;
const PIECE: usize = 128 << 10;
/// Deeper trees are nobody's; each level costs a descriptor.
const DEPTH_MAX: usize = 900;

/// File systems that are the kernel's view and not files: a copy of the whole root leaves them out.
const PSEUDO: [u64; 14] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0xcafe_4a11, // bpf
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x4249_4e4d, // binfmt_misc
];

/// What a path names.
pub(super) struct Found {
    pub stat: PathStat,
    path: String,
    place: OwnedFd,
    raw: Stat,
}

impl Found {
    pub fn at(tree: &Tree, path: &str) -> Result<Self, Failure> {
        let path = absolute(path);
        let (stat, place, raw) = tree.stat(&path)?;
        Ok(Self {
            stat,
            path,
            place,
            raw,
        })
    }
}

/// Writes what `found` names: a directory with all below it, named by the last part of its path.
pub(super) fn path(tree: &Tree, found: Found, pipe: File) -> Result<(), Failure> {
    let mut packer = Packer::new(tree, pipe);
    let name = base(&found.path);
    if is(&found.raw, FileType::Directory) {
        let directory = tree
            .reopen(&found.place)
            .map_err(|e| trouble(format_args!("open {}", found.path), e))?
            .into();
        // The root's entries have no name in front of their slash.
        let prefix = if name == "/" { "" } else { name };
        packer.at_root = matches!(found.path.as_str(), "/" | "/.");
        packer.directory(&directory, prefix.as_bytes(), 0)?;
    } else {
        packer.file(&found.place, &found.raw, name.as_bytes())?;
    }
    packer.finish()
}

/// Writes everything below the root.
pub(super) fn everything(tree: &Tree, pipe: File) -> Result<(), Failure> {
    let mut packer = Packer::new(tree, pipe);
    let root = tree.directory(b"/").map_err(|e| failure("open /", e))?;
    packer.entries(&root, None, 0)?;
    packer.finish()
}

struct Packer<'a> {
    tree: &'a Tree,
    tar: TarWriter<BufWriter<File>>,
    /// Names of files with several links that are written already.
    links: HashMap<(u64, u64), Vec<u8>>,
    device: u64,
    /// The walk began at the container's root.
    at_root: bool,
    buffer: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn new(tree: &'a Tree, pipe: File) -> Self {
        // Fewer switches between us and the daemon; the kernel may allow less.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE);
        Self {
            tree,
            tar: TarWriter::new(BufWriter::with_capacity(PIECE, pipe)),
            links: HashMap::new(),
            device: rustix::fs::fstat(&tree.root).map_or(0, |stat| stat.st_dev),
            at_root: false,
            buffer: vec![0; PIECE],
        }
    }

    fn finish(self) -> Result<(), Failure> {
        let mut pipe = self.tar.finish().map_err(|e| trouble("write archive", e))?;
        pipe.flush().map_err(|e| trouble("write archive", e))
    }

    /// A directory and what is below it.
    fn directory(&mut self, directory: &OwnedFd, name: &[u8], depth: usize) -> Result<(), Failure> {
        let failed = |e: Errno| trouble(shown(name), e);
        let stat = rustix::fs::fstat(directory).map_err(failed)?;
        let mut entry = entry(&stat, [name, b"/"].concat());
        entry.kind = Kind::Directory;
        self.begin(&entry)?;
        if self.leave_out(directory, &stat, name) {
            return Ok(());
        }
        self.entries(directory, Some(name), depth)
    }

    /// /proc and the like, and the device nodes of /dev, when they are met on the way.
    fn leave_out(&self, directory: &OwnedFd, stat: &Stat, name: &[u8]) -> bool {
        if stat.st_dev == self.device {
            return false;
        }
        let pseudo = rustix::fs::fstatfs(directory)
            .is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|kind| PSEUDO.contains(&kind)));
        pseudo || (self.at_root && matches!(name, b"/dev" | b"./dev"))
    }

    fn entries(
        &mut self,
        directory: &OwnedFd,
        name: Option<&[u8]>,
        depth: usize,
    ) -> Result<(), Failure> {
        if depth > DEPTH_MAX {
            return Err(trouble(shown(name.unwrap_or_default()), Errno::NAMETOOLONG));
        }
        let here = |e: io::Error| trouble(format_args!("read {}", text(name.unwrap_or(b"/"))), e);
        for child in names(directory).map_err(here)? {
            let child = child.to_bytes();
            let full = match name {
                Some(name) => [name, b"/", child].concat(),
                None => child.to_vec(),
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = match rustix::fs::openat(directory, os(child), flags, Mode::empty()) {
                Ok(place) => place,
                // Removed since the directory was read.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(trouble(shown(&full), e)),
            };
            let stat = rustix::fs::fstat(&place).map_err(|e| trouble(shown(&full), e))?;
            if is(&stat, FileType::Directory) {
                let opened = self
                    .tree
                    .reopen(&place)
                    .map_err(|e| trouble(shown(&full), e))?;
                drop(place);
                self.directory(&opened.into(), &full, depth + 1)?;
            } else {
                self.file(&place, &stat, &full)?;
            }
        }
        Ok(())
    }

    /// Anything but a directory. `place` is the thing itself, whatever has its name by now.
    fn file(&mut self, place: &OwnedFd, stat: &Stat, name: &[u8]) -> Result<(), Failure> {
        let failed = |e: io::Error| trouble(shown(name), e);
        let mut entry = entry(stat, name.to_vec());
        let device = |stat: &Stat| (major(stat.st_rdev), minor(stat.st_rdev));
        entry.kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => {
                entry.link = rustix::fs::readlinkat(place, c"", Vec::new())
                    .map_err(|e| failed(e.into()))?
                    .into_bytes();
                Kind::Symlink
            }
            FileType::CharacterDevice => {
                let (major, minor) = device(stat);
                Kind::Char { major, minor }
            }
            FileType::BlockDevice => {
                let (major, minor) = device(stat);
                Kind::Block { major, minor }
            }
            FileType::Fifo => Kind::Fifo,
            // No archive can hold a socket; dockerd passes over them, too.
            _ => return Ok(()),
        };
        if stat.st_nlink > 1 {
            let known = self.links.entry((stat.st_dev, stat.st_ino));
            match known {
                std::collections::hash_map::Entry::Occupied(first) => {
                    entry.kind = Kind::HardLink;
                    entry.link.clone_from(first.get());
                    return self.begin(&entry);
                }
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(name.to_vec());
                }
            }
        }
        if entry.kind != Kind::File {
            return self.begin(&entry);
        }
        let file = self.tree.reopen(place).map_err(failed)?;
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        capability(&file, &mut entry);
        self.begin(&entry)?;
        self.content(file, entry.size, name)
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), Failure> {
        let written = self.tar.begin(entry);
        written.map_err(|e| trouble(format_args!("write archive: {}", text(&entry.path)), e))
    }

    /// As many bytes as the header promised: a file that grows is cut, one that shrinks is filled up with zeros.
    fn content(&mut self, mut file: File, size: u64, name: &[u8]) -> Result<(), Failure> {
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let got = match file.read(&mut self.buffer[..want]) {
                Ok(0) => {
                    self.buffer[..want].fill(0);
                    want
                }
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(trouble(format_args!("read {}", text(name)), error)),
            };
            self.tar
                .write(&self.buffer[..got])
                .map_err(|e| trouble("write archive", e))?;
            left -= got as u64;
        }
        Ok(())
    }
}

fn text(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

fn shown(name: &[u8]) -> String {
    format!("lstat {}", text(name))
}

fn entry(stat: &Stat, path: Vec<u8>) -> Entry {
    Entry {
        path,
        link: Vec::new(),
        kind: Kind::File,
        size: 0,
        sparse: None,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        // Whole seconds: the header needs no extension then.
        mtime: Time {
            seconds: stat.st_mtime,
            nanos: 0,
        },
        xattrs: Vec::new(),
    }
}

/// File capabilities travel, as in dockerd; other attributes do not.
fn capability(file: &File, entry: &mut Entry) {
    const NAME: &str = "security.capability";
    let mut value = [0u8; 64];
    if let Ok(length) = rustix::fs::fgetxattr(file, NAME, &mut value[..]) {
        let value = value[..length.min(value.len())].to_vec();
        entry.xattrs.push((NAME.as_bytes().to_vec(), value));
    }
}
