//! Pause and unpause, and what a paused container lets others do with it.

use std::time::{Duration, Instant};

use e2e::{
    check::{Outcome, until},
    ensure, has, same,
};
use serde_json::json;

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("pause", Any;
            stops_all_processes, state_and_events, refusals, paused_refuses, stop_thaws, kill_thaws, other_signals_wait, removal,
            restart_of_paused, exec_inside_is_frozen, again_and_again,
        )
        .to_vec(),
        cases!("pause", Daemon; kept_when_the_daemon_dies,).to_vec(),
    ]
    .concat()
}

const COUNTER: &str = "i=0; while :; do echo $i; i=$((i+1)); usleep 5000; done";

fn counter(ctx: &Ctx) -> Outcome<String> {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", COUNTER]}))?;
    ctx.log_has(&id, "2\n")?;
    Ok(id)
}

fn freeze(ctx: &Ctx, id: &str) -> Outcome {
    ctx.act(&format!("/containers/{id}/pause"))?
        .expect(204)
        .map(drop)
}

fn thaw(ctx: &Ctx, id: &str) -> Outcome {
    ctx.act(&format!("/containers/{id}/unpause"))?
        .expect(204)
        .map(drop)
}

fn stops_all_processes(ctx: &Ctx) -> Outcome {
    let id = counter(ctx)?;
    freeze(ctx, &id)?;
    // What the process wrote last may still be on its way.
    pause(200);
    let before = ctx.logs(&id, "")?.0;
    pause(400);
    same!(ctx.logs(&id, "")?.0, before);
    thaw(ctx, &id)?;
    until(10, "more lines", || {
        Ok((ctx.logs(&id, "")?.0.len() > before.len()).then_some(()))
    })
}

fn state_and_events(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.sleeper("c")?;
    freeze(ctx, &id)?;
    let state = ctx.inspect(&id)?["State"].clone();
    same!(state["Status"], "paused");
    same!(state["Paused"], true);
    same!(state["Running"], true);
    let filter = format!("%7B%22id%22%3A%5B%22{id}%22%5D%2C%22status%22%3A%5B%22paused%22%5D%7D");
    let list = ctx.json(&format!("/containers/json?filters={filter}"))?;
    same!(list[0]["State"], "paused");
    let status = list[0]["Status"].as_str().unwrap_or_default();
    ensure!(
        status.starts_with("Up ") && status.ends_with(" (Paused)"),
        "{status}"
    );
    // Looking at it is no trouble.
    ctx.json(&format!("/containers/{id}/top"))?;
    thaw(ctx, &id)?;
    let state = ctx.inspect(&id)?["State"].clone();
    same!(state["Status"], "running");
    same!(state["Paused"], false);
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let told: Vec<&str> = events
        .iter()
        .filter_map(|e| e["Action"].as_str())
        .filter(|a| a.contains("pause"))
        .collect();
    same!(told, ["pause", "unpause"]);
    Ok(())
}

fn refusals(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sleep", "600"]}))?;
    let answer = ctx.act(&format!("/containers/{id}/pause"))?;
    same!(answer.status, 409);
    has!(answer.message(), "is not running");
    let answer = ctx.act(&format!("/containers/{id}/unpause"))?;
    same!(answer.status, 500);
    has!(answer.message(), "is not paused");
    ctx.start(&id)?;
    same!(ctx.act(&format!("/containers/{id}/unpause"))?.status, 500);
    freeze(ctx, &id)?;
    let answer = ctx.act(&format!("/containers/{id}/pause"))?;
    same!(answer.status, 409);
    has!(answer.message(), "is already paused");
    same!(ctx.act("/containers/nosuch/pause")?.status, 404);
    same!(ctx.act("/containers/nosuch/unpause")?.status, 404);
    thaw(ctx, &id)
}

fn paused_refuses(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let exec = json!({"Cmd": ["true"]});
    let made = ctx
        .post(&format!("/containers/{id}/exec"), &exec)?
        .expect(201)?
        .json()?;
    freeze(ctx, &id)?;
    let answer = ctx.post(&format!("/containers/{id}/exec"), &exec)?;
    same!(answer.status, 409);
    has!(
        answer.message(),
        "is paused, unpause the container before exec"
    );
    let early = made["Id"].as_str().unwrap_or_default();
    let answer = ctx.post(&format!("/exec/{early}/start"), &json!({"Detach": true}))?;
    same!(answer.status, 409);
    let answer = ctx.act(&format!("/containers/{id}/attach?stream=1&stdout=1"))?;
    same!(answer.status, 409);
    has!(answer.text(), "is paused");
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    ensure!(
        matches!(answer.status, 409 | 500),
        "start: {}",
        answer.status
    );
    has!(
        answer.message(),
        "cannot start a paused container, try unpause instead"
    );
    let answer = ctx.delete(&format!("/containers/{id}"))?;
    same!(answer.status, 409);
    thaw(ctx, &id)
}

