//! Other limits and another restart policy for a container that exists. A running one gets its limits at once, all or none.

use std::collections::BTreeMap;

use longshore_model::{Error, Result};
use longshore_shim::host::Cgroup;
use longshore_store::{Batch, Durability, NewEvent, Table};

use super::{
    actor::{Actor, Command},
    phase::Phase,
    record::RUN_SUFFIX,
    spec::{Resources, RestartPolicy},
};
use crate::Engine;

/// A container's request after a change, and what it means now.
pub struct Updated {
    pub resources: Resources,
    pub restart: RestartPolicy,
    /// Replaces [`crate::api::Snapshot::echo`].
    pub echo: String,
}

/// Makes the change from the present echo; run by the container's actor, so that no other change comes in between.
pub type Change = Box<dyn FnOnce(&str) -> Result<Updated> + Send>;

impl Engine {
    /// Changes limits and restart policy.
    ///
    /// # Errors
    /// 404; what `change` says; 500 when the kernel refuses a value: then nothing has changed.
    pub async fn update_container(&self, name: &str, change: Change) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        self.inner
            .ask(&handle, |reply| Command::Update { change, reply })
            .await
            .map_err(|error| error.context(format!("Cannot update container {}", handle.id)))
    }
}

impl Actor {
    pub(super) async fn update(&mut self, change: Change) -> Result<()> {
        if matches!(self.run.state.phase, Phase::Removing | Phase::Dead) {
            return Err(Error::conflict(
                "container is marked for removal and cannot be \"update\"",
            ));
        }
        let updated = change(&self.definition.echo)?;
        let before = (
            self.definition.spec.resources.clone(),
            self.definition.spec.restart.clone(),
            self.definition.echo.clone(),
        );
        let limits = changes(&before.0, &updated.resources);
        self.definition.spec.resources = updated.resources;
        self.definition.spec.restart = updated.restart;
        self.definition.echo = updated.echo;
        let event = self.event("update", BTreeMap::new());
        let result = if self.run.state.phase.is_running() {
            self.update_running(limits, event).await
        } else {
            self.commit_definition(vec![event]).await
        };
        if result.is_err() {
            let spec = &mut self.definition.spec;
            (spec.resources, spec.restart, self.definition.echo) = before;
            if let Err(error) = self.commit_definition(Vec::new()).await {
                tracing::error!(container = %self.definition.id, "update not taken back: {error}");
                self.publish();
            }
        }
        result
    }

    /// The intent first: when the daemon dies before the kernel has all values, the next one writes them again.
    async fn update_running(&mut self, limits: Resources, event: NewEvent) -> Result<()> {
        self.run.updating = true;
        let applied = match self.commit_definition(Vec::new()).await {
            Ok(()) => self.apply(limits).await,
            Err(error) => Err(error),
        };
        self.run.updating = false;
        applied?;
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "update not recorded: {error}");
        }
        Ok(())
    }

    async fn apply(&self, limits: Resources) -> Result<()> {
        let path = self.cgroup_path();
        crate::blocking(move || {
            Cgroup::open(&path)
                .update(&limits)
                .map_err(|e| Error::system(e.to_string()))
        })
        .await
    }

    /// The daemon died while it changed limits: the record says which ones were wanted.
    pub(super) async fn finish_update(&mut self) {
        if !std::mem::take(&mut self.run.updating) {
            return;
        }
        let limits = self.definition.spec.resources.clone();
        if let Err(error) = self.apply(limits).await {
            tracing::error!(container = %self.definition.id, "update not finished: {error}");
        }
        let event = self.event("update", BTreeMap::new());
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "update not recorded: {error}");
        }
    }

    async fn commit_definition(&mut self, events: Vec<NewEvent>) -> Result<()> {
        let encode =
            |value: serde_json::Result<Vec<u8>>| value.map_err(|e| Error::system(e.to_string()));
        let id = &self.definition.id;
        let mut batch = Batch::new();
        batch.put(
            Table::Container,
            id.to_string(),
            encode(serde_json::to_vec(&self.definition))?,
        );
        batch.put(
            Table::Container,
            format!("{id}{RUN_SUFFIX}"),
            encode(serde_json::to_vec(&self.run))?,
        );
        for event in events {
            batch.event(event);
        }
        self.commit_batch(batch, Durability::Survives).await
    }
}

