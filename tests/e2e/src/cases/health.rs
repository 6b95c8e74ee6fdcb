//! Health checks: when they run, what their results mean, what is told of them.

use e2e::{
    check::{Outcome, until},
    ensure, has,
    http::escape,
    same,
};
use serde_json::{Value, json};

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("health", Any;
            healthy, unhealthy_and_back, timeout_kills_the_probe, start_period_forgives, none_and_absent, command_that_is_not_there,
            log_keeps_five, output_is_cut, events_of_a_probe, stopped_is_unhealthy, paused_is_not_probed, starts_anew, list_and_filter,
            start_interval, own_user_and_directory, exec_forms,
        )
        .to_vec(),
        cases!("health", Daemon; kept_when_the_daemon_dies, autoheal,).to_vec(),
    ]
    .concat()
}

const SECOND: i64 = 1_000_000_000;

/// A container that sleeps and whose health is the exit code of a shell script.
fn checked(ctx: &Ctx, script: &str, over: &Value) -> Outcome<String> {
    let mut check = json!({"Test": ["CMD-SHELL", script], "Interval": SECOND / 5});
    crate::context::merge(&mut check, over);
    ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "Healthcheck": check}))
}

fn health(ctx: &Ctx, id: &str) -> Outcome<Value> {
    Ok(ctx.inspect(id)?["State"]["Health"].clone())
}

fn becomes(ctx: &Ctx, id: &str, status: &str) -> Outcome<Value> {
    until(20, &format!("health {status}"), || {
        let health = health(ctx, id)?;
        Ok((health["Status"] == status).then_some(health))
    })
}

fn healthy(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "echo fine; echo and well >&2", &json!({}))?;
    let health = becomes(ctx, &id, "healthy")?;
    same!(health["FailingStreak"], 0);
    let result = &health["Log"][0];
    same!(result["ExitCode"], 0);
    let output = result["Output"].as_str().unwrap_or_default();
    ensure!(
        output.contains("fine\n") && output.contains("and well\n"),
        "{output:?}"
    );
    ensure!(
        result["Start"].as_str() < result["End"].as_str(),
        "{result}"
    );
    Ok(())
}

fn unhealthy_and_back(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = checked(
        ctx,
        "test -e /well || { echo ill; exit 7; }",
        &json!({"Retries": 2}),
    )?;
    let ill = becomes(ctx, &id, "unhealthy")?;
    ensure!(ill["FailingStreak"].as_i64() >= Some(2), "{ill}");
    same!(ill["Log"][0]["ExitCode"], 7);
    same!(ill["Log"][0]["Output"], "ill\n");
    ctx.exec_sh(&id, "touch /well")?.ok()?;
    let well = becomes(ctx, &id, "healthy")?;
    same!(well["FailingStreak"], 0);
    ctx.exec_sh(&id, "rm /well")?.ok()?;
    becomes(ctx, &id, "unhealthy")?;
    let filter = json!({"container": [id], "event": ["health_status"]});
    let events = ctx.events(&since, &now(), &filter)?;
    let told: Vec<_> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(
        told,
        [
            "health_status: unhealthy",
            "health_status: healthy",
            "health_status: unhealthy"
        ]
    );
    Ok(())
}

fn timeout_kills_the_probe(ctx: &Ctx) -> Outcome {
    let id = checked(
        ctx,
        "echo before; exec sleep 400",
        &json!({"Timeout": SECOND / 2, "Retries": 1}),
    )?;
    let ill = becomes(ctx, &id, "unhealthy")?;
    same!(ill["Log"][0]["ExitCode"], -1);
    let output = ill["Log"][0]["Output"].as_str().unwrap_or_default();
    if ctx.api(44) {
        has!(output, "Health check exceeded timeout (500ms): before\n");
    } else {
        has!(output, "Health check exceeded timeout (500ms)");
    }
    // The present one may be there, those before may not.
    pause(2000);
    let top = ctx.json(&format!("/containers/{id}/top?ps_args=-eo%20pid,args"))?;
    let count = top["Processes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| p[1].as_str().is_some_and(|args| args.contains("sleep 400")))
        .count();
    ensure!(count <= 1, "{count} probes are left: {top}");
    Ok(())
}

fn start_period_forgives(ctx: &Ctx) -> Outcome {
    let over = json!({"Retries": 1, "StartPeriod": 600 * SECOND, "StartInterval": SECOND / 5});
    let id = checked(ctx, "exit 1", &over)?;
    until(20, "a result", || {
        Ok((!health(ctx, &id)?["Log"][0].is_null()).then_some(()))
    })?;
    let now = health(ctx, &id)?;
    same!(now["Status"], "starting");
    same!(now["FailingStreak"], 0);
    Ok(())
}

fn none_and_absent(ctx: &Ctx) -> Outcome {
    for check in [Value::Null, json!({"Test": ["NONE"]})] {
        let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "Healthcheck": check}))?;
        ensure!(
            ctx.inspect(&id)?["State"].get("Health").is_none(),
            "{check}"
        );
        ctx.remove(&id)?;
    }
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["true"], "Healthcheck": {"Test": ["CMD", "true"]}}),
    )?;
    ensure!(
        ctx.inspect(&id)?["State"].get("Health").is_none(),
        "before the first start"
    );
    Ok(())
}

