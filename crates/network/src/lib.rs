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
mod moves;
mod networks;
mod nft;
mod plug;
mod ports;
mod relay;
pub mod resolv;
mod space;
mod state;
mod types;
mod undertaker;
mod watch;

pub use manager::{Manager, ManagerConfig, Wanted};
pub use networks::Retired;
pub use space::{AddressPool, default_pools, local_pool};
pub use types::{
    Bridge, BridgeSpec, Endpoint, GatewayMode, PoolPlan, PortBinding, Protocol, PublishedPort,
    Stacked, Subnet, WantedPool,
};
