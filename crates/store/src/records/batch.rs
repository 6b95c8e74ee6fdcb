//! What is written together.

use std::collections::BTreeMap;

/// A kind of record. Keys are ids or names, values are bytes that only the owner of the kind understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Container,
    Exec,
    Image,
    Tag,
    Layer,
    Network,
    Volume,
    Meta,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::Container,
        Self::Exec,
        Self::Image,
        Self::Tag,
        Self::Layer,
        Self::Network,
        Self::Volume,
        Self::Meta,
    ];
    /// The table's name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Exec => "exec",
            Self::Image => "image",
            Self::Tag => "tag",
            Self::Layer => "layer",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Meta => "meta",
        }
    }
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// How safe a commit must be before `done` is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: survives a power cut. Costs an fdatasync (0.1 ms on a VM, up to 10 ms on a disk).
    Durable,
    /// In the kernel: survives kill -9 of the daemon. A power cut may lose the last of these, never half of one.
    Survives,
}

/// An event to be; the writer gives it its place in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvent {
    pub kind: String,
    pub action: String,
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch; 0: the time of the commit. Raised where the journal is already further.
    pub time_nano: i64,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Table, String, Vec<u8>),
    Delete(Table, String),
    Quarantine(Table, String, String),
}

/// Changes of records and their events: all of it is kept, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) ops: Vec<Op>,
    pub(crate) events: Vec<NewEvent>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds or replaces a record.
    pub fn put(
        &mut self,
        table: Table,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.ops.push(Op::Put(table, key.into(), value.into()));
        self
    }
    /// Takes a record away; one that is not there is no error.
    pub fn delete(&mut self, table: Table, key: impl Into<String>) -> &mut Self {
        self.ops.push(Op::Delete(table, key.into()));
        self
    }
    pub fn event(&mut self, event: NewEvent) -> &mut Self {
        self.events.push(event);
        self
    }
    pub(crate) fn quarantine(
        &mut self,
        table: Table,
        key: impl Into<String>,
        reason: impl Into<String>,
    ) -> &mut Self {
        self.ops
            .push(Op::Quarantine(table, key.into(), reason.into()));
        self
    }
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.events.is_empty()
    }
}
