//! What the launching process and its child tell each other until the exec: datagrams of one kind byte and a payload over a
//! socket pair that the exec closes.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::plan::{LaunchFailure, LaunchFailureKind};

/// One datagram.
#[derive(Debug)]
pub(crate) enum Word {
    /// Child: the network namespace is there.
    NetworkNamespace,
    /// Child: the master of its terminal.
    Terminal(OwnedFd),
    /// Child: a socket of its name server; UDP, then TCP.
    Resolver(OwnedFd),
    /// Child: only the exec is left; an end of file after this is success.
    Executing,
    /// Child: it ends.
    Failed(LaunchFailure),
    /// Parent: cgroups are made.
    Cgroups,
    /// Parent: interfaces are in the namespace.
    Interfaces,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// Longest text of a failure.
const LIMIT: usize = 4096;

impl Channel {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    pub(crate) fn send(&self, word: &Word) -> io::Result<()> {
        let mut bytes = Vec::new();
        match word {
            Word::NetworkNamespace => bytes.push(b'n'),
            Word::Terminal(master) => return self.send_with_fd(b't', master.as_fd()),
            Word::Resolver(socket) => return self.send_with_fd(b'r', socket.as_fd()),
            Word::Executing => bytes.push(b'x'),
            Word::Failed(failure) => {
                bytes.extend([b'f', failure.kind as u8]);
                let text = failure.message.as_bytes();
                bytes.extend_from_slice(&text[..text.len().min(LIMIT)]);
            }
            Word::Cgroups => bytes.push(b'C'),
            Word::Interfaces => bytes.push(b'N'),
        }
        // write rather than sendmsg: a filter of the user's that is in force already may know no sockets.
        rustix::io::write(&self.0, &bytes)?;
        Ok(())
    }

    fn send_with_fd(&self, kind: u8, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            &self.0,
            &[IoSlice::new(&[kind])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// The next word; `None` when the other end is closed.
    pub(crate) fn receive(&self) -> io::Result<Option<Word>> {
        let mut bytes = [0u8; LIMIT + 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let length = match received {
            Err(rustix::io::Errno::CONNRESET) => 0,
            result => result?.bytes,
        };
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last();
            }
        }
        let broken = || io::Error::from_raw_os_error(libc::EPROTO);
        Ok(Some(match bytes[..length] {
            [] => return Ok(None),
            [b'n'] => Word::NetworkNamespace,
            [b't'] => Word::Terminal(fd.ok_or_else(broken)?),
            [b'r'] => Word::Resolver(fd.ok_or_else(broken)?),
            [b'x'] => Word::Executing,
            [b'f', kind, ref text @ ..] => Word::Failed(LaunchFailure {
                kind: kind_of(kind),
                message: String::from_utf8_lossy(text).into_owned(),
            }),
            [b'C'] => Word::Cgroups,
            [b'N'] => Word::Interfaces,
            _ => return Err(broken()),
        }))
    }
}

fn kind_of(byte: u8) -> LaunchFailureKind {
    [
        LaunchFailureKind::NotFound,
        LaunchFailureKind::NotExecutable,
        LaunchFailureKind::Invalid,
    ]
    .into_iter()
    .find(|kind| *kind as u8 == byte)
    .unwrap_or(LaunchFailureKind::System)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_sent() {
        let (one, other) = Channel::pair().unwrap();
        let failure = LaunchFailure {
            kind: LaunchFailureKind::NotExecutable,
            message: "exec: no".to_owned(),
        };
        one.send(&Word::Failed(failure.clone())).unwrap();
        one.send(&Word::Terminal(
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
        ))
        .unwrap();
        drop(one);
        assert!(matches!(other.receive().unwrap(), Some(Word::Failed(f)) if f == failure));
        assert!(matches!(other.receive().unwrap(), Some(Word::Terminal(_))));
        assert!(other.receive().unwrap().is_none());
    }
}
