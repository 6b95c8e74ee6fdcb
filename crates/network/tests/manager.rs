//! Conflicts, repair, restart, neighbours, limits, speed.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashSet,
    net::{TcpListener, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_model::ErrorKind;
use longshore_network::{BridgeSpec, Manager, PortBinding, Protocol};
use support::*;

fn publish_error(lab: &Lab, container: &Container, wanted: &[PortBinding]) -> String {
    lab.host.run(|| {
        let error = lab
            .manager
            .publish(&container.endpoint, wanted)
            .unwrap_err();
        error.message
    })
}

#[test]
fn conflicts_have_dockers_texts() {
    let lab = Lab::new(&BridgeSpec::default());
    let (first, second) = (lab.container("first"), lab.container("second"));
    let at = |host: &str, port| PortBinding {
        host_ip: Some(ip(host)),
        ..binding(Protocol::Tcp, 80, port)
    };
    let tcp = |port| binding(Protocol::Tcp, 80, port);
    let published = lab.publish(&first, &[tcp(8080), at("127.0.0.1", 8093)]);
    for (wanted, text) in [
        (
            tcp(8080),
            "Bind for 0.0.0.0:8080 failed: port is already allocated",
        ),
        (
            at("127.0.0.1", 8080),
            "Bind for 0.0.0.0:8080 failed: port is already allocated",
        ),
        (
            at("127.0.0.1", 8093),
            "Bind for 127.0.0.1:8093 failed: port is already allocated",
        ),
        (
            tcp(8093),
            "Bind for 127.0.0.1:8093 failed: port is already allocated",
        ),
        (
            at("::1", 8080),
            "Bind for :::8080 failed: port is already allocated",
        ),
        (
            at("198.51.100.7", 81),
            "failed to bind host port 198.51.100.7:81/tcp: cannot assign requested address",
        ),
    ] {
        assert_eq!(publish_error(&lab, &second, &[wanted]), text);
    }
    // The same number of another protocol is another port.
    lab.publish(&second, &[binding(Protocol::Udp, 53, 8080)]);

    // A process of the host, listening with the option that lets others in.
    let (listener, socket) = lab.host.run(|| {
        (
            TcpListener::bind("0.0.0.0:9090").unwrap(),
            UdpSocket::bind("[::1]:9091").unwrap(),
        )
    });
    assert_eq!(
        publish_error(&lab, &second, &[tcp(9090)]),
        "failed to bind host port 0.0.0.0:9090/tcp: address already in use"
    );
    assert_eq!(
        publish_error(&lab, &second, &[binding(Protocol::Udp, 53, 9091)]),
        "failed to bind host port [::]:9091/udp: address already in use"
    );
    drop((listener, socket));

    // All or nothing: 9090 is free again although 8080 failed after it.
    assert!(publish_error(&lab, &second, &[tcp(9090), tcp(8080)]).contains("8080"));
    lab.publish(&second, &[tcp(9090)]);
    // And nobody on the host gets it while it is published.
    assert!(lab.host.run(|| TcpListener::bind("0.0.0.0:9090")).is_err());
    assert!(lab.host.run(|| TcpListener::bind("[::]:9090")).is_err());
    lab.host
        .run(|| lab.manager.release(&first.endpoint, &published));
    lab.publish(&second, &[tcp(8080)]);
}

#[test]
fn ephemeral_ports_and_ranges() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    let range = |first, last| PortBinding {
        host_port_end: last,
        ..binding(Protocol::Tcp, 80, first)
    };
    let ports = |wanted: &[PortBinding]| -> Vec<u16> {
        let mut ports: Vec<u16> = lab
            .publish(&web, wanted)
            .iter()
            .map(|p| p.host_port)
            .collect();
        ports.dedup();
        ports
    };
    let _busy = lab.host.run(|| TcpListener::bind("0.0.0.0:32769").unwrap());
    let any = binding(Protocol::Tcp, 80, 0);
    // In the order of the request; the one that is asked for by number is kept free.
    assert_eq!(
        ports(&[any.clone(), any.clone(), binding(Protocol::Tcp, 80, 32768)]),
        [32770, 32771, 32768]
    );
    assert_eq!(ports(&[binding(Protocol::Udp, 80, 0)]), [32768]);
    assert_eq!(ports(&[range(9000, 9001)]), [9000]);
    assert_eq!(ports(&[range(9000, 9001)]), [9001]);
    assert_eq!(
        publish_error(&lab, &web, &[range(9000, 9001)]),
        "all ports are allocated"
    );
    let sctp = lab.publish(&web, &[binding(Protocol::Sctp, 80, 9000)]);
    assert_eq!(sctp[0].proto, Protocol::Sctp);
}

