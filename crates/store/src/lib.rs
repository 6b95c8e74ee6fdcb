//! What the engine keeps on disk: records and the event journal (SQLite), blobs, layers, containers' directories,
//! volumes. Blocking code: callers bring their own threads. The layout is in docs/decisions/0003-store-layout.md.

mod housekeeper;
mod lock;
mod records;
mod store;

pub use records::{Batch, Durability, EventRange, NewEvent, Quarantined, Table};
pub use store::{OpenReport, Store};
