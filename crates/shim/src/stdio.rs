//! The standard streams of one process, the container's first or an exec's: what it writes goes to the log and to every attached
//! client, what clients write goes to its stdin. Every buffer is bounded; the policy for one that is full is in
//! docs/decisions/0002-attach-backpressure.md.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::epoll::EventFlags,
    io::{Errno, ioctl_fionread},
};
use serde::{Deserialize, Serialize};

use crate::{
    attached::{Attached, InputRead},
    poll::{Poller, Source, Token},
};

/// One of the two output streams; the number is the one in Docker's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    Stdout = 1,
    Stderr = 2,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
    pub(crate) fn index(self) -> usize {
        self as usize - 1
    }
}

/// Which streams a client is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachStreams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Our ends of a process's streams, non-blocking.
#[derive(Debug, Default)]
pub struct StdioEnds {
    /// A pipe's write end; None when there is no stdin.
    pub stdin: Option<OwnedFd>,
    /// A pipe's read end, or the terminal's master.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub terminal: bool,
}

/// How the process treats its clients.
#[derive(Clone, Copy, Debug)]
pub struct AttachPolicy {
    /// The end of a client's input ends the process's.
    pub stdin_once: bool,
    /// How long a full client may hold up the process; None for ever (an exec has no log and no other client to harm).
    pub stall: Option<Duration>,
}

/// A client that does not read holds up the container for this long.
pub const STALL_LIMIT: Duration = Duration::from_secs(10);

const READ_SIZE: usize = 32 << 10;
const INPUT_LIMIT: usize = 64 << 10;
/// After the first process has ended, output is awaited this long if somebody else still holds the pipe.
const QUIET: Duration = Duration::from_millis(100);
/// And if that somebody goes on writing, no longer than this.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);
/// A client that vanished together with the daemon does not end the container's input: the daemon's own connection gets this long to
/// show that it is gone too.
const VANISH_GRACE: Duration = Duration::from_millis(100);

const STDIN: u32 = 0;
const OUTPUTS: u32 = 1;
const CLIENTS: u32 = 8;

struct Input {
    source: Source,
    buffer: Vec<u8>,
    ends: bool,
}

struct Output {
    stream: Stream,
    source: Source,
    paused: bool,
    /// After the process has ended: bytes that were in the pipe then and are still to be read.
    owed: u64,
    quiet_at: Option<Instant>,
}

/// Streams and clients of one process.
pub struct ProcessIo {
    poller: Poller,
    owner: u32,
    terminal: bool,
    policy: AttachPolicy,
    input: Option<Input>,
    outputs: Vec<Output>,
    clients: Vec<Attached>,
    next_part: u32,
    /// Keeps the terminal from hanging up while no process has it open.
    keeper: Option<OwnedFd>,
    /// When the process ended.
    ended_at: Option<Instant>,
    /// A client of a `stdin_once` process vanished without saying that its input ends.
    vanished_at: Option<Instant>,
}

impl ProcessIo {
    pub fn new(
        poller: &Poller,
        owner: u32,
        ends: StdioEnds,
        policy: AttachPolicy,
    ) -> io::Result<Self> {
        let mut io = Self {
            poller: poller.clone(),
            owner,
            terminal: ends.terminal,
            policy,
            input: None,
            outputs: Vec::new(),
            clients: Vec::new(),
            next_part: CLIENTS,
            keeper: None,
            ended_at: None,
            vanished_at: None,
        };
        io.input = ends.stdin.map(|fd| Input {
            source: poller.source(fd, Token { owner, part: STDIN }),
            buffer: Vec::new(),
            ends: false,
        });
        for (stream, fd) in [(Stream::Stdout, ends.stdout), (Stream::Stderr, ends.stderr)] {
            let Some(fd) = fd else { continue };
            if ends.terminal {
                io.keeper = open_slave(&fd);
            }
            let part = OUTPUTS + stream.index() as u32;
            io.outputs.push(Output {
                stream,
                source: poller.source(fd, Token { owner, part }),
                paused: false,
                owed: 0,
                quiet_at: None,
            });
        }
        Ok(io)
    }

