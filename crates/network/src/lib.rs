//! Container networks: bridges, addresses, published ports, the rules that carry them, and the name files of a container.
//!
//! Blocking code without a runtime. [`Manager`] is the way in; [`hosts`] and [`resolv`] are pure functions.

mod bridge;
mod conntrack;
pub mod dns;
mod host;
pub mod hosts;
pub mod ipam;
mod link;
mod manager;
mod nft;
mod ports;
mod relay;
pub mod resolv;
mod state;
mod types;
mod watch;

pub use manager::{Manager, ManagerConfig};
pub use types::{Bridge, BridgeSpec, Endpoint, PortBinding, Protocol, PublishedPort, Subnet};
