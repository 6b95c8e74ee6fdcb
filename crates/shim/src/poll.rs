//! epoll with descriptors that know what they are registered for.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// Who an event is for: an owner (the shim itself, the container's stdio, an exec's stdio) and a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub owner: u32,
    pub part: u32,
}

impl Token {
    fn pack(self) -> u64 {
        u64::from(self.owner) << 32 | u64::from(self.part)
    }
    fn unpack(data: u64) -> Self {
        Self {
            owner: (data >> 32) as u32,
            part: data as u32,
        }
    }
}

/// The epoll instance.
#[derive(Clone)]
pub struct Poller(Rc<OwnedFd>);

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Rc::new(epoll::create(CreateFlags::CLOEXEC)?)))
    }

    /// Waits until something is ready or `deadline` has come.
    pub fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<(Token, EventFlags)>> {
        let mut events: Vec<Event> = Vec::with_capacity(16);
        let timeout = deadline.map(|at| {
            // One millisecond more: a wait that ends too early would spin.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        match epoll::wait(
            &*self.0,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events
            .iter()
            .map(|event| (Token::unpack(event.data.u64()), event.flags))
            .collect())
    }

    /// Takes charge of a descriptor; it is not waited for until armed.
    pub fn source(&self, fd: OwnedFd, token: Token) -> Source {
        Source {
            fd,
            token,
            armed: None,
            epoll: Rc::clone(&self.0),
        }
    }
}

/// A descriptor in the hands of a [`Poller`].
pub struct Source {
    fd: OwnedFd,
    token: Token,
    armed: Option<EventFlags>,
    epoll: Rc<OwnedFd>,
}

impl Source {
    /// Waits for `wanted` from now on; `Some(empty)` for hang-ups only, None for nothing at all.
    pub fn arm(&mut self, wanted: Option<EventFlags>) -> io::Result<()> {
        let data = EventData::new_u64(self.token.pack());
        match (self.armed, wanted) {
            (before, now) if before == now => return Ok(()),
            (None, Some(flags)) => epoll::add(&*self.epoll, &self.fd, data, flags)?,
            (Some(_), Some(flags)) => epoll::modify(&*self.epoll, &self.fd, data, flags)?,
            (_, None) => epoll::delete(&*self.epoll, &self.fd)?,
        }
        self.armed = wanted;
        Ok(())
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Source {
    /// Out of the epoll set by name: closing alone would not do while a forked child still holds a copy.
    fn drop(&mut self) {
        let _ = self.arm(None);
    }
}
