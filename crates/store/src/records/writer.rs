//! The writer thread: the only place that changes the database.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
};

use longshore_model::{Error, Event, Result, Timestamp};
use rusqlite::{Connection, params};

use super::{
    Batch, Durability, Op, Table,
    database::sql_error,
    journal::{self, TRIM_EVERY, Tail},
};
use crate::{housekeeper::Chore, lock::Lock};

pub type OnCommit = Box<dyn Fn(&[Event]) + Send + Sync>;
pub type Done = Box<dyn FnOnce(Result<Vec<Event>>) + Send>;

/// At most so many batches share a transaction, so that the first of them does not wait for a flood behind it.
const GROUP: usize = 128;
/// Database pages that may be written before the log is written back to the file (4 kB each).
const CHECKPOINT_AFTER: u64 = 512;

/// What the writer thread is told.
pub enum Message {
    Job(Job),
    /// End, after what was submitted before.
    Stop,
}

/// Submits batches to the writer thread.
#[derive(Clone)]
pub struct Committer {
    messages: Sender<Message>,
}

impl Committer {
    pub fn new(messages: Sender<Message>) -> Self {
        Self { messages }
    }

    pub fn submit(&self, batch: Batch, durability: Durability, done: Done) {
        let job = Job {
            batch,
            durability,
            done,
        };
        if let Err(mpsc::SendError(Message::Job(job))) = self.messages.send(Message::Job(job)) {
            (job.done)(Err(Error::unavailable("the store is closed")));
        }
    }

    pub fn commit(&self, batch: Batch, durability: Durability) -> Result<Vec<Event>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = move |result| {
            // Nobody waits any more when the receiver is gone.
            let _ = sender.send(result);
        };
        self.submit(batch, durability, Box::new(done));
        receiver
            .recv()
            .unwrap_or_else(|_| Err(Error::unavailable("the store is closed")))
    }

    pub fn stop(&self) {
        let _ = self.messages.send(Message::Stop);
    }
}

pub struct Job {
    pub batch: Batch,
    pub durability: Durability,
    pub done: Done,
}

/// State of the writer thread.
pub struct Writer {
    pub connection: Connection,
    pub on_commit: OnCommit,
    pub last_seq: Arc<AtomicU64>,
    pub chores: Sender<Chore>,
    tail: Tail,
    untrimmed: u64,
    unwritten: u64,
    synchronous_full: bool,
    /// Kept until the last commit is done, whoever drops the store.
    _lock: Arc<Lock>,
}

impl Writer {
    pub fn new(
        connection: Connection,
        on_commit: OnCommit,
        chores: Sender<Chore>,
        lock: Arc<Lock>,
    ) -> Result<Self> {
        let now = Timestamp::now().0;
        let start = || -> rusqlite::Result<Tail> {
            let tail = Tail::read(&connection, now)?;
            if tail.seq > 0 {
                journal::trim(&connection, tail, now)?;
            }
            Ok(tail)
        };
        let tail = start().map_err(|e| sql_error("read the event journal", &e))?;
        Ok(Self {
            connection,
            on_commit,
            last_seq: Arc::new(AtomicU64::new(tail.seq)),
            chores,
            tail,
            untrimmed: 0,
            unwritten: 0,
            synchronous_full: false,
            _lock: lock,
        })
    }

