//! Names on networks that users make: the engine's name server as containers see it.

use std::time::{Duration, Instant};

use e2e::{
    check::{Outcome, until},
    ensure, has, lacks, same,
};
use serde_json::{Value, json};

use super::{networks::make, own::Own};
use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("dns", Any;
            names_and_aliases, only_own_networks, round_robin, back_to_names, other_kinds, follows_changes, renamed, links,
            resolv_conf, servers_of_the_user, search_and_ndots, own_port_53, shared_namespace, started_on_the_default_bridge,
            first_question_of_all, many_addresses, ipv6_addresses, compose_like_names, load,
        )
        .to_vec(),
        cases!("dns", Daemon; over_a_restart, no_servers, host_loopback_server, internal_network, detached_namespaces_end).to_vec(),
    ]
    .concat()
}

/// A body of a container on a network, with the probe in it.
fn on(network: &str, more: &Value) -> Value {
    let me = std::env::current_exe().unwrap_or_default();
    let bind = format!("{}:/probe:ro", me.display());
    let mut body =
        json!({"Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": network, "Binds": [bind]}});
    crate::context::merge(&mut body, more);
    body
}

/// What the name server says inside a container: the code, then sorted answers.
fn ask(ctx: &Ctx, id: &str, words: &[&str]) -> Outcome<String> {
    let mut command = vec!["/probe", "dns"];
    command.extend(words);
    let out = ctx.exec(id, &json!({"Cmd": command}))?.ok()?;
    let mut answer: Vec<&str> = out.line().split(' ').collect();
    answer[1..].sort_unstable();
    Ok(answer.join(" "))
}

/// Nobody knows a name, and no server outside can be asked. Daemons before 24 say nothing at all then.
fn unknown(ctx: &Ctx, id: &str, words: &[&str]) -> Outcome {
    match ask(ctx, id, words) {
        Ok(answer) => same!(answer, "SERVFAIL"),
        Err(error) if ctx.api(44) => return Err(error),
        Err(error) => has!(error.0, "Resource temporarily unavailable"),
    }
    Ok(())
}

