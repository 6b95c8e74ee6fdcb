//! Further processes in a running container. An exec lives in memory: it ends with its container or with a restart of the
//! daemon's knowledge of it, as in dockerd.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use longshore_model::{Error, Result, id::random_hex};
use longshore_shim::protocol::{ProcessPlan, RequestBody};
use tokio::sync::oneshot;

use super::{
    actor::{Actor, Command, Pending, Reply, answer},
    phase::Phase,
    plan, security,
    snapshot::Snapshot,
};
use crate::{
    Engine, ExecStart,
    api::{ExecSnapshot, ExecSpec, StdioStream},
};

/// Finished execs that stay inspectable; the oldest go first.
const KEPT: usize = 1024;

/// What the actor sends to the shim.
pub(crate) struct ExecRequest {
    pub exec_id: String,
    pub spec: ExecSpec,
    pub socket: Option<OwnedFd>,
}

/// All execs by id.
#[derive(Default)]
pub(crate) struct Execs {
    all: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    snapshot: ExecSnapshot,
    started: bool,
    /// Order of creation, for forgetting the oldest.
    number: u64,
    /// Told when its exit is visible.
    waiters: Vec<oneshot::Sender<()>>,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, snapshot: ExecSnapshot, started: bool) {
        let mut all = self.lock();
        if all.len() >= KEPT {
            let idle = all
                .iter()
                .filter(|(_, e)| !e.snapshot.running)
                .min_by_key(|(_, e)| e.number);
            if let Some(id) = idle.map(|(id, _)| id.clone()) {
                all.remove(&id);
            }
        }
        let number = all.values().map(|e| e.number).max().unwrap_or(0) + 1;
        all.insert(
            snapshot.id.clone(),
            Entry {
                snapshot,
                started,
                number,
                waiters: Vec::new(),
            },
        );
    }

    fn get(&self, id: &str) -> Result<ExecSnapshot> {
        let found = self.lock().get(id).map(|entry| entry.snapshot.clone());
        found.ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// Takes the right to start it: an exec starts once.
    fn begin(&self, id: &str) -> Result<ExecSnapshot> {
        let mut all = self.lock();
        let entry = all
            .get_mut(id)
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))?;
        if entry.snapshot.exit_code.is_some() {
            return Err(Error::conflict(format!("exec {id} has already run")));
        }
        if entry.started {
            return Err(Error::conflict(format!("exec {id} is already running")));
        }
        entry.started = true;
        Ok(entry.snapshot.clone())
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut ExecSnapshot)) {
        if let Some(entry) = self.lock().get_mut(id) {
            change(&mut entry.snapshot);
            if entry.snapshot.exit_code.is_some() {
                entry.waiters.clear();
            }
        }
    }

    /// Resolves (with an error, as nothing is sent) when the exec's exit is visible.
    pub(super) fn settled(&self, id: &str) -> Option<oneshot::Receiver<()>> {
        let mut all = self.lock();
        let entry = all
            .get_mut(id)
            .filter(|entry| entry.snapshot.exit_code.is_none())?;
        let (sender, receiver) = oneshot::channel();
        entry.waiters.push(sender);
        Some(receiver)
    }

    /// None while it runs, and for one that is not known.
    pub(super) fn exit_code(&self, id: &str) -> Option<i32> {
        self.lock().get(id)?.snapshot.exit_code
    }

    /// Nobody will ask for it again.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The container has ended, and with it every process in it.
    pub(crate) fn ended(&self, container: &str) {
        for entry in self
            .lock()
            .values_mut()
            .filter(|e| e.snapshot.container_id == container && e.snapshot.running)
        {
            entry.snapshot.running = false;
            entry.snapshot.exit_code.get_or_insert(137);
            entry.waiters.clear();
        }
    }

    /// An exec that a shim says it has, after a restart of the daemon.
    pub(crate) fn adopt(&self, container: &str, id: &str, pid: i32, code: Option<i32>) {
        let snapshot = ExecSnapshot {
            id: id.to_owned(),
            container_id: container.to_owned(),
            spec: ExecSpec::default(),
            running: code.is_none(),
            exit_code: code,
            pid,
        };
        self.insert(snapshot, true);
    }
}

impl Engine {
    /// # Errors
    /// 404; 409 when the container does not run or is paused; 400 for an unknown user or no command.
    pub async fn create_exec(&self, container: &str, spec: ExecSpec) -> Result<String> {
        let handle = self.inner.containers.find(container)?;
        let snapshot = handle.snapshot();
        runs(&snapshot)?;
        if spec.cmd.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        self.check_user(&snapshot, &spec.user).await?;
        let id = random_hex();
        let line = command_line(&spec.cmd);
        let made = ExecSnapshot {
            id: id.clone(),
            container_id: snapshot.id.to_string(),
            spec,
            running: false,
            exit_code: None,
            pid: 0,
        };
        self.inner.execs.insert(made, false);
        self.exec_event(&handle, &format!("exec_create: {line}"), &id)
            .await?;
        Ok(id)
    }

