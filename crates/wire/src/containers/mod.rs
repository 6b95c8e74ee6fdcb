//! The container endpoints, one file a group of verbs. `exec` uses the same pump as attach.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod create;
pub(crate) mod detach;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod pump;
mod socket;
pub(crate) mod stats;
pub(crate) mod top;
pub(crate) mod update;
mod view;
