//! The sockets of a container's name server, made in its network namespace before its program runs: its first question is
//! not lost, whoever answers it later.

use std::{
    net::SocketAddrV4,
    os::fd::{AsFd, OwnedFd},
};

use longshore_sys::netlink::{Batch, Protocol, Socket};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::{
    channel::{Channel, Word},
    failure::Context,
    plan::{LaunchFailure, ResolverPlan},
};

const BACKLOG: i32 = 128;

/// Makes sockets and rules, and hands the sockets out: UDP, then TCP. Loopback is up by now.
pub(crate) fn hand_out(plan: &ResolverPlan, channel: &Channel) -> Result<(), LaunchFailure> {
    let address = SocketAddrV4::new(plan.address, plan.port);
    for kind in [SocketType::DGRAM, SocketType::STREAM] {
        let socket = open(address, kind).context("make the sockets of the name server")?;
        channel
            .send(&Word::Resolver(socket))
            .context("hand out the name server")?;
    }
    let refused = || LaunchFailure::system("rules for the name server", rustix::io::Errno::INVAL);
    let mut rules = Batch::from_bytes(plan.rules.clone()).ok_or_else(refused)?;
    let mut socket = Socket::open(Protocol::Netfilter).context("open a netfilter socket")?;
    let made = socket.transact(&mut rules).map_err(std::io::Error::from);
    made.context("make the rules for the name server")
}

fn open(address: SocketAddrV4, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
    bind(socket.as_fd(), &address)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}
