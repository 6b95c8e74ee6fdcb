//! Namespaces, names inside a container, its init.

use std::fs;

use e2e::{
    check::{Outcome, until},
    ensure, fail, has, same,
};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("namespaces", Any;
            all_of_its_own, pid_host, pid_container, ipc_private_and_host, ipc_container, uts_host, hostname_and_domainname, hostname_bad,
            sysctls, sysctl_bad, network_none, network_host, network_container, join_missing, cgroup_namespace_mode, time_and_user_shared,
            init_reaps_zombies, init_forwards_signals, init_exit_code, pid_of_stopped_refused,
        )
        .to_vec(),
    ]
    .concat()
}

fn namespaces(ctx: &Ctx, host: Value) -> Outcome<String> {
    Ok(ctx.sh("ns", host, "for n in cgroup ipc mnt net pid uts user time; do echo $n $(readlink /proc/self/ns/$n); done")?.ok()?.stdout)
}

fn one<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|l| l.strip_prefix(name))
        .unwrap_or_default()
        .trim()
}

fn own(name: &str) -> Outcome<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{name}"))?
        .display()
        .to_string())
}

fn all_of_its_own(ctx: &Ctx) -> Outcome {
    let seen = namespaces(ctx, json!({}))?;
    for name in ["ipc", "mnt", "net", "pid", "uts"] {
        ensure!(
            one(&seen, name) != own(name)?,
            "{name} namespace is the host's"
        );
    }
    Ok(())
}

fn time_and_user_shared(ctx: &Ctx) -> Outcome {
    let seen = namespaces(ctx, json!({}))?;
    for name in ["user", "time"] {
        same!(one(&seen, name), own(name)?.as_str());
    }
    Ok(())
}

fn pid_host(ctx: &Ctx) -> Outcome {
    same!(
        one(&namespaces(ctx, json!({"PidMode": "host"}))?, "pid"),
        own("pid")?.as_str()
    );
    let out = ctx.sh(
        "c",
        json!({"PidMode": "host"}),
        &format!("test -d /proc/{} && echo seen", std::process::id()),
    )?;
    same!(out.line(), "seen");
    Ok(())
}

fn pid_container(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("a")?;
    let out = ctx.sh(
        "b",
        json!({"PidMode": format!("container:{id}")}),
        "cat /proc/1/cmdline",
    )?;
    same!(out.stdout, "sleep\0".to_owned() + "600\0");
    Ok(())
}

fn ipc_private_and_host(ctx: &Ctx) -> Outcome {
    ensure!(
        one(&namespaces(ctx, json!({"IpcMode": "private"}))?, "ipc") != own("ipc")?,
        "private is the host's"
    );
    same!(
        one(&namespaces(ctx, json!({"IpcMode": "host"}))?, "ipc"),
        own("ipc")?.as_str()
    );
    let out = ctx.sh(
        "n",
        json!({"IpcMode": "none"}),
        "grep -c /dev/shm /proc/mounts",
    )?;
    same!(out.line(), "0");
    Ok(())
}

fn ipc_container(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("a", &json!({"Cmd": ["sh", "-c", "echo data > /dev/shm/f; sleep 600"], "HostConfig": {"IpcMode": "shareable"}}))?;
    until(5, "file in shm", || {
        Ok((ctx.exec_sh(&id, "cat /dev/shm/f")?.code == 0).then_some(()))
    })?;
    same!(
        ctx.sh(
            "b",
            json!({"IpcMode": format!("container:{id}")}),
            "cat /dev/shm/f"
        )?
        .line(),
        "data"
    );
    let private = ctx.launch(
        "p",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"IpcMode": "private"}}),
    )?;
    let refused = ctx.launch(
        "q",
        &json!({"Cmd": ["true"], "HostConfig": {"IpcMode": format!("container:{private}")}}),
    );
    ensure!(refused.is_err(), "a private ipc namespace was joined");
    Ok(())
}

fn uts_host(ctx: &Ctx) -> Outcome {
    same!(
        one(&namespaces(ctx, json!({"UTSMode": "host"}))?, "uts"),
        own("uts")?.as_str()
    );
    Ok(())
}

fn hostname_and_domainname(ctx: &Ctx) -> Outcome {
    let script = "hostname; cat /etc/hostname; cat /proc/sys/kernel/domainname; echo $HOSTNAME; tail -1 /etc/hosts";
    let out = ctx.run(
        "c",
        &json!({"Cmd": ["sh", "-c", script], "Hostname": "h1", "Domainname": "d.example"}),
    )?;
    let lines: Vec<&str> = out.stdout.lines().collect();
    ensure!(
        lines.len() == 5 && lines[0] == "h1" && lines[3] == "h1",
        "{lines:?}"
    );
    ensure!(lines[1] == "h1" || lines[1] == "h1.d.example", "{lines:?}");
    same!(lines[2], "d.example");
    has!(lines[4], "h1.d.example h1");
    Ok(())
}

fn hostname_bad(ctx: &Ctx) -> Outcome {
    let answer = ctx.post(
        &format!("/containers/create?name={}", ctx.name("c")),
        &json!({"Image": "busybox", "Cmd": ["true"], "Hostname": "x".repeat(70)}),
    )?;
    if answer.status == 201 {
        let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
        ensure!(started.status >= 400, "a name of 70 letters was accepted");
    }
    Ok(())
}

