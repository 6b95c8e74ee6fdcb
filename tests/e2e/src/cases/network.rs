//! The bridge, names and addresses.

use std::process::Command;

use e2e::{
    check::{Fail, Outcome, until},
    ensure, fail, has, lacks, same,
};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, outside, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("network", Any;
            containers_reach_each_other, way_out, hosts_file, extra_hosts, host_gateway, dns_settings, resolv_conf_of_host, links, mac_address,
            predefined_networks, bridge_shows_its_containers, remove_predefined_refused, missing_network, list_filters, link_goes_away,
            unknown_mode_refused, addresses_are_reused, many_at_once_have_own_addresses, loopback_and_ipv6_state, expose_only,
        )
        .to_vec(),
    ]
    .concat()
}

/// Runs the server probe in a container, and waits until it serves.
pub(super) fn server(ctx: &Ctx, suffix: &str, body: &Value) -> Outcome<String> {
    let id = server_made(ctx, suffix, body)?;
    ctx.start(&id)?;
    ctx.log_has(&id, "serving")?;
    Ok(id)
}

pub(super) fn server_made(ctx: &Ctx, suffix: &str, body: &Value) -> Outcome<String> {
    let mut full = json!({"Cmd": ["/probe", "serve", "7000"], "ExposedPorts": {"7000/tcp": {}, "7000/udp": {}},
        "HostConfig": {"Binds": [format!("{}:/probe:ro", std::env::current_exe()?.display())]}});
    crate::context::merge(&mut full, body);
    ctx.create(suffix, &full)
}

pub(super) fn ask(ctx: &Ctx, protocol: &str, address: &str, port: u16) -> Outcome<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["ask", protocol, address, &port.to_string()]);
    Ok(ctx
        .command(command, "")?
        .ok()
        .map_err(|Fail(e)| Fail(format!("{protocol} {address} {port} from here: {e}")))?
        .line()
        .to_owned())
}

pub(super) fn ask_from_container(
    ctx: &Ctx,
    protocol: &str,
    address: &str,
    port: u16,
) -> Outcome<String> {
    let body = json!({"Cmd": ["/probe", "ask", protocol, address, port.to_string()],
        "HostConfig": {"Binds": [format!("{}:/probe:ro", std::env::current_exe()?.display())]}});
    let out = ctx
        .run("asker", &body)?
        .ok()
        .map_err(|Fail(e)| Fail(format!("{protocol} {address} {port} from a container: {e}")))?;
    Ok(out.line().to_owned())
}

pub(super) fn address(ctx: &Ctx, id: &str) -> Outcome<String> {
    Ok(
        ctx.inspect(id)?["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

pub(super) fn gateway(ctx: &Ctx, id: &str) -> Outcome<String> {
    Ok(
        ctx.inspect(id)?["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

fn containers_reach_each_other(ctx: &Ctx) -> Outcome {
    let id = server(ctx, "s", &json!({}))?;
    for protocol in ["tcp", "udp"] {
        has!(
            ask_from_container(ctx, protocol, &address(ctx, &id)?, 7000)?,
            &id[..12]
        );
    }
    ctx.sh(
        "p",
        json!({}),
        &format!("ping -c1 -W2 {}", address(ctx, &id)?),
    )?
    .ok()?;
    Ok(())
}

fn way_out(ctx: &Ctx) -> Outcome {
    let mut serving = outside::serve(7100)?;
    let result = (|| -> Outcome {
        until(5, "outside server", || {
            Ok(ask(ctx, "tcp", outside::THEIRS, 7100).ok())
        })?;
        for protocol in ["tcp", "udp"] {
            let answer = ask_from_container(ctx, protocol, outside::THEIRS, 7100)?;
            ensure!(
                answer.starts_with(outside::OURS),
                "{protocol}: outside sees {answer}"
            );
        }
        Ok(())
    })();
    serving.kill()?;
    serving.wait()?;
    result
}

fn hosts_file(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let text = ctx.exec_sh(&id, "cat /etc/hosts")?.stdout;
    for line in [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ] {
        has!(text, line);
    }
    same!(
        text.lines().last(),
        Some(format!("{}\t{}", address(ctx, &id)?, &id[..12]).as_str())
    );
    Ok(())
}

fn extra_hosts(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"ExtraHosts": ["foo:1.2.3.4", "six:2001:db8::1"]}),
        "cat /etc/hosts",
    )?;
    has!(out.stdout, "1.2.3.4\tfoo\n");
    has!(out.stdout, "2001:db8::1\tsix\n");
    let bad = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"ExtraHosts": ["nocolon"]}}),
    )?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    has!(bad.message(), "bad format for add-host");
    Ok(())
}

