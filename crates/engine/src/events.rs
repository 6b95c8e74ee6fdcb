//! The live side of the event journal: who listens, and how a listener gets backlog and live events without a gap.
//!
//! Events reach [`Hub::publish`] on the store's writer thread, in commit order, after they are on disk. A subscriber
//! registers under the hub's lock and learns up to which entry the hub has published; the backlog is read up to there.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use longshore_model::{Event, Result};
use longshore_store::{EventRange, NewEvent};
use tokio::sync::mpsc;

use crate::{
    Engine,
    api::{EventStream, EventsRequest, Filters},
};

/// Live events that a slow reader may lag behind before its stream is ended.
const READER_BUFFER: usize = 4096;
/// Entries of the journal that one subscription may ask for.
const BACKLOG_LIMIT: usize = 100_000;

#[derive(Default)]
pub(crate) struct Hub {
    state: Mutex<HubState>,
    listeners: AtomicUsize,
    /// Told after each batch of events that may have changed what the disk holds.
    pub(crate) stirred: tokio::sync::Notify,
}

#[derive(Default)]
struct HubState {
    /// Sequence number of the last event handed to live listeners.
    published: u64,
    listeners: Vec<Listener>,
    closed: bool,
}

struct Listener {
    filters: Filters,
    sender: mpsc::Sender<Event>,
}

impl Hub {
    /// What the journal held when the daemon started.
    pub(crate) fn starts_at(&self, last_seq: u64) {
        let mut state = self.lock();
        state.published = state.published.max(last_seq);
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands committed events to the listeners. Never waits: who does not read is cut off (its stream ends, it knows).
    pub(crate) fn publish(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        if events
            .iter()
            .any(|e| e.kind == "image" || e.kind == "container")
        {
            self.stirred.notify_one();
        }
        let mut state = self.lock();
        for event in events {
            state.published = state.published.max(event.seq);
            state.listeners.retain(|listener| {
                if !matches(event, &listener.filters) {
                    return !listener.sender.is_closed();
                }
                listener.sender.try_send(event.clone()).is_ok()
            });
        }
        self.listeners
            .store(state.listeners.len(), Ordering::Relaxed);
    }

    fn subscribe(&self, filters: Filters) -> (u64, Option<mpsc::Receiver<Event>>) {
        let (sender, receiver) = mpsc::channel(READER_BUFFER);
        let mut state = self.lock();
        let published = state.published;
        if state.closed {
            return (published, None);
        }
        state
            .listeners
            .retain(|listener| !listener.sender.is_closed());
        state.listeners.push(Listener { filters, sender });
        self.listeners
            .store(state.listeners.len(), Ordering::Relaxed);
        (published, Some(receiver))
    }

    /// How many clients follow the events.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// Ends all streams and refuses new live ones.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.listeners.clear();
    }
}

impl Engine {
    /// Subscribes without a gap between backlog and live events.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn events(&self, request: EventsRequest) -> Result<EventStream> {
        let now = longshore_model::Timestamp::now().0;
        let live_wanted = request.until.is_none_or(|until| until > now);
        let (published, live) = if live_wanted {
            self.inner.hub.subscribe(request.filters.clone())
        } else {
            (self.inner.store.last_seq(), None)
        };
        let mut backlog = Vec::new();
        // Without `since`, `until` in the past still shows what was before it, as dockerd does.
        if request.since.is_some() || request.until.is_some_and(|until| until <= now) {
            let range = EventRange {
                since_nano: request.since,
                until_nano: request.until,
                after_seq: None,
                limit: Some(BACKLOG_LIMIT),
            };
            let store = self.inner.store.clone();
            let read = crate::blocking(move || store.events(range)).await?;
            backlog = read
                .into_iter()
                .filter(|event| event.seq <= published && matches(event, &request.filters))
                .collect();
        }
        Ok(EventStream {
            backlog: backlog.into_iter(),
            live,
            until: request.until,
        })
    }
}

