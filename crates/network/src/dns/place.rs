//! Where a container's resolver listens: two sockets in the container's network namespace, and the rules there that lead
//! 127.0.0.11:53 to them. Port 53 itself stays free: a container may run a name server of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use longshore_model::{Error, Result, id::random_bytes};
use longshore_sys::namespace;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with},
};

use crate::nft::{
    self,
    expr::{Expr, Meta, R0, R1, Rule},
    rules::{Chain, Ruleset},
};

/// What a container's resolv.conf names.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The table in the container's namespace.
const TABLE: &str = "longshore-dns";
const CHAIN: &str = "nat-output";
const BACKLOG: i32 = 128;
/// So many ports are tried in a namespace in which others listen already.
const ATTEMPTS: usize = 32;

/// Where a resolver listens: non-blocking, bound, the second one listening.
#[derive(Debug)]
pub struct Sockets {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
}

/// The port for a container's sockets, always the same one, in a range that programs rarely bind. In a fresh namespace it
/// is free; and a daemon that comes back finds the rules as it needs them.
pub fn port_of(container: &str) -> u16 {
    // FNV-1a
    let hash = container.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    port_from((hash ^ (hash >> 16)) as u16)
}

fn port_from(bits: u16) -> u16 {
    0xc000 | (bits & 0x3fff)
}

/// nf_tables messages, one transaction, that lead 127.0.0.11:53 to 127.0.0.11:`port` in a fresh namespace.
pub fn redirection(port: u16) -> Vec<u8> {
    nft::creation(TABLE, &ruleset(port)).into_bytes()
}

/// Do the rules of the calling thread's namespace lead to this port already?
fn leads_to(port: u16) -> io::Result<bool> {
    // The attribute that loads the port: length, NFTA_DATA_VALUE, value.
    let [high, low] = port.to_be_bytes();
    let length = 6u16.to_ne_bytes();
    let kind = 1u16.to_ne_bytes();
    let wanted = [length[0], length[1], kind[0], kind[1], high, low];
    let rules = nft::rules_of(TABLE)?;
    let loads = |rule: &&Vec<u8>| rule.windows(wanted.len()).any(|bytes| bytes == wanted);
    Ok(rules.len() == 2 && rules.iter().filter(loads).count() == 2)
}

fn ruleset(port: u16) -> Ruleset {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let equals = |data: &[u8]| Expr::Cmp {
        not: false,
        from: R0,
        data: data.to_vec(),
    };
    let rule = |protocol: u8| {
        Rule::new(CHAIN)
            .family(false)
            .also(Expr::Network {
                offset: 16,
                length: 4,
                to: R0,
            })
            .also(equals(&ADDRESS.octets()))
            .also(Expr::Meta(Meta::L4Proto, R0))
            .also(equals(&[protocol]))
            .also(Expr::Transport {
                offset: 2,
                length: 2,
                to: R0,
            })
            .also(equals(&53u16.to_be_bytes()))
            .also(Expr::Value {
                to: R0,
                data: ADDRESS.octets().to_vec(),
            })
            .also(Expr::Value {
                to: R1,
                data: port.to_be_bytes().to_vec(),
            })
            .also(Expr::Dnat {
                ipv6: false,
                address: R0,
                port: R1,
            })
    };
    Ruleset {
        chains: vec![Chain::nat_output(CHAIN)],
        rules: vec![rule(UDP), rule(TCP)],
        ..Ruleset::default()
    }
}

/// Opens sockets in the namespace of a container that runs, and makes the rules, in place of those that are there, unless
/// they are right.
///
/// # Errors
/// The namespace is gone or not ours to enter; no free port; what nf_tables answered.
pub fn open_in(namespace: BorrowedFd<'_>, container: &str) -> Result<Sockets> {
    let usual = port_of(container);
    let work = || {
        namespace::enter(namespace, libc::CLONE_NEWNET)?;
        let mut attempts = 0;
        loop {
            let port = if attempts == 0 {
                usual
            } else {
                port_from(u16::from_be_bytes(random_bytes()))
            };
            attempts += 1;
            match open(port) {
                Ok(sockets) if leads_to(port)? => return Ok(sockets),
                Ok(sockets) => {
                    nft::install(nft::replacement(TABLE, &ruleset(port)))?;
                    return Ok(sockets);
                }
                Err(Errno::ADDRINUSE) if attempts < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    // A thread that lives for this only: what enters a namespace does not come back.
    let done: io::Result<Sockets> = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("dns-place".to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panicked")))
    });
    done.map_err(|e| Error::io("cannot serve DNS in the container", e))
}

fn open(port: u16) -> rustix::io::Result<Sockets> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let address = SocketAddrV4::new(ADDRESS, port);
    let udp = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    bind(&udp, &address)?;
    let tcp = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&tcp, &address)?;
    listen(&tcp, BACKLOG)?;
    Ok(Sockets { udp, tcp })
}

/// A socket in the namespace that `beside` is in; the calling thread is back in `home` afterwards.
///
/// # Panics
/// When the way home is barred: whatever this thread did next would happen in the container's network.
pub(super) fn socket_beside(
    beside: BorrowedFd<'_>,
    home: BorrowedFd<'_>,
    make: impl FnOnce() -> rustix::io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let there = namespace::network_namespace_of(beside)?;
    namespace::enter(there.as_fd(), libc::CLONE_NEWNET)?;
    let made = make();
    if let Err(error) = namespace::enter(home, libc::CLONE_NEWNET) {
        panic!("cannot leave a container's network: {error}");
    }
    Ok(made?)
}
