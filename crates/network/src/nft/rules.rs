//! Our table: its chains, its sets, and what bridges and published ports put into them.
//!
//! A bridge adds rules, and the table is replaced when one comes or goes. A published port is only an element of a map, so
//! that publishing costs the same with ten ports as with ten thousand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use longshore_sys::netlink::Message;

use super::expr::{
    CT_DNAT, CT_ESTABLISHED_RELATED, Ct, Expr, Meta, NFTA_DATA_VALUE, R0, R1, R4, Rule, Verdict,
    interface_name,
};
use crate::types::{Bridge, BridgeSpec, Endpoint, GatewayMode, Protocol, PublishedPort, Subnet};

/// Chains of the guards (IPv4, IPv6): each exists only when we switched that family's forwarding on, which a restarted
/// engine reads from the table that it finds.
pub const GUARDS: [&str; 2] = ["guard4", "guard6"];

const RAW: &str = "raw-prerouting";
const PREROUTING: &str = "nat-prerouting";
const OUTPUT: &str = "nat-output";
const PUBLISHED: &str = "published";
const POSTROUTING: &str = "nat-postrouting";
const FORWARD: &str = "filter-forward";
const INBOUND: &str = "inbound";

const BRIDGES: &str = "bridges";
const SAME_BRIDGE: &str = "same-bridge";
/// Bridges that nothing leaves or enters.
const INTERNAL: &str = "internal";
/// Bridges whose traffic gets the host's address when it leaves, by family.
const MASQUERADED: [&str; 2] = ["masqueraded4", "masqueraded6"];
/// Bridges whose containers can be reached at every port, by family.
const OPEN: [&str; 2] = ["open4", "open6"];
/// Containers' addresses and ports that can be reached as they are.
const DIRECT4: &str = "direct4";
const DIRECT6: &str = "direct6";
const PORTS4: &str = "ports4";
const PORTS4_AT: &str = "ports4-at";
const PORTS6: &str = "ports6";
const PORTS6_AT: &str = "ports6-at";

/// Data types as the nft tool numbers them, for a readable listing only.
mod datatype {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const PROTOCOL: u32 = 12;
    pub const SERVICE: u32 = 13;
    pub const IFNAME: u32 = 41;

