//! A little internet for tests: network namespaces, veth pairs, servers that tell who called. Nothing touches the
//! machine's own namespace, and everything goes when the last descriptor is closed.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_network::{
    BridgeSpec, Endpoint, Manager, ManagerConfig, PortBinding, Protocol, PublishedPort, Wanted,
};
use longshore_sys::netlink::{Batch, Protocol as Netlink, Socket, flags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub const TIMEOUT: Duration = Duration::from_secs(2);
/// For what must not get through.
pub const SHORT: Duration = Duration::from_millis(300);

pub struct Namespace {
    pub fd: OwnedFd,
}

impl Namespace {
    pub fn new() -> Arc<Self> {
        let fd = std::thread::spawn(|| {
            longshore_sys::namespace::unshare(libc::CLONE_NEWNET).unwrap();
            up(1);
            // IPv4 settings come from the machine's own namespace, where some engine may have changed them.
            for (name, value) in [("ip_forward", "0"), ("conf/all/rp_filter", "0")] {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
            }
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        })
        .join()
        .unwrap();
        Arc::new(Self { fd })
    }

    /// Runs something inside, on a thread of its own.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    what()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn enter(&self) {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs a program inside and gives its output.
    pub fn shell(&self, line: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-c", line]).output().unwrap());
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

fn header(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0u8; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8] = u8::from(up);
    header[12] = u8::from(up);
    header
}

fn route_socket() -> Socket {
    Socket::open(Netlink::Route).unwrap()
}

pub fn up(index: u32) {
    let mut batch = Batch::new();
    batch.message(16, 0, &header(index, true));
    route_socket().request(&mut batch).unwrap();
}

pub fn index_of(name: &str) -> u32 {
    let name = name.to_owned() + "\0";
    let mut index = 0;
    let mut batch = Batch::new();
    batch
        .message(18, 0, &header(0, false))
        .put(3, name.as_bytes());
    route_socket()
        .query(&mut batch, |m| {
            index = u32::from_ne_bytes(m.payload[4..8].try_into().unwrap());
        })
        .unwrap();
    index
}

pub fn address(index: u32, ip: IpAddr, prefix: u8) {
    let mut header = [0u8; 8];
    header[1] = prefix;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut batch = Batch::new();
    match ip {
        IpAddr::V4(v4) => {
            header[0] = 2;
            batch
                .message(20, flags::CREATE, &header)
                .put(1, &v4.octets())
                .put(2, &v4.octets());
        }
        IpAddr::V6(v6) => {
            header[0] = 10;
            header[2] = 2;
            batch
                .message(20, flags::CREATE, &header)
                .put(1, &v6.octets());
        }
    }
    route_socket().request(&mut batch).unwrap();
}

/// A route through a gateway; prefix 0 is the default route.
pub fn route(to: IpAddr, prefix: u8, gateway: IpAddr) {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let family = if to.is_ipv4() { 2 } else { 10 };
    // rtmsg: family, dst_len, ..., table main, protocol boot, scope universe, type unicast
    let header = [family, prefix, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    let mut batch = Batch::new();
    batch
        .message(24, flags::CREATE, &header)
        .put(1, &octets(to))
        .put(5, &octets(gateway));
    route_socket().request(&mut batch).unwrap();
}

/// A veth pair: `name` in the calling thread's namespace, `eth0` in `there`.
pub fn veth(name: &str, there: &Namespace, master: u32, mac: Option<[u8; 6]>, isolated: bool) {
    let mut batch = Batch::new();
    let mut message = batch.message(16, flags::CREATE | flags::EXCL, &header(0, true));
    message.string(3, name);
    if master != 0 {
        message.u32(10, master);
    }
    message.nest(18, |info| {
        info.string(1, "veth").nest(2, |data| {
            data.nest(1, |peer| {
                peer.raw(&header(0, false))
                    .string(3, "eth0")
                    .u32(28, there.fd.as_raw_fd().cast_unsigned());
                if let Some(mac) = mac {
                    peer.put(1, &mac);
                }
            });
        });
    });
    route_socket().request(&mut batch).unwrap();
    if isolated {
        let mut batch = Batch::new();
        batch
            .message(16, 0, &header(index_of(name), false))
            .nest(18, |info| {
                info.string(4, "bridge").nest(5, |data| {
                    data.u8(33, 1);
                });
            });
        route_socket().request(&mut batch).unwrap();
    }
    there.run(|| up(index_of("eth0")));
}

/// A host with an engine, and a neighbour that is reached through `ext0`.
pub struct Lab {
    pub host: Arc<Namespace>,
    pub outside: Arc<Namespace>,
    pub manager: Arc<Manager>,
    pub told: Arc<Mutex<Vec<String>>>,
}

pub const HOST: &str = "192.0.2.1";
pub const OUTSIDE: &str = "192.0.2.2";
pub const HOST6: &str = "2001:db8::1";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn config(name: &str, told: &Arc<Mutex<Vec<String>>>) -> ManagerConfig {
    let told = Arc::clone(told);
    ManagerConfig {
        name: name.to_owned(),
        ip_forward: true,
        default_ip: None,
        pools: longshore_network::default_pools(),
        on_repair: Box::new(move |text| told.lock().unwrap().push(text.to_owned())),
        on_repaired: Box::new(|_| {}),
    }
}

impl Lab {
    pub fn new(spec: &BridgeSpec) -> Self {
        let host = Namespace::new();
        let outside = Namespace::new();
        host.run(|| {
            veth("ext0", &outside, 0, None, false);
            let index = index_of("ext0");
            address(index, ip(HOST), 24);
            address(index, ip(HOST6), 64);
        });
        outside.run(|| {
            let index = index_of("eth0");
            address(index, ip(OUTSIDE), 24);
            address(index, ip("2001:db8::2"), 64);
        });
        let told = Arc::default();
        let manager = host.run(|| {
            let manager = Manager::open(config("longshore", &told)).unwrap();
            manager.ensure_bridge(spec).unwrap();
            manager.settle();
            manager
        });
        Self {
            host,
            outside,
            manager,
            told,
        }
    }

    pub fn container(&self, owner: &str) -> Container {
        self.container_on("docker0", owner)
    }

    pub fn container_on(&self, bridge: &str, owner: &str) -> Container {
        let endpoint = self.host.run(|| {
            self.manager
                .allocate(bridge, &Wanted::default(), owner)
                .unwrap()
        });
        Container {
            namespace: attach(&self.host, &endpoint),
            endpoint,
        }
    }

    pub fn publish(&self, container: &Container, wanted: &[PortBinding]) -> Vec<PublishedPort> {
        self.host
            .run(|| self.manager.publish(&container.endpoint, wanted).unwrap())
    }

    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.manager.shutdown(true);
    }
}

pub struct Container {
    pub namespace: Arc<Namespace>,
    pub endpoint: Endpoint,
}

/// What the launcher does for an endpoint.
pub fn attach(host: &Namespace, endpoint: &Endpoint) -> Arc<Namespace> {
    let namespace = Namespace::new();
    host.run(|| {
        veth(
            &endpoint.host_name,
            &namespace,
            endpoint.bridge_index,
            Some(endpoint.mac),
            endpoint.isolated,
        );
    });
    namespace.run(|| {
        if let Some(ip) = endpoint.ip {
            address(index_of("eth0"), ip, endpoint.prefix);
        }
        if let Some(gateway) = endpoint.gateway {
            route(ip("0.0.0.0"), 0, gateway);
        }
        if let (Some(ip6), Some(gateway6)) = (endpoint.ip6, endpoint.gateway6) {
            address(index_of("eth0"), ip6.into(), endpoint.prefix6);
            route(ip("::"), 0, gateway6.into());
        }
    });
    namespace
}

pub fn binding(proto: Protocol, container_port: u16, host_port: u16) -> PortBinding {
    PortBinding {
        proto,
        container_port,
        host_ip: None,
        host_port,
        host_port_end: 0,
    }
}

/// Serves TCP in a namespace: tells each client its address, then echoes.
pub fn serve_tcp(namespace: &Arc<Namespace>, port: u16) {
    let listener = namespace.run(|| TcpListener::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || -> io::Result<()> {
                let peer = stream.peer_addr()?.ip().to_canonical();
                writeln!(stream, "{peer}")?;
                let mut chunk = vec![0; 65536];
                loop {
                    let length = stream.read(&mut chunk)?;
                    if length == 0 {
                        return Ok(());
                    }
                    stream.write_all(&chunk[..length])?;
                }
            });
        }
    });
}

