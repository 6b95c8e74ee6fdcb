//! The daemon's side: starting shims, talking to them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

use rustix::{
    io::ioctl_fionbio,
    net::{
        AddressFamily, SocketFlags, SocketType, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    frame::{FRAME_LIMIT, FrameReader, FrameWriter, LAUNCH_LIMIT, Received},
    listen,
    protocol::{LaunchRequest, Message, Request},
};

pub use crate::{
    exit::read_record,
    zygote::{Zygote, spawn_zygote},
};

/// A new shim that takes its task for so long never will.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);

/// A message and the descriptors that came with it (the pidfd of `Started` and `Hello`).
#[derive(Debug)]
pub struct Incoming {
    pub message: Message,
    pub fds: Vec<OwnedFd>,
}

/// What [`Connection::try_recv`] found.
#[derive(Debug)]
pub enum Polled {
    Message(Box<Incoming>),
    /// Wait until the descriptor is readable.
    Pending,
    /// The shim is gone.
    Closed,
}

/// A connection with a shim. It is a non-blocking descriptor for the engine's event loop; [`Self::set_blocking`] makes it a plain
/// one, then `try_recv` waits.
pub struct Connection {
    socket: OwnedFd,
    reader: FrameReader,
    writer: FrameWriter,
}

impl Connection {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            reader: FrameReader::new(FRAME_LIMIT),
            writer: FrameWriter::default(),
        })
    }

    pub fn set_blocking(&self, blocking: bool) -> io::Result<()> {
        Ok(ioctl_fionbio(&self.socket, !blocking)?)
    }

    /// The next message.
    ///
    /// # Errors
    /// A broken connection, or `InvalidData` for something that is no message: the connection is of no use any more.
    pub fn try_recv(&mut self) -> io::Result<Polled> {
        Ok(match self.reader.receive(&self.socket)? {
            Received::Frame(frame) => Polled::Message(Box::new(Incoming {
                message: serde_json::from_slice(&frame.body)?,
                fds: frame.fds,
            })),
            Received::Pending => Polled::Pending,
            Received::Closed => Polled::Closed,
        })
    }

    /// Queues a request and sends as much as goes. True when all has been sent; otherwise call [`Self::flush`] when the descriptor is
    /// writable.
    ///
    /// # Errors
    /// `BrokenPipe` when the shim is gone.
    pub fn send(&mut self, request: &Request, fds: Vec<OwnedFd>) -> io::Result<bool> {
        let body = serde_json::to_vec(request)?;
        self.writer.push(&body, fds, FRAME_LIMIT)?;
        self.flush()
    }

    /// Sends what waits; true when nothing is left.
    ///
    /// # Errors
    /// `BrokenPipe` when the shim is gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        self.writer.flush(&self.socket)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Connects to the shim of a container that an earlier daemon started. The first message is `Hello`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is no shim any more: see [`read_record`].
pub fn connect(run_dir: &Path) -> io::Result<Connection> {
    Connection::new(listen::connect(run_dir)?)
}

impl Zygote {
    /// Starts a shim and gives it its task. `clients` are the sockets for `request.attach`, in that order. The first message is `Started`
    /// or `LaunchFailed`; a shim that ends without either was killed.
    ///
    /// # Errors
    /// `BrokenPipe` when the zygote is gone (start another one), `InvalidInput` when the request is too large (4 MiB), `TimedOut`.
    pub fn launch(&self, request: &LaunchRequest, clients: Vec<OwnedFd>) -> io::Result<Connection> {
        let body = postcard::to_stdvec(request).map_err(io::Error::other)?;
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        self.fork(theirs.as_fd())?;
        drop(theirs);
        let mut writer = FrameWriter::default();
        writer.push(&body, clients, LAUNCH_LIMIT)?;
        set_socket_timeout(&ours, Timeout::Send, Some(LAUNCH_PATIENCE))?;
        match writer.flush(&ours) {
            Ok(true) => {}
            Ok(false) => return Err(io::ErrorKind::TimedOut.into()),
            // The fork failed; why is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
        Connection::new(ours)
    }
}
