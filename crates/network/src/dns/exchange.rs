//! A question on its way to the servers outside, one after the other.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use longshore_model::id::random_bytes;
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send,
        socket_with,
    },
};

use super::{
    message::{self, Query, REFUSED, SERVER_FAILURE},
    names::{Scope, Upstream},
    place,
    worker::{Entry, Origin, Worker},
};

/// So many servers are asked, as in dockerd and in the C library.
const SERVERS: usize = 3;
/// What the last server is given, as in dockerd.
const LAST_PATIENCE: Duration = Duration::from_secs(4);
/// What a server is given when there is another: the client itself gives up after five seconds.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) struct Exchange {
    pub(super) client: u64,
    pub(super) origin: Origin,
    pub(super) query: Query,
    /// The longest reply that the client takes.
    limit: usize,
    /// Those that are left.
    servers: std::vec::IntoIter<Upstream>,
    attempt: Option<Attempt>,
}

/// The present server.
struct Attempt {
    socket: OwnedFd,
    id: u16,
    deadline: Instant,
    /// TCP: what is still to be sent, and what has come.
    stream: Option<(Vec<u8>, Vec<u8>)>,
}

/// How an attempt goes.
enum Progress {
    Waiting,
    /// Everything is sent: only the reply is waited for.
    Sent,
    Failed,
    Reply(Vec<u8>),
}

impl Exchange {
    pub(super) fn new(
        client: u64,
        scope: &Scope,
        origin: Origin,
        query: Query,
        limit: usize,
    ) -> Self {
        let usable = |server: &&Upstream| {
            let itself = server.address.ip() == IpAddr::V4(place::ADDRESS);
            // The host's servers would tell a container without a way out about the world, and the world about it.
            if server.from_host {
                !scope.internal
            } else {
                !itself
            }
        };
        let servers: Vec<Upstream> = scope
            .upstreams
            .iter()
            .take(SERVERS)
            .filter(usable)
            .copied()
            .collect();
        Self {
            client,
            origin,
            query,
            limit,
            servers: servers.into_iter(),
            attempt: None,
        }
    }
}

impl Attempt {
    fn progress(&mut self, query: &Query, scratch: &mut [u8]) -> Progress {
        match self.stream.take() {
            None => self.datagrams(query, scratch),
            Some((out, input)) => self.stream(out, input, query, scratch),
        }
    }

    fn datagrams(&self, query: &Query, scratch: &mut [u8]) -> Progress {
        loop {
            match recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
                // Anything else is no reply to us: somebody guesses.
                Ok((length, _)) if query.is_answered_by(&scratch[..length], self.id) => {
                    return Progress::Reply(scratch[..length].to_vec());
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Failed,
            }
        }
    }

    fn stream(
        &mut self,
        mut out: Vec<u8>,
        mut input: Vec<u8>,
        query: &Query,
        scratch: &mut [u8],
    ) -> Progress {
        let mut sent = false;
        while !out.is_empty() {
            match send(&self.socket, &out, SendFlags::NOSIGNAL) {
                Ok(length) => {
                    out.drain(..length);
                    sent = out.is_empty();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Progress::Failed,
            }
        }
        loop {
            match recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) => return Progress::Failed,
                Ok((length, _)) => input.extend_from_slice(&scratch[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Progress::Failed,
            }
            if let [high, low, reply @ ..] = input.as_slice() {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if let Some(reply) = reply.get(..length) {
                    return if query.is_answered_by(reply, self.id) {
                        Progress::Reply(reply.to_vec())
                    } else {
                        Progress::Failed
                    };
                }
            }
        }
        self.stream = Some((out, input));
        if sent {
            Progress::Sent
        } else {
            Progress::Waiting
        }
    }
}

impl Worker {
    /// Asks the next server; without one the question has failed. The exchange is in no map while it is here.
    pub(super) fn next_server(&mut self, mut exchange: Exchange) {
        if let Some(last) = exchange.attempt.take() {
            drop(last);
            self.counted(exchange.client, false);
        }
        while let Some(server) = exchange.servers.next() {
            let patience = if exchange.servers.len() == 0 {
                LAST_PATIENCE
            } else {
                PATIENCE
            };
            let Ok(attempt) = self.attempt(&exchange, server, patience) else {
                continue;
            };
            let token = self.token();
            let what = if attempt.stream.is_some() {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            if self.watch(attempt.socket.as_fd(), token, what).is_err() {
                continue;
            }
            self.deadlines.insert((attempt.deadline, token));
            self.counted(exchange.client, true);
            exchange.attempt = Some(attempt);
            self.entries.insert(token, Entry::Exchange(exchange));
            return;
        }
        self.give_up(exchange);
    }

    fn counted(&mut self, client: u64, more: bool) {
        let change = |count: usize| {
            if more {
                count + 1
            } else {
                count.saturating_sub(1)
            }
        };
        self.exchanges = change(self.exchanges);
        if let Some(client) = self.clients.get_mut(&client) {
            client.exchanges = change(client.exchanges);
        }
    }

    fn attempt(
        &self,
        exchange: &Exchange,
        server: Upstream,
        patience: Duration,
    ) -> std::io::Result<Attempt> {
        let by_stream = matches!(exchange.origin, Origin::Connection(_));
        let family = match server.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let kind = if by_stream {
            SocketType::STREAM
        } else {
            SocketType::DGRAM
        };
        let make = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(family, kind, flags, None)
        };
        let socket = if server.from_host {
            make()?
        } else {
            let gone = || std::io::Error::from(Errno::NOENT);
            let client = self.clients.get(&exchange.client).ok_or_else(gone)?;
            place::socket_beside(client.sockets.udp.as_fd(), self.home.as_fd(), make)?
        };
        match connect(&socket, &server.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let id = u16::from_ne_bytes(random_bytes());
        let question = exchange.query.with_id(id);
        let stream = if by_stream {
            let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
            let framed = [&length.to_be_bytes()[..], &question].concat();
            Some((framed, Vec::new()))
        } else {
            send(&socket, &question, SendFlags::NOSIGNAL)?;
            None
        };
        Ok(Attempt {
            socket,
            id,
            deadline: Instant::now() + patience,
            stream,
        })
    }

    /// Something happened at the socket of an exchange.
    pub(super) fn exchange(&mut self, token: u64) {
        let Some(Entry::Exchange(mut exchange)) = self.entries.remove(&token) else {
            return;
        };
        let Some(attempt) = exchange.attempt.as_mut() else {
            return;
        };
        let progress = attempt.progress(&exchange.query, &mut self.scratch);
        match progress {
            Progress::Waiting | Progress::Sent => {
                if matches!(progress, Progress::Sent) {
                    self.rewatch(attempt.socket.as_fd(), token, EventFlags::IN);
                }
                self.entries.insert(token, Entry::Exchange(exchange));
            }
            Progress::Failed => {
                self.deadlines.remove(&(attempt.deadline, token));
                self.next_server(exchange);
            }
            Progress::Reply(reply) => {
                self.deadlines.remove(&(attempt.deadline, token));
                // Another server may know better.
                if matches!(message::code(&reply), SERVER_FAILURE | REFUSED) {
                    return self.next_server(exchange);
                }
                self.counted(exchange.client, false);
                let reply = exchange.query.pass_on(reply, exchange.limit);
                self.deliver(exchange.client, exchange.origin, Some(reply));
            }
        }
    }
}
