//! Published ports.

use std::net::TcpListener;

use e2e::{
    check::{Outcome, until},
    ensure, fail, has, same,
};
use serde_json::{Value, json};

use super::network::{address, ask, ask_from_container, gateway, server, server_made};

use crate::{cases::cases, context::Ctx, outside, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("ports", Any;
            tcp_from_everywhere, udp_from_everywhere, ipv6, outside_address_is_seen, ephemeral, range_of_host_ports, ranges_by_cli, host_ip,
            conflict_between_containers, conflict_with_a_process, free_after_stop, same_after_restart, publish_all, not_published_is_not_reachable,
            cli_port, bad_ports, several_bindings_of_one_port, state_after_a_failed_start, ports_in_inspect, back_to_itself,
        )
        .to_vec(),
    ]
    .concat()
}

fn published(ctx: &Ctx, suffix: &str, bindings: Value) -> Outcome<String> {
    server(
        ctx,
        suffix,
        &json!({"HostConfig": {"PortBindings": bindings}}),
    )
}

fn ask_from_outside(protocol: &str, address: &str, port: u16) -> Outcome<String> {
    let output = outside::probe(&["ask", protocol, address, &port.to_string()])?;
    if !output.status.success() {
        fail!(
            "{protocol} {address} {port} from outside: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn everywhere(ctx: &Ctx, protocol: &str, port: u16) -> Outcome {
    outside::probe(&["ids"])?;
    let id = published(
        ctx,
        "s",
        json!({format!("7000/{protocol}"): [{"HostPort": port.to_string()}]}),
    )?;
    let name = &id[..12];
    has!(ask(ctx, protocol, "127.0.0.1", port)?, name);
    has!(ask(ctx, protocol, outside::OURS, port)?, name);
    has!(ask_from_outside(protocol, outside::OURS, port)?, name);
    has!(ask(ctx, protocol, &gateway(ctx, &id)?, port)?, name);
    has!(
        ask_from_container(ctx, protocol, &gateway(ctx, &id)?, port)?,
        name
    );
    // docker-proxy of old daemons answers datagrams from another address
    if protocol == "tcp" || ctx.api(44) {
        has!(
            ask_from_container(ctx, protocol, outside::OURS, port)?,
            name
        );
    }
    has!(
        ask_from_container(ctx, protocol, &address(ctx, &id)?, 7000)?,
        name
    );
    Ok(())
}

fn tcp_from_everywhere(ctx: &Ctx) -> Outcome {
    everywhere(ctx, "tcp", 18100)
}

fn udp_from_everywhere(ctx: &Ctx) -> Outcome {
    everywhere(ctx, "udp", 18101)
}

fn ipv6(ctx: &Ctx) -> Outcome {
    outside::probe(&["ids"])?;
    let id = published(
        ctx,
        "s",
        json!({"7000/tcp": [{"HostPort": "18102"}], "7000/udp": [{"HostPort": "18102"}]}),
    )?;
    has!(ask(ctx, "tcp", "::1", 18102)?, &id[..12]);
    has!(ask_from_outside("tcp", outside::OURS_6, 18102)?, &id[..12]);
    has!(ask_from_outside("udp", outside::OURS_6, 18102)?, &id[..12]);
    Ok(())
}

fn outside_address_is_seen(ctx: &Ctx) -> Outcome {
    outside::probe(&["ids"])?;
    published(
        ctx,
        "s",
        json!({"7000/tcp": [{"HostPort": "18103"}], "7000/udp": [{"HostPort": "18103"}]}),
    )?;
    for protocol in ["tcp", "udp"] {
        let answer = ask_from_outside(protocol, outside::OURS, 18103)?;
        ensure!(
            answer.starts_with(outside::THEIRS),
            "{protocol}: the server saw {answer}"
        );
    }
    Ok(())
}

fn bound(ctx: &Ctx, id: &str, port: &str) -> Outcome<Vec<(String, u16)>> {
    let bindings = ctx.inspect(id)?["NetworkSettings"]["Ports"][port].clone();
    bindings
        .as_array()
        .into_iter()
        .flatten()
        .map(|b| {
            Ok((
                b["HostIp"].as_str().unwrap_or_default().to_owned(),
                b["HostPort"].as_str().unwrap_or_default().parse()?,
            ))
        })
        .collect()
}

fn ephemeral(ctx: &Ctx) -> Outcome {
    let id = published(ctx, "s", json!({"7000/tcp": [{"HostPort": ""}]}))?;
    let bound = bound(ctx, &id, "7000/tcp")?;
    ensure!(!bound.is_empty() && bound[0].1 >= 1024, "{bound:?}");
    let port = bound[0].1;
    if ctx.api(44) {
        ensure!(
            bound.iter().all(|b| b.1 == port),
            "IPv4 and IPv6 have different ports: {bound:?}"
        );
    }
    let four = bound
        .iter()
        .find(|b| b.0 == "0.0.0.0")
        .map_or(port, |b| b.1);
    has!(ask(ctx, "tcp", "127.0.0.1", four)?, &id[..12]);
    Ok(())
}

fn range_of_host_ports(ctx: &Ctx) -> Outcome {
    let mut taken = Vec::new();
    for name in ["a", "b"] {
        let id = published(
            ctx,
            name,
            json!({"7000/tcp": [{"HostPort": "18110-18111"}]}),
        )?;
        let port = bound(ctx, &id, "7000/tcp")?[0].1;
        has!(ask(ctx, "tcp", "127.0.0.1", port)?, &id[..12]);
        taken.push(port);
    }
    taken.sort_unstable();
    same!(taken, [18110, 18111]);
    let id = server_made(
        ctx,
        "c",
        &json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "18110-18111"}]}}}),
    )?;
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    same!(answer.status, 500);
    has!(answer.message(), "allocated");
    Ok(())
}

