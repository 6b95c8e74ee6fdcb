//! Frames on a stream socket: a little-endian u32 length, then that many bytes; descriptors travel with the first byte.
//! A header and its body are read by separate calls, so descriptors always belong to the frame being read.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// Bytes of an ordinary frame's body.
pub const FRAME_LIMIT: usize = 1 << 20;
/// Bytes of a launch request's body: plans carry seccomp filters, environments and long lists of layers.
pub const LAUNCH_LIMIT: usize = 4 << 20;
/// Descriptors with one frame; below the kernel's SCM_MAX_FD (253).
pub const FDS_LIMIT: usize = 64;

const HEADER: usize = 4;
/// A body is read in pieces of this size, so that a lying header costs no memory.
const PIECE: usize = 64 << 10;

/// One whole message.
#[derive(Debug)]
pub struct Frame {
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// What [`FrameReader::receive`] found.
#[derive(Debug)]
pub enum Received {
    Frame(Frame),
    /// Nothing more for now (non-blocking sockets only).
    Pending,
    /// The other side closed between two frames.
    Closed,
}

/// A header announced more bytes than the limit.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// The byte side of the format, without any socket.
#[derive(Debug)]
pub struct Decoder {
    header: [u8; HEADER],
    header_len: usize,
    body: Vec<u8>,
    limit: usize,
}

impl Decoder {
    pub fn new(limit: usize) -> Self {
        Self {
            header: [0; HEADER],
            header_len: 0,
            body: Vec::new(),
            limit,
        }
    }

    fn length(&self) -> usize {
        u32::from_le_bytes(self.header) as usize
    }

    /// Bytes that [`Self::feed`] takes next; never 0.
    pub fn wanted(&self) -> usize {
        if self.header_len < HEADER {
            HEADER - self.header_len
        } else {
            (self.length() - self.body.len()).min(PIECE)
        }
    }

    /// True between two frames.
    pub fn at_border(&self) -> bool {
        self.header_len == 0
    }

    /// Takes at most [`Self::wanted`] bytes; gives the body when it is whole.
    ///
    /// # Errors
    /// [`TooLong`]; the stream cannot be used any further.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        debug_assert!(bytes.len() <= self.wanted());
        if self.header_len < HEADER {
            self.header[self.header_len..self.header_len + bytes.len()].copy_from_slice(bytes);
            self.header_len += bytes.len();
            if self.header_len < HEADER {
                return Ok(None);
            }
            if self.length() > self.limit {
                return Err(TooLong(self.length()));
            }
        } else {
            self.body.extend_from_slice(bytes);
        }
        if self.body.len() == self.length() {
            self.header_len = 0;
            return Ok(Some(std::mem::take(&mut self.body)));
        }
        Ok(None)
    }
}

/// Reads frames from a socket, blocking or not.
#[derive(Debug)]
pub struct FrameReader {
    decoder: Decoder,
    fds: Vec<OwnedFd>,
}

impl FrameReader {
    pub fn new(limit: usize) -> Self {
        Self {
            decoder: Decoder::new(limit),
            fds: Vec::new(),
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// `UnexpectedEof` inside a frame, `InvalidData` for an oversized frame or lost descriptors, else the socket's error.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<Received> {
        let socket = socket.as_fd();
        loop {
            let wanted = self.decoder.wanted();
            let mut small = [0u8; HEADER];
            let mut large = Vec::new();
            let buffer: &mut [u8] = if wanted <= HEADER {
                &mut small[..wanted]
            } else {
                large.resize(wanted, 0);
                &mut large
            };
            let count = match self.receive_bytes(socket, buffer) {
                Ok(0) if self.decoder.at_border() => return Ok(Received::Closed),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Pending);
                }
                Err(error) => return Err(error),
            };
            let whole = self
                .decoder
                .feed(&buffer[..count])
                .map_err(|TooLong(n)| invalid(format!("frame of {n} bytes")))?;
            if let Some(body) = whole {
                let fds = std::mem::take(&mut self.fds);
                return Ok(Received::Frame(Frame { body, fds }));
            }
        }
    }

    fn receive_bytes(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_LIMIT))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut parts = [IoSliceMut::new(buffer)];
            match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > FDS_LIMIT {
            return Err(invalid("descriptors were lost".to_owned()));
        }
        Ok(message.bytes)
    }
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// Frames on their way into a socket.
#[derive(Default)]
pub struct FrameWriter {
    queue: VecDeque<Outgoing>,
    waiting: usize,
}

