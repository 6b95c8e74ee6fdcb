//! Which subnets are whose: networks' own wishes, and the pools that the others are given one of.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use longshore_model::{Error, ErrorKind, Result};

use crate::{
    ipam::Pool,
    types::{PoolPlan, Subnet, WantedPool},
};

/// A block of addresses that is cut into subnets (`default-address-pools`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    pub base: Subnet,
    /// Prefix length of the subnets; not smaller than that of `base`.
    pub size: u8,
}

impl AddressPool {
    /// Its subnets, in order.
    pub fn subnets(self) -> impl Iterator<Item = Subnet> {
        let bits: u8 = if self.base.address.is_ipv4() { 32 } else { 128 };
        let size = self.size.min(bits);
        let step = 1u128
            .checked_shl(u32::from(bits - size))
            .unwrap_or(u128::MAX);
        let count = 1u128
            .checked_shl(u32::from(size.saturating_sub(self.base.prefix)))
            .unwrap_or(u128::MAX);
        (0..count).map(move |index| Subnet {
            address: offset(self.base.address, index.saturating_mul(step)),
            prefix: size,
        })
    }
}

fn offset(address: IpAddr, by: u128) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4).saturating_add(by)))
        }
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).saturating_add(by))),
    }
}

/// Docker's own pools.
pub fn default_pools() -> Vec<AddressPool> {
    let pool = |a, b, prefix, size| AddressPool {
        base: Subnet {
            address: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)),
            prefix,
        },
        size,
    };
    vec![
        pool(172, 17, 16, 16),
        pool(172, 18, 16, 16),
        pool(172, 19, 16, 16),
        pool(172, 20, 14, 16),
        pool(172, 24, 14, 16),
        pool(172, 28, 14, 16),
        pool(192, 168, 16, 20),
    ]
}

/// The unique local addresses (RFC 4193) of an engine: fd, 40 bits that stay the same for `seed`, /64 networks.
pub fn local_pool(seed: &str) -> AddressPool {
    // FNV-1a: it need not be secret, only different from the neighbour's.
    let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let global = u128::from(hash >> 24);
    AddressPool {
        base: Subnet {
            address: IpAddr::V6(Ipv6Addr::from(0xfd << 120 | global << 80)),
            prefix: 48,
        },
        size: 64,
    }
}

/// The subnets of all networks, by the name of the network's link.
#[derive(Debug, Default)]
pub struct Space {
    taken: HashMap<String, Vec<Subnet>>,
}

impl Space {
    /// Decides on addresses: `wanted` first, in order, then one pool for each family that is asked for (`[IPv4, IPv6]`) and
    /// not wanted. `host` are networks that the host has routes to: no pool is chosen that collides with one.
    ///
    /// # Errors
    /// dockerd's texts for an overlap and for pools that are used up. Nothing is taken then.
    pub fn reserve(
        &mut self,
        key: &str,
        wanted: &[WantedPool],
        families: [bool; 2],
        pools: &[AddressPool],
        host: &[Subnet],
    ) -> Result<Vec<PoolPlan>> {
        let mut plans: Vec<PoolPlan> = Vec::new();
        let clashes = |subnet: &Subnet, plans: &[PoolPlan]| {
            self.taken.values().flatten().any(|t| t.overlaps(subnet))
                || plans.iter().any(|p| p.subnet.overlaps(subnet))
        };
        for pool in wanted {
            let Some(subnet) = pool.subnet else { continue };
            if clashes(&subnet, &plans) {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    "invalid pool request: Pool overlaps with other one on this address space",
                ));
            }
            plans.push(plan(subnet, pool)?);
        }
        for (asked, ipv6) in families.into_iter().zip([false, true]) {
            if !asked || plans.iter().any(|p| p.subnet.address.is_ipv6() == ipv6) {
                continue;
            }
            let free = pools
                .iter()
                .filter(|pool| pool.base.address.is_ipv6() == ipv6)
                .flat_map(|pool| pool.subnets())
                .find(|subnet| {
                    !clashes(subnet, &plans) && !host.iter().any(|h| h.overlaps(subnet))
                });
            let subnet = free.ok_or_else(|| {
                Error::invalid("all predefined address pools have been fully subnetted")
            })?;
            plans.push(plan(subnet, &WantedPool::default())?);
        }
        let subnets = plans.iter().map(|p| p.subnet).collect();
        self.taken.insert(key.to_owned(), subnets);
        Ok(plans)
    }

    /// Notes what a network has, whatever others have.
    pub fn note(&mut self, key: &str, subnets: Vec<Subnet>) {
        self.taken.insert(key.to_owned(), subnets);
    }

    pub fn forget(&mut self, key: &str) {
        self.taken.remove(key);
    }
}