fn ranges_by_cli(ctx: &Ctx) -> Outcome {
    let me = format!("{}:/probe:ro", std::env::current_exe()?.display());
    let name = ctx.name("s");
    let words = [
        "run",
        "-d",
        "--name",
        &name,
        "-v",
        &me,
        "-p",
        "18120-18122:7000-7002",
        "-p",
        "127.0.0.1:18123:7000/udp",
        "busybox",
        "/probe",
        "serve",
        "7001",
    ];
    ctx.docker(&words)?.ok()?;
    ctx.log_has(&name, "serving")?;
    ask(ctx, "tcp", "127.0.0.1", 18121)?;
    let shown = ctx.docker(&["port", &name])?.ok()?.stdout;
    has!(shown, "7002/tcp -> 0.0.0.0:18122");
    has!(shown, "7000/udp -> 127.0.0.1:18123");
    Ok(())
}

fn host_ip(ctx: &Ctx) -> Outcome {
    outside::probe(&["ids"])?;
    let id = published(
        ctx,
        "s",
        json!({"7000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18130"}], "7000/udp": [{"HostIp": outside::OURS, "HostPort": "18130"}]}),
    )?;
    has!(ask(ctx, "tcp", "127.0.0.1", 18130)?, &id[..12]);
    ensure!(
        ask_from_outside("tcp", outside::OURS, 18130).is_err(),
        "a port of 127.0.0.1 is reachable from outside"
    );
    has!(ask_from_outside("udp", outside::OURS, 18130)?, &id[..12]);
    ensure!(
        ask(ctx, "udp", "127.0.0.1", 18130).is_err(),
        "a port of another address is reachable at 127.0.0.1"
    );
    same!(
        bound(ctx, &id, "7000/tcp")?,
        [("127.0.0.1".to_owned(), 18130)]
    );
    Ok(())
}

fn conflict_between_containers(ctx: &Ctx) -> Outcome {
    let ports = json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "18140"}]}}});
    let first = server(ctx, "a", &ports)?;
    let second = server_made(ctx, "b", &ports)?;
    let answer = ctx.act(&format!("/containers/{second}/start"))?;
    same!(answer.status, 500);
    has!(
        answer.message(),
        "Bind for 0.0.0.0:18140 failed: port is already allocated"
    );
    has!(ask(ctx, "tcp", "127.0.0.1", 18140)?, &first[..12]);
    ctx.remove(&first)?;
    ctx.start(&second)?;
    ctx.log_has(&second, "serving")?;
    has!(ask(ctx, "tcp", "127.0.0.1", 18140)?, &second[..12]);
    Ok(())
}

fn conflict_with_a_process(ctx: &Ctx) -> Outcome {
    let listener = TcpListener::bind("0.0.0.0:18141")?;
    let id = server_made(
        ctx,
        "s",
        &json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "18141"}]}}}),
    )?;
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    same!(answer.status, 500);
    has!(answer.message(), "address already in use");
    drop(listener);
    ctx.start(&id)?;
    Ok(())
}

fn free_after_stop(ctx: &Ctx) -> Outcome {
    let id = published(ctx, "s", json!({"7000/tcp": [{"HostPort": "18142"}]}))?;
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    until(5, "port free", || {
        Ok(TcpListener::bind("0.0.0.0:18142").is_ok().then_some(()))
    })?;
    same!(ctx.inspect(&id)?["NetworkSettings"]["Ports"], json!({}));
    ensure!(
        ask(ctx, "tcp", "127.0.0.1", 18142).is_err(),
        "somebody answers"
    );
    Ok(())
}

