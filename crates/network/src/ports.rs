//! Host ports: which are taken, and the sockets that keep them taken.
//!
//! Every published port holds a bound, listening socket on the host. Traffic normally never reaches it, because the
//! rules change the destination before the host looks for a socket; it stops other processes from taking the port, and
//! what does arrive (IPv6 for a container without IPv6, or while rules are missing) is served by the relay.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::fd::{AsFd, OwnedFd},
};

use longshore_model::{Error, Result, error::go_errno};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt},
};

use crate::types::{PortBinding, Protocol, PublishedPort};

/// What the kernel uses when /proc does not say.
const DEFAULT_RANGE: (u16, u16) = (32768, 60999);
/// How often an ephemeral port that some process of the host holds is passed over.
const ATTEMPTS: usize = 64;

/// A host port of ours.
#[derive(Debug)]
pub struct Held {
    address: IpAddr,
    /// The relay's name for the socket, when there is one.
    pub relay: Option<u64>,
}

/// All host ports of an engine.
#[derive(Debug)]
pub struct Ports {
    held: HashMap<(Protocol, u16), Vec<Held>>,
    range: (u16, u16),
    /// Ports that the administrator keeps out of automatic choice.
    reserved: Vec<RangeInclusive<u16>>,
    last: HashMap<Protocol, u16>,
}

/// A port that is taken and its socket, not yet handed to the relay. SCTP has no socket where the kernel has no SCTP.
#[derive(Debug)]
pub struct Taken {
    pub port: PublishedPort,
    pub socket: Option<OwnedFd>,
}

impl Ports {
    pub fn new() -> Self {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let mut words = text.iter().flat_map(|t| t.split_whitespace());
        let mut next = || words.next().and_then(|w| w.parse::<u16>().ok());
        let range = match (next(), next()) {
            (Some(first), Some(last)) if first > 0 && first <= last => (first, last),
            _ => DEFAULT_RANGE,
        };
        let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
        Self {
            held: HashMap::new(),
            range,
            reserved: ranges(&reserved.unwrap_or_default()),
            last: HashMap::new(),
        }
    }

    /// Takes the port that `wanted` asks for, on all of `addresses` alike.
    ///
    /// # Errors
    /// dockerd's texts for a port of another container, of another process, and an exhausted range. Nothing is taken then.
    pub fn take(&mut self, wanted: &PortBinding, addresses: &[IpAddr]) -> Result<Vec<Taken>> {
        if wanted.host_port != 0 && wanted.host_port_end <= wanted.host_port {
            return self.take_one(wanted, addresses, wanted.host_port);
        }
        let ephemeral = wanted.host_port == 0;
        let (first, last) = if ephemeral {
            self.range
        } else {
            (wanted.host_port, wanted.host_port_end)
        };
        let mut candidate = match self.last.get(&wanted.proto) {
            Some(&given) if ephemeral && given < last => given + 1,
            _ => first,
        };
        let mut failure = None;
        let mut refused = 0;
        for _ in first..=last {
            let reserved = ephemeral && self.reserved.iter().any(|r| r.contains(&candidate));
            if !reserved && self.holder(wanted.proto, addresses, candidate).is_none() {
                match self.take_one(wanted, addresses, candidate) {
                    Ok(taken) => {
                        if ephemeral {
                            self.last.insert(wanted.proto, candidate);
                        }
                        return Ok(taken);
                    }
                    Err(error) => failure = Some(error),
                }
                refused += 1;
                if refused == ATTEMPTS {
                    break;
                }
            }
            candidate = if candidate == last {
                first
            } else {
                candidate + 1
            };
        }
        Err(failure.unwrap_or_else(|| Error::system("all ports are allocated")))
    }

    fn take_one(
        &mut self,
        wanted: &PortBinding,
        addresses: &[IpAddr],
        number: u16,
    ) -> Result<Vec<Taken>> {
        if let Some(address) = self.holder(wanted.proto, addresses, number) {
            return Err(Error::system(format!(
                "Bind for {address}:{number} failed: port is already allocated"
            )));
        }
        let mut taken = Vec::with_capacity(addresses.len());
        for &address in addresses {
            taken.push(Taken {
                socket: reserve(wanted.proto, address, number)?,
                port: PublishedPort {
                    proto: wanted.proto,
                    container_port: wanted.container_port,
                    host_ip: address,
                    host_port: number,
                },
            });
        }
        for &address in addresses {
            self.hold(wanted.proto, address, number);
        }
        Ok(taken)
    }

