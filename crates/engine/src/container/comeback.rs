//! Restarts by policy: what an actor does when its container has ended and is to run again.

use std::time::Duration;

use longshore_model::{ContainerId, Result, Timestamp};
use longshore_store::Durability;
use tokio::time::Instant;

use super::{
    actor::Actor,
    phase::Phase,
    policy::{self, Ended},
};

impl Actor {
    /// The phase after an exit; plans the restart when the policy wants one.
    pub(super) fn after_exit(
        &mut self,
        exit_code: i32,
        finished: Timestamp,
        started: Timestamp,
    ) -> Phase {
        let ended = Ended {
            exit_code,
            stopped: self.run.stopped_by_user,
            restarts: self.run.restart_count,
        };
        if !policy::restarts(&self.definition.spec.restart, ended) {
            self.last_pause = None;
            return Phase::Exited;
        }
        let length = u64::try_from(finished.0.saturating_sub(started.0)).unwrap_or(0);
        self.plan_restart(Duration::from_nanos(length));
        Phase::Restarting
    }

    fn plan_restart(&mut self, length: Duration) {
        let pause = policy::pause(self.last_pause, length);
        self.last_pause = Some(pause);
        self.restart_at = Some(Instant::now() + pause);
    }

    /// The user wants it ended: a pending restart is off.
    pub(super) async fn mark_stopped(&mut self) {
        self.run.stopped_by_user = true;
        self.restart_at = None;
        self.last_pause = None;
        if self.run.state.phase == Phase::Restarting {
            self.run.state.phase = Phase::Exited;
            if let Err(error) = self.commit(Vec::new(), Durability::Survives).await {
                tracing::error!(container = %self.definition.id, "stop not recorded: {error}");
                self.publish();
            }
        }
    }

    /// The pause is over.
    pub(super) async fn restart_by_policy(&mut self) {
        self.restart_at = None;
        if self.run.state.phase != Phase::Restarting {
            return;
        }
        // Startable again, in the eyes of the phase's rules. To others it restarts until it runs: they must not take it for one
        // that has ended.
        self.run.state.phase = Phase::Exited;
        self.run.restart_count += 1;
        self.coming_back = true;
        let _ = self.start_or_plan().await;
        self.coming_back = false;
    }

    /// Starts with the daemon. One that was started meanwhile is fine.
    pub(super) async fn come_back(&mut self) -> Result<()> {
        if self.run.state.phase == Phase::Exited {
            self.start_or_plan().await
        } else {
            Ok(())
        }
    }

    /// Whoever starts the containers of a new daemon starts this one, too, if it was about to restart.
    pub(super) fn take_over_restart(&mut self) -> Option<ContainerId> {
        self.restart_at.take()?;
        self.last_pause = None;
        self.run.state.phase = Phase::Exited;
        self.publish();
        Some(self.definition.id.clone())
    }

    async fn start_or_plan(&mut self) -> Result<()> {
        let Err(error) = self.start().await else {
            return Ok(());
        };
        self.coming_back = false;
        tracing::warn!(container = %self.definition.id, "restart by policy: {error}");
        // What stands in its way may pass (a port, a donor of a namespace): tried again, ever more slowly.
        if !self.run.stopped_by_user && self.definition.spec.restart.name != "on-failure" {
            self.plan_restart(Duration::ZERO);
            self.run.state.phase = Phase::Restarting;
        }
        if let Err(error) = self.commit(Vec::new(), Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "failed restart not recorded: {error}");
            self.publish();
        }
        Err(error)
    }
}
