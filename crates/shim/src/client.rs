//! The daemon's side: starting shims, talking to them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
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

/// How long a killed shim may take to go.
const KILL_PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

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
        if self.sending() {
            // A shim that is gone is seen below, after its last words.
            let _ = self.flush();
        }
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

    /// True while something waits for room in the socket.
    pub fn sending(&self) -> bool {
        self.waiting() > 0
    }

    /// Bytes that wait for room in the socket.
    pub fn waiting(&self) -> usize {
        self.writer.waiting()
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

/// Kills the shim of a run directory, one that does not answer too; without one it does nothing.
///
/// # Errors
/// What the kernel answered.
pub fn kill_shim(run_dir: &Path) -> io::Result<()> {
    let Ok(pid) = listen::owner(run_dir) else {
        return Ok(());
    };
    let shim = pidfd_open(pid, PidfdFlags::empty())?;
    // Still listening, so the number is still its own. Its peers are the kernel's word for who listens.
    if listen::owner(run_dir).is_ok_and(|again| again == pid) {
        pidfd_send_signal(&shim, Signal::KILL)?;
    }
    // Its socket, run directory and control group are free when it is gone.
    let mut fds = [PollFd::new(&shim, PollFlags::IN)];
    poll(&mut fds, Some(&KILL_PATIENCE))?;
    Ok(())
}

impl Zygote {
    /// Starts a shim and gives it its task. `clients` are the sockets for `request.attach`, in that order. The first message is `Started`
    /// or `LaunchFailed`; a shim that ends without either was killed.
    ///
    /// # Errors
    /// `BrokenPipe` when the zygote is gone (start another one), `WouldBlock` when it does not take tasks, `InvalidInput` when the
    /// request is too large (4 MiB).
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
        let mut connection = Connection::new(ours)?;
        connection.writer.push(&body, clients, LAUNCH_LIMIT)?;
        match connection.flush() {
            // What the socket has no room for goes with the first reads.
            Ok(_) => {}
            // The fork failed; why is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
        Ok(connection)
    }
}
