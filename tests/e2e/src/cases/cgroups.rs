//! Control groups as the host has them, v1 or v2: what the engine says of them, where a container is, what holds there.

use std::{fs, path::Path};

use e2e::{
    check::{Outcome, until},
    ensure, has, lacks, same,
};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("cgroups", Any;
            version_and_default_mode, where_a_container_is, view_from_inside, values, throttled_disk, swap, without_limits,
            groups_of_its_own, exec_beside_inner_groups, everything_dies_with_the_first_process,
        )
        .to_vec(),
        cases!("devices", Any;
            others_are_denied, usual_ones_work, one_of_the_host, read_only_one, rule_of_cgroups, privileged_has_all,
            exec_is_bound_too, disk_is_denied,
        )
        .to_vec(),
    ]
    .concat()
}

/// Whether the host has cgroup2 alone.
fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The v2 group of a container, seen from outside.
fn folder(ctx: &Ctx, id: &str) -> Outcome<String> {
    let pid = ctx.inspect(id)?["State"]["Pid"].clone();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::"));
    Ok(format!("/sys/fs/cgroup{}", path.unwrap_or_default()))
}

fn version_and_default_mode(ctx: &Ctx) -> Outcome {
    let info = ctx.json("/info")?;
    let id = ctx.sleeper("c")?;
    let mode = ctx.inspect(&id)?["HostConfig"]["CgroupnsMode"].clone();
    let options = info["SecurityOptions"].to_string();
    if unified() {
        same!(info["CgroupVersion"], "2");
        same!(mode, "private");
        has!(options, "name=cgroupns");
    } else {
        same!(info["CgroupVersion"], "1");
        same!(mode, "host");
        lacks!(options, "name=cgroupns");
    }
    for limit in ["MemoryLimit", "PidsLimit", "CpuCfsQuota", "CPUSet"] {
        same!(info[limit], true, "{limit}");
    }
    Ok(())
}

fn where_a_container_is(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let driver = ctx.json("/info")?["CgroupDriver"].clone();
    let pid = ctx.inspect(&id)?["State"]["Pid"].clone();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let wanted = match driver.as_str() {
        Some("systemd") => format!("/docker-{id}.scope"),
        _ => format!(":/docker/{id}"),
    };
    if unified() {
        same!(text.lines().count(), 1, "{text}");
        ensure!(text.trim_end().ends_with(&wanted), "{text}");
    }
    has!(text, wanted);
    Ok(())
}

fn view_from_inside(ctx: &Ctx) -> Outcome {
    let script = "cat /proc/self/cgroup; ls /sys/fs/cgroup; grep ' /sys/fs/cgroup' /proc/self/mountinfo; cd /sys/fs/cgroup/memory 2>/dev/null || cd /sys/fs/cgroup; mkdir mine";
    let out = ctx.sh("c", json!({}), script)?;
    ensure!(out.code != 0, "a group was made in a read-only tree");
    has!(out.stderr, "Read-only file system");
    if unified() {
        ensure!(out.stdout.starts_with("0::/\n"), "{}", out.stdout);
        has!(out.stdout, "memory.max\n");
        has!(out.stdout, " / /sys/fs/cgroup ro,nosuid,nodev,noexec");
        let host = ctx.sh(
            "h",
            json!({"CgroupnsMode": "host"}),
            "cat /proc/self/cgroup",
        )?;
        ensure!(host.line().len() > 40, "{}", host.stdout);
    }
    Ok(())
}

/// All values at once, on v2 with the conversions that runc and crun agree on.
fn values(ctx: &Ctx) -> Outcome {
    let host = json!({
        "Memory": 67_108_864, "MemorySwap": 100_663_296, "MemoryReservation": 33_554_432, "CpuShares": 2048, "CpuPeriod": 50_000,
        "CpuQuota": 20_000, "CpusetCpus": "0", "CpusetMems": "0", "PidsLimit": 50, "BlkioWeight": 500,
    });
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "HostConfig": host}))?;
    if !unified() {
        return Ok(());
    }
    let folder = folder(ctx, &id)?;
    let read =
        |name: &str| fs::read_to_string(format!("{folder}/{name}")).map(|t| t.trim().to_owned());
    for (name, wanted) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.max", "20000 50000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "50"),
    ] {
        same!(read(name)?, wanted, "{name}");
    }
    // absent where the kernel does not count swap
    ensure!(
        read("memory.swap.max").is_ok_and(|t| t == "33554432")
            || !Path::new(&folder).join("memory.swap.max").exists(),
        "memory.swap.max"
    );
    // two curves are about: linear until 2025, through the default since
    let weight = read("cpu.weight")?;
    ensure!(
        ["79", "174"].contains(&weight.as_str()),
        "cpu.weight {weight}"
    );
    let weight = read("io.bfq.weight").or_else(|_| read("io.weight"));
    ensure!(
        weight
            .as_ref()
            .map_or(true, |w| w == "default 500" || w == "default 4950"),
        "io weight {weight:?}"
    );
    Ok(())
}

