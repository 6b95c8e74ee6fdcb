//! Links of containers that run already. Those of a starting one are the launcher's work, in one message with the new
//! namespace; here the namespace is entered by a thread that lives for this only.

use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use longshore_model::{Error, Result};
use longshore_sys::netlink::{self, Batch, Protocol as Netlink, Socket, flags};
use rustix::io::Errno;

use crate::{
    Manager, host,
    link::{Links, add_address, link_header},
    manager::link_failed,
    types::Endpoint,
};

const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// Of both macvlan and ipvlan.
const IFLA_STACKED_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_BRIDGE: u8 = 7;

impl Manager {
    /// Makes the links of an endpoint: the inner one in `netns`, with its addresses, up. Default routes are left to
    /// [`Self::set_gateways`].
    ///
    /// # Errors
    /// What the kernel answered; no link is left then.
    pub fn plug(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<()> {
        let failed = |e: netlink::Error| link_failed("make", &endpoint.interface, &e);
        let mut socket =
            Socket::open(Netlink::Route).map_err(|e| Error::io("cannot use rtnetlink", e))?;
        let mut batch = Batch::new();
        if endpoint.stacked.is_some() {
            stacked_link(&mut batch, netns, endpoint);
        } else {
            veth_pair(&mut batch, netns, endpoint);
        }
        socket.request(&mut batch).map_err(failed)?;
        let configured =
            isolate(&mut socket, endpoint).and_then(|()| within(netns, || configure(endpoint)));
        if configured.is_err() {
            let _ = self.unplug(netns, endpoint);
        }
        configured
    }

    /// Removes the links of an endpoint, and with them their routes.
    ///
    /// # Errors
    /// What the kernel answered; links that are gone already are no error.
    pub fn unplug(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<()> {
        within(netns, || {
            let mut links = Links::open().map_err(|e| Error::io("cannot use rtnetlink", e))?;
            links
                .remove(&endpoint.interface)
                .map_err(|e| link_failed("remove", &endpoint.interface, &e))
        })
    }

    /// Writes settings below /proc/sys/net as the namespace sees them: (name with slashes, value).
    ///
    /// # Errors
    /// A name outside net, or one that is not there, or a value that the kernel refuses.
    pub fn set_sysctls(&self, netns: BorrowedFd<'_>, settings: &[(String, String)]) -> Result<()> {
        if settings.is_empty() {
            return Ok(());
        }
        within(netns, || {
            for (name, value) in settings {
                host::write_setting(name, value)
                    .map_err(|e| Error::io(format!("set sysctl {name}"), e))?;
            }
            Ok(())
        })
    }

    /// Makes these the default routes of `netns`, at most one a family: (interface, gateway). Others go.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_gateways(&self, netns: BorrowedFd<'_>, gateways: &[(String, IpAddr)]) -> Result<()> {
        within(netns, || {
            let mut socket =
                Socket::open(Netlink::Route).map_err(|e| Error::io("cannot use rtnetlink", e))?;
            for ipv6 in [false, true] {
                let wanted = gateways.iter().find(|(_, g)| g.is_ipv6() == ipv6);
                default_route(&mut socket, ipv6, wanted)
                    .map_err(|e| link_failed("set the default route of", "the container", &e))?;
            }
            Ok(())
        })
    }
}

/// Runs `work` on a thread that has entered the network namespace.
pub(crate) fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let entered = std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, || {
                longshore_sys::namespace::enter(netns, libc_clone_newnet())
                    .map_err(|e| Error::io("enter the container's network namespace", e))?;
                work()
            })
            .map_err(|e| Error::io("start a thread", e))?;
        entered
            .join()
            .unwrap_or_else(|_| Err(Error::system("the thread in the namespace panicked")))
    })
}

/// `CLONE_NEWNET`: nothing but a network namespace is entered.
const fn libc_clone_newnet() -> i32 {
    0x4000_0000
}

fn veth_pair(batch: &mut Batch, netns: BorrowedFd<'_>, endpoint: &Endpoint) {
    let mut message = batch.message(
        RTM_NEWLINK,
        flags::CREATE | flags::EXCL,
        &link_header(0, crate::link::IFF_UP),
    );
    message.string(IFLA_IFNAME, &endpoint.host_name);
    if endpoint.bridge_index != 0 {
        message.u32(IFLA_MASTER, endpoint.bridge_index);
    }
    message
        .u32(IFLA_MTU, endpoint.mtu)
        .u32(IFLA_TXQLEN, 0)
        .nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth")
                .nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&link_header(0, 0))
                            .string(IFLA_IFNAME, &endpoint.interface)
                            .put(IFLA_ADDRESS, &endpoint.mac)
                            .u32(IFLA_MTU, endpoint.mtu)
                            .u32(IFLA_TXQLEN, 0)
                            .u32(IFLA_NET_NS_FD, descriptor(netns));
                    });
                });
        });
}

