//! Rules beside other people's, IPv6, and ports in numbers.

use std::{process::Command, time::Instant};

use e2e::{
    check::{Outcome, until},
    engine::{self, Engine, Kind, Setup},
    ensure, fail, has, same,
};
use serde_json::{Value, json};

use super::{
    network::{ask, server},
    networks::{endpoint, make, on, text},
    own::Own,
};
use crate::{
    cases::cases,
    context::{Ctx, now},
    outside,
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("firewall", Any; ipv6_network, thousand_ports, taken_by_a_process,).to_vec(),
        cases!("networks", Any; macvlan,).to_vec(),
        cases!("firewall", Daemon;
            repaired_and_told, users_chain, only_local_by_default, beside_dockerd, direct_routing, nothing_left,
        )
        .to_vec(),
    ]
    .concat()
}

fn run(words: &[&str]) -> Outcome<String> {
    let out = Command::new(words[0]).args(&words[1..]).output()?;
    if !out.status.success() {
        fail!("{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Asks from outside this host.
fn ask_from_outside(protocol: &str, address: &str, port: u16) -> Outcome<String> {
    let probe = std::env::current_exe()?;
    let out = outside::run(&[
        &probe.display().to_string(),
        "ask",
        protocol,
        address,
        &port.to_string(),
    ])?;
    if !out.status.success() {
        fail!(
            "{protocol} {address} {port} from outside: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn ipv6_network(ctx: &Ctx) -> Outcome {
    let body = json!({"EnableIPv6": true, "IPAM": {"Config": [{"Subnet": "fd00:e2e:6::/64"}]}});
    make(ctx, "n", &body)?;
    let net = ctx.name("n");
    let bindings = json!({"PortBindings": {"7000/tcp": [{"HostPort": "7296"}]}});
    let id = server(
        ctx,
        "s",
        &on(
            &net,
            &json!({"Cmd": ["/probe", "serve", "7000"], "HostConfig": bindings}),
        ),
    )?;
    let place = endpoint(ctx, &id, &net)?;
    let six = text(&place["GlobalIPv6Address"]);
    same!(
        (&place["IPv6Gateway"], &place["GlobalIPv6PrefixLen"]),
        (&json!("fd00:e2e:6::1"), &json!(64))
    );
    ensure!(!text(&place["IPAddress"]).is_empty(), "no IPv4: {place}");
    let peer = ctx.launch("c", &on(&net, &json!({})))?;
    let out = ctx.exec_sh(
        &peer,
        &format!("ping6 -c1 -W2 {six} && ip -6 r && cat /etc/hosts"),
    )?;
    let out = out.ok()?.stdout;
    has!(out, "default via fd00:e2e:6::1 dev eth0");
    let own = text(&endpoint(ctx, &peer, &net)?["GlobalIPv6Address"]);
    has!(out, &format!("{own}\t{}", &peer[..12]));
    // Older daemons leave the host's IPv6 alone.
    let hosts = if ctx.api(44) {
        has!(ask(ctx, "tcp", &six, 7000)?, &id[..12]);
        ["127.0.0.1", "::1"].as_slice()
    } else {
        &["127.0.0.1"]
    };
    for host in hosts {
        has!(ask(ctx, "tcp", host, 7296)?, &id[..12]);
    }
    if ctx.api(44) {
        // The client's own address arrives, in both families.
        let seen = ask_from_outside("tcp", outside::OURS_6, 7296)?;
        ensure!(
            seen.starts_with("2001:db8:1::2"),
            "seen from outside: {seen}"
        );
        let auto = make(ctx, "auto", &json!({"EnableIPv6": true}))?;
        let config = ctx.json(&format!("/networks/{auto}"))?["IPAM"]["Config"].clone();
        ensure!(
            text(&config[1]["Subnet"]).starts_with("fd"),
            "no local addresses: {config}"
        );
        let only = json!({"EnableIPv6": true, "EnableIPv4": false});
        make(ctx, "six", &only)?;
        let alone = ctx.launch("d", &on(&ctx.name("six"), &json!({})))?;
        let place = endpoint(ctx, &alone, &ctx.name("six"))?;
        same!(place["IPAddress"], "");
        let gateway = text(&place["IPv6Gateway"]);
        ctx.exec_sh(&alone, &format!("ping6 -c1 -W2 {gateway}"))?
            .ok()?;
    }
    Ok(())
}

fn macvlan(ctx: &Ctx) -> Outcome {
    let parent = format!("mv{}", std::process::id() % 100_000);
    run(&["ip", "link", "add", &parent, "type", "bridge"])?;
    let result = (|| -> Outcome {
        run(&["ip", "addr", "add", "10.205.0.1/24", "dev", &parent])?;
        run(&["ip", "link", "set", &parent, "up"])?;
        let body = json!({"Driver": "macvlan", "Options": {"parent": parent},
            "IPAM": {"Config": [{"Subnet": "10.205.0.0/24", "Gateway": "10.205.0.1", "IPRange": "10.205.0.64/26"}]}});
        let network = make(ctx, "n", &body)?;
        let net = ctx.name("n");
        same!(
            ctx.json(&format!("/networks/{network}"))?["Driver"],
            "macvlan"
        );
        let id = ctx.launch("c", &on(&net, &json!({})))?;
        let late = ctx.sleeper("d")?;
        let body = json!({"Container": late});
        ctx.post(&format!("/networks/{net}/connect"), &body)?
            .expect(200)?;
        let place = endpoint(ctx, &id, &net)?;
        let address = text(&place["IPAddress"]);
        let out = ctx.exec_sh(&id, "ip a; ip r")?.ok()?.stdout;
        has!(out, "eth0@if");
        has!(out, &format!("inet {address}/24"));
        has!(out, &text(&place["MacAddress"]));
        has!(out, "default via 10.205.0.1 dev eth0");
        ctx.exec_sh(&late, &format!("ping -c1 -W2 -I eth1 {address}"))?
            .ok()?;
        ctx.act(&format!("/containers/{id}/restart?t=0"))?
            .expect(204)?;
        has!(ctx.exec_sh(&id, "ip a")?.ok()?.stdout, "eth0@if");
        let body = json!({"Container": late, "Force": false});
        ctx.post(&format!("/networks/{net}/disconnect"), &body)?
            .expect(200)?;
        let out = ctx.exec_sh(&late, "ip a")?.ok()?.stdout;
        ensure!(!out.contains("eth1"), "{out}");
        ctx.clean()?;
        let missing =
            json!({"Name": ctx.name("o"), "Driver": "macvlan", "Options": {"parent": "absent9"}});
        let answer = ctx.post("/networks/create", &missing)?;
        ensure!(
            answer.status >= 400,
            "a network on a link that is not there"
        );
        has!(answer.message(), "invalid subinterface vlan name absent9");
        Ok(())
    })();
    run(&["ip", "link", "del", &parent])?;
    result
}

fn thousand_ports(ctx: &Ctx) -> Outcome {
    const COUNT: u16 = 1000;
    let (mut bindings, mut exposed) = (serde_json::Map::new(), serde_json::Map::new());
    // dockerd 20.10 starts two processes a port.
    let count = if ctx.api(44) { COUNT } else { 20 };
    for port in 0..count {
        let inside = format!("{}/tcp", 7000 + port);
        exposed.insert(inside.clone(), json!({}));
        bindings.insert(inside, json!([{"HostPort": (17000 + port).to_string()}]));
    }
    let body = json!({"ExposedPorts": exposed, "HostConfig": {"PortBindings": bindings}});
    let id = super::network::server_made(ctx, "s", &body)?;
    let begin = Instant::now();
    ctx.start(&id)?;
    let took = begin.elapsed();
    ctx.log_has(&id, "serving")?;
    has!(ask(ctx, "tcp", "127.0.0.1", 17000)?, &id[..12]);
    let ports = ctx.inspect(&id)?["NetworkSettings"]["Ports"].clone();
    ensure!(
        ports
            .as_object()
            .is_some_and(|p| p.len() >= usize::from(count)),
        "ports are missing"
    );
    if ctx.api(44) {
        // Milliseconds where nothing else runs; the limit is for a machine under load and an unoptimised engine.
        ensure!(took.as_secs() < 5, "{count} ports took {took:?}");
    }
    ctx.remove(&id)?;
    ensure!(
        ask(ctx, "tcp", "127.0.0.1", 17000).is_err(),
        "a port outlived its container"
    );
    Ok(())
}

fn taken_by_a_process(ctx: &Ctx) -> Outcome {
    let holder = std::net::TcpListener::bind("0.0.0.0:7297")?;
    make(ctx, "n", &json!({}))?;
    let body = json!({"ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "7297"}]}}});
    let id = ctx.create("c", &on(&ctx.name("n"), &body))?;
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    same!(answer.status, 500);
    has!(answer.message(), "address already in use");
    if ctx.api(44) {
        has!(
            answer.message(),
            "Bind for 0.0.0.0:7297 failed: port is already allocated"
        );
    }
    drop(holder);
    ctx.start(&id)?;
    let other = ctx.create("d", &body)?;
    let answer = ctx.act(&format!("/containers/{other}/start"))?;
    same!(answer.status, 500);
    has!(
        answer.message(),
        "Bind for 0.0.0.0:7297 failed: port is already allocated"
    );
    Ok(())
}

fn table(own: &Own) -> String {
    format!("longshore-{}", own.bridge)
}

fn repaired_and_told(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    make(&own.ctx, "n", &json!({}))?;
    let net = own.ctx.name("n");
    let bindings = json!({"PortBindings": {"7000/tcp": [{"HostPort": "7298"}]}});
    let id = server(
        &own.ctx,
        "s",
        &on(
            &net,
            &json!({"Cmd": ["/probe", "serve", "7000"], "HostConfig": bindings}),
        ),
    )?;
    let name = table(&own);
    let before = run(&["nft", "list", "table", "inet", &name])?;
    let since = now();
    for words in [
        ["nft", "flush", "table", "inet", &name].as_slice(),
        &["nft", "delete", "table", "inet", &name],
    ] {
        run(words)?;
        let begin = Instant::now();
        until(3, "the rules' return", || {
            let listed = run(&["nft", "list", "table", "inet", &name]);
            Ok(listed.is_ok_and(|l| l == before).then_some(()))
        })?;
        ensure!(begin.elapsed().as_millis() < 1500, "too late");
        has!(ask(&own.ctx, "tcp", "127.0.0.1", 7298)?, &id[..12]);
        // The next change is to be one of its own.
        crate::context::pause(400);
    }
    let events = own
        .ctx
        .events(&since, &now(), &json!({"type": ["daemon"]}))?;
    let told = events
        .iter()
        .filter(|e| {
            e["Action"] == "firewall-repair" && e["Actor"]["Attributes"]["table"] == name.as_str()
        })
        .count();
    same!(told, 2);
    has!(own.engine.log_tail(), "repaired");
    own.done()
}

fn users_chain(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let bindings = json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "7299"}]}}});
    let id = server(&own.ctx, "s", &bindings)?;
    has!(ask_from_outside("tcp", outside::OURS, 7299)?, &id[..12]);
    let user = format!("{}-user", table(&own));
    let rule = format!(
        "ip saddr {} meta l4proto tcp ct original proto-dst 7299 drop",
        outside::THEIRS
    );
    run(&["nft", "add", "rule", "inet", &user, "forward", &rule])?;
    ensure!(
        ask_from_outside("tcp", outside::OURS, 7299).is_err(),
        "the user's rule does nothing"
    );
    // Our own table is written anew; the user's rule stays.
    make(&own.ctx, "n", &json!({}))?;
    run(&["nft", "delete", "table", "inet", &table(&own)])?;
    until(3, "the rules' return", || {
        Ok(run(&["nft", "list", "table", "inet", &table(&own)]).ok())
    })?;
    ensure!(
        ask_from_outside("tcp", outside::OURS, 7299).is_err(),
        "the user's rule is gone"
    );
    run(&["nft", "flush", "chain", "inet", &user, "forward"])?;
    has!(ask_from_outside("tcp", outside::OURS, 7299)?, &id[..12]);
    own.done()
}

fn only_local_by_default(ctx: &Ctx) -> Outcome {
    let flags = ["--ip", "127.0.0.1"];
    let own = Own::start_with(ctx, &flags.map(str::to_owned))?;
    make(&own.ctx, "n", &json!({}))?;
    for (suffix, body) in [
        ("a", json!({})),
        (
            "b",
            on(
                &own.ctx.name("n"),
                &json!({"Cmd": ["/probe", "serve", "7000"]}),
            ),
        ),
    ] {
        let mut full =
            json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "7300"}]}}});
        crate::context::merge(&mut full, &body);
        let id = server(&own.ctx, suffix, &full)?;
        same!(
            own.ctx.inspect(&id)?["NetworkSettings"]["Ports"]["7000/tcp"],
            json!([{"HostIp": "127.0.0.1", "HostPort": "7300"}])
        );
        has!(ask(&own.ctx, "tcp", "127.0.0.1", 7300)?, &id[..12]);
        ensure!(
            ask_from_outside("tcp", outside::OURS, 7300).is_err(),
            "seen from outside"
        );
        own.ctx.remove(&id)?;
    }
    own.done()
}

