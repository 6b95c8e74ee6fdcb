//! Networks that users make.

use std::process::Command;

use e2e::{
    check::{Outcome, until},
    ensure, fail, has, lacks, same,
};
use serde_json::{Value, json};

use super::{
    network::{ask, ask_from_container, server},
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
        cases!("networks", Any;
            made_and_removed, refused, containers_on_it, closed_to_others, connect_and_disconnect, gateway_follows, before_the_start,
            own_addresses, in_use, pruned, internal, closed_among_themselves, bridge_by_name, ports_on_it, several_at_create, interface_options, kept_over_stops,
        )
        .to_vec(),
        cases!("networks", Daemon; over_kills, pools_run_out, ).to_vec(),
    ]
    .concat()
}

/// Makes a network; its id.
pub(super) fn make(ctx: &Ctx, suffix: &str, body: &Value) -> Outcome<String> {
    let mut full = json!({"Name": ctx.name(suffix), "CheckDuplicate": true});
    crate::context::merge(&mut full, body);
    let made = ctx.post("/networks/create", &full)?.expect(201)?.json()?;
    Ok(made["Id"].as_str().unwrap_or_default().to_owned())
}

/// A body that puts a container onto this network.
pub(super) fn on(network: &str, more: &Value) -> Value {
    let mut body = json!({"Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": network}});
    crate::context::merge(&mut body, more);
    body
}