fn waits_until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Duration {
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

#[test]
fn rules_are_repaired() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    let list = || lab.host.shell("nft -s list ruleset");
    let before = list();
    assert!(before.contains("tcp . 8080"), "{before}");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        lab.told(),
        Vec::<String>::new(),
        "own changes are no repair"
    );
    for (round, damage) in [
        "flush ruleset",
        "delete table inet longshore",
        "flush chain inet longshore published",
        "flush map inet longshore ports4",
        "add rule inet longshore inbound accept",
        "flush ruleset; add table inet other; add chain inet other c",
    ]
    .iter()
    .enumerate()
    {
        lab.host.shell(&format!("nft '{damage}'"));
        let took = waits_until(damage, Duration::from_secs(1), || lab.told().len() > round);
        println!("{damage}: repaired in {took:?}");
        let after = list();
        let ours = &after[after.find("table inet longshore").unwrap()..];
        assert_eq!(ours.trim_end(), before.trim_end(), "{damage}");
        assert_eq!(
            call_tcp(&lab.outside, "192.0.2.1:8080", TIMEOUT).unwrap(),
            OUTSIDE
        );
    }
    assert_eq!(
        lab.told()[0],
        "nftables table longshore repaired: its rules were changed by another program"
    );
    // Another's table is no reason.
    lab.host.shell("nft add chain inet other d");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(lab.told().len(), 6);
    // A change right after damage, before the watcher could act, works too.
    lab.host.shell("nft flush ruleset");
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8081)]);
    assert!(call_tcp(&lab.outside, "192.0.2.1:8081", TIMEOUT).is_ok());
}

#[test]
fn a_comparison_finds_silent_damage() {
    let lab = Lab::new(&BridgeSpec::default());
    lab.host.run(|| lab.manager.check());
    assert_eq!(lab.told(), Vec::<String>::new());
    let other = if lab
        .host
        .shell("cat /proc/sys/net/bridge/bridge-nf-call-iptables")
        == "1\n"
    {
        "0"
    } else {
        "1"
    };
    let file = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    lab.host.shell(&format!("echo {other} > {file}"));
    lab.host.run(|| lab.manager.check());
    assert_eq!(
        lab.told(),
        ["nftables table longshore repaired: br_netfilter was switched on or off"]
    );
    // Without br_netfilter the rules alone do what the relay did.
    let (web, other) = (lab.container("web"), lab.container("other"));
    lab.host.shell(&format!("echo 0 > {file}"));
    lab.host.run(|| lab.manager.check());
    serve_tcp(&web.namespace, 80);
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    for from in [&web.namespace, &other.namespace] {
        assert_eq!(
            call_tcp(from, "192.0.2.1:8080", TIMEOUT).unwrap(),
            "172.17.0.1"
        );
    }
}

#[test]
fn a_restarted_daemon_adopts_without_a_gap() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    let published = lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    // kill -9: nothing is taken away.
    lab.manager.shutdown(false);
    assert!(call_tcp(&lab.outside, "192.0.2.1:8080", TIMEOUT).is_ok());
    let text = serde_json::to_string(&(&web.endpoint, &published)).unwrap();
    let (endpoint, ports) = serde_json::from_str(&text).unwrap();
    assert_eq!((&endpoint, &ports), (&web.endpoint, &published));

    let told = Arc::default();
    let manager = lab.host.run(|| {
        let manager = Manager::open(config("longshore", &told)).unwrap();
        let bridge = manager.ensure_bridge(&BridgeSpec::default()).unwrap();
        assert!(bridge.made);
        assert_eq!(bridge.gateway, ip("172.17.0.1"));
        // Still the old rules.
        assert!(call_tcp(&lab.outside, "192.0.2.1:8080", TIMEOUT).is_ok());
        manager.adopt(&endpoint, &ports).unwrap();
        assert_eq!(
            manager.adopt(&endpoint, &ports).map_err(|e| e.message),
            Ok(())
        );
        manager.settle();
        manager
    });
    assert!(call_tcp(&lab.outside, "192.0.2.1:8080", TIMEOUT).is_ok());
    assert!(call_tcp(&lab.host, "[::1]:8080", TIMEOUT).is_ok());
    lab.host.run(|| {
        let next = manager.allocate("docker0", None, None, "next").unwrap();
        assert_ne!(next.ip, endpoint.ip);
        let error = manager
            .allocate("docker0", Some(endpoint.ip), None, "thief")
            .unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::Forbidden, "Address already in use")
        );
        // The veth of `web` is known, that of a half-made container is not.
        let known = HashSet::from([endpoint.host_name.clone()]);
        assert!(manager.stray_links(&known).is_empty());
        let half_made = attach(&lab.host, &next);
        assert_eq!(
            manager.stray_links(&known),
            std::slice::from_ref(&next.host_name)
        );
        manager.remove_link(&next.host_name).unwrap();
        manager.remove_link(&next.host_name).unwrap();
        assert!(manager.stray_links(&known).is_empty());
        drop(half_made);
        manager.release(&endpoint, &ports);
        manager.shutdown(true);
    });
    assert_eq!(*told.lock().unwrap(), Vec::<String>::new());
    assert_eq!(lab.host.shell("nft list ruleset"), "");
    assert!(!lab.host.shell("ip -br link").contains("docker0"));
}

