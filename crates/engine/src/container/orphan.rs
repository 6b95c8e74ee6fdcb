//! A container whose shim is gone or does not answer.

use std::time::Duration;

use longshore_model::{Error, Result, Timestamp};
use longshore_shim::{host::Cgroup, protocol::Exit};

use super::{actor::Actor, start::LEAVE_PATIENCE};

/// How long a killed process may take to end after a thaw.
const THAW_PATIENCE: Duration = Duration::from_secs(1);

impl Actor {
    /// The shim died or hangs up: the container's stdio and exit status are lost with it. What still runs is ended, so
    /// that nothing runs unowned.
    pub(super) async fn shim_gone(&mut self, why: &str) {
        self.link = None;
        for (_, pending) in self.pending.drain() {
            pending.fail(Error::system(format!(
                "the container's shim is gone: {why}"
            )));
        }
        if !self.run.state.phase.is_running() {
            return;
        }
        tracing::error!(container = %self.definition.id, "lost its shim: {why}");
        if let Some(pidfd) = self.pidfd.as_ref() {
            let _ = super::kill::send(pidfd, 9);
        }
        let dirs = self.engine.run_dir(&self.definition.id);
        let cgroup = self.cgroup_path();
        let exit = crate::blocking(move || {
            let _ = longshore_shim::client::kill_shim(&dirs);
            let exit = super::recover::read_exit(&dirs);
            super::recover::clear_run(&dirs, &cgroup);
            Ok(exit)
        })
        .await
        .ok()
        .flatten();
        self.exited(exit.unwrap_or(Exit {
            code: 137,
            oom_killed: false,
            time_nano: Timestamp::now().0,
        }))
        .await;
        self.auto_remove().await;
    }

    /// The last run's shim is gone. One that was killed has not removed the control groups.
    pub(super) async fn sweep_up(&self) {
        let path = self.cgroup_path();
        if !Cgroup::open(&path).exists() {
            return;
        }
        let run_dir = self.engine.run_dir(&self.definition.id);
        let _ = crate::blocking(move || {
            super::recover::clear_run(&run_dir, &path);
            Ok(())
        })
        .await;
    }

    /// The container is removed; its shim may still be at work on the control groups. The run directory stays until they are
    /// gone: by it a new daemon knows that there is something to do.
    pub(super) fn sweep_behind(&mut self) {
        let (run_dir, path) = (self.engine.run_dir(&self.definition.id), self.cgroup_path());
        let leaving = self.leaving.take();
        if leaving.is_none() && !Cgroup::open(&path).exists() {
            // Few files in a tmpfs: quicker than a trip to another thread.
            let _ = std::fs::remove_dir_all(run_dir);
            return;
        }
        tokio::spawn(async move {
            if let Some(mut shim) = leaving {
                shim.drain(LEAVE_PATIENCE).await;
            }
            crate::blocking(move || {
                super::recover::clear_run(&run_dir, &path);
                Ok(())
            })
            .await
        });
    }

    /// The first process has ended but its shim does not say so: on without it.
    pub(super) async fn abandon(&mut self) -> Result<()> {
        if !self.run.state.phase.is_running() {
            return Ok(());
        }
        let Some(pidfd) = self.pidfd.as_ref().and_then(|fd| fd.try_clone().ok()) else {
            return Err(Error::system("its first process does not end"));
        };
        let path = self.cgroup_path();
        let over = crate::blocking(move || {
            // Frozen by somebody else it cannot die.
            if !super::kill::is_over(&pidfd, Duration::ZERO) {
                let _ = Cgroup::open(&path).freeze(false);
            }
            Ok(super::kill::is_over(&pidfd, THAW_PATIENCE))
        });
        if !over.await.unwrap_or(false) {
            return Err(Error::system("its first process does not end"));
        }
        self.shim_gone("it does not answer").await;
        Ok(())
    }
}
