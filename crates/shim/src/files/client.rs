//! The daemon's end of a helper.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    io::ioctl_fionbio,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Signal, pidfd_send_signal},
};

use super::{Answer, FilesRequest};
use crate::{
    frame::{FRAME_LIMIT, FrameReader, FrameWriter, LAUNCH_LIMIT, Received},
    zygote::Zygote,
};

/// What [`FilesClient::try_recv`] found.
#[derive(Debug)]
pub enum Heard {
    Answer(Answer),
    /// Wait until the descriptor is readable.
    Pending,
    /// The helper is gone.
    Closed,
}

/// A helper at work; dropping this kills it.
pub struct FilesClient {
    socket: OwnedFd,
    reader: FrameReader,
    helper: Option<OwnedFd>,
}

impl Zygote {
    /// Starts a helper and gives the socket to it, for [`FilesClient::ask`].
    ///
    /// # Errors
    /// As [`Zygote::fork`].
    pub fn helper(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        self.fork_helper(theirs.as_fd())?;
        Ok(ours)
    }
}

impl FilesClient {
    /// Gives a new helper its task; `data` is its end of the pipe, for work that has one. Blocks while the helper reads.
    ///
    /// # Errors
    /// The helper is gone.
    pub fn ask(socket: OwnedFd, request: &FilesRequest, data: Option<OwnedFd>) -> io::Result<Self> {
        let body = postcard::to_stdvec(request).map_err(io::Error::other)?;
        let mut writer = FrameWriter::default();
        writer.push(&body, data.into_iter().collect(), LAUNCH_LIMIT)?;
        writer.flush(&socket)?;
        ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            reader: FrameReader::new(FRAME_LIMIT),
            helper: None,
        })
    }

    /// The next answer.
    ///
    /// # Errors
    /// Something that is no answer.
    pub fn try_recv(&mut self) -> io::Result<Heard> {
        loop {
            let frame = match self.reader.receive(&self.socket)? {
                Received::Frame(frame) => frame,
                Received::Pending => return Ok(Heard::Pending),
                Received::Closed => return Ok(Heard::Closed),
            };
            match serde_json::from_slice(&frame.body)? {
                Answer::Hello => self.helper = frame.fds.into_iter().next(),
                answer => return Ok(Heard::Answer(answer)),
            }
        }
    }
}

impl AsFd for FilesClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for FilesClient {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for FilesClient {
    fn drop(&mut self) {
        if self.helper.is_none() {
            // Its first word may be unread.
            let _ = self.try_recv();
        }
        // Ended already, as a rule.
        if let Some(helper) = &self.helper {
            let _ = pidfd_send_signal(helper, Signal::KILL);
        }
    }
}
