//! Removes links in the background: the kernel takes some 20 ms for each, which no request should wait for.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::link::Links;

/// Hands links to a thread that removes them. The thread ends when there is nothing left to do.
#[derive(Debug, Default)]
pub struct Undertaker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    /// Told after each removal.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    running: bool,
    /// Names; the first one is being removed.
    dying: VecDeque<String>,
}

impl Undertaker {
    /// Removes the link of this name soon.
    pub fn take(&self, name: String) {
        let mut work = lock(&self.shared.work);
        work.dying.push_back(name);
        if work.running {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let started = std::thread::Builder::new()
            .name("undertaker".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || shared.bury());
        work.running = started.is_ok();
        if !work.running {
            // Without a thread: now, and the caller waits.
            drop(work);
            self.shared.bury();
        }
    }

    /// Waits until no link of this name is waiting for its end.
    pub fn wait_for(&self, name: &str) {
        let mut work = lock(&self.shared.work);
        while work.dying.iter().any(|dying| dying == name) {
            work = wait(&self.shared.done, work);
        }
    }

    /// Waits until everything is removed.
    pub fn finish(&self) {
        let mut work = lock(&self.shared.work);
        while !work.dying.is_empty() {
            work = wait(&self.shared.done, work);
        }
    }
}

impl Shared {
    fn bury(&self) {
        let mut links = Links::open().ok();
        loop {
            let mut work = lock(&self.work);
            let Some(name) = work.dying.front().cloned() else {
                work.running = false;
                return;
            };
            drop(work);
            if let Some(links) = &mut links {
                // Best effort: what is left is found at the next start by its alias.
                let _ = links.remove(&name);
            }
            lock(&self.work).dying.pop_front();
            self.done.notify_all();
        }
    }
}

fn lock(work: &Mutex<Work>) -> MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a>(done: &Condvar, work: MutexGuard<'a, Work>) -> MutexGuard<'a, Work> {
    done.wait(work).unwrap_or_else(PoisonError::into_inner)
}
