//! The words of the crate's interface.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// Transport protocol of a published port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp`, `sctp`, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An IPv4 or IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subnet {
    /// Host bits are zero.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
}

impl Subnet {
    /// The network that `address` with this prefix length is in.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(prefix.min(32)))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(prefix.min(128)))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        };
        Self { address, prefix }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self::of(address, self.prefix).address == self.address
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        if self.prefix <= other.prefix {
            self.contains(other.address)
        } else {
            other.contains(self.address)
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A bridge as it is wanted.
#[derive(Clone, Debug)]
pub struct BridgeSpec {
    /// Name of the link, at most 15 bytes.
    pub name: String,
    /// Address and prefix length of the bridge (`--bip`); without it an existing address is kept, or a free pool chosen.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Bytes; 0 leaves the kernel's default.
    pub mtu: u32,
    /// Traffic that leaves the bridge gets the host's address.
    pub masquerade: bool,
    /// Containers of the bridge may talk to each other.
    pub icc: bool,
    /// IPv6 address of the bridge and prefix length; None: containers have no IPv6.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Containers have no IPv4: `address` is not looked at.
    pub no_ipv4: bool,
    /// Parts of the subnets that containers' addresses are taken from; at most one a family.
    pub ranges: Vec<Subnet>,
    /// Addresses that no container gets.
    pub reserved: Vec<IpAddr>,
    /// Nothing leaves the bridge and nothing from outside gets in; containers have no gateway.
    pub internal: bool,
    /// IPv4 and IPv6.
    pub modes: [GatewayMode; 2],
    /// Where ports without a host address are published; None: as the engine is set up.
    pub host_ip: Option<IpAddr>,
    /// What marks the link as made for this purpose: `made by <engine>` and, if this is not empty, a colon and this.
    pub purpose: String,
}

impl Default for BridgeSpec {
    fn default() -> Self {
        Self {
            name: "docker0".to_owned(),
            address: None,
            mtu: 1500,
            masquerade: true,
            icc: true,
            ipv6: None,
            no_ipv4: false,
            ranges: Vec::new(),
            reserved: Vec::new(),
            internal: false,
            modes: [GatewayMode::Nat; 2],
            host_ip: None,
            purpose: String::new(),
        }
    }
}

/// How a bridge's containers and the world outside see each other, for one family
/// (`com.docker.network.bridge.gateway_mode_ipv4`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Ports are published on the host; what leaves gets the host's address.
    #[default]
    Nat,
    /// As `Nat`, and every port of a container can be reached by its own address.
    NatUnprotected,
    /// Published ports are reached by the container's own address, nothing is translated.
    Routed,
    /// The bridge has no address: the host is not on this network. Internal networks only.
    Isolated,
}

impl GatewayMode {
    /// Published ports are host ports, and what leaves is masqueraded.
    pub fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::NatUnprotected)
    }
}

/// Addresses of a network as they are wanted: whatever is missing is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedPool {
    pub subnet: Option<Subnet>,
    pub range: Option<Subnet>,
    pub gateway: Option<IpAddr>,
    /// Addresses that no container gets.
    pub reserved: Vec<IpAddr>,
}

/// Addresses of a network as they were decided; stored with the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    pub subnet: Subnet,
    pub range: Option<Subnet>,
    pub gateway: IpAddr,
    pub reserved: Vec<IpAddr>,
}

/// A bridge as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// ifindex.
    pub index: u32,
    pub name: String,
    pub subnet: Option<Subnet>,
    /// The bridge's own address, the containers' default gateway.
    pub gateway: Option<IpAddr>,
    pub subnet6: Option<Subnet>,
    pub gateway6: Option<IpAddr>,
    pub mtu: u32,
    /// An engine of this kind made the link (it carries our alias); it goes away with `shutdown(true)`.
    pub made: bool,
}

/// A container's place on a bridge; kept in the container's record and given back to `adopt` after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hex digits.
    pub endpoint_id: String,
    pub bridge: String,
    pub bridge_index: u32,
    /// Host end of the veth pair: `veth` and seven hex digits.
    pub host_name: String,
    /// IPv4.
    pub ip: Option<IpAddr>,
    /// Prefix length of `ip`.
    pub prefix: u8,
    /// None on networks that lead nowhere.
    pub gateway: Option<IpAddr>,
    #[serde(default)]
    pub ip6: Option<Ipv6Addr>,
    #[serde(default)]
    pub prefix6: u8,
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// The host end must be an isolated bridge port (icc is off).
    #[serde(default)]
    pub isolated: bool,
    /// Who asked for it; the same owner always means the same container.
    #[serde(default)]
    pub owner: String,
    /// Name of the interface in the container.
    #[serde(default = "first_interface")]
    pub interface: String,
    /// The container has no veth pair but a link on top of another: macvlan and ipvlan.
    #[serde(default)]
    pub stacked: Option<Stacked>,
}

fn first_interface() -> String {
    "eth0".to_owned()
}

/// A link that is stacked on one of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stacked {
    /// `macvlan`, `ipvlan`
    pub kind: String,
    /// The kernel's number of the mode.
    pub mode: u32,
    /// ipvlan only: `bridge` 0, `private` 1, `vepa` 2.
    pub flags: u16,
    /// ifindex of the host's link, looked up for each endpoint; 0 in the description of a network.
    pub parent: u32,
    /// Name of the host's link.
    #[serde(default)]
    pub on: String,
}

impl Stacked {
    /// ipvlan in a layer 3 mode: nobody asks for neighbours there, the default route has no gateway.
    pub fn is_layer3(&self) -> bool {
        self.kind == "ipvlan" && self.mode != 0
    }
}

impl Endpoint {
    /// IPv4 and IPv6 addresses with their prefix lengths.
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let four = self.ip.map(|ip| (ip, self.prefix));
        let six = self.ip6.map(|ip| (IpAddr::V6(ip), self.prefix6));
        four.into_iter().chain(six).collect()
    }

    /// `aa:bb:cc:dd:ee:ff`
    pub fn mac_text(&self) -> String {
        let hex: Vec<String> = self.mac.iter().map(|b| format!("{b:02x}")).collect();
        hex.join(":")
    }
}

/// A port that a container wants published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortBinding {
    pub proto: Protocol,
    pub container_port: u16,
    /// None: every address of the host, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// 0: any free one of the ephemeral range.
    pub host_port: u16,
    /// Last port of a range of which the first free one is taken; equal to `host_port` (or 0) for a single port.
    pub host_port_end: u16,
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub proto: Protocol,
    pub container_port: u16,
    pub host_ip: IpAddr,
    pub host_port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        let net = |text: &str, prefix| Subnet::of(text.parse().expect("address"), prefix);
        assert_eq!(net("172.17.5.9", 16).to_string(), "172.17.0.0/16");
        assert_eq!(net("1.2.3.4", 0).to_string(), "0.0.0.0/0");
        assert_eq!(net("1.2.3.4", 32).to_string(), "1.2.3.4/32");
        assert_eq!(net("fd00::1:2", 64).to_string(), "fd00::/64");
        assert!(net("172.17.0.0", 16).overlaps(&net("172.17.9.0", 24)));
        assert!(net("172.17.9.0", 24).overlaps(&net("172.17.0.0", 16)));
        assert!(!net("172.17.0.0", 16).overlaps(&net("172.18.0.0", 16)));
        assert!(!net("::", 0).overlaps(&net("172.18.0.0", 16)));
    }
}
