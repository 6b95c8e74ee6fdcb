//! Restart policies.

use e2e::{
    check::{Outcome, until},
    ensure, same,
};
use serde_json::json;

use crate::{
    cases::cases,
    context::{Ctx, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("restart", Any;
        on_failure_gives_up, on_failure_is_content_with_success, always_until_stopped, stop_ends_the_pause,
        removed_while_restarting, events_of_a_restart,
    )
    .to_vec()
}

fn policy(name: &str, tries: i64) -> serde_json::Value {
    json!({"RestartPolicy": {"Name": name, "MaximumRetryCount": tries}})
}

fn on_failure_gives_up(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "exit 3"], "HostConfig": policy("on-failure", 2)}),
    )?;
    until(20, "the last try", || {
        let now = ctx.inspect(&id)?;
        Ok((now["RestartCount"] == 2 && now["State"]["Status"] == "exited").then_some(()))
    })?;
    pause(1500);
    let end = ctx.inspect(&id)?;
    same!(end["RestartCount"], 2);
    same!(end["State"]["ExitCode"], 3);
    Ok(())
}

fn on_failure_is_content_with_success(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["true"], "HostConfig": policy("on-failure", 0)}),
    )?;
    same!(ctx.wait(&id)?, 0);
    pause(500);
    let end = ctx.inspect(&id)?;
    same!(end["State"]["Status"], "exited");
    same!(end["RestartCount"], 0);
    Ok(())
}

fn always_until_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo run; sleep 0.2"], "HostConfig": policy("always", 0)}),
    )?;
    until(30, "three runs", || {
        Ok(ctx.inspect(&id)?["RestartCount"]
            .as_i64()
            .filter(|n| *n >= 2)
            .map(drop))
    })?;
    ctx.act(&format!("/containers/{id}/stop?t=0"))?
        .expect(204)?;
    let stopped = ctx.inspect(&id)?;
    same!(stopped["State"]["Restarting"], false);
    same!(stopped["State"]["Running"], false);
    pause(1500);
    same!(ctx.inspect(&id)?["RestartCount"], stopped["RestartCount"]);
    Ok(())
}

fn stop_ends_the_pause(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["false"], "HostConfig": policy("unless-stopped", 0)}),
    )?;
    until(30, "the long pause", || {
        let state = ctx.inspect(&id)?;
        Ok(
            (state["State"]["Restarting"] == true && state["RestartCount"].as_i64() >= Some(4))
                .then_some(()),
        )
    })?;
    let listed = ctx.json("/containers/json")?.to_string();
    ensure!(listed.contains(&id), "a restarting container is not listed");
    ctx.act(&format!("/containers/{id}/stop"))?.expect(204)?;
    same!(ctx.inspect(&id)?["State"]["Status"], "exited");
    Ok(())
}

fn removed_while_restarting(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["false"], "HostConfig": policy("always", 0)}),
    )?;
    until(30, "a pause", || {
        let state = ctx.inspect(&id)?;
        Ok(
            (state["State"]["Restarting"] == true && state["RestartCount"].as_i64() >= Some(3))
                .then_some(()),
        )
    })?;
    same!(ctx.delete(&format!("/containers/{id}"))?.status, 409);
    same!(
        ctx.delete(&format!("/containers/{id}?force=1"))?.status,
        204
    );
    same!(ctx.get(&format!("/containers/{id}/json"))?.status, 404);
    Ok(())
}

fn events_of_a_restart(ctx: &Ctx) -> Outcome {
    let since = crate::context::now();
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "exit 1"], "HostConfig": policy("on-failure", 1)}),
    )?;
    until(20, "the end", || {
        let now = ctx.inspect(&id)?;
        Ok((now["RestartCount"] == 1 && now["State"]["Status"] == "exited").then_some(()))
    })?;
    let events = ctx.events(
        &since,
        &crate::context::now(),
        &json!({"container": [id], "type": ["container"]}),
    )?;
    let actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(actions, ["create", "start", "die", "start", "die"]);
    Ok(())
}