fn same_after_restart(ctx: &Ctx) -> Outcome {
    let id = published(ctx, "s", json!({"7000/tcp": [{"HostPort": "18143"}]}))?;
    ctx.act(&format!("/containers/{id}/restart?t=0"))?
        .expect(204)?;
    until(10, "server again", || {
        Ok(ask(ctx, "tcp", "127.0.0.1", 18143).ok())
    })?;
    Ok(())
}

fn publish_all(ctx: &Ctx) -> Outcome {
    let id = server(ctx, "s", &json!({"HostConfig": {"PublishAllPorts": true}}))?;
    for protocol in ["tcp", "udp"] {
        let bound = bound(ctx, &id, &format!("7000/{protocol}"))?;
        let port = bound.iter().find(|b| b.0 == "0.0.0.0").map_or(0, |b| b.1);
        has!(ask(ctx, protocol, "127.0.0.1", port)?, &id[..12]);
    }
    Ok(())
}

fn not_published_is_not_reachable(ctx: &Ctx) -> Outcome {
    outside::probe(&["ids"])?;
    let id = server(ctx, "s", &json!({}))?;
    has!(ask(ctx, "tcp", &address(ctx, &id)?, 7000)?, &id[..12]);
    ensure!(
        ask_from_outside("tcp", outside::OURS, 7000).is_err(),
        "an unpublished port is reachable"
    );
    Ok(())
}

fn cli_port(ctx: &Ctx) -> Outcome {
    let id = published(ctx, "s", json!({"7000/tcp": [{"HostPort": "18144"}]}))?;
    has!(
        ctx.docker(&["port", &id, "7000"])?.ok()?.stdout,
        "0.0.0.0:18144"
    );
    same!(ctx.docker(&["port", &id, "7000/udp"])?.code, 1);
    has!(
        ctx.docker(&["ps", "--filter", &format!("id={id}")])?
            .ok()?
            .stdout,
        "18144->7000/tcp"
    );
    Ok(())
}

fn bad_ports(ctx: &Ctx) -> Outcome {
    for bindings in [
        json!({"7000/bogus": [{"HostPort": "1"}]}),
        json!({"x/tcp": [{"HostPort": "1"}]}),
        json!({"7000/tcp": [{"HostPort": "70000"}]}),
        json!({"7000/tcp": [{"HostPort": "x"}]}),
        json!({"99999/tcp": [{"HostPort": "1"}]}),
        json!({"7000/tcp": [{"HostPort": "9-3"}]}),
    ] {
        let body =
            json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"PortBindings": bindings}});
        let made = ctx.post(&format!("/containers/create?name={}", ctx.name("c")), &body)?;
        if made.status == 201 {
            let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
            ensure!(
                started.status >= 400 || !ctx.api(44),
                "{bindings} was accepted"
            );
            ctx.remove(&ctx.name("c"))?;
        }
    }
    Ok(())
}

fn several_bindings_of_one_port(ctx: &Ctx) -> Outcome {
    let id = published(
        ctx,
        "s",
        json!({"7000/tcp": [{"HostPort": "18145"}, {"HostIp": "127.0.0.1", "HostPort": "18146"}]}),
    )?;
    for port in [18145, 18146] {
        has!(ask(ctx, "tcp", "127.0.0.1", port)?, &id[..12]);
    }
    Ok(())
}

fn state_after_a_failed_start(ctx: &Ctx) -> Outcome {
    let _listener = TcpListener::bind("0.0.0.0:18147")?;
    let id = server_made(
        ctx,
        "s",
        &json!({"HostConfig": {"PortBindings": {"7000/tcp": [{"HostPort": "18147"}]}}}),
    )?;
    ctx.act(&format!("/containers/{id}/start"))?.expect(500)?;
    let state = ctx.inspect(&id)?;
    same!(state["State"]["Running"], false);
    same!(state["State"]["ExitCode"], 128);
    has!(
        state["State"]["Error"].as_str().unwrap_or_default(),
        "address already in use"
    );
    same!(
        state["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
        ""
    );
    Ok(())
}

fn ports_in_inspect(ctx: &Ctx) -> Outcome {
    let id = published(
        ctx,
        "s",
        json!({"7000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18148"}]}),
    )?;
    let got = ctx.inspect(&id)?;
    same!(
        got["NetworkSettings"]["Ports"],
        json!({"7000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18148"}], "7000/udp": null})
    );
    same!(
        got["HostConfig"]["PortBindings"],
        json!({"7000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18148"}]})
    );
    Ok(())
}

fn back_to_itself(ctx: &Ctx) -> Outcome {
    let id = published(ctx, "s", json!({"7000/tcp": [{"HostPort": "18149"}]}))?;
    let out = ctx.exec(
        &id,
        &json!({"Cmd": ["/probe", "ask", "tcp", gateway(ctx, &id)?, "18149"]}),
    )?;
    has!(out.ok()?.stdout, &id[..12]);
    Ok(())
}
