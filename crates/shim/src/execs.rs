//! Further processes that the shim runs in its container.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use longshore_sys::process::send_signal;

use crate::{protocol::ExecState, stdio::ProcessIo};

/// The exit of an exec is reported when its output is in its client's socket, or this long after its end at the latest.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// Exit codes kept for a daemon that comes later.
const KEPT: usize = 32;

/// One exec.
pub struct Exec {
    pub id: String,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub io: ProcessIo,
    /// Number that its events carry.
    pub owner: u32,
    ended: Option<(i32, Instant)>,
    reported: bool,
}

impl Exec {
    pub fn new(id: String, pid: i32, pidfd: OwnedFd, io: ProcessIo, owner: u32) -> Self {
        Self {
            id,
            pid,
            pidfd,
            io,
            owner,
            ended: None,
            reported: false,
        }
    }

    pub fn process_ended(&mut self, code: i32, now: Instant) {
        self.ended = Some((code, now));
        self.io.process_ended(now);
    }

    /// True until the process has been reaped.
    pub fn runs(&self) -> bool {
        self.ended.is_none()
    }

    fn report_at(&self) -> Option<Instant> {
        let (_, at) = self.ended.filter(|_| !self.reported)?;
        Some(at + REPORT_LIMIT)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.io.deadline().into_iter().chain(self.report_at()).min()
    }

    /// The exit code when it is time to report it, once.
    pub fn take_report(&mut self, now: Instant) -> Option<i32> {
        let at = self.report_at()?;
        let complete = self.io.drained() && self.io.delivered();
        if !complete && now < at {
            return None;
        }
        self.reported = true;
        self.ended.map(|(code, _)| code)
    }

    /// Reported and read to the end: the client may see the end of the stream.
    pub fn over(&self) -> bool {
        self.reported && self.io.drained()
    }
}

/// All execs of the container.
#[derive(Default)]
pub struct Execs {
    pub running: Vec<Exec>,
    finished: Vec<ExecState>,
    next_owner: u32,
}

impl Execs {
    /// A number for the events of a new exec; 0 and 1 are the shim's and the container's.
    pub fn next_owner(&mut self) -> u32 {
        self.next_owner = self.next_owner.wrapping_add(1).max(2);
        self.next_owner
    }

    pub fn by_owner(&mut self, owner: u32) -> Option<&mut Exec> {
        self.running.iter_mut().find(|exec| exec.owner == owner)
    }

    pub fn by_id(&mut self, id: &str) -> Option<&mut Exec> {
        self.running.iter_mut().find(|exec| exec.id == id)
    }

    /// Sends a signal to an exec's process.
    ///
    /// # Errors
    /// `ESRCH` when there is none or it has ended.
    pub fn signal(&mut self, id: &str, signal: i32) -> std::io::Result<()> {
        match self.by_id(id).filter(|exec| exec.runs()) {
            Some(exec) => send_signal(std::os::fd::AsFd::as_fd(&exec.pidfd), signal),
            None => Err(rustix::io::Errno::SRCH.into()),
        }
    }

    /// Keeps an exit code for a daemon that comes later.
    pub fn remember(&mut self, exec_id: String, pid: i32, code: i32) {
        if self.finished.len() >= KEPT {
            self.finished.remove(0);
        }
        self.finished.push(ExecState {
            exec_id,
            pid,
            code: Some(code),
        });
    }

    /// What a new daemon is told.
    pub fn states(&self) -> Vec<ExecState> {
        let running = self.running.iter().filter(|exec| !exec.reported);
        let running = running.map(|exec| ExecState {
            exec_id: exec.id.clone(),
            pid: exec.pid,
            code: None,
        });
        self.finished.iter().cloned().chain(running).collect()
    }
}
