//! `/images`

mod archive;
pub(crate) mod auth;
mod detail;
mod platform;
mod remove;
mod save;
pub(crate) mod summary;
mod transfer;

pub(crate) use archive::{create, load};
pub(crate) use detail::{history, inspect};
pub(crate) use remove::{prune, remove, tag};
pub(crate) use save::{save, save_named};
pub(crate) use summary::list;
