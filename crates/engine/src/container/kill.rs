//! Signals, and the verbs made of them: kill, stop, restart.

use std::{collections::BTreeMap, os::fd::AsFd, sync::Arc, time::Duration};

use longshore_model::{Error, Result, signal};
use longshore_store::Durability;

use super::{
    actor::{Actor, Command},
    registry::Handle,
    snapshot::Snapshot,
    spec::Mode,
};
use crate::Engine;

const SIGKILL: i32 = 9;
/// Seconds between a stop's signal and SIGKILL where nothing else is said.
const DEFAULT_TIMEOUT: i64 = 10;
/// How long the end may take after SIGKILL (a process in uninterruptible sleep) before the client is told.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Sends a signal by pidfd: it can never hit another process that got the pid. To a process that has just ended is no error.
pub(super) fn send(pidfd: impl AsFd, number: i32) -> Result<()> {
    match longshore_shim::host::send_signal(pidfd.as_fd(), number) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(())
        }
        other => other.map_err(|e| Error::io("kill", e)),
    }
}

/// True when the process has ended, reaped or not, or does so within `patience`.
pub(super) fn is_over(pidfd: &std::os::fd::OwnedFd, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(0),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0)
}

impl Engine {
    /// Sends a signal to the first process (empty: SIGKILL). SIGKILL is answered when the container has ended.
    ///
    /// # Errors
    /// 404, 400 for an unknown signal, 409 when it does not run.
    pub async fn kill_container(&self, name: &str, signal_name: &str) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        let number = if signal_name.is_empty() {
            SIGKILL
        } else {
            let bad = || {
                Error::invalid(format!(
                    "cannot kill container: {name}: invalid signal: {signal_name}"
                ))
            };
            signal::parse(signal_name).ok_or_else(bad)?
        };
        let snapshot = handle.snapshot();
        if !snapshot.state.running() {
            return Err(Error::conflict(format!(
                "cannot kill container: {name}: container {} is not running",
                snapshot.id
            )));
        }
        let stops = number == SIGKILL || number == stop_signal(&snapshot.spec.stop_signal);
        if stops {
            self.inner.tell(&handle, Command::MarkStopped).await;
        }
        self.inner
            .ask(&handle, |reply| Command::Signal {
                signal: number,
                log: true,
                reply,
            })
            .await
            .map_err(|error| Error {
                message: format!("cannot kill container: {name}: {}", error.message),
                ..error
            })?;
        if number == SIGKILL {
            self.killed(&handle, snapshot.exits).await;
        }
        Ok(())
    }

    /// Waits for the end after SIGKILL. Where the shim does not tell of it, on without the shim. False: the first process
    /// itself does not end.
    pub(super) async fn killed(&self, handle: &Handle, exits: u64) -> bool {
        ended(handle, exits, Some(KILL_PATIENCE)).await
            || self
                .inner
                .ask(handle, |reply| Command::Abandon { reply })
                .await
                .is_ok()
            || handle.snapshot().removed
    }

    /// Asks the container to end, then makes it. `timeout` in seconds: None = its own or 10, negative = wait for ever.
    ///
    /// # Errors
    /// 404, `NotModified` when it does not run, 400 for an unknown signal.
    pub async fn stop_container(
        &self,
        name: &str,
        signal_name: Option<String>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        if !handle.snapshot().state.phase.is_up() {
            return Err(Error::not_modified());
        }
        self.stop_handle(name, &handle, signal_name, timeout).await
    }

    async fn stop_handle(
        &self,
        name: &str,
        handle: &Arc<Handle>,
        signal_name: Option<String>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let snapshot = handle.snapshot();
        let number = match signal_name.filter(|s| !s.is_empty()) {
            Some(text) => signal::parse(&text).ok_or_else(|| {
                Error::invalid(format!(
                    "cannot stop container: {name}: invalid signal: {text}"
                ))
            })?,
            None => stop_signal(&snapshot.spec.stop_signal),
        };
        let seconds = timeout
            .or(snapshot.spec.stop_timeout)
            .unwrap_or(DEFAULT_TIMEOUT);
        self.inner.tell(handle, Command::MarkStopped).await;
        // Not running any more by now is what the client wanted.
        let signalled = |number| {
            self.inner.ask(handle, move |reply| Command::Signal {
                signal: number,
                log: true,
                reply,
            })
        };
        let mut patience = u64::try_from(seconds).ok().map(Duration::from_secs);
        if patience.is_some() && deaf(&snapshot, number).await {
            patience = Some(Duration::ZERO);
        }
        let first = signalled(number).await;
        if first.is_ok() && !ended(handle, snapshot.exits, patience).await {
            let _ = signalled(SIGKILL).await;
            if !self.killed(handle, snapshot.exits).await {
                return Err(Error::system(format!(
                    "cannot stop container: {name}: tried to kill container, but did not receive an exit event"
                )));
            }
        }
        let event = |reply| Command::Event {
            action: "stop".to_owned(),
            attributes: BTreeMap::new(),
            reply,
        };
        // An auto-removed container may be gone before its stop is written down; dockerd is quiet then, too.
        let _ = self.inner.ask(handle, event).await;
        Ok(())
    }

    /// Stops (when it runs) and starts.
    ///
    /// # Errors
    /// As stop and start.
    pub async fn restart_container(
        &self,
        name: &str,
        signal_name: Option<String>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        if handle.snapshot().state.phase.is_up() {
            self.stop_handle(name, &handle, signal_name, timeout)
                .await?;
        }
        match self
            .inner
            .ask(&handle, |reply| Command::Start { reply })
            .await
        {
            Err(error) if error.kind == longshore_model::ErrorKind::NotModified => {}
            Err(error) => {
                return Err(Error {
                    message: format!("cannot restart container {name}: {}", error.message),
                    ..error
                });
            }
            Ok(()) => {}
        }
        let event = |reply| Command::Event {
            action: "restart".to_owned(),
            attributes: BTreeMap::new(),
            reply,
        };
        self.inner.ask(&handle, event).await
    }
}