pub(super) fn endpoint(ctx: &Ctx, id: &str, network: &str) -> Outcome<Value> {
    Ok(ctx.inspect(id)?["NetworkSettings"]["Networks"][network].clone())
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn links() -> Outcome<String> {
    let listed = Command::new("ip").args(["-o", "link"]).output()?;
    Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
}

fn made_and_removed(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = make(
        ctx,
        "n",
        &json!({"Labels": {"a": "b"}, "IPAM": {"Config": [{"Subnet": "10.91.0.0/24", "IPRange": "10.91.0.128/25",
            "Gateway": "10.91.0.1", "AuxiliaryAddresses": {"x": "10.91.0.129"}}]}}),
    )?;
    let one = ctx.json(&format!("/networks/{id}"))?;
    same!(one["Name"], ctx.name("n"));
    same!(
        (&one["Driver"], &one["Scope"]),
        (&json!("bridge"), &json!("local"))
    );
    same!(one["Labels"], json!({"a": "b"}));
    same!(one["Options"], json!({}));
    same!(one["Internal"], false);
    same!(
        one["IPAM"]["Config"],
        json!([{"Subnet": "10.91.0.0/24", "IPRange": "10.91.0.128/25", "Gateway": "10.91.0.1",
            "AuxiliaryAddresses": {"x": "10.91.0.129"}}])
    );
    let link = format!("br-{}", &id[..12]);
    has!(links()?, &link);
    let filters =
        e2e::http::escape(&json!({"label": ["a=b"], "name": [ctx.name("n")]}).to_string());
    let listed = ctx.json(&format!("/networks?filters={filters}"))?;
    same!(listed.as_array().map(Vec::len), Some(1));
    same!(listed[0]["Id"], id);
    let container = ctx.launch("c", &on(&ctx.name("n"), &json!({})))?;
    // The range begins with an address that nobody gets.
    same!(
        endpoint(ctx, &container, &ctx.name("n"))?["IPAddress"],
        "10.91.0.128"
    );
    ctx.remove(&container)?;
    ctx.delete(&format!("/networks/{}", ctx.name("n")))?
        .expect(204)?;
    same!(ctx.get(&format!("/networks/{id}"))?.status, 404);
    until(5, "the end of the link", || {
        Ok((!links()?.contains(&link)).then_some(()))
    })?;
    let events = ctx.events(&since, &now(), &json!({"type": ["network"]}))?;
    let mine: Vec<(String, String)> = events
        .iter()
        .filter(|e| e["Actor"]["ID"] == id.as_str())
        .map(|e| (text(&e["Action"]), text(&e["Actor"]["Attributes"]["name"])))
        .collect();
    let name = ctx.name("n");
    let wanted: Vec<(String, String)> = ["create", "connect", "disconnect", "destroy"]
        .into_iter()
        .map(|action| (action.to_owned(), name.clone()))
        .collect();
    same!(mine, wanted);
    Ok(())
}

fn refused(ctx: &Ctx) -> Outcome {
    make(
        ctx,
        "n",
        &json!({"IPAM": {"Config": [{"Subnet": "10.92.0.0/24"}]}}),
    )?;
    let name = ctx.name("n");
    let try_it = |body: Value, status: u16, message: &str| -> Outcome {
        let answer = ctx.post("/networks/create", &body)?;
        same!((answer.status, ctx.api(44)), (status, ctx.api(44)));
        has!(answer.message(), message);
        Ok(())
    };
    try_it(
        json!({"Name": name, "CheckDuplicate": true}),
        409,
        &format!("network with name {name} already exists"),
    )?;
    try_it(
        json!({"Name": ctx.name("o"), "IPAM": {"Config": [{"Subnet": "10.92.0.0/25"}]}}),
        403,
        "Pool overlaps with other one on this address space",
    )?;
    try_it(
        json!({"Name": ctx.name("p"), "Driver": "nosuch"}),
        404,
        "nosuch",
    )?;
    for predefined in ["bridge", "host", "none"] {
        try_it(
            json!({"Name": predefined}),
            403,
            &format!("operation is not permitted on predefined {predefined} network"),
        )?;
    }
    if ctx.api(44) {
        try_it(
            json!({"Name": ctx.name("q"), "IPAM": {"Config": [{"Subnet": "10.93.0.7/24"}]}}),
            400,
            "invalid network config:\ninvalid subnet 10.93.0.7/24: it should be 10.93.0.0/24",
        )?;
    }
    for (path, body) in [
        ("connect", json!({"Container": "absent.container"})),
        ("disconnect", json!({"Container": "absent.container"})),
    ] {
        let answer = ctx.post(&format!("/networks/{name}/{path}"), &body)?;
        same!(answer.status, 404);
        has!(answer.message(), "No such container: absent.container");
    }
    let other = ctx.create(
        "c",
        &json!({"HostConfig": {"NetworkMode": "absent.network"}}),
    );
    if other.is_ok() && ctx.api(44) {
        fail!("a container was made for a network that is not there");
    }
    Ok(())
}

fn containers_on_it(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let aliases =
        json!({"NetworkingConfig": {"EndpointsConfig": {net.clone(): {"Aliases": ["web"]}}}});
    let id = server(
        ctx,
        "s",
        &on(
            &net,
            &json!({"Cmd": ["/probe", "serve", "7000"], "NetworkingConfig": aliases["NetworkingConfig"]}),
        ),
    )?;
    let place = endpoint(ctx, &id, &net)?;
    same!(place["Aliases"][0], "web");
    let address = text(&place["IPAddress"]);
    let gateway = text(&place["Gateway"]);
    ensure!(!address.is_empty() && gateway.ends_with(".1"), "{place}");
    let other = ctx.launch("c", &on(&net, &json!({})))?;
    let out = ctx.exec_sh(
        &other,
        &format!("ping -c1 -W2 {address} && cat /etc/hosts && ip a && ip r"),
    )?;
    let out = out.ok()?.stdout;
    let own = text(&endpoint(ctx, &other, &net)?["IPAddress"]);
    has!(out, &format!("{own}\t{}", &other[..12]));
    has!(out, "eth0");
    lacks!(out, "eth1");
    has!(out, &format!("default via {gateway} dev eth0"));
    // From the host, and to the host.
    has!(ask(ctx, "tcp", &address, 7000)?, &id[..12]);
    let members = ctx.json(&format!("/networks/{net}"))?["Containers"].clone();
    same!(members.as_object().map(serde_json::Map::len), Some(2));
    same!(members[&id]["Name"], ctx.name("s"));
    has!(text(&members[&id]["IPv4Address"]), &format!("{address}/"));
    let mut serving = outside::serve(7101)?;
    let way_out = until(5, "the way out", || {
        let script = format!("nc -w2 {} 7101 </dev/null", outside::THEIRS);
        Ok(ctx.exec_sh(&other, &script)?.ok().ok())
    });
    serving.kill()?;
    serving.wait()?;
    way_out.map(drop)
}

fn closed_to_others(ctx: &Ctx) -> Outcome {
    for suffix in ["a", "b"] {
        make(ctx, suffix, &json!({}))?;
    }
    let one = ctx.launch("c", &on(&ctx.name("a"), &json!({})))?;
    let address = text(&endpoint(ctx, &one, &ctx.name("a"))?["IPAddress"]);
    for network in [ctx.name("b"), "bridge".to_owned()] {
        let other = ctx.launch("d", &on(&network, &json!({})))?;
        let out = ctx.exec_sh(&other, &format!("ping -c1 -W1 {address}"))?;
        ensure!(out.code != 0, "{network} reaches another network");
        ctx.remove(&other)?;
    }
    let same_one = ctx.launch("e", &on(&ctx.name("a"), &json!({})))?;
    ctx.exec_sh(&same_one, &format!("ping -c1 -W2 {address}"))?
        .ok()?;
    Ok(())
}

fn connect(ctx: &Ctx, network: &str, container: &str, config: Value) -> Outcome {
    let body = json!({"Container": container, "EndpointConfig": config});
    ctx.post(&format!("/networks/{network}/connect"), &body)?
        .expect(200)
        .map(drop)
}

fn disconnect(ctx: &Ctx, network: &str, container: &str) -> Outcome {
    let body = json!({"Container": container, "Force": false});
    ctx.post(&format!("/networks/{network}/disconnect"), &body)?
        .expect(200)
        .map(drop)
}

fn connect_and_disconnect(ctx: &Ctx) -> Outcome {
    let network = make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let id = ctx.sleeper("c")?;
    let since = now();
    connect(ctx, &net, &id, json!({"Aliases": ["foo"]}))?;
    let place = endpoint(ctx, &id, &net)?;
    same!(place["NetworkID"], network);
    same!(place["Aliases"][0], "foo");
    if ctx.api(44) {
        same!(place["DNSNames"], json!([ctx.name("c"), "foo", &id[..12]]));
    }
    let address = text(&place["IPAddress"]);
    let out = ctx.exec_sh(&id, "ip a; ip r; cat /etc/hosts")?.ok()?.stdout;
    has!(out, "eth1");
    has!(out, &format!("inet {address}/"));
    has!(out, &text(&place["MacAddress"]));
    has!(out, &format!("{address}\t{}", &id[..12]));
    let peer = ctx.launch("p", &on(&net, &json!({})))?;
    ctx.exec_sh(&peer, &format!("ping -c1 -W2 {address}"))?
        .ok()?;
    let answer = ctx.post(
        &format!("/networks/{net}/connect"),
        &json!({"Container": id}),
    )?;
    same!(answer.status, 403);
    has!(
        answer.message(),
        &format!(
            "endpoint with name {} already exists in network {net}",
            ctx.name("c")
        )
    );
    disconnect(ctx, &net, &id)?;
    let out = ctx.exec_sh(&id, "ip a; cat /etc/hosts")?.ok()?.stdout;
    lacks!(out, "eth1");
    lacks!(out, &format!("{address}\t"));
    has!(out, "eth0");
    same!(endpoint(ctx, &id, &net)?, Value::Null);
    let answer = ctx.post(
        &format!("/networks/{net}/disconnect"),
        &json!({"Container": id}),
    )?;
    ensure!(answer.status >= 400, "disconnected twice");
    has!(
        answer.message(),
        &format!("is not connected to network {net}")
    );
    let events = ctx.events(&since, &now(), &json!({"network": [net]}))?;
    let mut mine: Vec<String> = events
        .iter()
        .filter(|e| e["Actor"]["Attributes"]["container"] == id.as_str())
        .map(|e| text(&e["Action"]))
        .collect();
    // Older daemons say the second one twice.
    mine.dedup();
    same!(mine, ["connect", "disconnect"]);
    Ok(())
}

fn gateway_follows(ctx: &Ctx) -> Outcome {
    for suffix in ["a", "b"] {
        make(ctx, suffix, &json!({}))?;
    }
    let (a, b) = (ctx.name("a"), ctx.name("b"));
    let id = ctx.launch("c", &on(&b, &json!({})))?;
    let route = |network: &str| -> Outcome<String> {
        Ok(format!(
            "default via {}",
            text(&endpoint(ctx, &id, network)?["Gateway"])
        ))
    };
    let routes = || -> Outcome<String> { Ok(ctx.exec_sh(&id, "ip r")?.ok()?.stdout) };
    has!(routes()?, &route(&b)?);
    connect(ctx, &a, &id, json!({}))?;
    // By name, until priorities say otherwise.
    has!(routes()?, &route(&a)?);
    disconnect(ctx, &a, &id)?;
    has!(routes()?, &route(&b)?);
    disconnect(ctx, &b, &id)?;
    lacks!(routes()?, "default");
    connect(ctx, &a, &id, json!({}))?;
    has!(routes()?, &route(&a)?);
    if ctx.api(48) {
        connect(ctx, &b, &id, json!({"GwPriority": 10}))?;
        has!(routes()?, &route(&b)?);
        same!(endpoint(ctx, &id, &b)?["GwPriority"], 10);
    }
    Ok(())
}

fn before_the_start(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let id = ctx.create("c", &json!({"Cmd": ["sleep", "600"]}))?;
    disconnect(ctx, "bridge", &id)?;
    let answer = ctx.post("/networks/bridge/disconnect", &json!({"Container": id}))?;
    same!(answer.status, 500);
    has!(
        answer.message(),
        &format!("container {id} is not connected to the network bridge")
    );
    connect(ctx, &net, &id, json!({"Aliases": ["foo"]}))?;
    let place = endpoint(ctx, &id, &net)?;
    same!(place["Aliases"][0], "foo");
    same!(place["IPAddress"], "");
    ctx.start(&id)?;
    let out = ctx.exec_sh(&id, "ip a")?.ok()?.stdout;
    has!(
        out,
        &format!("inet {}/", text(&endpoint(ctx, &id, &net)?["IPAddress"]))
    );
    lacks!(out, "eth1");
    let networks = ctx.inspect(&id)?["NetworkSettings"]["Networks"].clone();
    same!(networks.as_object().map(serde_json::Map::len), Some(1));
    Ok(())
}

fn own_addresses(ctx: &Ctx) -> Outcome {
    make(
        ctx,
        "n",
        &json!({"IPAM": {"Config": [{"Subnet": "10.94.0.0/24"}]}}),
    )?;
    make(ctx, "auto", &json!({}))?;
    let net = ctx.name("n");
    let asking = |ip: &str, mac: &str| {
        on(
            &net,
            &json!({"MacAddress": mac, "NetworkingConfig": {"EndpointsConfig": {net.clone():
                {"IPAMConfig": {"IPv4Address": ip}, "MacAddress": mac}}}}),
        )
    };
    let id = ctx.launch("c", &asking("10.94.0.77", "02:42:0a:5e:00:4d"))?;
    let place = endpoint(ctx, &id, &net)?;
    same!(place["IPAddress"], "10.94.0.77");
    same!(place["IPAMConfig"], json!({"IPv4Address": "10.94.0.77"}));
    same!(place["MacAddress"], "02:42:0a:5e:00:4d");
    has!(
        ctx.exec_sh(&id, "ip a")?.ok()?.stdout,
        "inet 10.94.0.77/24 brd 10.94.0.255"
    );
    let second = ctx.create("d", &asking("10.94.0.77", ""))?;
    let answer = ctx.act(&format!("/containers/{second}/start"))?;
    same!(answer.status, 403);
    has!(answer.message(), "Address already in use");
    // It is free for the next one, the one that got it keeps it over a restart.
    ctx.act(&format!("/containers/{id}/restart?t=0"))?
        .expect(204)?;
    same!(endpoint(ctx, &id, &net)?["IPAddress"], "10.94.0.77");
    let answer = ctx.post(
        &format!("/networks/{}/connect", ctx.name("auto")),
        &json!({"Container": id, "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.95.0.9"}}}),
    )?;
    ensure!(ctx.refused(answer.status), "{}", answer.status);
    has!(
        answer.message(),
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    );
    Ok(())
}

