//! From created or exited to running: endpoint, record of the intent, ports, files, shim, record of the run. What was
//! made before a failure is undone in reverse order.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::Duration};

use longshore_model::{Error, ErrorKind, Result, Timestamp, id::random_hex, port::PublishedPort};
use longshore_network::dns::Scope;
use longshore_shim::protocol::{
    AttachStreams, LaunchFailure, LaunchFailureKind, LaunchRequest, Message, RequestBody,
};
use longshore_store::{Durability, NewEvent};
use tokio::sync::SemaphorePermit;

use super::{
    actor::{Actor, SHIM_PATIENCE},
    dns,
    networking::{self, Plugged},
    phase::Phase,
    plan::{self, Joins, Surroundings},
    record::Definition,
    shim_link::ShimLink,
    spec::{IpcMode, Mode, NetworkMode},
};
use crate::{Engine, Inner};

/// How long the last run's shim may take to remove what it had. It gives up by itself after five seconds.
pub(super) const LEAVE_PATIENCE: Duration = Duration::from_secs(6);
/// A start that takes longer gives its turn away.
const SLOT_PATIENCE: Duration = Duration::from_secs(1);

impl Engine {
    /// Starts a container.
    ///
    /// # Errors
    /// `NotModified` when it runs; Docker's text for what could not be made or run.
    pub async fn start_container(&self, name: &str) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        self.inner
            .ask(&handle, |reply| super::actor::Command::Start { reply })
            .await
    }
}

/// What a run needs, made step by step; dropped into the record once it runs.
struct Setup {
    endpoints: Vec<Plugged>,
    ports: Vec<PublishedPort>,
}

