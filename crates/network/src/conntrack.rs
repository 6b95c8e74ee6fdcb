//! Forgets what the kernel remembers of UDP flows that went elsewhere.
//!
//! A connection's first packet decides where all go. A UDP client that keeps sending from one port never makes a new
//! connection, so a flow that began before its port was published (or belongs to a container that is gone) would go astray
//! for as long as the client goes on.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use longshore_sys::netlink::{
    Attributes, Batch, Error, Protocol as Netlink, Received, Socket, flags,
};

use crate::link::Links;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Which flows to forget.
#[derive(Debug, Default)]
struct Stale {
    /// Host ports.
    ports: HashSet<u16>,
    /// The containers that they lead to.
    containers: HashSet<IpAddr>,
    /// Addresses of this host: flows to one of them that nobody redirected are stale as well.
    host: HashSet<IpAddr>,
}

/// Forgets flows on a thread of its own, which ends when there is nothing more to do: the walk through the kernel's table
/// takes tens of milliseconds on large machines, too long for a container's start.
#[derive(Debug, Default)]
pub struct Janitor {
    work: Arc<Mutex<Work>>,
}

#[derive(Debug, Default)]
struct Work {
    running: bool,
    waiting: Option<Stale>,
}

impl Janitor {
    /// Forgets UDP flows to these host ports that are not redirected, or go to these containers. Orders that come while
    /// the thread is busy are carried out together.
    pub fn order(
        &self,
        ports: impl Iterator<Item = u16>,
        containers: impl Iterator<Item = IpAddr>,
    ) {
        let mut work = lock(&self.work);
        let stale = work.waiting.get_or_insert_default();
        stale.ports.extend(ports);
        stale.containers.extend(containers);
        if work.running {
            return;
        }
        work.running = true;
        let shared = Arc::clone(&self.work);
        let started = std::thread::Builder::new()
            .name("conntrack".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                loop {
                    let mut work = lock(&shared);
                    let Some(stale) = work.waiting.take() else {
                        work.running = false;
                        return;
                    };
                    drop(work);
                    // Best effort: what stays ends by itself when its client is silent for some time.
                    let _ = forget(stale);
                }
            });
        // No thread to be had: the next order tries again.
        work.running = started.is_ok();
    }
}

fn lock(work: &Mutex<Work>) -> MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One flow: how it came, and who answers.
struct Flow {
    original: Vec<u8>,
    id: Vec<u8>,
    destination: IpAddr,
    port: u16,
    answerer: IpAddr,
}

/// Removes stale UDP flows; those that end meanwhile are no error.
fn forget(mut stale: Stale) -> std::io::Result<()> {
    let addresses = Links::open()?.addresses()?;
    stale.host = addresses.into_iter().map(|(_, a, _)| a).collect();
    let mut socket = Socket::open(Netlink::Netfilter)?;
    for family in [AF_INET, AF_INET6] {
        if family == AF_INET6 && stale.containers.iter().all(IpAddr::is_ipv4) {
            continue;
        }
        let header = [family, 0, 0, 0];
        let mut found = Vec::new();
        list(&mut socket, &header, |m| {
            found.extend(read(m).filter(|flow| stale.covers(flow)));
        })?;
        for some in found.chunks(100) {
            let mut batch = Batch::new();
            for flow in some {
                batch
                    .message(SUBSYSTEM << 8 | DELETE, 0, &header)
                    .put(CTA_TUPLE_ORIG, &flow.original)
                    .put(CTA_ID, &flow.id);
            }
            // Each stands for itself: one that has ended must not save the others.
            socket.request_each(&mut batch)?;
        }
    }
    Ok(())
}

fn list(
    socket: &mut Socket,
    header: &[u8],
    mut visit: impl FnMut(&Received<'_>),
) -> Result<(), Error> {
    const FILTER_ORIG_FLAGS: u16 = 1;
    const BY_PROTOCOL: u32 = 1 << 3;
    let mut batch = Batch::new();
    // Kernels before 5.8 do not know the filter and list everything.
    batch
        .message(SUBSYSTEM << 8 | GET, flags::DUMP, header)
        .nest(CTA_TUPLE_ORIG, |tuple| {
            tuple.nest(CTA_TUPLE_PROTO, |proto| {
                proto.u8(CTA_PROTO_NUM, UDP);
            });
        })
        .nest(CTA_FILTER, |filter| {
            filter.u32(FILTER_ORIG_FLAGS, BY_PROTOCOL);
        });
    socket.dump(&mut batch, &mut visit)
}

fn read(m: &Received<'_>) -> Option<Flow> {
    let attributes = m.attributes(4);
    let original = attributes.find(CTA_TUPLE_ORIG)?;
    let proto = Attributes::nested(Attributes::nested(original).find(CTA_TUPLE_PROTO)?);
    if proto.find(CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let port = proto.find(CTA_PROTO_DST_PORT)?.try_into().ok()?;
    Some(Flow {
        original: original.to_vec(),
        id: attributes.find(CTA_ID)?.to_vec(),
        destination: address(original, true)?,
        port: u16::from_be_bytes(port),
        answerer: address(attributes.find(CTA_TUPLE_REPLY)?, false)?,
    })
}

/// Source or destination address of a tuple.
fn address(tuple: &[u8], destination: bool) -> Option<IpAddr> {
    const CTA_IP_V4_SRC: u16 = 1;
    const CTA_IP_V6_SRC: u16 = 3;
    let of = Attributes::nested(Attributes::nested(tuple).find(CTA_TUPLE_IP)?);
    let step = u16::from(destination);
    if let Some(bytes) = of.find(CTA_IP_V4_SRC + step) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    }
    let bytes = of.find(CTA_IP_V6_SRC + step)?;
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

impl Stale {
    fn covers(&self, flow: &Flow) -> bool {
        let untouched = flow.answerer == flow.destination
            && (flow.destination.is_loopback() || self.host.contains(&flow.destination));
        self.ports.contains(&flow.port) && (untouched || self.containers.contains(&flow.answerer))
    }
}
