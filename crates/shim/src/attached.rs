//! One attached client: a stream socket that gets output and gives input.

use std::{
    io::{self, IoSlice},
    time::{Duration, Instant},
};

use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
};

use crate::{
    poll::Source,
    stdio::{AttachStreams, Stream},
};

/// Bytes that wait for a client before the container's output is held up.
pub const CLIENT_LIMIT: usize = 1 << 20;

/// What a read from a client gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRead {
    Some,
    Nothing,
    Ended,
}

/// A client and what waits for it.
pub struct Attached {
    source: Source,
    part: u32,
    streams: AttachStreams,
    terminal: bool,
    stall: Option<Duration>,
    outgoing: Vec<u8>,
    sent: usize,
    /// When the client last took something, or something began to wait.
    progress_at: Instant,
    hung_up: bool,
    ending: bool,
}

impl Attached {
    pub fn new(
        source: Source,
        part: u32,
        streams: AttachStreams,
        terminal: bool,
        stall: Option<Duration>,
    ) -> Self {
        Self {
            source,
            part,
            streams,
            terminal,
            stall,
            outgoing: Vec::new(),
            sent: 0,
            progress_at: Instant::now(),
            hung_up: false,
            ending: false,
        }
    }

    pub fn part(&self) -> u32 {
        self.part
    }

    pub fn ignore_input(&mut self) {
        self.streams.stdin = false;
    }

    fn wants(&self, stream: Stream) -> bool {
        !self.ending
            && match stream {
                Stream::Stdout => self.streams.stdout,
                Stream::Stderr => self.streams.stderr,
            }
    }

    /// Output of the process: into the socket, what does not fit into the buffer. Never refused: the caller stops reading
    /// output when [`Self::blocks`].
    pub fn deliver(&mut self, stream: Stream, bytes: &[u8], now: Instant) {
        if !self.wants(stream) {
            return;
        }
        let mut header = [stream as u8, 0, 0, 0, 0, 0, 0, 0];
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        header[4..].copy_from_slice(&length.to_be_bytes());
        let header: &[u8] = if self.terminal { &[] } else { &header };
        let mut taken = 0;
        if !self.pending() {
            self.progress_at = now;
            taken = self.send(&[IoSlice::new(header), IoSlice::new(bytes)]);
        }
        if !self.hung_up {
            let rest = header.len().saturating_sub(taken);
            self.outgoing
                .extend_from_slice(&header[header.len() - rest..]);
            let taken = taken.saturating_sub(header.len());
            self.outgoing.extend_from_slice(&bytes[taken..]);
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self, now: Instant) {
        let outgoing = std::mem::take(&mut self.outgoing);
        let taken = self.send(&[IoSlice::new(&outgoing[self.sent..])]);
        if self.hung_up {
            return;
        }
        self.outgoing = outgoing;
        if taken > 0 {
            self.progress_at = now;
            self.sent += taken;
        }
        if self.sent == self.outgoing.len() {
            self.outgoing = Vec::new();
            self.sent = 0;
        } else if self.sent > self.outgoing.len() / 2 {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> usize {
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(
                &self.source,
                parts,
                &mut SendAncillaryBuffer::default(),
                flags,
            ) {
                Ok(count) => return count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return 0,
                Err(_) => {
                    self.hang_up();
                    return 0;
                }
            }
        }
    }

    /// The other side is closed: nothing can be sent any more; what it sent before is still read.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
        self.outgoing = Vec::new();
        self.sent = 0;
    }

    pub fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Reads at most `room` bytes of input behind those in `buffer`.
    pub fn read_input(&mut self, buffer: &mut Vec<u8>, room: usize) -> InputRead {
        if !self.streams.stdin {
            return InputRead::Nothing;
        }
        let mut piece = Vec::with_capacity(room.min(32 << 10));
        let mut resets = 0;
        loop {
            match rustix::io::read(&self.source, rustix::buffer::spare_capacity(&mut piece)) {
                Ok(0) => break,
                Ok(_) => {
                    buffer.extend_from_slice(&piece);
                    return InputRead::Some;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return InputRead::Nothing,
                // Closed with output unread; what it sent itself comes after this error.
                Err(Errno::CONNRESET) if resets == 0 => resets = 1,
                Err(_) => break,
            }
        }
        self.streams.stdin = false;
        InputRead::Ended
    }

    /// No output from now on; closed when what waits is sent.
    pub fn end(&mut self) {
        self.ending = true;
        self.streams.stdin = false;
    }

    /// Stops its output: the client has not read for too long. What waits is still sent, then a word on what happened, then
    /// the end. The word is an error frame (Docker's stream type 3), which clients report; with a terminal it is text.
    pub fn cut(&mut self) {
        const WORD: &[u8] = b"output was cut off: the client did not read it for too long";
        if self.terminal {
            self.outgoing.extend_from_slice(b"\r\n");
        } else {
            let length = (WORD.len() as u32).to_be_bytes();
            self.outgoing.extend_from_slice(&[3, 0, 0, 0]);
            self.outgoing.extend_from_slice(&length);
        }
        self.outgoing.extend_from_slice(WORD);
        if self.terminal {
            self.outgoing.extend_from_slice(b"\r\n");
        }
        self.end();
    }

    pub fn pending(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// True when output of this stream has to wait for the client.
    pub fn blocks(&self, stream: Stream) -> bool {
        self.wants(stream) && self.outgoing.len() - self.sent >= CLIENT_LIMIT
    }

    /// When the client is to be cut off unless it takes something before.
    pub fn deadline(&self) -> Option<Instant> {
        let full = self.outgoing.len() - self.sent >= CLIENT_LIMIT;
        (full && !self.ending).then_some(self.progress_at + self.stall?)
    }

    /// True when nothing more can happen with it.
    pub fn done(&self) -> bool {
        (self.hung_up && !self.streams.stdin) || (self.ending && !self.pending())
    }

    /// Waits for room in the socket when something waits, for input when there is `room` for it, for hang-ups always
    /// (unless it has hung up and its last input has to wait).
    pub fn arm(&mut self, room: bool) -> io::Result<()> {
        let mut flags = EventFlags::empty();
        if self.streams.stdin && room {
            flags |= EventFlags::IN;
        }
        if self.pending() {
            flags |= EventFlags::OUT;
        }
        let idle = self.hung_up && flags.is_empty();
        self.source.arm((!idle).then_some(flags))
    }
}