#[test]
fn two_engines_side_by_side() {
    let lab = Lab::new(&BridgeSpec::default());
    let told = Arc::default();
    let spec = BridgeSpec {
        name: "ls1".to_owned(),
        address: Some(("10.99.0.1".parse().unwrap(), 24)),
        ..BridgeSpec::default()
    };
    let second = lab.host.run(|| {
        let second = Manager::open(config("longshore-ls1", &told)).unwrap();
        let bridge = second.ensure_bridge(&spec).unwrap();
        assert_eq!(bridge.subnet.to_string(), "10.99.0.0/24");
        second
    });
    let one = lab.container("one");
    let endpoint = lab
        .host
        .run(|| second.allocate("ls1", None, None, "two").unwrap());
    let two = attach(&lab.host, &endpoint);
    serve_tcp(&one.namespace, 80);
    serve_tcp(&two, 80);
    serve_tcp(&lab.outside, 7000);
    lab.publish(&one, &[binding(Protocol::Tcp, 80, 8080)]);
    lab.host.run(|| {
        second
            .publish(&endpoint, &[binding(Protocol::Tcp, 80, 8081)])
            .unwrap()
    });
    for from in [&lab.outside, &lab.host, &one.namespace, &two] {
        for to in ["192.0.2.1:8080", "192.0.2.1:8081"] {
            assert!(call_tcp(from, to, TIMEOUT).is_ok(), "{to}");
        }
    }
    for from in [&one.namespace, &two] {
        assert_eq!(call_tcp(from, "192.0.2.2:7000", TIMEOUT).unwrap(), HOST);
    }
    assert!(call_tcp(&two, "172.17.0.2:80", SHORT).is_err());
    lab.host.run(|| second.shutdown(true));
    assert!(call_tcp(&lab.outside, "192.0.2.1:8080", TIMEOUT).is_ok());
    assert!(!lab.host.shell("nft list tables").contains("ls1"));
    assert_eq!(lab.told(), Vec::<String>::new());
}

#[test]
fn existing_bridges_and_addresses_are_kept() {
    let host = Namespace::new();
    let told = Arc::default();
    host.shell("ip link add br9 type bridge; ip addr add 10.9.0.1/24 dev br9; ip link add dummy9 type veth peer name dummy8");
    host.shell(
        "ip link set dummy9 up; ip link set dummy8 up; ip addr add 172.17.3.1/24 dev dummy9",
    );
    host.run(|| {
        let manager = Manager::open(config("t", &told)).unwrap();
        let spec = |name: &str| BridgeSpec {
            name: name.to_owned(),
            ..BridgeSpec::default()
        };
        let kept = manager.ensure_bridge(&spec("br9")).unwrap();
        assert_eq!((kept.made, kept.gateway), (false, ip("10.9.0.1")));
        assert_eq!(kept.subnet.to_string(), "10.9.0.0/24");
        // 172.17 collides with dummy9.
        let made = manager.ensure_bridge(&spec("docker0")).unwrap();
        assert_eq!((made.made, made.gateway), (true, ip("172.18.0.1")));
        for (name, text) in [
            ("dummy9", "existing interface dummy9 is not a bridge"),
            (
                "a-name-that-is-too-long",
                "invalid bridge name \"a-name-that-is-too-long\"",
            ),
        ] {
            assert_eq!(
                manager.ensure_bridge(&spec(name)).unwrap_err().message,
                text
            );
        }
        manager.shutdown(true);
    });
    let links = host.shell("ip -br link");
    assert!(
        links.contains("br9") && !links.contains("docker0"),
        "{links}"
    );
    // --bip moves our own bridge.
    let moved = host.run(|| {
        let manager = Manager::open(config("t", &told)).unwrap();
        manager.ensure_bridge(&BridgeSpec::default()).unwrap();
        manager.shutdown(false);
        let manager = Manager::open(config("t", &told)).unwrap();
        let spec = BridgeSpec {
            address: Some(("10.77.0.1".parse().unwrap(), 16)),
            ..BridgeSpec::default()
        };
        assert_eq!(
            manager.ensure_bridge(&spec).unwrap().gateway,
            ip("10.77.0.1")
        );
        let addresses = host.shell("ip -br -4 addr show docker0");
        manager.shutdown(true);
        addresses
    });
    assert!(
        moved.contains("10.77.0.1/16") && !moved.contains("172."),
        "{moved}"
    );
}

