//! Who may write into a container's layer: its own run, or copies into it while it does not run.
//!
//! Two mounts of one upper layer may not be written to at once. A start waits for the copies that are under way, but not
//! for ever; removal does not wait for them.

use std::{sync::Arc, time::Duration};

use longshore_model::{Error, Result};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// How long a start waits for copies before it breaks them off.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a copy that is broken off may take to end.
const END: Duration = Duration::from_secs(5);

/// One container's gate.
pub(crate) struct Gate {
    lock: Arc<RwLock<()>>,
    /// Counts how often copies were told to end.
    broken_off: watch::Sender<u64>,
}

/// A copy's permission to write.
pub(crate) enum Pass {
    /// Into a running container, beside others.
    Shared { _guard: OwnedRwLockReadGuard<()> },
    /// Into one that does not run: nobody else.
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            lock: Arc::default(),
            broken_off: watch::channel(0).0,
        }
    }
}

impl Gate {
    /// For a copy into a container that runs or not.
    pub(crate) async fn pass(&self, running: bool) -> Pass {
        let lock = self.lock.clone();
        if running {
            let _guard = lock.read_owned().await;
            Pass::Shared { _guard }
        } else {
            let _guard = lock.write_owned().await;
            Pass::Alone { _guard }
        }
    }

    /// Resolves when copies that had begun before this call are to end.
    pub(crate) fn breaks_off(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.broken_off.subscribe();
        async move {
            let _ = told.changed().await;
        }
    }

    /// For a start: keeps copies out until the result is dropped.
    ///
    /// # Errors
    /// A copy does not end.
    pub(crate) async fn close(&self) -> Result<OwnedRwLockWriteGuard<()>> {
        let closed = self.lock.clone().write_owned();
        tokio::pin!(closed);
        if let Ok(guard) = tokio::time::timeout(PATIENCE, &mut closed).await {
            return Ok(guard);
        }
        self.break_off();
        tokio::time::timeout(END, closed).await.map_err(|_| {
            Error::conflict("files are being copied into the container, and the copy does not end")
        })
    }

    /// Ends copies at once.
    pub(crate) fn break_off(&self) {
        self.broken_off.send_modify(|times| *times += 1);
    }
}
