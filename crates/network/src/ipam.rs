//! Addresses of one subnet: who has which, and which one is next.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use longshore_model::{Error, ErrorKind, Result};

use crate::types::Subnet;

/// How long a released address rests: the old veth lives some 30 ms longer than its container, and neighbours remember
/// the old hardware address.
const REST: Duration = Duration::from_secs(1);

/// The addresses of a subnet. Next-fit: the search goes on after the address that was given last.
#[derive(Debug)]
pub struct Pool {
    subnet: Subnet,
    /// First and last usable address, as numbers.
    first: u128,
    last: u128,
    /// What [`Self::take`] gives from: `first` and `last`, or a range within.
    from: u128,
    to: u128,
    next: u128,
    used: HashMap<u128, String>,
    resting: VecDeque<(Instant, u128)>,
}

impl Pool {
    /// All addresses of `subnet` but the network's own and, for IPv4, the broadcast address.
    pub fn new(subnet: Subnet) -> Self {
        let base = number(subnet.address);
        let bits = if subnet.address.is_ipv4() { 32 } else { 128 };
        let host_bits = u32::from(bits - subnet.prefix.min(bits));
        let span = 1u128.checked_shl(host_bits).map_or(u128::MAX, |s| s - 1);
        let (first, last) = match (subnet.address.is_ipv4(), host_bits) {
            // Point-to-point and single-address networks have no network or broadcast address.
            (_, 0 | 1) => (base, base + span),
            (true, _) => (base + 1, base + span - 1),
            (false, _) => (base + 1, base.saturating_add(span)),
        };
        Self {
            subnet,
            first,
            last,
            from: first,
            to: last,
            next: first,
            used: HashMap::new(),
            resting: VecDeque::new(),
        }
    }

    /// Gives addresses of this part of the subnet only, when none is asked for by name.
    pub fn limit(&mut self, range: Subnet) {
        let base = number(range.address);
        // In the middle of a subnet a range's first and last addresses are addresses like others.
        let bits = if range.address.is_ipv4() { 32 } else { 128 };
        let host_bits = u32::from(bits - range.prefix.min(bits));
        let span = 1u128
            .checked_shl(host_bits)
            .map_or(u128::MAX - base, |s| s - 1);
        self.from = base.max(self.first).min(self.last);
        self.to = (base + span).min(self.last).max(self.from);
        self.next = self.from;
    }

    /// Takes the next free address for `owner`.
    ///
    /// # Errors
    /// dockerd's text when the pool is empty.
    pub fn take(&mut self, owner: &str) -> Result<IpAddr> {
        self.take_at(owner, Instant::now())
    }

