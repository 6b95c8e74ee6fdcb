//! Places in a container's root. Every path goes through openat2 with the root as its root, so that no link leads out, even
//! one that changes while it is followed.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use longshore_model::error::go_errno;
use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{Failure, FailureKind, PathStat};

/// A rename anywhere on the host can make the kernel give up a look-up; after so many times somebody does it on purpose.
const TRIES: usize = 10_000;
/// As the kernel's own limit.
const LINKS_MAX: usize = 40;

/// An error with what was tried, and the errno that decides its kind.
pub(super) fn failure(doing: impl std::fmt::Display, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    Failure {
        kind: match error.raw_os_error() {
            Some(libc::ENOENT) => FailureKind::NotFound,
            _ => FailureKind::System,
        },
        message: format!("{doing}: {}", go_errno(&error)),
    }
}

/// The same, but never "not found": the path that was asked for is there, something else is missing.
pub(super) fn trouble(doing: impl std::fmt::Display, error: impl Into<io::Error>) -> Failure {
    Failure {
        kind: FailureKind::System,
        ..failure(doing, error)
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure {
        kind: FailureKind::Invalid,
        message: message.into(),
    }
}

pub(super) struct Tree {
    pub root: OwnedFd,
    /// Our own /proc/self/fd, whatever is mounted at the container's /proc.
    pub descriptors: OwnedFd,
}

impl Tree {
    /// Opens what a descriptor refers to again, for reading. Only for regular files and directories: opening others may do
    /// things.
    pub fn reopen(&self, place: &OwnedFd) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let name = place.as_raw_fd().to_string();
        Ok(rustix::fs::openat(&self.descriptors, name, flags, Mode::empty())?.into())
    }

    /// Opens a path of the container.
    pub fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path: &[u8] = if path.is_empty() { b"/" } else { path };
        let name = CString::new(path).map_err(|_| Errno::NOENT)?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            let opened = rustix::fs::openat2(
                &self.root,
                &name,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            );
            match opened {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The place itself, a link not followed at the end (unless a slash follows it).
    pub fn place(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// A directory, for reading its entries.
    pub fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// What HEAD tells of a path.
    pub fn stat(&self, path: &str) -> Result<(PathStat, OwnedFd, Stat), Failure> {
        let failed = |error: Errno| failure(format_args!("lstat {path}"), error);
        let place = self.place(path.as_bytes()).map_err(failed)?;
        let stat = rustix::fs::fstat(&place).map_err(failed)?;
        let link_target = if is(&stat, FileType::Symlink) {
            String::from_utf8_lossy(&self.follow(path.as_bytes())?).into_owned()
        } else {
            String::new()
        };
        let shown = PathStat {
            name: base(path).to_owned(),
            size: stat.st_size,
            mode: stat.st_mode,
            modified: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            link_target,
        };
        Ok((shown, place, stat))
    }

    /// Where a path leads when all links are followed, as far as there is anything.
    fn follow(&self, path: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut todo = backwards(path);
        let (mut done, mut links): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
        while let Some(part) = todo.pop() {
            if part == b".." {
                done.pop();
                continue;
            }
            done.push(part);
            let here = [b"/".as_slice(), &done.join(&b'/')].concat();
            let Ok(place) = self.place(&here) else {
                continue;
            };
            let Ok(target) = rustix::fs::readlinkat(&place, c"", Vec::new()) else {
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(trouble(
                    format_args!("readlink {}", String::from_utf8_lossy(path)),
                    Errno::LOOP,
                ));
            }
            let target = target.into_bytes();
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(backwards(&target));
        }
        Ok([b"/".as_slice(), &done.join(&b'/')].concat())
    }
}

/// Components, the last one first.
fn backwards(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec);
    parts.filter(|part| part != b"" && part != b".").collect()
}

/// Go's `filepath.Base`.
pub(super) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

/// The path from the root on without `.`, `..` and double slashes, taken as text; an end of `/` or `/.` stays, for it says
/// that a directory is meant.
pub(super) fn absolute(path: &str) -> String {
    let mut clean: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    let mut text = format!("/{}", clean.join("/"));
    if path == "." || path.ends_with("/.") {
        if !text.ends_with('/') {
            text.push('/');
        }
        text.push('.');
    } else if path.ends_with('/') && !text.ends_with('/') {
        text.push('/');
    }
    text
}

pub(super) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// Names in a directory, sorted as bytes.
pub(super) fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_text() {
        for (path, want) in [
            ("/etc/", "/etc/"),
            ("etc", "/etc"),
            ("/etc/.", "/etc/."),
            ("/a/../../b", "/b"),
            ("/", "/"),
            (".", "/."),
            ("//a//b", "/a/b"),
            ("", "/"),
        ] {
            assert_eq!(absolute(path), want, "{path}");
        }
        for (path, want) in [
            ("/tmp/", "tmp"),
            ("/", "/"),
            ("/etc/.", "."),
            ("a/b", "b"),
            ("", "."),
        ] {
            assert_eq!(base(path), want, "{path}");
        }
    }
}
