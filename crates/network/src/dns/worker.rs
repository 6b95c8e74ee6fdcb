//! The thread: who asked what, and where the answers go.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use longshore_model::id::random_bytes;
use longshore_sys::datagram;
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use super::{
    Order, Shared, WAKE,
    exchange::Exchange,
    lock,
    message::{self, Query, REFUSED, Record, SERVER_FAILURE, Unreadable},
    names::{self, Scope},
    place::Sockets,
    stream::Connection,
};

const EVENTS: usize = 64;
/// Datagrams of one container that are read before others get their turn.
const TURN: usize = 64;
/// Questions of one container, and of all together, that wait for servers outside; one more is refused.
const WAITING_EACH: usize = 1024;
const WAITING_ALL: usize = 8192;
/// Longest message over TCP; over UDP the client says how long.
const LARGEST: usize = 65535;

/// A container that is served.
pub(super) struct Client {
    name: String,
    pub(super) sockets: Sockets,
    pub(super) scope: Scope,
    tokens: [u64; 2],
    pub(super) connections: usize,
    pub(super) exchanges: usize,
}

/// What a token of the epoll stands for.
pub(super) enum Entry {
    Datagrams(u64),
    Listener(u64),
    Connection(Connection),
    Exchange(Exchange),
}

/// Where a question came from.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Datagram(SocketAddr),
    Connection(u64),
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    /// The host's network namespace.
    pub(super) home: File,
    pub(super) clients: HashMap<u64, Client>,
    pub(super) entries: HashMap<u64, Entry>,
    /// When which entry is tired of waiting.
    pub(super) deadlines: BTreeSet<(Instant, u64)>,
    pub(super) exchanges: usize,
    pub(super) scratch: Vec<u8>,
    tokens: u64,
    random: Cell<u64>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            shared,
            home: File::open("/proc/thread-self/ns/net")?,
            clients: HashMap::new(),
            entries: HashMap::new(),
            deadlines: BTreeSet::new(),
            exchanges: 0,
            scratch: vec![0; LARGEST + 2],
            tokens: WAKE,
            random: Cell::new(u64::from_ne_bytes(random_bytes())),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.shared.epoll, buffer, self.patience().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
                        if self.obey() {
                            return;
                        }
                    }
                    token => self.event(token),
                }
            }
            self.tired();
        }
    }

    fn patience(&self) -> Option<Timespec> {
        let (first, _) = self.deadlines.first()?;
        // Rounded up, or the thread would turn idle rounds just before.
        let left = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn event(&mut self, token: u64) {
        match self.entries.get(&token) {
            Some(Entry::Datagrams(client)) => self.datagrams(*client),
            Some(Entry::Listener(client)) => self.accept(*client),
            Some(Entry::Connection(_)) => self.connection(token),
            Some(Entry::Exchange(_)) => self.exchange(token),
            // Closed by an event before this one.
            None => {}
        }
    }

    fn tired(&mut self) {
        let now = Instant::now();
        while let Some(&(when, token)) = self.deadlines.first()
            && when <= now
        {
            self.deadlines.pop_first();
            match self.entries.remove(&token) {
                Some(Entry::Exchange(exchange)) => self.next_server(exchange),
                Some(Entry::Connection(connection)) => self.idle(token, connection),
                Some(entry) => {
                    self.entries.insert(token, entry);
                }
                None => {}
            }
        }
    }

    /// Carries out what other threads asked for. True: end.
    fn obey(&mut self) -> bool {
        let orders = std::mem::take(&mut *lock(&self.shared.orders));
        for order in orders {
            match order {
                Order::Attach(name, sockets, scope) => self.attach(name, sockets, scope),
                Order::Scope(name, scope) => {
                    if let Some(client) = self.clients.values_mut().find(|c| c.name == name) {
                        client.scope = scope;
                    }
                }
                Order::Detach(name) => self.detach(&name),
                Order::Stop => return true,
            }
        }
        false
    }

    fn attach(&mut self, name: String, sockets: Sockets, scope: Scope) {
        self.detach(&name);
        let tokens = [self.token(), self.token()];
        let number = tokens[0];
        let watched = self
            .watch(sockets.udp.as_fd(), tokens[0], epoll::EventFlags::IN)
            .and_then(|()| self.watch(sockets.tcp.as_fd(), tokens[1], epoll::EventFlags::IN));
        // Out of kernel memory: the container's questions stay without answers.
        if watched.is_err() {
            return;
        }
        self.entries.insert(tokens[0], Entry::Datagrams(number));
        self.entries.insert(tokens[1], Entry::Listener(number));
        let client = Client {
            name,
            sockets,
            scope,
            tokens,
            connections: 0,
            exchanges: 0,
        };
        self.clients.insert(number, client);
    }

    fn detach(&mut self, name: &str) {
        let found = self.clients.iter().find(|(_, c)| c.name == name);
        let Some(number) = found.map(|(number, _)| *number) else {
            return;
        };
        if let Some(client) = self.clients.remove(&number) {
            for token in client.tokens {
                self.entries.remove(&token);
            }
        }
        // Descriptors leave the epoll when they are closed.
        self.entries.retain(|_, entry| match entry {
            Entry::Connection(connection) => connection.client != number,
            Entry::Exchange(exchange) => exchange.client != number,
            Entry::Datagrams(_) | Entry::Listener(_) => true,
        });
        let entries = &self.entries;
        self.deadlines
            .retain(|(_, token)| entries.contains_key(token));
        let waiting = entries.values().filter(|e| matches!(e, Entry::Exchange(_)));
        self.exchanges = waiting.count();
    }

    pub(super) fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    pub(super) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        what: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(
            &self.shared.epoll,
            fd,
            epoll::EventData::new_u64(token),
            what,
        )
    }

    pub(super) fn rewatch(&self, fd: BorrowedFd<'_>, token: u64, what: epoll::EventFlags) {
        let _ = epoll::modify(
            &self.shared.epoll,
            fd,
            epoll::EventData::new_u64(token),
            what,
        );
    }

    fn datagrams(&mut self, number: u64) {
        for _ in 0..TURN {
            let Some(client) = self.clients.get(&number) else {
                return;
            };
            match datagram::receive(client.sockets.udp.as_fd(), &mut self.scratch) {
                Ok(got) => {
                    let question = self.scratch[..got.length].to_vec();
                    self.ask(number, &question, Origin::Datagram(got.peer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An answer could not be delivered; the next question may be fine.
                Err(_) => {}
            }
        }
    }

    /// Answers a question, now or when a server outside has.
    pub(super) fn ask(&mut self, number: u64, bytes: &[u8], origin: Origin) {
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(Unreadable::Ignore) => return self.deliver(number, origin, None),
            Err(Unreadable::Answer(answer)) => return self.deliver(number, origin, Some(answer)),
        };
        let limit = match origin {
            Origin::Datagram(_) => query.udp_size,
            Origin::Connection(_) => LARGEST,
        };
        let Some(client) = self.clients.get(&number) else {
            return;
        };
        if let Some(answer) = self.known(client, &query, limit) {
            return self.deliver(number, origin, Some(answer));
        }
        if client.exchanges >= WAITING_EACH || self.exchanges >= WAITING_ALL {
            let refusal = query.answer_empty(REFUSED);
            return self.deliver(number, origin, Some(refusal));
        }
        let exchange = Exchange::new(number, &client.scope, origin, query, limit);
        self.next_server(exchange);
    }

    /// What the container's networks say; None is for servers outside.
    fn known(&self, client: &Client, query: &Query, limit: usize) -> Option<Vec<u8>> {
        const ANY: u16 = 255;
        if !query.is_internet() {
            return None;
        }
        let tables = self
            .shared
            .tables
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let scope = &client.scope;
        let resolve =
            |wanted: fn(&IpAddr) -> bool| names::resolve(scope, &tables, &query.name, wanted);
        let found = match query.kind {
            message::A => resolve(IpAddr::is_ipv4),
            message::AAAA => resolve(IpAddr::is_ipv6),
            ANY => resolve(|_| true),
            message::PTR => {
                let address = message::reverse_address(&query.name)?;
                let name = names::name_of(scope, &tables, address)?;
                return Some(query.answer(&[Record::Ptr(name)], limit));
            }
            // The name is there, but has no record of that kind.
            _ => resolve(|_| false),
        };
        if let Some(mut addresses) = found {
            self.shuffle(&mut addresses);
            let records: Vec<Record> = addresses.into_iter().map(Record::from).collect();
            return Some(query.answer(&records, limit));
        }
        let address = matches!(query.kind, message::A | message::AAAA);
        (address && scope.ndots && !query.name.contains('.')).then(|| query.answer_empty(0))
    }

    /// Every container behind a name gets its share.
    fn shuffle(&self, addresses: &mut [IpAddr]) {
        for index in (1..addresses.len()).rev() {
            // Knuth's linear congruence: nobody gains by guessing the order.
            let state = self.random.get().wrapping_mul(6_364_136_223_846_793_005);
            self.random
                .set(state.wrapping_add(1_442_695_040_888_963_407));
            addresses.swap(index, (state >> 33) as usize % (index + 1));
        }
    }

    /// Hands an answer to whoever asked; None ends the waiting without one.
    pub(super) fn deliver(&mut self, number: u64, origin: Origin, answer: Option<Vec<u8>>) {
        match origin {
            Origin::Datagram(peer) => {
                if let (Some(client), Some(answer)) = (self.clients.get(&number), answer) {
                    // The client may have gone.
                    let _ = datagram::send(client.sockets.udp.as_fd(), &answer, peer, None);
                }
            }
            Origin::Connection(token) => self.write(token, answer),
        }
    }

    /// No server has answered.
    pub(super) fn give_up(&mut self, exchange: Exchange) {
        let answer = exchange.query.answer_empty(SERVER_FAILURE);
        self.deliver(exchange.client, exchange.origin, Some(answer));
    }
}
