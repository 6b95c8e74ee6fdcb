//! Containers: what they are (`spec`), where they stand (`phase`, `snapshot`), and one file a verb.

pub mod phase;
pub mod snapshot;
pub mod spec;
