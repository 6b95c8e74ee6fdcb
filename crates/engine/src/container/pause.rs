//! Pause and unpause: all processes of a container are frozen by its control group. A signal that ends a paused container
//! thaws it, as in dockerd.

use std::{collections::BTreeMap, time::Duration};

use longshore_model::{Error, Result};
use longshore_shim::host::Cgroup;
use longshore_store::{Durability, NewEvent};

use super::{
    actor::{Actor, Command, Pending},
    phase::Phase,
};
use crate::Engine;

/// How long a pause waits for processes that are just being started in the container.
const EXEC_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// 404; 409 when it does not run, restarts or is paused already.
    pub async fn pause_container(&self, name: &str) -> Result<()> {
        self.pause_or_not(name, true).await
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    /// 404; 500 when it is not paused, as dockerd.
    pub async fn unpause_container(&self, name: &str) -> Result<()> {
        self.pause_or_not(name, false).await
    }

    async fn pause_or_not(&self, name: &str, paused: bool) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        self.inner
            .ask(&handle, |reply| Command::Pause { paused, reply })
            .await
    }
}

impl Actor {
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.run.state.phase, Phase::Running { paused: true, .. })
    }

    fn set_paused(&mut self, now: bool) {
        if let Phase::Running { paused, .. } = &mut self.run.state.phase {
            *paused = now;
        }
    }

    pub(super) async fn pause(&mut self) -> Result<()> {
        self.run
            .state
            .phase
            .may_pause(self.definition.id.as_str())?;
        if let Some(probe) = self.run.health.as_ref().and_then(|h| h.probe.clone()) {
            self.signal_exec(probe, 9, None).await;
        }
        self.execs_started().await?;
        if !self.run.state.phase.is_running() {
            return Err(self.not_running());
        }
        self.freeze(true)
            .await
            .map_err(|e| e.context(format!("cannot pause container {}", self.definition.id)))?;
        self.set_paused(true);
        self.health_stops();
        let event = self.event("pause", BTreeMap::new());
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            let _ = self.freeze(false).await;
            self.thawed();
            self.publish();
            return Err(error);
        }
        Ok(())
    }

    /// The shim waits for an exec's first steps in the container: frozen meanwhile, they would hold it up for as long as the
    /// pause lasts.
    async fn execs_started(&mut self) -> Result<()> {
        let give_up = tokio::time::Instant::now() + EXEC_PATIENCE;
        while self.pending.values().any(|p| matches!(p, Pending::Exec(_))) {
            let Some(link) = self.link.as_mut() else {
                break;
            };
            let message = tokio::time::timeout_at(give_up, link.receive())
                .await
                .map_err(|_| {
                    Error::system(format!(
                        "cannot pause container {}: a process is still being started in it",
                        self.definition.id
                    ))
                })?;
            self.observe(message).await;
        }
        Ok(())
    }

    pub(super) async fn unpause(&mut self) -> Result<()> {
        if !self.is_paused() {
            return Err(Error::system(format!(
                "container {} is not paused",
                self.definition.id
            )));
        }
        self.freeze(false)
            .await
            .map_err(|e| e.context(format!("cannot unpause container {}", self.definition.id)))?;
        let event = self.thawed();
        // It runs, whether the disk takes the news or not.
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "unpause not recorded: {error}");
            self.publish();
        }
        Ok(())
    }

    /// The state after a thaw, and its event.
    fn thawed(&mut self) -> NewEvent {
        self.set_paused(false);
        self.plan_probe();
        self.event("unpause", BTreeMap::new())
    }

    /// A paused container has got a signal that is to end it: it must run to hear it.
    pub(super) async fn thaw_for_signal(&mut self) -> Option<NewEvent> {
        match self.freeze(false).await {
            Ok(()) => Some(self.thawed()),
            Err(error) => {
                tracing::error!(container = %self.definition.id, "not thawed: {error}");
                None
            }
        }
    }

    async fn freeze(&self, frozen: bool) -> Result<()> {
        let path = self.cgroup_path();
        crate::blocking(move || {
            Cgroup::open(&path)
                .freeze(frozen)
                .map_err(|e| Error::io("freeze the control group", e))
        })
        .await
    }

    /// At start-up the kernel knows better than the record, which may have missed the last pause or thaw.
    pub(super) async fn adopt_freeze(&mut self) {
        let path = self.cgroup_path();
        let frozen = crate::blocking(move || {
            Cgroup::open(&path)
                .frozen()
                .map_err(|e| Error::io("read the freezer", e))
        })
        .await
        .unwrap_or_else(|_| self.is_paused());
        if frozen == self.is_paused() {
            return;
        }
        self.set_paused(frozen);
        let action = if frozen { "pause" } else { "unpause" };
        let event = self.event(action, BTreeMap::new());
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "{action} not recorded: {error}");
            self.publish();
        }
    }
}
