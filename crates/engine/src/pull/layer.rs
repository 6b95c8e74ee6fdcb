//! Layers on their way: each fetched, verified and unpacked once, however many pulls wait for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use longshore_model::{Error, Result};
use longshore_registry::{Failure, Session};
use longshore_store::{
    Store,
    images::{self, PreparedLayer},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

use super::content::Wanted;

/// Pieces between the connection and the disk.
const PIECES: usize = 16;
/// Connections for one layer at most, however much each of them brings.
const TRIES_MAX: u32 = 500;

/// All layers under way.
pub(crate) struct Downloads {
    /// By the blob's digest.
    known: Mutex<HashMap<String, Weak<Layer>>>,
    slots: Arc<Semaphore>,
    /// Counts changes of any layer's phase: what pulls wait for.
    changes: Arc<watch::Sender<u64>>,
    /// Images become visible one at a time.
    pub install: Semaphore,
}

/// Where a layer is.
#[derive(Clone)]
pub(super) enum Phase {
    Waiting,
    Downloading,
    /// All is here and its digest is right; unpacking may go on.
    Downloaded(Instant),
    /// `None`: not unpacked, because nobody asked for it.
    Ready(Option<images::Shared>),
    Failed(Error),
}

/// What everybody who waits can see.
pub(super) struct Shared {
    digest: String,
    pub size: u64,
    current: AtomicU64,
    phase: Mutex<Phase>,
    changes: Arc<watch::Sender<u64>>,
}

struct Layer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// A pull's interest in a layer. With the last one dropped, fetching stops; what has come stays.
pub(super) struct Waiting(Arc<Layer>);

impl Drop for Layer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    pub fn phase(&self) -> Phase {
        self.lock().clone()
    }

    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    fn set(&self, phase: Phase) {
        *self.lock() = phase;
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    pub fn shared(&self) -> Arc<Shared> {
        self.0.shared.clone()
    }

    pub fn error(&self) -> Option<Error> {
        match self.0.shared.phase() {
            Phase::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// The unpacked layer with its blob's digest.
    pub fn unpacked(&self) -> Option<(String, images::Shared)> {
        match self.0.shared.phase() {
            Phase::Ready(Some(layer)) => Some((self.0.shared.digest.clone(), layer)),
            _ => None,
        }
    }
}

impl Downloads {
    pub fn new(at_once: usize) -> Self {
        Self {
            known: Mutex::default(),
            slots: Arc::new(Semaphore::new(at_once.max(1))),
            changes: Arc::new(watch::channel(0).0),
            install: Semaphore::new(1),
        }
    }

    /// Wakes whenever some layer has got further.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits for a layer together with all others that want it; the first one begins to fetch it.
    pub(super) fn join(&self, store: &Store, session: &Arc<Session>, wanted: Wanted) -> Waiting {
        let digest = wanted.descriptor.digest.clone();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, layer| layer.strong_count() > 0);
        if let Some(layer) = known.get(&digest).and_then(Weak::upgrade)
            && !matches!(layer.shared.phase(), Phase::Failed(_))
        {
            return Waiting(layer);
        }
        let shared = Arc::new(Shared {
            digest: digest.clone(),
            size: wanted.descriptor.size,
            current: AtomicU64::new(0),
            phase: Mutex::new(Phase::Waiting),
            changes: self.changes.clone(),
        });
        let work = Work {
            store: store.clone(),
            session: session.clone(),
            shared: shared.clone(),
            wanted,
        };
        let (slots, done) = (self.slots.clone(), shared.clone());
        let task = tokio::spawn(async move {
            let Ok(_slot) = slots.acquire().await else {
                return;
            };
            let phase = match work.run().await {
                Ok(layer) => {
                    let shared = |layer| Arc::new(Mutex::new(Some(layer)));
                    Phase::Ready(layer.map(shared))
                }
                Err(error) => Phase::Failed(error),
            };
            done.set(phase);
        });
        let layer = Arc::new(Layer { shared, task });
        known.insert(digest, Arc::downgrade(&layer));
        Waiting(layer)
    }
}

/// Fetching one layer.
struct Work {
    store: Store,
    session: Arc<Session>,
    shared: Arc<Shared>,
    wanted: Wanted,
}

/// From the connection to the thread that writes.
enum Piece {
    Bytes(Bytes),
    End,
}

impl Work {
    async fn run(&self) -> Result<Option<PreparedLayer>> {
        let (resumed, done) = self.attempt().await;
        match done {
            // Perhaps what an earlier daemon left was bad: once from the beginning.
            Err(error) if resumed && error.message.contains("failed precondition") => {
                self.attempt().await.1
            }
            done => done,
        }
    }

    /// Fetches, writes and unpacks at the same time. Also says whether it went on with what was there before.
    async fn attempt(&self) -> (bool, Result<Option<PreparedLayer>>) {
        self.shared.current.store(0, Ordering::Relaxed);
        let (store, descriptor) = (self.store.clone(), self.wanted.descriptor.clone());
        let opened = crate::blocking(move || store.images().ingest(&descriptor)).await;
        let mut ingest = match opened {
            Ok(ingest) => ingest,
            Err(error) => return (false, Err(error)),
        };
        let offset = ingest.written();
        let growth = ingest.growth();
        let follower = match self.wanted.unpack.then(|| ingest.follow()).transpose() {
            Ok(follower) => follower,
            Err(error) => return (false, Err(error)),
        };
        let (pieces, mut received) = mpsc::channel(PIECES);
        let shared = self.shared.clone();
        // Begins now: the pieces wait for it.
        let writing = tokio::task::spawn_blocking(move || {
            while let Some(piece) = received.blocking_recv() {
                match piece {
                    Piece::Bytes(bytes) => {
                        ingest.write(&bytes)?;
                        shared.current.store(ingest.written(), Ordering::Relaxed);
                    }
                    Piece::End => {
                        ingest.commit()?;
                        shared.set(Phase::Downloaded(Instant::now()));
                        return Ok(());
                    }
                }
            }
            Err(Error::system("the download was broken off"))
        });
        let unpacking = async {
            let Some(follower) = follower else {
                return Ok(None);
            };
            let (store, diff_id) = (self.store.clone(), self.wanted.diff_id.clone());
            crate::blocking(move || store.images().prepare_layer(follower, &diff_id))
                .await
                .map(Some)
        };
        let fetching = async {
            let fed = self.feed(offset, pieces).await;
            let written = writing
                .await
                .unwrap_or_else(|e| Err(Error::system(format!("internal error: {e}"))));
            // A writer that has given up is the cause; one that was left alone is not.
            match (fed, written) {
                (Err(fed), Err(_)) => Err(fed),
                (_, written) => written,
            }
        };
        tokio::pin!(fetching, unpacking);
        let done = tokio::select! {
            fetched = &mut fetching => match fetched {
                Ok(()) => unpacking.await,
                Err(error) => Err(error),
            },
            unpacked = &mut unpacking => match unpacked {
                // What cannot be unpacked is not fetched to its end.
                Err(error) if !growth.is_broken() => Err(error),
                unpacked => fetching.await.and(unpacked),
            },
        };
        (offset > 0, done)
    }

    /// Brings bytes from `offset` on to the writer; goes on where a connection broke.
    async fn feed(&self, mut offset: u64, pieces: mpsc::Sender<Piece>) -> Result<()> {
        let (digest, size) = (&self.wanted.descriptor.digest, self.wanted.descriptor.size);
        self.shared.current.store(offset, Ordering::Relaxed);
        self.shared.set(Phase::Downloading);
        let mut attempt = 1;
        for _ in 0..TRIES_MAX {
            if offset >= size {
                // A writer that does not listen any more says why itself.
                let _ = pieces.send(Piece::End).await;
                return Ok(());
            }
            let failure = match self.session.blob(digest, offset).await {
                Err(failure) => failure,
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Ok(Some(bytes)) => {
                            offset += bytes.len() as u64;
                            attempt = 1;
                            if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                                return Ok(());
                            }
                        }
                        Ok(None) => break cut(digest),
                        Err(failure) => break failure,
                    }
                },
            };
            if offset < size {
                self.session
                    .pause(&failure, &mut attempt)
                    .await
                    .map_err(Error::from)?;
            }
        }
        Err(Error::system(format!(
            "{digest}: the registry breaks off again and again"
        )))
    }
}

/// The registry had less than the manifest says.
fn cut(digest: &str) -> Failure {
    Failure::Request {
        method: "Get".to_owned(),
        url: digest.to_owned(),
        cause: "unexpected EOF".to_owned(),
        again: true,
    }
}
