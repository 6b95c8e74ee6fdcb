//! The container's log: written by the shim, read by the daemon.

mod encode;
pub mod json_file;
mod lines;
mod message;
pub mod reader;
pub mod remote;
mod rotate;
pub mod watch;

use std::{io, time::Instant};

pub use json_file::JsonFile;
pub use reader::{LogEntry, LogReader, ReadOptions};
pub use remote::Remote;
use rustix::event::epoll::EventFlags;
pub use watch::LogWatch;

use crate::stdio::Stream;

/// Where a container's output is kept: in a file, with another program, both or nowhere.
#[derive(Default)]
pub struct LogSink {
    pub file: Option<Box<JsonFile>>,
    pub remote: Option<Box<Remote>>,
}

/// Something to tell the operator.
pub struct Trouble {
    pub text: String,
    /// Output is lost or held up; false: it works again.
    pub failing: bool,
}

impl LogSink {
    /// Takes what the container wrote. Nothing reaches the disk before [`Self::flush`].
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut self.file {
            log.push(stream, bytes);
        }
        if let Some(log) = &mut self.remote {
            log.push(stream, bytes);
        }
    }
    /// Writes all that is whole, and waits for what has to be waited for.
    ///
    /// # Errors
    /// epoll's.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        if let Some(log) = &mut self.file {
            log.flush();
        }
        if let Some(log) = &mut self.remote {
            log.flush(now);
            log.arm()?;
        }
        Ok(())
    }
    /// Writes unfinished lines too: the container has ended.
    pub fn finish(&mut self, now: Instant) {
        if let Some(log) = &mut self.file {
            log.finish();
        }
        if let Some(log) = &mut self.remote {
            log.finish(now);
        }
    }
    pub fn on_event(&mut self, flags: EventFlags, now: Instant) {
        if let Some(log) = &mut self.remote {
            log.on_event(flags, now);
        }
    }
    pub fn on_time(&mut self, now: Instant) {
        if let Some(log) = &mut self.remote {
            log.on_time(now);
        }
    }
    pub fn deadline(&self) -> Option<Instant> {
        self.remote.as_ref().and_then(|log| log.deadline())
    }
    /// True when the container's output has to wait.
    pub fn full(&self) -> bool {
        self.remote.as_ref().is_some_and(|log| log.full())
    }
    /// True when nothing waits to be sent.
    pub fn idle(&self) -> bool {
        self.remote.as_ref().is_none_or(|log| log.idle())
    }
    /// Something to tell the operator, once each.
    pub fn take_trouble(&mut self) -> Option<Trouble> {
        let file = self
            .file
            .as_mut()
            .and_then(|log| log.take_warning().map(|text| (text, log.failing())));
        let remote = || self.remote.as_mut().and_then(|log| log.take_warning());
        file.or_else(remote)
            .map(|(text, failing)| Trouble { text, failing })
    }
}
