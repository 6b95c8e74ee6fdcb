//! The shim's connection with its daemon.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::event::epoll::EventFlags;

use crate::{
    frame::{FRAME_LIMIT, Frame, FrameReader, FrameWriter, Received},
    poll::Source,
    protocol::Message,
};

/// A daemon that reads nothing while this much waits for it has lost its connection; it may connect again.
const WAITING_LIMIT: usize = 4 << 20;

/// A live connection. Errors of its own close it, they never end the shim.
pub struct Control {
    source: Source,
    reader: FrameReader,
    writer: FrameWriter,
    broken: bool,
}

impl Control {
    /// `source` is non-blocking.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            reader: FrameReader::new(FRAME_LIMIT),
            writer: FrameWriter::default(),
            broken: false,
        }
    }

    /// The next request, if one has come.
    pub fn receive(&mut self) -> Option<Frame> {
        match self.reader.receive(&self.source) {
            Ok(Received::Frame(frame)) => return Some(frame),
            Ok(Received::Pending) => {}
            Ok(Received::Closed) | Err(_) => self.broken = true,
        }
        None
    }

    pub fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) {
        let pushed = serde_json::to_vec(message)
            .map_err(io::Error::from)
            .and_then(|body| self.writer.push(&body, fds, FRAME_LIMIT));
        if pushed.is_err() || self.writer.waiting() > WAITING_LIMIT {
            self.broken = true;
        }
    }

    /// Sends what waits, as far as the socket takes it, and waits for what matters.
    pub fn settle(&mut self) {
        let mut flags = EventFlags::IN;
        match self.writer.flush(&self.source) {
            Ok(true) => {}
            Ok(false) => flags |= EventFlags::OUT,
            Err(_) => self.broken = true,
        }
        self.broken |= self.source.arm(Some(flags)).is_err();
    }

    pub fn broken(&self) -> bool {
        self.broken
    }
}

/// Sends one message over a blocking socket.
pub fn send_now(socket: impl AsFd, message: &Message, fds: Vec<OwnedFd>) -> io::Result<()> {
    let mut writer = FrameWriter::default();
    writer.push(&serde_json::to_vec(message)?, fds, FRAME_LIMIT)?;
    writer.flush(socket).map(drop)
}
