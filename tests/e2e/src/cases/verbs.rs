//! The client verbs of the same binary.

use std::process::Command;

use e2e::{
    check::{Outcome, until},
    ensure, has, same,
};
use serde_json::Value;

use super::own::Own;

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    cases!("verbs", Daemon; hello_image, run_and_friends, run_flags,).to_vec()
}

/// The engine's own client.
fn verb(own: &Own, words: &[&str]) -> Outcome<crate::context::Out> {
    let mut command = Command::new(&own.engine.setup.binary);
    command.args(words);
    own.ctx.command(command, "")
}

fn hello_image(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    has!(verb(&own, &["images"])?.ok()?.stdout, "longshore/hello");
    let out = verb(&own, &["run", "--rm", "longshore/hello"])?.ok()?;
    ensure!(!out.line().is_empty(), "no greeting");
    let name = ctx.name("h");
    verb(
        &own,
        &[
            "run",
            "-d",
            "--name",
            &name,
            "-p",
            "18204:80",
            "longshore/hello",
            "serve",
        ],
    )?
    .ok()?;
    until(10, "answer on port 80", || {
        let output = Command::new("curl")
            .args(["-sf", "http://127.0.0.1:18204/"])
            .output()?;
        Ok(output.status.success().then_some(()))
    })?;
    own.done()
}

fn run_and_friends(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let name = ctx.name("c");
    let out = verb(
        &own,
        &[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ],
    )?;
    same!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    let id = verb(
        &own,
        &[
            "run",
            "-d",
            "--name",
            &name,
            "busybox",
            "sh",
            "-c",
            "echo logged; sleep 600",
        ],
    )?
    .ok()?
    .line()
    .to_owned();
    same!(id.len(), 64);
    has!(verb(&own, &["ps"])?.ok()?.stdout, name);
    own.ctx.log_has(&id, "logged")?;
    same!(verb(&own, &["logs", &name])?.ok()?.stdout, "logged\n");
    same!(
        verb(&own, &["exec", &name, "echo", "hi"])?.ok()?.stdout,
        "hi\n"
    );
    let inspected: Value = serde_json::from_str(&verb(&own, &["inspect", &name])?.ok()?.stdout)?;
    same!(inspected[0]["Id"], id.as_str());
    same!(verb(&own, &["stop", &name])?.ok()?.line(), name);
    has!(verb(&own, &["ps", "-a"])?.ok()?.stdout, "Exited (");
    same!(verb(&own, &["rm", &name])?.ok()?.line(), name);
    has!(verb(&own, &["version"])?.ok()?.stdout, "API");
    has!(
        verb(&own, &["info"])?.ok()?.stdout.to_lowercase(),
        "containers"
    );
    let missing = verb(&own, &["logs", "absent"])?;
    ensure!(missing.code != 0, "logs of nothing");
    has!(missing.stderr, "No such container: absent");
    own.done()
}

fn run_flags(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let out = verb(
        &own,
        &[
            "run",
            "--rm",
            "-e",
            "A=1",
            "-v",
            "/usr:/host:ro",
            "busybox",
            "sh",
            "-c",
            "echo $A; test -d /host/bin && echo bound",
        ],
    )?
    .ok()?;
    same!(out.stdout, "1\nbound\n");
    let mut command = Command::new(&own.engine.setup.binary);
    command.args(["run", "--rm", "-i", "busybox", "cat"]);
    same!(own.ctx.command(command, "piped")?.ok()?.stdout, "piped");
    let out = verb(&own, &["run", "--rm", "busybox", "nosuch"])?;
    same!(out.code, 127);
    own.done()
}