fn in_use(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let id = ctx.launch("c", &on(&net, &json!({})))?;
    let endpoint_id = text(&endpoint(ctx, &id, &net)?["EndpointID"]);
    let answer = ctx.delete(&format!("/networks/{net}"))?;
    same!(answer.status, 403);
    if ctx.api(44) {
        same!(
            answer.message(),
            format!(
                "error while removing network: network {net} has active endpoints (name:{:?} id:{:?})",
                ctx.name("c"),
                &endpoint_id[..12]
            )
        );
    }
    has!(answer.message(), "has active endpoints");
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    // A container that does not run does not keep it.
    ctx.delete(&format!("/networks/{net}"))?.expect(204)?;
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    same!(answer.status, 404);
    has!(answer.message(), "not found");
    // Another one of the same name is not the one that it was made for.
    make(ctx, "n", &json!({}))?;
    same!(ctx.act(&format!("/containers/{id}/start"))?.status, 404);
    let forced = json!({"Container": id, "Force": true});
    ctx.post(&format!("/networks/{net}/disconnect"), &forced)?
        .expect(200)?;
    connect(ctx, &net, &id, json!({}))?;
    ctx.start(&id)
}

fn pruned(ctx: &Ctx) -> Outcome {
    make(ctx, "used", &json!({"Labels": {"prune": ctx.prefix}}))?;
    make(ctx, "idle", &json!({"Labels": {"prune": ctx.prefix}}))?;
    make(ctx, "other", &json!({}))?;
    ctx.launch("c", &on(&ctx.name("used"), &json!({})))?;
    let filter = |value: Value| e2e::http::escape(&value.to_string());
    let label = format!("prune={}", ctx.prefix);
    let old = filter(json!({"label": [label], "until": ["1h"]}));
    let none = ctx
        .act(&format!("/networks/prune?filters={old}"))?
        .expect(200)?
        .json()?;
    ensure!(
        none["NetworksDeleted"].as_array().is_none_or(Vec::is_empty),
        "{none}"
    );
    let all = filter(json!({"label": [label]}));
    let gone = ctx
        .act(&format!("/networks/prune?filters={all}"))?
        .expect(200)?
        .json()?;
    same!(gone["NetworksDeleted"], json!([ctx.name("idle")]));
    ctx.json(&format!("/networks/{}", ctx.name("other")))?;
    Ok(())
}

