//! Limits, namespaces, init, names inside a container.

use std::{fs, path::Path};

use e2e::{
    check::{Outcome, until},
    ensure, fail, has, same,
};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("limits", Any;
            memory_is_set, memory_is_enforced, memory_without_swap, cpu_quota, cpu_shares, cpuset, pids_are_set_and_enforced, blkio_weight,
            cgroups_go_away, cgroup_parent, bad_values, kernel_seen_from_inside, exec_is_inside, oom_event,
        )
        .to_vec(),
        cases!("namespaces", Any;
            all_of_its_own, pid_host, pid_container, ipc_private_and_host, ipc_container, uts_host, hostname_and_domainname, hostname_bad,
            sysctls, sysctl_bad, network_none, network_host, network_container, join_missing, cgroup_namespace_mode, time_and_user_shared,
            init_reaps_zombies, init_forwards_signals, init_exit_code, pid_of_stopped_refused,
        )
        .to_vec(),
    ]
    .concat()
}

/// Reads a control file of a container's cgroup from outside: v1's name under its controller, or v2's name.
fn control(id: &str, v1: (&str, &str), v2: &str) -> Outcome<String> {
    let mut tried = Vec::new();
    for folder in [
        format!("/sys/fs/cgroup/{}/docker/{id}", v1.0),
        format!("/sys/fs/cgroup/docker/{id}"),
    ] {
        for name in [v1.1, v2] {
            let path = Path::new(&folder).join(name);
            if let Ok(text) = fs::read_to_string(&path) {
                return Ok(text.trim().to_owned());
            }
            tried.push(path.display().to_string());
        }
    }
    fail!("none of {tried:?}");
}

fn limited(ctx: &Ctx, host: Value) -> Outcome<String> {
    ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "HostConfig": host}))
}

fn memory_is_set(ctx: &Ctx) -> Outcome {
    let id = limited(
        ctx,
        json!({"Memory": 67_108_864, "MemoryReservation": 33_554_432}),
    )?;
    same!(
        control(&id, ("memory", "memory.limit_in_bytes"), "memory.max")?,
        "67108864"
    );
    same!(
        control(&id, ("memory", "memory.soft_limit_in_bytes"), "memory.low")?,
        "33554432"
    );
    Ok(())
}

const EAT: &str = "echo start; x=$(head -c 100000000 /dev/zero | tr '\\0' y); echo ${#x}";

fn memory_is_enforced(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", EAT], "HostConfig": {"Memory": 16_777_216, "MemorySwap": 16_777_216}}))?;
    same!(ctx.wait(&id)?, 137);
    // dockerd 20.10 may hear of it only later, or not at all
    if ctx.api(44) {
        same!(ctx.inspect(&id)?["State"]["OOMKilled"], true);
    }
    Ok(())
}

fn memory_without_swap(ctx: &Ctx) -> Outcome {
    for (host, text) in [
        (
            json!({"Memory": 67_108_864, "MemorySwap": 1_048_576}),
            "memoryswap",
        ),
        (json!({"MemorySwap": 67_108_864}), "memory"),
        (
            json!({"Memory": 67_108_864, "MemoryReservation": 99_999_999}),
            "memory",
        ),
    ] {
        let answer = ctx.post(
            "/containers/create",
            &json!({"Image": "busybox", "HostConfig": host}),
        )?;
        ensure!(ctx.refused(answer.status), "{host}: {}", answer.status);
        has!(answer.message().to_lowercase(), text);
    }
    Ok(())
}

fn cpu_quota(ctx: &Ctx) -> Outcome {
    let id = limited(ctx, json!({"NanoCpus": 500_000_000}))?;
    let quota = control(&id, ("cpu", "cpu.cfs_quota_us"), "cpu.max")?;
    ensure!(quota == "50000" || quota == "50000 100000", "{quota}");
    let id = ctx.launch(
        "d",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"CpuPeriod": 50_000, "CpuQuota": 25_000}}),
    )?;
    let quota = control(&id, ("cpu", "cpu.cfs_quota_us"), "cpu.max")?;
    ensure!(quota == "25000" || quota == "25000 50000", "{quota}");
    Ok(())
}

fn cpu_shares(ctx: &Ctx) -> Outcome {
    let id = limited(ctx, json!({"CpuShares": 512}))?;
    let shares = control(&id, ("cpu", "cpu.shares"), "cpu.weight")?;
    ensure!(
        shares == "512" || shares == "20" || shares == "59",
        "{shares}"
    );
    Ok(())
}