fn command_that_is_not_there(ctx: &Ctx) -> Outcome {
    let over = json!({"Test": ["CMD", "/no/such/probe"], "Retries": 1});
    let id = checked(ctx, "", &over)?;
    let ill = becomes(ctx, &id, "unhealthy")?;
    let result = &ill["Log"][0];
    ensure!(
        result["ExitCode"] == -1 || result["ExitCode"] == 127,
        "{ill}"
    );
    has!(
        result["Output"].as_str().unwrap_or_default(),
        "no such file or directory"
    );
    Ok(())
}

fn log_keeps_five(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "date +%s%N", &json!({"Interval": SECOND / 20}))?;
    let first = until(20, "five results", || {
        let log = health(ctx, &id)?["Log"].clone();
        Ok((log.as_array().map(Vec::len) == Some(5)).then_some(log))
    })?;
    until(20, "others", || {
        let log = health(ctx, &id)?["Log"].clone();
        same!(log.as_array().map(Vec::len), Some(5));
        Ok((log[0]["Start"].as_str() > first[4]["Start"].as_str()).then_some(()))
    })
}

fn output_is_cut(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "head -c 10000 /dev/zero | tr '\\0' x", &json!({}))?;
    let health = becomes(ctx, &id, "healthy")?;
    let output = health["Log"][0]["Output"].as_str().unwrap_or_default();
    same!(output.len(), 4096 + 3);
    ensure!(output.ends_with("xxx..."), "{output}");
    Ok(())
}

fn events_of_a_probe(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = checked(ctx, "exit 0", &json!({"Interval": SECOND}))?;
    becomes(ctx, &id, "healthy")?;
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let told: Vec<&str> = events
        .iter()
        .filter_map(|e| e["Action"].as_str())
        .skip_while(|a| *a != "start")
        .take(5)
        .collect();
    same!(
        told,
        [
            "start",
            "exec_create: /bin/sh -c exit 0",
            "exec_start: /bin/sh -c exit 0",
            "exec_die",
            "health_status: healthy"
        ]
    );
    let die = events.iter().find(|e| e["Action"] == "exec_die");
    let attributes = die
        .map(|e| e["Actor"]["Attributes"].clone())
        .unwrap_or_default();
    same!(attributes["exitCode"], "0");
    same!(attributes["execID"].as_str().map(str::len), Some(64));
    Ok(())
}

fn stopped_is_unhealthy(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "exit 0", &json!({}))?;
    becomes(ctx, &id, "healthy")?;
    let since = now();
    ctx.act(&format!("/containers/{id}/stop?t=0"))?
        .expect(204)?;
    same!(health(ctx, &id)?["Status"], "unhealthy");
    pause(500);
    let filter = json!({"container": [id], "event": ["health_status", "exec_create"]});
    let events = ctx.events(&since, &now(), &filter)?;
    let told: Vec<_> = events
        .iter()
        .filter_map(|e| e["Action"].as_str())
        .filter(|a| a.starts_with("health"))
        .collect();
    ensure!(told.is_empty(), "{told:?}");
    Ok(())
}

fn paused_is_not_probed(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "exit 0", &json!({}))?;
    becomes(ctx, &id, "healthy")?;
    ctx.act(&format!("/containers/{id}/pause"))?.expect(204)?;
    pause(300);
    let before = health(ctx, &id)?;
    same!(before["Status"], "unhealthy");
    pause(800);
    same!(health(ctx, &id)?, before);
    ctx.act(&format!("/containers/{id}/unpause"))?.expect(204)?;
    becomes(ctx, &id, "healthy").map(drop)
}

fn starts_anew(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "exit 0", &json!({"Interval": SECOND}))?;
    becomes(ctx, &id, "healthy")?;
    ctx.act(&format!("/containers/{id}/restart?t=0"))?
        .expect(204)?;
    same!(health(ctx, &id)?["Status"], "starting");
    becomes(ctx, &id, "healthy").map(drop)
}

fn list_and_filter(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "exit 0", &json!({"Interval": SECOND}))?;
    let entry = |health: &str| -> Outcome<Value> {
        let filter = escape(&json!({"id": [id], "health": [health]}).to_string());
        Ok(ctx.json(&format!("/containers/json?filters={filter}"))?[0].clone())
    };
    let first = entry("starting")?;
    has!(
        first["Status"].as_str().unwrap_or_default(),
        "(health: starting)"
    );
    becomes(ctx, &id, "healthy")?;
    let then = entry("healthy")?;
    has!(then["Status"].as_str().unwrap_or_default(), " (healthy)");
    for other in ["none", "unhealthy", "starting"] {
        ensure!(entry(other)?.is_null(), "{other}");
    }
    Ok(())
}

