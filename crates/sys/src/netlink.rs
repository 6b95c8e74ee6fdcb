//! Netlink: building messages and blocking sockets for rtnetlink and nfnetlink.
//!
//! A [`Batch`] holds one or more messages and goes out in one `sendmsg`; the kernel works through it before the call
//! returns, so all answers are already queued when [`Socket::request`] reads them. A socket belongs to the network
//! namespace of the thread that opened it: callers that want another one enter it (setns) first.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink,
    recv, send, socket_with, sockopt,
};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// The acknowledgement leaves out the request's payload.
const NLM_F_CAPPED: u16 = 0x100;
/// The acknowledgement carries attributes (error text, offset).
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const SOL_NETLINK: i32 = 270;

/// Flags of a request (linux/netlink.h).
pub mod flags {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

/// Attribute flag: the payload is itself a list of attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// Bits of an attribute's type field that are its number.
pub const ATTRIBUTE_MASK: u16 = 0x3fff;

/// Which netlink family a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// nf_tables, conntrack.
    Netfilter,
}

/// A failed request: errno, and the kernel's own explanation where it gives one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub errno: i32,
    /// Extended acknowledgement; often empty.
    pub text: String,
    /// Which message of the batch failed, counted from 0.
    pub message: usize,
}

impl Error {
    fn local(errno: rustix::io::Errno) -> Self {
        Self {
            errno: errno.raw_os_error(),
            text: String::new(),
            message: 0,
        }
    }
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno == errno.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.errno).fmt(f)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    /// Keeps the errno; the kernel's text is lost.
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno)
    }
}

/// Messages to be sent together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins.
    starts: Vec<usize>,
    /// An attribute was longer than its 16-bit length can say.
    oversized: bool,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message: `kind` is RTM_* or `subsystem << 8 | message`, `flags` are [`flags`] (REQUEST is added), `header` is
    /// the family's fixed part (`ifinfomsg`, `nfgenmsg`, ...).
    pub fn message(&mut self, kind: u16, flags: u16, header: &[u8]) -> Message<'_> {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        let mut message = Message { batch: self, start };
        message.raw(header);
        message
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The messages as they are sent, to be taken to another process: [`Self::from_bytes`].
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Messages that were built elsewhere. None when the lengths in them do not fit.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let mut starts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let header = bytes.get(at..at + 16)?;
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            starts.push(at);
            at = at.checked_add(length.max(16).next_multiple_of(4))?;
        }
        (at == bytes.len()).then_some(Self {
            bytes,
            starts,
            oversized: false,
        })
    }

    /// Number of bytes on the wire.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Asks for an acknowledgement of the message `index`.
    fn want_ack(&mut self, index: usize) {
        if let Some(&start) = self.starts.get(index) {
            let at = start + 6;
            let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | flags::ACK;
            self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    fn set_sequence(&mut self, first: u32) {
        let mut sequence = first;
        for start in &self.starts {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
        }
    }
}

/// The last message of a batch, while it is being built. Every method leaves it complete.
pub struct Message<'a> {
    batch: &'a mut Batch,
    start: usize,
}

impl Message<'_> {
    fn finish(&mut self) {
        let length = u32::try_from(self.batch.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.batch.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        let padded = self.batch.bytes.len().next_multiple_of(4);
        self.batch.bytes.resize(padded, 0);
    }

    fn attribute_header(&mut self, kind: u16, payload: usize) {
        let length = u16::try_from(payload + 4).unwrap_or_else(|_| {
            self.batch.oversized = true;
            4
        });
        self.batch.bytes.extend_from_slice(&length.to_ne_bytes());
        self.batch.bytes.extend_from_slice(&kind.to_ne_bytes());
    }

    /// Bytes as they are, padded to four: a fixed header such as the `ifinfomsg` inside VETH_INFO_PEER.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.batch.bytes.extend_from_slice(bytes);
        self.pad();
        self.finish();
        self
    }

    /// An attribute with a binary payload.
    pub fn put(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        self.attribute_header(kind, payload.len());
        self.raw(payload)
    }

    /// An attribute without payload, whose presence says all.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.put(kind, &[])
    }

    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Host byte order, as rtnetlink wants it.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Host byte order, as rtnetlink wants it.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Network byte order, as nfnetlink wants it.
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A text with its terminating zero.
    pub fn string(&mut self, kind: u16, text: &str) -> &mut Self {
        self.attribute_header(kind, text.len() + 1);
        self.batch.bytes.extend_from_slice(text.as_bytes());
        self.raw(&[0])
    }

    /// An attribute that holds the attributes which `build` adds.
    pub fn nest(&mut self, kind: u16, build: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.batch.bytes.len();
        self.attribute_header(kind | NLA_F_NESTED, 0);
        build(self);
        let length = u16::try_from(self.batch.bytes.len() - start).unwrap_or_else(|_| {
            self.batch.oversized = true;
            4
        });
        self.batch.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.finish();
        self
    }
}