/// A disk of this machine, as its node, major and minor number say it.
fn disk() -> Option<(String, String)> {
    fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = fs::read_to_string(entry.path().join("dev")).ok()?;
            let node = format!("/dev/{name}");
            (!name.starts_with("loop") && !name.starts_with("ram") && Path::new(&node).exists())
                .then(|| (node, number.trim().to_owned()))
        })
}

fn throttled_disk(ctx: &Ctx) -> Outcome {
    let Some((node, number)) = disk() else {
        return Ok(());
    };
    let host = json!({
        "BlkioDeviceReadBps": [{"Path": node, "Rate": 1_048_576}], "BlkioDeviceWriteIOps": [{"Path": node, "Rate": 100}],
    });
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "HostConfig": host}))?;
    if unified() {
        let text = fs::read_to_string(format!("{}/io.max", folder(ctx, &id)?))?;
        same!(
            text.trim(),
            format!("{number} rbps=1048576 wbps=max riops=max wiops=100")
        );
    } else {
        let text = fs::read_to_string(format!(
            "/sys/fs/cgroup/blkio/docker/{id}/blkio.throttle.read_bps_device"
        ))?;
        same!(text.trim(), format!("{number} 1048576"));
    }
    Ok(())
}

fn swap(ctx: &Ctx) -> Outcome {
    // twice the memory when nothing is said, as much as it likes for -1
    for (suffix, host, wanted) in [
        ("a", json!({"Memory": 67_108_864}), "67108864"),
        ("b", json!({"Memory": 67_108_864, "MemorySwap": -1}), "max"),
        (
            "c",
            json!({"Memory": 67_108_864, "MemorySwap": 67_108_864}),
            "0",
        ),
    ] {
        let id = ctx.launch(
            suffix,
            &json!({"Cmd": ["sleep", "600"], "HostConfig": host}),
        )?;
        if !unified() {
            continue;
        }
        let path = format!("{}/memory.swap.max", folder(ctx, &id)?);
        if Path::new(&path).exists() {
            same!(fs::read_to_string(&path)?.trim(), wanted, "{host}");
        }
    }
    Ok(())
}

/// No limits at all: the group has the kernel's defaults.
fn without_limits(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    if !unified() {
        return Ok(());
    }
    let folder = folder(ctx, &id)?;
    for (name, wanted) in [
        ("memory.max", "max"),
        ("cpu.max", "max 100000"),
        ("cpu.weight", "100"),
        ("pids.max", "max"),
        ("cpuset.cpus", ""),
    ] {
        same!(
            fs::read_to_string(format!("{folder}/{name}"))?.trim(),
            wanted,
            "{name}"
        );
    }
    Ok(())
}

/// Moves the shell into a group below the container's own and hands controllers on, as engines and service managers inside do.
const INNER: &str = "mkdir /sys/fs/cgroup/inner && echo $$ > /sys/fs/cgroup/inner/cgroup.procs && \
                     echo +memory +pids > /sys/fs/cgroup/cgroup.subtree_control && echo ready; sleep 600 & wait";

/// A privileged container may make groups, and they go with it.
fn groups_of_its_own(ctx: &Ctx) -> Outcome {
    if !unified() {
        return Ok(());
    }
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", INNER], "HostConfig": {"Privileged": true}}),
    )?;
    ctx.log_has(&id, "ready")?;
    let inner = folder(ctx, &id)?;
    ensure!(inner.ends_with(&format!("{id}/inner")), "{inner}");
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    until(5, "groups gone", || {
        Ok((!Path::new(inner.trim_end_matches("/inner")).exists()).then_some(()))
    })
}

