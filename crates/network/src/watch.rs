//! The watcher: one thread that reads what happens to nf_tables and repairs our table when somebody else changed it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use longshore_model::{Error, Result};
use longshore_sys::netlink::{Protocol as Netlink, Socket};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use crate::{
    manager::Manager,
    nft::{Notice, notice},
};

const NFNLGRP_NFTABLES: i32 = 7;
/// Room for notifications: a burst of our own changes must not push out those of others.
const BUFFER: usize = 4 * 1024 * 1024;
/// Others often change in several steps (flush, then load): wait for so much silence, but no longer than `PATIENCE`.
const SILENCE: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_millis(300);
/// A manager that was told nothing for so long after it was opened installs its rules on its own.
const SETTLE: Duration = Duration::from_secs(3);
/// How often the table is compared even when nobody said anything.
const INSPECTION: Duration = Duration::from_secs(60);

/// Handle of the watcher thread.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts watching for `manager`, which is not kept alive by it.
    ///
    /// # Errors
    /// The socket, its group or the thread could not be had.
    pub fn start(manager: Weak<Manager>, table: String, own_port: u32) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io("cannot watch nf_tables", e);
        let socket = Socket::open(Netlink::Netfilter).map_err(failed)?;
        // A smaller buffer only means that a burst is answered by a comparison.
        let _ = socket.set_receive_buffer(BUFFER);
        socket.join(NFNLGRP_NFTABLES).map_err(failed)?;
        let stop = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|e| failed(e.into()))?,
        );
        let worker = Worker {
            socket,
            stop: Arc::clone(&stop),
            manager,
            table,
            own_port,
            opened: Instant::now(),
            settled: false,
        };
        let thread = std::thread::Builder::new()
            .name("nft-watch".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || worker.run())
            .map_err(failed)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the thread and waits for it, unless it is the caller.
    pub fn stop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a look at the notifications told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Somebody else changed our table.
    ours: bool,
    /// Somebody else changed iptables' filter table.
    filter: bool,
    /// Notifications were lost: everything must be compared.
    lost: bool,
}

struct Worker {
    socket: Socket,
    stop: Arc<OwnedFd>,
    manager: Weak<Manager>,
    table: String,
    own_port: u32,
    opened: Instant,
    settled: bool,
}

impl Worker {
    fn run(mut self) {
        loop {
            let patience = if self.settled {
                INSPECTION
            } else {
                SETTLE.saturating_sub(self.opened.elapsed())
            };
            match self.wait(patience) {
                None => return,
                Some(true) => {
                    let mut seen = self.read();
                    if seen == Seen::default() {
                        continue;
                    }
                    if !self.calm_down(&mut seen) {
                        return;
                    }
                    self.act(seen);
                }
                Some(false) if self.settled => self.tell(Manager::check),
                Some(false) => {
                    self.settled = true;
                    self.tell(Manager::settle);
                }
            }
        }
    }

    /// Waits for notifications. None: stop; false: the time is over.
    fn wait(&self, patience: Duration) -> Option<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok()?;
            let mut fds = [
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Some(false),
                Ok(_) if !fds[0].revents().is_empty() => return None,
                Ok(_) => return Some(true),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn act(&self, seen: Seen) {
        if seen.filter || seen.lost {
            self.tell(Manager::ensure_passes);
        }
        if seen.ours {
            self.tell(|m| m.repair("its rules were changed by another program"));
        } else if seen.lost {
            self.tell(Manager::check);
        }
    }

    fn read(&mut self) -> Seen {
        let mut seen = Seen::default();
        let (table, own_port) = (&self.table, self.own_port);
        let outcome = self.socket.notifications(|m| match notice(m, table) {
            Notice::Ours(port) => seen.ours |= port != own_port,
            Notice::Filter(port) => seen.filter |= port != own_port,
            Notice::Other => {}
        });
        seen.lost = outcome.is_err_and(|error| error.is(Errno::NOBUFS));
        seen
    }

    /// Reads on until nothing comes any more. False: stop.
    fn calm_down(&mut self, seen: &mut Seen) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match self.wait(SILENCE) {
                None => return false,
                Some(false) => return true,
                Some(true) => {
                    let more = self.read();
                    seen.ours |= more.ours;
                    seen.filter |= more.filter;
                    seen.lost |= more.lost;
                }
            }
        }
        true
    }

    fn tell(&self, what: impl FnOnce(&Manager)) {
        if let Some(manager) = self.manager.upgrade() {
            what(&manager);
        }
    }
}
