//! The expressions that rules are made of, and how they look on the wire.

use longshore_sys::netlink::Message;

/// A 32-bit register (`NFT_REG32_00` is 8); a value longer than four bytes goes on in the following ones.
pub type Register = u32;
/// The first data register.
pub const R0: Register = 8;
pub const R1: Register = 9;
/// Far enough from R0 for an interface name (16 bytes).
pub const R4: Register = 12;

/// What to read about a packet (enum nft_meta_keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    IifName = 6,
    OifName = 7,
    NfProto = 15,
    L4Proto = 16,
    IifKind = 26,
    OifKind = 27,
}

/// What to read about a connection (enum nft_ct_keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    State = 0,
    Status = 2,
}

/// Bits of [`Ct::State`].
pub const CT_ESTABLISHED_RELATED: u32 = 2 | 4;
/// Bit of [`Ct::Status`]: the destination was changed.
pub const CT_DNAT: u32 = 1 << 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Accept,
    Return,
    Goto(&'static str),
    Jump(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Meta(Meta, Register),
    Ct(Ct, Register),
    /// Bytes of the network header.
    Network {
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Bytes of the transport header.
    Transport {
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Goes on with the rule when the register equals (or, with `not`, differs from) these bytes.
    Cmp {
        not: bool,
        from: Register,
        data: Vec<u8>,
    },
    /// Register and mask, in place.
    And {
        register: Register,
        mask: Vec<u8>,
    },
    /// Goes on when the key in `from` is in the set; a map puts its value into `to`.
    Lookup {
        set: &'static str,
        from: Register,
        to: Option<Register>,
    },
    /// Type of the destination address (RTN_LOCAL = 2) as the routing table sees it.
    DestinationType(Register),
    /// Destination NAT to the address and port in registers; `ipv6` chooses the family.
    Dnat {
        ipv6: bool,
        address: Register,
        port: Register,
    },
    Masquerade,
    /// Loads bytes into a register.
    Value {
        to: Register,
        data: Vec<u8>,
    },
    /// Packets and bytes, from zero.
    Counter,
    Verdict(Verdict),
}

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;

impl Expr {
    /// Writes name and attributes into an open list element.
    pub fn write(&self, message: &mut Message<'_>) {
        message
            .string(NFTA_EXPR_NAME, self.name())
            .nest(NFTA_EXPR_DATA, |m| self.attributes(m));
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) => "meta",
            Self::Ct(..) => "ct",
            Self::Network { .. } | Self::Transport { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::And { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::DestinationType(_) => "fib",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Counter => "counter",
            Self::Verdict(_) | Self::Value { .. } => "immediate",
        }
    }

    /// The numbers are those of linux/netfilter/nf_tables.h.
    fn attributes(&self, m: &mut Message<'_>) {
        match self {
            Self::Meta(key, to) => {
                m.u32_be(1, *to).u32_be(2, *key as u32);
            }
            Self::Ct(key, to) => {
                m.u32_be(1, *to).u32_be(2, *key as u32);
            }
            Self::Network { offset, length, to } => {
                m.u32_be(1, *to)
                    .u32_be(2, 1)
                    .u32_be(3, *offset)
                    .u32_be(4, *length);
            }
            Self::Transport { offset, length, to } => {
                m.u32_be(1, *to)
                    .u32_be(2, 2)
                    .u32_be(3, *offset)
                    .u32_be(4, *length);
            }
            Self::Cmp { not, from, data } => {
                m.u32_be(1, *from).u32_be(2, u32::from(*not)).nest(3, |m| {
                    m.put(NFTA_DATA_VALUE, data);
                });
            }
            Self::And { register, mask } => {
                let length = u32::try_from(mask.len()).unwrap_or_default();
                m.u32_be(1, *register)
                    .u32_be(2, *register)
                    .u32_be(3, length)
                    .nest(4, |m| {
                        m.put(NFTA_DATA_VALUE, mask);
                    })
                    .nest(5, |m| {
                        m.put(NFTA_DATA_VALUE, &vec![0; mask.len()]);
                    });
            }
            Self::Lookup { set, from, to } => {
                m.string(1, set).u32_be(2, *from);
                if let Some(to) = to {
                    m.u32_be(3, *to);
                }
            }
            Self::DestinationType(to) => {
                const RESULT_ADDRTYPE: u32 = 3;
                const FLAG_DADDR: u32 = 2;
                m.u32_be(1, *to)
                    .u32_be(2, RESULT_ADDRTYPE)
                    .u32_be(3, FLAG_DADDR);
            }
            Self::Dnat {
                ipv6,
                address,
                port,
            } => {
                const NFT_NAT_DNAT: u32 = 1;
                let family = if *ipv6 { 10 } else { 2 };
                m.u32_be(1, NFT_NAT_DNAT)
                    .u32_be(2, family)
                    .u32_be(3, *address)
                    .u32_be(5, *port);
            }
            Self::Masquerade | Self::Counter => {}
            Self::Value { to, data } => {
                m.u32_be(1, *to).nest(2, |m| {
                    m.put(NFTA_DATA_VALUE, data);
                });
            }
            Self::Verdict(verdict) => {
                m.u32_be(1, 0).nest(2, |m| {
                    m.nest(NFTA_DATA_VERDICT, |m| verdict.write(m));
                });
            }
        }
    }
}

impl Verdict {
    fn write(self, m: &mut Message<'_>) {
        // Negative codes are nf_tables' own, the others netfilter's.
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3i32, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        m.put(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            m.string(2, chain);
        }
    }
}

/// One rule of a chain: all expressions must hold, left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub chain: &'static str,
    pub expressions: Vec<Expr>,
}

impl Rule {
    pub fn new(chain: &'static str) -> Self {
        Self {
            chain,
            expressions: Vec::new(),
        }
    }

    fn with(mut self, more: impl IntoIterator<Item = Expr>) -> Self {
        self.expressions.extend(more);
        self
    }

    /// Only IPv4 (or only IPv6) packets.
    pub fn family(self, ipv6: bool) -> Self {
        self.with([
            Expr::Meta(Meta::NfProto, R0),
            Expr::Cmp {
                not: false,
                from: R0,
                data: vec![if ipv6 { 10 } else { 2 }],
            },
        ])
    }

    /// The name of the incoming or outgoing interface is (not) this one.
    pub fn interface(self, which: Meta, not: bool, name: &str) -> Self {
        self.with([
            Expr::Meta(which, R0),
            Expr::Cmp {
                not,
                from: R0,
                data: interface_name(name).to_vec(),
            },
        ])
    }

    /// The name of the incoming or outgoing interface is in a set.
    pub fn interface_in(self, which: Meta, set: &'static str) -> Self {
        self.with([
            Expr::Meta(which, R0),
            Expr::Lookup {
                set,
                from: R0,
                to: None,
            },
        ])
    }

    /// Source (offset 12 / 8) or destination (16 / 24) address is in the network.
    pub fn address(self, destination: bool, subnet: &crate::Subnet) -> Self {
        let (offset, bytes) = match (subnet.address, destination) {
            (std::net::IpAddr::V4(a), false) => (12, a.octets().to_vec()),
            (std::net::IpAddr::V4(a), true) => (16, a.octets().to_vec()),
            (std::net::IpAddr::V6(a), false) => (8, a.octets().to_vec()),
            (std::net::IpAddr::V6(a), true) => (24, a.octets().to_vec()),
        };
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.family(subnet.address.is_ipv6()).with([
            Expr::Network {
                offset,
                length,
                to: R0,
            },
            Expr::And {
                register: R0,
                mask: mask(subnet.prefix, bytes.len()),
            },
            Expr::Cmp {
                not: false,
                from: R0,
                data: bytes,
            },
        ])
    }

    /// The connection has one of these bits set.
    pub fn connection(self, what: Ct, bits: u32) -> Self {
        self.with([
            Expr::Ct(what, R0),
            Expr::And {
                register: R0,
                mask: bits.to_ne_bytes().to_vec(),
            },
            Expr::Cmp {
                not: true,
                from: R0,
                data: vec![0; 4],
            },
        ])
    }

    /// The destination is an address of this host.
    pub fn for_this_host(self) -> Self {
        const RTN_LOCAL: u32 = 2;
        self.with([
            Expr::DestinationType(R0),
            Expr::Cmp {
                not: false,
                from: R0,
                data: RTN_LOCAL.to_ne_bytes().to_vec(),
            },
        ])
    }

    pub fn also(self, expression: Expr) -> Self {
        self.with([expression])
    }

    pub fn verdict(self, verdict: Verdict) -> Self {
        self.also(Expr::Verdict(verdict))
    }
}

/// An interface name as nf_tables compares it: 16 bytes, zeros behind.
pub fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}

fn mask(prefix: u8, bytes: usize) -> Vec<u8> {
    let mut left = usize::from(prefix);
    (0..bytes)
        .map(|_| {
            let bits = left.min(8);
            left -= bits;
            u8::try_from((0xff00u32 >> bits) & 0xff).unwrap_or(0xff)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask(16, 4), [255, 255, 0, 0]);
        assert_eq!(mask(20, 4), [255, 255, 240, 0]);
        assert_eq!(mask(0, 4), [0; 4]);
        assert_eq!(mask(32, 4), [255; 4]);
        assert_eq!(
            mask(65, 16)[..9],
            [255, 255, 255, 255, 255, 255, 255, 255, 128]
        );
    }
}
