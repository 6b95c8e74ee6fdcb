//! What gets through, from where, and under which address.
#![allow(clippy::unwrap_used)]

mod support;

use longshore_network::{BridgeSpec, Protocol};
use support::*;

#[test]
fn published_tcp_is_reached_from_everywhere() {
    let lab = Lab::new(&BridgeSpec::default());
    let (web, other) = (lab.container("web"), lab.container("other"));
    assert_eq!(web.endpoint.ip, Some(ip("172.17.0.2")));
    serve_tcp(&web.namespace, 80);
    let published = lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    let listed: Vec<String> = published
        .iter()
        .map(|p| format!("{} {}", p.host_ip, p.host_port))
        .collect();
    assert_eq!(listed, ["0.0.0.0 8080", ":: 8080"]);

    let call = |from, to| call_tcp(from, to, TIMEOUT).map_err(|e| format!("{to}: {e}"));
    // From outside the client's own address arrives.
    assert_eq!(call(&lab.outside, "192.0.2.1:8080").unwrap(), OUTSIDE);
    // The host by its own addresses, and by localhost.
    assert_eq!(call(&lab.host, "192.0.2.1:8080").unwrap(), HOST);
    assert_eq!(call(&lab.host, "127.0.0.1:8080").unwrap(), "172.17.0.1");
    assert_eq!(call(&lab.host, "127.0.0.9:8080").unwrap(), "172.17.0.1");
    assert_eq!(call(&lab.host, "172.17.0.1:8080").unwrap(), "172.17.0.1");
    // IPv6 goes through the relay.
    assert_eq!(call(&lab.host, "[::1]:8080").unwrap(), "172.17.0.1");
    assert_eq!(
        call(&lab.outside, "[2001:db8::1]:8080").unwrap(),
        "172.17.0.1"
    );
    // Containers: by the host's address, by the gateway, themselves too.
    assert_eq!(
        call(&other.namespace, "192.0.2.1:8080").unwrap(),
        "172.17.0.1"
    );
    assert_eq!(
        call(&other.namespace, "172.17.0.1:8080").unwrap(),
        "172.17.0.1"
    );
    assert_eq!(
        call(&web.namespace, "192.0.2.1:8080").unwrap(),
        "172.17.0.1"
    );
    // Directly.
    assert_eq!(
        call(&other.namespace, "172.17.0.2:80").unwrap(),
        "172.17.0.3"
    );
    assert_eq!(call(&lab.host, "172.17.0.2:80").unwrap(), "172.17.0.1");

    lab.host
        .run(|| lab.manager.release(&web.endpoint, &published));
    assert!(call_tcp(&lab.outside, "192.0.2.1:8080", SHORT).is_err());
    assert!(call_tcp(&lab.host, "127.0.0.1:8080", SHORT).is_err());
    assert!(call_tcp(&lab.host, "[::1]:8080", SHORT).is_err());
    assert_eq!(lab.told(), Vec::<String>::new());
}

#[test]
fn published_udp_is_reached_from_everywhere() {
    let lab = Lab::new(&BridgeSpec::default());
    let (dns, other) = (lab.container("dns"), lab.container("other"));
    serve_udp(&dns.namespace, 53);
    lab.publish(&dns, &[binding(Protocol::Udp, 53, 5300)]);
    let call = |from, to| call_udp(from, to, TIMEOUT).map_err(|e| format!("{to}: {e}"));
    assert_eq!(call(&lab.outside, "192.0.2.1:5300").unwrap(), OUTSIDE);
    assert_eq!(call(&lab.host, "192.0.2.1:5300").unwrap(), HOST);
    assert_eq!(call(&lab.host, "127.0.0.1:5300").unwrap(), "172.17.0.1");
    assert_eq!(call(&lab.host, "[::1]:5300").unwrap(), "172.17.0.1");
    assert_eq!(
        call(&lab.outside, "[2001:db8::1]:5300").unwrap(),
        "172.17.0.1"
    );
    assert_eq!(
        call(&other.namespace, "192.0.2.1:5300").unwrap(),
        "172.17.0.1"
    );
    assert_eq!(
        call(&dns.namespace, "192.0.2.1:5300").unwrap(),
        "172.17.0.1"
    );
}

