//! What the daemon asks of the shim, one function a request.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use longshore_launcher::exec::ExecTarget;
use longshore_model::error::go_errno;

use crate::{
    execs::Exec,
    frame::Frame,
    launch,
    protocol::{LaunchFailure, LaunchFailureKind, Message, ProcessPlan, Request, RequestBody},
    server::Server,
    stdio::{AttachPolicy, AttachStreams, ProcessIo},
};

impl Server {
    /// Carries out one request and answers it.
    pub(crate) fn on_frame(&mut self, frame: Frame) {
        let request: Request = match serde_json::from_slice(&frame.body) {
            Ok(request) => request,
            Err(error) => {
                // From a daemon that is newer than this shim.
                let id = unknown_request_id(&frame.body);
                let failure = failure(format!("this container's shim cannot do that: {error}"));
                return self.send(&Message::Failed { id, failure });
            }
        };
        let id = request.id;
        let mut fds = frame.fds.into_iter();
        let answer = match request.body {
            RequestBody::Release => return self.release(),
            RequestBody::Attach {
                stdin,
                stdout,
                stderr,
            } => {
                let streams = AttachStreams {
                    stdin,
                    stdout,
                    stderr,
                };
                self.attach(fds.next(), streams)
            }
            RequestBody::Resize { rows, columns } => {
                done("resize", self.container.io.resize(rows, columns))
            }
            RequestBody::ExecResize {
                exec_id,
                rows,
                columns,
            } => match self.execs.by_id(&exec_id) {
                Some(exec) => done("resize", exec.io.resize(rows, columns)),
                None => Err(failure(format!("exec process {exec_id} is not running"))),
            },
            RequestBody::ExecSignal { exec_id, signal } => {
                done("signal exec process", self.execs.signal(&exec_id, signal))
            }
            RequestBody::Exec {
                exec_id,
                process,
                stdio,
                stdin,
                stdout,
                stderr,
                cgroup_path,
            } => {
                let streams = AttachStreams {
                    stdin,
                    stdout,
                    stderr,
                };
                let client = stdio.then(|| fds.next().map(|socket| (socket, streams)));
                match client {
                    Some(None) => Err(failure("the request came without a socket".to_owned())),
                    client => {
                        match self.exec(exec_id.clone(), &process, client.flatten(), &cgroup_path) {
                            Ok(pid) => {
                                return self.send(&Message::ExecStarted { id, exec_id, pid });
                            }
                            Err(failure) => Err(failure),
                        }
                    }
                }
            }
        };
        self.send(&match answer {
            Ok(()) => Message::Done { id },
            Err(failure) => Message::Failed { id, failure },
        });
    }

    fn attach(
        &mut self,
        socket: Option<OwnedFd>,
        streams: AttachStreams,
    ) -> Result<(), LaunchFailure> {
        let Some(socket) = socket else {
            return Err(failure("the request came without a socket".to_owned()));
        };
        done("attach", self.container.io.attach(socket, streams))
    }

    fn exec(
        &mut self,
        id: String,
        process: &ProcessPlan,
        client: Option<(OwnedFd, AttachStreams)>,
        cgroup_path: &str,
    ) -> Result<i32, LaunchFailure> {
        if !self.container_alive() {
            return Err(failure("container is not running".to_owned()));
        }
        if self.execs.by_id(&id).is_some() {
            return Err(failure(format!("exec {id} exists already")));
        }
        let target = ExecTarget {
            pid: self.container.pid,
            pidfd: self.container.pidfd.as_fd(),
            cgroup_path,
        };
        let (launched, ends) = launch::exec(&target, process, client.is_some())?;
        let owner = self.execs.next_owner();
        let policy = AttachPolicy {
            stdin_once: true,
            stall: None,
        };
        let pid = launched.pid;
        let joined = ProcessIo::new(self.poller(), owner, ends, policy).and_then(|mut io| {
            if let Some((socket, streams)) = client {
                io.attach(socket, streams)?;
            }
            Ok(io)
        });
        match joined {
            Ok(io) => {
                let exec = Exec::new(id, pid, launched.pidfd, io, owner);
                self.execs.running.push(exec);
                Ok(pid)
            }
            Err(error) => {
                let _ = longshore_sys::process::send_signal(launched.pidfd.as_fd(), 9);
                Err(LaunchFailure::system("exec", error))
            }
        }
    }
}

fn failure(message: String) -> LaunchFailure {
    LaunchFailure {
        kind: LaunchFailureKind::System,
        message,
    }
}

fn done(doing: &str, result: io::Result<()>) -> Result<(), LaunchFailure> {
    result.map_err(|error| failure(format!("{doing}: {}", go_errno(&error))))
}

/// The number of a request whose body this version does not know.
fn unknown_request_id(body: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Numbered {
        #[serde(default)]
        id: u64,
    }
    serde_json::from_slice::<Numbered>(body).map_or(0, |n| n.id)
}