    /// Runs until it is told to stop. Takes whatever waits as one transaction; never waits for more.
    pub fn run(mut self, messages: &Receiver<Message>) {
        let mut group = Vec::new();
        let mut stop = false;
        while !stop {
            let Ok(first) = messages.recv() else {
                return;
            };
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Job(job) => group.push(job),
                    Message::Stop => stop = true,
                }
                if group.len() < GROUP && !stop {
                    next = messages.try_recv().ok();
                }
            }
            self.commit_group(&mut group);
            self.tidy();
        }
    }

    fn commit_group(&mut self, group: &mut Vec<Job>) {
        if group.is_empty() {
            return;
        }
        match self.transaction(group) {
            Ok(results) => {
                for (job, events) in group.drain(..).zip(results) {
                    self.answer(job.done, Ok(events));
                }
            }
            Err(error) if group.len() == 1 => {
                for job in group.drain(..) {
                    self.answer(job.done, Err(sql_error("write to the database", &error)));
                }
            }
            Err(_) => {
                // One batch that cannot be written must not take the others with it.
                for job in std::mem::take(group) {
                    self.commit_group(&mut vec![job]);
                }
            }
        }
    }

    fn answer(&self, done: Done, result: Result<Vec<Event>>) {
        // A callback that panics has been reported by the panic hook; the writer must go on.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Ok(events) = &result
                && let Some(last) = events.last()
            {
                self.last_seq.store(last.seq, Ordering::Release);
                (self.on_commit)(events);
            }
        }));
        let _ = catch_unwind(AssertUnwindSafe(|| done(result)));
    }

    fn transaction(&mut self, group: &[Job]) -> rusqlite::Result<Vec<Vec<Event>>> {
        let durable = group
            .iter()
            .any(|job| job.durability == Durability::Durable);
        self.set_synchronous(durable)?;
        let mut tail = self.tail;
        let written = self.write(group, &mut tail);
        if written.is_err() {
            // Fails only when SQLite has rolled back by itself.
            let _ = self.execute("ROLLBACK");
        } else {
            self.untrimmed += tail.seq - self.tail.seq;
            self.tail = tail;
        }
        written
    }

    fn write(&mut self, group: &[Job], tail: &mut Tail) -> rusqlite::Result<Vec<Vec<Event>>> {
        let now = Timestamp::now().0;
        self.execute("BEGIN IMMEDIATE")?;
        let mut results = Vec::with_capacity(group.len());
        for job in group {
            for op in &job.batch.ops {
                self.apply(op, now)?;
                self.unwritten += 3;
            }
            let mut events = Vec::with_capacity(job.batch.events.len());
            for new in &job.batch.events {
                let event = tail.append(new.clone(), now);
                journal::insert(&self.connection, &event)?;
                self.unwritten += 1;
                events.push(event);
            }
            results.push(events);
        }
        self.execute("COMMIT")?;
        Ok(results)
    }

    fn apply(&self, op: &Op, now: i64) -> rusqlite::Result<()> {
        match op {
            Op::Put(table, key, value) => self
                .connection
                .prepare_cached(PUT[table.index()])?
                .execute(params![key, value])?,
            Op::Delete(table, key) => self
                .connection
                .prepare_cached(DELETE[table.index()])?
                .execute(params![key])?,
            Op::Quarantine(table, key, reason) => {
                let table = table.name();
                self.connection.execute(
                    &format!(
                        "INSERT INTO quarantine(table_name, key, value, reason, time_nano)
                         SELECT '{table}', key, value, ?2, ?3 FROM {table} WHERE key=?1"
                    ),
                    params![key, reason, now],
                )?;
                self.connection
                    .execute(&format!("DELETE FROM {table} WHERE key=?1"), params![key])?
            }
        };
        Ok(())
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn set_synchronous(&mut self, full: bool) -> rusqlite::Result<()> {
        if self.synchronous_full != full {
            self.connection.execute_batch(if full {
                "PRAGMA synchronous=FULL"
            } else {
                "PRAGMA synchronous=NORMAL"
            })?;
            self.synchronous_full = full;
        }
        Ok(())
    }

    /// After the answers: keeps the journal within its bounds and has the log written back.
    fn tidy(&mut self) {
        if self.untrimmed >= TRIM_EVERY {
            self.untrimmed = 0;
            // A trim that fails is tried again after the next thousand events.
            let _ = journal::trim(&self.connection, self.tail, Timestamp::now().0);
        }
        if self.unwritten >= CHECKPOINT_AFTER {
            self.unwritten = 0;
            let _ = self.chores.send(Chore::Checkpoint);
        }
    }
}

macro_rules! per_table {
    ($before:literal, $after:literal) => {
        [
            concat!($before, "container", $after),
            concat!($before, "exec", $after),
            concat!($before, "image", $after),
            concat!($before, "tag", $after),
            concat!($before, "layer", $after),
            concat!($before, "network", $after),
            concat!($before, "volume", $after),
            concat!($before, "meta", $after),
        ]
    };
}

const PUT: [&str; Table::ALL.len()] = per_table!(
    "INSERT INTO ",
    "(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value=excluded.value"
);
const DELETE: [&str; Table::ALL.len()] = per_table!("DELETE FROM ", " WHERE key=?1");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_follow_the_tables() {
        for (i, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table.index(), i);
            assert!(PUT[i].starts_with(&format!("INSERT INTO {}(", table.name())));
            assert_eq!(
                DELETE[i],
                format!("DELETE FROM {} WHERE key=?1", table.name())
            );
        }
    }
}