fn plan(subnet: Subnet, wanted: &WantedPool) -> Result<PoolPlan> {
    let mut pool = Pool::new(subnet);
    if let Some(range) = wanted.range {
        pool.limit(range);
    }
    for address in &wanted.reserved {
        pool.take_exactly(*address, "reserved")
            .map_err(|_| Error::new(ErrorKind::Forbidden, "Address already in use"))?;
    }
    let gateway = match wanted.gateway {
        Some(gateway) => {
            pool.take_exactly(gateway, "gateway").map_err(|_| {
                Error::new(
                    ErrorKind::Forbidden,
                    format!("failed to allocate gateway ({gateway}): Address already in use"),
                )
            })?;
            gateway
        }
        None => pool.take("gateway")?,
    };
    Ok(PoolPlan {
        subnet,
        range: wanted.range,
        gateway,
        reserved: wanted.reserved.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str, prefix: u8) -> Subnet {
        Subnet::of(text.parse().expect("address"), prefix)
    }

    fn auto(space: &mut Space, key: &str, host: &[Subnet]) -> Result<String> {
        let plans = space.reserve(key, &[], [true, false], &default_pools(), host)?;
        Ok(format!("{} {}", plans[0].subnet, plans[0].gateway))
    }

    #[test]
    fn pools_in_docker_order() {
        let mut space = Space::default();
        let first = auto(&mut space, "a", &[]).expect("free");
        assert_eq!(first, "172.17.0.0/16 172.17.0.1");
        let second = auto(&mut space, "b", &[net("172.18.5.0", 24)]).expect("free");
        assert_eq!(second, "172.19.0.0/16 172.19.0.1");
        space.forget("a");
        let again = auto(&mut space, "c", &[]).expect("free");
        assert_eq!(again, "172.17.0.0/16 172.17.0.1");
        let mut count = 2;
        let error = loop {
            match auto(&mut space, &count.to_string(), &[]) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(count, 31);
        assert_eq!(
            error.message,
            "all predefined address pools have been fully subnetted"
        );
        assert!(auto(&mut Space::default(), "x", &[net("0.0.0.0", 0)]).is_err());
    }

    #[test]
    fn wishes() {
        let mut space = Space::default();
        let wish = |subnet: Subnet| WantedPool {
            subnet: Some(subnet),
            ..WantedPool::default()
        };
        let six = wish(net("fd00:77::", 64));
        let plans = space
            .reserve(
                "a",
                std::slice::from_ref(&six),
                [true, true],
                &default_pools(),
                &[],
            )
            .expect("free");
        assert_eq!(plans[0].gateway.to_string(), "fd00:77::1");
        assert_eq!(plans[1].subnet.to_string(), "172.17.0.0/16");
        let error = space
            .reserve("b", &[six], [false, true], &[], &[])
            .expect_err("overlap");
        assert_eq!(error.kind, ErrorKind::Forbidden);
        let ranged = WantedPool {
            range: Some(net("10.77.0.128", 25)),
            ..wish(net("10.77.0.0", 24))
        };
        let plans = space
            .reserve("c", &[ranged], [true, false], &[], &[])
            .expect("free");
        assert_eq!(plans[0].gateway.to_string(), "10.77.0.128");
    }

    #[test]
    fn large_pools() {
        let pool = AddressPool {
            base: net("10.0.0.0", 8),
            size: 24,
        };
        assert_eq!(pool.subnets().count(), 65536);
        assert_eq!(
            pool.subnets().nth(300).expect("one").to_string(),
            "10.1.44.0/24"
        );
        let local = local_pool("engine");
        assert!(local.base.to_string().starts_with("fd"));
        assert_eq!(local.base, Subnet::of(local.base.address, 48));
        assert_eq!(
            local.subnets().nth(1).expect("one"),
            Subnet {
                address: offset(local.base.address, 1 << 64),
                prefix: 64
            }
        );
    }
}
