//! Logs that go to another program: messages are queued and sent by the shim's loop as its socket takes them.
//!
//! In blocking mode a queue that is full holds up the container's output; in non-blocking mode what does not fit is dropped.
//! A receiver that goes away is connected to again; messages that wait for it are kept.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use longshore_model::{Timestamp, error::go_errno};
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll::EventFlags, poll},
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send,
        socket_with, sockopt::socket_error,
    },
};

use super::{
    lines::Lines,
    message::{Format, Message},
};
use crate::{
    poll::{Poller, Source, Token},
    protocol::{RemoteAddress, RemotePlan},
    stdio::Stream,
};

/// Bytes that wait in blocking mode before the container has to.
const BLOCK_LIMIT: usize = 1 << 20;
/// A receiver that is gone is looked for again after this.
const RETRY: Duration = Duration::from_millis(500);
/// How long the first connection may take.
const CONNECT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
/// After the container's end: what is not sent by then is given up.
const LAST: Duration = Duration::from_secs(2);

/// The connection with the receiver.
enum Link {
    Up(Source),
    Connecting(Source),
    Down { retry: Instant },
}

/// A log elsewhere.
pub struct Remote {
    address: RemoteAddress,
    format: Format,
    poller: Poller,
    token: Token,
    link: Link,
    lines: [Lines; 2],
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// Bytes of the first message that a stream has taken already.
    sent: usize,
    /// None: blocking mode.
    buffer: Option<usize>,
    dropped: u64,
    failing: bool,
    warning: Option<String>,
    give_up: Option<Instant>,
}

impl Remote {
    /// Connects to the receiver.
    ///
    /// # Errors
    /// It is not there: the container is not started without its log.
    pub fn open(plan: RemotePlan, poller: &Poller, token: Token) -> io::Result<Self> {
        let socket = begin(&plan.address)?;
        await_connection(&socket)?;
        Ok(Self {
            format: Format::new(plan.protocol),
            address: plan.address,
            link: Link::Up(poller.source(socket, token)),
            poller: poller.clone(),
            token,
            lines: Default::default(),
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            buffer: plan
                .buffer
                .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            dropped: 0,
            failing: false,
            warning: None,
            give_up: None,
        })
    }

