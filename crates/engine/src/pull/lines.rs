//! What a pull or push says while it works.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_store::images::manifest::Descriptor;
use tokio::sync::mpsc;

use super::layer::{Phase, Shared, Waiting};

/// The bar of a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Detail {
    /// A plain message.
    #[default]
    None,
    /// A layer's line without numbers.
    Empty,
    /// The same, for a step that is done.
    Done,
    Bytes {
        current: u64,
        total: u64,
    },
    Seconds(u64),
    /// The image could not be pushed whole: its index, and the manifest that was pushed instead.
    InsteadOfIndex(Box<(Descriptor, Descriptor)>),
}

/// One line of progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    pub id: String,
    pub status: String,
    pub detail: Detail,
}

impl Line {
    pub fn new(id: &str, status: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            status: status.into(),
            detail: Detail::None,
        }
    }

    /// A line about a blob.
    pub fn layer(digest: &str, status: impl Into<String>, detail: Detail) -> Self {
        Self {
            id: short(digest),
            status: status.into(),
            detail,
        }
    }
}

/// Twelve digits of a digest, as Docker shows layers.
fn short(digest: &str) -> String {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    hex.get(..12).unwrap_or(hex).to_owned()
}

/// Where lines go. Nobody may be reading them.
#[derive(Clone)]
pub struct Lines(pub mpsc::Sender<Line>);

impl Lines {
    pub(crate) async fn send(&self, line: Line) {
        // A client that has gone is noticed by whoever serves it.
        let _ = self.0.send(line).await;
    }
}

/// What has been said about one layer of a pull.
pub(super) struct Shown {
    digest: String,
    shared: Option<Arc<Shared>>,
    said: Said,
    current: u64,
    when: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Said {
    Nothing,
    Downloading,
    Downloaded,
    Complete,
}

impl Shown {
    pub async fn begin(digest: &str, waiting: Option<&Waiting>, lines: &Lines) -> Self {
        let line = match waiting {
            Some(_) => Line::layer(digest, "Pulling fs layer", Detail::Empty),
            None => Line::layer(digest, "Already exists", Detail::Done),
        };
        lines.send(line).await;
        Self {
            digest: digest.to_owned(),
            shared: waiting.map(Waiting::shared),
            said: if waiting.is_some() {
                Said::Nothing
            } else {
                Said::Complete
            },
            current: 0,
            when: Instant::now(),
        }
    }

    pub fn is(&self, digest: &str) -> bool {
        self.digest == digest
    }

    /// Says what is new. True: there is more to come.
    pub async fn show(&mut self, lines: &Lines) -> bool {
        let Some(shared) = self.shared.clone() else {
            return false;
        };
        let phase = shared.phase();
        let due = self.when.elapsed() >= super::TICK;
        if matches!(phase, Phase::Downloading) && due {
            let (current, total) = (shared.current(), shared.size);
            if current != self.current {
                self.current = current;
                self.when = Instant::now();
                self.said = Said::Downloading;
                let bar = Detail::Bytes { current, total };
                self.line(lines, "Downloading", bar).await;
            }
        }
        if matches!(phase, Phase::Downloaded(_) | Phase::Ready(_)) && self.said < Said::Downloaded {
            self.said = Said::Downloaded;
            self.line(lines, "Download complete", Detail::Done).await;
            self.extracting(lines, Duration::ZERO).await;
        }
        match phase {
            Phase::Downloaded(since) if due => {
                self.extracting(lines, since.elapsed()).await;
                true
            }
            Phase::Ready(_) if self.said < Said::Complete => {
                self.said = Said::Complete;
                self.line(lines, "Pull complete", Detail::Done).await;
                false
            }
            Phase::Ready(_) | Phase::Failed(_) => false,
            _ => true,
        }
    }

    async fn extracting(&mut self, lines: &Lines, since: Duration) {
        self.when = Instant::now();
        let seconds = Detail::Seconds(since.as_secs() + 1);
        self.line(lines, "Extracting", seconds).await;
    }

    async fn line(&self, lines: &Lines, status: &str, detail: Detail) {
        lines.send(Line::layer(&self.digest, status, detail)).await;
    }
}
