//! Image garbage collection by disk pressure: off unless `image-gc` in daemon.json sets its marks.
//!
//! Nothing polls: the file system is looked at when an event may have filled it (an image came, a container ended), at most
//! every few seconds. Above the high mark, images that nobody uses go, the least recently used first, until what they
//! give back brings the file system below the low mark.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use longshore_model::{Error, Result, Timestamp, config::ImageGc};
use longshore_store::{
    Batch, Durability, Table,
    images::{Image, NamedTag},
};

use super::image_event;
use crate::{Engine, Inner};

/// Two looks at the file system are so far apart.
const PAUSE: Duration = Duration::from_secs(5);
/// Where the times of use are kept (Meta table).
const USED: &str = "images-used";
/// The image of the engine itself would be made again at the next start.
const OWN: &str = "longshore/hello:latest";

/// When images were used last, in nanoseconds since the epoch.
#[derive(Default)]
pub(crate) struct LastUse {
    times: Mutex<HashMap<String, i64>>,
}

impl LastUse {
    /// An image is used now.
    pub(crate) fn note(&self, id: &str) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert(id.to_owned(), Timestamp::now().0);
    }

    fn of(&self, id: &str) -> i64 {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(id).copied().unwrap_or(0)
    }

    /// Takes over what an earlier daemon knew.
    fn restore(&self, bytes: &[u8]) {
        let read: HashMap<String, i64> = serde_json::from_slice(bytes).unwrap_or_default();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, time) in read {
            let own = times.entry(id).or_insert(time);
            *own = (*own).max(time);
        }
    }

    /// As a record, without the images that are gone.
    fn record(&self, keep: impl Fn(&str) -> bool) -> Vec<u8> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.retain(|id, _| keep(id));
        serde_json::to_vec(&*times).unwrap_or_default()
    }
}

/// What a file system has, in bytes.
#[derive(Clone, Copy, Debug)]
struct Room {
    total: u64,
    used: u64,
}

impl Room {
    /// As `df` counts: without what only root may fill.
    fn of(path: &std::path::Path) -> Result<Self> {
        let found = rustix::fs::statvfs(path)
            .map_err(|e| Error::io(format_args!("statfs {}", path.display()), e))?;
        let used = (found.f_blocks - found.f_bfree).saturating_mul(found.f_frsize);
        Ok(Self {
            total: used.saturating_add(found.f_bavail.saturating_mul(found.f_frsize)),
            used,
        })
    }

    /// Bytes above `percent` of the whole.
    fn above(&self, percent: u8) -> u64 {
        let mark = u128::from(self.total) * u128::from(percent) / 100;
        self.used
            .saturating_sub(u64::try_from(mark).unwrap_or(u64::MAX))
    }
}

