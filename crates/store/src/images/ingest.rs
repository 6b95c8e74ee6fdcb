//! Content on its way from a registry: `ingest/<hex>`, written as it arrives. A file there is the beginning of a blob, or all
//! of it; it outlives the daemon, so that a pull goes on where it broke off, and is taken away when nobody asks for a while.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use longshore_model::{Error, Result};

use super::{
    Images,
    blobs::{self, Arrived},
    layers::{self, Prepared},
    manifest::Descriptor,
    work::Work,
};
use crate::{
    durable,
    tarball::codec::{Hashing, digest},
};

/// Name of the folder below the data root.
pub const FOLDER: &str = "ingest";
/// Content that nobody has added to for so long is taken away at start-up.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// One blob being written. Only one at a time has a blob's file; dropping it leaves what has come for the next.
pub struct Ingest {
    file: File,
    path: PathBuf,
    descriptor: Descriptor,
    hash: Hashing<io::Sink>,
    written: u64,
    unlooked: u64,
    growth: Arc<Growth>,
}

/// How far a blob has come, for those who read it meanwhile.
#[derive(Default)]
pub struct Growth {
    state: Mutex<GrowthState>,
    changed: Condvar,
}

#[derive(Default)]
struct GrowthState {
    written: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Verified,
    Broken,
}

/// Reads a blob while it is written. It ends only when all of it has come and its digest is right.
pub struct Follower {
    file: File,
    at: u64,
    growth: Arc<Growth>,
}

/// A layer that was unpacked while it came. Whoever installs it first takes it.
pub struct PreparedLayer {
    pub(super) prepared: Prepared,
    /// Where it lies until then.
    pub(super) work: Work,
}

impl Growth {
    /// Did writing end before everything was there?
    pub fn is_broken(&self) -> bool {
        self.lock().end == Some(End::Broken)
    }

    fn lock(&self) -> MutexGuard<'_, GrowthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.growth.lock();
        loop {
            match state.end {
                // At once: what has come is not worth unpacking.
                Some(End::Broken) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the download was broken off",
                    ));
                }
                _ if state.written > self.at => break,
                Some(End::Verified) => return Ok(0),
                None => {
                    let wait = self.growth.changed.wait(state);
                    state = wait.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let ahead = usize::try_from(state.written - self.at).unwrap_or(usize::MAX);
        drop(state);
        let length = buffer.len().min(ahead);
        let got = self.file.read_at(&mut buffer[..length], self.at)?;
        if got == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

impl Ingest {
    /// Bytes that are there.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Watches this writing.
    pub fn growth(&self) -> Arc<Growth> {
        self.growth.clone()
    }

    /// A reader that begins at the first byte.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn follow(&self) -> Result<Follower> {
        Ok(Follower {
            file: self.file.try_clone().map_err(|e| self.fail("open", e))?,
            at: 0,
            growth: self.growth.clone(),
        })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// More than the descriptor says; a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        if self.written + length > self.descriptor.size {
            let found = self.written + length;
            self.clear()?;
            return Err(self.unexpected(format_args!(
                "unexpected commit size {found}, expected {}",
                self.descriptor.size
            )));
        }
        self.unlooked += length;
        if self.unlooked >= blobs::LOOK_EVERY {
            self.unlooked = 0;
            blobs::check_room(&self.file).map_err(|e| self.fail("write", e))?;
        }
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|e| self.fail("write", e))?;
        self.hash
            .write_all(bytes)
            .map_err(|e| self.fail("digest", e))?;
        self.written += length;
        self.growth.lock().written = self.written;
        self.growth.changed.notify_all();
        Ok(())
    }

    /// Says that this is all. Content of another digest or length is thrown away.
    ///
    /// # Errors
    /// In containerd's words, when it is not what the descriptor says.
    pub fn commit(&mut self) -> Result<()> {
        let hash = std::mem::replace(&mut self.hash, Hashing::new(io::sink()));
        let (found, length) = hash.finish();
        if length != self.descriptor.size {
            self.clear()?;
            return Err(self.unexpected(format_args!(
                "unexpected commit size {length}, expected {}",
                self.descriptor.size
            )));
        }
        if found != self.descriptor.digest {
            self.clear()?;
            return Err(self.unexpected(format_args!(
                "unexpected commit digest {found}, expected {}",
                self.descriptor.digest
            )));
        }
        self.growth.end(End::Verified);
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.growth.end(End::Broken);
        self.file.set_len(0).map_err(|e| self.fail("truncate", e))
    }

    fn unexpected(&self, what: std::fmt::Arguments<'_>) -> Error {
        Error::system(format!(
            "failed commit on ref \"layer-{}\": {what}: failed precondition",
            self.descriptor.digest
        ))
    }

    fn fail(&self, what: &str, error: io::Error) -> Error {
        Error::io(format_args!("{what} {}", self.path.display()), error)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.growth.end(End::Broken);
    }
}

