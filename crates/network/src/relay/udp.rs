//! UDP through the relay: one socket to the container for each client, so that answers find back.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use longshore_sys::datagram::{self, Datagram};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
        socket_with,
    },
};

use super::{Listener, SWEEP, Worker};

/// A session that nobody used for so long is forgotten (docker-proxy's time).
const IDLE: Duration = Duration::from_secs(90);
/// Datagrams of one socket before others get their turn.
const TURN: usize = 256;
/// Sessions of the whole engine: each costs a descriptor, and clients' addresses can be forged.
const MOST: usize = 2048;

/// Who is served: the listener, the client's address, and the address of this host that it called.
pub type Client = (u64, SocketAddr, Option<IpAddr>);

pub struct Session {
    pub listener: Arc<Listener>,
    client: Client,
    backend: OwnedFd,
    used: Instant,
}

impl Worker {
    /// From clients to the container.
    pub(super) fn datagrams(&mut self, listener: &Arc<Listener>) {
        for _ in 0..TURN {
            match datagram::receive(listener.as_fd(), &mut self.scratch) {
                Ok(got) => {
                    // Loopback addresses are for this host's own programs.
                    let misdirected =
                        got.local.is_some_and(|l| l.is_loopback()) && !got.peer.ip().is_loopback();
                    let stale = listener.redirected && !self.shared.is_near(got.peer.ip());
                    let session = (!misdirected && !stale)
                        .then(|| self.session(listener, &got))
                        .flatten()
                        .and_then(|token| self.sessions.get_mut(&token));
                    let Some(session) = session else { continue };
                    session.used = Instant::now();
                    let data = &self.scratch[..got.length];
                    // A datagram that cannot go now is lost, as UDP may. A refusal is that of an earlier one.
                    if let Err(Errno::CONNREFUSED) =
                        send(&session.backend, data, SendFlags::empty())
                    {
                        let _ = send(&session.backend, data, SendFlags::empty());
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// The session of a client, opened when there is none.
    fn session(&mut self, listener: &Arc<Listener>, got: &Datagram) -> Option<u64> {
        let key = (listener.token, got.peer, got.local);
        match self.clients.get(&key) {
            Some(token) => Some(*token),
            None => self.open_session(listener, key),
        }
    }

    fn open_session(&mut self, listener: &Arc<Listener>, client: Client) -> Option<u64> {
        if self.sessions.len() >= MOST {
            return None;
        }
        let family = if listener.backend.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let backend = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP)).ok()?;
        connect(&backend, &listener.backend).ok()?;
        let token = self.shared.token();
        self.shared.watch(backend.as_fd(), token, false).ok()?;
        listener.flows.fetch_add(1, Ordering::SeqCst);
        self.clients.insert(client, token);
        self.sessions.insert(
            token,
            Session {
                listener: Arc::clone(listener),
                client,
                backend,
                used: Instant::now(),
            },
        );
        if self.still_listening(listener) {
            return Some(token);
        }
        self.close_session(token);
        None
    }

    /// From the container to its client.
    pub(super) fn answers(&mut self, token: u64) {
        let Some(session) = self.sessions.get_mut(&token) else {
            return;
        };
        session.used = Instant::now();
        loop {
            match recv(&session.backend, &mut self.scratch[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    let (_, peer, local) = session.client;
                    let data = &self.scratch[..length];
                    let _ = datagram::send(session.listener.as_fd(), data, peer, local);
                }
                // The container's port is closed: reported once for each datagram.
                Err(Errno::INTR | Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
    }

    /// Forgets idle sessions from time to time.
    pub(super) fn sweep(&mut self) {
        if self.sessions.is_empty() || self.swept.elapsed() < SWEEP {
            return;
        }
        self.swept = Instant::now();
        let idle: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.used.elapsed() > IDLE)
            .map(|(token, _)| *token)
            .collect();
        for token in idle {
            self.close_session(token);
        }
    }

    pub(super) fn close_session(&mut self, token: u64) {
        if let Some(session) = self.sessions.remove(&token) {
            session.listener.flows.fetch_sub(1, Ordering::SeqCst);
            self.clients.remove(&session.client);
        }
    }
}
