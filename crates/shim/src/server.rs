//! The shim's loop: container, execs, clients and daemon, one epoll, no thread.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use longshore_launcher::cgroup::{Cgroup, OomWatch};
use longshore_model::Timestamp;
use longshore_sys::{process::is_alive, signal, signals};
use rustix::{event::epoll::EventFlags, io::Errno};

use crate::{
    control::Control,
    execs::Execs,
    exit, listen,
    logs::LogSink,
    poll::{Poller, Source, Token},
    protocol::{Exit, Message, PROTOCOL},
    stdio::ProcessIo,
};

const SHIM: u32 = 0;
pub(crate) const CONTAINER: u32 = 1;
const CONTROL: u32 = 0;
const LISTENER: u32 = 1;
const SIGNALS: u32 = 2;
const LOG: u32 = 3;
/// Events of the log's connection.
pub(crate) const LOG_TOKEN: Token = Token {
    owner: SHIM,
    part: LOG,
};
const OOM: u32 = 4;

/// A cgroup that is still busy is tried again after this, for at most the second.
const REMOVE_AGAIN: Duration = Duration::from_millis(10);
const REMOVE_LIMIT: Duration = Duration::from_secs(5);
/// Freed memory goes back to the kernel when nothing has happened for this long.
const IDLE: Duration = Duration::from_secs(1);

/// The container's first process and what goes with it.
pub(crate) struct Container {
    pub id: String,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub start_time: u64,
    pub cgroup: Cgroup,
    /// Its processes may outlive the first one: it has no pid namespace of its own.
    pub shares_pids: bool,
    pub io: ProcessIo,
}

/// How far the container's end has got.
enum Phase {
    Running,
    /// Reaped; its output is being read.
    Draining(Exit),
    Ended(Exit),
    /// The daemon has recorded the end.
    Released(Exit),
}

/// Kernel objects to let go of when the end is recorded.
struct Leftovers {
    mnt_ns: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    /// When removing the cgroups is tried (again), and when given up.
    due: Option<(Instant, Instant)>,
}

/// The container's want of memory.
#[derive(Default)]
struct Oom {
    watch: Option<OomWatch>,
    wake: Option<Source>,
    /// How often the daemon was told, whether there was one or not.
    told: u64,
}

/// Everything one shim knows.
pub(crate) struct Server {
    poller: Poller,
    signals: Source,
    listener: Source,
    control: Option<Control>,
    pub(crate) container: Container,
    pub(crate) execs: Execs,
    log: LogSink,
    phase: Phase,
    oom: Oom,
    leftovers: Leftovers,
    run_dir: PathBuf,
    busy: bool,
}

/// Descriptors that exist before the container does.
pub(crate) struct Foundation {
    pub poller: Poller,
    pub signals: OwnedFd,
    pub listener: OwnedFd,
    /// Non-blocking.
    pub control: OwnedFd,
    pub run_dir: PathBuf,
    pub log: LogSink,
}

impl Server {
    pub(crate) fn new(foundation: Foundation, container: Container, mnt_ns: OwnedFd) -> Self {
        let poller = foundation.poller;
        let source = |fd, part| poller.source(fd, Token { owner: SHIM, part });
        Self {
            signals: source(foundation.signals, SIGNALS),
            listener: source(foundation.listener, LISTENER),
            control: Some(Control::new(source(foundation.control, CONTROL))),
            leftovers: Leftovers {
                mnt_ns: Some(mnt_ns),
                cgroup: Some(container.cgroup.clone()),
                due: None,
            },
            container,
            execs: Execs::default(),
            log: foundation.log,
            phase: Phase::Running,
            oom: Oom::default(),
            run_dir: foundation.run_dir,
            poller,
            busy: true,
        }
    }