fn internal(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({"Internal": true}))?;
    let net = ctx.name("n");
    let id = ctx.launch("c", &on(&net, &json!({})))?;
    let peer = ctx.launch("d", &on(&net, &json!({})))?;
    let place = endpoint(ctx, &id, &net)?;
    if ctx.api(44) {
        same!(place["Gateway"], "");
        lacks!(ctx.exec_sh(&id, "ip r")?.ok()?.stdout, "default");
    }
    ctx.exec_sh(
        &peer,
        &format!("ping -c1 -W2 {}", text(&place["IPAddress"])),
    )?
    .ok()?;
    let mut serving = outside::serve(7102)?;
    let script = format!(
        "ip route add default via {}.1 ; nc -w1 {} 7102 </dev/null",
        text(&place["IPAddress"])
            .rsplit_once('.')
            .map_or("", |(net, _)| net),
        outside::THEIRS
    );
    let admin = json!({"Cmd": ["sh", "-c", script], "Privileged": true});
    let out = ctx.exec(&id, &admin);
    serving.kill()?;
    serving.wait()?;
    ensure!(out?.code != 0, "an internal network leads outside");
    Ok(())
}

fn closed_among_themselves(ctx: &Ctx) -> Outcome {
    make(
        ctx,
        "n",
        &json!({"Options": {"com.docker.network.bridge.enable_icc": "false"}}),
    )?;
    let net = ctx.name("n");
    let id = ctx.launch("c", &on(&net, &json!({})))?;
    let late = ctx.sleeper("d")?;
    connect(ctx, &net, &late, json!({}))?;
    let address = text(&endpoint(ctx, &id, &net)?["IPAddress"]);
    let out = ctx.exec_sh(&late, &format!("ping -c1 -W1 -I eth1 {address}"))?;
    ensure!(out.code != 0, "icc=false and they talk");
    let gateway = text(&endpoint(ctx, &id, &net)?["Gateway"]);
    ctx.exec_sh(&id, &format!("ping -c1 -W2 {gateway}"))?.ok()?;
    Ok(())
}

