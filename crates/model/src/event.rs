//! What happened to an object, as the journal keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One entry of the event journal (Docker's `events.Message`, without its JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the journal; grows by one, never reused.
    pub seq: u64,
    /// `container`, `image`, `volume`, `network`, `daemon`.
    pub kind: String,
    /// `create`, `start`, `exec_create: sh -c x`, ...
    pub action: String,
    /// Id or name of the object.
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch; never goes back within a journal.
    pub time_nano: i64,
}
