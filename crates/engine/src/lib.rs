//! What a container engine means: create, start, stop, images, networks, volumes, events. No HTTP, no Docker JSON.
//!
//! Verbs are methods of [`Engine`], one file a verb below `container/`, one file for the other nouns.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use longshore_model::{ContainerId, Error, Result, config::DaemonConfig};
use longshore_network::{Bridge, Manager};
use longshore_shim::{
    client::{Connection, Zygote, spawn_zygote},
    protocol::LaunchRequest,
};
use longshore_store::{Batch, Durability, Store, Table};
use tokio::sync::{Semaphore, oneshot, watch};

pub mod api;
pub mod container;
mod distribution;
mod events;
mod filter;
mod image;
mod log_watch;
mod names;
mod network;
mod open;
mod pull;
mod push;
pub mod stats;
pub mod stdio;
mod system;
mod volume;
mod volume_use;

pub use container::security::{MASKED_PATHS, READONLY_PATHS};
pub use distribution::Distribution;
pub use image::{Commit, ImportRequest, Progress, SavedImages};
pub use longshore_registry::{Credentials, Login};
pub use pull::{Detail, Line, Lines, PullRequest};
pub use push::PushRequest;

pub use api::DiskUsage;

use api::StdioStream;
use container::{
    actor::{Command, Reply},
    exec::Execs,
    registry::{Handle, Registry},
    security,
};

/// The engine. Cheap to clone; every method may be called from any task.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: DaemonConfig,
    /// Stable for a data root, in uuid form.
    pub(crate) id: String,
    pub(crate) store: Store,
    /// False when the store lost records: nothing is swept by them then.
    pub(crate) store_whole: bool,
    pub(crate) hub: Arc<events::Hub>,
    pub(crate) last_use: image::LastUse,
    pub(crate) containers: Registry,
    pub(crate) execs: Execs,
    pub(crate) volumes: volume::Volumes,
    pub(crate) volume_uses: volume_use::VolumeUses,
    pub(crate) networks: network::Networks,
    pub(crate) network: Arc<Manager>,
    pub(crate) dns: longshore_network::dns::Resolver,
    pub(crate) bridge: Option<Bridge>,
    pub(crate) filters: security::Filters,
    pub(crate) facts: system::Facts,
    pub(crate) samplers: stats::Samplers,
    pub(crate) log_watches: log_watch::LogWatches,
    pub(crate) registry: Arc<longshore_registry::Registry>,
    pub(crate) downloads: pull::Downloads,
    pub(crate) start_slots: Semaphore,
    pub(crate) runtime: tokio::runtime::Handle,
    /// True once the daemon shuts down: streams end.
    pub(crate) closing: watch::Sender<bool>,
    zygote: Mutex<Option<Zygote>>,
}

/// What starting an exec gave.
pub enum ExecStart {
    /// Started without a stream.
    Detached,
    Attached(StdioStream),
    /// The process could not be run: dockerd answers 101/200 all the same and writes the text, `\r\n`-ended, as a
    /// stdout frame.
    Failed {
        tty: bool,
        message: String,
    },
}

/// Runs blocking code off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::system(format!("internal error: {error}"))))
}

impl Inner {
    /// State of a run that ends with a reboot: shim socket, exit record.
    pub(crate) fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.exec_root.join("containers").join(id.as_str())
    }

    pub(crate) fn cgroup_path(&self, snapshot: &api::Snapshot) -> String {
        container::plan::cgroup_path_of(&self.config, &snapshot.spec.cgroup_parent, &snapshot.id)
    }

    /// Asks a container's actor and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        handle: &Handle,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::not_found(format!("No such container: {}", handle.id));
        handle
            .commands
            .send(command(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Tells a container's actor something that has no answer.
    pub(crate) async fn tell(&self, handle: &Handle, command: Command) {
        let _ = handle.commands.send(command).await;
    }

    /// Commits; `visible` runs after the commit and before its events reach anybody, in commit order.
    pub(crate) async fn commit(
        &self,
        batch: Batch,
        durability: Durability,
        visible: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let (done, wait) = oneshot::channel();
        let hub = self.hub.clone();
        self.store.submit(
            batch,
            durability,
            Box::new(move |result| {
                let result = result.map(|events| {
                    visible();
                    // The store's own image changes are published by its commit hook.
                    let own: Vec<_> = events.into_iter().filter(|e| e.kind != "image").collect();
                    hub.publish(&own);
                });
                let _ = done.send(result);
            }),
        );
        wait.await
            .unwrap_or_else(|_| Err(Error::unavailable("the store is closed")))
    }

    /// Moves a record that cannot be read out of the way.
    pub(crate) fn quarantine(&self, key: &str, reason: &str) {
        tracing::error!(key, "record quarantined: {reason}");
        if let Err(error) = self.store.quarantine(Table::Container, key, reason) {
            tracing::error!(key, "not quarantined: {error}");
        }
    }

    /// Hands a launch to a fresh shim.
    pub(crate) fn launch(
        &self,
        request: &LaunchRequest,
        clients: Vec<OwnedFd>,
    ) -> Result<Connection> {
        self.with_zygote(|zygote| {
            zygote
                .launch(request, clients)
                .map_err(|e| Error::io("hand the launch to the zygote", e))
        })
    }

    /// The socket of a fresh helper for files.
    pub(crate) fn helper_socket(&self) -> Result<OwnedFd> {
        self.with_zygote(|zygote| {
            zygote
                .helper()
                .map_err(|e| Error::io("ask the zygote for a helper", e))
        })
    }

    /// A zygote that has died is replaced.
    fn with_zygote<T>(&self, work: impl FnOnce(&Zygote) -> Result<T>) -> Result<T> {
        let mut zygote = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        if zygote.as_ref().is_none_or(|zygote| !zygote.alive()) {
            *zygote = Some(spawn_zygote().map_err(|e| Error::io("start the zygote", e))?);
        }
        work(zygote.as_ref().ok_or_else(|| Error::system("no zygote"))?)
    }
}

impl Engine {
    pub fn config(&self) -> &DaemonConfig {
        &self.inner.config
    }

    /// True when this host has the unified hierarchy only.
    pub fn cgroup_v2(&self) -> bool {
        self.inner.facts.cgroup_version == 2
    }

    /// Ends all streams (events, logs, attach) with EOF and refuses new ones; containers stay.
    pub async fn shutdown(&self) {
        self.inner.closing.send_replace(true);
        self.inner.hub.close();
        let engine = self.inner.clone();
        let _ = blocking(move || {
            let idle = !engine
                .containers
                .snapshots()
                .iter()
                .any(|s| s.state.running());
            engine.network.shutdown(idle);
            Ok(())
        })
        .await;
    }

    /// Resolves when the daemon shuts down: streams that serve a client end then.
    pub async fn closing(&self) {
        let mut closing = self.inner.closing.subscribe();
        let _ = closing.wait_for(|closed| *closed).await;
    }
}
