//! A client's streams to a container.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use longshore_model::{Error, Result};
use longshore_shim::protocol::{AttachStreams, RequestBody};
use longshore_store::Durability;

use super::{
    actor::{Actor, Command, Pending, Reply, answer},
    phase::Phase,
};
use crate::{
    Engine,
    api::{AttachRequest, LogsRequest, StdioStream},
};

impl Engine {
    /// Joins a client to a container's streams. Before the start: it will see all output from the first byte.
    ///
    /// # Errors
    /// 404; 409 for a paused or removed container.
    pub async fn attach_container(
        &self,
        name: &str,
        request: AttachRequest,
    ) -> Result<StdioStream> {
        let handle = self.inner.containers.find(name)?;
        let snapshot = handle.snapshot();
        match snapshot.state.phase {
            Phase::Running { paused: true, .. } => {
                return Err(Error::conflict(format!(
                    "container {name} is paused, unpause the container before attach"
                )));
            }
            Phase::Removing | Phase::Dead => {
                return Err(Error::conflict(format!(
                    "container {name} is marked for removal"
                )));
            }
            Phase::Created
            | Phase::Starting
            | Phase::Restarting
            | Phase::Running { .. }
            | Phase::Exited => {}
        }
        let tty = snapshot.spec.process.tty;
        let replay = if request.logs {
            self.replay(name, &request, tty).await?
        } else {
            Vec::new()
        };
        let mut stream = StdioStream {
            socket: None,
            tty,
            replay,
            settled: None,
        };
        if request.stream {
            let (ours, theirs) = crate::stdio::pair()?;
            let streams = AttachStreams {
                stdin: request.stdin && snapshot.spec.process.open_stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            };
            self.inner
                .ask(&handle, |reply| Command::Attach {
                    streams,
                    socket: theirs,
                    reply,
                })
                .await?;
            stream.socket = Some(ours);
        }
        let event = |reply| Command::Event {
            action: "attach".to_owned(),
            attributes: BTreeMap::new(),
            reply,
        };
        self.inner.ask(&handle, event).await?;
        Ok(stream)
    }

    /// The log so far, as frames (or raw with a terminal).
    async fn replay(&self, name: &str, request: &AttachRequest, tty: bool) -> Result<Vec<u8>> {
        let logs = LogsRequest {
            stdout: request.stdout,
            stderr: request.stderr,
            ..LogsRequest::default()
        };
        let mut lines = self.container_logs(name, logs).await?;
        let mut bytes = Vec::new();
        while let Some(line) = lines.recv().await {
            let line = line?;
            if !tty {
                let length = u32::try_from(line.line.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&[if line.stderr { 2 } else { 1 }, 0, 0, 0]);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            bytes.extend_from_slice(&line.line);
        }
        Ok(bytes)
    }

    /// A new window size of the container's terminal.
    ///
    /// # Errors
    /// 404, 409 when it does not run.
    pub async fn resize_container(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        self.inner
            .ask(&handle, |reply| Command::Resize {
                rows,
                columns,
                reply,
            })
            .await
    }
}

impl Actor {
    pub(super) async fn attach(
        &mut self,
        streams: AttachStreams,
        socket: OwnedFd,
        reply: Reply<()>,
    ) {
        if self.link.is_some() {
            let AttachStreams {
                stdin,
                stdout,
                stderr,
            } = streams;
            let body = RequestBody::Attach {
                stdin,
                stdout,
                stderr,
            };
            self.ask(body, vec![socket], Pending::Done(reply)).await;
        } else {
            // Clients that did not wait for the start are not kept.
            self.waiting.retain(|(_, client)| !hung_up(client));
            self.waiting.push((streams, socket));
            answer(reply, Ok(()));
        }
    }

    pub(super) async fn resize(&mut self, rows: u16, columns: u16, reply: Reply<()>) {
        if !self.run.state.phase.is_running() {
            return answer(reply, Err(self.not_running()));
        }
        self.ask(
            RequestBody::Resize { rows, columns },
            Vec::new(),
            Pending::Done(reply),
        )
        .await;
        let size = [
            ("height".to_owned(), rows.to_string()),
            ("width".to_owned(), columns.to_string()),
        ];
        let event = self.event("resize", BTreeMap::from(size));
        if let Err(error) = self.commit(vec![event], Durability::Survives).await {
            tracing::warn!(container = %self.definition.id, "resize not recorded: {error}");
        }
    }
}

fn hung_up(client: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(client, PollFlags::empty())];
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}