impl Actor {
    pub(super) async fn start(&mut self) -> Result<()> {
        self.run.state.phase.may_start()?;
        let before = self.run.state.phase.clone();
        let joins = self.joins()?;
        let gate = self.gate.clone();
        let _closed = gate.close().await?;
        // Before its turn: a server that does not answer, or a last run that does not leave, holds up this container alone.
        self.acquire_volumes().await?;
        if let Some(mut last) = self.leaving.take() {
            last.drain(LEAVE_PATIENCE).await;
            self.sweep_up().await;
        }
        // More starts at once than this only fight for the kernel's locks (floor.md section 5).
        let engine = self.engine.clone();
        let slot = engine
            .start_slots
            .acquire()
            .await
            .map_err(|_| Error::unavailable("the daemon is shutting down"))?;
        let endpoints = match self.allocate() {
            Ok(endpoints) => endpoints,
            Err(error) => {
                self.release_volumes().await;
                return Err(error);
            }
        };
        let mut setup = Setup {
            endpoints,
            ports: Vec::new(),
        };
        match self.bring_up(&mut setup, joins, slot).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.undo(setup, before, failure).await),
        }
    }

    async fn bring_up(
        &mut self,
        setup: &mut Setup,
        joins: Joins,
        slot: SemaphorePermit<'_>,
    ) -> std::result::Result<(), StartError> {
        self.run.state.phase = Phase::Starting;
        self.run.endpoints.clone_from(&setup.endpoints);
        dns::announce(&self.engine, &self.definition, &setup.endpoints);
        let work = SetUp {
            engine: self.engine.clone(),
            definition: self.definition.clone(),
            endpoints: setup.endpoints.clone(),
            joins,
            clients: std::mem::take(&mut self.waiting),
        };
        // Side by side: the intent goes to disk while ports, files and plan are made. What these make needs no undoing
        // after a crash (the rules are rebuilt, the files are the container's own); the launch waits for the intent.
        let intent = self.commit(Vec::new(), Durability::Survives);
        let (intent, made) = tokio::join!(intent, crate::blocking(move || Ok(work.run())));
        let (ports, request) = made?;
        setup.ports = ports;
        intent?;
        let (request, sockets, scope) = request?;
        let mut link = ShimLink::new(self.engine.launch(&request, sockets)?)?;
        let first = launched(&mut link, slot).await;
        self.link = Some(link);
        let (pid, start_time, pidfd) = first?;
        self.pidfd = Some(pidfd);
        if let (Some(scope), Some(link)) = (scope, self.link.as_mut()) {
            dns::serve(&self.engine, &self.definition.id, scope, || link.take_fd())?;
        }
        self.run.state = super::snapshot::State {
            phase: Phase::Running {
                pid,
                start_time,
                paused: false,
            },
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            started_at: Timestamp::now(),
            finished_at: self.run.state.finished_at,
        };
        self.run.starts += 1;
        self.run.ooms = 0;
        self.health_starts();
        self.run.stopped_by_user = false;
        self.run.networked = true;
        self.run.sandbox_id = if self.run.sandbox_id.is_empty() {
            random_hex()
        } else {
            self.run.sandbox_id.clone()
        };
        self.run.ports.clone_from(&setup.ports);
        let mut events = self.volume_events("mount");
        events.extend(self.network_events(&setup.endpoints, "connect"));
        events.push(self.event("start", BTreeMap::new()));
        self.commit(events, Durability::Survives).await?;
        Ok(())
    }

    fn mounted_volumes(&self) -> Vec<String> {
        let points = self.definition.mounts.iter().map(|mount| &mount.point);
        self.engine.mounted_volumes(points)
    }

    /// Mounts the volumes that have to be: see `volume_use`.
    async fn acquire_volumes(&self) -> Result<()> {
        let names = self.mounted_volumes();
        if names.is_empty() {
            return Ok(());
        }
        let (engine, id) = (self.engine.clone(), self.definition.id.clone());
        crate::blocking(move || engine.acquire_volumes(&names, &id)).await
    }

    /// What a run used goes back: network, volumes; the events that tell of it.
    pub(super) async fn give_back(&mut self) -> Vec<NewEvent> {
        let mut events = self.release_network().await;
        self.release_volumes().await;
        events.extend(self.volume_events("unmount"));
        events
    }

    async fn release_volumes(&self) {
        let names = self.mounted_volumes();
        if names.is_empty() {
            return;
        }
        let (engine, id) = (self.engine.clone(), self.definition.id.clone());
        let release = move || {
            engine.release_volumes(&names, &id);
            Ok(())
        };
        let _ = crate::blocking(release).await;
    }

    /// `mount` and `unmount` of the container's volumes.
    pub(super) fn volume_events(&self, action: &str) -> Vec<NewEvent> {
        let volumes = self
            .definition
            .mounts
            .iter()
            .map(|m| &m.point)
            .filter(|p| p.kind == "volume");
        let event = |point: &super::snapshot::MountPoint| {
            let mut attributes = BTreeMap::from([
                ("container".to_owned(), self.definition.id.to_string()),
                ("driver".to_owned(), "local".to_owned()),
            ]);
            if action == "mount" {
                attributes.insert("destination".to_owned(), point.destination.clone());
                attributes.insert("propagation".to_owned(), point.propagation.clone());
                attributes.insert("read/write".to_owned(), point.rw.to_string());
            }
            crate::events::event("volume", action, &point.name, attributes)
        };
        volumes.map(event).collect()
    }

    /// Undoes in reverse order what a failed start made, records the failure, gives the text for the client.
    async fn undo(&mut self, setup: Setup, before: Phase, failure: StartError) -> Error {
        let pidfd = self.pidfd.take();
        // A shim that has reported a failure has undone everything and ends.
        if let Some(link) = self.link.take()
            && !matches!(failure, StartError::Launch(_))
        {
            self.take_back(link, pidfd).await;
        }
        self.waiting.clear();
        if !setup.endpoints.is_empty() {
            dns::leave(&self.engine, &self.definition.id, &setup.endpoints);
            let (engine, plugged) = (self.engine.clone(), setup.endpoints);
            let _ = crate::blocking(move || {
                for p in &plugged {
                    engine.network.release(&p.endpoint, &[]);
                }
                Ok(())
            })
            .await;
        }
        self.release_volumes().await;
        let (exit_code, error) = failure.explain();
        self.probe_at = None;
        self.run.endpoints.clear();
        self.run.ports.clear();
        self.run.state.phase = before;
        self.run.state.exit_code = exit_code;
        self.run.state.error.clone_from(&error.message);
        if let Err(error) = self.commit(Vec::new(), Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "failed start not recorded: {error}");
            self.publish();
        }
        error
    }

    /// Ends a run that is not recorded (the disk refused it) or of which the shim said nothing in time.
    async fn take_back(&self, mut link: ShimLink, pidfd: Option<OwnedFd>) {
        if let Some(pidfd) = pidfd {
            let _ = super::kill::send(&pidfd, 9);
            let end = async {
                while let Ok(Some(message)) = link.receive().await {
                    if matches!(message, Message::Exited(_)) {
                        let _ = link.send(0, RequestBody::Release, Vec::new());
                    }
                }
            };
            let _ = tokio::time::timeout(LEAVE_PATIENCE, end).await;
        }
        drop(link);
        let (run_dir, cgroup) = (self.engine.run_dir(&self.definition.id), self.cgroup_path());
        let _ = crate::blocking(move || {
            super::recover::clear_run(&run_dir, &cgroup);
            Ok(())
        })
        .await;
    }

    /// The namespaces of other containers that this one joins; they must run.
    fn joins(&self) -> Result<Joins> {
        let spec = &self.definition.spec;
        let target = |name: &str| -> Result<(i32, u64)> {
            let snapshot = self.engine.containers.find(name)?.snapshot();
            match snapshot.state.phase {
                Phase::Running {
                    pid, start_time, ..
                } => Ok((pid, start_time)),
                Phase::Created
                | Phase::Starting
                | Phase::Restarting
                | Phase::Exited
                | Phase::Removing
                | Phase::Dead => Err(Error::conflict(format!(
                    "container {} is not running",
                    snapshot.id
                ))),
            }
        };
        let network = |name: &str| {
            target(name).map_err(|e| e.context("cannot join network namespace of container"))
        };
        let ipc = |name: &str| {
            let donor = self.engine.containers.find(name)?.snapshot();
            if donor.spec.ipc_mode == IpcMode::Private || donor.spec.ipc_mode == IpcMode::None {
                return Err(Error::conflict(format!(
                    "can't join IPC of container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                     container)"
                )));
            }
            target(name)
        };
        Ok(Joins {
            net: if let NetworkMode::Container(name) = &spec.network.mode {
                Some(network(name)?)
            } else {
                None
            },
            pid: if let Mode::Container(name) = &spec.pid_mode {
                Some(target(name)?)
            } else {
                None
            },
            ipc: if let IpcMode::Container(name) = &spec.ipc_mode {
                Some(ipc(name)?)
            } else {
                None
            },
        })
    }
}

