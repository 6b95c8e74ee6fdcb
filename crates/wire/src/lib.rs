//! The Docker Engine API over HTTP/1.1: listeners, routes, JSON, API versions, hijacked streams. The only crate that knows
//! Docker's shapes; it asks the engine and prints what it says.
//!
//! A handler is `async fn(Request) -> Result<Response>`, named in one line of [`table`]. It returns the model's `Error`
//! for everything that fails before its answer begins; [`error`] turns that into a status. Streams come from
//! [`response::Response::stream`], hijacked connections from [`stream::hijack::Hijack`].

mod connection;
mod containers;
mod dispatch;
mod dto;
pub mod error;
mod events;
mod exec;
pub mod filters;
mod images;
pub mod json;
mod networks;
pub mod query;
pub mod request;
pub mod response;
mod route;
pub mod server;
pub mod stream;
mod swarm;
mod system;
mod table;
pub mod time;
pub mod version;
mod volumes;

#[cfg(test)]
mod tests;

pub use server::{Listener, serve};
