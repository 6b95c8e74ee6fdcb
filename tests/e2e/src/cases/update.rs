//! Other limits and another restart policy for a container that exists.

use e2e::{
    check::{Outcome, until},
    ensure, has, same,
};
use serde_json::{Value, json};

use super::{own::Own, resources::control};
use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("update", Any;
            limits_of_a_running_one, before_the_start, while_paused, while_stopped, processors, swap_needs_a_word, conflicts,
            bad_values, pids_unlimited_again, policy_of_a_running_one, policy_and_auto_remove, all_or_nothing, cli, nothing_asked,
        )
        .to_vec(),
        cases!("update", Daemon; kept_when_the_daemon_dies,).to_vec(),
    ]
    .concat()
}

const MIB: i64 = 1 << 20;

fn change(ctx: &Ctx, id: &str, body: &Value) -> Outcome<Value> {
    ctx.post(&format!("/containers/{id}/update"), body)?
        .expect(200)?
        .json()
}

fn memory(id: &str) -> Outcome<String> {
    control(id, ("memory", "memory.limit_in_bytes"), "memory.max")
}

fn pids(id: &str) -> Outcome<String> {
    control(id, ("pids", "pids.max"), "pids.max")
}

fn limits_of_a_running_one(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let since = now();
    let body = json!({
        "CpuShares": 512, "CpusetCpus": "0", "Memory": 96 * MIB, "MemorySwap": 128 * MIB,
        "MemoryReservation": 32 * MIB, "PidsLimit": 77,
    });
    same!(change(ctx, &id, &body)?, json!({"Warnings": null}));
    same!(memory(&id)?, (96 * MIB).to_string());
    same!(pids(&id)?, "77");
    same!(control(&id, ("cpuset", "cpuset.cpus"), "cpuset.cpus")?, "0");
    let shares = control(&id, ("cpu", "cpu.shares"), "cpu.weight")?;
    ensure!(shares == "512" || shares == "59", "shares {shares}");
    same!(
        control(&id, ("memory", "memory.soft_limit_in_bytes"), "memory.low")?,
        (32 * MIB).to_string()
    );
    let swap = control(
        &id,
        ("memory", "memory.memsw.limit_in_bytes"),
        "memory.swap.max",
    )?;
    ensure!(
        swap == (128 * MIB).to_string() || swap == (32 * MIB).to_string(),
        "swap {swap}"
    );
    let host = ctx.inspect(&id)?["HostConfig"].clone();
    for (key, value) in body.as_object().into_iter().flatten() {
        same!(host[key], *value, "{key}");
    }
    let events = ctx.events(
        &since,
        &now(),
        &json!({"container": [id], "event": ["update"]}),
    )?;
    same!(events.len(), 1);
    // It holds over a restart.
    ctx.act(&format!("/containers/{id}/restart?t=0"))?
        .expect(204)?;
    same!(memory(&id)?, (96 * MIB).to_string());
    same!(pids(&id)?, "77");
    Ok(())
}

fn before_the_start(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sleep", "600"]}))?;
    change(
        ctx,
        &id,
        &json!({"Memory": 64 * MIB, "MemorySwap": 64 * MIB, "PidsLimit": 9}),
    )?;
    same!(ctx.inspect(&id)?["HostConfig"]["Memory"], 64 * MIB);
    ctx.start(&id)?;
    same!(memory(&id)?, (64 * MIB).to_string());
    same!(pids(&id)?, "9");
    Ok(())
}

fn while_paused(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    ctx.act(&format!("/containers/{id}/pause"))?.expect(204)?;
    change(ctx, &id, &json!({"PidsLimit": 33}))?;
    same!(pids(&id)?, "33");
    same!(ctx.inspect(&id)?["State"]["Status"], "paused");
    ctx.act(&format!("/containers/{id}/unpause"))?
        .expect(204)
        .map(drop)
}

