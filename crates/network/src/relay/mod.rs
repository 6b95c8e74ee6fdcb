//! The relay: one thread that serves what reaches the host's own side of a published port.
//!
//! Rules cannot turn an IPv6 packet into an IPv4 one, so connections to `[::]:8080` for a container without IPv6 are
//! accepted here and carried over IPv4. The same thread serves IPv4 while somebody has flushed the rules. One thread and
//! one epoll for all ports of the engine; it starts with the first port.

mod tcp;
mod udp;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::Errno,
};

use self::{
    tcp::Connection,
    udp::{Client, Session},
};
use crate::types::{Protocol, Subnet};

/// Name of the wake-up descriptor in the epoll; listeners and flows count upwards from 1.
const WAKE: u64 = 0;
const EVENTS: usize = 64;
/// How often idle UDP sessions are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Scratch space for one read.
const CHUNK: usize = 64 * 1024;

/// A host socket and where its traffic goes.
#[derive(Debug)]
struct Listener {
    token: u64,
    socket: OwnedFd,
    proto: Protocol,
    backend: SocketAddr,
    /// Rules redirect the clients of other hosts: a datagram of theirs that comes here belongs to a flow from before the
    /// port was published. An answer would tie the client to the relay; unanswered, it tries again and meets the rules.
    redirected: bool,
    /// Flows that are open; the thread must be told to close them when the listener goes.
    flows: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    tokens: AtomicU64,
    listeners: Mutex<HashMap<u64, Arc<Listener>>>,
    orders: Mutex<Orders>,
    /// The networks of our bridges.
    subnets: Mutex<Vec<Subnet>>,
}

/// What the thread must do next time it wakes.
#[derive(Debug, Default)]
struct Orders {
    stop: bool,
    close: Vec<u64>,
}

/// Handle of the relay thread.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Relay {
    /// # Errors
    /// The errno of epoll_create or eventfd.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            shared: Arc::new(Shared {
                epoll,
                wake,
                tokens: AtomicU64::new(WAKE + 1),
                listeners: Mutex::default(),
                orders: Mutex::default(),
                subnets: Mutex::default(),
            }),
            thread: Mutex::default(),
        })
    }

    /// Says which networks are those of our bridges.
    pub fn set_subnets(&self, subnets: Vec<Subnet>) {
        *lock(&self.shared.subnets) = subnets;
    }

    /// Serves a bound (and, for TCP, listening) non-blocking socket from now on. The answer names it for `remove`.
    /// `redirected`: rules do the same for clients outside.
    ///
    /// # Errors
    /// The errno of epoll_ctl, or of starting the thread.
    pub fn add(
        &self,
        socket: OwnedFd,
        proto: Protocol,
        backend: SocketAddr,
        redirected: bool,
    ) -> io::Result<u64> {
        self.start()?;
        let token = self.shared.token();
        let listener = Arc::new(Listener {
            token,
            socket,
            proto,
            backend,
            redirected,
            flows: AtomicUsize::new(0),
        });
        lock(&self.shared.listeners).insert(token, Arc::clone(&listener));
        // Nothing listens to SCTP here: the socket only holds the port.
        if proto != Protocol::Sctp {
            let added = epoll::add(
                &self.shared.epoll,
                &listener.socket,
                epoll::EventData::new_u64(token),
                epoll::EventFlags::IN,
            );
            if let Err(error) = added {
                lock(&self.shared.listeners).remove(&token);
                return Err(error.into());
            }
        }
        Ok(token)
    }

    /// Takes the traffic of a socket elsewhere from now on; flows that are open end. The answer is its new name.
    ///
    /// # Errors
    /// The errno of dup or epoll_ctl; nothing has changed then.
    pub fn retarget(&self, token: u64, backend: SocketAddr, redirected: bool) -> io::Result<u64> {
        let found = lock(&self.shared.listeners).get(&token).cloned();
        let listener = found.ok_or(Errno::NOENT)?;
        let socket = listener.socket.try_clone()?;
        let name = self.add(socket, listener.proto, backend, redirected)?;
        drop(listener);
        self.remove(token);
        Ok(name)
    }

    /// Closes a socket and the flows that came through it.
    pub fn remove(&self, token: u64) {
        let Some(listener) = lock(&self.shared.listeners).remove(&token) else {
            return;
        };
        if listener.proto != Protocol::Sctp {
            let _ = epoll::delete(&self.shared.epoll, &listener.socket);
        }
        // The thread may be about to count a new flow: it looks the listener up again afterwards.
        if listener.flows.load(Ordering::SeqCst) > 0 {
            lock(&self.shared.orders).close.push(token);
            self.shared.wake();
        }
    }

    /// Ends the thread and closes everything.
    pub fn stop(&self) {
        lock(&self.shared.orders).stop = true;
        self.shared.wake();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        lock(&self.shared.listeners).clear();
    }

    fn start(&self) -> io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new()
                .name("relay".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || Worker::new(shared).run())?;
            *thread = Some(spawned);
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Whether a client may have come past the rules: this host's own programs and containers (see `Filtered` in the rules).
    fn is_near(&self, client: IpAddr) -> bool {
        client.is_loopback() || lock(&self.subnets).iter().any(|s| s.contains(client))
    }

    /// Edge-triggered: whoever is woken reads and writes until nothing more goes.
    fn watch(&self, fd: BorrowedFd<'_>, token: u64, writable: bool) -> rustix::io::Result<()> {
        let mut wanted = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        if writable {
            wanted |= epoll::EventFlags::OUT;
        }
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), wanted)
    }
}