fn address(ctx: &Ctx, id: &str, network: &str) -> Outcome<String> {
    let endpoint = ctx.inspect(id)?["NetworkSettings"]["Networks"][network].clone();
    Ok(endpoint["IPAddress"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn names_and_aliases(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let web = ctx.launch(
        "web",
        &on(
            &net,
            &json!({"Hostname": "myhost",
        "NetworkingConfig": {"EndpointsConfig": {net.clone(): {"Aliases": ["Alias1", "alias2"]}}}}),
        ),
    )?;
    let client = ctx.launch("client", &on(&net, &json!({})))?;
    let found = format!("NOERROR {}", address(ctx, &web, &net)?);
    let name = ctx.name("web");
    let mut names = vec![
        name.clone(),
        name.to_uppercase(),
        format!("{name}.{net}"),
        "alias1".into(),
        format!("ALIAS2.{net}"),
        web[..12].to_owned(),
    ];
    if ctx.api(44) {
        names.push("myhost".into());
    }
    for name in &names {
        same!(ask(ctx, &client, &[name])?, found);
        same!(ask(ctx, &client, &["--tcp", name])?, found);
    }
    // busybox's own resolver, as programs use it.
    let out = ctx
        .exec_sh(&client, "nslookup alias1 && ping -c 1 -W 2 alias2")?
        .ok()?;
    has!(out.stdout, "1 packets received");
    same!(
        ask(ctx, &client, &[&ctx.name("client")])?,
        format!("NOERROR {}", address(ctx, &client, &net)?)
    );
    Ok(())
}

fn only_own_networks(ctx: &Ctx) -> Outcome {
    make(ctx, "a", &json!({}))?;
    make(ctx, "b", &json!({}))?;
    let none = json!({"HostConfig": {"Dns": ["127.0.0.1"]}});
    let one = ctx.launch("one", &on(&ctx.name("a"), &none))?;
    let two = ctx.launch("two", &on(&ctx.name("b"), &none))?;
    unknown(ctx, &one, &[&ctx.name("two")])?;
    unknown(
        ctx,
        &one,
        &[&format!("{}.{}", ctx.name("two"), ctx.name("b"))],
    )?;
    let found = format!("NOERROR {}", address(ctx, &two, &ctx.name("b"))?);
    same!(
        ask(
            ctx,
            &two,
            &[&format!("{}.{}", ctx.name("two"), ctx.name("b"))]
        )?,
        found
    );
    Ok(())
}

fn round_robin(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let shared =
        json!({"NetworkingConfig": {"EndpointsConfig": {net.clone(): {"Aliases": ["many"]}}}});
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(ctx.launch(name, &on(&net, &shared))?);
    }
    let mut addresses = all
        .iter()
        .map(|id| address(ctx, id, &net))
        .collect::<Outcome<Vec<_>>>()?;
    addresses.sort();
    same!(
        ask(ctx, &all[0], &["many"])?,
        format!("NOERROR {}", addresses.join(" "))
    );
    let firsts = ctx
        .exec_sh(
            &all[0],
            "for i in $(seq 60); do /probe dns many | cut -d' ' -f2; done | sort -u",
        )?
        .ok()?;
    let firsts: Vec<&str> = firsts.stdout.lines().collect();
    same!(firsts, addresses);
    ctx.kill(&all[1])?;
    ctx.wait(&all[1])?;
    let left = ask(ctx, &all[0], &["many"])?;
    same!(left.split(' ').count(), 3);
    Ok(())
}

fn back_to_names(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let web = ctx.launch("web", &on(&net, &json!({})))?;
    let client = ctx.launch("client", &on(&net, &json!({})))?;
    let ip = address(ctx, &web, &net)?;
    let reverse: Vec<&str> = ip.split('.').rev().collect();
    let name = format!("{}.in-addr.arpa", reverse.join("."));
    same!(
        ask(ctx, &client, &[&name, "PTR"])?,
        format!("NOERROR {}.{net}.", ctx.name("web"))
    );
    Ok(())
}

fn other_kinds(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let id = ctx.launch(
        "c",
        &on(
            &ctx.name("n"),
            &json!({"HostConfig": {"Dns": ["127.0.0.1"]}}),
        ),
    )?;
    for kind in ["AAAA", "MX"] {
        same!(ask(ctx, &id, &[&ctx.name("c"), kind])?, "NOERROR");
    }
    unknown(ctx, &id, &[&ctx.name("absent"), "AAAA"])?;
    Ok(())
}

fn follows_changes(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    make(ctx, "m", &json!({}))?;
    let (n, m) = (ctx.name("n"), ctx.name("m"));
    let no_servers = json!({"HostConfig": {"Dns": ["127.0.0.1"]}});
    let client = ctx.launch("client", &on(&n, &no_servers))?;
    let web = ctx.create("web", &on(&n, &json!({})))?;
    let seen = || ask(ctx, &client, &[&ctx.name("web")]);
    unknown(ctx, &client, &[&ctx.name("web")])?;
    ctx.start(&web)?;
    same!(seen()?, format!("NOERROR {}", address(ctx, &web, &n)?));
    ctx.act(&format!("/containers/{web}/stop?t=0"))?
        .expect(204)?;
    unknown(ctx, &client, &[&ctx.name("web")])?;
    ctx.start(&web)?;
    let change = |verb: &str, network: &str, id: &str, more: Value| {
        let mut body = json!({"Container": id});
        crate::context::merge(&mut body, &more);
        ctx.post(&format!("/networks/{network}/{verb}"), &body)?
            .expect(200)
            .map(drop)
    };
    change("disconnect", &n, &web, json!({}))?;
    unknown(ctx, &client, &[&ctx.name("web")])?;
    change(
        "connect",
        &n,
        &web,
        json!({"EndpointConfig": {"Aliases": ["extra"]}}),
    )?;
    same!(seen()?, format!("NOERROR {}", address(ctx, &web, &n)?));
    same!(ask(ctx, &client, &["extra"])?, seen()?);
    // The client itself moves.
    let other = ctx.launch("other", &on(&m, &json!({})))?;
    let others = || ask(ctx, &client, &[&ctx.name("other")]);
    unknown(ctx, &client, &[&ctx.name("other")])?;
    change("connect", &m, &client, json!({}))?;
    same!(others()?, format!("NOERROR {}", address(ctx, &other, &m)?));
    change("disconnect", &m, &client, json!({}))?;
    unknown(ctx, &client, &[&ctx.name("other")])?;
    ctx.remove(&web)?;
    unknown(ctx, &client, &[&ctx.name("web")])?;
    Ok(())
}

fn renamed(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let client = ctx.launch(
        "client",
        &on(&net, &json!({"HostConfig": {"Dns": ["127.0.0.1"]}})),
    )?;
    let web = ctx.launch("web", &on(&net, &json!({})))?;
    ctx.act(&format!(
        "/containers/{web}/rename?name={}",
        ctx.name("new")
    ))?
    .expect(204)?;
    same!(
        ask(ctx, &client, &[&ctx.name("new")])?,
        format!("NOERROR {}", address(ctx, &web, &net)?)
    );
    unknown(ctx, &client, &[&ctx.name("web")])?;
    Ok(())
}

fn links(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let web = ctx.launch("web", &on(&net, &json!({})))?;
    let found = format!("NOERROR {}", address(ctx, &web, &net)?);
    let linked = json!({"NetworkingConfig": {"EndpointsConfig": {net.clone(): {"Links": [format!("{}:db", ctx.name("web"))]}}}});
    let one = ctx.launch("one", &on(&net, &linked))?;
    same!(ask(ctx, &one, &["db"])?, found);
    let two = ctx.launch(
        "two",
        &on(&net, &json!({"HostConfig": {"Dns": ["127.0.0.1"]}})),
    )?;
    unknown(ctx, &two, &["db"])?;
    let out = ctx
        .docker(&[
            "run",
            "--rm",
            "--network",
            &net,
            "--link",
            &format!("{}:store", ctx.name("web")),
            "busybox",
            "nslookup",
            "store",
        ])?
        .ok()?;
    has!(out.stdout, &address(ctx, &web, &net)?);
    Ok(())
}

fn resolv_conf(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let plain = ctx
        .sh("a", json!({"NetworkMode": net}), "cat /etc/resolv.conf")?
        .ok()?;
    has!(plain.stdout, "nameserver 127.0.0.11\n");
    has!(plain.stdout, "ndots:0");
    let own = json!({"NetworkMode": net, "Dns": ["9.9.9.9", "8.8.4.4"], "DnsSearch": ["x.y"], "DnsOptions": ["timeout:3"]});
    let own = ctx.sh("b", own, "cat /etc/resolv.conf")?.ok()?;
    let mut lines: Vec<&str> = own
        .stdout
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    lines.sort_unstable();
    same!(
        lines,
        [
            "nameserver 127.0.0.11",
            "options timeout:3 ndots:0",
            "search x.y"
        ]
    );
    if ctx.api(44) {
        has!(
            own.stdout,
            "(internal resolver)\n# ExtServers: [9.9.9.9 8.8.4.4]\n# Overrides: [nameservers search options]\n"
        );
    }
    Ok(())
}

/// A container that is a name server, and its address.
fn name_server(ctx: &Ctx, net: &str, suffix: &str, answer: &str) -> Outcome<String> {
    let id = ctx.launch(
        suffix,
        &on(net, &json!({"Cmd": ["/probe", "dns-serve", answer]})),
    )?;
    ctx.log_has(&id, "serving")?;
    address(ctx, &id, net)
}

fn servers_of_the_user(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let server = name_server(ctx, &net, "s", "198.51.100.7")?;
    let id = ctx.launch("c", &on(&net, &json!({"HostConfig": {"Dns": [server]}})))?;
    same!(ask(ctx, &id, &["example.com"])?, "NOERROR 198.51.100.7");
    same!(
        ask(ctx, &id, &["--tcp", "example.com"])?,
        "NOERROR 198.51.100.7"
    );
    same!(ask(ctx, &id, &["single"])?, "NOERROR 198.51.100.7");
    same!(ask(ctx, &id, &["x.absent"])?, "NXDOMAIN");
    same!(ask(ctx, &id, &["example.com", "TXT"])?, "NOERROR");
    // The first is not there, the second answers.
    let id = ctx.launch(
        "d",
        &on(&net, &json!({"HostConfig": {"Dns": ["127.0.0.1", server]}})),
    )?;
    let begin = Instant::now();
    same!(ask(ctx, &id, &["example.com"])?, "NOERROR 198.51.100.7");
    ensure!(
        begin.elapsed() < Duration::from_secs(4),
        "it took {:?}",
        begin.elapsed()
    );
    Ok(())
}

fn search_and_ndots(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let server = name_server(ctx, &net, "s", "198.51.100.8")?;
    let set = json!({"HostConfig": {"Dns": [server], "DnsOptions": ["ndots:1"], "DnsSearch": ["corp.test"]}});
    let id = ctx.launch("c", &on(&net, &set))?;
    // Left for the search list.
    same!(ask(ctx, &id, &["single"])?, "NOERROR");
    same!(
        ask(ctx, &id, &["single.corp.test"])?,
        "NOERROR 198.51.100.8"
    );
    has!(
        ctx.exec_sh(&id, "ping -c 1 -W 1 single 2>&1 | head -1")?
            .stdout,
        "198.51.100.8"
    );
    Ok(())
}

fn no_servers(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let id = ctx.launch(
        "c",
        &on(
            &ctx.name("n"),
            &json!({"HostConfig": {"Dns": ["127.0.0.1"]}}),
        ),
    )?;
    let begin = Instant::now();
    for name in ["nosuch", "no.such.example"] {
        unknown(ctx, &id, &[name])?;
    }
    ensure!(
        begin.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        begin.elapsed()
    );
    ctx.remove(&id)?;
    let net = format!("/networks/{}", ctx.name("n"));
    ctx.delete(&net)?.expect(204).map(drop)
}

/// A container may be a name server itself, on all addresses; the engine's stays where it is.
fn own_port_53(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let id = ctx.launch(
        "s",
        &on(
            &net,
            &json!({"Cmd": ["/probe", "dns-serve", "198.51.100.9"]}),
        ),
    )?;
    ctx.log_has(&id, "serving")?;
    let own = address(ctx, &id, &net)?;
    same!(ask(ctx, &id, &[&ctx.name("s")])?, format!("NOERROR {own}"));
    same!(
        ask(ctx, &id, &["--server", "127.0.0.1:53", "x"])?,
        "NOERROR 198.51.100.9"
    );
    let other = ctx.launch("c", &on(&net, &json!({})))?;
    same!(
        ask(ctx, &other, &["--server", &format!("{own}:53"), "x"])?,
        "NOERROR 198.51.100.9"
    );
    Ok(())
}

fn shared_namespace(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let web = ctx.launch("web", &on(&net, &json!({})))?;
    let guest = ctx.launch("guest", &on(&format!("container:{web}"), &json!({})))?;
    same!(
        ask(ctx, &guest, &[&ctx.name("web")])?,
        format!("NOERROR {}", address(ctx, &web, &net)?)
    );
    has!(
        ctx.exec_sh(&guest, "cat /etc/resolv.conf")?.stdout,
        "127.0.0.11"
    );
    Ok(())
}

fn started_on_the_default_bridge(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let web = ctx.launch("web", &on(&net, &json!({})))?;
    let id = ctx.launch("c", &on("bridge", &json!({})))?;
    lacks!(
        ctx.exec_sh(&id, "cat /etc/resolv.conf")?.stdout,
        "127.0.0.11"
    );
    ctx.post(
        &format!("/networks/{net}/connect"),
        &json!({"Container": id}),
    )?
    .expect(200)?;
    same!(
        ask(ctx, &id, &[&ctx.name("web")])?,
        format!("NOERROR {}", address(ctx, &web, &net)?)
    );
    has!(
        ctx.exec_sh(&id, "cat /etc/resolv.conf")?.stdout,
        "nameserver 127.0.0.11\n"
    );
    ctx.exec_sh(&id, &format!("ping -c 1 -W 2 {}", ctx.name("web")))?
        .ok()?;
    Ok(())
}

/// The program's first act is a question.
fn first_question_of_all(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let web = ctx.launch("web", &on(&net, &json!({})))?;
    let want = format!("NOERROR {}", address(ctx, &web, &net)?);
    for round in 0..5 {
        let body = on(&net, &json!({"Cmd": ["/probe", "dns", ctx.name("web")]}));
        let out = ctx.run(&format!("c{round}"), &body)?.ok()?;
        same!(out.line(), want);
    }
    Ok(())
}

fn many_addresses(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let net = ctx.name("n");
    let shared =
        json!({"NetworkingConfig": {"EndpointsConfig": {net.clone(): {"Aliases": ["crowd"]}}}});
    let mut last = String::new();
    for number in 0..35 {
        last = ctx.launch(&format!("c{number}"), &on(&net, &shared))?;
    }
    let short = ask(ctx, &last, &["crowd"])?;
    has!(short, "TRUNCATED");
    same!(ask(ctx, &last, &["--tcp", "crowd"])?.split(' ').count(), 36);
    Ok(())
}

fn ipv6_addresses(ctx: &Ctx) -> Outcome {
    let pools = json!({"EnableIPv6": true, "IPAM": {"Config": [{"Subnet": "fd00:d5::/64"}]}});
    make(ctx, "n", &pools)?;
    let net = ctx.name("n");
    let id = ctx.launch("c", &on(&net, &json!({})))?;
    let six = ctx.inspect(&id)?["NetworkSettings"]["Networks"][&net]["GlobalIPv6Address"].clone();
    let six = six.as_str().unwrap_or_default();
    ensure!(six.starts_with("fd00:d5:"), "{six}");
    same!(
        ask(ctx, &id, &[&ctx.name("c"), "AAAA"])?,
        format!("NOERROR {six}")
    );
    same!(
        ask(ctx, &id, &[&ctx.name("c"), "A"])?,
        format!("NOERROR {}", address(ctx, &id, &net)?)
    );
    Ok(())
}

/// As Compose makes them: the service's name on two networks, other addresses on each.
fn compose_like_names(ctx: &Ctx) -> Outcome {
    make(ctx, "front", &json!({}))?;
    make(ctx, "back", &json!({}))?;
    let (front, back) = (ctx.name("front"), ctx.name("back"));
    let api = ctx.create("api-1", &on(&front, &json!({"NetworkingConfig": {"EndpointsConfig": {front.clone(): {"Aliases": ["api"]}}}})))?;
    ctx.post(
        &format!("/networks/{back}/connect"),
        &json!({"Container": api, "EndpointConfig": {"Aliases": ["api"]}}),
    )?
    .expect(200)?;
    ctx.start(&api)?;
    let web = ctx.launch("web-1", &on(&front, &json!({})))?;
    let db = ctx.launch("db-1", &on(&back, &json!({})))?;
    same!(
        ask(ctx, &web, &["api"])?,
        format!("NOERROR {}", address(ctx, &api, &front)?)
    );
    same!(
        ask(ctx, &db, &["api"])?,
        format!("NOERROR {}", address(ctx, &api, &back)?)
    );
    same!(
        ask(ctx, &api, &[&ctx.name("db-1")])?,
        format!("NOERROR {}", address(ctx, &db, &back)?)
    );
    Ok(())
}

/// Prints the rate; how high it can be is not a case's to say.
fn load(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({}))?;
    let id = ctx.launch("c", &on(&ctx.name("n"), &json!({})))?;
    let out = ctx
        .exec(&id, &json!({"Cmd": ["/probe", "dns-load", ctx.name("c")]}))?
        .ok()?;
    eprintln!("dns: {} questions a second answered, lost", out.line());
    let rate: u64 = out.line().split(' ').next().unwrap_or_default().parse()?;
    ensure!(rate > 500, "{rate} a second");
    Ok(())
}

fn over_a_restart(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    make(&own.ctx, "n", &json!({}))?;
    let net = own.ctx.name("n");
    let aliases =
        json!({"NetworkingConfig": {"EndpointsConfig": {net.clone(): {"Aliases": ["web"]}}}});
    let web = own.ctx.launch("one", &on(&net, &aliases))?;
    let script = "while :; do /probe dns web || echo none; usleep 100000; done";
    let client = own
        .ctx
        .launch("client", &on(&net, &json!({"Cmd": ["sh", "-c", script]})))?;
    let want = format!("NOERROR {}", address(&own.ctx, &web, &net)?);
    own.ctx.log_has(&client, &want)?;
    for _ in 0..3 {
        own.engine.kill()?;
        own.engine.launch()?;
        let begin = Instant::now();
        until(5, "an answer after the restart", || {
            Ok((ask(&own.ctx, &client, &["web"]).is_ok_and(|a| a == want)).then_some(()))
        })?;
        ensure!(
            begin.elapsed() < Duration::from_secs(1),
            "it took {:?}",
            begin.elapsed()
        );
    }
    // One that comes later is seen by those of before.
    let late = own.ctx.launch("late", &on(&net, &json!({})))?;
    same!(
        ask(&own.ctx, &client, &[&own.ctx.name("late")])?,
        format!("NOERROR {}", address(&own.ctx, &late, &net)?)
    );
    own.done()
}

/// A resolver on the host's loopback, as systemd-resolved is one, is asked from the host.
fn host_loopback_server(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    make(&own.ctx, "n", &json!({}))?;
    let id = own.ctx.launch("c", &on(&own.ctx.name("n"), &json!({})))?;
    let host = std::fs::read_to_string("/etc/resolv.conf")?;
    let file = own.ctx.exec_sh(&id, "cat /etc/resolv.conf")?.stdout;
    for line in host.lines() {
        if let Some(server) = line.strip_prefix("nameserver ") {
            has!(file, &format!("host({})", server.trim()));
        }
    }
    own.done()
}

/// Without a way out the host's servers are not asked, and the answer is quick.
fn internal_network(ctx: &Ctx) -> Outcome {
    make(ctx, "n", &json!({"Internal": true}))?;
    let id = ctx.launch("c", &on(&ctx.name("n"), &json!({})))?;
    let begin = Instant::now();
    unknown(ctx, &id, &["example.com"])?;
    ensure!(
        begin.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        begin.elapsed()
    );
    same!(
        ask(ctx, &id, &[&ctx.name("c")])?,
        format!("NOERROR {}", address(ctx, &id, &ctx.name("n"))?)
    );
    ctx.remove(&id)?;
    ctx.delete(&format!("/networks/{}", ctx.name("n")))?
        .expect(204)
        .map(drop)
}

/// The daemon holds sockets in namespaces: they must not keep these alive.
fn detached_namespaces_end(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    make(&own.ctx, "n", &json!({}))?;
    let net = own.ctx.name("n");
    let descriptors = || -> Outcome<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", own.engine.pid()))?.count())
    };
    own.ctx
        .run("warm", &on(&net, &json!({"Cmd": ["true"]})))?
        .ok()?;
    let before = descriptors()?;
    for round in 0..5 {
        let id = own
            .ctx
            .launch(&format!("c{round}"), &on(&net, &json!({})))?;
        ask(
            &own.ctx,
            &id,
            &["--tcp", &own.ctx.name(&format!("c{round}"))],
        )?;
        own.ctx.remove(&id)?;
    }
    own.ctx
        .run("bad", &on(&net, &json!({"Cmd": ["true"]})))?
        .ok()?;
    until(5, "descriptors to be closed", || {
        Ok((descriptors()? <= before + 1).then_some(()))
    })?;
    own.done()
}