#[test]
fn many_ports_and_the_price_of_one() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    let many: Vec<PortBinding> = (0..1000)
        .map(|i| binding(Protocol::Tcp, 80, 10_000 + i))
        .collect();
    let started = Instant::now();
    let published = lab.publish(&web, &many);
    println!("publish 1000 ports: {:?}", started.elapsed());
    assert_eq!(published.len(), 2000);
    assert!(call_tcp(&lab.outside, "192.0.2.1:10999", TIMEOUT).is_ok());
    assert!(call_tcp(&lab.host, "[::1]:10500", TIMEOUT).is_ok());
    lab.host.shell("nft flush ruleset");
    let took = waits_until("repair", Duration::from_secs(1), || !lab.told().is_empty());
    println!("repair with 1000 ports: {took:?}");
    assert!(call_tcp(&lab.outside, "192.0.2.1:10999", TIMEOUT).is_ok());
    lab.host.run(|| {
        let started = Instant::now();
        lab.manager.release(&web.endpoint, &published);
        println!("release 1000 ports: {:?}", started.elapsed());
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..200 {
            let times = [Instant::now(); 3];
            let endpoint = lab.manager.allocate("docker0", None, None, "c").unwrap();
            samples[0].push(times[0].elapsed());
            let start = Instant::now();
            let ports = lab
                .manager
                .publish(&endpoint, &[binding(Protocol::Tcp, 80, 0)])
                .unwrap();
            samples[1].push(start.elapsed());
            let start = Instant::now();
            lab.manager.release(&endpoint, &ports);
            samples[2].push(start.elapsed());
        }
        for (what, mut times) in ["allocate", "publish", "release"].iter().zip(samples) {
            times.sort();
            println!("{what}: median {:?}, max {:?}", times[100], times[199]);
        }
    });
    assert_eq!(lab.told().len(), 1);
}

#[test]
fn many_threads_never_share_an_address_or_a_port() {
    let lab = Lab::new(&BridgeSpec {
        address: Some(("10.1.0.1".parse().unwrap(), 24)),
        ..BridgeSpec::default()
    });
    let results: Vec<_> = lab.host.run(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut mine = Vec::new();
                        for _ in 0..25 {
                            let endpoint =
                                lab.manager.allocate("docker0", None, None, "c").unwrap();
                            let any = [binding(Protocol::Tcp, 80, 0)];
                            let ports = lab.manager.publish(&endpoint, &any).unwrap();
                            mine.push((endpoint, ports));
                        }
                        mine
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect()
        })
    });
    let addresses: HashSet<_> = results.iter().map(|(e, _)| e.ip).collect();
    let ports: HashSet<_> = results.iter().map(|(_, p)| p[0].host_port).collect();
    let macs: HashSet<_> = results.iter().map(|(e, _)| e.mac).collect();
    assert_eq!((addresses.len(), ports.len(), macs.len()), (200, 200, 200));
    lab.host.run(|| {
        let full = (0..60).find_map(|_| lab.manager.allocate("docker0", None, None, "c").err());
        assert_eq!(
            full.unwrap().message,
            "no available IPv4 addresses on this network's address pools"
        );
    });
    lab.host.run(|| {
        for (endpoint, ports) in &results {
            lab.manager.release(endpoint, ports);
        }
    });
    assert!(
        !lab.host
            .shell("nft list map inet longshore ports4")
            .contains("elements")
    );
}

