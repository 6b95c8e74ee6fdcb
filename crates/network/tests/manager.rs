//! Conflicts, repair, restart, limits, speed.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashSet,
    net::{TcpListener, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_model::ErrorKind;
use longshore_network::{BridgeSpec, Manager, PortBinding, Protocol, Wanted};
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
        "Bind for 0.0.0.0:9090 failed: port is already allocated: failed to bind host port 0.0.0.0:9090/tcp: address already in use"
    );
    assert_eq!(
        publish_error(&lab, &second, &[binding(Protocol::Udp, 53, 9091)]),
        "Bind for :::9091 failed: port is already allocated: failed to bind host port [::]:9091/udp: address already in use"
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
    // Once more: the port is another's now.
    lab.host
        .run(|| lab.manager.release(&first.endpoint, &published));
    assert!(publish_error(&lab, &second, &[tcp(8080)]).contains("already allocated"));
    assert!(lab.host.shell("nft list ruleset").contains("tcp . 8080"));
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
    assert_eq!((sctp.len(), sctp[0].proto), (1, Protocol::Sctp));
}

#[test]
fn rules_are_repaired() {
    let lab = Lab::new(&BridgeSpec::default());
    let web = lab.container("web");
    serve_tcp(&web.namespace, 80);
    lab.publish(&web, &[binding(Protocol::Tcp, 80, 8080)]);
    let list = || lab.host.shell("nft -s list table inet longshore");
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
        assert_eq!(list(), before, "{damage}");
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
        assert_eq!(bridge.gateway, Some(ip("172.17.0.1")));
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
        let next = manager
            .allocate("docker0", &Wanted::default(), "next")
            .unwrap();
        assert_ne!(next.ip, endpoint.ip);
        let error = manager
            .allocate(
                "docker0",
                &Wanted {
                    ip: endpoint.ip,
                    ..Wanted::default()
                },
                "thief",
            )
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
            let endpoint = lab
                .manager
                .allocate("docker0", &Wanted::default(), "c")
                .unwrap();
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
                            let endpoint = lab
                                .manager
                                .allocate("docker0", &Wanted::default(), "c")
                                .unwrap();
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
        let full = (0..60).find_map(|_| {
            lab.manager
                .allocate("docker0", &Wanted::default(), "c")
                .err()
        });
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