fn bridge_by_name(ctx: &Ctx) -> Outcome {
    let link = format!("t{}", std::process::id());
    let body = json!({"Options": {"com.docker.network.bridge.name": link, "com.docker.network.driver.mtu": "1400"}});
    make(ctx, "n", &body)?;
    has!(links()?, &link);
    let id = ctx.launch("c", &on(&ctx.name("n"), &json!({})))?;
    has!(ctx.exec_sh(&id, "ip a")?.ok()?.stdout, "mtu 1400");
    let mut second = body.clone();
    second["Name"] = json!(ctx.name("o"));
    let answer = ctx.post("/networks/create", &second)?;
    same!(answer.status, 403);
    has!(answer.message(), "networks have same bridge name");
    ctx.remove(&id)?;
    // The same name again, while the old link may still be on its way out.
    for _ in 0..3 {
        ctx.delete(&format!("/networks/{}", ctx.name("n")))?
            .expect(204)?;
        make(ctx, "n", &body)?;
        has!(links()?, &link);
        let id = ctx.launch("c", &on(&ctx.name("n"), &json!({})))?;
        let gateway = text(&endpoint(ctx, &id, &ctx.name("n"))?["Gateway"]);
        ctx.exec_sh(&id, &format!("ping -c1 -W2 {gateway}"))?.ok()?;
        ctx.remove(&id)?;
    }
    Ok(())
}