    fn take_at(&mut self, owner: &str, now: Instant) -> Result<IpAddr> {
        self.wake(now);
        // The first pass leaves resting addresses alone; the second takes them if nothing else is left.
        for resting_too in [false, true] {
            if let Some(found) = self.search(resting_too) {
                self.used.insert(found, owner.to_owned());
                self.resting.retain(|(_, address)| *address != found);
                self.next = self.after(found);
                return Ok(self.address(found));
            }
        }
        let family = if self.subnet.address.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        };
        Err(Error::system(format!(
            "no available {family} addresses on this network's address pools"
        )))
    }

    /// At most as many steps as there are addresses taken or resting, plus one.
    fn search(&self, resting_too: bool) -> Option<u128> {
        let size = (self.to - self.from).saturating_add(1);
        let limit = (self.used.len() + self.resting.len()) as u128 + 1;
        let mut candidate = self.next;
        for _ in 0..size.min(limit) {
            let rests = !resting_too && self.resting.iter().any(|(_, a)| *a == candidate);
            if !rests && !self.used.contains_key(&candidate) {
                return Some(candidate);
            }
            candidate = self.after(candidate);
        }
        None
    }

    fn after(&self, address: u128) -> u128 {
        if (self.from..self.to).contains(&address) {
            address + 1
        } else {
            self.from
        }
    }

    /// Takes this very address for `owner`. Taking what the same owner already has is no error.
    ///
    /// # Errors
    /// Out of range, or `Address already in use`.
    pub fn take_exactly(&mut self, address: IpAddr, owner: &str) -> Result<()> {
        let wanted = number(address);
        if !self.subnet.contains(address) || !(self.first..=self.last).contains(&wanted) {
            return Err(Error::invalid("requested address is out of range"));
        }
        match self.used.get(&wanted) {
            Some(holder) if holder != owner => {
                Err(Error::new(ErrorKind::Forbidden, "Address already in use"))
            }
            _ => {
                self.used.insert(wanted, owner.to_owned());
                self.resting.retain(|(_, resting)| *resting != wanted);
                Ok(())
            }
        }
    }

    /// Gives an address back; it rests for a moment. Only its owner can.
    pub fn release(&mut self, address: IpAddr, owner: &str) {
        self.release_at(address, owner, Instant::now());
    }

    fn release_at(&mut self, address: IpAddr, owner: &str, now: Instant) {
        let address = number(address);
        if self.used.get(&address).is_some_and(|h| h == owner) {
            self.used.remove(&address);
            self.resting.push_back((now + REST, address));
        }
    }

    fn wake(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.resting.pop_front();
        }
    }

    /// How many addresses are taken, the gateway included.
    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.subnet.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or_default())),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str, prefix: u8) -> Pool {
        Pool::new(Subnet::of(text.parse().expect("address"), prefix))
    }

    #[test]
    fn next_fit_and_wrap() {
        let mut pool = pool("10.0.0.0", 29);
        pool.take_exactly("10.0.0.1".parse().expect("ip"), "gateway")
            .expect("gateway");
        let taken: Vec<String> = (0..5)
            .map(|i| pool.take(&i.to_string()).expect("free").to_string())
            .collect();
        assert_eq!(
            taken,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        let error = pool.take("x").expect_err("full");
        assert_eq!(
            error.message,
            "no available IPv4 addresses on this network's address pools"
        );
        pool.release("10.0.0.3".parse().expect("ip"), "1");
        // It still rests, but there is no other.
        assert_eq!(pool.take("x").expect("free").to_string(), "10.0.0.3");
    }

    #[test]
    fn a_range_within() {
        let range = |text: &str, prefix| Subnet::of(text.parse().expect("address"), prefix);
        let mut part = pool("10.77.0.0", 24);
        part.limit(range("10.77.0.128", 30));
        let mut next = || part.take("x").map(|ip| ip.to_string());
        assert_eq!(next().expect("free"), "10.77.0.128");
        assert_eq!(next().expect("free"), "10.77.0.129");
        assert_eq!(next().expect("free"), "10.77.0.130");
        assert_eq!(next().expect("free"), "10.77.0.131");
        assert!(next().is_err());
        // Outside the range only when asked for.
        part.take_exactly("10.77.0.9".parse().expect("ip"), "y")
            .expect("free");
        let mut end = pool("10.77.0.0", 24);
        end.limit(range("10.77.0.0", 30));
        assert_eq!(end.take("x").expect("free").to_string(), "10.77.0.1");
        let mut tail = pool("10.77.0.0", 24);
        tail.limit(range("10.77.0.254", 31));
        assert_eq!(tail.take("x").expect("free").to_string(), "10.77.0.254");
        assert!(tail.take("x").is_err());
    }

    #[test]
    fn a_released_address_rests() {
        let mut pool = pool("10.0.0.0", 29);
        let now = Instant::now();
        let first = pool.take_at("a", now).expect("free");
        pool.release_at(first, "a", now);
        for owner in ["b", "c", "d", "e", "f"] {
            assert_ne!(pool.take_at(owner, now).expect("free"), first);
        }
        let later = now + REST;
        assert_eq!(pool.take_at("g", later).expect("free"), first);
    }

    #[test]
    fn exact_addresses() {
        let mut pool = pool("172.17.0.0", 16);
        let ip: IpAddr = "172.17.0.9".parse().expect("ip");
        pool.take_exactly(ip, "a").expect("free");
        pool.take_exactly(ip, "a").expect("same owner");
        let error = pool.take_exactly(ip, "b").expect_err("taken");
        assert_eq!(error.message, "Address already in use");
        for bad in ["172.18.0.1", "172.17.0.0", "172.17.255.255", "fd00::1"] {
            assert!(pool.take_exactly(bad.parse().expect("ip"), "c").is_err());
        }
        pool.release(ip, "somebody else");
        assert!(pool.take_exactly(ip, "b").is_err());
    }

    #[test]
    fn wide_ipv6_and_tiny_networks() {
        let mut wide = pool("fd00::", 64);
        assert_eq!(wide.take("a").expect("free").to_string(), "fd00::1");
        let mut all = pool("::", 0);
        assert_eq!(all.take("a").expect("free").to_string(), "::1");
        let mut single = pool("10.0.0.4", 32);
        assert_eq!(single.take("a").expect("free").to_string(), "10.0.0.4");
        assert!(single.take("b").is_err());
    }

    proptest! {
        /// Whatever is asked and given back in whatever order, no address has two owners, and none is outside.
        #[test]
        fn never_two_owners(steps in prop::collection::vec((0u8..3, 0u8..20, 0u64..3000), 1..300)) {
            let mut pool = pool("10.1.2.0", 28);
            let subnet = Subnet::of("10.1.2.0".parse().expect("ip"), 28);
            let mut owners: HashMap<IpAddr, String> = HashMap::new();
            let mut now = Instant::now();
            for (serial, (what, pick, wait)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(wait);
                let owner = format!("c{serial}");
                match what {
                    0 => match pool.take_at(&owner, now) {
                        Ok(address) => {
                            prop_assert!(subnet.contains(address));
                            prop_assert!(owners.insert(address, owner).is_none());
                        }
                        Err(_) => prop_assert_eq!(owners.len(), 14),
                    },
                    1 => {
                        let address = IpAddr::V4(Ipv4Addr::new(10, 1, 2, pick));
                        let free = !owners.contains_key(&address);
                        let inside = (1..15).contains(&pick);
                        prop_assert_eq!(pool.take_exactly(address, &owner).is_ok(), free && inside);
                        if free && inside {
                            owners.insert(address, owner);
                        }
                    }
                    _ => {
                        let mut held: Vec<_> = owners.iter().map(|(a, o)| (*a, o.clone())).collect();
                        held.sort();
                        if let Some((address, holder)) = held.get(usize::from(pick)) {
                            pool.release_at(*address, holder, now);
                            owners.remove(address);
                        }
                    }
                }
                prop_assert_eq!(pool.in_use(), owners.len());
            }
        }
    }
}