#[test]
fn a_dockerd_beside_us() {
    // What dockerd leaves behind with the iptables backend: DROP, its chains, its isolation.
    const DOCKERD: &str = "iptables -P FORWARD DROP
        iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN
        iptables -N DOCKER-ISOLATION-STAGE-1; iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN
        iptables -I FORWARD -o docker9 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        iptables -I FORWARD -i docker9 ! -o docker9 -j ACCEPT
        iptables -I FORWARD -j DOCKER-ISOLATION-STAGE-1
        iptables -I FORWARD -j DOCKER-USER
        iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
        ip6tables -P FORWARD DROP";
    let lab = Lab::new(&BridgeSpec::default());
    let (web, other) = (lab.container("web"), lab.container("other"));
    serve_tcp(&web.namespace, 80);
    serve_tcp(&lab.outside, 7000);
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    let works = |when: &str| {
        let call = |from: &Namespace, to: &str| {
            call_tcp(from, to, TIMEOUT).unwrap_or_else(|e| panic!("{when}: {to}: {e}"))
        };
        assert_eq!(call(&lab.outside, "192.0.2.1:8080"), OUTSIDE);
        assert_eq!(call(&web.namespace, "192.0.2.2:7000"), HOST);
        assert_eq!(call(&other.namespace, "172.17.0.2:80"), "172.17.0.3");
        assert_eq!(call(&lab.host, "[::1]:8080"), "172.17.0.1");
    };
    let ours = || {
        lab.host
            .shell("iptables -S FORWARD")
            .matches("longshore: docker0")
            .count()
    };
    lab.host.shell(DOCKERD);
    waits_until("pass", Duration::from_secs(1), || ours() == 2);
    works("dockerd started after us");
    assert_eq!(lab.told().len(), 1, "{:?}", lab.told());
    assert!(lab.host.shell("iptables -S FORWARD").contains("-i docker0"));
    // Still closed for what is not published.
    lab.outside.run(|| route(ip("172.17.0.0"), 16, ip(HOST)));
    assert!(call_tcp(&lab.outside, "172.17.0.2:80", SHORT).is_err());
    lab.host.shell("iptables -F FORWARD");
    waits_until("pass", Duration::from_secs(1), || ours() == 2);
    works("chain flushed");
    lab.host.shell("nft flush ruleset");
    waits_until("repair", Duration::from_secs(1), || {
        lab.host.shell("nft list tables").contains("longshore")
    });
    lab.host.shell(DOCKERD);
    waits_until("pass", Duration::from_secs(1), || ours() == 2);
    works("everything flushed, dockerd restarted");
    lab.host.run(|| lab.manager.shutdown(true));
    assert_eq!(ours(), 0);
    assert!(lab.host.shell("iptables -S FORWARD").contains("docker9"));
}

/// Two networks on interfaces that are neither bridge nor veth, with our host between them.
#[test]
fn the_host_does_not_become_a_router() {
    let (host, left, right) = (Namespace::new(), Namespace::new(), Namespace::new());
    host.run(|| {
        veth("left", &left, 0, None, false);
        veth("right", &right, 0, None, false);
    });
    for (link, net) in [("left", 1), ("right", 2)] {
        host.shell(&format!(
            "ip link add link {link} name m{link} type macvlan mode private; ip link set m{link} up
             ip addr add 10.5.{net}.1/24 dev m{link}; ip addr add fd05:{net}::1/64 dev m{link} nodad"
        ));
    }
    for (namespace, net) in [(&left, 1), (&right, 2)] {
        namespace.shell(&format!(
            "ip addr add 10.5.{net}.2/24 dev eth0; ip addr add fd05:{net}::2/64 dev eth0 nodad
             ip route add default via 10.5.{net}.1; ip route add default via fd05:{net}::1"
        ));
    }
    serve_tcp(&right, 7000);
    // Link-local addresses of the host must be settled before it can ask for neighbours.
    let both = |patience: Duration| {
        ["10.5.2.2:7000", "[fd05:2::2]:7000"].map(|to| call_tcp(&left, to, patience).is_ok())
    };
    let told = Arc::default();
    let spec = BridgeSpec {
        ipv6: Some(("fd00:17::1".parse().unwrap(), 64)),
        ..BridgeSpec::default()
    };
    let open = || {
        host.run(|| {
            let manager = Manager::open(config("longshore", &told)).unwrap();
            manager.ensure_bridge(&spec).unwrap();
            manager.settle();
            manager
        })
    };
    assert_eq!(both(SHORT), [false, false]);
    let manager = open();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(both(SHORT), [false, false], "we switched forwarding on");
    manager.shutdown(false);
    // A restarted engine finds forwarding on, and remembers why.
    let manager = open();
    assert_eq!(both(SHORT), [false, false], "after a restart");
    manager.shutdown(true);
    // Who had it on keeps it.
    assert_eq!(both(TIMEOUT), [true, true], "no engine");
    let manager = open();
    assert_eq!(both(TIMEOUT), [true, true], "it was on before");
    manager.shutdown(true);
    assert_eq!(*told.lock().unwrap(), Vec::<String>::new());
}