impl Actor {
    pub(super) async fn signal(&mut self, signal: i32, log: bool) -> Result<()> {
        let Some(pidfd) = self
            .pidfd
            .as_ref()
            .filter(|_| self.run.state.phase.is_running())
        else {
            return Err(self.not_running());
        };
        send(pidfd, signal)?;
        let own = &self.definition.spec.stop_signal;
        let ends = signal == SIGKILL || own.is_empty() || signal == stop_signal(own);
        let mut events = Vec::new();
        if log {
            let number = BTreeMap::from([("signal".to_owned(), signal.to_string())]);
            events.push(self.event("kill", number));
        }
        if ends && self.is_paused() {
            events.extend(self.thaw_for_signal().await);
        }
        if events.is_empty() {
            return Ok(());
        }
        self.commit(events, Durability::Survives).await
    }
}

/// True when the signal cannot end the container: its first process neither handles, blocks, awaits nor ignores it, and
/// the kernel gives the first process of a pid namespace no signal whose effect would be the default one. Waiting would be
/// in vain. Who ignores the signal on purpose gets the time.
async fn deaf(snapshot: &Snapshot, signal: i32) -> bool {
    if snapshot.spec.pid_mode != Mode::Private || signal == SIGKILL {
        return false;
    }
    let pid = snapshot.state.pid();
    crate::blocking(move || all_dismiss(pid, signal).map_err(|e| Error::io("look at a process", e)))
        .await
        .unwrap_or(false)
}

/// Does no thread of process `pid` want to know of `signal`?
fn all_dismiss(pid: i32, signal: i32) -> std::io::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // While a thread awaits signals (as tini does, and our init), the kernel shows them as not blocked: only the call
        // it is in tells. It is asked on both sides of the mask, so that a wait that begins or ends is not missed.
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file));
        let before = read("syscall")?;
        let status = read("status")?;
        let leads = thread.file_name().to_str() == Some(pid.to_string().as_str());
        if awaits_signals(&before)
            || (leads && !is_first(&status))
            || !dismisses(&status, signal)
            || awaits_signals(&read("syscall")?)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Is the thread of this /proc/pid/task/tid/syscall in rt_sigtimedwait (128 for x86_64, 177 and 421 for 32 bits), or
/// running, so that nothing is known?
fn awaits_signals(syscall: &str) -> bool {
    let call = syscall.split_whitespace().next().unwrap_or("running");
    matches!(call, "128" | "177" | "421" | "running")
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

/// Is this the /proc/pid/status of the first process of a pid namespace below ours?
fn is_first(status: &str) -> bool {
    field(status, "NSpid:").is_some_and(|pids| {
        let mut pids = pids.split_whitespace();
        pids.next().is_some() && pids.last() == Some("1")
    })
}

/// Does the thread of this status neither handle, block nor ignore `signal`?
fn dismisses(status: &str, signal: i32) -> bool {
    let Some(bit) = u32::try_from(signal - 1).ok().filter(|bit| *bit < 64) else {
        return false;
    };
    let has = |name: &str| {
        let mask = field(status, name).and_then(|text| u64::from_str_radix(text, 16).ok());
        // What cannot be read may be a handler.
        mask.is_none_or(|mask| mask >> bit & 1 == 1)
    };
    field(status, "TracerPid:") == Some("0")
        && !["SigBlk:", "SigIgn:", "SigCgt:"].into_iter().any(has)
}

/// The container's own stop signal, SIGTERM where it names none.
fn stop_signal(name: &str) -> i32 {
    signal::parse(name).unwrap_or(15)
}

/// Waits until a run after `exits` ended ones has ended; false when `patience` ran out first.
pub(super) async fn ended(handle: &Handle, exits: u64, patience: Option<Duration>) -> bool {
    let mut view = handle.view.clone();
    let wait = async {
        let _ = view
            .wait_for(|snapshot| {
                snapshot.exits > exits || snapshot.removed || !snapshot.state.running()
            })
            .await;
    };
    match patience {
        Some(patience) => tokio::time::timeout(patience, wait).await.is_ok(),
        None => {
            wait.await;
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{awaits_signals, dismisses, is_first};

    #[test]
    fn first_processes_that_never_see_a_signal() {
        let status = |pid: &str, tracer: &str, blocked: &str, caught: &str| {
            format!(
                "Name:\tx\nTracerPid:\t{tracer}\nNSpid:\t{pid}\nSigBlk:\t{blocked}\nSigIgn:\t1000\nSigCgt:\t{caught}\n"
            )
        };
        let (none, term) = ("0000000000000000", "0000000000004000");
        for (text, want) in [
            (status("70\t1", "0", none, none), true),
            (status("70\t1", "0", none, term), false),
            (status("70\t1", "0", term, none), false),
            (status("70\t1", "9", none, none), false),
            (status("70\t2", "0", none, none), false),
            (status("1", "0", none, none), false),
            ("Name:\tx\n".to_owned(), false),
        ] {
            assert_eq!(is_first(&text) && dismisses(&text, 15), want, "{text}");
        }
    }

    #[test]
    fn waits_for_signals_are_seen() {
        assert!(awaits_signals("128 0x7ffd 0x0 0x0 0x8 0x0 0x0 0x7ffd 0x45"));
        assert!(awaits_signals("running\n"));
        assert!(!awaits_signals(
            "230 0x0 0x0 0x7ffd 0x0 0x0 0x0 0x7ffd 0x45"
        ));
    }
}