fn sysctls(ctx: &Ctx) -> Outcome {
    let host = json!({"Sysctls": {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "net.core.somaxconn": "777"}});
    let out = ctx.sh("c", host, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn")?;
    same!(out.stdout, "1\n1\n777\n");
    Ok(())
}

fn sysctl_bad(ctx: &Ctx) -> Outcome {
    for (host, what) in [
        (json!({"Sysctls": {"kernel.panic": "1"}}), "not namespaced"),
        (
            json!({"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}),
            "with the host's network",
        ),
        (json!({"Sysctls": {"net.absent.thing": "1"}}), "absent"),
    ] {
        let made = ctx.post(
            &format!("/containers/create?name={}", ctx.name("c")),
            &json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host}),
        )?;
        if made.status == 201 {
            let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
            ensure!(started.status >= 400, "a sysctl {what} was accepted");
            ctx.remove(&ctx.name("c"))?;
        }
    }
    Ok(())
}

fn network_none(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"NetworkMode": "none"}),
        "ls /sys/class/net; ip -o addr; cat /etc/hosts",
    )?;
    has!(out.stdout, "lo\n");
    ensure!(!out.stdout.contains("eth0"), "{}", out.stdout);
    has!(out.stdout, "127.0.0.1/8");
    Ok(())
}

fn network_host(ctx: &Ctx) -> Outcome {
    same!(
        one(&namespaces(ctx, json!({"NetworkMode": "host"}))?, "net"),
        own("net")?.as_str()
    );
    let out = ctx.sh("c", json!({"NetworkMode": "host"}), "hostname")?;
    same!(
        out.line(),
        fs::read_to_string("/proc/sys/kernel/hostname")?.trim(),
        "the host's name comes with its network"
    );
    Ok(())
}

fn network_container(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("a")?;
    let address = ctx.inspect(&id)?["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let out = ctx.sh(
        "b",
        json!({"NetworkMode": format!("container:{id}")}),
        "ip -o -4 addr show eth0; hostname; cat /etc/hosts",
    )?;
    has!(out.stdout, address);
    has!(out.stdout, format!("\n{}\n", &id[..12]));
    // names work as well as ids, and the container's own network settings are empty
    let joined = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": format!("container:{}", ctx.name("a"))}}))?;
    same!(
        ctx.inspect(&joined)?["NetworkSettings"]["Networks"],
        json!({})
    );
    let bad = ctx.post("/containers/create", &json!({"Image": "busybox", "Hostname": "x", "HostConfig": {"NetworkMode": format!("container:{id}")}}))?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    has!(
        bad.message(),
        "conflicting options: hostname and the network mode"
    );
    Ok(())
}

fn join_missing(ctx: &Ctx) -> Outcome {
    for field in ["NetworkMode", "PidMode", "IpcMode"] {
        let made = ctx.post(&format!("/containers/create?name={}", ctx.name("c")), &json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {field: "container:absent"}}))?;
        let text = if made.status == 201 {
            let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
            ensure!(
                started.status >= 400,
                "{field} of an absent container worked"
            );
            ctx.remove(&ctx.name("c"))?;
            started.message()
        } else {
            made.message()
        };
        has!(text, "No such container: absent");
    }
    Ok(())
}

fn cgroup_namespace_mode(ctx: &Ctx) -> Outcome {
    same!(
        one(&namespaces(ctx, json!({"CgroupnsMode": "host"}))?, "cgroup"),
        own("cgroup")?.as_str()
    );
    ensure!(
        one(
            &namespaces(ctx, json!({"CgroupnsMode": "private"}))?,
            "cgroup"
        ) != own("cgroup")?,
        "private is the host's"
    );
    let bad = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"CgroupnsMode": "bogus"}}),
    )?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    Ok(())
}

fn init_reaps_zombies(ctx: &Ctx) -> Outcome {
    let script = "for i in 1 2 3 4 5; do sh -c 'sleep 0.1 &' ; done; sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; tr '\\0' ' ' < /proc/1/cmdline";
    let out = ctx.sh("c", json!({"Init": true}), script)?.ok()?;
    has!(out.stdout, "0\n");
    has!(out.stdout, "/sbin/docker-init -- sh -c");
    Ok(())
}

fn init_forwards_signals(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"], "HostConfig": {"Init": true}}))?;
    ctx.log_has(&id, "ready")?;
    ctx.act(&format!("/containers/{id}/stop?t=8"))?
        .expect(204)?;
    same!(ctx.inspect(&id)?["State"]["ExitCode"], 5);
    Ok(())
}

fn init_exit_code(ctx: &Ctx) -> Outcome {
    same!(ctx.sh("c", json!({"Init": true}), "exit 42")?.code, 42);
    same!(
        ctx.sh("c", json!({"Init": true}), "kill -TERM $$; sleep 1")?
            .code,
        143
    );
    let id = ctx.create(
        "d",
        &json!({"Cmd": ["nosuch"], "HostConfig": {"Init": true}}),
    )?;
    let started = ctx.act(&format!("/containers/{id}/start"))?;
    if started.status == 204 {
        same!(ctx.wait(&id)?, 127);
    } else {
        same!(ctx.inspect(&id)?["State"]["ExitCode"], 127);
    }
    Ok(())
}

fn pid_of_stopped_refused(ctx: &Ctx) -> Outcome {
    let id = ctx.create("a", &json!({}))?;
    let joined = ctx.launch(
        "b",
        &json!({"Cmd": ["true"], "HostConfig": {"PidMode": format!("container:{id}")}}),
    );
    let Err(e2e::check::Fail(text)) = joined else {
        fail!("joined the pid namespace of a container that does not run");
    };
    has!(text, "not running");
    Ok(())
}
