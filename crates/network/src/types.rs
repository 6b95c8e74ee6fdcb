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
        }
    }
}

/// A bridge as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// ifindex.
    pub index: u32,
    pub name: String,
    pub subnet: Subnet,
    /// The bridge's own address, the containers' default gateway.
    pub gateway: IpAddr,
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
    pub ip: IpAddr,
    /// Prefix length of `ip`.
    pub prefix: u8,
    pub gateway: IpAddr,
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
}

impl Endpoint {
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
