//! Links, addresses and routes of the host, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use longshore_sys::netlink::{self, Attributes, Batch, Protocol as Netlink, Socket, flags};
use rustix::io::Errno;

use crate::types::Subnet;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

pub const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Lengths of the fixed headers.
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;

/// A link, as far as we care.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, empty for hardware.
    pub kind: String,
    pub mtu: u32,
    /// ifindex of the bridge it is a port of, 0 for none.
    pub master: u32,
    pub alias: String,
}

/// A connection to rtnetlink.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

type Result<T> = std::result::Result<T, netlink::Error>;

impl Links {
    /// # Errors
    /// The errno of socket or bind.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self {
            socket: Socket::open(Netlink::Route)?,
        })
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// What the kernel answered, but for a missing link.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>> {
        let mut batch = Batch::new();
        batch
            .message(RTM_GETLINK, 0, &link_header(0, 0))
            .string(IFLA_IFNAME, name);
        let mut found = None;
        match self.socket.query(&mut batch, |m| found = read_link(m)) {
            Ok(()) => Ok(found),
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn list(&mut self) -> Result<Vec<Link>> {
        self.dump(RTM_GETLINK, &link_header(0, 0), read_link)
    }

    /// Makes a bridge and sets it up. Its hardware address is fixed from the start: otherwise it would follow its ports.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn make_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32, alias: &str) -> Result<()> {
        let mut batch = Batch::new();
        let mut message = batch.message(
            RTM_NEWLINK,
            flags::CREATE | flags::EXCL,
            &link_header(0, IFF_UP),
        );
        message
            .string(IFLA_IFNAME, name)
            .put(IFLA_ADDRESS, &mac)
            .nest(IFLA_LINKINFO, |m| {
                m.string(IFLA_INFO_KIND, "bridge");
            });
        if mtu != 0 {
            message.u32(IFLA_MTU, mtu);
        }
        // Not every kernel takes the alias in the first message.
        batch
            .message(RTM_NEWLINK, 0, &link_header(0, 0))
            .string(IFLA_IFNAME, name)
            .put(IFLA_IFALIAS, alias.as_bytes());
        self.socket.request(&mut batch)
    }

    /// Brings a link up; `mtu` 0 leaves its own.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_up(&mut self, index: u32, mtu: u32) -> Result<()> {
        let mut batch = Batch::new();
        let mut message = batch.message(RTM_NEWLINK, 0, &link_header(index, IFF_UP));
        if mtu != 0 {
            message.u32(IFLA_MTU, mtu);
        }
        self.socket.request(&mut batch)
    }

    /// Removes a link. Slow: the kernel waits for all users of the device (about 20 ms).
    ///
    /// # Errors
    /// What the kernel answered, but for a missing link.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch
            .message(RTM_DELLINK, 0, &link_header(0, 0))
            .string(IFLA_IFNAME, name);
        match self.socket.request(&mut batch) {
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Addresses with their prefix lengths, and the index of their link.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr, u8)>> {
        self.dump(RTM_GETADDR, &[0; IFADDRMSG], |m| {
            let attributes = m.attributes(IFADDRMSG);
            // With a point-to-point link IFA_ADDRESS is the other side.
            let address = attributes
                .find(IFA_LOCAL)
                .or_else(|| attributes.find(IFA_ADDRESS))
                .and_then(ip)?;
            let index = m.payload.get(4..).and_then(netlink::u32_of)?;
            Some((index, address, *m.payload.get(1)?))
        })
    }

    /// Adds (or, with `remove`, removes) an address.
    ///
    /// # Errors
    /// What the kernel answered; an address that is there already is no error.
    pub fn address(&mut self, index: u32, address: IpAddr, prefix: u8, remove: bool) -> Result<()> {
        let mut batch = Batch::new();
        if remove {
            address_message(&mut batch, RTM_DELADDR, 0, index, address, prefix);
        } else {
            add_address(&mut batch, index, address, prefix);
        }
        self.socket.request(&mut batch)
    }

    /// Takes all addresses from a link but those that the kernel gave it itself.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn clear_addresses(&mut self, index: u32) -> Result<()> {
        for (of, address, prefix) in self.addresses()? {
            if of == index {
                match self.address(index, address, prefix, true) {
                    Err(error) if !error.is(Errno::ADDRNOTAVAIL) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Makes a link a port of the bridge with this index.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_master(&mut self, name: &str, bridge: u32) -> Result<()> {
        let mut batch = Batch::new();
        batch
            .message(RTM_NEWLINK, 0, &link_header(0, IFF_UP))
            .string(IFLA_IFNAME, name)
            .u32(IFLA_MASTER, bridge);
        self.socket.request(&mut batch)
    }

    /// Destinations that the host has routes to, default routes left out, with the index of the link they use.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn routes(&mut self) -> Result<Vec<(u32, Subnet)>> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTN_UNICAST: u8 = 1;
        self.dump(RTM_GETROUTE, &[0; RTMSG], |m| {
            let (prefix, kind) = (*m.payload.get(1)?, *m.payload.get(7)?);
            let attributes = m.attributes(RTMSG);
            let destination = attributes.find(RTA_DST).and_then(ip)?;
            let index = attributes.find(RTA_OIF).and_then(netlink::u32_of);
            (kind == RTN_UNICAST && prefix > 0)
                .then(|| (index.unwrap_or(0), Subnet::of(destination, prefix)))
        })
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        header: &[u8],
        read: impl Fn(&netlink::Received<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        const ATTEMPTS: usize = 10;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut found = Vec::new();
            let mut batch = Batch::new();
            batch.message(kind, flags::DUMP, header);
            match self.socket.dump(&mut batch, |m| found.extend(read(m))) {
                Ok(()) => return Ok(found),
                // Links came and went meanwhile; after some tries take what there is.
                Err(error) if error.is(Errno::INTR) && attempt < ATTEMPTS => {}
                Err(error) if error.is(Errno::INTR) => return Ok(found),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Adds the request for an address to a batch. An address that is there already is no error.
pub fn add_address(batch: &mut Batch, index: u32, address: IpAddr, prefix: u8) {
    let how = flags::CREATE | flags::REPLACE;
    address_message(batch, RTM_NEWADDR, how, index, address, prefix);
}

fn address_message(
    batch: &mut Batch,
    kind: u16,
    how: u16,
    index: u32,
    address: IpAddr,
    prefix: u8,
) {
    // The address is ours by the books; a look for duplicates would delay the first connection by a second.
    const IFA_F_NODAD: u8 = 2;
    let mut header = [0u8; IFADDRMSG];
    header[1] = prefix;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    match address {
        IpAddr::V4(v4) => {
            header[0] = AF_INET;
            let mut message = batch.message(kind, how, &header);
            message
                .put(IFA_LOCAL, &v4.octets())
                .put(IFA_ADDRESS, &v4.octets());
            if prefix < 31 {
                let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                let broadcast = Ipv4Addr::from(u32::from(v4) | hosts);
                message.put(IFA_BROADCAST, &broadcast.octets());
            }
        }
        IpAddr::V6(v6) => {
            header[0] = AF_INET6;
            header[2] = IFA_F_NODAD;
            batch
                .message(kind, how, &header)
                .put(IFA_ADDRESS, &v6.octets());
        }
    }
}

/// `struct ifinfomsg`; `up` is IFF_UP or 0.
pub fn link_header(index: u32, up: u32) -> [u8; IFINFOMSG] {
    let mut header = [0u8; IFINFOMSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&up.to_ne_bytes());
    header[12..16].copy_from_slice(&up.to_ne_bytes());
    header
}

fn read_link(m: &netlink::Received<'_>) -> Option<Link> {
    if m.kind != RTM_NEWLINK {
        return None;
    }
    let mut link = Link {
        index: m.payload.get(4..).and_then(netlink::u32_of)?,
        ..Link::default()
    };
    for (number, payload) in m.attributes(IFINFOMSG) {
        match number {
            IFLA_IFNAME => link.name = netlink::text(payload).to_owned(),
            IFLA_MTU => link.mtu = netlink::u32_of(payload).unwrap_or_default(),
            IFLA_MASTER => link.master = netlink::u32_of(payload).unwrap_or_default(),
            IFLA_IFALIAS => link.alias = netlink::text(payload).to_owned(),
            IFLA_LINKINFO => {
                if let Some(kind) = Attributes::nested(payload).find(IFLA_INFO_KIND) {
                    link.kind = netlink::text(kind).to_owned();
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn ip(payload: &[u8]) -> Option<IpAddr> {
    match payload.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(payload).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(payload).ok()?).into()),
        _ => None,
    }
}
