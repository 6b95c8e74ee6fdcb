//! The single writer of a container: a task that takes commands and the shim's observations one at a time, decides by
//! `phase`, commits record and events in one transaction, and publishes the new snapshot.
//!
//! Order at each change (invariant 7): on disk, then visible in snapshots (so waits are answered), then events, then
//! streams end. It holds because the store's writer thread runs the callback below in commit order.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use longshore_model::{Error, Result, Timestamp};
use longshore_shim::protocol::{AttachStreams, Exit, Message, RequestBody};
use longshore_store::{Batch, Durability, NewEvent, Table, images::Lease};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    exec::ExecRequest,
    gate::Gate,
    health::HealthResult,
    phase::Phase,
    record::{Definition, RUN_SUFFIX, RunRecord},
    registry::Handle,
    shim_link::ShimLink,
    snapshot::Snapshot,
};
use crate::{
    Inner,
    api::RemoveRequest,
    network::{Attachment, NetworkRecord},
};

/// Commands that may wait for an actor; more and the sender waits.
const QUEUE: usize = 64;

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What an actor can be asked.
pub(crate) enum Command {
    Start {
        reply: Reply<()>,
    },
    /// Signal to the first process; `log` also says so in the events (`kill`).
    Signal {
        signal: i32,
        log: bool,
        reply: Reply<()>,
    },
    /// It was killed, but its shim said nothing: end the shim, too.
    Abandon {
        reply: Reply<()>,
    },
    /// Start with the daemon, as the restart policy says.
    ComeBack {
        reply: Reply<()>,
    },
    /// The user asked for an end: a restart policy stays quiet.
    MarkStopped,
    /// Freezes or thaws all processes.
    Pause {
        paused: bool,
        reply: Reply<()>,
    },
    Update {
        change: super::Change,
        reply: Reply<()>,
    },
    /// An event about this container alone (`stop`, `restart`, `attach`, ...).
    Event {
        action: String,
        attributes: BTreeMap<String, String>,
        reply: Reply<()>,
    },
    Attach {
        streams: AttachStreams,
        socket: OwnedFd,
        reply: Reply<()>,
    },
    Resize {
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
    Rename {
        name: String,
        reply: Reply<()>,
    },
    /// What it is made of.
    Define {
        reply: Reply<Box<Definition>>,
    },
    Connect {
        attachment: Box<Attachment>,
        reply: Reply<()>,
    },
    Disconnect {
        /// Of the network.
        name: String,
        /// None: it is gone.
        network: Option<Arc<NetworkRecord>>,
        reply: Reply<()>,
    },
    Remove {
        request: RemoveRequest,
        given: String,
        reply: Reply<()>,
    },
    /// Signal to an exec's process.
    ExecSignal {
        exec_id: String,
        signal: i32,
        reply: Option<Reply<()>>,
    },
    /// A health check has a result.
    Probed {
        exec_id: String,
        result: HealthResult,
    },
    Exec {
        request: ExecRequest,
        reply: Reply<std::result::Result<i32, String>>,
    },
    ExecResize {
        exec_id: String,
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
}

/// An answer that the shim owes.
pub(super) enum Pending {
    Done(Reply<()>),
    Exec(Reply<std::result::Result<i32, String>>),
}

pub(crate) struct Actor {
    pub(super) engine: Arc<Inner>,
    pub(super) definition: Definition,
    pub(super) run: RunRecord,
    pub(super) view: watch::Sender<Arc<Snapshot>>,
    pub(super) link: Option<ShimLink>,
    /// The shim of the last run, until nothing of that run is left. The next start waits for it.
    pub(super) leaving: Option<ShimLink>,
    pub(super) pidfd: Option<OwnedFd>,
    /// Clients that attached before the start.
    pub(super) waiting: Vec<(AttachStreams, OwnedFd)>,
    pub(super) pending: HashMap<u64, Pending>,
    pub(super) next_request: u64,
    /// Execs that run, for inspect.
    pub(super) exec_ids: Vec<String>,
    pub(super) removed: bool,
    /// Who may write into its layer.
    pub(super) gate: Arc<Gate>,
    /// When the restart policy brings it back.
    pub(super) restart_at: Option<tokio::time::Instant>,
    /// The restart policy is starting it.
    pub(super) coming_back: bool,
    /// When its health is checked next.
    pub(super) probe_at: Option<tokio::time::Instant>,
    /// The pause before the last restart by policy.
    pub(super) last_pause: Option<Duration>,
    /// Keep the layers of the image, and of those that are mounted, while the container exists.
    _leases: Vec<Lease>,
}

/// What is alive of a container when its actor starts.
#[derive(Default)]
pub(crate) struct Alive {
    pub link: Option<ShimLink>,
    pub leaving: Option<ShimLink>,
    pub pidfd: Option<OwnedFd>,
    pub exec_ids: Vec<String>,
    pub lease: Option<Lease>,
}

impl Actor {
    /// Starts the task of a container whose rows are stored, and makes it findable.
    pub(crate) fn spawn(engine: &Arc<Inner>, definition: Definition, run: RunRecord, alive: Alive) {
        Self::new(engine, definition, run, alive).enter();
    }

    pub(super) fn new(
        engine: &Arc<Inner>,
        definition: Definition,
        run: RunRecord,
        alive: Alive,
    ) -> Self {
        let Alive {
            link,
            leaving,
            pidfd,
            exec_ids,
            lease,
        } = alive;
        let snapshot = Arc::new(snapshot_of(engine, &definition, &run, &exec_ids, false));
        let (view, _) = watch::channel(snapshot);
        // Absent only when the image was lost with a damaged store: the layers' paths then say so at the next start.
        let mut leases = definition.mounted_images(&engine.store);
        leases.extend(lease.or_else(|| Lease::take(&engine.store, &definition.image.id)));
        Self {
            engine: engine.clone(),
            definition,
            run,
            view,
            link,
            leaving,
            pidfd,
            waiting: Vec::new(),
            pending: HashMap::new(),
            next_request: 1,
            exec_ids,
            removed: false,
            gate: Arc::default(),
            restart_at: None,
            coming_back: false,
            probe_at: None,
            last_pause: None,
            _leases: leases,
        }
    }

    /// Joins the registry and goes to work.
    pub(super) fn enter(self) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let handle = Handle {
            id: self.definition.id.clone(),
            commands,
            view: self.view.subscribe(),
            gate: self.gate.clone(),
        };
        self.engine.containers.insert(handle);
        tokio::spawn(self.work(queue));
    }

    async fn work(mut self, mut queue: mpsc::Receiver<Command>) {
        while !self.removed {
            let message = async {
                match self.link.as_mut() {
                    Some(link) => link.receive().await,
                    None => std::future::pending().await,
                }
            };
            let due = async {
                match self.restart_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let check = async {
                match self.probe_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let left = async {
                match self.leaving.as_mut() {
                    Some(link) => link.receive().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = message => self.observe(message).await,
                () = due => self.restart_by_policy().await,
                () = check => self.probe().await,
                word = left => if !matches!(word, Ok(Some(_))) {
                    self.leaving = None;
                    self.sweep_up().await;
                },
                command = queue.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start { reply } => {
                let result = self.start().await;
                let failed = result
                    .as_ref()
                    .is_err_and(|e| e.kind != longshore_model::ErrorKind::NotModified);
                answer(reply, result);
                if failed && self.run.state.phase.may_start().is_ok() {
                    self.auto_remove().await;
                }
            }
            Command::Signal { signal, log, reply } => answer(reply, self.signal(signal, log).await),
            Command::Abandon { reply } => answer(reply, self.abandon().await),
            Command::ComeBack { reply } => answer(reply, self.come_back().await),
            Command::MarkStopped => self.mark_stopped().await,
            Command::Pause { paused, reply } => {
                let result = if paused {
                    self.pause().await
                } else {
                    self.unpause().await
                };
                answer(reply, result);
            }
            Command::Update { change, reply } => answer(reply, self.update(change).await),
            Command::Event {
                action,
                attributes,
                reply,
            } => {
                let event = self.event(&action, attributes);
                answer(reply, self.commit(vec![event], Durability::Survives).await);
            }
            Command::Attach {
                streams,
                socket,
                reply,
            } => self.attach(streams, socket, reply).await,
            Command::Resize {
                rows,
                columns,
                reply,
            } => {
                self.resize(rows, columns, reply).await;
            }
            Command::Rename { name, reply } => answer(reply, self.rename(name).await),
            Command::Define { reply } => answer(reply, Ok(Box::new(self.definition.clone()))),
            Command::Connect { attachment, reply } => {
                let result = self.connect(*attachment).await;
                answer(reply, result);
            }
            Command::Disconnect {
                name,
                network,
                reply,
            } => {
                let result = self.disconnect(&name, network.as_deref()).await;
                answer(reply, result);
            }
            Command::Remove {
                request,
                given,
                reply,
            } => {
                let result = self.remove(&request, &given).await;
                answer(reply, result);
            }
            Command::ExecSignal {
                exec_id,
                signal,
                reply,
            } => self.signal_exec(exec_id, signal, reply).await,
            Command::Probed { exec_id, result } => self.probed(&exec_id, result).await,
            Command::Exec { request, reply } => self.exec(request, reply).await,
            Command::ExecResize {
                exec_id,
                rows,
                columns,
                reply,
            } => self.resize_exec(exec_id, rows, columns, reply).await,
        }
    }

    /// Sends a request to the shim and files its answer; without a shim the container is not running.
    pub(super) async fn ask(&mut self, body: RequestBody, fds: Vec<OwnedFd>, pending: Pending) {
        let id = self.next_request;
        self.next_request += 1;
        let sent = match self.link.as_mut() {
            Some(link) => link.send(id, body, fds),
            None => Err(self.not_running()),
        };
        match sent {
            Ok(()) => {
                self.pending.insert(id, pending);
            }
            Err(error) => pending.fail(error),
        }
    }

    pub(super) fn not_running(&self) -> Error {
        Error::conflict(format!("container {} is not running", self.definition.id))
    }

    pub(super) async fn observe(&mut self, message: Result<Option<Message>>) {
        match message {
            Ok(Some(message)) => self.heard(message).await,
            Ok(None) => self.shim_gone("the shim closed its connection").await,
            Err(error) => self.shim_gone(&error.message).await,
        }
    }

    async fn heard(&mut self, message: Message) {
        match message {
            Message::Exited(exit) => {
                self.exited(exit).await;
                self.auto_remove().await;
            }
            Message::ExecExited { exec_id, code } => self.exec_exited(&exec_id, code).await,
            Message::ExecStarted { id, exec_id, pid } => {
                if let Some(Pending::Exec(reply)) = self.pending.remove(&id) {
                    self.exec_running(&exec_id, pid);
                    self.exec_ids.push(exec_id);
                    self.publish();
                    answer(reply, Ok(Ok(pid)));
                }
            }
            Message::Done { id } => {
                if let Some(Pending::Done(reply)) = self.pending.remove(&id) {
                    answer(reply, Ok(()));
                }
            }
            Message::Failed { id, failure } => match self.pending.remove(&id) {
                Some(Pending::Done(reply)) => answer(reply, Err(Error::system(failure.message))),
                Some(Pending::Exec(reply)) => answer(reply, Ok(Err(failure.message))),
                None => {}
            },
            Message::Oom { count } => self.out_of_memory(count).await,
            Message::Warning { text } => tracing::warn!(container = %self.definition.id, "{text}"),
            Message::Log { text, failing } => self.log_trouble(text, failing).await,
            Message::Started { .. } | Message::LaunchFailed(_) | Message::Hello { .. } => {
                tracing::warn!(container = %self.definition.id, "unexpected word from the shim");
            }
        }
    }

    /// The kernel has killed one of its processes for want of memory, or would have.
    pub(super) async fn out_of_memory(&mut self, count: u64) {
        if count <= self.run.ooms || !self.run.state.phase.is_running() {
            return;
        }
        self.run.ooms = count;
        self.run.state.oom_killed = true;
        let event = self.event("oom", BTreeMap::new());
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "oom not recorded: {error}");
            self.publish();
        }
    }

    /// The first process has ended: record it, tell everybody, give back what the run used.
    pub(super) async fn exited(&mut self, exit: Exit) {
        let started = self.run.state.started_at;
        // The start is noted when the daemon hears of it, which can be after a short run's end.
        let finished = Timestamp(exit.time_nano.max(started.0.saturating_add(1)));
        self.run.state.phase = self.after_exit(exit.code, finished, started);
        self.run.state.exit_code = exit.code;
        let told_oom = self.run.ooms > 0;
        self.run.state.oom_killed = exit.oom_killed;
        self.run.state.finished_at = finished;
        self.run.exits += 1;
        self.pidfd = None;
        self.exec_ids.clear();
        self.health_stops();
        let mut events = self.give_back().await;
        let seconds = finished.0.saturating_sub(started.0).max(0) / 1_000_000_000;
        if exit.oom_killed && !told_oom {
            events.push(self.event("oom", BTreeMap::new()));
        }
        events.push(self.event(
            "die",
            BTreeMap::from([
                ("execDuration".to_owned(), seconds.to_string()),
                ("exitCode".to_owned(), exit.code.to_string()),
            ]),
        ));
        if let Err(error) = self.commit(events, Durability::Survives).await {
            // The exit is a fact: show it even when the disk does not take it. exit.json has it for a later start.
            tracing::error!(container = %self.definition.id, "exit not recorded: {error}");
            self.publish();
        }
        self.engine.execs.ended(self.definition.id.as_str());
        for (_, pending) in self.pending.drain() {
            pending.fail(Error::conflict(format!(
                "container {} is not running",
                self.definition.id
            )));
        }
        if let Some(mut link) = self.link.take() {
            let _ = link.send(0, RequestBody::Release, Vec::new());
            self.leaving = Some(link);
        }
    }

    /// An event of this container: labels, image and name are in it, as in dockerd.
    pub(super) fn event(&self, action: &str, mut attributes: BTreeMap<String, String>) -> NewEvent {
        container_event(&self.definition, action, &mut attributes)
    }

    pub(super) fn cgroup_path(&self) -> String {
        super::plan::cgroup_path(&self.engine.config, &self.definition)
    }

    /// Makes the present state visible without a commit.
    pub(super) fn publish(&self) {
        self.view.send_replace(Arc::new(self.snapshot()));
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = snapshot_of(
            &self.engine,
            &self.definition,
            &self.run,
            &self.exec_ids,
            self.removed,
        );
        let phase = &mut snapshot.state.phase;
        if self.coming_back && matches!(phase, Phase::Starting | Phase::Exited) {
            *phase = Phase::Restarting;
        }
        snapshot
    }

    /// Stores the run row together with `events`; the snapshot is visible before the events are.
    pub(super) async fn commit(
        &mut self,
        events: Vec<NewEvent>,
        durability: Durability,
    ) -> Result<()> {
        let mut batch = Batch::new();
        let bytes = serde_json::to_vec(&self.run).map_err(|e| Error::system(e.to_string()))?;
        batch.put(
            Table::Container,
            format!("{}{RUN_SUFFIX}", self.definition.id),
            bytes,
        );
        for event in events {
            batch.event(event);
        }
        self.commit_batch(batch, durability).await
    }

    pub(super) async fn commit_batch(
        &mut self,
        batch: Batch,
        durability: Durability,
    ) -> Result<()> {
        let snapshot = Arc::new(self.snapshot());
        let view = self.view.clone();
        self.engine
            .commit(batch, durability, move || {
                view.send_replace(snapshot);
            })
            .await
    }
}

/// How long an actor waits for a shim that should answer at once.
pub(super) const SHIM_PATIENCE: Duration = Duration::from_secs(60);

impl Pending {
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Done(reply) => answer(reply, Err(error)),
            Self::Exec(reply) => answer(reply, Err(error)),
        }
    }
}

/// The asker may have gone away: then nobody wants the answer.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    let _ = reply.send(result);
}