/// What differs, as [`Cgroup::update`] takes it; values that only mean something together come together.
fn changes(old: &Resources, new: &Resources) -> Resources {
    let mut limits = Resources::default();
    if old.cpu_shares != new.cpu_shares {
        limits.cpu_shares = new.cpu_shares;
    }
    if (old.cpu_quota, old.cpu_period) != (new.cpu_quota, new.cpu_period) {
        (limits.cpu_quota, limits.cpu_period) = (new.cpu_quota, new.cpu_period);
    }
    if (old.cpu_rt_runtime, old.cpu_rt_period) != (new.cpu_rt_runtime, new.cpu_rt_period) {
        (limits.cpu_rt_runtime, limits.cpu_rt_period) = (new.cpu_rt_runtime, new.cpu_rt_period);
    }
    if old.cpuset_cpus != new.cpuset_cpus {
        limits.cpuset_cpus.clone_from(&new.cpuset_cpus);
    }
    if old.cpuset_mems != new.cpuset_mems {
        limits.cpuset_mems.clone_from(&new.cpuset_mems);
    }
    if (old.memory, old.memory_swap) != (new.memory, new.memory_swap) {
        (limits.memory, limits.memory_swap) = (new.memory, new.memory_swap);
    }
    if old.memory_reservation != new.memory_reservation {
        limits.memory_reservation = new.memory_reservation;
    }
    if old.pids_limit != new.pids_limit {
        limits.pids_limit = if new.pids_limit == 0 {
            -1
        } else {
            new.pids_limit
        };
    }
    if old.blkio_weight != new.blkio_weight {
        limits.blkio_weight = new.blkio_weight;
    }
    limits.blkio_weight_device = lists(&old.blkio_weight_device, &new.blkio_weight_device);
    limits.blkio_read_bps = lists(&old.blkio_read_bps, &new.blkio_read_bps);
    limits.blkio_write_bps = lists(&old.blkio_write_bps, &new.blkio_write_bps);
    limits.blkio_read_iops = lists(&old.blkio_read_iops, &new.blkio_read_iops);
    limits.blkio_write_iops = lists(&old.blkio_write_iops, &new.blkio_write_iops);
    limits
}

type Rates = Vec<(u32, u32, u64)>;

/// New and changed rates; a device that is no longer named gets 0, which lifts its limit.
fn lists(old: &Rates, new: &Rates) -> Rates {
    let dropped = old
        .iter()
        .filter(|o| !new.iter().any(|n| (n.0, n.1) == (o.0, o.1)));
    let changed = new.iter().filter(|n| !old.contains(n));
    dropped
        .map(|&(major, minor, _)| (major, minor, 0))
        .chain(changed.copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs() {
        let old = Resources {
            cpu_shares: 512,
            memory: 64 << 20,
            memory_swap: 128 << 20,
            pids_limit: 10,
            blkio_read_bps: vec![(8, 0, 100), (8, 16, 100)],
            ..Resources::default()
        };
        let new = Resources {
            memory: 96 << 20,
            pids_limit: 0,
            blkio_read_bps: vec![(8, 0, 200)],
            ..old.clone()
        };
        let limits = changes(&old, &new);
        assert_eq!(limits.cpu_shares, 0);
        assert_eq!((limits.memory, limits.memory_swap), (96 << 20, 128 << 20));
        assert_eq!(limits.pids_limit, -1);
        assert_eq!(limits.blkio_read_bps, [(8, 16, 0), (8, 0, 200)]);
    }
}