/// Everything that only the relay thread touches.
struct Worker {
    shared: Arc<Shared>,
    scratch: Vec<u8>,
    connections: HashMap<u64, Connection>,
    /// Tokens of both ends of a connection lead to the connection.
    ends: HashMap<u64, u64>,
    sessions: HashMap<u64, Session>,
    clients: HashMap<Client, u64>,
    /// Connections that were interrupted to let others go on.
    ready: Vec<u64>,
    swept: Instant,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            scratch: vec![0; CHUNK],
            connections: HashMap::new(),
            ends: HashMap::new(),
            sessions: HashMap::new(),
            clients: HashMap::new(),
            ready: Vec::new(),
            swept: Instant::now(),
        }
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let patience = if self.ready.is_empty() {
                // Without sessions there is nothing to sweep.
                (!self.sessions.is_empty()).then_some(SWEEP)
            } else {
                Some(Duration::ZERO)
            };
            let patience = patience.and_then(|p| Timespec::try_from(p).ok());
            match epoll::wait(
                &self.shared.epoll,
                rustix::buffer::spare_capacity(&mut events),
                patience.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for token in std::mem::take(&mut self.ready) {
                self.pump(token);
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
                    }
                    token => self.event(token),
                }
            }
            if self.obey() {
                return;
            }
            self.sweep();
        }
    }

    fn event(&mut self, token: u64) {
        let listener = lock(&self.shared.listeners).get(&token).cloned();
        if let Some(listener) = listener {
            match listener.proto {
                Protocol::Tcp => self.accept(&listener),
                Protocol::Udp => self.datagrams(&listener),
                Protocol::Sctp => {}
            }
        } else if let Some(&connection) = self.ends.get(&token) {
            self.pump(connection);
        } else if self.sessions.contains_key(&token) {
            self.answers(token);
        }
    }

    /// Carries out what other threads asked for. True: end.
    fn obey(&mut self) -> bool {
        let orders = std::mem::take(&mut *lock(&self.shared.orders));
        for listener in orders.close {
            let connections: Vec<u64> = self
                .connections
                .iter()
                .filter(|(_, c)| c.listener.token == listener)
                .map(|(token, _)| *token)
                .collect();
            for token in connections {
                self.close_connection(token);
            }
            let sessions: Vec<u64> = self
                .sessions
                .iter()
                .filter(|(_, s)| s.listener.token == listener)
                .map(|(token, _)| *token)
                .collect();
            for token in sessions {
                self.close_session(token);
            }
        }
        orders.stop
    }

    /// A flow was opened through `listener`: is the listener still there?
    fn still_listening(&self, listener: &Listener) -> bool {
        lock(&self.shared.listeners).contains_key(&listener.token)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