/// A message that the kernel sent.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Port of the socket whose request caused it; 0 for the kernel itself.
    pub port: u32,
    /// Fixed header and attributes.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes behind a fixed header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes {
            bytes: self
                .payload
                .get(header.next_multiple_of(4)..)
                .unwrap_or_default(),
        }
    }
}

/// Walks over (number, payload) pairs; ends at the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes nested in `payload`.
    pub fn nested(payload: &'a [u8]) -> Self {
        Self { bytes: payload }
    }

    /// Payload of the first attribute with this number.
    pub fn find(mut self, number: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, payload)| (kind == number).then_some(payload))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & ATTRIBUTE_MASK;
        let payload = self.bytes.get(4..length)?;
        self.bytes = self
            .bytes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, payload))
    }
}

/// The text of a string attribute, up to its zero.
pub fn text(payload: &[u8]) -> &str {
    let end = payload
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(payload.len());
    std::str::from_utf8(&payload[..end]).unwrap_or_default()
}

/// A host-order u32 at the start of a payload.
pub fn u32_of(payload: &[u8]) -> Option<u32> {
    payload.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A bound netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    send_limit: usize,
}

impl Socket {
    /// Opens and binds a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The errno of socket, setsockopt or bind.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let number = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            number,
        )?;
        // Both only make answers shorter or clearer; kernels before 4.12 lack them.
        let _ = set_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1);
        let _ = set_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1);
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let port = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?.pid();
        let send_limit = sockopt::socket_send_buffer_size(&fd)?;
        Ok(Self {
            fd,
            port,
            sequence: 1,
            buffer: Vec::new(),
            send_limit,
        })
    }

    /// Our address: what [`Received::port`] says in notifications about our own changes.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Joins a multicast group (RTNLGRP_*, NFNLGRP_*).
    ///
    /// # Errors
    /// The errno of setsockopt.
    pub fn join(&self, group: i32) -> io::Result<()> {
        set_option(self.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Room for notifications that wait to be read, in bytes; needs CAP_NET_ADMIN to go past the system's limit.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.fd, bytes))?;
        Ok(())
    }

    /// Sends all messages in one call and waits for each one's acknowledgement: one result a message, in order. With
    /// rtnetlink a failed message does not stop the later ones.
    ///
    /// # Errors
    /// The batch could not be sent, or its answers were lost.
    pub fn request_each(&mut self, batch: &mut Batch) -> Result<Vec<Result<(), Error>>, Error> {
        let count = batch.len();
        for index in 0..count {
            batch.want_ack(index);
        }
        let first = self.send(batch)?;
        let mut results: Vec<Option<Result<(), Error>>> = vec![None; count];
        let mut missing = count;
        while missing > 0 {
            self.receive_into(RecvFlags::DONTWAIT)?;
            for message in Messages(&self.buffer) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind == NLMSG_ERROR
                    && let Some(slot) = results.get_mut(index)
                {
                    missing -= usize::from(slot.is_none());
                    *slot = Some(acknowledgement(&message, index));
                }
            }
        }
        Ok(results.into_iter().map(|r| r.unwrap_or(Ok(()))).collect())
    }

    /// Like [`Self::request_each`], but the first failure is the result of the whole.
    ///
    /// # Errors
    /// The first failed message.
    pub fn request(&mut self, batch: &mut Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.request_each(batch)?.into_iter().collect()
    }

    /// Sends an nfnetlink transaction, whose first and last message are the batch markers: all of it happens or
    /// nothing. Only the last real message is acknowledged; failures are always reported.
    ///
    /// # Errors
    /// The first failed message; its index counts the opening marker as 0.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let Some(last) = batch.len().checked_sub(2).filter(|last| *last > 0) else {
            return Ok(());
        };
        batch.want_ack(last);
        let first = self.send(batch)?;
        let mut failure: Option<Error> = None;
        loop {
            match self.receive_into(RecvFlags::DONTWAIT) {
                Ok(()) => {}
                // A refused batch may end without an answer to its last message.
                Err(error) => return Err(failure.unwrap_or(error)),
            }
            for message in Messages(&self.buffer) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind != NLMSG_ERROR || index >= batch.len() {
                    continue;
                }
                if let Err(error) = acknowledgement(&message, index) {
                    failure.get_or_insert(error);
                }
                if index == last || (index == 0 && failure.is_some()) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends one request for a listing and hands every answer to `visit`.
    ///
    /// # Errors
    /// What the kernel answered; `EINTR` when the listing changed while it was read (ask again).
    pub fn dump(
        &mut self,
        batch: &mut Batch,
        mut visit: impl FnMut(&Received<'_>),
    ) -> Result<(), Error> {
        const NLM_F_DUMP_INTR: u16 = 0x10;
        let first = self.send(batch)?;
        let mut interrupted = false;
        loop {
            self.receive_into(RecvFlags::DONTWAIT)?;
            for message in Messages(&self.buffer) {
                if message.sequence != first {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE if interrupted => {
                        return Err(Error::local(rustix::io::Errno::INTR));
                    }
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledgement(&message, 0),
                    _ => visit(&message),
                }
            }
        }
    }

    /// Sends one request and hands its single answer to `visit` (RTM_GETLINK without DUMP, NFT_MSG_GETTABLE).
    ///
    /// # Errors
    /// What the kernel answered, `ENOENT` and `ENODEV` above all.
    pub fn query(
        &mut self,
        batch: &mut Batch,
        mut visit: impl FnMut(&Received<'_>),
    ) -> Result<(), Error> {
        batch.want_ack(0);
        let first = self.send(batch)?;
        loop {
            self.receive_into(RecvFlags::DONTWAIT)?;
            for message in Messages(&self.buffer) {
                match message.kind {
                    _ if message.sequence != first => {}
                    NLMSG_ERROR => return acknowledgement(&message, 0),
                    _ => visit(&message),
                }
            }
        }
    }

    /// Reads one datagram of notifications, waiting for it unless the descriptor was polled before.
    ///
    /// # Errors
    /// `ENOBUFS`: notifications were lost because they were not read fast enough.
    pub fn notifications(&mut self, mut visit: impl FnMut(&Received<'_>)) -> Result<(), Error> {
        self.receive_into(RecvFlags::empty())?;
        for message in Messages(&self.buffer) {
            visit(&message);
        }
        Ok(())
    }

    fn send(&mut self, batch: &mut Batch) -> Result<u32, Error> {
        if batch.oversized {
            return Err(Error::local(rustix::io::Errno::MSGSIZE));
        }
        self.discard_pending();
        // The kernel refuses a datagram that is larger than the send buffer, keeping 32 bytes for itself.
        if batch.size() + 1024 > self.send_limit / 2 {
            let wanted = batch.size() + 4096;
            let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, wanted);
            self.send_limit = sockopt::socket_send_buffer_size(&self.fd).unwrap_or(self.send_limit);
        }
        let first = self.sequence;
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        self.sequence = self.sequence.wrapping_add(count);
        batch.set_sequence(first);
        loop {
            match send(&self.fd, &batch.bytes, SendFlags::empty()) {
                Ok(_) => return Ok(first),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::local(error)),
            }
        }
    }

    /// Drops answers that an earlier, failed request left behind.
    fn discard_pending(&mut self) {
        let mut scratch = [0u8; 16];
        while let Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) = recv(
            &self.fd,
            &mut scratch,
            RecvFlags::DONTWAIT | RecvFlags::TRUNC,
        ) {}
    }

    /// Replaces the buffer's content by the next datagram.
    fn receive_into(&mut self, how: RecvFlags) -> Result<(), Error> {
        const FIRST: usize = 32 * 1024;
        loop {
            // Peek first: a truncated datagram would be lost, and the kernel makes large ones for dumps.
            let length = match recv(
                &self.fd,
                &mut [0u8; 0][..],
                how | RecvFlags::PEEK | RecvFlags::TRUNC,
            ) {
                Ok((_, length)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::local(error)),
            };
            self.buffer.resize(length.max(FIRST), 0);
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    self.buffer.truncate(length);
                    return Ok(());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::local(error)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Splits a datagram into messages.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..HEADER)?;
        let word = |at: usize| u32_of(&head[at..]).unwrap_or_default();
        let length = word(0) as usize;
        let payload = self.0.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        let (sequence, port) = (word(8), word(12));
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        if kind == NLMSG_OVERRUN {
            return None;
        }
        Some(Received {
            kind,
            flags,
            sequence,
            port,
            payload,
        })
    }
}

/// What an NLMSG_ERROR message says.
fn acknowledgement(message: &Received<'_>, index: usize) -> Result<(), Error> {
    let code = message
        .payload
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map_or(-libc::EPROTO, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let mut text_of_kernel = String::new();
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let original = message.payload.get(4..).and_then(u32_of).unwrap_or(0) as usize;
        let skip = if message.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            original.next_multiple_of(4)
        };
        let attributes = Attributes::nested(message.payload.get(4 + skip..).unwrap_or_default());
        if let Some(payload) = attributes.find(NLMSGERR_ATTR_MSG) {
            text(payload).clone_into(&mut text_of_kernel);
        }
    }
    Err(Error {
        errno: -code,
        text: text_of_kernel,
        message: index,
    })
}

fn set_option(fd: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    let size = u32::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the descriptor is open for the call; the pointer and length describe a live i32 that the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