/// A request for the zygote, the sockets that go with it, and what the name server is to know of the container.
type Launch = (LaunchRequest, Vec<OwnedFd>, Option<Scope>);

/// The blocking part: ports, files of the container, run directory, plan.
struct SetUp {
    engine: Arc<Inner>,
    definition: Definition,
    endpoints: Vec<Plugged>,
    joins: Joins,
    /// Attached before the start: they see the output from its first byte.
    clients: Vec<(AttachStreams, OwnedFd)>,
}

impl SetUp {
    /// Says which ports it took even when it fails.
    fn run(self) -> (Vec<PublishedPort>, Result<Launch>) {
        let front = networking::front(&self.definition.spec.network, &self.endpoints);
        let published = match front {
            Some(endpoint) => networking::publish(&self.engine, &self.definition, endpoint),
            None => Ok(Vec::new()),
        };
        match published {
            Ok(ports) => (ports, self.prepare()),
            Err(error) => (Vec::new(), Err(error)),
        }
    }

    fn prepare(self) -> Result<Launch> {
        let (engine, definition) = (&self.engine, &self.definition);
        super::files::write(engine, definition, &self.endpoints)?;
        let run_dir = engine.run_dir(&definition.id);
        std::fs::create_dir_all(&run_dir)
            .map_err(|e| Error::io(format!("mkdir {}", run_dir.display()), e))?;
        let _ = std::fs::remove_file(run_dir.join("exit.json"));
        let dirs = engine.store.containers().dirs(&definition.id);
        let around = Surroundings {
            config: &engine.config,
            filters: &engine.filters,
            cgroup_v2: engine.facts.cgroup_version == 2,
            upper: dirs.upper,
            work: dirs.work,
            plugged: &self.endpoints,
            joins: self.joins,
        };
        let mut plan = plan::build(definition, &around)?;
        plan.resolver = dns::plan(&definition.id, &self.endpoints);
        let (attach, sockets) = self.clients.into_iter().unzip();
        let request = LaunchRequest {
            plan,
            run_dir,
            log: super::logging::plan(definition)?,
            stdin_once: definition.spec.process.stdin_once,
            attach,
        };
        let scope =
            dns::served(&self.endpoints).then(|| dns::scope(engine, definition, &self.endpoints));
        Ok((request, sockets, scope))
    }
}