/// Serves UDP in a namespace: answers with the client's address and what it said.
pub fn serve_udp(namespace: &Arc<Namespace>, port: u16) {
    let socket = namespace.run(|| UdpSocket::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        let mut chunk = vec![0; 65536];
        while let Ok((length, peer)) = socket.recv_from(&mut chunk) {
            let said = String::from_utf8_lossy(&chunk[..length]).into_owned();
            let answer = format!("{} {said}", peer.ip().to_canonical());
            let _ = socket.send_to(answer.as_bytes(), peer);
        }
    });
}

/// Connects from a namespace, sends something and ends its side: which client address the server saw.
pub fn call_tcp(from: &Namespace, to: &str, patience: Duration) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"ping\n")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (peer, rest) = answer.split_once('\n').unwrap_or_default();
        if rest != "ping\n" {
            return Err(io::Error::other(format!("answer {answer:?}")));
        }
        Ok(peer.to_owned())
    })
}

/// The same by UDP.
pub fn call_udp(from: &Namespace, to: &str, patience: Duration) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(b"ping")?;
        let mut chunk = [0; 2048];
        let length = socket.recv(&mut chunk)?;
        let answer = String::from_utf8_lossy(&chunk[..length]).into_owned();
        answer
            .strip_suffix(" ping")
            .map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("answer {answer:?}")))
    })
}

/// Waits for something; how long it took.
pub fn waits_until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    started.elapsed()
}
