//! Unpacked layers: `layers/<name>`, one overlay lower directory each.
//!
//! The name is the diff id's hex digits. A layer that leaves the owner and mode of some directories to the layers below
//! gets them copied, and then also carries its parents' chain id in its name, because it only fits on top of them.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use longshore_model::{Error, Result, error::go_errno};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{merged, record::LayerRecord};
use crate::{
    tarball::{
        codec::{Hashing, decompress, digest},
        reader::TarReader,
        unpack::{Limits, Unpacked, unpack},
    },
    usage,
};

/// Size of the pieces that go from the thread that inflates to the one that writes.
const PIECE: usize = 256 * 1024;
const PIECES_AHEAD: usize = 8;

/// A layer that has been unpacked in a work folder.
pub struct Fresh {
    pub path: PathBuf,
    /// Name below `layers/`.
    pub name: String,
    pub record: LayerRecord,
}

/// A layer that has been unpacked without a look at those below it.
pub struct Prepared {
    path: PathBuf,
    diff_id: String,
    unpacked: Unpacked,
}

/// Unpacks the blob below `work`. `lower`: the layers below it, topmost first; `parent_chain`: their chain id, empty for none.
pub fn unpack_blob(
    blob: File,
    diff_id: &str,
    lower: &[PathBuf],
    parent_chain: &str,
    work: &Path,
) -> Result<Fresh> {
    prepare(blob, diff_id, work)?.finish(lower, parent_chain)
}

/// Unpacks a blob below `work`.
pub fn prepare(blob: impl Read + Send, diff_id: &str, work: &Path) -> Result<Prepared> {
    let fail = |e: io::Error| fail(diff_id, &e);
    let name = format!("layer-{}", &longshore_model::id::random_hex()[..16]);
    let (path, gone) = (work.join(&name), work.join(format!("{name}-gone")));
    for folder in [&path, &gone] {
        std::fs::create_dir(folder).map_err(fail)?;
    }
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o755)).map_err(|e| fail(e.into()))?;
    let root = open_directory(&path).map_err(fail)?;
    let gone = open_directory(&gone).map_err(fail)?;
    let (unpacked, found) = inflate_and_unpack(blob, root, &gone).map_err(fail)?;
    if found != diff_id {
        return Err(Error::invalid(format!(
            "wrong diff id calculated on extraction {found:?}, expected {diff_id:?}"
        )));
    }
    Ok(Prepared {
        path,
        diff_id: diff_id.to_owned(),
        unpacked,
    })
}

fn fail(diff_id: &str, error: &io::Error) -> Error {
    Error::system(format!(
        "failed to extract layer {diff_id}: {}",
        go_errno(error)
    ))
}

impl Prepared {
    /// Fits it onto the layers below.
    pub fn finish(self, lower: &[PathBuf], parent_chain: &str) -> Result<Fresh> {
        let dependent = !self.unpacked.implied.is_empty() && !lower.is_empty();
        if dependent {
            inherit(&self.path, &self.unpacked, lower).map_err(|e| fail(&self.diff_id, &e))?;
        }
        let usage = usage::measure(&self.path)?;
        let chain = if dependent { parent_chain } else { "" };
        Ok(Fresh {
            name: folder_name(&self.diff_id, chain),
            path: self.path,
            record: LayerRecord {
                allocated: usage.allocated,
                apparent: usage.apparent,
                inodes: usage.inodes,
            },
        })
    }
}

/// Name of a layer's folder; `parent_chain` empty: it fits on anything.
pub fn folder_name(diff_id: &str, parent_chain: &str) -> String {
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    match parent_chain {
        "" => hex(diff_id),
        chain => format!("{}-{}", hex(diff_id), &hex(chain)[..16]),
    }
}

/// The OCI chain id of a layer on top of others.
pub fn chain_id(parent_chain: &str, diff_id: &str) -> String {
    match parent_chain {
        "" => diff_id.to_owned(),
        parent => digest(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// One thread reads, inflates and digests, this one writes files.
fn inflate_and_unpack(
    blob: impl Read + Send,
    root: OwnedFd,
    gone: &OwnedFd,
) -> io::Result<(Unpacked, String)> {
    let (sender, receiver) = sync_channel(PIECES_AHEAD);
    std::thread::scope(|scope| {
        let inflating = std::thread::Builder::new()
            .name("store-inflate".to_owned())
            .spawn_scoped(scope, move || inflate(blob, &sender))?;
        let mut tar = TarReader::new(Pieces {
            receiver,
            piece: Vec::new(),
            at: 0,
            failed: false,
        });
        // Reading to the end even past the archive's: the digest is of the whole stream.
        let unpacked = unpack(&mut tar, root, gone, Limits::default())
            .and_then(|unpacked| tar.drain().map(|()| unpacked));
        let digest = inflating
            .join()
            .map_err(|_| io::Error::other("layer could not be inflated"))?;
        // When writing failed, inflating was cut off: the first cause is what counts.
        let unpacked = unpacked?;
        Ok((unpacked, digest?))
    })
}

fn inflate(blob: impl Read + Send, pieces: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<String> {
    let (_, reader) = match decompress(blob) {
        Ok(opened) => opened,
        Err(error) => {
            let copy = io::Error::new(error.kind(), error.to_string());
            let _ = pieces.send(Err(copy));
            return Err(error);
        }
    };
    let mut reader = Hashing::new(reader);
    loop {
        let mut piece = vec![0u8; PIECE];
        let mut filled = 0;
        while filled < PIECE {
            match reader.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let copy = io::Error::new(e.kind(), e.to_string());
                    let _ = pieces.send(Err(copy));
                    return Err(e);
                }
            }
        }
        piece.truncate(filled);
        // The writer has given up when it does not listen any more.
        if filled == 0 || pieces.send(Ok(piece)).is_err() {
            return Ok(reader.finish().0);
        }
    }
}

/// The reading end of the pieces.
struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    failed: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(Ok(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                Err(_) if self.failed => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Directories that the archive does not describe get what the layers below say.
fn inherit(path: &Path, unpacked: &Unpacked, lower: &[PathBuf]) -> io::Result<()> {
    let root = open_directory(path)?;
    for implied in &unpacked.implied {
        let Some(found) = merged::directory(lower, implied) else {
            continue;
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(implied);
        let folder = longshore_sys::resolve::open(&root, name, flags, resolve)?;
        merged::copy_attributes(&found, &folder)?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let a = digest(b"a");
        let b = digest(b"b");
        assert_eq!(folder_name(&a, ""), a[7..]);
        assert_eq!(folder_name(&a, &b), format!("{}-{}", &a[7..], &b[7..23]));
        assert_eq!(chain_id("", &a), a);
        assert_eq!(chain_id(&a, &b), digest(format!("{a} {b}").as_bytes()));
    }
}