    /// Works until the daemon has recorded the container's end.
    ///
    /// # Errors
    /// Only when epoll itself fails.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.signals.arm(Some(EventFlags::IN))?;
        self.listener.arm(Some(EventFlags::IN))?;
        self.watch_oom();
        self.settle(Instant::now())?;
        while !self.over() {
            let idle = self.busy.then(|| Instant::now() + IDLE);
            let deadline = self.deadline().into_iter().chain(idle).min();
            let events = self.poller.wait(deadline)?;
            let now = Instant::now();
            if events.is_empty() && self.busy && idle.is_some_and(|at| now >= at) {
                longshore_sys::malloc::trim();
                self.busy = false;
            }
            self.busy |= !events.is_empty();
            for (token, flags) in events {
                self.dispatch(token, flags, now);
            }
            self.on_time(now);
            self.settle(now)?;
        }
        Ok(())
    }

    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    pub(crate) fn container_ended(&self) -> bool {
        !matches!(self.phase, Phase::Running)
    }

    fn over(&self) -> bool {
        let clients = self.container.io.has_clients()
            || self.execs.running.iter().any(|exec| exec.io.has_clients());
        matches!(self.phase, Phase::Released(_))
            && self.leftovers.due.is_none()
            && !clients
            && self.log.idle()
    }

    fn deadline(&self) -> Option<Instant> {
        let execs = self.execs.running.iter().filter_map(|exec| exec.deadline());
        let cleanup = self.leftovers.due.map(|(at, _)| at);
        execs
            .chain(self.container.io.deadline())
            .chain(self.log.deadline())
            .chain(cleanup)
            .min()
    }

    fn dispatch(&mut self, token: Token, flags: EventFlags, now: Instant) {
        match (token.owner, token.part) {
            (SHIM, CONTROL) => self.on_control(),
            (SHIM, LISTENER) => self.on_listener(),
            (SHIM, LOG) => self.log.on_event(flags, now),
            (SHIM, OOM) => self.on_oom(),
            (SHIM, _) => self.on_signals(now),
            (CONTAINER, part) => {
                let log = &mut self.log;
                let mut sink = |stream, bytes: &[u8]| log.push(stream, bytes);
                self.container.io.on_event(part, flags, now, &mut sink);
            }
            (owner, part) => {
                if let Some(exec) = self.execs.by_owner(owner) {
                    exec.io.on_event(part, flags, now, &mut |_, _| {});
                }
            }
        }
    }

    fn on_control(&mut self) {
        while let Some(control) = &mut self.control {
            let Some(frame) = control.receive() else {
                return;
            };
            self.on_frame(frame);
        }
    }

    fn on_listener(&mut self) {
        let Ok(Some(socket)) = listen::accept(&self.listener) else {
            return;
        };
        // A newer daemon replaces the older.
        self.control = None;
        let token = Token {
            owner: SHIM,
            part: CONTROL,
        };
        let mut control = Control::new(self.poller.source(socket, token));
        let exited = match self.phase {
            Phase::Running | Phase::Draining(_) => None,
            Phase::Ended(exit) | Phase::Released(exit) => Some(exit),
        };
        let container = &self.container;
        let hello = Message::Hello {
            protocol: PROTOCOL,
            container: container.id.clone(),
            pid: container.pid,
            start_time: container.start_time,
            exited,
            execs: self.execs.states(),
            ooms: self.oom.told,
        };
        let pidfd = match self.phase {
            Phase::Running => container.pidfd.try_clone().ok(),
            _ => None,
        };
        control.send(&hello, pidfd.into_iter().collect());
        self.control = Some(control);
    }

    /// After the start, which does not wait for it. Without a watch the end still says whether memory ran out.
    fn watch_oom(&mut self) {
        let watch = match self.container.cgroup.watch_oom() {
            Ok(watch) => watch,
            Err(error) => {
                let text = format!("cannot watch the container's memory: {error}");
                return self.send(&Message::Warning { text });
            }
        };
        let Some(watch) = watch else { return };
        let token = Token {
            owner: SHIM,
            part: OOM,
        };
        if let Ok(copy) = watch.as_fd().try_clone_to_owned() {
            let mut wake = self.poller.source(copy, token);
            if wake.arm(Some(EventFlags::IN)).is_ok() {
                self.oom.wake = Some(wake);
                self.oom.watch = Some(watch);
            }
        }
    }

    fn on_oom(&mut self) {
        let watch = self.oom.watch.as_mut();
        if watch.is_some_and(|watch| watch.look(&self.container.cgroup)) {
            self.tell_oom();
        }
    }

    fn tell_oom(&mut self) {
        self.oom.told += 1;
        let count = self.oom.told;
        self.send(&Message::Oom { count });
    }

    /// Tells the daemon, if there is one.
    pub(crate) fn send(&mut self, message: &Message) {
        if let Some(control) = &mut self.control {
            control.send(message, Vec::new());
        }
    }

    fn on_signals(&mut self, now: Instant) {
        signal::drain(self.signals.as_fd());
        while let Some((pid, code)) = signals::reap_any() {
            if pid == self.container.pid && matches!(self.phase, Phase::Running) {
                self.container_died(code, now);
            } else if let Some(exec) = self
                .execs
                .running
                .iter_mut()
                .find(|e| e.pid == pid && e.runs())
            {
                exec.process_ended(code, now);
            }
        }
    }

    fn container_died(&mut self, code: i32, now: Instant) {
        let exit = Exit {
            code,
            oom_killed: self.container.cgroup.oom_kills().is_ok_and(|n| n > 0),
            time_nano: Timestamp::now().0,
        };
        // The news of the end may have overtaken those of its cause.
        self.on_oom();
        if exit.oom_killed && self.oom.told == 0 {
            self.tell_oom();
        }
        self.oom.wake = None;
        self.oom.watch = None;
        if self.container.shares_pids {
            let _ = self.container.cgroup.kill();
        }
        self.container.io.process_ended(now);
        self.phase = Phase::Draining(exit);
    }

    fn on_time(&mut self, now: Instant) {
        if self.control.as_ref().is_some_and(Control::broken) {
            self.control = None;
        }
        let daemon = self.control.is_some();
        self.log.on_time(now);
        self.container.io.on_time(now, daemon);
        for exec in &mut self.execs.running {
            exec.io.on_time(now, daemon);
        }
        if self.leftovers.due.is_some_and(|(at, _)| now >= at) {
            self.remove_leftovers(now);
            self.leave();
        }
    }

    /// The end of a turn: what was collected is written and sent, then the next events are chosen.
    fn settle(&mut self, now: Instant) -> io::Result<()> {
        self.log.flush(now)?;
        if let Phase::Draining(exit) = self.phase
            && self.container.io.drained()
        {
            self.ended(exit, now);
        }
        if let Some(trouble) = self.log.take_trouble() {
            let (text, failing) = (trouble.text, trouble.failing);
            self.send(&Message::Log { text, failing });
        }
        self.leave();
        self.report_execs(now);
        if let Some(control) = &mut self.control {
            control.settle();
            if control.broken() {
                self.control = None;
            }
        }
        let abandoned = matches!(self.phase, Phase::Ended(_)) && self.control.is_none();
        if abandoned {
            self.container.io.end_clients();
            self.remove_leftovers(now);
        }
        // Once the container has ended, what is in its pipes is little: it does not wait for a receiver that may be gone.
        let held = self.log.full() && matches!(self.phase, Phase::Running);
        self.container.io.settle(now, held)?;
        for exec in &mut self.execs.running {
            // Only after the report has been sent.
            if exec.over() {
                exec.io.end_clients();
            }
            exec.io.settle(now, false)?;
        }
        let gone = |exec: &crate::execs::Exec| exec.over() && !exec.io.has_clients();
        self.execs.running.retain(|exec| !gone(exec));
        Ok(())
    }

    fn report_execs(&mut self, now: Instant) {
        let mut reports = Vec::new();
        for exec in &mut self.execs.running {
            if let Some(code) = exec.take_report(now) {
                reports.push((exec.id.clone(), exec.pid, code));
            }
        }
        for (exec_id, pid, code) in reports {
            self.execs.remember(exec_id.clone(), pid, code);
            self.send(&Message::ExecExited { exec_id, code });
        }
    }

    fn ended(&mut self, exit: Exit, now: Instant) {
        self.log.finish(now);
        if let Err(error) = exit::record(&self.run_dir, &exit) {
            let text = format!("cannot record the container's exit: {error}");
            self.send(&Message::Warning { text });
        }
        self.phase = Phase::Ended(exit);
        self.send(&Message::Exited(exit));
    }

    /// The daemon has recorded the end. Said too early it means nothing.
    pub(crate) fn release(&mut self) {
        let Phase::Ended(exit) = self.phase else {
            return;
        };
        self.phase = Phase::Released(exit);
        self.container.io.end_clients();
        for exec in &mut self.execs.running {
            exec.io.end_clients();
        }
        listen::remove(&self.run_dir);
        self.remove_leftovers(Instant::now());
        self.leave();
    }

    /// Hangs up when nothing of this run is left: only then may the daemon start the next one, which has the same control
    /// group, run directory and upper layer.
    fn leave(&mut self) {
        let over = matches!(self.phase, Phase::Released(_));
        if over && self.leftovers.due.is_none() && self.log.idle() {
            self.control = None;
        }
    }

    /// Unmounts by letting go of the mount namespace, removes the cgroups. Processes that still leave them get some time.
    fn remove_leftovers(&mut self, now: Instant) {
        let leftovers = &mut self.leftovers;
        let Some(cgroup) = &leftovers.cgroup else {
            leftovers.mnt_ns = None;
            return;
        };
        let give_up = leftovers.due.map_or(now + REMOVE_LIMIT, |(_, at)| at);
        match cgroup.remove() {
            Err(error)
                if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && now < give_up =>
            {
                let _ = cgroup.kill();
                leftovers.due = Some((now + REMOVE_AGAIN, give_up));
            }
            Ok(()) | Err(_) => {
                leftovers.cgroup = None;
                leftovers.due = None;
            }
        }
        leftovers.mnt_ns = None;
    }

    /// True while the container's first process can be worked with.
    pub(crate) fn container_alive(&self) -> bool {
        !self.container_ended() && is_alive(self.container.pidfd.as_fd())
    }
}