    /// Which of our addresses stands in the way: a wildcard collides with every address of its family.
    fn holder(&self, proto: Protocol, addresses: &[IpAddr], number: u16) -> Option<IpAddr> {
        let held = self.held.get(&(proto, number))?;
        held.iter().map(|h| h.address).find(|taken| {
            addresses.iter().any(|wanted| {
                taken == wanted
                    || taken.is_ipv4() == wanted.is_ipv4()
                        && (taken.is_unspecified() || wanted.is_unspecified())
            })
        })
    }

    fn hold(&mut self, proto: Protocol, address: IpAddr, number: u16) {
        let held = self.held.entry((proto, number)).or_default();
        held.push(Held {
            address,
            relay: None,
        });
    }

    /// Takes a port that a container had before the daemon restarted. The container keeps it even when some process got
    /// hold of the socket meanwhile: `Err` says so, the port is ours in the books all the same.
    ///
    /// # Errors
    /// The text for the operator.
    pub fn take_back(&mut self, port: &PublishedPort) -> Result<Option<OwnedFd>> {
        if self
            .holder(port.proto, &[port.host_ip], port.host_port)
            .is_some()
        {
            return Err(Error::system(format!(
                "Bind for {}:{} failed: port is already allocated",
                port.host_ip, port.host_port
            )));
        }
        self.hold(port.proto, port.host_ip, port.host_port);
        reserve(port.proto, port.host_ip, port.host_port)
    }

    /// The entry of a held port.
    pub fn entry(&mut self, port: &PublishedPort) -> Option<&mut Held> {
        self.held
            .get_mut(&(port.proto, port.host_port))?
            .iter_mut()
            .find(|h| h.address == port.host_ip)
    }

    /// Forgets a port; the answer is the relay's name of its socket.
    pub fn give_back(&mut self, port: &PublishedPort) -> Option<u64> {
        let key = (port.proto, port.host_port);
        let held = self.held.get_mut(&key)?;
        let index = held.iter().position(|h| h.address == port.host_ip)?;
        let gone = held.swap_remove(index);
        if held.is_empty() {
            self.held.remove(&key);
        }
        gone.relay
    }
}

/// `8080,9148-9150`
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

/// Whether sockets can be bound to IPv6 here.
pub fn ipv6_usable() -> bool {
    open_bound(
        Protocol::Tcp,
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
    )
    .is_ok()
}

/// The addresses that a binding without host address stands for.
pub fn wildcard_addresses() -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    if ipv6_usable() {
        addresses.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    addresses
}

fn reserve(proto: Protocol, address: IpAddr, number: u16) -> Result<Option<OwnedFd>> {
    let target = SocketAddr::new(address, number);
    match open_bound(proto, target) {
        Ok(socket) => Ok(Some(socket)),
        // No SCTP in this kernel: the rules work without.
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if proto == Protocol::Sctp => Ok(None),
        // In the words for a port of another container, which clients look for, and those for a process of the host.
        Err(error @ Errno::ADDRINUSE) => Err(Error::system(format!(
            "Bind for {address}:{number} failed: port is already allocated: failed to bind host port {target}/{proto}: {}",
            go_errno(&error.into())
        ))),
        Err(error) => Err(Error::system(format!(
            "failed to bind host port {target}/{proto}: {}",
            go_errno(&error.into())
        ))),
    }
}

fn open_bound(proto: Protocol, address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    const BACKLOG: i32 = 4096;
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match proto {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, Some(number))?;
    if proto != Protocol::Udp {
        // Old connections in TIME_WAIT must not stop us. As we listen, nobody else gets the port by the same option.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if proto == Protocol::Udp {
        // The relay's answers must come from the address that was called. Without this only clients of the host's first
        // address are served.
        let _ = longshore_sys::datagram::report_local(socket.as_fd(), address.is_ipv6());
    }
    bind(&socket, &address)?;
    if proto != Protocol::Udp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports() {
        assert_eq!(ranges("8080,9148-9150\n"), [8080..=8080, 9148..=9150]);
        assert_eq!(ranges("\n"), []);
    }
}