/// Until it is healthy, and no longer than the start period, probes come at the start interval.
fn start_interval(ctx: &Ctx) -> Outcome {
    if !ctx.api(44) {
        println!("     health: API before 1.44 has no start interval");
        return Ok(());
    }
    let over =
        json!({"Interval": 300 * SECOND, "StartPeriod": 300 * SECOND, "StartInterval": SECOND / 5});
    let id = checked(ctx, "test -e /well", &over)?;
    until(20, "two probes", || {
        Ok((!health(ctx, &id)?["Log"][1].is_null()).then_some(()))
    })?;
    ctx.exec_sh(&id, "touch /well")?.ok()?;
    let well = becomes(ctx, &id, "healthy")?;
    let count = well["Log"].as_array().map_or(0, Vec::len);
    pause(800);
    let later = health(ctx, &id)?["Log"].as_array().map_or(0, Vec::len);
    same!(later, count);
    Ok(())
}

fn own_user_and_directory(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({
            "Cmd": ["sleep", "600"], "User": "65534", "WorkingDir": "/tmp", "Env": ["A=b"],
            "Healthcheck": {"Test": ["CMD-SHELL", "id -u; pwd; echo $A"], "Interval": SECOND / 5},
        }),
    )?;
    let health = becomes(ctx, &id, "healthy")?;
    same!(health["Log"][0]["Output"], "65534\n/tmp\nb\n");
    Ok(())
}

fn exec_forms(ctx: &Ctx) -> Outcome {
    let id = checked(ctx, "", &json!({"Test": ["CMD", "echo", "$HOME", "a b"]}))?;
    let health = becomes(ctx, &id, "healthy")?;
    same!(health["Log"][0]["Output"], "$HOME a b\n");
    Ok(())
}

fn kept_when_the_daemon_dies(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = checked(&own.ctx, "exit 0", &json!({"Interval": SECOND}))?;
    // One probe is always under way in this one.
    let slow = own.ctx.launch(
        "slow",
        &json!({"Cmd": ["sleep", "600"], "Healthcheck":
            {"Test": ["CMD-SHELL", "test -e /once && exec sleep 500; touch /once"], "Interval": SECOND / 5}}),
    )?;
    let before = becomes(&own.ctx, &id, "healthy")?;
    becomes(&own.ctx, &slow, "healthy")?;
    pause(600);
    let since = now();
    own.engine.kill()?;
    own.engine.launch()?;
    let after = health(&own.ctx, &id)?;
    same!(after["Status"], "healthy");
    ensure!(
        after["Log"].as_array().map_or(0, Vec::len) >= before["Log"].as_array().map_or(0, Vec::len),
        "{after}"
    );
    let last = after["Log"].as_array().and_then(|l| l.last()).cloned();
    let last = last.unwrap_or_default()["Start"].clone();
    until(10, "more probes", || {
        let log = health(&own.ctx, &id)?["Log"].clone();
        let newest = log.as_array().and_then(|l| l.last()).cloned();
        Ok((newest.unwrap_or_default()["Start"].as_str() > last.as_str()).then_some(()))
    })?;
    let filter = json!({"container": [id], "event": ["health_status"]});
    let events = own.ctx.events(&since, &now(), &filter)?;
    ensure!(events.is_empty(), "{events:?}");
    // The lost probe is ended, the next one has begun.
    until(10, "one probe", || {
        let top = own
            .ctx
            .json(&format!("/containers/{slow}/top?ps_args=-eo%20pid,args"))?;
        let processes = top["Processes"].as_array().into_iter().flatten();
        let count = processes
            .filter(|p| p[1].as_str().is_some_and(|args| args.contains("sleep 500")))
            .count();
        Ok((count <= 1).then_some(()))
    })?;
    own.done()
}

fn autoheal(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let body = |label: &str| {
        json!({
            "Cmd": ["sh", "-c", "touch /well; exec sleep 600"], "Labels": {"longshore.autoheal": label},
            "Healthcheck": {"Test": ["CMD-SHELL", "test -e /well"], "Interval": SECOND / 5, "Retries": 1},
        })
    };
    let since = now();
    let healed = own.ctx.launch("healed", &body("true"))?;
    let left = own.ctx.launch("left", &body("false"))?;
    for id in [&healed, &left] {
        becomes(&own.ctx, id, "healthy")?;
        own.ctx.exec_sh(id, "rm /well")?.ok()?;
    }
    until(20, "a restart", || {
        let filter = json!({"container": [healed], "event": ["restart"]});
        Ok((own.ctx.events(&since, &now(), &filter)?.len() == 1).then_some(()))
    })?;
    becomes(&own.ctx, &healed, "healthy")?;
    same!(health(&own.ctx, &left)?["Status"], "unhealthy");
    own.done()
}
