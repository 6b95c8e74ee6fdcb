//! Bringing a bridge into the state that is wanted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use longshore_model::{Error, Result};
use rustix::io::Errno;

use crate::{
    host,
    ipam::Pool,
    link::{Link, Links},
    manager::{default_pools, link_failed, random_mac},
    state::Network,
    types::{Bridge, BridgeSpec, Subnet},
};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Makes or takes over the bridge of `spec`. Our alias on a link says that an engine made it.
pub fn ensure(links: &mut Links, spec: &BridgeSpec, engine: &str) -> Result<Network> {
    let alias = format!("made by {engine}");
    let link = find_or_make(links, spec, &alias)?;
    links
        .set_up(link.index, 0)
        .map_err(|e| link_failed("set up", &spec.name, &e))?;
    let made = link.alias == alias;
    let (gateway, prefix) = ipv4(links, spec, &link, made)?;
    let subnet = Subnet::of(gateway.into(), prefix);
    let mut pool = Pool::new(subnet);
    pool.take_exactly(gateway.into(), "gateway")?;
    let mut subnet6 = None;
    let mut pool6 = None;
    if let Some((gateway6, prefix6)) = spec.ipv6 {
        host::enable_ipv6(&spec.name);
        // The link-local address is the one that docker gives as well: neighbours are asked from it, and it is usable at
        // once, unlike the kernel's own, which is first checked for a duplicate.
        for (address, prefix) in [(LINK_LOCAL, 64), (gateway6, prefix6)] {
            links
                .address(link.index, address.into(), prefix, false)
                .map_err(|e| link_failed("give an IPv6 address to", &spec.name, &e))?;
        }
        let subnet = Subnet::of(gateway6.into(), prefix6);
        let mut pool = Pool::new(subnet);
        pool.take_exactly(gateway6.into(), "gateway")?;
        subnet6 = Some(subnet);
        pool6 = Some(pool);
    }
    Ok(Network {
        bridge: Bridge {
            index: link.index,
            name: spec.name.clone(),
            subnet,
            gateway: gateway.into(),
            subnet6,
            gateway6: spec.ipv6.map(|(gateway, _)| gateway.into()),
            mtu: if spec.mtu == 0 { link.mtu } else { spec.mtu },
            made,
        },
        spec: spec.clone(),
        pool,
        pool6,
        localnet: host::allow_loopback(&spec.name),
    })
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
fn ipv4(links: &mut Links, spec: &BridgeSpec, link: &Link, made: bool) -> Result<(Ipv4Addr, u8)> {
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
            let routes = links.routes().map_err(failed)?;
            let taken: Vec<Subnet> = routes
                .into_iter()
                .chain(
                    all.iter()
                        .map(|(index, address, prefix)| (*index, Subnet::of(*address, *prefix))),
                )
                .filter(|(index, _)| *index != link.index)
                .map(|(_, subnet)| subnet)
                .collect();
            free_pool(&taken).ok_or_else(|| {
                Error::system("all predefined address pools have been fully subnetted")
            })?
        }
    };
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

/// First address of the first default pool that collides with nothing.
fn free_pool(taken: &[Subnet]) -> Option<(Ipv4Addr, u8)> {
    default_pools()
        .find(|(address, prefix)| {
            let pool = Subnet::of((*address).into(), *prefix);
            !taken.iter().any(|t| t.overlaps(&pool))
        })
        .map(|(address, prefix)| (Ipv4Addr::from(u32::from(address) + 1), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_in_docker_order() {
        let net = |text: &str, prefix| Subnet::of(text.parse().expect("address"), prefix);
        let first = |taken: &[Subnet]| free_pool(taken).map(|(a, p)| format!("{a}/{p}"));
        assert_eq!(first(&[]).as_deref(), Some("172.17.0.1/16"));
        assert_eq!(
            first(&[net("172.17.5.0", 24)]).as_deref(),
            Some("172.18.0.1/16")
        );
        assert_eq!(
            first(&[net("172.16.0.0", 12)]).as_deref(),
            Some("192.168.0.1/20")
        );
        assert_eq!(first(&[net("0.0.0.0", 1), net("128.0.0.0", 1)]), None);
    }
}
