//! The store's front: opening, writing and reading records, the journal.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use longshore_model::{Error, Event, Result};
use rusqlite::Connection;

use crate::{
    containers::Containers,
    housekeeper::{Chore, Housekeeper},
    images::{self, Images, StoredImages},
    lock::Lock,
    records::{
        Batch, Committer, Database, Done, Durability, EventRange, OnCommit, Opened, Quarantined,
        Table, Writer, read_events, sql_error,
    },
    trash::Trash,
    volumes::Volumes,
};

/// What opening found; worth a line in the log each.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Records put out of use, now or earlier.
    pub quarantined: Vec<Quarantined>,
    /// Leftovers of interrupted work that were removed.
    pub removed: Vec<String>,
    /// Where a broken database was moved to, and how many records were saved from it.
    pub moved_aside: Option<(PathBuf, usize)>,
}

/// The store of one data root. Clones share it; the last one dropped ends its threads and gives the lock back.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    containers: Containers,
    volumes: Volumes,
    images: Images,
    committer: Committer,
    reader: Mutex<Connection>,
    last_seq: Arc<AtomicU64>,
    chores: Sender<Chore>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Given back when the last connection is closed.
    _lock: Arc<Lock>,
}

impl Store {
    /// Opens (or makes) the store below `data_root`. `on_commit` is called on the writer thread with the events of each
    /// batch, in journal order, after they are kept and before the batch's `done`. It must not block and must not call
    /// [`Self::commit`].
    ///
    /// # Errors
    /// `Conflict` when another daemon has the data root; `System` when the disk refuses, or a newer version wrote it.
    pub fn open(data_root: &Path, on_commit: OnCommit) -> Result<(Self, OpenReport)> {
        let mut report = OpenReport::default();
        make_folders(data_root)?;
        let lock = Arc::new(Lock::take(data_root)?);
        report.removed = clear_leftovers(data_root)?;
        report.removed.extend(images::ingest::sweep(data_root));
        let Opened {
            writer,
            reader,
            moved_aside,
            quarantined,
        } = Database::new(data_root).open()?;
        report.moved_aside = moved_aside;
        report.quarantined = quarantined;

        let (chores, chore_queue) = mpsc::channel();
        let (messages, message_queue) = mpsc::channel();
        let committer = Committer::new(messages);
        let writer = Writer::new(writer, on_commit, chores.clone(), lock.clone())?;
        let last_seq = writer.last_seq.clone();
        let stopping = Arc::new(AtomicBool::new(false));
        let housekeeper = Housekeeper {
            database: Database::new(data_root),
            trash: data_root.join("trash"),
            stopping: stopping.clone(),
        };
        let threads = vec![
            spawn("store-writer", move || writer.run(&message_queue))?,
            spawn("store-chores", move || housekeeper.run(&chore_queue))?,
        ];
        let trash = Trash::new(data_root, chores.clone());
        let _ = chores.send(Chore::Trash);
        let stored = StoredImages {
            images: read_records(&reader, Table::Image)?,
            tags: read_records(&reader, Table::Tag)?,
            layers: read_records(&reader, Table::Layer)?,
        };
        let (images, unusable) = Images::open(data_root, trash.clone(), committer.clone(), stored)?;
        let quarantined = unusable
            .into_iter()
            .map(|(table, key, reason)| Quarantined {
                table: table.name().to_owned(),
                key,
                reason,
            });
        report.quarantined.extend(quarantined);
        // Records that were lost with a broken database must not take the files along: a person may want them.
        if report.moved_aside.is_none() {
            report.removed.extend(images.collect_garbage()?);
            if read_records(&reader, Table::Container)?.is_empty() {
                report.removed.extend(images.clear_inits());
            }
        }
        let inner = Inner {
            root: data_root.to_owned(),
            containers: Containers::new(data_root, trash.clone()),
            volumes: Volumes::new(data_root, trash.clone()),
            images,
            committer,
            reader: Mutex::new(reader),
            last_seq,
            chores,
            stopping,
            threads,
            _lock: lock,
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        Ok((store, report))
    }

    /// Hands a batch to the writer and returns at once. Batches are kept in the order of their submission; the writer
    /// gives events their position and time, calls `on_commit`, then `done`, both on its own thread. `done` must not
    /// block and must not call [`Self::commit`].
    pub fn submit(&self, batch: Batch, durability: Durability, done: Done) {
        self.inner.committer.submit(batch, durability, done);
    }

    /// [`Self::submit`], waiting for the result.
    ///
    /// # Errors
    /// When the database cannot be written: nothing of the batch is kept then.
    pub fn commit(&self, batch: Batch, durability: Durability) -> Result<Vec<Event>> {
        self.inner.committer.commit(batch, durability)
    }

    /// All records of a kind, ordered by key.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn records(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>> {
        read_records(&self.reader(), table)
    }

