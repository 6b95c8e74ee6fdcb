//! Bringing a bridge into the state that is wanted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use longshore_model::{Error, Result};
use rustix::io::Errno;

use crate::{
    host,
    ipam::Pool,
    link::{Link, Links},
    manager::{link_failed, random_mac},
    space::{AddressPool, Space},
    state::{Network, Outcome},
    types::{Bridge, BridgeSpec, GatewayMode, Subnet},
};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Makes or takes over the bridge of `spec`. Our alias on a link says that an engine made it. `pools` are for a bridge of
/// which nothing says what its subnet is.
pub fn ensure(
    links: &mut Links,
    spec: &BridgeSpec,
    engine: &str,
    space: &mut Space,
    pools: &[AddressPool],
) -> Result<Network> {
    let alias = alias(engine, &spec.purpose);
    let link = find_or_make(links, spec, &alias)?;
    links
        .set_up(link.index, 0)
        .map_err(|e| link_failed("set up", &spec.name, &e))?;
    let made = link.alias == alias;
    let mut network = Network {
        bridge: Bridge {
            index: link.index,
            name: spec.name.clone(),
            subnet: None,
            gateway: None,
            subnet6: None,
            gateway6: spec.ipv6.map(|(gateway, _)| gateway.into()),
            mtu: if spec.mtu == 0 { link.mtu } else { spec.mtu },
            made,
        },
        spec: spec.clone(),
        pool: None,
        pool6: None,
        localnet: spec.no_ipv4 || host::allow_loopback(&spec.name),
        stacked: None,
    };
    if !spec.no_ipv4 {
        let (gateway, prefix) = ipv4(links, spec, &link, made, space, pools)?;
        let subnet = Subnet::of(gateway.into(), prefix);
        network.bridge.subnet = Some(subnet);
        network.bridge.gateway = Some(gateway.into());
        network.pool = Some(pool(subnet, gateway.into(), spec)?);
    }
    if let Some((gateway6, prefix6)) = spec.ipv6 {
        host::enable_ipv6(&spec.name);
        // The link-local address is the one that docker gives as well: neighbours are asked from it, and it is usable at
        // once, unlike the kernel's own, which is first checked for a duplicate.
        let own = (spec.modes[1] != GatewayMode::Isolated).then_some((gateway6, prefix6));
        for (address, prefix) in [Some((LINK_LOCAL, 64)), own].into_iter().flatten() {
            links
                .address(link.index, address.into(), prefix, false)
                .map_err(|e| link_failed("give an IPv6 address to", &spec.name, &e))?;
        }
        let subnet = Subnet::of(gateway6.into(), prefix6);
        network.bridge.subnet6 = Some(subnet);
        network.pool6 = Some(pool(subnet, gateway6.into(), spec)?);
    }
    let subnets = [network.bridge.subnet, network.bridge.subnet6];
    space.note(&spec.name, subnets.into_iter().flatten().collect());
    Ok(network)
}

/// What a link that we made says about itself.
pub fn alias(engine: &str, purpose: &str) -> String {
    if purpose.is_empty() {
        format!("made by {engine}")
    } else {
        format!("made by {engine}: {purpose}")
    }
}

/// A subnet's addresses with all of them taken that no container may have.
pub fn pool(subnet: Subnet, gateway: IpAddr, spec: &BridgeSpec) -> Result<Pool> {
    let mut pool = Pool::new(subnet);
    pool.take_exactly(gateway, "gateway")?;
    for address in spec.reserved.iter().filter(|a| subnet.contains(**a)) {
        pool.take_exactly(*address, "reserved")?;
    }
    if let Some(range) = spec.ranges.iter().find(|r| r.overlaps(&subnet)) {
        pool.limit(*range);
    }
    Ok(pool)
}

fn find_or_make(links: &mut Links, spec: &BridgeSpec, alias: &str) -> Result<Link> {
    let name = &spec.name;
    let valid = (1..=15).contains(&name.len())
        && !name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control())
        && name != "."
        && name != "..";
    if !valid {
        return Err(Error::invalid(format!("invalid bridge name {name:?}")));
    }
    for _ in 0..2 {
        let found = links
            .find(name)
            .map_err(|e| link_failed("look up", name, &e))?;
        match found {
            Some(link) if link.kind == "bridge" => return Ok(link),
            Some(_) => {
                return Err(Error::invalid(format!(
                    "existing interface {name} is not a bridge"
                )));
            }
            None => match links.make_bridge(name, random_mac(), spec.mtu, alias) {
                Ok(()) => {}
                // Somebody else was faster: take theirs.
                Err(error) if error.is(Errno::EXIST) => {}
                Err(error) => return Err(link_failed("make bridge", name, &error)),
            },
        }
    }
    links
        .find(name)
        .ok()
        .flatten()
        .ok_or_else(|| Error::system(format!("bridge {name} vanished")))
}

/// Decides the IPv4 address: the one asked for, else the one that is there, else one of a free pool.
fn ipv4(
    links: &mut Links,
    spec: &BridgeSpec,
    link: &Link,
    made: bool,
    space: &mut Space,
    pools: &[AddressPool],
) -> Result<(Ipv4Addr, u8)> {
    let failed = |e| link_failed("read addresses of", &spec.name, &e);
    let all = links.addresses().map_err(failed)?;
    let present: Vec<(Ipv4Addr, u8)> = all
        .iter()
        .filter(|(index, _, _)| *index == link.index)
        .filter_map(|(_, address, prefix)| match address {
            IpAddr::V4(v4) => Some((*v4, *prefix)),
            IpAddr::V6(_) => None,
        })
        .collect();
    let wanted = match (spec.address, present.first()) {
        (Some(wanted), _) => wanted,
        (None, Some(&present)) => return Ok(present),
        (None, None) => {
            let taken = host_networks(links, link.index).map_err(failed)?;
            let plans = space.reserve(&spec.name, &[], [true, false], pools, &taken)?;
            match plans.first().map(|p| (p.gateway, p.subnet.prefix)) {
                Some((IpAddr::V4(gateway), prefix)) => (gateway, prefix),
                _ => return Err(Error::system("no IPv4 address pool")),
            }
        }
    };
    if spec.modes[0] == GatewayMode::Isolated {
        for (address, prefix) in present.iter().filter(|_| made) {
            let _ = links.address(link.index, (*address).into(), *prefix, true);
        }
        return Ok(wanted);
    }
    if made {
        // Only on a link of ours: on another's bridge the other addresses are somebody's.
        for (address, prefix) in present.iter().filter(|p| **p != wanted) {
            let _ = links.address(link.index, (*address).into(), *prefix, true);
        }
    }
    if !present.contains(&wanted) {
        links
            .address(link.index, wanted.0.into(), wanted.1, false)
            .map_err(|e| link_failed("give an address to", &spec.name, &e))?;
    }
    Ok(wanted)
}

/// Networks that the host has routes to or addresses in, those of one link left out.
pub fn host_networks(links: &mut Links, but: u32) -> Outcome<Vec<Subnet>> {
    let routes = links.routes()?;
    let addresses = links.addresses()?;
    let own = addresses
        .iter()
        .map(|(index, address, prefix)| (*index, Subnet::of(*address, *prefix)));
    let all = routes.into_iter().chain(own);
    Ok(all
        .filter(|(index, _)| *index != but)
        .map(|(_, subnet)| subnet)
        .collect())
}
