//! TCP through the relay.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketFlags, SocketType,
        accept_with, connect, getpeername, getsockname, ipproto, recv, send, shutdown, socket_with,
        sockopt,
    },
};

use super::{Listener, Worker};

/// Bytes that one connection may move before others get their turn.
const TURN: usize = 1024 * 1024;

/// A client's connection and the one to the container.
pub struct Connection {
    pub listener: Arc<Listener>,
    client: OwnedFd,
    backend: OwnedFd,
    tokens: [u64; 2],
    up: Direction,
    down: Direction,
}

/// Bytes on their way from one socket to the other.
#[derive(Default)]
struct Direction {
    /// Read, but not yet taken by the other side.
    pending: Vec<u8>,
    ended: bool,
    shut: bool,
}

enum Progress {
    /// Waits for one of the sockets.
    Waiting,
    /// Could go on, but had its turn.
    More,
    Broken,
}

impl Direction {
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, scratch: &mut [u8]) -> Progress {
        let mut moved = 0;
        loop {
            while !self.pending.is_empty() {
                match send(to, &self.pending, SendFlags::NOSIGNAL) {
                    Ok(sent) => {
                        self.pending.drain(..sent);
                    }
                    // NOTCONN: the connection to the container is still being made.
                    Err(Errno::AGAIN | Errno::NOTCONN) => return Progress::Waiting,
                    Err(Errno::INTR) => {}
                    Err(_) => return Progress::Broken,
                }
            }
            // Done: do not hold the memory while the connection idles.
            self.pending = Vec::new();
            if self.ended {
                if !self.shut {
                    match shutdown(to, Shutdown::Write) {
                        Ok(()) => self.shut = true,
                        // Tried again when the connection stands or has failed.
                        Err(Errno::NOTCONN) => {}
                        Err(_) => return Progress::Broken,
                    }
                }
                return Progress::Waiting;
            }
            if moved >= TURN {
                return Progress::More;
            }
            match recv(from, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) => self.ended = true,
                Ok((length, _)) => {
                    moved += length;
                    match send(to, &scratch[..length], SendFlags::NOSIGNAL) {
                        Ok(sent) => self.pending.extend_from_slice(&scratch[sent..length]),
                        Err(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => {
                            self.pending.extend_from_slice(&scratch[..length]);
                        }
                        Err(_) => return Progress::Broken,
                    }
                }
                Err(Errno::AGAIN | Errno::NOTCONN) => return Progress::Waiting,
                Err(Errno::INTR) => {}
                Err(_) => return Progress::Broken,
            }
        }
    }
}

impl Worker {
    /// Takes all waiting connections of a listener.
    pub(super) fn accept(&mut self, listener: &Arc<Listener>) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match accept_with(listener.as_fd(), flags) {
                Ok(client) if misdirected(&client) => drop(client),
                Ok(client) => self.connect(listener, client),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // Out of descriptors or memory: the level-triggered listener asks again; do not spin meanwhile.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn connect(&mut self, listener: &Arc<Listener>, client: OwnedFd) {
        let family = if listener.backend.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(backend) = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)) else {
            return;
        };
        for socket in [&client, &backend] {
            let _ = sockopt::set_tcp_nodelay(socket, true);
            let _ = sockopt::set_socket_keepalive(socket, true);
        }
        match connect(&backend, &listener.backend) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return,
        }
        let tokens = [self.shared.token(), self.shared.token()];
        let watched = [&client, &backend]
            .into_iter()
            .zip(tokens)
            .all(|(fd, token)| self.shared.watch(fd.as_fd(), token, true).is_ok());
        if !watched {
            return;
        }
        listener.flows.fetch_add(1, Ordering::SeqCst);
        for token in tokens {
            self.ends.insert(token, tokens[0]);
        }
        self.connections.insert(
            tokens[0],
            Connection {
                listener: Arc::clone(listener),
                client,
                backend,
                tokens,
                up: Direction::default(),
                down: Direction::default(),
            },
        );
        if !self.still_listening(listener) {
            self.close_connection(tokens[0]);
        }
    }

    /// Moves what can be moved in both directions.
    pub(super) fn pump(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let (client, backend) = (&connection.client, &connection.backend);
        let failed = !matches!(sockopt::socket_error(backend), Ok(Ok(())));
        let up = connection.up.pump(client, backend, &mut self.scratch);
        let down = connection.down.pump(backend, client, &mut self.scratch);
        let done = connection.up.shut && connection.down.shut;
        match (up, down) {
            (Progress::Broken, _) | (_, Progress::Broken) => self.close_connection(token),
            _ if done || failed => self.close_connection(token),
            (Progress::More, _) | (_, Progress::More) => self.ready.push(token),
            (Progress::Waiting, Progress::Waiting) => {}
        }
    }

    pub(super) fn close_connection(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            connection.listener.flows.fetch_sub(1, Ordering::SeqCst);
            for end in connection.tokens {
                self.ends.remove(&end);
            }
        }
    }
}

/// Whether somebody from outside called an address of 127.0.0.0/8 or `::1`, which only a host with odd settings lets in.
fn misdirected(client: &OwnedFd) -> bool {
    let is_loopback =
        |address: SocketAddrAny| SocketAddr::try_from(address).is_ok_and(|a| a.ip().is_loopback());
    let here = getsockname(client).is_ok_and(is_loopback);
    here && !getpeername(client).is_ok_and(|peer| peer.is_some_and(is_loopback))
}