fn stacked_link(batch: &mut Batch, netns: BorrowedFd<'_>, endpoint: &Endpoint) {
    let Some(stacked) = &endpoint.stacked else {
        return;
    };
    let mut message = batch.message(RTM_NEWLINK, flags::CREATE | flags::EXCL, &link_header(0, 0));
    message
        .string(IFLA_IFNAME, &endpoint.interface)
        .u32(IFLA_LINK, stacked.parent)
        .u32(IFLA_NET_NS_FD, descriptor(netns));
    if stacked.kind == "macvlan" {
        message.put(IFLA_ADDRESS, &endpoint.mac);
    }
    if endpoint.mtu != 0 {
        message.u32(IFLA_MTU, endpoint.mtu);
    }
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, &stacked.kind)
            .nest(IFLA_INFO_DATA, |data| {
                if stacked.kind == "macvlan" {
                    data.u32(IFLA_STACKED_MODE, stacked.mode);
                } else {
                    let mode = u16::try_from(stacked.mode).unwrap_or_default();
                    data.put(IFLA_STACKED_MODE, &mode.to_ne_bytes())
                        .put(IFLA_IPVLAN_FLAGS, &stacked.flags.to_ne_bytes());
                }
            });
    });
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or_default()
}

fn index_of(socket: &Socket, name: &str) -> Result<u32> {
    rustix::net::netdevice::name_to_index(socket.as_fd(), name)
        .map_err(|e| Error::io(format!("find {name}"), std::io::Error::from(e)))
}

fn isolate(socket: &mut Socket, endpoint: &Endpoint) -> Result<()> {
    if !endpoint.isolated || endpoint.stacked.is_some() {
        return Ok(());
    }
    let index = index_of(socket, &endpoint.host_name)?;
    let mut header = link_header(index, 0);
    header[0] = AF_BRIDGE;
    let mut batch = Batch::new();
    batch
        .message(RTM_SETLINK, 0, &header)
        .nest(IFLA_PROTINFO, |port| {
            port.u8(IFLA_BRPORT_ISOLATED, 1);
        });
    socket
        .request(&mut batch)
        .map_err(|e| link_failed("isolate", &endpoint.host_name, &e))
}

/// In the namespace: no IPv6 where there is none, addresses, up.
fn configure(endpoint: &Endpoint) -> Result<()> {
    let mut socket =
        Socket::open(Netlink::Route).map_err(|e| Error::io("cannot use rtnetlink", e))?;
    let index = index_of(&socket, &endpoint.interface)?;
    host::switch_ipv6(&endpoint.interface, endpoint.ip6.is_some());
    let mut batch = Batch::new();
    for (address, prefix) in endpoint.addresses() {
        add_address(&mut batch, index, address, prefix);
    }
    batch.message(RTM_SETLINK, 0, &link_header(index, crate::link::IFF_UP));
    socket
        .request(&mut batch)
        .map_err(|e| link_failed("configure", &endpoint.interface, &e))
}

fn default_route(
    socket: &mut Socket,
    ipv6: bool,
    wanted: Option<&(String, IpAddr)>,
) -> std::result::Result<(), netlink::Error> {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    const RT_SCOPE_LINK: u8 = 253;
    let mut header = [0u8; 12];
    header[0] = if ipv6 { 10 } else { 2 };
    header[4] = RT_TABLE_MAIN;
    // There may be several, of links that go; each deletion takes one.
    loop {
        let mut batch = Batch::new();
        batch.message(RTM_DELROUTE, 0, &header);
        match socket.request(&mut batch) {
            Ok(()) => {}
            // No such route, or (IPv6) no table yet.
            Err(error) if error.is(Errno::SRCH) || error.is(Errno::NOENT) => break,
            // No IPv6 in this kernel.
            Err(error) if ipv6 && error.is(Errno::OPNOTSUPP) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    let Some((interface, gateway)) = wanted else {
        return Ok(());
    };
    let index = rustix::net::netdevice::name_to_index(socket.as_fd(), interface).unwrap_or(0);
    header[5] = RTPROT_BOOT;
    header[7] = RTN_UNICAST;
    let octets = match gateway {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let direct = gateway.is_unspecified();
    if direct {
        header[6] = RT_SCOPE_LINK;
    }
    let mut batch = Batch::new();
    let mut message = batch.message(RTM_NEWROUTE, flags::CREATE | flags::REPLACE, &header);
    if !direct {
        message.put(RTA_GATEWAY, &octets);
    }
    message.u32(RTA_OIF, index);
    socket.request(&mut batch)
}