fn ports_on_it(ctx: &Ctx) -> Outcome {
    for suffix in ["a", "b"] {
        make(ctx, suffix, &json!({}))?;
    }
    let (a, b) = (ctx.name("a"), ctx.name("b"));
    let bindings = json!({"7000/tcp": [{"HostPort": "7290"}], "7000/udp": [{"HostPort": "7290"}]});
    let body = on(
        &b,
        &json!({"Cmd": ["/probe", "serve", "7000"], "HostConfig": {"PortBindings": bindings}}),
    );
    let id = server(ctx, "s", &body)?;
    let works = |what: &str| -> Outcome {
        for protocol in ["tcp", "udp"] {
            let answer = ask(ctx, protocol, "127.0.0.1", 7290)?;
            ensure!(answer.contains(&id[..12]), "{what}: {protocol}: {answer}");
        }
        Ok(())
    };
    works("at first")?;
    has!(
        ask_from_container(ctx, "tcp", outside::OURS, 7290)?,
        &id[..12]
    );
    connect(ctx, &a, &id, json!({}))?;
    works("with a second network")?;
    same!(
        ctx.inspect(&id)?["NetworkSettings"]["Ports"]["7000/tcp"][0]["HostPort"],
        "7290"
    );
    disconnect(ctx, &b, &id)?;
    works("on the other network")?;
    disconnect(ctx, &a, &id)?;
    ensure!(
        ask(ctx, "tcp", "127.0.0.1", 7290).is_err(),
        "a port without a network"
    );
    connect(ctx, &b, &id, json!({}))?;
    works("back again")?;
    ctx.remove(&id)
}

