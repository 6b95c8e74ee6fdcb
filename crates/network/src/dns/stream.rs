//! Questions over TCP: each preceded by its length, several a connection.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send},
};

use super::worker::{Entry, Origin, Worker};

/// Connections of one container; more are closed at once.
const CONNECTIONS: usize = 256;
/// Questions of one connection that wait for an answer; more close it.
const WAITING: usize = 128;
/// How long a connection may idle.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that a client does not read close its connection.
const UNREAD: usize = 1 << 20;

pub(super) struct Connection {
    pub(super) client: u64,
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: usize,
    /// The client says no more.
    ended: bool,
    deadline: Instant,
}

impl Connection {
    /// Reads what is there; false when the connection is broken.
    fn read(&mut self, scratch: &mut [u8]) -> bool {
        while !self.ended {
            match recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) => self.ended = true,
                Ok((length, _)) => self.input.extend_from_slice(&scratch[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
            if self.input.len() > scratch.len() {
                break;
            }
        }
        true
    }

    /// Takes the whole questions out of the input.
    fn questions(&mut self) -> Vec<Vec<u8>> {
        let mut questions = Vec::new();
        let mut at = 0;
        while let Some([high, low]) = self.input.get(at..at + 2) {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(question) = self.input.get(at + 2..at + 2 + length) else {
                break;
            };
            questions.push(question.to_vec());
            at += 2 + length;
        }
        self.input.drain(..at);
        questions
    }

    /// Sends what it can; false when the connection is broken.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.output.len() < UNREAD,
                Err(_) => return false,
            }
        }
        true
    }

    fn is_over(&self) -> bool {
        self.ended && self.waiting == 0 && self.output.is_empty()
    }

    /// An ended stream is readable for ever: it is not waited for.
    fn interest(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, !self.ended);
        wanted.set(EventFlags::OUT, !self.output.is_empty());
        wanted
    }
}

impl Worker {
    pub(super) fn accept(&mut self, number: u64) {
        for _ in 0..16 {
            let Some(client) = self.clients.get(&number) else {
                return;
            };
            let full = client.connections >= CONNECTIONS;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(client.sockets.tcp.as_fd(), flags) {
                Ok(socket) if full => {
                    drop(socket);
                    continue;
                }
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // Out of descriptors or memory: the listener asks again; do not spin meanwhile.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
                Err(_) => return,
            };
            let token = self.token();
            if self.watch(socket.as_fd(), token, EventFlags::IN).is_err() {
                continue;
            }
            if let Some(client) = self.clients.get_mut(&number) {
                client.connections += 1;
            }
            let deadline = Instant::now() + IDLE;
            self.deadlines.insert((deadline, token));
            let connection = Connection {
                client: number,
                socket,
                input: Vec::new(),
                output: Vec::new(),
                waiting: 0,
                ended: false,
                deadline,
            };
            self.entries.insert(token, Entry::Connection(connection));
        }
    }

    /// Something happened at a client's connection.
    pub(super) fn connection(&mut self, token: u64) {
        let Some(Entry::Connection(mut connection)) = self.entries.remove(&token) else {
            return;
        };
        // Nothing more is read and nothing waits to be sent: it is broken.
        let mut alive = !(connection.ended && connection.output.is_empty());
        alive = alive && connection.read(&mut self.scratch);
        let questions = connection.questions();
        connection.waiting += questions.len();
        alive &= connection.waiting <= WAITING;
        let number = connection.client;
        self.settle(token, connection, alive);
        for question in questions {
            self.ask(number, &question, Origin::Connection(token));
        }
    }

    /// An answer for a connection that waits for one.
    pub(super) fn write(&mut self, token: u64, answer: Option<Vec<u8>>) {
        let Some(Entry::Connection(mut connection)) = self.entries.remove(&token) else {
            return;
        };
        connection.waiting = connection.waiting.saturating_sub(1);
        if let Some(answer) = answer {
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
            connection.output.extend_from_slice(&length.to_be_bytes());
            connection
                .output
                .extend_from_slice(&answer[..length.into()]);
        }
        self.settle(token, connection, true);
    }

    /// Nothing has happened for long.
    pub(super) fn idle(&mut self, token: u64, connection: Connection) {
        // Servers are asked for it: their patience is shorter than this.
        let alive = connection.waiting > 0;
        self.settle(token, connection, alive);
    }

    /// Sends what waits and puts the connection back, or closes it.
    fn settle(&mut self, token: u64, mut connection: Connection, alive: bool) {
        self.deadlines.remove(&(connection.deadline, token));
        let alive = alive && connection.flush();
        if !alive || connection.is_over() {
            if let Some(client) = self.clients.get_mut(&connection.client) {
                client.connections = client.connections.saturating_sub(1);
            }
            return;
        }
        connection.deadline = Instant::now() + IDLE;
        self.deadlines.insert((connection.deadline, token));
        self.rewatch(connection.socket.as_fd(), token, connection.interest());
        self.entries.insert(token, Entry::Connection(connection));
    }
}