fn while_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&id)?;
    change(ctx, &id, &json!({"CpuShares": 300}))?;
    same!(ctx.inspect(&id)?["HostConfig"]["CpuShares"], 300);
    Ok(())
}

fn processors(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let quota = |id: &str| control(id, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    change(ctx, &id, &json!({"NanoCpus": 500_000_000}))?;
    let now = quota(&id)?;
    ensure!(now == "50000" || now == "50000 100000", "{now}");
    same!(ctx.inspect(&id)?["HostConfig"]["NanoCpus"], 500_000_000);
    let id = ctx.sleeper("d")?;
    change(ctx, &id, &json!({"CpuPeriod": 50_000, "CpuQuota": 20_000}))?;
    let now = quota(&id)?;
    ensure!(now == "20000" || now == "20000 50000", "{now}");
    if ctx.world.binary.is_some() {
        // The period stays where the quota alone changes.
        change(ctx, &id, &json!({"CpuQuota": 25_000}))?;
        let now = quota(&id)?;
        ensure!(now == "25000" || now == "25000 50000", "{now}");
    }
    Ok(())
}

/// dockerd's rule: who raises memory above the recorded swap limit names both.
fn swap_needs_a_word(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"Memory": 32 * MIB}}),
    )?;
    let answer = ctx.post(
        &format!("/containers/{id}/update"),
        &json!({"Memory": 128 * MIB}),
    )?;
    same!(answer.status, 409);
    has!(
        answer.message(),
        format!(
            "Cannot update container {id}: Memory limit should be smaller than already set memoryswap limit"
        )
    );
    change(ctx, &id, &json!({"Memory": 48 * MIB}))?;
    same!(memory(&id)?, (48 * MIB).to_string());
    change(
        ctx,
        &id,
        &json!({"Memory": 128 * MIB, "MemorySwap": 256 * MIB}),
    )?;
    same!(memory(&id)?, (128 * MIB).to_string());
    change(
        ctx,
        &id,
        &json!({"Memory": 40 * MIB, "MemorySwap": 40 * MIB}),
    )?;
    same!(memory(&id)?, (40 * MIB).to_string());
    same!(ctx.inspect(&id)?["HostConfig"]["MemorySwap"], 40 * MIB);
    Ok(())
}

fn conflicts(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"NanoCpus": 1_000_000_000}}),
    )?;
    let answer = ctx.post(
        &format!("/containers/{id}/update"),
        &json!({"CpuQuota": 50_000}),
    )?;
    same!(answer.status, 409);
    has!(answer.message(), "CPU Quota cannot be updated as NanoCPUs");
    same!(ctx.inspect(&id)?["HostConfig"]["CpuQuota"], 0);
    Ok(())
}

fn bad_values(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    for (body, text) in [
        (
            json!({"Memory": 100}),
            "Minimum memory limit allowed is 6MB",
        ),
        (
            json!({"CpusetCpus": "0-99"}),
            "Requested CPUs are not available",
        ),
        (
            json!({"CpuQuota": 5}),
            "CPU cfs quota can not be less than 1ms",
        ),
        (
            json!({"NanoCpus": 1, "CpuPeriod": 5000}),
            "Nano CPUs and CPU Period",
        ),
        (
            json!({"RestartPolicy": {"Name": "sometimes"}}),
            "invalid restart policy",
        ),
    ] {
        let answer = ctx.post(&format!("/containers/{id}/update"), &body)?;
        same!(answer.status, 400, "{body}");
        has!(answer.message(), text);
    }
    same!(
        ctx.post("/containers/nosuch/update", &json!({"CpuShares": 5}))?
            .status,
        404
    );
    Ok(())
}

fn pids_unlimited_again(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"PidsLimit": 20}}),
    )?;
    same!(pids(&id)?, "20");
    change(ctx, &id, &json!({"PidsLimit": -1}))?;
    same!(pids(&id)?, "max");
    same!(ctx.inspect(&id)?["HostConfig"]["PidsLimit"], 0);
    Ok(())
}