    /// Puts a record that cannot be understood out of use; its bytes are kept for a person to look at.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn quarantine(&self, table: Table, key: &str, reason: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch.quarantine(table, key, reason);
        self.commit(batch, Durability::Durable).map(drop)
    }

    /// Events of a range, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn events(&self, range: EventRange) -> Result<Vec<Event>> {
        read_events(&self.reader(), range).map_err(|e| sql_error("read the event journal", &e))
    }

    /// Position of the last event that was kept; 0 when there is none.
    pub fn last_seq(&self) -> u64 {
        self.inner.last_seq.load(Ordering::Acquire)
    }

    /// The data root.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Images, their layers and names.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// Containers' directories.
    pub fn containers(&self) -> &Containers {
        &self.inner.containers
    }

    /// Local volumes' directories.
    pub fn volumes(&self) -> &Volumes {
        &self.inner.volumes
    }

    pub(crate) fn reader(&self) -> MutexGuard<'_, Connection> {
        // A reader that panicked leaves no state behind in the connection.
        self.inner
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.committer.stop();
        let _ = self.chores.send(Chore::Stop);
        for handle in self.threads.drain(..) {
            // The last clone may die in a callback on the writer thread itself.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}

fn read_records(reader: &Connection, table: Table) -> Result<Vec<(String, Vec<u8>)>> {
    let read = || -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
        reader
            .prepare(&format!(
                "SELECT key, value FROM {} ORDER BY key",
                table.name()
            ))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    };
    read().map_err(|e| sql_error(&format!("read {} records", table.name()), &e))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(512 * 1024)
        .spawn(work)
        .map_err(|e| Error::io(format_args!("start thread {name}"), e))
}

fn make_folders(root: &Path) -> Result<()> {
    for name in [
        "",
        "blobs/sha256",
        "ingest",
        "layers",
        "init",
        "containers",
        "volumes",
        "trash",
        "tmp",
    ] {
        let path = root.join(name);
        std::fs::create_dir_all(&path)
            .map_err(|e| Error::io(format_args!("mkdir {}", path.display()), e))?;
    }
    for (name, mode) in [
        // Layers hold set-user-id programs and device nodes that are no business of the host's users. The kernel does
        // not ask these folders' modes when a container reads its root.
        ("", 0o710),
        ("tmp", 0o700),
        ("trash", 0o700),
        ("blobs", 0o700),
        ("ingest", 0o700),
        ("layers", 0o700),
        ("init", 0o700),
        ("containers", 0o710),
        ("volumes", 0o701),
    ] {
        let path = root.join(name);
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(mode))
            .map_err(|e| Error::io(format_args!("chmod {}", path.display()), e))?;
    }
    Ok(())
}

/// Moves what interrupted work left in tmp to the trash.
fn clear_leftovers(root: &Path) -> Result<Vec<String>> {
    let tmp = root.join("tmp");
    let entries = std::fs::read_dir(&tmp)
        .map_err(|e| Error::io(format_args!("open {}", tmp.display()), e))?;
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let name = format!("left-{}", longshore_model::id::random_hex());
        let to = root.join("trash").join(name);
        if std::fs::rename(entry.path(), to).is_ok() {
            removed.push(entry.path().display().to_string());
        }
    }
    Ok(removed)
}
