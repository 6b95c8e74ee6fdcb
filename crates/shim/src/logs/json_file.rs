//! The writer of a json-file log. Output is collected during one turn of the shim's loop and written by one call at its end.
//! A disk that is full or broken never stops the container: lines are dropped, counted and reported.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use longshore_model::{Timestamp, error::go_errno};

use super::{
    encode::{self, Clock},
    lines::{Lines, Piece},
    rotate::{self, Compressing},
};
use crate::stdio::Stream;

/// Collected bytes are written early when they grow over this.
const PENDING_LIMIT: usize = 64 << 10;

/// Rotation of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    /// Bytes a file; 0 never rotates.
    pub max_size: u64,
    /// Files kept, the current one included; 1 at least.
    pub max_file: u32,
    pub compress: bool,
}

/// One container's log.
pub struct JsonFile {
    path: PathBuf,
    file: File,
    /// Bytes in `file`.
    size: u64,
    rotation: Rotation,
    attrs: String,
    lines: [Lines; 2],
    clock: Clock,
    pending: Vec<u8>,
    /// Where entries end in `pending`.
    ends: Vec<usize>,
    /// The file ends inside an entry that could not be cut off again.
    torn: bool,
    trouble: Trouble,
    compressing: Option<Compressing>,
}

/// What could not be written.
#[derive(Default)]
struct Trouble {
    dropped: u64,
    failing: bool,
    warning: Option<String>,
}

impl JsonFile {
    /// Opens or makes the log; what it holds is kept.
    pub fn open(path: &Path, rotation: Rotation, attrs: String) -> io::Result<Self> {
        let (file, size) = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            rotation,
            attrs,
            lines: Default::default(),
            clock: Clock::default(),
            pending: Vec::new(),
            ends: Vec::new(),
            torn: false,
            trouble: Trouble::default(),
            compressing: None,
        })
    }

    /// Takes output of the container.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines[stream.index()]);
        lines.push(
            bytes,
            || Timestamp::now().0,
            |piece| self.append(stream, &piece),
        );
        self.lines[stream.index()] = lines;
    }

    /// The container's output has ended: unfinished lines are entries without newline, then all is written.
    pub fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut lines = std::mem::take(&mut self.lines[stream.index()]);
            lines.finish(|| Timestamp::now().0, |piece| self.append(stream, &piece));
        }
        self.flush();
        if let Some(mut compressing) = self.compressing.take() {
            compressing.wait();
        }
    }

    fn append(&mut self, stream: Stream, piece: &Piece<'_>) {
        let limit = self.rotation.max_size;
        if limit > 0 && self.size + self.pending.len() as u64 >= limit {
            self.flush();
            // Somebody may have emptied the file.
            self.size = self.file.metadata().map_or(self.size, |m| m.len());
            if self.size >= limit {
                self.rotate();
            }
        } else if self.pending.len() > PENDING_LIMIT {
            self.flush();
        }
        encode::entry(
            &mut self.pending,
            &mut self.clock,
            stream,
            piece.text,
            piece.whole,
            &self.attrs,
            piece.time_nano,
        );
        self.ends.push(self.pending.len());
    }

    /// Writes what was collected.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let ends = std::mem::take(&mut self.ends);
        let (written, result) = self.write(&pending);
        self.size += written as u64;
        let kept = ends.partition_point(|&end| end <= written);
        let border = if kept == 0 { 0 } else { ends[kept - 1] };
        if border < written {
            self.cut_off((written - border) as u64);
        }
        self.account((ends.len() - kept) as u64, result);
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        if self.torn {
            // Ends the broken entry, which readers pass over.
            if let Err(error) = self.file.write_all(b"\n") {
                return (0, Err(error));
            }
            self.size += 1;
            self.torn = false;
        }
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Takes the beginning of an entry away from the end of the file.
    fn cut_off(&mut self, bytes: u64) {
        let length = self.file.metadata().map(|m| m.len());
        let cut = length.and_then(|length| {
            let target = length.saturating_sub(bytes);
            self.file.set_len(target).map(|()| target)
        });
        match cut {
            Ok(length) => self.size = length,
            Err(_) => self.torn = true,
        }
    }

    fn account(&mut self, dropped: u64, result: io::Result<()>) {
        let trouble = &mut self.trouble;
        trouble.dropped += dropped;
        match result {
            Err(error) if !trouble.failing => {
                trouble.failing = true;
                trouble.warning = Some(format!(
                    "cannot write log {}: {}: output is dropped until it works again",
                    self.path.display(),
                    go_errno(&error)
                ));
            }
            Err(_) => {}
            Ok(()) if trouble.failing => {
                trouble.failing = false;
                trouble.warning = Some(format!(
                    "log {} is written again: {} entries were dropped",
                    self.path.display(),
                    std::mem::take(&mut trouble.dropped)
                ));
            }
            Ok(()) => {}
        }
    }

    fn rotate(&mut self) {
        if let Some(mut compressing) = self.compressing.take() {
            compressing.wait();
        }
        let rotation = self.rotation;
        let opened = rotate::rotate(&self.path, rotation.max_file).and_then(|()| open(&self.path));
        match opened {
            Ok((file, size)) => {
                self.file = file;
                self.size = size;
                self.torn = false;
            }
            // The log goes on in the old file; the next line tries again.
            Err(error) => self.account(0, Err(error)),
        }
        if rotation.compress && rotation.max_file > 1 {
            match Compressing::start(&self.path) {
                Ok(compressing) => self.compressing = Some(compressing),
                Err(error) => self.account(0, Err(error)),
            }
        }
    }

    /// True while output cannot be written.
    pub fn failing(&self) -> bool {
        self.trouble.failing
    }

    /// Trouble to report, once each time it begins or ends.
    pub fn take_warning(&mut self) -> Option<String> {
        self.trouble.warning.take()
    }
}

/// Docker's mode for logs is 0640.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}
