//! The daemon's end of a shim's control socket, for async code.

use std::os::fd::OwnedFd;

use longshore_model::{Error, Result};
use longshore_shim::{
    client::{Connection, Polled},
    protocol::{Message, Request, RequestBody},
};
use tokio::io::{Interest, unix::AsyncFd};

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
            let mut ready = self.connection.readable_mut().await.map_err(broken)?;
            match ready.get_inner_mut().try_recv().map_err(broken)? {
                Polled::Message(incoming) => {
                    self.received = incoming.fds;
                    return Ok(Some(incoming.message));
                }
                Polled::Closed => return Ok(None),
                Polled::Pending => ready.clear_ready(),
            }
        }
    }

    /// Sends a request; waits while the socket is full.
    ///
    /// # Errors
    /// The shim is gone.
    pub(crate) async fn send(
        &mut self,
        id: u64,
        body: RequestBody,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let gone = |e: std::io::Error| Error::io("write to the container's shim", e);
        let mut sent = self
            .connection
            .get_mut()
            .send(&Request { id, body }, fds)
            .map_err(gone)?;
        while !sent {
            let mut ready = self.connection.writable_mut().await.map_err(gone)?;
            ready.clear_ready();
            sent = ready.get_inner_mut().flush().map_err(gone)?;
        }
        Ok(())
    }

    /// The descriptor that came with the last message.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.received.pop()
    }
}