impl FrameWriter {
    /// Puts a frame behind those that wait; [`Self::flush`] sends it.
    ///
    /// # Errors
    /// `InvalidInput` when the body is over `limit` or there are too many descriptors.
    pub fn push(&mut self, body: &[u8], fds: Vec<OwnedFd>, limit: usize) -> io::Result<()> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        if body.len() > limit || fds.len() > FDS_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("frame of {} bytes, {} descriptors", body.len(), fds.len()),
            ));
        }
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(body);
        self.waiting += bytes.len();
        self.queue.push_back(Outgoing {
            bytes,
            sent: 0,
            fds,
        });
        Ok(())
    }

    /// Bytes not yet in the socket.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Writes as much as the socket takes; true when nothing is left.
    ///
    /// # Errors
    /// The socket's error (`BrokenPipe` when the other side is gone).
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let socket = socket.as_fd();
        while let Some(first) = self.queue.front_mut() {
            let count = match send(socket, &first.bytes[first.sent..], &first.fds) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            // The descriptors went with the first byte.
            first.fds.clear();
            first.sent += count;
            self.waiting -= count;
            if first.sent == first.bytes.len() {
                self.queue.pop_front();
            }
        }
        Ok(true)
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Result<usize, Errno> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_LIMIT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::TOOBIG);
    }
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn decode(decoder: &mut Decoder, mut bytes: &[u8], cut: &[usize]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut cuts = cut.iter().cycle();
        while !bytes.is_empty() {
            let step = cuts.next().map_or(1, |c| 1 + c % 7000);
            let step = step.min(decoder.wanted()).min(bytes.len());
            if let Some(frame) = decoder.feed(&bytes[..step]).expect("in the limit") {
                frames.push(frame);
            }
            bytes = &bytes[step..];
        }
        frames
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_frames(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..6),
            cut in prop::collection::vec(any::<usize>(), 1..20),
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
                bytes.extend_from_slice(body);
            }
            let mut decoder = Decoder::new(FRAME_LIMIT);
            prop_assert_eq!(decode(&mut decoder, &bytes, &cut), bodies);
            prop_assert!(decoder.at_border());
        }

        #[test]
        fn noise_never_panics_nor_takes_memory(noise in prop::collection::vec(any::<u8>(), 0..4000)) {
            let mut decoder = Decoder::new(1000);
            let mut rest = &noise[..];
            while !rest.is_empty() {
                let step = decoder.wanted().min(rest.len());
                prop_assert!(step > 0);
                if decoder.feed(&rest[..step]).is_err() {
                    break;
                }
                prop_assert!(decoder.body.capacity() <= 2000);
                rest = &rest[step..];
            }
        }
    }

    #[test]
    fn descriptors_stay_with_their_frame() {
        let (left, right) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let mut writer = FrameWriter::default();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        writer.push(b"one", vec![], FRAME_LIMIT).unwrap();
        writer
            .push(b"two", vec![null(), null()], FRAME_LIMIT)
            .unwrap();
        writer.push(b"", vec![null()], FRAME_LIMIT).unwrap();
        writer.push(b"four", vec![], FRAME_LIMIT).unwrap();
        assert!(writer.flush(&left).unwrap());
        drop(left);
        let mut reader = FrameReader::new(FRAME_LIMIT);
        let mut seen = Vec::new();
        while let Received::Frame(frame) = reader.receive(&right).unwrap() {
            seen.push((String::from_utf8(frame.body).unwrap(), frame.fds.len()));
        }
        let want = [("one", 0), ("two", 2), ("", 1), ("four", 0)];
        assert_eq!(seen, want.map(|(text, n)| (text.to_owned(), n)));
        assert!(matches!(reader.receive(&right), Ok(Received::Closed)));
    }
}