impl Images {
    pub(super) fn ingest_path(&self, digest: &str) -> Result<PathBuf> {
        let place = self.blobs.path(digest)?;
        let name = place.file_name().unwrap_or_default();
        Ok(self.root.join(FOLDER).join(name))
    }

    /// Opens the place for a blob. What came earlier is kept, and read once for its digest. Waits for whoever writes the
    /// same blob to end.
    ///
    /// # Errors
    /// A digest that is none; the disk.
    pub fn ingest(&self, descriptor: &Descriptor) -> Result<Ingest> {
        let path = self.ingest_path(&descriptor.digest)?;
        let fail =
            |what: &str, e: io::Error| Error::io(format_args!("{what} {}", path.display()), e);
        let file = loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|e| fail("open", e))?;
            file.lock().map_err(|e| fail("lock", e))?;
            // It may have become a blob while we waited.
            let ours = file.metadata().map_err(|e| fail("stat", e))?.ino();
            if std::fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                break file;
            }
        };
        let length = file.metadata().map_err(|e| fail("stat", e))?.len();
        let mut ingest = Ingest {
            file,
            path: path.clone(),
            descriptor: descriptor.clone(),
            hash: Hashing::new(io::sink()),
            written: 0,
            unlooked: blobs::LOOK_EVERY,
            growth: Arc::default(),
        };
        if length > descriptor.size {
            ingest.file.set_len(0).map_err(|e| fail("truncate", e))?;
            return Ok(ingest);
        }
        let mut buffer = vec![0u8; 256 * 1024];
        while ingest.written < length {
            let got = ingest
                .file
                .read_at(&mut buffer, ingest.written)
                .map_err(|e| fail("read", e))?;
            if got == 0 {
                break;
            }
            ingest
                .hash
                .write_all(&buffer[..got])
                .map_err(|e| fail("digest", e))?;
            ingest.written += got as u64;
        }
        ingest.growth.lock().written = ingest.written;
        Ok(ingest)
    }

    /// Unpacks a layer from a reader into a folder that nobody sees yet.
    ///
    /// # Errors
    /// What is no layer, or not the one with this diff id; the disk.
    pub fn prepare_layer(&self, from: impl Read + Send, diff_id: &str) -> Result<PreparedLayer> {
        let work = self.works.make()?;
        let prepared = layers::prepare(from, diff_id, work.path())?;
        Ok(PreparedLayer { prepared, work })
    }

    /// Keeps a small blob until an image with it is installed.
    ///
    /// # Errors
    /// Bytes of another digest; the disk.
    pub fn keep_document(&self, wanted: &str, bytes: &[u8]) -> Result<()> {
        let found = digest(bytes);
        if found != wanted {
            return Err(Error::system(format!(
                "failed commit on ref \"config-{wanted}\": unexpected commit digest {found}, expected {wanted}: failed precondition"
            )));
        }
        let path = self.ingest_path(wanted)?;
        durable::replace(&path, bytes, 0o600, durable::Outlive::Daemon)
    }

    /// A small blob, of an image or on its way. `None`: it is not here.
    pub fn document(&self, wanted: &str) -> Option<Vec<u8>> {
        if let Ok(bytes) = self.blobs.document(wanted) {
            return Some(bytes);
        }
        let path = self.ingest_path(wanted).ok()?;
        let bytes = blobs::read_document(File::open(path).ok()?, wanted).ok()?;
        (digest(&bytes) == wanted).then_some(bytes)
    }

    /// Is the blob part of an image here?
    pub fn has_blob(&self, digest: &str) -> bool {
        self.blobs.has(digest)
    }

    /// Whole content in the ingest folder, as its writer has verified it.
    pub(super) fn arrived(&self, digest: &str) -> Option<Arrived> {
        let path = self.ingest_path(digest).ok()?;
        let size = std::fs::metadata(&path).ok()?.len();
        Some(Arrived {
            path,
            digest: digest.to_owned(),
            size,
        })
    }
}

/// Takes away what nobody has added to for long. Returns the paths.
pub fn sweep(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(FOLDER));
    let old = |path: &Path| {
        let touched = std::fs::metadata(path).and_then(|m| m.modified()).ok()?;
        let age = SystemTime::now().duration_since(touched).ok()?;
        (age > AGE_MAX).then_some(())
    };
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| old(path).is_some() && std::fs::remove_file(path).is_ok())
        .map(|path| path.display().to_string())
        .collect()
}
