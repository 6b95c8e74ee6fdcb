//! Wakes those who follow logs: one inotify instance for the whole daemon.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use longshore_model::{Error, Result};
use longshore_shim::logs::watch::{LogWatch, WatchKey};
use tokio::{io::unix::AsyncFd, sync::watch};

#[derive(Clone)]
pub(crate) struct LogWatches {
    state: Arc<Mutex<State>>,
}

struct State {
    watch: LogWatch,
    /// By key: how to wake its readers, how many there are.
    readers: HashMap<WatchKey, (watch::Sender<()>, usize)>,
}

/// One reader's interest; gives its watch back when dropped.
pub(crate) struct Watched {
    state: Arc<Mutex<State>>,
    key: WatchKey,
    /// Mark it seen, read the log to its end, wait for a change, read on: nothing is missed.
    pub changed: watch::Receiver<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogWatches {
    /// # Errors
    /// No inotify instance left.
    pub(crate) fn new() -> Result<Self> {
        let watch = LogWatch::new().map_err(|e| Error::io("inotify", e))?;
        Ok(Self {
            state: Arc::new(Mutex::new(State {
                watch,
                readers: HashMap::new(),
            })),
        })
    }

    /// Starts the task that reads the kernel's notices.
    ///
    /// # Errors
    /// No descriptors left.
    pub(crate) fn run(&self) -> Result<()> {
        let fd = lock(&self.state)
            .watch
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::io("inotify", e))?;
        #[expect(
            deprecated,
            reason = "an OwnedFd stays open; the replacement is unsafe, which only sys may say"
        )]
        let fd = AsyncFd::new(fd).map_err(|e| Error::io("inotify", e))?;
        let state = self.state.clone();
        tokio::spawn(async move {
            while let Ok(mut ready) = fd.readable().await {
                // Cleared first: what comes while reading sets it again.
                ready.clear_ready();
                let mut state = lock(&state);
                let keys = state.watch.changed().unwrap_or_default();
                for (changed, _) in keys.iter().filter_map(|key| state.readers.get(key)) {
                    changed.send_replace(());
                }
            }
        });
        Ok(())
    }

    /// Watches a log.
    ///
    /// # Errors
    /// The folder is not there, or the user's watches are used up.
    pub(crate) fn watch(&self, log: &Path) -> Result<Watched> {
        let mut state = lock(&self.state);
        let key = state
            .watch
            .add(log)
            .map_err(|e| Error::io("watch log", e))?;
        let entry = state
            .readers
            .entry(key)
            .or_insert_with(|| (watch::channel(()).0, 0));
        entry.1 += 1;
        let changed = entry.0.subscribe();
        Ok(Watched {
            state: self.state.clone(),
            key,
            changed,
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.watch.remove(self.key);
        if let Some(entry) = state.readers.get_mut(&self.key) {
            entry.1 -= 1;
            if entry.1 == 0 {
                state.readers.remove(&self.key);
            }
        }
    }
}
