//! What the engine keeps on disk: records and the event journal (SQLite), blobs, layers, containers' directories,
//! volumes. Blocking code: callers bring their own threads. The layout is in docs/decisions/0003-store-layout.md.

mod containers;
pub mod durable;
mod embedded;
mod fsck;
mod housekeeper;
pub mod images;
mod lock;
mod records;
mod store;
mod trash;
mod usage;
mod volume_mount;
mod volumes;

pub use containers::{ContainerDirs, Containers};
pub use embedded::HELLO;
pub use fsck::Finding;
pub use images::{Images, Lease};
pub use records::{Batch, Durability, EventRange, NewEvent, Quarantined, Table};
pub use store::{OpenReport, Store};
pub use volumes::{VolumeMount, Volumes};

use longshore_tarball as tarball;
