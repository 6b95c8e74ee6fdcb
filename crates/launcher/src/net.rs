//! Interfaces of a container: a veth pair whose inner end is born in the container's network namespace. Moving it there afterwards would
//! cost 16 ms under the kernel's network lock.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use longshore_sys::netlink::{Batch, Error, Protocol, Socket, flags};

use crate::plan::{InterfacePlan, LaunchFailure, StackedPlan};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// Of both macvlan and ipvlan.
const IFLA_STACKED_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;
const AF_BRIDGE: u8 = 7;
/// `lo` is 1 in a fresh namespace; ours follow.
const FIRST_INDEX: u32 = 2;

/// `struct ifinfomsg`.
fn link_header(family: u8, index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        header[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    header
}

fn failure(doing: &str, error: Error) -> LaunchFailure {
    let text = if error.text.is_empty() {
        String::new()
    } else {
        format!(" ({})", error.text)
    };
    LaunchFailure::system(format_args!("{doing}{text}"), io::Error::from(error))
}

/// How long the kernel may take to load the module for veth pairs.
const MODULE_PATIENCE: Duration = Duration::from_secs(5);

/// Makes all pairs: host ends up and on their bridges, inner ends down in the network namespace of `pid`.
pub(crate) fn create(interfaces: &[InterfacePlan], pid: i32) -> Result<(), LaunchFailure> {
    let mut socket = Socket::open(Protocol::Route)
        .map_err(|error| LaunchFailure::system("open a netlink socket", error))?;
    let begin = Instant::now();
    // The first pair of the host loads the kernel's module. Who asks while another's request still loads it is told that there
    // is no such kind of link.
    while let Err(error) = socket.request(&mut pairs(interfaces, pid)) {
        let loading = error.errno == libc::EOPNOTSUPP;
        if !loading || begin.elapsed() > MODULE_PATIENCE {
            return Err(failure("make the container's interface", error));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    isolate(interfaces, &mut socket)
}

fn pairs(interfaces: &[InterfacePlan], pid: i32) -> Batch {
    let mut batch = Batch::new();
    for (index, interface) in (FIRST_INDEX..).zip(interfaces) {
        if let Some(stacked) = &interface.stacked {
            stacked_link(&mut batch, index, interface, stacked, pid);
            continue;
        }
        let mut message = batch.message(
            RTM_NEWLINK,
            flags::CREATE | flags::EXCL,
            &link_header(0, 0, true),
        );
        message.string(IFLA_IFNAME, &interface.host_name);
        if interface.bridge_index != 0 {
            message.u32(IFLA_MASTER, interface.bridge_index);
        }
        message
            .u32(IFLA_MTU, interface.mtu)
            .u32(IFLA_TXQLEN, 0)
            .nest(IFLA_LINKINFO, |info| {
                info.string(IFLA_INFO_KIND, "veth")
                    .nest(IFLA_INFO_DATA, |data| {
                        data.nest(VETH_INFO_PEER, |peer| {
                            peer.raw(&link_header(0, index, false))
                                .string(IFLA_IFNAME, &interface.name)
                                .put(IFLA_ADDRESS, &interface.mac)
                                .u32(IFLA_MTU, interface.mtu)
                                .u32(IFLA_TXQLEN, 0)
                                .u32(IFLA_NET_NS_PID, pid as u32);
                        });
                    });
            });
    }
    batch
}

/// A link on top of one of the host's, born in the network namespace of `pid`.
fn stacked_link(
    batch: &mut Batch,
    index: u32,
    interface: &InterfacePlan,
    stacked: &StackedPlan,
    pid: i32,
) {
    let mut message = batch.message(
        RTM_NEWLINK,
        flags::CREATE | flags::EXCL,
        &link_header(0, index, false),
    );
    message
        .string(IFLA_IFNAME, &interface.name)
        .u32(IFLA_LINK, stacked.parent)
        .u32(IFLA_NET_NS_PID, pid as u32);
    let macvlan = stacked.kind == "macvlan";
    if macvlan {
        message.put(IFLA_ADDRESS, &interface.mac);
    }
    if interface.mtu != 0 {
        message.u32(IFLA_MTU, interface.mtu);
    }
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, &stacked.kind)
            .nest(IFLA_INFO_DATA, |data| {
                if macvlan {
                    data.u32(IFLA_STACKED_MODE, stacked.mode);
                } else {
                    data.put(IFLA_STACKED_MODE, &(stacked.mode as u16).to_ne_bytes())
                        .put(IFLA_IPVLAN_FLAGS, &stacked.flags.to_ne_bytes());
                }
            });
    });
}

fn isolate(interfaces: &[InterfacePlan], socket: &mut Socket) -> Result<(), LaunchFailure> {
    let mut batch = Batch::new();
    for interface in interfaces.iter().filter(|i| i.isolated) {
        let doing = |error| LaunchFailure::system("find the container's interface", error);
        let index =
            rustix::net::netdevice::name_to_index(&*socket, &interface.host_name).map_err(doing)?;
        batch
            .message(RTM_SETLINK, 0, &link_header(AF_BRIDGE, index, false))
            .nest(IFLA_PROTINFO, |port| {
                port.u8(IFLA_BRPORT_ISOLATED, 1);
            });
    }
    socket
        .request(&mut batch)
        .map_err(|error| failure("isolate the container's interface", error))
}

/// In the container: loopback, addresses, links and routes in one batch.
pub(crate) fn configure(interfaces: &[InterfacePlan]) -> Result<(), LaunchFailure> {
    let mut socket = Socket::open(Protocol::Route)
        .map_err(|error| LaunchFailure::system("open a netlink socket", error))?;
    let mut batch = Batch::new();
    batch.message(RTM_SETLINK, 0, &link_header(0, 1, true));
    for (index, interface) in (FIRST_INDEX..).zip(interfaces) {
        for (address, prefix) in &interface.addresses {
            add_address(&mut batch, index, *address, *prefix);
        }
        batch.message(RTM_SETLINK, 0, &link_header(0, index, true));
        for gateway in &interface.gateways {
            add_default_route(&mut batch, index, *gateway);
        }
    }
    socket
        .request(&mut batch)
        .map_err(|error| failure("configure the container's interface", error))
}

fn family(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}

fn add_address(batch: &mut Batch, index: u32, address: IpAddr, prefix: u8) {
    let (family, bytes) = family(address);
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = batch.message(RTM_NEWADDR, flags::CREATE | flags::EXCL, &header);
    message.put(IFA_LOCAL, &bytes).put(IFA_ADDRESS, &bytes);
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let broadcast = u32::from(v4) | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            message.put(IFA_BROADCAST, &broadcast.to_be_bytes());
        }
        IpAddr::V4(_) => {}
        // The address is ours by IPAM; waiting for duplicates would delay the first connection by a second.
        IpAddr::V6(_) => {
            message.u32(IFA_FLAGS, IFA_F_NODAD);
        }
    }
}

fn add_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    const RT_SCOPE_LINK: u8 = 253;
    let (family, bytes) = family(gateway);
    let mut header = [0u8; 12];
    header[0] = family;
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_BOOT;
    header[7] = RTN_UNICAST;
    let direct = gateway.is_unspecified();
    if direct {
        header[6] = RT_SCOPE_LINK;
    }
    let mut message = batch.message(RTM_NEWROUTE, flags::CREATE | flags::EXCL, &header);
    if !direct {
        message.put(RTA_GATEWAY, &bytes);
    }
    message.u32(RTA_OIF, index);
}
