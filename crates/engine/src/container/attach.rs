//! A client's streams to a container.

use longshore_model::{Error, Result};
use longshore_shim::protocol::AttachStreams;

use super::{actor::Command, phase::Phase};
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
            attributes: std::collections::BTreeMap::new(),
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