/// An engine whose rules live in iptables, with a FORWARD policy of DROP.
fn beside_dockerd(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    make(&own.ctx, "n", &json!({}))?;
    let net = own.ctx.name("n");
    let body = json!({"Cmd": ["/probe", "serve", "7000"],
        "HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "7301"}]}}});
    let id = server(&own.ctx, "s", &on(&net, &body))?;
    // A bridge of its own: docker0 is that of the engine that all cases share.
    run(&["ip", "link", "add", "dkr0", "type", "bridge"])?;
    run(&["ip", "addr", "add", "172.29.0.1/24", "dev", "dkr0"])?;
    run(&["ip", "link", "set", "dkr0", "up"])?;
    let mut other = Engine::start(Setup {
        kind: Kind::Dockerd,
        binary: "/usr/sbin/dockerd".into(),
        root: ctx.world.scratch.join("beside"),
        isolate: false,
        extra: vec!["--bridge".to_owned(), "dkr0".to_owned()],
        marker: format!("{}-beside", ctx.world.marker),
    })?;
    let result = (|| -> Outcome {
        engine::load(&other.socket(), "busybox:latest", &ctx.world.archive)?;
        let mut world = ctx.world.clone();
        world.socket = other.socket();
        let theirs = Ctx {
            world,
            prefix: format!("{}x", ctx.prefix),
            unnamed: std::sync::Mutex::default(),
        };
        let their_body =
            json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "7302"}]}}});
        let their_id = server(&theirs, "s", &their_body)?;
        until(5, "both engines' ports", || {
            let ours = ask_from_outside("tcp", outside::OURS, 7301).unwrap_or_default();
            let their = ask_from_outside("tcp", outside::OURS, 7302).unwrap_or_default();
            Ok((ours.contains(&id[..12]) && their.contains(&their_id[..12])).then_some(()))
        })?;
        let mut serving = outside::serve(7103)?;
        let way_out = until(5, "our way out", || {
            let script = format!("nc -w2 {} 7103 </dev/null", outside::THEIRS);
            Ok(own.ctx.exec_sh(&id, &script)?.ok().ok())
        });
        serving.kill()?;
        serving.wait()?;
        way_out?;
        theirs.clean()
    })();
    other.stop()?;
    run(&["ip", "link", "del", "dkr0"])?;
    // dockerd leaves its rules where it put them.
    for family in ["ip", "ip6"] {
        for table in ["filter", "nat"] {
            let _ = run(&["nft", "delete", "table", family, table]);
        }
    }
    result?;
    has!(ask_from_outside("tcp", outside::OURS, 7301)?, &id[..12]);
    own.done()
}

