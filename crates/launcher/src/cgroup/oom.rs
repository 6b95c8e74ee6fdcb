//! Hearing of a want of memory while the container runs.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify,
};

use super::Cgroup;

/// Watches the container's memory. Its descriptor becomes readable when there is something to [`look`](Self::look) at.
pub struct OomWatch {
    fd: OwnedFd,
    /// Version 1 tells of a want itself, version 2 that a count may have changed.
    control: Option<PathBuf>,
    seen: u64,
}

impl Cgroup {
    /// None where nothing tells: no memory controller.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch_oom(&self) -> io::Result<Option<OomWatch>> {
        if let Some(directory) = self.directory_of("memory") {
            let control = directory.join("memory.oom_control");
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let oom = fs::File::open(&control)?;
            let mut registry = fs::File::options()
                .write(true)
                .open(directory.join("cgroup.event_control"))?;
            registry.write_all(format!("{} {}", fd.as_raw_fd(), oom.as_raw_fd()).as_bytes())?;
            let control = Some(control);
            return Ok(Some(OomWatch {
                fd,
                control,
                seen: 0,
            }));
        }
        let (true, Some(root)) = (self.layout.v1.is_empty(), &self.layout.unified) else {
            return Ok(None);
        };
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = root.join(&self.path).join("memory.events");
        match inotify::add_watch(&fd, &events, inotify::WatchFlags::MODIFY) {
            Ok(_) => Ok(Some(OomWatch {
                fd,
                control: None,
                seen: self.oom_kills()?,
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl OomWatch {
    /// True when memory has run out since the last look. Removing the group wakes a watch, too, and means nothing.
    pub fn look(&mut self, cgroup: &Cgroup) -> bool {
        let mut buffer = [0; 1024];
        let mut told = false;
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count > 0) {
            told = true;
        }
        if let Some(control) = &self.control {
            return told && control.exists();
        }
        let kills = cgroup.oom_kills().unwrap_or(self.seen);
        let more = kills > self.seen;
        self.seen = kills;
        more
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