fn several_at_create(ctx: &Ctx) -> Outcome {
    if !ctx.api(44) {
        return Ok(());
    }
    for suffix in ["a", "b", "c"] {
        make(ctx, suffix, &json!({"Internal": suffix == "a"}))?;
    }
    let (a, b, c) = (ctx.name("a"), ctx.name("b"), ctx.name("c"));
    let id = ctx.launch(
        "x",
        &on(
            &c,
            &json!({"NetworkingConfig": {"EndpointsConfig": {a.clone(): {}, b.clone(): {}, c.clone(): {"GwPriority": 1}}}}),
        ),
    )?;
    let out = ctx.exec_sh(&id, "ip a; ip r; cat /etc/hosts")?.ok()?.stdout;
    for (network, interface) in [(&c, "eth0"), (&a, "eth1"), (&b, "eth2")] {
        let address = text(&endpoint(ctx, &id, network)?["IPAddress"]);
        has!(out, &format!("inet {address}/16 "));
        has!(out, &format!("{address}\t{}", &id[..12]));
        has!(out, &format!("global {interface}"));
    }
    let gateway = text(&endpoint(ctx, &id, &c)?["Gateway"]);
    has!(out, &format!("default via {gateway} dev eth0"));
    Ok(())
}

fn interface_options(ctx: &Ctx) -> Outcome {
    if !ctx.api(48) {
        return Ok(());
    }
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let options = |name: &str| {
        json!({"DriverOpts": {"com.docker.network.endpoint.ifname": name,
            "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0"}})
    };
    let body = json!({"NetworkingConfig": {"EndpointsConfig": {net.clone(): options("front0")}}});
    let id = ctx.launch("c", &on(&net, &body))?;
    let late = ctx.sleeper("d")?;
    connect(ctx, &net, &late, options("late0"))?;
    for (container, name) in [(&id, "front0"), (&late, "late0")] {
        let script = format!("ip a show {name} && cat /proc/sys/net/ipv4/conf/{name}/log_martians");
        let out = ctx.exec_sh(container, &script)?.ok()?.stdout;
        same!(out.lines().last(), Some("1"));
        let place = endpoint(ctx, container, &net)?;
        same!(place["DriverOpts"], options(name)["DriverOpts"]);
    }
    let bad = json!({"DriverOpts": {"com.docker.network.endpoint.sysctls": "kernel.domainname=x"}});
    disconnect(ctx, &net, &late)?;
    let body = json!({"Container": late, "EndpointConfig": bad});
    let answer = ctx.post(&format!("/networks/{net}/connect"), &body)?;
    same!(answer.status, 400);
    has!(answer.message(), "unrecognised network interface sysctl");
    Ok(())
}

fn kept_over_stops(ctx: &Ctx) -> Outcome {
    let network = make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let id = ctx.sleeper("c")?;
    connect(ctx, &net, &id, json!({"Aliases": ["foo"]}))?;
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    let place = endpoint(ctx, &id, &net)?;
    same!(
        (
            &place["IPAddress"],
            &place["EndpointID"],
            &place["NetworkID"]
        ),
        (&json!(""), &json!(""), &json!(network))
    );
    same!(place["Aliases"][0], "foo");
    ctx.start(&id)?;
    let out = ctx.exec_sh(&id, "ip a")?.ok()?.stdout;
    has!(
        out,
        &format!("inet {}/", text(&endpoint(ctx, &id, &net)?["IPAddress"]))
    );
    same!(endpoint(ctx, &id, &net)?["Aliases"][0], "foo");
    Ok(())
}