impl EventStream {
    /// The next event; None at the end.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.backlog.next() {
            return Some(event);
        }
        let live = self.live.as_mut()?;
        let Some(until) = self.until else {
            return live.recv().await;
        };
        let left = until.saturating_sub(longshore_model::Timestamp::now().0);
        let left = std::time::Duration::from_nanos(u64::try_from(left).unwrap_or(0));
        match tokio::time::timeout(left, live.recv()).await {
            Ok(event) => event,
            Err(_) => {
                self.live = None;
                None
            }
        }
    }
}

/// A new event, stamped now.
pub(crate) fn event(
    kind: &str,
    action: &str,
    actor: &str,
    attributes: BTreeMap<String, String>,
) -> NewEvent {
    NewEvent {
        kind: kind.to_owned(),
        action: action.to_owned(),
        actor: actor.to_owned(),
        attributes,
        time_nano: longshore_model::Timestamp::now().0,
    }
}

/// Docker's event filters: values of one name are alternatives, names are all needed; labels are all needed.
/// Source: moby `daemon/events/filter.go` as observed.
pub(crate) fn matches(event: &Event, filters: &Filters) -> bool {
    filters.iter().all(|(name, values)| match name.as_str() {
        "type" => values.contains(&event.kind),
        "event" => values
            .iter()
            .any(|v| *v == event.action || event.action.split(':').next() == Some(v.as_str())),
        "label" => values.iter().all(|v| match v.split_once('=') {
            Some((key, value)) => event.attributes.get(key).is_some_and(|have| have == value),
            None => event.attributes.contains_key(v),
        }),
        "scope" => values.iter().any(|v| v == "local"),
        "container" | "volume" | "network" | "daemon" | "plugin" => {
            values.iter().any(|v| names(event, v))
        }
        "image" => values.iter().any(|v| image_is(event, v)),
        _ => values.is_empty(),
    })
}

/// Id or name, or the beginning of either: dockerd's fuzzy match, which does not look at the event's kind.
fn names(event: &Event, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    event.actor.starts_with(wanted)
        || event
            .attributes
            .get("name")
            .is_some_and(|name| name.starts_with(wanted))
}

fn image_is(event: &Event, wanted: &str) -> bool {
    let own = if event.kind == "image" {
        Some(&event.actor)
    } else {
        None
    };
    let named = event.attributes.get(if event.kind == "image" {
        "name"
    } else {
        "image"
    });
    own.into_iter().chain(named).any(|have| {
        have == wanted
            || have
                .rsplit_once(':')
                .is_some_and(|(repository, tag)| !tag.contains('/') && repository == wanted)
            || wanted
                .strip_suffix(":latest")
                .is_some_and(|short| short == have)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Event {
        Event {
            seq: 1,
            kind: "container".into(),
            action: "exec_create: sh -c x".into(),
            actor: "ab".repeat(32),
            attributes: BTreeMap::from([
                ("name".into(), "web".into()),
                ("image".into(), "nginx:1".into()),
                ("a".into(), "b".into()),
            ]),
            time_nano: 1,
        }
    }

    fn filter(name: &str, value: &str) -> Filters {
        Filters::from([(name.to_owned(), vec![value.to_owned()])])
    }

    #[test]
    fn filters() {
        let event = sample();
        for (name, value, want) in [
            ("type", "container", true),
            ("type", "image", false),
            ("event", "exec_create", true),
            ("event", "exec_start", false),
            ("container", "web", true),
            ("container", "/web", true),
            ("container", "abab", true),
            ("container", "we", true),
            ("container", "eb", false),
            ("image", "nginx", true),
            ("image", "nginx:1", true),
            ("image", "ngin", false),
            ("label", "a", true),
            ("label", "a=b", true),
            ("label", "a=c", false),
        ] {
            assert_eq!(
                matches(&event, &filter(name, value)),
                want,
                "{name}={value}"
            );
        }
    }
}