fn cpuset(ctx: &Ctx) -> Outcome {
    let id = limited(ctx, json!({"CpusetCpus": "0"}))?;
    same!(control(&id, ("cpuset", "cpuset.cpus"), "cpuset.cpus")?, "0");
    has!(
        ctx.exec_sh(&id, "grep Cpus_allowed_list /proc/self/status")?
            .stdout,
        ":\t0\n"
    );
    for bad in ["4096", "x", "1-"] {
        let answer = ctx.post(
            "/containers/create",
            &json!({"Image": "busybox", "HostConfig": {"CpusetCpus": bad}}),
        )?;
        ensure!(
            ctx.refused(answer.status),
            "cpuset {bad}: {}",
            answer.status
        );
    }
    Ok(())
}

fn pids_are_set_and_enforced(ctx: &Ctx) -> Outcome {
    let id = limited(ctx, json!({"PidsLimit": 8}))?;
    same!(control(&id, ("pids", "pids.max"), "pids.max")?, "8");
    let out = ctx.exec_sh(
        &id,
        "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; echo x",
    )?;
    has!(out.stderr, "can't fork");
    let unlimited = ctx.sleeper("u")?;
    same!(
        control(&unlimited, ("pids", "pids.max"), "pids.max")?,
        "max"
    );
    Ok(())
}

fn blkio_weight(ctx: &Ctx) -> Outcome {
    let answer = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"BlkioWeight": 5}}),
    )?;
    if answer.status == 201 {
        // a kernel without weights: the engine says so and goes on
        has!(answer.text().to_lowercase(), "weight");
    } else {
        ensure!(ctx.refused(answer.status), "weight 5: {}", answer.status);
        has!(
            answer.message().to_lowercase(),
            "range of blkio weight is from 10 to 1000"
        );
    }
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["true"], "HostConfig": {"BlkioWeight": 300}}),
    )?;
    ctx.start(&id)?;
    Ok(())
}

fn groups_of(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path().join("docker").join(id);
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    found
}

fn cgroups_go_away(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    ensure!(
        !groups_of(&id).is_empty() || Path::new(&format!("/sys/fs/cgroup/docker/{id}")).exists(),
        "no cgroup of the container"
    );
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    until(5, "cgroups gone", || {
        Ok(groups_of(&id).is_empty().then_some(()))
    })
}

fn cgroup_parent(ctx: &Ctx) -> Outcome {
    let parent = ctx.name("parent");
    let id = limited(ctx, json!({"CgroupParent": format!("/{parent}")}))?;
    let seen = fs::read_to_string(format!(
        "/proc/{}/cgroup",
        ctx.inspect(&id)?["State"]["Pid"]
    ))?;
    has!(seen, format!("/{parent}/{id}"));
    ctx.remove(&id)?;
    // dockerd leaves the parent
    for entry in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = fs::remove_dir(entry.path().join(&parent));
    }
    let _ = fs::remove_dir(format!("/sys/fs/cgroup/{parent}"));
    Ok(())
}

fn bad_values(ctx: &Ctx) -> Outcome {
    for host in [
        json!({"Memory": 1024}),
        json!({"Memory": -5}),
        json!({"NanoCpus": 99_000_000_000_000i64}),
        json!({"NanoCpus": -1}),
        json!({"CpuPeriod": 1}),
        json!({"NanoCpus": 1_000_000_000, "CpuQuota": 5000}),
    ] {
        let answer = ctx.post(
            &format!("/containers/create?name={}", ctx.name("c")),
            &json!({"Image": "busybox", "HostConfig": host}),
        )?;
        ensure!(
            ctx.refused(answer.status),
            "{host}: {} {}",
            answer.status,
            answer.text()
        );
        same!(
            ctx.get(&format!("/containers/{}/json", ctx.name("c")))?
                .status,
            404
        );
    }
    let answer = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"Memory": 1024}}),
    )?;
    has!(answer.message(), "6MB");
    Ok(())
}

fn kernel_seen_from_inside(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"Memory": 67_108_864}),
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null",
    )?;
    has!(out.stdout, "67108864");
    Ok(())
}

fn exec_is_inside(ctx: &Ctx) -> Outcome {
    let id = limited(ctx, json!({"Memory": 16_777_216, "MemorySwap": 16_777_216}))?;
    let out = ctx.exec_sh(&id, EAT)?;
    same!(out.code, 137, "an exec must be in the container's cgroup");
    Ok(())
}

fn oom_event(ctx: &Ctx) -> Outcome {
    let since = crate::context::now();
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", EAT], "HostConfig": {"Memory": 16_777_216, "MemorySwap": 16_777_216}}))?;
    ctx.wait(&id)?;
    until(5, "oom and die", || {
        let events = ctx.events(
            &since,
            &crate::context::now(),
            &json!({"container": [id], "event": ["oom", "die"]}),
        )?;
        Ok((events.len() >= 2).then_some(()))
    })
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
