//! Records and the event journal: one SQLite database, one writer thread.

mod batch;
mod database;
mod journal;
mod writer;

pub use batch::{Batch, Durability, NewEvent, Table};
pub use database::Quarantined;
pub use journal::EventRange;

pub(crate) use batch::Op;
pub(crate) use database::{Database, Opened, sql_error};
pub(crate) use journal::read as read_events;
pub(crate) use writer::{Committer, Done, OnCommit, Writer};