fn direct_routing(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let mode = |mode: &str, subnet: &str| {
        json!({"Options": {"com.docker.network.bridge.gateway_mode_ipv4": mode},
            "IPAM": {"Config": [{"Subnet": subnet}]}})
    };
    make(&own.ctx, "routed", &mode("routed", "10.202.0.0/24"))?;
    make(&own.ctx, "open", &mode("nat-unprotected", "10.203.0.0/24"))?;
    make(&own.ctx, "nat", &mode("nat", "10.204.0.0/24"))?;
    for subnet in ["10.202.0.0/24", "10.203.0.0/24", "10.204.0.0/24"] {
        outside::run(&["ip", "route", "add", subnet, "via", outside::OURS])?;
    }
    let mut addresses = Vec::new();
    for suffix in ["routed", "open", "nat"] {
        let net = own.ctx.name(suffix);
        let body = json!({"Cmd": ["/probe", "serve", "7000"],
            "HostConfig": {"PortBindings": if suffix == "routed" { json!({"7000/tcp": [{}]}) } else { json!({}) }}});
        let id = server(&own.ctx, &format!("s{suffix}"), &on(&net, &body))?;
        addresses.push((text(&endpoint(&own.ctx, &id, &net)?["IPAddress"]), id));
    }
    let outcome = (|| -> Outcome {
        for (address, id) in &addresses[..2] {
            let seen = ask_from_outside("tcp", address, 7000)?;
            ensure!(
                seen.starts_with(outside::THEIRS) && seen.contains(&id[..12]),
                "{seen}"
            );
        }
        ensure!(
            ask_from_outside("udp", &addresses[0].0, 7000).is_err(),
            "an unpublished port of a routed network is open"
        );
        ensure!(
            ask_from_outside("tcp", &addresses[2].0, 7000).is_err(),
            "a port of a nat network is open"
        );
        Ok(())
    })();
    for subnet in ["10.202.0.0/24", "10.203.0.0/24", "10.204.0.0/24"] {
        outside::run(&["ip", "route", "del", subnet])?;
    }
    outcome?;
    own.done()
}

fn nothing_left(ctx: &Ctx) -> Outcome {
    let state = || -> Outcome<Vec<String>> {
        let links = run(&["ip", "-o", "link"])?;
        let links = links
            .lines()
            .map(|line| line.split(": ").nth(1).unwrap_or_default().to_owned());
        Ok(vec![
            run(&["nft", "list", "ruleset"])?,
            links.collect::<Vec<_>>().join(" "),
            std::fs::read_to_string("/proc/mounts")?,
        ])
    };
    let before = state()?;
    let own = Own::start(ctx)?;
    for number in 0..5 {
        let suffix = format!("n{number}");
        make(
            &own.ctx,
            &suffix,
            &json!({"EnableIPv6": number == 1, "Internal": number == 2}),
        )?;
        let bindings: Value =
            json!({"PortBindings": {"80/tcp": [{"HostPort": (7310 + number).to_string()}]}});
        own.ctx.launch(
            &format!("c{number}"),
            &on(&own.ctx.name(&suffix), &json!({"HostConfig": bindings})),
        )?;
    }
    own.ctx.clean()?;
    own.done()?;
    until(10, "everything as before", || {
        Ok((state()? == before).then_some(()))
    })
}