#[test]
fn out_with_the_hosts_address_and_not_in_without_publishing() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    serve_tcp(&lab.outside, 7000);
    serve_udp(&lab.outside, 7000);
    assert_eq!(
        call_tcp(&web.namespace, "192.0.2.2:7000", TIMEOUT).unwrap(),
        HOST
    );
    assert_eq!(
        call_udp(&web.namespace, "192.0.2.2:7000", TIMEOUT).unwrap(),
        HOST
    );
    // Even with a route to the bridge.
    lab.outside.run(|| route(ip("172.17.0.0"), 16, ip(HOST)));
    assert!(call_tcp(&lab.outside, "172.17.0.2:80", SHORT).is_err());
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    assert!(call_tcp(&lab.outside, "172.17.0.2:80", SHORT).is_err());
    assert!(call_tcp(&lab.outside, "192.0.2.1:8080", TIMEOUT).is_ok());
}

#[test]
fn host_address_and_loopback_bindings() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    let at = |address: &str, port| longshore_network::PortBinding {
        host_ip: Some(ip(address)),
        ..binding(Protocol::Tcp, 80, port)
    };
    let published = lab.publish(
        &web,
        &[at("127.0.0.1", 8081), at(HOST, 8082), at("::1", 8083)],
    );
    assert_eq!(published.len(), 3);
    assert!(call_tcp(&lab.host, "127.0.0.1:8081", TIMEOUT).is_ok());
    assert!(call_tcp(&lab.host, "[::1]:8083", TIMEOUT).is_ok());
    assert!(call_tcp(&lab.outside, "192.0.2.1:8082", TIMEOUT).is_ok());
    assert!(call_tcp(&lab.outside, "192.0.2.1:8081", SHORT).is_err());
    assert!(call_tcp(&lab.host, "127.0.0.1:8082", SHORT).is_err());
    // A neighbour, or a container, that sends packets for 127.0.0.1 to us.
    lab.host
        .shell("echo 1 > /proc/sys/net/ipv4/conf/ext0/route_localnet");
    for (namespace, gateway) in [(&lab.outside, HOST), (&web.namespace, "172.17.0.1")] {
        namespace.shell("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
        namespace.shell(&format!(
            "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via {gateway} dev eth0"
        ));
        assert!(call_tcp(namespace, "127.0.0.1:8081", SHORT).is_err());
    }
}

#[test]
fn without_icc_containers_do_not_see_each_other() {
    let lab = Lab::new(&BridgeSpec {
        icc: false,
        ..BridgeSpec::default()
    });
    let (web, other) = (lab.container("web"), lab.container("other"));
    serve_tcp(&web.namespace, 80);
    assert!(call_tcp(&other.namespace, "172.17.0.2:80", SHORT).is_err());
    assert!(call_tcp(&lab.host, "172.17.0.2:80", TIMEOUT).is_ok());
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    assert!(call_tcp(&other.namespace, "192.0.2.1:8080", TIMEOUT).is_ok());
}

#[test]
fn bridges_are_kept_apart() {
    let lab = Lab::new(&BridgeSpec::default());
    let second = lab.host.run(|| {
        lab.manager
            .ensure_bridge(&BridgeSpec {
                name: "br1".to_owned(),
                ..BridgeSpec::default()
            })
            .unwrap()
    });
    assert_eq!(second.subnet.unwrap().to_string(), "172.18.0.0/16");
    let (web, other) = (lab.container("web"), lab.container_on("br1", "other"));
    serve_tcp(&web.namespace, 80);
    assert!(call_tcp(&other.namespace, "172.17.0.2:80", SHORT).is_err());
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    assert!(call_tcp(&other.namespace, "192.0.2.1:8080", TIMEOUT).is_ok());
    assert!(call_tcp(&other.namespace, "172.17.0.2:80", SHORT).is_err());
}

