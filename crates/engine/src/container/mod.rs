//! Containers: what they are (`spec`), where they stand (`phase`, `snapshot`), who changes them (`actor`), and one file
//! a verb.

pub(crate) mod actor;
pub mod archive;
mod attach;
mod comeback;
mod connect;
mod create;
pub(crate) mod dns;
pub(crate) mod exec;
mod files;
mod gate;
pub mod health;
mod interface;
mod kill;
mod list;
mod log_values;
mod logging;
mod logs;
pub(crate) mod networking;
mod order;
mod orphan;
mod pause;
pub mod phase;
pub(crate) mod plan;
mod policy;
mod probe;
mod record;
pub(crate) mod recover;
pub(crate) mod registry;
mod remove;
mod rename;
pub mod security;
mod shim_link;
pub mod snapshot;
pub mod spec;
mod start;
mod top;
mod update;
mod wait;

pub use update::{Change, Updated};
