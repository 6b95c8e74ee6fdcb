//! Published ports.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A port of a container that is reachable at a port of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`
    pub protocol: String,
    pub host_ip: IpAddr,
    pub host_port: u16,
}