#[test]
fn ipv6_bridge_needs_no_relay() {
    let lab = Lab::new(&BridgeSpec {
        ipv6: Some(("fd00:17::1".parse().unwrap(), 64)),
        ..BridgeSpec::default()
    });
    let (web, other) = (lab.container("web"), lab.container("other"));
    assert_eq!(web.endpoint.ip6, Some("fd00:17::2".parse().unwrap()));
    serve_tcp(&web.namespace, 80);
    serve_tcp(&lab.outside, 7000);
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    let call = |from, to| call_tcp(from, to, TIMEOUT).map_err(|e| format!("{to}: {e}"));
    assert_eq!(
        call(&lab.outside, "[2001:db8::1]:8080").unwrap(),
        "2001:db8::2"
    );
    assert_eq!(call(&lab.host, "[::1]:8080").unwrap(), "fd00:17::1");
    assert_eq!(
        call(&other.namespace, "[fd00:17::2]:80").unwrap(),
        "fd00:17::3"
    );
    assert_eq!(
        call(&other.namespace, "[2001:db8::1]:8080").unwrap(),
        "fd00:17::1"
    );
    assert_eq!(call(&web.namespace, "[2001:db8::2]:7000").unwrap(), HOST6);
    lab.outside.run(|| route(ip("fd00:17::"), 64, ip(HOST6)));
    assert!(call_tcp(&lab.outside, "[fd00:17::2]:80", SHORT).is_err());
}

#[test]
fn a_stubborn_udp_client_follows_the_port() {
    let lab = Lab::new(&BridgeSpec::default());
    let client = lab.outside.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:4444").unwrap();
        socket.connect("192.0.2.1:5300").unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket
    });
    let ask = || {
        let mut answer = [0; 100];
        for _ in 0..3 {
            // The first may report that nobody listened before.
            let _ = client.send(b"ping");
            if let Ok(length) = client.recv(&mut answer) {
                return String::from_utf8_lossy(&answer[..length]).into_owned();
            }
        }
        String::new()
    };
    // The walk through the kernel's table takes its time, beside us.
    let until = |want: &str| {
        let started = std::time::Instant::now();
        while ask() != want {
            assert!(started.elapsed() < TIMEOUT * 5, "still not {want:?}");
        }
    };
    until("");
    for _ in 0..3 {
        let dns = lab.container("dns");
        serve_udp(&dns.namespace, 53);
        let ports = lab.publish(&dns, &[binding(Protocol::Udp, 53, 5300)]);
        until("192.0.2.2 ping");
        lab.host.run(|| lab.manager.release(&dns.endpoint, &ports));
        until("");
    }
}

/// Many connections at once, megabytes in both directions, ends one after the other.
#[test]
fn the_relay_carries_weight() {
    use std::io::{Read, Write};
    const SIZE: usize = 8 << 20;
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    let ports = lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    let started = std::time::Instant::now();
    lab.host.run(|| {
        std::thread::scope(|scope| {
            for seed in 0..8u8 {
                let host = &lab.host;
                scope.spawn(move || {
                    host.run(|| {
                        let mut stream = std::net::TcpStream::connect("[::1]:8080").unwrap();
                        let mut other = stream.try_clone().unwrap();
                        let data: Vec<u8> =
                            (0..SIZE).map(|i| (i as u8).wrapping_mul(seed)).collect();
                        let sent = data.clone();
                        let writer = std::thread::spawn(move || {
                            other.write_all(&sent).unwrap();
                            other.shutdown(std::net::Shutdown::Write).unwrap();
                        });
                        let mut back = Vec::new();
                        stream.read_to_end(&mut back).unwrap();
                        writer.join().unwrap();
                        let line = back.iter().position(|b| *b == b'\n').unwrap();
                        assert!(
                            back[line + 1..] == data[..],
                            "connection {seed} was mangled"
                        );
                    });
                });
            }
        });
    });
    println!(
        "relayed {} MB both ways in {:?}",
        (8 * SIZE) >> 20,
        started.elapsed()
    );
    // Idle connections end with the container.
    let mut idle = lab
        .host
        .run(|| std::net::TcpStream::connect("[::1]:8080").unwrap());
    idle.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut first = [0; 11];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"172.17.0.1\n");
    lab.host.run(|| lab.manager.release(&web.endpoint, &ports));
    assert_eq!(idle.read(&mut first).unwrap(), 0);
}
