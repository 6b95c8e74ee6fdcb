//! What else is on the host: other engines, other bridges, other firewalls, other interfaces.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use longshore_network::{BridgeSpec, Manager, Protocol, Wanted};
use support::*;

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
        assert_eq!(bridge.subnet.unwrap().to_string(), "10.99.0.0/24");
        second
    });
    let one = lab.container("one");
    let endpoint = lab
        .host
        .run(|| second.allocate("ls1", &Wanted::default(), "two").unwrap());
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
        assert_eq!((kept.made, kept.gateway), (false, Some(ip("10.9.0.1"))));
        assert_eq!(kept.subnet.unwrap().to_string(), "10.9.0.0/24");
        // 172.17 collides with dummy9.
        let made = manager.ensure_bridge(&spec("docker0")).unwrap();
        assert_eq!((made.made, made.gateway), (true, Some(ip("172.18.0.1"))));
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
            Some(ip("10.77.0.1"))
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
