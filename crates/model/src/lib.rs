//! Words that every part of the engine shares: ids, errors, mounts, signals, references, events.
//! Pure: no I/O but the random numbers behind a new id.

pub mod config;
pub mod error;
pub mod event;
pub mod id;
pub mod mount;
pub mod port;
pub mod reference;
pub mod signal;
pub mod time;

pub use error::{Error, ErrorKind, Result};
pub use event::Event;
pub use id::ContainerId;
pub use reference::Reference;
pub use time::Timestamp;
