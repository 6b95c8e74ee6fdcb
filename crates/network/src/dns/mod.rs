//! The name server of containers on user-defined networks, at 127.0.0.11 inside each of them.
//!
//! One thread with one epoll serves all containers of the engine. It answers names of the container's networks from tables
//! that the engine keeps up to date, and asks the world's name servers for the rest. Its sockets are in the containers'
//! namespaces: [`place`] tells how they get there. [`message`] and [`names`] are pure.

mod exchange;
pub mod message;
pub mod names;
pub mod place;
mod stream;
mod worker;

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard},
    thread::JoinHandle,
};

use longshore_model::{Error, Result};
use rustix::event::{EventfdFlags, epoll, eventfd};

use self::{names::Tables, worker::Worker};
pub use self::{
    names::{Member, Membership, Scope, Table, Upstream},
    place::Sockets,
};

/// Name of the wake-up descriptor in the epoll; others count upwards from 1.
const WAKE: u64 = 0;

struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    tables: RwLock<Tables>,
    orders: Mutex<Vec<Order>>,
}

/// What the thread does when it wakes.
enum Order {
    Attach(String, Sockets, Scope),
    Scope(String, Scope),
    Detach(String),
    Stop,
}

/// The name server. Its thread starts with the first container.
pub struct Resolver {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Containers that are served: for all others there is nothing to do.
    served: Mutex<HashSet<String>>,
}

impl Resolver {
    /// # Errors
    /// No epoll or eventfd.
    pub fn new() -> Result<Self> {
        let make = || -> io::Result<Shared> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let data = epoll::EventData::new_u64(WAKE);
            epoll::add(&epoll, &wake, data, epoll::EventFlags::IN)?;
            Ok(Shared {
                epoll,
                wake,
                tables: RwLock::default(),
                orders: Mutex::default(),
            })
        };
        Ok(Self {
            shared: Arc::new(make().map_err(|e| Error::io("cannot make an epoll", e))?),
            thread: Mutex::default(),
            served: Mutex::default(),
        })
    }

    /// Serves a container at `sockets` from now on, in place of what it had. Questions that came before are answered.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn attach(&self, container: &str, sockets: Sockets, scope: Scope) -> Result<()> {
        self.start().map_err(|e| Error::io("cannot serve DNS", e))?;
        lock(&self.served).insert(container.to_owned());
        self.order(Order::Attach(container.to_owned(), sockets, scope));
        Ok(())
    }

    /// Says what a container sees from now on; one that is not served is left alone.
    pub fn set_scope(&self, container: &str, scope: Scope) {
        if lock(&self.served).contains(container) {
            self.order(Order::Scope(container.to_owned(), scope));
        }
    }

    /// Lets go of a container. Its namespace can only end when this has happened.
    pub fn detach(&self, container: &str) {
        if lock(&self.served).remove(container) {
            self.order(Order::Detach(container.to_owned()));
        }
    }

    /// A container is on a network (id and name), or has other names or addresses there now.
    pub fn set_member(&self, network: (&str, &str), container: &str, member: Member) {
        let (id, name) = network;
        let mut tables = self.tables();
        let table = tables
            .entry(id.to_owned())
            .or_insert_with(|| Table::new(name));
        table.put(container, member);
    }

    /// A container is not on a network any more.
    pub fn remove_member(&self, network: &str, container: &str) {
        if let Some(table) = self.tables().get_mut(network) {
            table.remove(container);
        }
    }

    /// The network is gone.
    pub fn forget(&self, network: &str) {
        self.tables().remove(network);
    }

    fn tables(&self) -> RwLockWriteGuard<'_, Tables> {
        let tables = self.shared.tables.write();
        tables.unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        lock(&self.shared.orders).push(order);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    fn start(&self) -> io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new()
                .name("dns".to_owned())
                .stack_size(512 * 1024)
                .spawn(move || {
                    if let Ok(worker) = Worker::new(shared) {
                        worker.run();
                    }
                })?;
            *thread = Some(spawned);
        }
        Ok(())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