fn host_gateway(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"ExtraHosts": ["up:host-gateway"]}),
        "cat /etc/hosts; ip route | grep default",
    )?;
    let gateway = out
        .stdout
        .split("default via ")
        .nth(1)
        .and_then(|t| t.split(' ').next())
        .unwrap_or("-");
    has!(out.stdout, format!("{gateway}\tup\n"));
    Ok(())
}

fn dns_settings(ctx: &Ctx) -> Outcome {
    let host = json!({"Dns": ["9.9.9.9", "2001:db8::53"], "DnsSearch": ["x.y", "z"], "DnsOptions": ["ndots:3"]});
    let text = ctx.sh("c", host, "cat /etc/resolv.conf")?.stdout;
    for line in [
        "nameserver 9.9.9.9\n",
        "nameserver 2001:db8::53\n",
        "search x.y z\n",
        "options ndots:3\n",
    ] {
        has!(text, line);
    }
    let text = ctx
        .sh("d", json!({"DnsSearch": ["."]}), "cat /etc/resolv.conf")?
        .stdout;
    lacks!(text, "\nsearch");
    let bad = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"Dns": ["not an address"]}}),
    )?;
    ensure!(
        bad.status == 201 || ctx.refused(bad.status),
        "{}",
        bad.status
    );
    Ok(())
}

fn resolv_conf_of_host(ctx: &Ctx) -> Outcome {
    let text = ctx.sh("c", json!({}), "cat /etc/resolv.conf")?.stdout;
    for line in std::fs::read_to_string("/etc/resolv.conf")?
        .lines()
        .filter(|l| l.starts_with("nameserver") && !l.contains(" 127.") && !l.contains(" ::1"))
    {
        has!(text, line);
    }
    Ok(())
}

fn links(ctx: &Ctx) -> Outcome {
    let target = server(ctx, "target", &json!({}))?;
    let out = ctx
        .sh(
            "c",
            json!({"Links": [format!("{}:alias", ctx.name("target"))]}),
            "cat /etc/hosts; ping -c1 -W2 alias",
        )?
        .ok()?;
    has!(
        out.stdout,
        format!(
            "{}\talias {} {}",
            address(ctx, &target)?,
            &target[..12],
            ctx.name("target")
        )
    );
    let bad = ctx.launch(
        "d",
        &json!({"Cmd": ["true"], "HostConfig": {"Links": ["absent:x"]}}),
    );
    let Err(Fail(text)) = bad else {
        fail!("linked to an absent container");
    };
    has!(text, "could not get container for absent");
    Ok(())
}

fn mac_address(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["cat", "/sys/class/net/eth0/address"], "MacAddress": "92:d0:c6:0a:29:33",
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": "92:d0:c6:0a:29:33"}}}});
    same!(ctx.run("c", &body)?.line(), "92:d0:c6:0a:29:33");
    let bad = ctx.post("/containers/create", &json!({"Image": "busybox", "Cmd": ["true"], "NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": "xx"}}}}))?;
    ensure!(ctx.refused(bad.status) || !ctx.api(44), "{}", bad.status);
    Ok(())
}

fn predefined_networks(ctx: &Ctx) -> Outcome {
    let list = ctx.json("/networks")?;
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        let Some(one) = list
            .as_array()
            .into_iter()
            .flatten()
            .find(|n| n["Name"] == name)
        else {
            fail!("no network {name}");
        };
        same!(
            (&one["Driver"], &one["Scope"]),
            (&json!(driver), &json!("local"))
        );
        same!(one["Id"].as_str().map(str::len), Some(64));
        let id = one["Id"].as_str().unwrap_or_default();
        same!(ctx.json(&format!("/networks/{id}"))?["Name"], name);
        same!(ctx.json(&format!("/networks/{}", &id[..12]))?["Name"], name);
    }
    let bridge = ctx.json("/networks/bridge")?;
    has!(
        bridge["IPAM"]["Config"][0]["Subnet"]
            .as_str()
            .unwrap_or_default(),
        "/"
    );
    has!(
        bridge["Options"]["com.docker.network.bridge.name"]
            .as_str()
            .unwrap_or_default(),
        ""
    );
    same!(
        bridge["Options"]["com.docker.network.bridge.default_bridge"],
        "true"
    );
    Ok(())
}

