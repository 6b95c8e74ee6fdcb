//! Tells when logs have grown or were rotated: one inotify instance for any number of logs (a user has 128 instances as a rule).

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

/// Names a watched log; several readers of one folder share the same key.
pub type WatchKey = i32;

/// Watches the folders of logs. The descriptor becomes readable when one has changed: make the watch, read the log to its end, wait,
/// call [`Self::changed`], read on.
pub struct LogWatch {
    inotify: OwnedFd,
    users: HashMap<WatchKey, usize>,
}

impl LogWatch {
    /// # Errors
    /// `EMFILE` when the user's inotify instances are used up.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            users: HashMap::new(),
        })
    }

    /// Watches the log at `path`; its folder must exist, the log itself need not.
    ///
    /// # Errors
    /// `ENOSPC` when fs.inotify.max_user_watches is used up, `ENOENT` without the folder.
    pub fn add(&mut self, path: &Path) -> io::Result<WatchKey> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        let key = inotify::add_watch(&self.inotify, folder, flags)?;
        *self.users.entry(key).or_default() += 1;
        Ok(key)
    }

    /// Gives up one use of a key.
    pub fn remove(&mut self, key: WatchKey) {
        let Some(users) = self.users.get_mut(&key) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&key);
            // Fails when the folder is gone already.
            let _ = inotify::remove_watch(&self.inotify, key);
        }
    }

    /// The logs that may have changed since the last call; never blocks. After an overflow of the kernel's queue: all of them.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn changed(&mut self) -> io::Result<Vec<WatchKey>> {
        let mut keys = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    keys.extend(self.users.keys().copied());
                }
                Ok(event) => keys.push(event.wd()),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| self.users.contains_key(key));
        Ok(keys)
    }
}

impl AsFd for LogWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for LogWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}
