//! The daemon's end of a shim's control socket, for async code.

use std::{os::fd::OwnedFd, time::Duration};

use longshore_model::{Error, Result};
use longshore_shim::{
    client::{Connection, Polled},
    protocol::{Message, Request, RequestBody},
};
use tokio::io::{Interest, Ready, unix::AsyncFd};

/// A shim that lets this many bytes of requests wait is stopped.
const WAITING_LIMIT: usize = 1 << 20;

/// A connected shim.
pub(crate) struct ShimLink {
    connection: AsyncFd<Connection>,
    /// Descriptors that came with the last message.
    received: Vec<OwnedFd>,
}

impl ShimLink {
    /// # Errors
    /// The runtime cannot watch the socket.
    pub(crate) fn new(connection: Connection) -> Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Deprecated for types that may close their descriptor early; a connection owns its own until it is dropped.
        #[expect(
            deprecated,
            reason = "the replacement is unsafe, which only sys may say"
        )]
        let connection = AsyncFd::with_interest(connection, interest)
            .map_err(|e| Error::io("shim socket", e))?;
        Ok(Self {
            connection,
            received: Vec::new(),
        })
    }

    /// The next message; None when the shim has closed. Cancelling it loses nothing.
    ///
    /// # Errors
    /// A broken connection or a message that cannot be read.
    pub(crate) async fn receive(&mut self) -> Result<Option<Message>> {
        let broken = |e: std::io::Error| Error::io("read from the container's shim", e);
        loop {
            let sending = self.connection.get_ref().sending();
            let interest = if sending {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let mut ready = self.connection.ready_mut(interest).await.map_err(broken)?;
            if sending && ready.get_inner_mut().flush().is_ok_and(|all| !all) {
                ready.clear_ready_matching(Ready::WRITABLE);
            }
            match ready.get_inner_mut().try_recv().map_err(broken)? {
                Polled::Message(incoming) => {
                    self.received = incoming.fds;
                    return Ok(Some(incoming.message));
                }
                Polled::Closed => return Ok(None),
                Polled::Pending => ready.clear_ready_matching(Ready::READABLE),
            }
        }
    }

    /// Sends a request. It never waits: what a full socket does not take goes with the following [`Self::receive`]s.
    ///
    /// # Errors
    /// The shim is gone, or has not read for long.
    pub(crate) fn send(&mut self, id: u64, body: RequestBody, fds: Vec<OwnedFd>) -> Result<()> {
        let gone = |e: std::io::Error| Error::io("write to the container's shim", e);
        let connection = self.connection.get_mut();
        if connection.waiting() > WAITING_LIMIT {
            return Err(Error::unavailable("the container's shim does not answer"));
        }
        connection.send(&Request { id, body }, fds).map_err(gone)?;
        Ok(())
    }

    /// Reads until the shim hangs up or `patience` runs out: then nothing of its run is left.
    pub(crate) async fn drain(&mut self, patience: Duration) {
        let end = async { while let Ok(Some(_)) = self.receive().await {} };
        let _ = tokio::time::timeout(patience, end).await;
    }

    /// The descriptor that came with the last message.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.received.pop()
    }
}