/// The container's own group takes no more processes then; an exec goes where its first process is.
fn exec_beside_inner_groups(ctx: &Ctx) -> Outcome {
    if !unified() {
        return Ok(());
    }
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", INNER], "HostConfig": {"Privileged": true}}),
    )?;
    ctx.log_has(&id, "ready")?;
    same!(
        ctx.exec_sh(&id, "cat /proc/self/cgroup")?.ok()?.line(),
        "0::/inner"
    );
    Ok(())
}

fn everything_dies_with_the_first_process(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "sleep 7773 & sleep 7773 & sleep 600"], "HostConfig": {"PidMode": "host"}}))?;
    let count = || -> usize {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = processes.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
        lines.filter(|l| l == b"sleep\x007773\x00").count()
    };
    until(5, "both sleeps", || Ok((count() == 2).then_some(())))?;
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    until(5, "end of both sleeps", || Ok((count() == 0).then_some(())))
}

/// Makes the node of /dev/kmsg, which no container has, and opens it for reading and for writing.
const KMSG: &str =
    "mknod /tmp/k c 1 11; (: < /tmp/k) && echo read; (: > /tmp/k) && echo written; true";

fn kmsg(ctx: &Ctx, suffix: &str, host: Value) -> Outcome<String> {
    // some kernels want this capability of readers
    let mut full = json!({"CapAdd": ["SYSLOG"]});
    crate::context::merge(&mut full, &host);
    Ok(ctx.sh(suffix, full, KMSG)?.ok()?.stdout)
}

fn others_are_denied(ctx: &Ctx) -> Outcome {
    let out = ctx.sh("c", json!({}), KMSG)?;
    same!(out.stdout, "");
    has!(out.stderr, "Operation not permitted");
    // not even with every capability
    same!(kmsg(ctx, "d", json!({"CapAdd": ["ALL"]}))?, "");
    Ok(())
}

fn usual_ones_work(ctx: &Ctx) -> Outcome {
    let script = "for n in null zero full random urandom tty; do test -c /dev/$n || echo no $n; done; echo x > /dev/null; \
                  head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; head -c 4 /dev/random | wc -c; \
                  echo x > /dev/full; mknod /tmp/z c 1 5 && head -c 2 /tmp/z | wc -c; mknod /tmp/any c 99 99 && echo made";
    let out = ctx.sh("c", json!({}), script)?.ok()?;
    same!(out.stdout, "4\n4\n4\n2\nmade\n");
    has!(out.stderr, "No space left on device");
    Ok(())
}

fn one_of_the_host(ctx: &Ctx) -> Outcome {
    let device = json!({"Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/mine", "CgroupPermissions": "rwm"}]});
    same!(kmsg(ctx, "c", device)?, "read\nwritten\n");
    Ok(())
}

fn read_only_one(ctx: &Ctx) -> Outcome {
    let device = json!({"Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "r"}]});
    same!(kmsg(ctx, "c", device)?, "read\n");
    Ok(())
}

fn rule_of_cgroups(ctx: &Ctx) -> Outcome {
    same!(
        kmsg(ctx, "a", json!({"DeviceCgroupRules": ["c 1:11 rmw"]}))?,
        "read\nwritten\n"
    );
    same!(
        kmsg(ctx, "b", json!({"DeviceCgroupRules": ["c 1:* r"]}))?,
        "read\n"
    );
    same!(
        kmsg(
            ctx,
            "c",
            json!({"DeviceCgroupRules": ["b 1:11 rwm", "c 1:12 rwm"]})
        )?,
        ""
    );
    Ok(())
}

fn privileged_has_all(ctx: &Ctx) -> Outcome {
    same!(
        kmsg(ctx, "c", json!({"Privileged": true}))?,
        "read\nwritten\n"
    );
    Ok(())
}

fn exec_is_bound_too(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    same!(ctx.exec_sh(&id, KMSG)?.stdout, "");
    let all = ctx.exec(&id, &json!({"Cmd": ["sh", "-c", KMSG], "Privileged": true}))?;
    same!(
        all.stdout,
        "",
        "privileges of an exec do not widen the device rules"
    );
    Ok(())
}

fn disk_is_denied(ctx: &Ctx) -> Outcome {
    let Some((_, number)) = disk() else {
        return Ok(());
    };
    let script = format!(
        "mknod /tmp/d b {} && head -c 1 /tmp/d",
        number.replace(':', " ")
    );
    let out = ctx.sh("c", json!({}), &script)?;
    has!(out.stderr, "Operation not permitted");
    Ok(())
}
