//! Taking a container away, and prune.

use std::{collections::BTreeMap, sync::Arc};

use longshore_model::{Error, Result};
use longshore_store::{Batch, Durability, Table};

use super::{
    actor::{Actor, Command},
    phase::Phase,
    record::RUN_SUFFIX,
    registry::Handle,
};
use crate::{
    Engine,
    api::{Filters, PruneReport, RemoveRequest},
};

impl Engine {
    /// Removes a container; with force a running one is killed first.
    ///
    /// # Errors
    /// 404, 409 while it runs or is being removed.
    pub async fn remove_container(&self, name: &str, request: RemoveRequest) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        if request.link {
            return Err(Error::not_implemented(
                "removing links is not implemented by longshore yet",
            ));
        }
        let snapshot = handle.snapshot();
        snapshot
            .state
            .phase
            .may_remove(snapshot.id.as_str(), name, request.force)?;
        loop {
            if request.force && handle.snapshot().state.running() {
                self.kill_for_removal(name, &handle).await?;
            }
            if request.force && handle.snapshot().state.phase == Phase::Restarting {
                self.inner.tell(&handle, Command::MarkStopped).await;
            }
            let given = name.to_owned();
            let again = request.clone();
            let removed = self
                .inner
                .ask(&handle, |reply| Command::Remove {
                    request: again,
                    given,
                    reply,
                })
                .await;
            match removed {
                // Auto-removal was faster: gone is gone.
                Err(_) if handle.snapshot().removed => return Ok(()),
                // A start came in between.
                Err(_) if request.force && handle.snapshot().state.running() => {}
                other => return other,
            }
        }
    }

    async fn kill_for_removal(&self, name: &str, handle: &Arc<Handle>) -> Result<()> {
        let exits = handle.snapshot().exits;
        self.inner.tell(handle, Command::MarkStopped).await;
        let killed = self
            .inner
            .ask(handle, |reply| Command::Signal {
                signal: 9,
                log: true,
                reply,
            })
            .await;
        if killed.is_ok() && !self.killed(handle, exits).await {
            return Err(Error::conflict(format!(
                "cannot remove container \"{name}\": could not kill container: tried to kill container, but did not \
                 receive an exit event"
            )));
        }
        Ok(())
    }

    /// Removes all containers that do not run and match.
    ///
    /// # Errors
    /// Filter values that are not valid.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<PruneReport> {
        let mut report = PruneReport {
            deleted: Vec::new(),
            space_reclaimed: 0,
        };
        let until = crate::filter::until(filters)?;
        for handle in self.inner.containers.handles() {
            let snapshot = handle.snapshot();
            let idle = matches!(
                snapshot.state.phase,
                Phase::Created | Phase::Exited | Phase::Dead
            );
            let old_enough = until.is_none_or(|until| snapshot.created.0 <= until);
            if !idle || !old_enough || !crate::filter::labels(&snapshot.spec.labels, filters) {
                continue;
            }
            let dirs = self.inner.store.containers().dirs(&snapshot.id);
            let size = crate::blocking(move || Ok(crate::system::disk_size(&dirs.upper)))
                .await
                .unwrap_or(0);
            let id = snapshot.id.to_string();
            if self
                .remove_container(&id, RemoveRequest::default())
                .await
                .is_ok()
            {
                report.deleted.push(id);
                report.space_reclaimed += size;
            }
        }
        let space = BTreeMap::from([("reclaimed".to_owned(), report.space_reclaimed.to_string())]);
        let mut batch = Batch::new();
        batch.event(crate::events::event("container", "prune", "", space));
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok(report)
    }
}

impl Actor {
    /// `--rm`: with its anonymous volumes, quietly.
    pub(super) async fn auto_remove(&mut self) {
        if !self.definition.spec.auto_remove {
            return;
        }
        let request = RemoveRequest {
            force: true,
            volumes: true,
            link: false,
        };
        let given = self.definition.name.clone();
        if let Err(error) = self.remove(&request, &given).await {
            tracing::error!(container = %self.definition.id, "not removed: {error}");
        }
    }

    pub(super) async fn remove(&mut self, request: &RemoveRequest, given: &str) -> Result<()> {
        // The caller has ended a running one; one that was started again since is not ours to kill here.
        self.run
            .state
            .phase
            .may_remove(self.definition.id.as_str(), given, false)?;
        self.gate.break_off();
        let before = std::mem::replace(&mut self.run.state.phase, Phase::Removing);
        self.publish();
        let id = self.definition.id.to_string();
        let mut batch = Batch::new();
        batch.delete(Table::Container, id.clone());
        batch.delete(Table::Container, format!("{id}{RUN_SUFFIX}"));
        let volumes = if request.volumes {
            self.drop_anonymous_volumes(&mut batch)
        } else {
            Vec::new()
        };
        batch.event(self.event("destroy", BTreeMap::new()));
        // Records first: directories without a record are swept at start-up, a record without directories would be broken.
        self.removed = true;
        let engine = self.engine.clone();
        let (gone_id, name) = (self.definition.id.clone(), self.definition.name.clone());
        let snapshot = {
            let mut last = self.view.borrow().as_ref().clone();
            last.removed = true;
            Arc::new(last)
        };
        let view = self.view.clone();
        let committed = engine
            .clone()
            .commit(batch, Durability::Survives, move || {
                engine.containers.remove(&gone_id, &name);
                view.send_replace(snapshot);
            })
            .await;
        for record in volumes {
            let (store, volumes) = (&self.engine.store, &self.engine.volumes);
            volumes.removed(store, record, committed.is_ok());
        }
        if let Err(error) = committed {
            self.removed = false;
            self.run.state.phase = before;
            self.publish();
            return Err(error);
        }
        self.waiting.clear();
        if let Err(error) = self.engine.store.containers().discard(&self.definition.id) {
            tracing::error!(container = %id, "directory not removed: {error}");
        }
        self.sweep_behind();
        Ok(())
    }

    fn drop_anonymous_volumes(&self, batch: &mut Batch) -> Vec<crate::volume::VolumeRecord> {
        let mut records = Vec::new();
        for mount in self.definition.mounts.iter().filter(|m| m.anonymous) {
            let in_use = self.engine.containers.snapshots().iter().any(|other| {
                other.id != self.definition.id
                    && other.mounts.iter().any(|p| p.name == mount.point.name)
            });
            if !in_use {
                records.extend(self.engine.volumes.remove_from(&mount.point.name, batch));
            }
        }
        records
    }
}
