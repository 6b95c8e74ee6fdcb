//! `/images`

mod archive;
pub(crate) mod auth;
mod commit;
mod detail;
mod platform;
mod remove;
mod save;
mod search;
pub(crate) mod summary;
mod transfer;

pub(crate) use archive::{create, load};
pub(crate) use commit::commit;
pub(crate) use detail::{attestations, history, inspect};
pub(crate) use remove::{prune, remove, tag};
pub(crate) use save::{save, save_named};
pub(crate) use search::search;
pub(crate) use summary::list;
pub(crate) use transfer::{distribution, push};
