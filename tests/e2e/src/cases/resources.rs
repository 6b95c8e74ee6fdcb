//! Limits: set in the control groups, and enforced.

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
            cgroups_go_away, cgroup_parent, bad_values, kernel_seen_from_inside, exec_is_inside, oom_event, oom_while_it_goes_on,
        )
        .to_vec(),
        cases!("limits", Daemon; oom_without_a_daemon,).to_vec(),
    ]
    .concat()
}

/// Reads a control file of a container's cgroup from outside: v1's name under its controller, or v2's name.
pub fn control(id: &str, v1: (&str, &str), v2: &str) -> Outcome<String> {
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
    let unified = Path::new("/sys/fs/cgroup/docker").join(id);
    if unified.exists() {
        found.push(unified.display().to_string());
    }
    found
}

fn cgroups_go_away(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    ensure!(!groups_of(&id).is_empty(), "no cgroup of the container");
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

fn oom_events(ctx: &Ctx, id: &str, since: &str) -> Outcome<usize> {
    let filter = json!({"container": [id], "event": ["oom"]});
    Ok(ctx.events(since, &crate::context::now(), &filter)?.len())
}

/// Another process of the container is killed: told at once, and it goes on.
fn oom_while_it_goes_on(ctx: &Ctx) -> Outcome {
    let since = crate::context::now();
    let id = limited(ctx, json!({"Memory": 16_777_216, "MemorySwap": 16_777_216}))?;
    same!(ctx.inspect(&id)?["State"]["OOMKilled"], false);
    ctx.exec_sh(&id, EAT)?;
    until(10, "oom", || {
        Ok((oom_events(ctx, &id, &since)? > 0).then_some(()))
    })?;
    let state = ctx.inspect(&id)?["State"].clone();
    same!(state["Running"], true);
    if ctx.api(44) {
        same!(state["OOMKilled"], true);
    }
    let told = oom_events(ctx, &id, &since)?;
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    if ctx.world.binary.is_some() {
        same!(oom_events(ctx, &id, &since)?, told);
        same!(ctx.inspect(&id)?["State"]["OOMKilled"], true);
        ctx.start(&id)?;
        same!(ctx.inspect(&id)?["State"]["OOMKilled"], false);
    }
    Ok(())
}

fn oom_without_a_daemon(ctx: &Ctx) -> Outcome {
    let mut own = super::own::Own::start(ctx)?;
    let script =
        format!("while :; do if test -e /eat; then rm /eat; ({EAT}); fi; usleep 20000; done");
    let limits = json!({"Memory": 16_777_216, "MemorySwap": 16_777_216});
    let id = own.ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", script], "HostConfig": limits}),
    )?;
    let pid = super::own::pid(&own.ctx, &id)?;
    let since = crate::context::now();
    own.engine.kill()?;
    let file = format!("/proc/{pid}/root/eat");
    fs::write(&file, "")?;
    until(10, "the meal", || Ok((!fs::exists(&file)?).then_some(())))?;
    until(30, "a kill", || {
        let count = control(&id, ("memory", "memory.oom_control"), "memory.events")?;
        Ok(count.contains("oom_kill 1").then_some(()))
    })?;
    own.engine.launch()?;
    let state = own.ctx.inspect(&id)?["State"].clone();
    same!(state["Running"], true);
    same!(state["OOMKilled"], true);
    same!(oom_events(&own.ctx, &id, &since)?, 1);
    own.done()
}