/// Waits for the shim's first word.
async fn launched(
    link: &mut ShimLink,
    slot: SemaphorePermit<'_>,
) -> std::result::Result<(i32, u64, OwnedFd), StartError> {
    let wait = async {
        loop {
            match link.receive().await? {
                Some(Message::Started { pid, start_time }) => {
                    let pidfd = link
                        .take_fd()
                        .ok_or_else(|| Error::system("the shim sent no pidfd"))?;
                    return Ok((pid, start_time, pidfd));
                }
                Some(Message::LaunchFailed(failure)) => return Err(StartError::Launch(failure)),
                Some(Message::Warning { text } | Message::Log { text, .. }) => {
                    tracing::warn!("{text}");
                }
                Some(Message::Done { .. }) => {}
                Some(_) => return Err(Error::system("unexpected first word from the shim").into()),
                None => {
                    return Err(
                        Error::system("the shim ended before the container had started").into(),
                    );
                }
            }
        }
    };
    tokio::pin!(wait);
    // One that takes long (a file system that does not answer, a big copy into a volume) does not hold up the others.
    if let Ok(result) = tokio::time::timeout(SLOT_PATIENCE, &mut wait).await {
        return result;
    }
    drop(slot);
    match tokio::time::timeout(SHIM_PATIENCE, wait).await {
        Ok(result) => result,
        Err(_) => Err(Error::system("the shim did not start the container in time").into()),
    }
}

/// Why a start failed.
enum StartError {
    Engine(Error),
    Launch(LaunchFailure),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl StartError {
    /// The exit code that the container then shows, and the client's error.
    fn explain(self) -> (i32, Error) {
        match self {
            Self::Engine(error) => (128, error),
            Self::Launch(failure) => {
                let (code, kind) = match failure.kind {
                    LaunchFailureKind::NotFound => (127, ErrorKind::InvalidParameter),
                    LaunchFailureKind::NotExecutable => (126, ErrorKind::InvalidParameter),
                    LaunchFailureKind::Invalid => (128, ErrorKind::InvalidParameter),
                    LaunchFailureKind::System | LaunchFailureKind::Log => (128, ErrorKind::System),
                };
                let message = failure.message;
                let text = match failure.kind {
                    LaunchFailureKind::Invalid => message,
                    LaunchFailureKind::Log => {
                        format!("failed to create task for container: {message}")
                    }
                    _ => format!(
                        "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                         runc create failed: unable to start container process: {message}"
                    ),
                };
                (code, Error::new(kind, text))
            }
        }
    }
}