fn over_kills(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    make(&own.ctx, "n", &json!({}))?;
    let net = own.ctx.name("n");
    let id = own.ctx.launch("c", &on(&net, &json!({})))?;
    connect(&own.ctx, "bridge", &id, json!({}))?;
    let before = own.ctx.inspect(&id)?["NetworkSettings"]["Networks"].clone();
    own.engine.kill()?;
    own.engine.launch()?;
    same!(own.ctx.inspect(&id)?["NetworkSettings"]["Networks"], before);
    let peer = own.ctx.launch("d", &on(&net, &json!({})))?;
    let address = text(&endpoint(&own.ctx, &id, &net)?["IPAddress"]);
    own.ctx
        .exec_sh(&peer, &format!("ping -c1 -W2 {address}"))?
        .ok()?;
    ensure!(
        text(&endpoint(&own.ctx, &peer, &net)?["IPAddress"]) != address,
        "an address was given twice"
    );
    disconnect(&own.ctx, &net, &id)?;
    // Killed while networks come and go: afterwards each one is there as a whole or not at all.
    for round in 0..6 {
        let ctx = Ctx {
            world: own.ctx.world.clone(),
            prefix: own.ctx.prefix.clone(),
            unnamed: std::sync::Mutex::default(),
        };
        let coming_and_going = std::thread::spawn(move || {
            for i in 0..200 {
                let name = format!("k{round}x{i}");
                let made = make(&ctx, &name, &json!({}));
                let _ = connect(&ctx, &ctx.name(&name), &ctx.name("c"), json!({}));
                let _ = disconnect(&ctx, &ctx.name(&name), &ctx.name("c"));
                let removed = ctx.delete(&format!("/networks/{}", ctx.name(&name)));
                if made.is_err() || removed.is_err() {
                    break;
                }
            }
        });
        crate::context::pause(60 + 17 * round);
        own.engine.kill()?;
        let _ = coming_and_going.join();
        own.engine.launch()?;
        let listed = own.ctx.json("/networks")?;
        let there = links()?;
        for one in listed.as_array().into_iter().flatten() {
            let id = text(&one["Id"]);
            if one["Driver"] == "bridge" && one["Name"] != "bridge" {
                has!(there, &format!("br-{}", &id[..12]));
            }
        }
        until(5, "as many links as networks", || {
            let count = links()?.matches(": br-").count();
            let known = own.ctx.json("/networks")?;
            let known = known.as_array().map_or(0, |all| {
                all.iter()
                    .filter(|n| n["Driver"] == "bridge" && n["Name"] != "bridge")
                    .count()
            });
            Ok((count == known).then_some(()))
        })?;
        let places = own.ctx.inspect(&id)?["NetworkSettings"]["Networks"].clone();
        let names = own.ctx.exec_sh(&id, "ls /sys/class/net")?.ok()?.stdout;
        same!(
            names.matches("eth").count(),
            places.as_object().map_or(0, serde_json::Map::len)
        );
        own.ctx.act("/networks/prune")?.expect(200)?;
        for name in places.as_object().into_iter().flat_map(|p| p.keys()) {
            if name != "bridge" {
                disconnect(&own.ctx, name, &id)?;
                own.ctx.delete(&format!("/networks/{name}"))?.expect(204)?;
            }
        }
    }
    own.done()
}

fn pools_run_out(ctx: &Ctx) -> Outcome {
    let flags = ["--default-address-pool", "base=10.201.0.0/22,size=24"];
    let own = Own::start_with(ctx, &flags.map(str::to_owned))?;
    let mut made = Vec::new();
    let error = loop {
        let answer = own.ctx.post(
            "/networks/create",
            &json!({"Name": own.ctx.name(&format!("n{}", made.len()))}),
        )?;
        if answer.status != 201 {
            break answer;
        }
        made.push(text(&answer.json()?["Id"]));
        ensure!(made.len() < 10, "the pool has no end");
    };
    has!(
        error.message(),
        "all predefined address pools have been fully subnetted"
    );
    let first = own.ctx.json(&format!("/networks/{}", made[0]))?["IPAM"]["Config"][0].clone();
    own.ctx
        .delete(&format!("/networks/{}", made[0]))?
        .expect(204)?;
    let again = make(&own.ctx, "again", &json!({}))?;
    same!(
        own.ctx.json(&format!("/networks/{again}"))?["IPAM"]["Config"][0],
        first
    );
    own.done()
}