fn bridge_shows_its_containers(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let one = ctx.json("/networks/bridge")?["Containers"][&id].clone();
    same!(one["Name"], ctx.name("c"));
    has!(
        one["IPv4Address"].as_str().unwrap_or_default(),
        format!("{}/", address(ctx, &id)?)
    );
    ctx.remove(&id)?;
    same!(
        ctx.json("/networks/bridge")?["Containers"][&id],
        Value::Null
    );
    Ok(())
}

fn remove_predefined_refused(ctx: &Ctx) -> Outcome {
    for name in ["bridge", "host", "none"] {
        let answer = ctx.delete(&format!("/networks/{name}"))?;
        same!(answer.status, 403);
        has!(
            answer.message(),
            "is a pre-defined network and cannot be removed"
        );
    }
    Ok(())
}

fn missing_network(ctx: &Ctx) -> Outcome {
    for answer in [
        ctx.get("/networks/absentnet")?,
        ctx.delete("/networks/absentnet")?,
    ] {
        same!(answer.status, 404);
        has!(answer.message(), "network absentnet not found");
    }
    Ok(())
}

fn unknown_mode_refused(ctx: &Ctx) -> Outcome {
    let out = ctx.launch(
        "c",
        &json!({"Cmd": ["true"], "HostConfig": {"NetworkMode": "absentnet"}}),
    );
    let Err(Fail(text)) = out else {
        fail!("an absent network was joined");
    };
    has!(text, "network absentnet not found");
    Ok(())
}

fn list_filters(ctx: &Ctx) -> Outcome {
    let names = |filters: Value| -> Outcome<Vec<String>> {
        let list = ctx.json(&format!(
            "/networks?filters={}",
            e2e::http::escape(&filters.to_string())
        ))?;
        let mut names: Vec<String> = list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|n| Some(n["Name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    };
    same!(names(json!({"name": ["bri"]}))?, ["bridge"]);
    same!(names(json!({"driver": ["host"]}))?, ["host"]);
    same!(
        names(json!({"type": ["builtin"]}))?,
        ["bridge", "host", "none"]
    );
    ensure!(
        !names(json!({"type": ["custom"]}))?.contains(&"bridge".to_owned()),
        "bridge is custom"
    );
    let bad = ctx.get(&format!(
        "/networks?filters={}",
        e2e::http::escape(r#"{"bogus":["x"]}"#)
    ))?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    Ok(())
}

fn link_goes_away(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let index: String = ctx
        .exec_sh(&id, "cat /sys/class/net/eth0/iflink")?
        .line()
        .to_owned();
    let there = || -> Outcome<bool> {
        let out = Command::new("ip").args(["-o", "link"]).output()?;
        Ok(String::from_utf8_lossy(&out.stdout)
            .lines()
            .any(|l| l.starts_with(&format!("{index}: "))))
    };
    ensure!(there()?, "no link {index} in our namespace");
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    until(5, "link gone", || Ok((!there()?).then_some(())))
}

fn addresses_are_reused(ctx: &Ctx) -> Outcome {
    for n in 0..6 {
        let id = ctx.launch(&format!("c{n}"), &json!({"Cmd": ["sleep", "600"]}))?;
        let mine = address(ctx, &id)?;
        has!(ctx.exec_sh(&id, "ip -4 -o addr show eth0")?.stdout, mine);
        ctx.remove(&id)?;
    }
    Ok(())
}

fn many_at_once_have_own_addresses(ctx: &Ctx) -> Outcome {
    let ids: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..10)
            .map(|n| scope.spawn(move || ctx.sleeper(&format!("c{n}"))))
            .collect();
        all.into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(Fail("panic".into()))))
            .collect::<Outcome<_>>()
    })?;
    let mut addresses = ids
        .iter()
        .map(|id| address(ctx, id))
        .collect::<Outcome<Vec<_>>>()?;
    addresses.sort();
    let count = addresses.len();
    addresses.dedup();
    same!(addresses.len(), count);
    Ok(())
}

fn loopback_and_ipv6_state(ctx: &Ctx) -> Outcome {
    let out = ctx.sh("c", json!({}), "ip -o addr show lo; ip -o link show eth0")?;
    has!(out.stdout, "127.0.0.1/8");
    has!(out.stdout, "mtu 1500");
    has!(out.stdout, "eth0@if");
    Ok(())
}

fn expose_only(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "ExposedPorts": {"80/tcp": {}}}),
    )?;
    same!(
        ctx.inspect(&id)?["NetworkSettings"]["Ports"],
        json!({"80/tcp": null}),
        "exposed ports are listed without a binding"
    );
    Ok(())
}