    /// Takes output of the container.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines[stream.index()]);
        lines.push(
            bytes,
            || Timestamp::now().0,
            |piece| {
                self.enqueue(&Message {
                    stream,
                    text: piece.text,
                    whole: piece.whole,
                    time_nano: piece.time_nano,
                });
            },
        );
        self.lines[stream.index()] = lines;
    }

    /// The container's output has ended.
    pub fn finish(&mut self, now: Instant) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut lines = std::mem::take(&mut self.lines[stream.index()]);
            lines.finish(
                || Timestamp::now().0,
                |piece| {
                    self.enqueue(&Message {
                        stream,
                        text: piece.text,
                        whole: true,
                        time_nano: piece.time_nano,
                    });
                },
            );
        }
        self.give_up = Some(now + LAST);
        self.flush(now);
        if self.dropped > 0 && self.warning.is_none() {
            self.warning = Some(format!(
                "{} log entries for {} were dropped",
                self.dropped, self.address
            ));
        }
    }

    fn enqueue(&mut self, message: &Message<'_>) {
        let bytes = self.format.encode(message);
        if self
            .buffer
            .is_some_and(|limit| self.queued + bytes.len() > limit)
        {
            self.dropped += 1;
            return;
        }
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Sends as much as the receiver takes now.
    pub fn flush(&mut self, now: Instant) {
        while let Some(first) = self.queue.front() {
            let Link::Up(source) = &self.link else {
                return;
            };
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(source, &first[self.sent..], flags) {
                Ok(count) => {
                    self.sent += count;
                    if !self.address.is_stream() || self.sent >= first.len() {
                        self.pop();
                    }
                    self.recovered();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                // No datagram is that long.
                Err(Errno::MSGSIZE) => {
                    self.dropped += 1;
                    self.pop();
                }
                Err(error) => return self.lost(error.into(), now),
            }
        }
    }

    fn pop(&mut self) {
        if let Some(first) = self.queue.pop_front() {
            self.queued -= first.len();
        }
        self.sent = 0;
    }

    fn lost(&mut self, error: io::Error, now: Instant) {
        // A message that was cut is sent again from its beginning.
        self.sent = 0;
        self.link = Link::Down { retry: now + RETRY };
        if !self.failing {
            self.failing = true;
            self.warning = Some(format!(
                "cannot send logs to {}: {}: trying again",
                self.address,
                go_errno(&error)
            ));
        }
    }

    fn recovered(&mut self) {
        if self.failing {
            let dropped = std::mem::take(&mut self.dropped);
            self.warning = Some(format!(
                "logs go to {} again: {dropped} entries were dropped",
                self.address
            ));
            self.failing = false;
        }
    }

    /// One event of the socket.
    pub fn on_event(&mut self, flags: EventFlags, now: Instant) {
        match std::mem::replace(&mut self.link, Link::Down { retry: now }) {
            Link::Connecting(source) => match socket_error(&source) {
                Ok(Ok(())) if !flags.intersects(EventFlags::HUP | EventFlags::ERR) => {
                    self.link = Link::Up(source);
                    self.flush(now);
                }
                Ok(Err(error)) | Err(error) => self.lost(error.into(), now),
                Ok(Ok(())) => self.lost(Errno::CONNREFUSED.into(), now),
            },
            Link::Up(source) => {
                self.link = Link::Up(source);
                if flags.intersects(EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP) {
                    self.lost(Errno::CONNRESET.into(), now);
                } else {
                    self.flush(now);
                }
            }
            Link::Down { retry } => self.link = Link::Down { retry },
        }
    }

    /// Tries again, or gives up.
    pub fn on_time(&mut self, now: Instant) {
        if self.give_up.is_some_and(|at| now >= at) && !self.queue.is_empty() {
            self.dropped += self.queue.len() as u64;
            self.warning = Some(format!(
                "{} log entries could not be sent to {}",
                self.dropped, self.address
            ));
            self.queue.clear();
            self.queued = 0;
        }
        if !matches!(self.link, Link::Down { retry } if now >= retry) {
            return;
        }
        match begin(&self.address) {
            Ok(socket) => {
                self.link = Link::Connecting(self.poller.source(socket, self.token));
                if !self.address.is_stream() {
                    self.on_event(EventFlags::OUT, now);
                }
            }
            Err(error) => self.lost(error, now),
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let retry = match self.link {
            Link::Down { retry } => Some(retry),
            _ => None,
        };
        let last = self.give_up.filter(|_| !self.queue.is_empty());
        retry
            .filter(|_| self.give_up.is_none() || !self.queue.is_empty())
            .into_iter()
            .chain(last)
            .min()
    }

    /// Waits for what matters now.
    pub fn arm(&mut self) -> io::Result<()> {
        let waiting = !self.queue.is_empty();
        let hang_up = if self.address.is_stream() {
            EventFlags::RDHUP
        } else {
            EventFlags::empty()
        };
        match &mut self.link {
            Link::Up(source) => source.arm(Some(if waiting {
                hang_up | EventFlags::OUT
            } else {
                hang_up
            })),
            Link::Connecting(source) => source.arm(Some(EventFlags::OUT)),
            Link::Down { .. } => Ok(()),
        }
    }

    /// True when the container's output has to wait.
    pub fn full(&self) -> bool {
        self.buffer.is_none() && self.queued >= BLOCK_LIMIT
    }

    /// True when nothing waits to be sent.
    pub fn idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Trouble to report, once each time it begins or ends.
    pub fn take_warning(&mut self) -> Option<(String, bool)> {
        self.warning.take().map(|text| (text, self.failing))
    }
}

/// A socket on its way to the receiver.
fn begin(address: &RemoteAddress) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = match address {
        RemoteAddress::UnixStream(_) => (AddressFamily::UNIX, SocketType::STREAM),
        RemoteAddress::UnixDatagram(_) => (AddressFamily::UNIX, SocketType::DGRAM),
        RemoteAddress::Tcp(to) | RemoteAddress::Udp(to) => {
            let family = if to.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let kind = if matches!(address, RemoteAddress::Tcp(_)) {
                SocketType::STREAM
            } else {
                SocketType::DGRAM
            };
            (family, kind)
        }
    };
    let socket = socket_with(family, kind, flags, None)?;
    let connected = match address {
        RemoteAddress::UnixStream(path) | RemoteAddress::UnixDatagram(path) => {
            connect(&socket, &unix(path)?)
        }
        RemoteAddress::Tcp(to) | RemoteAddress::Udp(to) => connect(&socket, to),
    };
    match connected {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn unix(path: &Path) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(path)?)
}

fn await_connection(socket: &OwnedFd) -> io::Result<()> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    if poll(&mut fds, Some(&CONNECT))? == 0 {
        return Err(Errno::TIMEDOUT.into());
    }
    Ok(socket_error(socket.as_fd())??)
}

impl RemoteAddress {
    fn is_stream(&self) -> bool {
        matches!(self, Self::UnixStream(_) | Self::Tcp(_))
    }

    /// A socket in the file system, whichever kind of socket it is.
    pub fn local(path: PathBuf) -> Self {
        let datagram = Self::UnixDatagram(path.clone());
        match begin(&datagram) {
            Ok(_) => datagram,
            Err(_) => Self::UnixStream(path),
        }
    }
}

impl RemoteAddress {
    /// What and whom Go's `net.Dial` would say it dialled.
    pub fn dialled(&self) -> String {
        match self {
            Self::UnixStream(path) => format!("unix {}", path.display()),
            Self::UnixDatagram(path) => format!("unixgram {}", path.display()),
            Self::Tcp(to) => format!("tcp {to}"),
            Self::Udp(to) => format!("udp {to}"),
        }
    }
}

impl std::fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnixStream(path) => write!(f, "unix://{}", path.display()),
            Self::UnixDatagram(path) => write!(f, "unixgram://{}", path.display()),
            Self::Tcp(to) => write!(f, "tcp://{to}"),
            Self::Udp(to) => write!(f, "udp://{to}"),
        }
    }
}