/// Events of a container from a moment on, `kill` with its signal.
fn story(ctx: &Ctx, id: &str, since: &str) -> Outcome<Vec<String>> {
    let events = ctx.events(since, &now(), &json!({"container": [id]}))?;
    Ok(events
        .iter()
        .filter(|e| e["Type"] == "container")
        .filter_map(|e| {
            let signal = e["Actor"]["Attributes"]["signal"]
                .as_str()
                .unwrap_or_default();
            Some(format!("{}{signal}", e["Action"].as_str()?))
        })
        .collect())
}

fn stop_thaws(ctx: &Ctx) -> Outcome {
    let script = "trap 'echo bye; exit 5' TERM; echo up; while :; do usleep 10000; done";
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    ctx.log_has(&id, "up")?;
    freeze(ctx, &id)?;
    let start = Instant::now();
    let since = now();
    ctx.act(&format!("/containers/{id}/stop?t=20"))?
        .expect(204)?;
    ensure!(
        start.elapsed() < Duration::from_secs(15),
        "stopped by force"
    );
    let end = ctx.inspect(&id)?["State"].clone();
    same!(end["ExitCode"], 5);
    same!(end["Paused"], false);
    ctx.log_has(&id, "bye")?;
    let mut told = story(ctx, &id, &since)?;
    told.sort();
    same!(told, ["die", "kill15", "stop", "unpause"]);
    Ok(())
}

fn kill_thaws(ctx: &Ctx) -> Outcome {
    let id = counter(ctx)?;
    freeze(ctx, &id)?;
    ctx.kill(&id)?;
    same!(ctx.wait(&id)?, 137);
    same!(ctx.inspect(&id)?["State"]["Status"], "exited");
    Ok(())
}

/// A signal that is not to end the container waits until it runs again, where the container names its stop signal.
fn other_signals_wait(ctx: &Ctx) -> Outcome {
    let script =
        "trap 'echo usr1' USR1; trap 'exit 0' TERM; echo up; while :; do usleep 10000; done";
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", script], "StopSignal": "SIGTERM"}),
    )?;
    ctx.log_has(&id, "up")?;
    freeze(ctx, &id)?;
    ctx.act(&format!("/containers/{id}/kill?signal=USR1"))?
        .expect(204)?;
    pause(300);
    same!(ctx.inspect(&id)?["State"]["Status"], "paused");
    ensure!(
        !ctx.logs(&id, "")?.0.contains("usr1"),
        "it ran while it was paused"
    );
    thaw(ctx, &id)?;
    ctx.log_has(&id, "usr1")
}

fn removal(ctx: &Ctx) -> Outcome {
    let id = counter(ctx)?;
    freeze(ctx, &id)?;
    ctx.remove(&id)?;
    same!(ctx.get(&format!("/containers/{id}/json"))?.status, 404);
    Ok(())
}

fn restart_of_paused(ctx: &Ctx) -> Outcome {
    let id = counter(ctx)?;
    freeze(ctx, &id)?;
    ctx.act(&format!("/containers/{id}/restart?t=0"))?
        .expect(204)?;
    let state = ctx.inspect(&id)?["State"].clone();
    same!(state["Status"], "running");
    same!(state["Paused"], false);
    Ok(())
}

/// Execs are in the same control groups.
fn exec_inside_is_frozen(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let script = "i=0; while :; do i=$((i+1)); echo $i > /n; usleep 5000; done";
    let made = ctx
        .post(
            &format!("/containers/{id}/exec"),
            &json!({"Cmd": ["sh", "-c", script]}),
        )?
        .expect(201)?
        .json()?;
    let exec = made["Id"].as_str().unwrap_or_default();
    ctx.post(&format!("/exec/{exec}/start"), &json!({"Detach": true}))?
        .expect(200)?;
    let pid = ctx.json(&format!("/exec/{exec}/json"))?["Pid"]
        .as_i64()
        .unwrap_or_default();
    let file = format!("/proc/{pid}/root/n");
    until(10, "a count", || Ok(std::fs::exists(&file)?.then_some(())))?;
    freeze(ctx, &id)?;
    let before = std::fs::read_to_string(&file)?;
    pause(300);
    same!(std::fs::read_to_string(&file)?, before);
    thaw(ctx, &id)?;
    until(10, "the count goes on", || {
        Ok((std::fs::read_to_string(&file)? != before).then_some(()))
    })
}

fn again_and_again(ctx: &Ctx) -> Outcome {
    let id = counter(ctx)?;
    for _ in 0..20 {
        freeze(ctx, &id)?;
        thaw(ctx, &id)?;
    }
    ctx.exec_sh(&id, "true")?.ok().map(drop)
}

fn kept_when_the_daemon_dies(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = counter(&own.ctx)?;
    freeze(&own.ctx, &id)?;
    own.engine.kill()?;
    own.engine.launch()?;
    own.ctx.status(&id, "paused")?;
    let before = own.ctx.logs(&id, "")?.0;
    thaw(&own.ctx, &id)?;
    until(10, "more lines", || {
        Ok((own.ctx.logs(&id, "")?.0.len() > before.len()).then_some(()))
    })?;
    freeze(&own.ctx, &id)?;
    own.ctx.remove(&id)?;
    own.done()
}
