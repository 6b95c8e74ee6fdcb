//! The wait endpoint and its three conditions.

use std::{io::Read, time::Duration};

use e2e::{check::Outcome, ensure, has, http::Connection, same};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("wait", Any;
        headers_come_at_once, not_running_of_stopped, next_exit_of_stopped_waits, removed, removed_with_auto_remove,
        before_start, after_removal_is_404, several_waiters, client_leaves, bad_condition, code_of_a_failed_start, cli,
    )
    .to_vec()
}

fn waiting(ctx: &Ctx, id: &str, condition: &str) -> Outcome<Connection> {
    let mut connection = ctx.connect()?;
    let query = if condition.is_empty() {
        String::new()
    } else {
        format!("?condition={condition}")
    };
    connection.request("POST", &format!("/containers/{id}/wait{query}"), &[], None)?;
    let (status, headers) = connection.head("POST")?;
    same!(status, 200);
    same!(headers.get("Content-Type"), "application/json");
    Ok(connection)
}

fn code(mut connection: Connection) -> Outcome<Value> {
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(serde_json::from_str::<Value>(&text)?["StatusCode"].clone())
}

fn quiet(connection: &mut Connection) -> Outcome {
    connection
        .socket()
        .set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut byte = [0];
    let early = connection.read(&mut byte);
    ensure!(early.is_err(), "wait answered early");
    connection
        .socket()
        .set_read_timeout(Some(e2e::http::PATIENCE))?;
    Ok(())
}

fn headers_come_at_once(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let mut stream = waiting(ctx, &id, "")?;
    quiet(&mut stream)?;
    ctx.kill(&id)?;
    same!(code(stream)?, 137);
    Ok(())
}

fn not_running_of_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "exit 8"]}))?;
    same!(ctx.wait(&id)?, 8);
    same!(code(waiting(ctx, &id, "not-running")?)?, 8);
    let created = ctx.create("d", &json!({}))?;
    same!(
        code(waiting(ctx, &created, "not-running")?)?,
        0,
        "a created container is not running"
    );
    Ok(())
}

fn next_exit_of_stopped_waits(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "exit 8"]}))?;
    ctx.wait(&id)?;
    let mut stream = waiting(ctx, &id, "next-exit")?;
    quiet(&mut stream)?;
    ctx.start(&id)?;
    same!(code(stream)?, 8);
    Ok(())
}

fn removed(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "exit 8"]}))?;
    let mut stream = waiting(ctx, &id, "removed")?;
    pause(300);
    quiet(&mut stream)?;
    ctx.remove(&id)?;
    same!(code(stream)?, 8);
    Ok(())
}

fn removed_with_auto_remove(ctx: &Ctx) -> Outcome {
    for n in 0..5 {
        let id = ctx.create(
            &format!("c{n}"),
            &json!({"Cmd": ["sh", "-c", "exit 4"], "HostConfig": {"AutoRemove": true}}),
        )?;
        let stream = waiting(ctx, &id, "removed")?;
        ctx.start(&id)?;
        same!(code(stream)?, 4);
        same!(
            ctx.get(&format!("/containers/{id}/json"))?.status,
            404,
            "after the wait it is gone"
        );
    }
    Ok(())
}

fn before_start(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "exit 5"]}))?;
    let mut stream = waiting(ctx, &id, "next-exit")?;
    quiet(&mut stream)?;
    ctx.start(&id)?;
    same!(code(stream)?, 5);
    Ok(())
}

fn after_removal_is_404(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    ctx.remove(&id)?;
    for condition in ["not-running", "next-exit", "removed"] {
        let answer = ctx.act(&format!("/containers/{id}/wait?condition={condition}"))?;
        same!(answer.status, 404);
        has!(answer.message(), "No such container");
    }
    Ok(())
}

fn several_waiters(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let all: Vec<_> = ["", "not-running", "next-exit"]
        .iter()
        .map(|c| waiting(ctx, &id, c))
        .collect::<Outcome<_>>()?;
    ctx.kill(&id)?;
    for one in all {
        same!(code(one)?, 137);
    }
    Ok(())
}

fn client_leaves(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    for _ in 0..50 {
        drop(waiting(ctx, &id, "next-exit")?);
    }
    ctx.kill(&id)?;
    same!(ctx.wait(&id)?, 137);
    Ok(())
}

fn bad_condition(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let answer = ctx.act(&format!("/containers/{id}/wait?condition=bogus"))?;
    if !ctx.api(44) {
        return Ok(());
    }
    same!(answer.status, 400);
    has!(answer.message(), "invalid condition: \"bogus\"");
    Ok(())
}

fn code_of_a_failed_start(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["nosuch"]}))?;
    let stream = waiting(ctx, &id, "next-exit")?;
    same!(ctx.act(&format!("/containers/{id}/start"))?.status, 400);
    drop(stream);
    same!(ctx.inspect(&id)?["State"]["ExitCode"], 127);
    Ok(())
}

fn cli(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "sleep 0.2; exit 9"]}))?;
    same!(ctx.docker(&["wait", &id])?.ok()?.line(), "9");
    Ok(())
}