impl Engine {
    /// Begins to watch, if the configuration says so.
    pub(crate) fn watch_image_pressure(&self) {
        let Some(marks) = self.inner.config.image_gc.clone() else {
            return;
        };
        let engine = self.clone();
        tokio::spawn(async move {
            if let Ok(rows) = engine.inner.store.records(Table::Meta)
                && let Some((_, bytes)) = rows.into_iter().find(|(key, _)| key == USED)
            {
                engine.inner.last_use.restore(&bytes);
            }
            let mut stuck = false;
            loop {
                match engine.relieve(&marks).await {
                    Ok(left) => {
                        if left > 0 && !stuck {
                            tracing::warn!(
                                bytes = left,
                                "the disk is fuller than image-gc wants, and no image can go"
                            );
                        }
                        stuck = left > 0;
                    }
                    Err(error) => tracing::error!("image-gc: {error}"),
                }
                tokio::select! {
                    () = engine.closing() => return,
                    () = engine.inner.hub.stirred.notified() => {}
                }
                tokio::select! {
                    () = engine.closing() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        });
    }

    /// Removes images if the file system is above the high mark. Returns the bytes that it still is above the low one, 0
    /// when all is well.
    async fn relieve(&self, marks: &ImageGc) -> Result<u64> {
        let engine = self.clone();
        let marks = marks.clone();
        crate::blocking(move || engine.relieve_now(&marks)).await
    }

    fn relieve_now(&self, marks: &ImageGc) -> Result<u64> {
        let inner = &self.inner;
        let room = Room::of(inner.store.root())?;
        if room.above(marks.high) == 0 {
            return Ok(0);
        }
        let images = inner.images();
        let mut batch = Batch::new();
        let known = inner.last_use.record(|id| images.get(id).is_some());
        batch.put(Table::Meta, USED, known);
        inner.store.commit(batch, Durability::Survives)?;
        let wanted = room.above(marks.low);
        let before = images.total_size();
        let freed = || before.saturating_sub(images.total_size());
        let mut names = Vec::new();
        for candidate in self.candidates(marks) {
            if freed() >= wanted {
                break;
            }
            names.extend(take(inner, &candidate)?);
        }
        let freed = freed();
        if !names.is_empty() {
            tracing::warn!(bytes = freed, images = ?names, "removed images: the disk is filling up");
            let mut batch = Batch::new();
            let attributes = BTreeMap::from([
                ("reclaimed".to_owned(), freed.to_string()),
                ("reason".to_owned(), "disk-pressure".to_owned()),
            ]);
            batch.event(crate::events::event("image", "prune", "", attributes));
            inner.store.commit(batch, Durability::Survives)?;
        }
        Ok(wanted.saturating_sub(freed))
    }

    /// Images that may go, the first to go first: nameless ones, then by their last use.
    fn candidates(&self, marks: &ImageGc) -> Vec<(Arc<Image>, Vec<Arc<NamedTag>>)> {
        let images = self.inner.images();
        let young = Timestamp::now().0 - i64::try_from(marks.min_age.as_nanos()).unwrap_or(0);
        let mut last_run: HashMap<String, i64> = HashMap::new();
        for snapshot in self.containers() {
            last_run.insert(snapshot.image.id.clone(), i64::MAX);
        }
        let mut found: Vec<_> = images
            .list_named()
            .into_iter()
            .filter(|(image, _)| !last_run.contains_key(image.id()))
            .filter(|(_, tags)| !tags.iter().any(|t| t.reference.familiar() == OWN))
            .filter(|(image, _)| !self.is_protected(image, &marks.keep))
            .map(|(image, tags)| {
                let given = tags.iter().map(|t| t.tag.tagged_nano).max().unwrap_or(0);
                let used = self.inner.last_use.of(image.id());
                let last = used.max(given).max(image.stored_nano);
                (!tags.is_empty(), last, image, tags)
            })
            .filter(|(_, last, ..)| *last <= young)
            .collect();
        found.sort_by_key(|a| (a.0, a.1));
        found
            .into_iter()
            .map(|(_, _, image, tags)| (image, tags))
            .collect()
    }

    /// Has it a label that keeps it? One whose configuration cannot be read is kept, too.
    fn is_protected(&self, image: &Image, keep: &[String]) -> bool {
        let Some(manifest) = image.main() else {
            return false;
        };
        let Ok(brief) = self.inner.images().brief(manifest) else {
            return true;
        };
        keep.iter().any(|label| match label.split_once('=') {
            Some((key, value)) => brief.labels.get(key).is_some_and(|v| v == value),
            None => brief.labels.contains_key(label),
        })
    }
}

/// Takes an image with all its names; nothing when somebody uses it by now.
fn take(inner: &Inner, candidate: &(Arc<Image>, Vec<Arc<NamedTag>>)) -> Result<Vec<String>> {
    let (image, tags) = candidate;
    let id = image.id();
    let mut events: Vec<_> = tags
        .iter()
        .map(|t| image_event("untag", id, &t.reference.familiar()))
        .collect();
    events.push(image_event("delete", id, id));
    let images = inner.images();
    // A name that it got since is not ours to take.
    if images.tags_of(id) != *tags {
        return Ok(Vec::new());
    }
    match images.remove(id, events) {
        Ok(()) => {
            let name = tags.first().map(|t| t.reference.familiar());
            Ok(vec![name.unwrap_or_else(|| id.to_owned())])
        }
        // Leased: a container is being made from it.
        Err(error) if error.kind == longshore_model::ErrorKind::Conflict => Ok(Vec::new()),
        Err(error) if error.kind == longshore_model::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let room = Room {
            total: 1000,
            used: 870,
        };
        assert_eq!((room.above(85), room.above(87), room.above(90)), (20, 0, 0));
        let full = Room {
            total: u64::MAX,
            used: u64::MAX,
        };
        assert!(full.above(99) > 0);
    }

    #[test]
    fn times_of_use() {
        let used = LastUse::default();
        used.note("a");
        used.restore(br#"{"a":1,"b":2,"gone":3}"#);
        assert!(used.of("a") > 1);
        assert_eq!((used.of("b"), used.of("c")), (2, 0));
        let record = used.record(|id| id != "gone");
        let again = LastUse::default();
        again.restore(&record);
        assert_eq!((again.of("b"), again.of("gone")), (2, 0));
        again.restore(b"damaged");
    }
}
