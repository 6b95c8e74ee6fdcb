//! The container's log: written by the shim, read by the daemon.

mod encode;
pub mod json_file;
mod lines;
pub mod reader;
mod rotate;
pub mod watch;

pub use json_file::JsonFile;
pub use reader::{LogEntry, LogReader, ReadOptions};
pub use watch::LogWatch;

use crate::stdio::Stream;

/// Where a container's output is kept.
pub enum LogSink {
    None,
    JsonFile(Box<JsonFile>),
}

impl LogSink {
    /// Takes what the container wrote. Nothing reaches the disk before [`Self::flush`].
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if let Self::JsonFile(log) = self {
            log.push(stream, bytes);
        }
    }
    /// Writes all that is whole.
    pub fn flush(&mut self) {
        if let Self::JsonFile(log) = self {
            log.flush();
        }
    }
    /// Writes unfinished lines too: the container has ended.
    pub fn finish(&mut self) {
        if let Self::JsonFile(log) = self {
            log.finish();
        }
    }
    /// Something to tell the operator, once each.
    pub fn take_warning(&mut self) -> Option<String> {
        match self {
            Self::None => None,
            Self::JsonFile(log) => log.take_warning(),
        }
    }
}
