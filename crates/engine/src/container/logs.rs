//! Reading a container's log: straight from its files, so that neither shim nor container is asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use longshore_model::{Error, Result, Timestamp};
use longshore_shim::{
    logs::reader::{LogEntry, LogReader, ReadOptions},
    stdio::Stream,
};
use tokio::sync::{mpsc, watch};

use super::snapshot::Snapshot;
use crate::{
    Engine,
    api::{LogLine, LogsRequest},
    log_watch::Watched,
};

/// Lines read ahead of a slow client.
const READ_AHEAD: usize = 256;

impl Engine {
    /// Lines in order; the channel ends when all is read (and, with follow, the container has ended).
    ///
    /// # Errors
    /// 404; 501-like text for a driver that cannot be read.
    pub async fn container_logs(
        &self,
        name: &str,
        request: LogsRequest,
    ) -> Result<mpsc::Receiver<Result<LogLine>>> {
        let handle = self.inner.containers.find(name)?;
        let snapshot = handle.snapshot();
        // Records of an older version have the log's path only.
        let kept = if snapshot.paths.kept.is_empty() {
            &snapshot.paths.log
        } else {
            &snapshot.paths.kept
        };
        if kept.is_empty() {
            return Err(Error::not_implemented(
                "configured logging driver does not support reading",
            ));
        }
        let path = std::path::PathBuf::from(kept);
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        // Watched before the first read: what is written in between is seen.
        let watched = if request.follow {
            Some(self.inner.log_watches.watch(&path)?)
        } else {
            None
        };
        let view = handle.view.clone();
        let mut closing = self.inner.closing.subscribe();
        tokio::spawn(async move {
            let follow = Follow {
                path,
                request,
                sender: sender.clone(),
                view,
                watched,
            };
            let closed = async {
                let _ = closing.wait_for(|closed| *closed).await;
            };
            let result = tokio::select! {
                result = follow.run() => result,
                () = sender.closed() => Ok(()),
                () = closed => Ok(()),
            };
            if let Err(error) = result {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }
}

struct Follow {
    path: std::path::PathBuf,
    request: LogsRequest,
    sender: mpsc::Sender<Result<LogLine>>,
    view: watch::Receiver<Arc<Snapshot>>,
    watched: Option<Watched>,
}

impl Follow {
    async fn run(mut self) -> Result<()> {
        let options = ReadOptions {
            tail: self.request.tail,
            since_nano: self.request.since,
            until_nano: self.request.until,
            present: self.watched.is_none(),
        };
        let path = self.path.clone();
        let mut reader = crate::blocking(move || {
            LogReader::open(&path, options).map_err(|e| Error::io("open log", e))
        })
        .await?;
        loop {
            // Asked before reading: if it had ended by then, what is read now is all.
            let ended = !self.view.borrow_and_update().state.running();
            if let Some(watched) = self.watched.as_mut() {
                watched.changed.mark_unchanged();
            }
            loop {
                let (back, entries) = crate::blocking(move || {
                    let mut entries = Vec::new();
                    while entries.len() < READ_AHEAD {
                        match reader.next().map_err(|e| Error::io("read log", e))? {
                            Some(entry) => entries.push(entry),
                            None => break,
                        }
                    }
                    Ok((reader, entries))
                })
                .await?;
                reader = back;
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    if self.wanted(&entry) && self.sender.send(Ok(line(entry))).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if self.watched.is_none() || ended || self.past_until() || reader.ended() {
                return Ok(());
            }
            self.wait().await;
        }
    }

    fn past_until(&self) -> bool {
        self.request
            .until
            .is_some_and(|until| until <= Timestamp::now().0)
    }

    /// Until the file changes, the container ends, or `until` is reached.
    async fn wait(&mut self) {
        let until = self
            .request
            .until
            .map_or(i64::MAX, |until| until.saturating_sub(Timestamp::now().0));
        let limit = Duration::from_nanos(u64::try_from(until).unwrap_or(0))
            .min(Duration::from_secs(86_400));
        let changed = async {
            match self.watched.as_mut() {
                Some(watched) => watched.changed.changed().await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            // An error means removed: what was written is read once more, and then it has ended.
            _ = self.view.changed() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    fn wanted(&self, entry: &LogEntry) -> bool {
        match entry.stream {
            Stream::Stderr => self.request.stderr,
            Stream::Stdout => self.request.stdout,
        }
    }
}

fn line(entry: LogEntry) -> LogLine {
    let attrs: BTreeMap<String, String> = entry.attrs;
    LogLine {
        stderr: entry.stream == Stream::Stderr,
        time: Timestamp(entry.time_nano),
        line: entry.line,
        attrs,
    }
}