    pub const fn concat(types: &[u32]) -> u32 {
        let mut value = 0;
        let mut index = 0;
        while index < types.len() {
            value = value << 6 | types[index];
            index += 1;
        }
        value
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    key_type: u32,
    key_length: u32,
    /// Type and length of a map's values.
    value: Option<(u32, u32)>,
    id: u32,
}

impl Set {
    pub fn write(&self, mut m: Message<'_>, table: &str) {
        const NFT_SET_MAP: u32 = 8;
        m.string(1, table)
            .string(2, self.name)
            .u32_be(3, if self.value.is_some() { NFT_SET_MAP } else { 0 })
            .u32_be(4, self.key_type)
            .u32_be(5, self.key_length);
        if let Some((kind, length)) = self.value {
            m.u32_be(6, kind).u32_be(7, length);
        }
        m.u32_be(10, self.id);
        if self.key_type == datatype::IFNAME {
            // For the nft tool only: names are in host byte order (type 0, length 4, value 1).
            let [a, b, c, d] = 1u32.to_ne_bytes();
            m.put(13, &[0, 4, a, b, c, d]);
        }
    }
}

/// A member of a set, or an entry of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub set: &'static str,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Element {
    pub fn write(&self, m: &mut Message<'_>) {
        m.nest(1, |m| {
            m.put(NFTA_DATA_VALUE, &self.key);
        });
        if !self.value.is_empty() {
            m.nest(2, |m| {
                m.put(NFTA_DATA_VALUE, &self.value);
            });
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    name: &'static str,
    /// (type, hook number, priority) of a base chain.
    hook: Option<(&'static str, u32, i32)>,
}

impl Chain {
    /// A chain for destination NAT of what this namespace's own processes send.
    pub fn nat_output(name: &'static str) -> Self {
        const NF_INET_LOCAL_OUT: u32 = 3;
        const DSTNAT: i32 = -100;
        Self {
            name,
            hook: Some(("nat", NF_INET_LOCAL_OUT, DSTNAT)),
        }
    }

    pub fn write(&self, mut m: Message<'_>, table: &str) {
        const NF_ACCEPT: u32 = 1;
        m.string(1, table).string(3, self.name);
        if let Some((kind, hook, priority)) = self.hook {
            m.nest(4, |m| {
                m.u32_be(1, hook).put(2, &priority.to_be_bytes());
            })
            .u32_be(5, NF_ACCEPT)
            .string(7, kind);
        }
    }
}

/// The whole content of our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
    pub rules: Vec<Rule>,
    pub elements: Vec<Element>,
}

/// A bridge with what the rules must know about it.
#[derive(Clone, Copy, Debug)]
pub struct RuledBridge<'a> {
    pub bridge: &'a Bridge,
    pub spec: &'a BridgeSpec,
    /// route_localnet is on: 127.0.0.0/8 may be sent to it.
    pub localnet: bool,
}

/// Whether bridged frames pass the IP hooks (br_netfilter with `bridge-nf-call-iptables`). A changed destination on the same
/// bridge is then bridged, not routed: it would neither go back out of the port it came from nor from one isolated port to
/// another. So for containers that call a published port of the host the relay does it instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// The table for these bridges, without published ports. `guards`: see [`GUARDS`].
pub fn table(bridges: &[RuledBridge<'_>], guards: [bool; 2], filtered: Filtered) -> Ruleset {
    let mut ruleset = Ruleset {
        sets: sets(),
        chains: chains(guards),
        rules: Vec::new(),
        elements: Vec::new(),
    };
    let rules = &mut ruleset.rules;
    rules.extend(loopback_rules());
    rules.extend(destination_rules(bridges, filtered));
    rules.extend(forward_rules(guards));
    rules.extend(source_rules());
    for ruled in bridges {
        ruleset.elements.extend(bridge_elements(ruled));
    }
    ruleset.elements.sort_by_key(|e| e.set);
    ruleset
}

/// What a bridge adds to the table: names in sets, so that the number of rules stays the same however many there are.
pub fn bridge_elements(ruled: &RuledBridge<'_>) -> Vec<Element> {
    let name = interface_name(&ruled.bridge.name);
    let mut elements = Vec::new();
    let mut add = |set, key: Vec<u8>| {
        elements.push(Element {
            set,
            key,
            value: Vec::new(),
        });
    };
    add(BRIDGES, name.to_vec());
    add(SAME_BRIDGE, [name, name].concat());
    let spec = ruled.spec;
    if spec.internal {
        add(INTERNAL, name.to_vec());
    }
    let has = [ruled.bridge.subnet, ruled.bridge.subnet6].map(|s| s.is_some());
    for family in [0, 1] {
        if !has[family] || spec.internal {
            continue;
        }
        if spec.masquerade && spec.modes[family].translates() {
            add(MASQUERADED[family], name.to_vec());
        }
        if spec.modes[family] == GatewayMode::NatUnprotected {
            add(OPEN[family], name.to_vec());
        }
    }
    elements.sort_by_key(|e| e.set);
    elements
}

fn sets() -> Vec<Set> {
    use datatype::{IFNAME, IPV4, IPV6, PROTOCOL, SERVICE, concat};
    let to4 = Some((concat(&[IPV4, SERVICE]), 8));
    let to6 = Some((concat(&[IPV6, SERVICE]), 20));
    [
        (BRIDGES, IFNAME, 16, None),
        (SAME_BRIDGE, concat(&[IFNAME, IFNAME]), 32, None),
        (INTERNAL, IFNAME, 16, None),
        (MASQUERADED[0], IFNAME, 16, None),
        (MASQUERADED[1], IFNAME, 16, None),
        (OPEN[0], IFNAME, 16, None),
        (OPEN[1], IFNAME, 16, None),
        (DIRECT4, concat(&[IPV4, PROTOCOL, SERVICE]), 12, None),
        (DIRECT6, concat(&[IPV6, PROTOCOL, SERVICE]), 24, None),
        (PORTS4, concat(&[PROTOCOL, SERVICE]), 8, to4),
        (PORTS4_AT, concat(&[IPV4, PROTOCOL, SERVICE]), 12, to4),
        (PORTS6, concat(&[PROTOCOL, SERVICE]), 8, to6),
        (PORTS6_AT, concat(&[IPV6, PROTOCOL, SERVICE]), 24, to6),
    ]
    .into_iter()
    .zip(1..)
    .map(|((name, key_type, key_length, value), id)| Set {
        name,
        key_type,
        key_length,
        value,
        id,
    })
    .collect()
}

fn chains(guards: [bool; 2]) -> Vec<Chain> {
    const PRE_ROUTING: u32 = 0;
    const FORWARDING: u32 = 2;
    const LOCAL_OUT: u32 = 3;
    const POST_ROUTING: u32 = 4;
    let mut chains: Vec<Chain> = [
        (RAW, Some(("filter", PRE_ROUTING, -300))),
        (PREROUTING, Some(("nat", PRE_ROUTING, -100))),
        (OUTPUT, Some(("nat", LOCAL_OUT, -100))),
        (POSTROUTING, Some(("nat", POST_ROUTING, 100))),
        (FORWARD, Some(("filter", FORWARDING, 0))),
        (PUBLISHED, None),
        (INBOUND, None),
    ]
    .into_iter()
    .map(|(name, hook)| Chain { name, hook })
    .collect();
    for (name, on) in GUARDS.into_iter().zip(guards) {
        if on {
            chains.push(Chain { name, hook: None });
        }
    }
    chains
}

/// The chain for the user's own rules, in a table of its own: `forward`, before every filter of ours.
pub fn hook() -> Chain {
    const FORWARDING: u32 = 2;
    Chain {
        name: "forward",
        hook: Some(("filter", FORWARDING, -5)),
    }
}

fn loopback() -> Subnet {
    Subnet {
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
        prefix: 8,
    }
}

/// route_localnet on our bridges would let containers reach what listens on the host's 127.0.0.1 only.
fn loopback_rules() -> Vec<Rule> {
    vec![
        Rule::new(RAW)
            .interface_in(Meta::IifName, BRIDGES)
            .address(true, &loopback())
            .verdict(Verdict::Drop),
    ]
}

fn destination_rules(bridges: &[RuledBridge<'_>], filtered: Filtered) -> Vec<Rule> {
    // 127.0.0.0/8 from another host is somebody's trick, whatever route_localnet says.
    let mut rules = vec![
        Rule::new(PREROUTING)
            .address(true, &loopback())
            .verdict(Verdict::Return),
    ];
    for (ipv6, filtered) in [(false, filtered.ipv4), (true, filtered.ipv6)] {
        if filtered {
            rules.push(
                Rule::new(PREROUTING)
                    .interface_in(Meta::IifName, BRIDGES)
                    .family(ipv6)
                    .verdict(Verdict::Return),
            );
        }
    }
    rules.push(
        Rule::new(PREROUTING)
            .for_this_host()
            .verdict(Verdict::Goto(PUBLISHED)),
    );
    // IPv6 has nothing like route_localnet: the relay serves `::1`.
    rules.push(
        Rule::new(OUTPUT)
            .address(
                true,
                &Subnet {
                    address: IpAddr::V6(Ipv6Addr::LOCALHOST),
                    prefix: 128,
                },
            )
            .verdict(Verdict::Return),
    );
    // Without route_localnet the kernel refuses to send from 127.0.0.1 to a bridge: the relay again.
    if !bridges.iter().all(|b| b.localnet) {
        rules.push(
            Rule::new(OUTPUT)
                .address(true, &loopback())
                .verdict(Verdict::Return),
        );
    }
    rules.push(
        Rule::new(OUTPUT)
            .for_this_host()
            .verdict(Verdict::Goto(PUBLISHED)),
    );
    for ipv6 in [false, true] {
        for at in [true, false] {
            let port = if ipv6 { R4 } else { R1 };
            rules.push(published(Rule::new(PUBLISHED), ipv6, at).also(Expr::Dnat {
                ipv6,
                address: R0,
                port,
            }));
        }
    }
    rules
}

/// Looks the packet's destination up among the published ports, by address or for any address; the container's address is
/// in R0 then, its port behind it.
fn published(rule: Rule, ipv6: bool, at: bool) -> Rule {
    let mut rule = rule.family(ipv6);
    let mut register = R0;
    if at {
        let (offset, length) = if ipv6 { (24, 16) } else { (16, 4) };
        rule = rule.also(Expr::Network {
            offset,
            length,
            to: register,
        });
        register += length / 4;
    }
    let set = match (ipv6, at) {
        (false, false) => PORTS4,
        (false, true) => PORTS4_AT,
        (true, false) => PORTS6,
        (true, true) => PORTS6_AT,
    };
    rule.also(Expr::Meta(Meta::L4Proto, register))
        .also(Expr::Transport {
            offset: 2,
            length: 2,
            to: register + 1,
        })
        .also(Expr::Lookup {
            set,
            from: R0,
            to: Some(R0),
        })
}

/// A packet that goes out of the bridge that it came in from.
fn same_bridge(rule: Rule) -> Rule {
    rule.also(Expr::Meta(Meta::IifName, R0))
        .also(Expr::Meta(Meta::OifName, R4))
        .also(Expr::Lookup {
            set: SAME_BRIDGE,
            from: R0,
            to: None,
        })
}

/// Into a bridge go answers, published ports and the bridge's own traffic, nothing else; what leaves one is not our matter.
/// Internal bridges have their own traffic only.
fn forward_rules(guards: [bool; 2]) -> Vec<Rule> {
    let mut rules = vec![
        same_bridge(Rule::new(FORWARD)).verdict(Verdict::Accept),
        Rule::new(FORWARD)
            .interface_in(Meta::IifName, INTERNAL)
            .verdict(Verdict::Drop),
        Rule::new(FORWARD)
            .interface_in(Meta::OifName, INTERNAL)
            .verdict(Verdict::Drop),
        Rule::new(FORWARD)
            .interface_in(Meta::OifName, BRIDGES)
            .verdict(Verdict::Goto(INBOUND)),
        Rule::new(INBOUND)
            .connection(Ct::State, CT_ESTABLISHED_RELATED)
            .verdict(Verdict::Accept),
        Rule::new(INBOUND)
            .connection(Ct::Status, CT_DNAT)
            .verdict(Verdict::Accept),
        direct(Rule::new(INBOUND), false).verdict(Verdict::Accept),
        direct(Rule::new(INBOUND), true).verdict(Verdict::Accept),
        // Networks are closed to each other, open or not.
        Rule::new(INBOUND)
            .interface_in(Meta::IifName, BRIDGES)
            .verdict(Verdict::Drop),
    ];
    for (set, ipv6) in OPEN.into_iter().zip([false, true]) {
        rules.push(
            Rule::new(INBOUND)
                .family(ipv6)
                .interface_in(Meta::OifName, set)
                .verdict(Verdict::Accept),
        );
    }
    rules.push(Rule::new(INBOUND).verdict(Verdict::Drop));
    // Before us this host was no router, and it shall not become one between its other interfaces: only what has a bridge or
    // a veth on one side (containers and virtual machines, ours or not) is passed on.
    for ((guard, on), ipv6) in GUARDS.into_iter().zip(guards).zip([false, true]) {
        if !on {
            continue;
        }
        rules.push(
            Rule::new(FORWARD)
                .family(ipv6)
                .verdict(Verdict::Jump(guard)),
        );
        for which in [Meta::IifKind, Meta::OifKind] {
            for kind in ["bridge", "veth"] {
                rules.push(
                    Rule::new(guard)
                        .interface(which, false, kind)
                        .verdict(Verdict::Return),
                );
            }
        }
        rules.push(Rule::new(guard).verdict(Verdict::Drop));
    }
    rules
}

/// Destination address, protocol and port are published as they are.
fn direct(rule: Rule, ipv6: bool) -> Rule {
    let (set, offset, length) = if ipv6 {
        (DIRECT6, 24, 16)
    } else {
        (DIRECT4, 16, 4)
    };
    let register = R0 + length / 4;
    rule.family(ipv6)
        .also(Expr::Network {
            offset,
            length,
            to: R0,
        })
        .also(Expr::Meta(Meta::L4Proto, register))
        .also(Expr::Transport {
            offset: 2,
            length: 2,
            to: register + 1,
        })
        .also(Expr::Lookup {
            set,
            from: R0,
            to: None,
        })
}

fn source_rules() -> Vec<Rule> {
    let mut rules = vec![
        // A client on 127.0.0.1 must be seen as the gateway, or no answer finds back.
        Rule::new(POSTROUTING)
            .interface_in(Meta::OifName, BRIDGES)
            .address(false, &loopback())
            .also(Expr::Masquerade),
        // A container that goes through a published port of its own bridge: the answer must come back through us.
        same_bridge(Rule::new(POSTROUTING))
            .connection(Ct::Status, CT_DNAT)
            .also(Expr::Masquerade),
        same_bridge(Rule::new(POSTROUTING)).verdict(Verdict::Return),
    ];
    for (set, ipv6) in MASQUERADED.into_iter().zip([false, true]) {
        rules.push(
            Rule::new(POSTROUTING)
                .family(ipv6)
                .interface_in(Meta::IifName, set)
                .also(Expr::Masquerade),
        );
    }
    rules
}

/// The map entry of a published port; None where the rules cannot do it (an IPv6 host address for a container that has
/// only IPv4: the relay's part). A port without a host port can be reached at the container's own address.
pub fn element(endpoint: &Endpoint, port: &PublishedPort) -> Option<Element> {
    let service = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, 0, 0]
    };
    let protocol = [Protocol::number(port.proto), 0, 0, 0];
    if port.host_port == 0 {
        let (set, mut key) = match (port.host_ip, endpoint.ip, endpoint.ip6) {
            (IpAddr::V4(_), Some(IpAddr::V4(ip)), _) => (DIRECT4, ip.octets().to_vec()),
            (IpAddr::V6(_), _, Some(ip)) => (DIRECT6, ip.octets().to_vec()),
            _ => return None,
        };
        key.extend_from_slice(&protocol);
        key.extend_from_slice(&service(port.container_port));
        return Some(Element {
            set,
            key,
            value: Vec::new(),
        });
    }
    let (set, mut key, mut value) = match (port.host_ip, endpoint.ip, endpoint.ip6) {
        (IpAddr::V4(host), Some(IpAddr::V4(ip)), _) if host.is_unspecified() => {
            (PORTS4, Vec::new(), ip.octets().to_vec())
        }
        (IpAddr::V4(host), Some(IpAddr::V4(ip)), _) => {
            (PORTS4_AT, host.octets().to_vec(), ip.octets().to_vec())
        }
        (IpAddr::V6(host), _, Some(ip)) if host.is_unspecified() => {
            (PORTS6, Vec::new(), ip.octets().to_vec())
        }
        (IpAddr::V6(host), _, Some(ip)) => {
            (PORTS6_AT, host.octets().to_vec(), ip.octets().to_vec())
        }
        _ => return None,
    };
    key.extend_from_slice(&protocol);
    key.extend_from_slice(&service(port.host_port));
    value.extend_from_slice(&service(port.container_port));
    Some(Element { set, key, value })
}