/// Builds a container event: the container's labels, then image and name.
pub(crate) fn container_event(
    definition: &Definition,
    action: &str,
    attributes: &mut BTreeMap<String, String>,
) -> NewEvent {
    let mut all = definition.spec.labels.clone();
    all.insert("image".to_owned(), definition.spec.image.clone());
    all.insert("name".to_owned(), definition.name.clone());
    all.append(attributes);
    crate::events::event("container", action, definition.id.as_str(), all)
}

fn snapshot_of(
    engine: &Inner,
    definition: &Definition,
    run: &RunRecord,
    exec_ids: &[String],
    removed: bool,
) -> Snapshot {
    Snapshot {
        id: definition.id.clone(),
        name: definition.name.clone(),
        created: definition.created,
        spec: Arc::new(definition.spec.clone()),
        echo: definition.echo.as_str().into(),
        image: definition.image.clone(),
        command: definition.command.clone(),
        state: run.state.clone(),
        mounts: definition
            .mounts
            .iter()
            .filter(|m| m.point.shown())
            .map(|m| m.point.clone())
            .collect(),
        networks: super::networking::networks_of(engine, definition, run),
        ports: run.ports.clone(),
        sandbox_id: run.sandbox_id.clone(),
        sandbox_key: if run.sandbox_id.is_empty() {
            String::new()
        } else {
            format!("/proc/{}/ns/net", run.state.pid())
        },
        hostname: definition.hostname.clone(),
        restart_count: run.restart_count,
        exec_ids: exec_ids.to_vec(),
        paths: definition.paths.clone(),
        run: run.starts,
        exits: run.exits,
        health: run.health.clone().map(Arc::new),
        removed,
    }
}