    async fn exec_event(
        &self,
        handle: &std::sync::Arc<super::registry::Handle>,
        action: &str,
        id: &str,
    ) -> Result<()> {
        let attributes = BTreeMap::from([("execID".to_owned(), id.to_owned())]);
        let action = action.to_owned();
        self.inner
            .ask(handle, |reply| Command::Event {
                action,
                attributes,
                reply,
            })
            .await
    }

    /// Unknown users are refused at create, as dockerd 29 does.
    async fn check_user(&self, snapshot: &Snapshot, user: &str) -> Result<()> {
        if user.is_empty() {
            return Ok(());
        }
        let (pid, user) = (snapshot.state.pid(), user.to_owned());
        crate::blocking(move || {
            use rustix::fs::{Mode, OFlags};
            let path = format!("/proc/{pid}/root");
            let root = rustix::fs::open(
                &path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| Error::io(format!("open {path}"), e))?;
            use std::os::fd::AsFd;
            longshore_shim::host::resolve_user(root.as_fd(), &user, &[])
                .map(|_| ())
                .map_err(|failure| Error::invalid(failure.message))
        })
        .await
    }

    /// # Errors
    /// 404.
    pub fn exec(&self, id: &str) -> Result<ExecSnapshot> {
        self.inner.execs.get(id)
    }

    /// Starts it. `detach`: no stream. A process that cannot be run is `Failed`, not an error: see [`ExecStart`].
    ///
    /// # Errors
    /// 404; 409 when it ran before or the container does not run.
    pub async fn start_exec(
        &self,
        id: &str,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<ExecStart> {
        let mut snapshot = self.inner.execs.get(id)?;
        let handle = self.inner.containers.find(&snapshot.container_id)?;
        runs(&handle.snapshot())?;
        snapshot = self.inner.execs.begin(id)?;
        let tty = snapshot.spec.tty;
        let mut spec = snapshot.spec;
        spec.console_size = console_size.or(spec.console_size);
        let line = command_line(&spec.cmd);
        self.exec_event(&handle, &format!("exec_start: {line}"), id)
            .await?;
        let (ours, socket) = if detach {
            (None, None)
        } else {
            crate::stdio::pair().map(|(o, t)| (Some(o), Some(t)))?
        };
        let request = ExecRequest {
            exec_id: id.to_owned(),
            spec,
            socket,
        };
        match self
            .inner
            .ask(&handle, |reply| Command::Exec { request, reply })
            .await
        {
            Ok(Ok(_)) if detach => Ok(ExecStart::Detached),
            Ok(Ok(_)) => Ok(ExecStart::Attached(StdioStream {
                socket: ours,
                tty,
                replay: Vec::new(),
                settled: self.inner.execs.settled(id),
            })),
            Ok(Err(message)) => Ok(ExecStart::Failed {
                tty,
                message: format!(
                    "OCI runtime exec failed: exec failed: unable to start container process: {message}"
                ),
            }),
            Err(error) => {
                self.inner
                    .execs
                    .change(id, |exec| exec.exit_code = Some(126));
                Err(error)
            }
        }
    }

    /// # Errors
    /// 404; 409 when it does not run.
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let snapshot = self.inner.execs.get(id)?;
        let handle = self.inner.containers.find(&snapshot.container_id)?;
        let exec_id = id.to_owned();
        self.inner
            .ask(&handle, |reply| Command::ExecResize {
                exec_id,
                rows,
                columns,
                reply,
            })
            .await
    }
}

/// A command in an event's action, as dockerd prints it: entry point, blank, arguments.
pub(super) fn command_line(command: &[String]) -> String {
    let (first, rest) = command
        .split_first()
        .map_or(("", &[][..]), |(f, r)| (f.as_str(), r));
    format!("{first} {}", rest.join(" "))
}

fn runs(snapshot: &Snapshot) -> Result<()> {
    match snapshot.state.phase {
        Phase::Running { paused: false, .. } => Ok(()),
        Phase::Running { paused: true, .. } => Err(Error::conflict(format!(
            "container {} is paused, unpause the container before exec",
            snapshot.id
        ))),
        Phase::Restarting => Err(Error::conflict(format!(
            "container {} is restarting, wait until the container is running",
            snapshot.id
        ))),
        Phase::Created | Phase::Starting | Phase::Exited | Phase::Removing | Phase::Dead => Err(
            Error::conflict(format!("container {} is not running", snapshot.id)),
        ),
    }
}