    /// Joins a client. Its socket is made non-blocking.
    pub fn attach(&mut self, socket: OwnedFd, streams: AttachStreams) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let part = self.next_part;
        self.next_part = self.next_part.wrapping_add(1).max(CLIENTS);
        let token = Token {
            owner: self.owner,
            part,
        };
        let source = self.poller.source(socket, token);
        let mut client = Attached::new(source, part, streams, self.terminal, self.policy.stall);
        if self.input.is_none() && self.ended_at.is_none() {
            // No stdin was asked for: as in dockerd, what the client sends is left unread.
            client.ignore_input();
        }
        self.clients.push(client);
        Ok(())
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// `ENOTTY` without a terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        match self.outputs.first() {
            Some(output) if self.terminal => {
                longshore_launcher::pty::set_window_size(&output.source, rows, columns)
            }
            _ => Err(Errno::NOTTY.into()),
        }
    }

    /// One event for a part of this process's streams. `sink` takes the output.
    pub fn on_event(
        &mut self,
        part: u32,
        flags: EventFlags,
        now: Instant,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) {
        match part {
            STDIN => self.write_input(),
            part if part < CLIENTS => self.read_output(part, now, sink),
            part => self.on_client(part, flags, now),
        }
    }

    fn read_output(&mut self, part: u32, now: Instant, sink: &mut dyn FnMut(Stream, &[u8])) {
        let found = |o: &Output| OUTPUTS + o.stream.index() as u32 == part;
        let Some(at) = self.outputs.iter().position(found) else {
            return;
        };
        let output = &mut self.outputs[at];
        let mut buffer = Vec::with_capacity(READ_SIZE);
        match rustix::io::read(&output.source, rustix::buffer::spare_capacity(&mut buffer)) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            // 0: every write end is closed. EIO: the same of a terminal.
            Ok(0) | Err(_) => {
                self.outputs.remove(at);
                return;
            }
            Ok(_) => {}
        }
        let stream = output.stream;
        output.owed = output.owed.saturating_sub(buffer.len() as u64);
        if self.ended_at.is_some() {
            output.quiet_at = Some(now + QUIET);
        }
        sink(stream, &buffer);
        for client in &mut self.clients {
            client.deliver(stream, &buffer, now);
        }
    }

    fn on_client(&mut self, part: u32, flags: EventFlags, now: Instant) {
        let Some(client) = self.clients.iter_mut().find(|c| c.part() == part) else {
            return;
        };
        if flags.contains(EventFlags::OUT) {
            client.flush(now);
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            client.hang_up();
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP) {
            self.read_client(part, now);
        }
    }

    fn read_client(&mut self, part: u32, now: Instant) {
        let Some(client) = self.clients.iter_mut().find(|c| c.part() == part) else {
            return;
        };
        let mut discarded = Vec::new();
        let (buffer, room) = match &mut self.input {
            Some(input) => {
                let room = INPUT_LIMIT.saturating_sub(input.buffer.len());
                (&mut input.buffer, room)
            }
            None => (&mut discarded, INPUT_LIMIT),
        };
        if room == 0 {
            return;
        }
        if client.read_input(buffer, room) == InputRead::Ended {
            self.input_ended(part, now);
        }
        self.write_input();
    }

    /// As dockerd: the end of a client's input ends the process's when it is to be attached once and has no terminal; otherwise it
    /// ends the client's attachment.
    fn input_ended(&mut self, part: u32, now: Instant) {
        let Some(client) = self.clients.iter_mut().find(|c| c.part() == part) else {
            return;
        };
        if !self.policy.stdin_once || self.terminal {
            client.end();
        } else if client.hung_up() {
            self.vanished_at = Some(now);
        } else if let Some(input) = &mut self.input {
            input.ends = true;
        }
    }

    fn write_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        let mut written = 0;
        while written < input.buffer.len() {
            match rustix::io::write(&input.source, &input.buffer[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The process has closed its end: what clients send from now on goes nowhere.
                Err(_) => {
                    self.input = None;
                    return;
                }
            }
        }
        if written == input.buffer.len() {
            input.buffer = Vec::new();
            if input.ends {
                self.input = None;
            }
        } else {
            input.buffer.drain(..written);
        }
    }

    /// The process has been reaped: what is left in its pipes is read, then they are done.
    pub fn process_ended(&mut self, now: Instant) {
        self.ended_at = Some(now);
        self.keeper = None;
        self.input = None;
        for output in &mut self.outputs {
            output.owed = ioctl_fionread(&output.source).unwrap_or(0);
            output.quiet_at = Some(now + QUIET);
        }
    }

    /// True when all output has been read.
    pub fn drained(&self) -> bool {
        self.outputs.is_empty()
    }

    /// True when nothing waits for any client.
    pub fn delivered(&self) -> bool {
        self.clients.iter().all(|client| !client.pending())
    }

    /// Clients get what waits for them and then the end of the stream.
    pub fn end_clients(&mut self) {
        for client in &mut self.clients {
            client.end();
        }
        self.clients.retain(|client| !client.done());
    }

    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// When [`Self::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let outputs = self
            .outputs
            .iter()
            .filter(|output| !output.paused && output.owed == 0)
            .filter_map(|output| output.quiet_at);
        let clients = self.clients.iter().filter_map(Attached::deadline);
        let vanished = self.vanished_at.map(|at| at + VANISH_GRACE);
        outputs.chain(clients).chain(vanished).min()
    }

    /// Acts on what is due. `daemon`: its connection is alive.
    pub fn on_time(&mut self, now: Instant, daemon: bool) {
        for client in &mut self.clients {
            if client.deadline().is_some_and(|at| now >= at) {
                client.cut();
            }
        }
        let limit = self.ended_at.map(|at| at + DRAIN_LIMIT);
        self.outputs.retain(|output| {
            let quiet = output.quiet_at.is_some_and(|at| now >= at);
            let endless = limit.is_some_and(|limit| now >= limit);
            output.paused || output.owed > 0 || !(quiet || endless)
        });
        if self.vanished_at.is_some_and(|at| now >= at + VANISH_GRACE) {
            self.vanished_at = None;
            if daemon && let Some(input) = &mut self.input {
                input.ends = true;
                self.write_input();
            }
        }
    }

    /// After each turn: lets go of clients that are done, waits for what matters now. `held`: no output is read for now.
    pub fn settle(&mut self, now: Instant, held: bool) -> io::Result<()> {
        self.clients.retain(|client| !client.done());
        if let Some(input) = &mut self.input {
            let flags = (!input.buffer.is_empty()).then_some(EventFlags::OUT);
            input.source.arm(flags)?;
        }
        for output in &mut self.outputs {
            let paused = held || self.clients.iter().any(|c| c.blocks(output.stream));
            if output.paused && !paused && output.quiet_at.is_some() {
                output.quiet_at = Some(now + QUIET);
            }
            output.paused = paused;
            output.source.arm((!paused).then_some(EventFlags::IN))?;
        }
        let room = self
            .input
            .as_ref()
            .is_none_or(|i| i.buffer.len() < INPUT_LIMIT);
        for client in &mut self.clients {
            client.arm(room)?;
        }
        Ok(())
    }
}

fn open_slave(master: &OwnedFd) -> Option<OwnedFd> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(master.as_fd(), flags).ok()
}