fn policy_of_a_running_one(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "sleep 0.3; exit 3"], "HostConfig": {"RestartPolicy": {"Name": "always"}}}),
    )?;
    until(10, "a restart", || {
        Ok((ctx.inspect(&id)?["RestartCount"].as_i64() > Some(0)).then_some(()))
    })?;
    ctx.status(&id, "running")?;
    let policy = json!({"RestartPolicy": {"Name": "no"}});
    change(ctx, &id, &policy)?;
    ctx.status(&id, "exited")?;
    pause(700);
    let end = ctx.inspect(&id)?;
    same!(end["State"]["Status"], "exited");
    same!(end["HostConfig"]["RestartPolicy"]["Name"], "no");
    change(
        ctx,
        &id,
        &json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}),
    )?;
    let policy = ctx.inspect(&id)?["HostConfig"]["RestartPolicy"].clone();
    same!(
        policy,
        json!({"Name": "on-failure", "MaximumRetryCount": 1})
    );
    Ok(())
}

fn policy_and_auto_remove(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"AutoRemove": true}}),
    )?;
    let answer = ctx.post(
        &format!("/containers/{id}/update"),
        &json!({"RestartPolicy": {"Name": "always"}}),
    )?;
    same!(answer.status, 409);
    has!(answer.message(), "AutoRemove is enabled");
    Ok(())
}

/// The kernel takes the first values and refuses the last one.
fn all_or_nothing(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"PidsLimit": 20, "Memory": 64 * MIB, "CpuShares": 700}}),
    )?;
    let before = ctx.inspect(&id)?["HostConfig"].clone();
    let values = |id: &str| -> Outcome<Vec<String>> {
        Ok(vec![
            memory(id)?,
            pids(id)?,
            control(id, ("cpu", "cpu.shares"), "cpu.weight")?,
            control(id, ("cpu", "cpu.cfs_quota_us"), "cpu.max")?,
        ])
    };
    let kernel = values(&id)?;
    let answer = ctx.post(
        &format!("/containers/{id}/update"),
        &json!({"PidsLimit": 30, "Memory": 96 * MIB, "CpuShares": 200, "CpuQuota": 1_i64 << 50}),
    )?;
    same!(answer.status, 500);
    has!(answer.message(), format!("Cannot update container {id}: "));
    same!(ctx.inspect(&id)?["HostConfig"], before);
    if ctx.world.binary.is_some() {
        same!(values(&id)?, kernel);
    }
    Ok(())
}

fn cli(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let name = ctx.name("c");
    let out = ctx
        .docker(&[
            "update",
            "--memory",
            "100m",
            "--memory-swap",
            "200m",
            "--cpus",
            "1",
            "--restart",
            "unless-stopped",
            &name,
        ])?
        .ok()?;
    same!(out.line(), name);
    let host = ctx.inspect(&id)?["HostConfig"].clone();
    same!(host["Memory"], 100 * MIB);
    same!(host["RestartPolicy"]["Name"], "unless-stopped");
    Ok(())
}

fn nothing_asked(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let before = ctx.inspect(&id)?["HostConfig"].clone();
    change(ctx, &id, &json!({}))?;
    same!(ctx.inspect(&id)?["HostConfig"], before);
    Ok(())
}

fn kept_when_the_daemon_dies(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own.ctx.sleeper("c")?;
    change(
        &own.ctx,
        &id,
        &json!({"PidsLimit": 44, "RestartPolicy": {"Name": "always"}}),
    )?;
    own.engine.kill()?;
    own.engine.launch()?;
    let host = own.ctx.inspect(&id)?["HostConfig"].clone();
    same!(host["PidsLimit"], 44);
    same!(host["RestartPolicy"]["Name"], "always");
    same!(pids(&id)?, "44");
    own.done()
}
