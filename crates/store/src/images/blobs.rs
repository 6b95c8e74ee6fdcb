//! Content by digest: `blobs/sha256/<hex>`. A file there is whole and its name is its digest.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use longshore_model::{Error, Result, reference::check_digest};

use crate::tarball::codec::Hashing;

/// Manifests, indexes and configurations are read into memory: at most so much of them.
const DOCUMENT_MAX: u64 = 8 << 20;
/// Bytes between two looks at the free space.
pub const LOOK_EVERY: u64 = 64 << 20;
/// Bytes that stay free for the engine's own state.
const RESERVE: u64 = 64 << 20;

/// The blobs of a data root.
#[derive(Clone, Debug)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    pub fn new(data_root: &Path) -> Self {
        Self {
            folder: data_root.join("blobs/sha256"),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &str) -> Result<PathBuf> {
        check_digest(digest)?;
        match digest.strip_prefix("sha256:") {
            Some(hex) => Ok(self.folder.join(hex)),
            None => Err(Error::invalid("unsupported digest algorithm")),
        }
    }

    pub fn has(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.exists())
    }

    pub fn open(&self, digest: &str) -> Result<File> {
        let path = self.path(digest)?;
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::not_found(format!("content digest {digest}: not found"))
            }
            _ => Error::io(format_args!("open {}", path.display()), e),
        })
    }

    /// A small blob whole.
    pub fn document(&self, digest: &str) -> Result<Vec<u8>> {
        read_document(self.open(digest)?, digest)
    }
}

/// Reads a document of bounded length.
pub fn read_document(reader: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(DOCUMENT_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(format_args!("read {name}"), e))?;
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(Error::invalid(format!("{name}: document too large")));
    }
    Ok(bytes)
}

/// Content that has arrived, not yet part of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub path: PathBuf,
    pub digest: String,
    pub size: u64,
}

/// Is there room for more than what the engine itself needs?
pub fn check_room(file: &File) -> io::Result<()> {
    let room = rustix::fs::fstatvfs(file)?;
    if room.f_bavail.saturating_mul(room.f_frsize) < RESERVE {
        return Err(rustix::io::Errno::NOSPC.into());
    }
    Ok(())
}

/// Writes a stream into a new file at `path`, digesting it. It is not durable yet: the caller syncs the file system once.
pub fn receive(mut from: impl Read, path: &Path) -> io::Result<Arrived> {
    let file = File::create_new(path)?;
    let mut out = Hashing::new(&file);
    let mut buffer = vec![0u8; 256 * 1024];
    let mut unlooked = LOOK_EVERY;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        out.write_all(&buffer[..got])?;
        unlooked += got as u64;
        if unlooked >= LOOK_EVERY {
            unlooked = 0;
            check_room(&file)?;
        }
    }
    let (digest, size) = out.finish();
    Ok(Arrived {
        path: path.to_owned(),
        digest,
        size,
    })
}