impl Actor {
    pub(super) async fn exec(
        &mut self,
        request: ExecRequest,
        reply: Reply<std::result::Result<i32, String>>,
    ) {
        let state = self.view.borrow().clone();
        if let Err(error) = runs(&state) {
            return answer(reply, Err(error));
        }
        let process = match self.exec_process(&request.spec) {
            Ok(process) => process,
            Err(error) => return answer(reply, Err(error)),
        };
        let attached = request.socket.is_some();
        let body = RequestBody::Exec {
            exec_id: request.exec_id.clone(),
            process: Box::new(process),
            stdio: attached,
            stdin: attached && request.spec.attach_stdin,
            stdout: attached && request.spec.attach_stdout,
            stderr: attached && request.spec.attach_stderr,
            cgroup_path: self.cgroup_path(),
        };
        let (tap, heard) = tokio::sync::oneshot::channel();
        let fds = request.socket.into_iter().collect();
        self.ask(body, fds, Pending::Exec(tap)).await;
        // The answer passes through here so that the exec's own record is right before the client hears of it.
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let result = heard
                .await
                .unwrap_or_else(|_| Err(Error::system("the container's actor is gone")));
            if let Ok(Err(message)) = &result {
                // dockerd reports 127 for both, and 126 for what may not be executed.
                let code = if message.contains("permission denied") {
                    126
                } else {
                    127
                };
                engine
                    .execs
                    .change(&request.exec_id, |exec| exec.exit_code = Some(code));
            }
            answer(reply, result);
        });
    }

    /// Signal to an exec's process; without a reply nobody wants to know.
    pub(super) async fn signal_exec(
        &mut self,
        exec_id: String,
        signal: i32,
        reply: Option<Reply<()>>,
    ) {
        let reply = reply.unwrap_or_else(|| tokio::sync::oneshot::channel().0);
        let body = RequestBody::ExecSignal { exec_id, signal };
        self.ask(body, Vec::new(), Pending::Done(reply)).await;
    }

    pub(super) async fn resize_exec(
        &mut self,
        exec_id: String,
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    ) {
        let body = RequestBody::ExecResize {
            exec_id,
            rows,
            columns,
        };
        self.ask(body, Vec::new(), Pending::Done(reply)).await;
    }

    pub(super) fn exec_running(&self, exec_id: &str, pid: i32) {
        self.engine.execs.change(exec_id, |exec| {
            exec.pid = pid;
            exec.running = exec.exit_code.is_none();
        });
    }

    pub(super) async fn exec_exited(&mut self, exec_id: &str, code: i32) {
        self.exec_ids.retain(|id| id != exec_id);
        self.engine.execs.change(exec_id, |exec| {
            exec.running = false;
            exec.exit_code = Some(code);
        });
        let attributes = BTreeMap::from([
            ("execID".to_owned(), exec_id.to_owned()),
            ("exitCode".to_owned(), code.to_string()),
        ]);
        let event = self.event("exec_die", attributes);
        if let Err(error) = self
            .commit(vec![event], longshore_store::Durability::Survives)
            .await
        {
            tracing::error!(container = %self.definition.id, "exec_die not recorded: {error}");
            self.publish();
        }
    }

    /// The container's own environment and rights, with what the exec says on top.
    fn exec_process(&self, spec: &ExecSpec) -> Result<ProcessPlan> {
        let own = &self.definition.spec;
        let privileged = spec.privileged || own.security.privileged;
        let capabilities = if privileged {
            security::all_capabilities()
        } else {
            security::capabilities(&own.security)?
        };
        let seccomp = if privileged {
            None
        } else {
            self.engine.filters.get(&own.security, capabilities)?
        };
        let mut env = plan::environment(&self.definition);
        if spec.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        plan::merge_env(&mut env, &spec.env);
        let or_own = |given: &str, own: &str| {
            if given.is_empty() {
                own.to_owned()
            } else {
                given.to_owned()
            }
        };
        Ok(ProcessPlan {
            args: spec.cmd.clone(),
            env,
            cwd: or_own(&spec.working_dir, &own.process.working_dir),
            user: or_own(&spec.user, &own.process.user),
            additional_groups: if spec.user.is_empty() {
                own.security.group_add.clone()
            } else {
                Vec::new()
            },
            capabilities,
            no_new_privileges: own
                .security
                .no_new_privileges
                .unwrap_or(self.engine.config.no_new_privileges),
            seccomp: seccomp.map(|program| program.as_ref().clone()),
            rlimits: plan::rlimits(own, &self.engine.config)?,
            oom_score_adj: (own.oom_score_adj != 0).then_some(own.oom_score_adj),
            terminal: spec.tty,
            console_size: spec.console_size,
            stdin: spec.attach_stdin,
        })
    }
}
