//! Nothing hangs: a stuck container, shim or client holds up itself and nobody else, and goes by force.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome, patience, until},
    engine, ensure,
    http::Connection,
    same,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::own::{Own, kill, pid};
use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("hangs", Daemon;
        stopped_shim, frozen_from_outside, full_stdin, nobody_reads_the_events, nobody_reads_the_log, nobody_reads_the_stats,
        stopped_process,
    )
    .to_vec()
}

/// What must not wait for a stuck container. Generous: the machine is busy.
const LIMIT: Duration = Duration::from_secs(2);

fn quick<T>(what: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let start = Instant::now();
    let result = work()?;
    let took = start.elapsed();
    ensure!(took < LIMIT * patience(), "{what} took {took:?}");
    Ok(result)
}

/// Everything goes on at full speed beside a stuck container.
fn lively(ctx: &Ctx, stuck: &str, other: &str) -> Outcome {
    for _ in 0..5 {
        quick("list", || ctx.json("/containers/json?all=1"))?;
        quick("inspect of the stuck one", || ctx.inspect(stuck))?;
        quick("inspect", || ctx.inspect(other))?;
    }
    let since = now();
    quick("exec", || ctx.exec_sh(other, "true")?.ok())?;
    quick("kill", || ctx.kill(other))?;
    quick("start", || ctx.start(other))?;
    quick("create and remove", || {
        let id = ctx.create("short", &json!({"Cmd": ["true"]}))?;
        ctx.remove(&id)
    })?;
    let events = quick("events", || {
        ctx.events(&since, &now(), &json!({"container": [other]}))
    })?;
    ensure!(events.len() >= 5, "{} events", events.len());
    quick("info", || ctx.json("/info"))?;
    Ok(())
}

/// Requests that nobody waits for.
fn ask(socket: PathBuf, method: &'static str, path: String, body: Option<Value>) {
    thread::spawn(move || engine::call(&socket, method, &path, body.as_ref()).map(drop));
}

fn parent(pid: i64) -> Outcome<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").map_or("", |(_, r)| r);
    Ok(rest.split(' ').nth(1).unwrap_or_default().parse()?)
}

fn gone(pid: i64) -> Outcome {
    until(20, "end of the processes", || {
        Ok((!fs::exists(format!("/proc/{pid}"))?).then_some(()))
    })
}

/// Whatever is asked of a container whose shim does not answer: it alone waits.
fn stopped_shim(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let (stuck, other) = (own.ctx.sleeper("stuck")?, own.ctx.sleeper("other")?);
    let made = own
        .ctx
        .post(
            &format!("/containers/{stuck}/exec"),
            &json!({"Cmd": ["true"]}),
        )?
        .expect(201)?
        .json()?;
    let init = pid(&own.ctx, &stuck)?;
    let shim = parent(init)?;
    kill(shim, Signal::STOP)?;
    let socket = own.engine.socket();
    let exec = made["Id"].as_str().unwrap_or_default();
    ask(
        socket.clone(),
        "POST",
        format!("/exec/{exec}/start"),
        Some(json!({"Detach": true})),
    );
    pause(100);
    for (method, path) in [
        ("POST", format!("/containers/{stuck}/pause")),
        ("POST", format!("/containers/{stuck}/resize?h=10&w=10")),
        (
            "POST",
            format!("/containers/{stuck}/attach?stream=1&stdout=1"),
        ),
        ("GET", format!("/containers/{stuck}/stats")),
        ("GET", format!("/containers/{stuck}/logs?follow=1&stdout=1")),
        ("POST", format!("/containers/{stuck}/wait")),
    ] {
        ask(socket.clone(), method, path, None);
    }
    lively(&own.ctx, &stuck, &other)?;
    own.ctx.remove(&stuck)?;
    gone(init)?;
    gone(shim)?;
    own.done()
}

/// Somebody else has frozen the control group: an exec gets stuck half-way, SIGKILL is not heard.
fn frozen_from_outside(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let (stuck, other) = (own.ctx.sleeper("stuck")?, own.ctx.sleeper("other")?);
    let init = pid(&own.ctx, &stuck)?;
    let v1 = format!("/sys/fs/cgroup/freezer/docker/{stuck}/freezer.state");
    if fs::exists(&v1)? {
        fs::write(v1, "FROZEN")?;
    } else {
        fs::write(format!("/sys/fs/cgroup/docker/{stuck}/cgroup.freeze"), "1")?;
    }
    let socket = own.engine.socket();
    let made = own
        .ctx
        .post(
            &format!("/containers/{stuck}/exec"),
            &json!({"Cmd": ["true"]}),
        )?
        .expect(201)?
        .json()?;
    let exec = made["Id"].as_str().unwrap_or_default();
    ask(
        socket,
        "POST",
        format!("/exec/{exec}/start"),
        Some(json!({"Detach": true})),
    );
    pause(200);
    lively(&own.ctx, &stuck, &other)?;
    own.ctx.remove(&stuck)?;
    gone(init)?;
    own.done()
}

/// The container does not read its input, and its client does not stop to write.
fn full_stdin(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let other = own.ctx.sleeper("other")?;
    let stuck = own.ctx.launch(
        "stuck",
        &json!({"Cmd": ["sleep", "600"], "OpenStdin": true, "AttachStdin": true}),
    )?;
    let client = own.ctx.hijack(
        &format!("/containers/{stuck}/attach?stream=1&stdin=1&stdout=1"),
        None,
    )?;
    client
        .socket()
        .set_write_timeout(Some(Duration::from_millis(500)))?;
    let block = vec![b'x'; 1 << 16];
    let mut written = 0;
    while written < 64 << 20 && client.socket().write_all(&block).is_ok() {
        written += block.len();
    }
    ensure!(written < 64 << 20, "somebody keeps {written} bytes");
    lively(&own.ctx, &stuck, &other)?;
    quick("exec beside the full pipe", || {
        own.ctx.exec_sh(&stuck, "true")?.ok()
    })?;
    quick("removal", || own.ctx.remove(&stuck))?;
    drop(client);
    own.done()
}

fn follow(socket: &Path, path: &str) -> Outcome<Connection> {
    let mut connection = Connection::open(socket)?;
    connection.request("GET", path, &[], None)?;
    same!(connection.head("GET")?.0, 200);
    Ok(connection)
}

/// One follower sleeps, the other misses nothing.
fn nobody_reads_the_events(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let socket = own.engine.socket();
    let sleeping = follow(&socket, "/events")?;
    let mut awake = follow(&socket, "/events")?;
    let id = own.ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let other = own.ctx.sleeper("other")?;
    const RENAMES: usize = 3000;
    let reader = thread::spawn(move || -> Outcome<usize> {
        let mut count = 0;
        while count < RENAMES {
            let line = awake
                .body_line()?
                .ok_or_else(|| Fail("cut off".to_owned()))?;
            count += usize::from(line.contains("\"rename\""));
        }
        Ok(count)
    });
    let mut connection = Connection::open(&socket)?;
    for n in 0..RENAMES {
        let path = format!("/containers/{id}/rename?name=e2e-renamed-{}", n % 2);
        same!(connection.call("POST", &path, &[], None)?.status, 204);
    }
    lively(&own.ctx, &id, &other)?;
    let count = reader.join().map_err(|_| Fail("panic".into()))??;
    same!(count, RENAMES);
    drop(sleeping);
    own.done()
}

/// A follower of the log sleeps: the container writes on.
fn nobody_reads_the_log(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let script = "i=0; while :; do echo $i-0123456789012345678901234567890123456789012345678901234567890; i=$((i+1)); done";
    let id = own.ctx.launch("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    let other = own.ctx.sleeper("other")?;
    let path = format!("/containers/{id}/logs?stdout=1&follow=1");
    let sleeping: Vec<_> = (0..4)
        .map(|_| follow(&own.engine.socket(), &path))
        .collect::<Outcome<_>>()?;
    pause(1500);
    let last = || -> Outcome<u64> {
        let text = own.ctx.logs(&id, "&tail=1")?.0;
        let number = text.split('-').next().unwrap_or_default();
        number.parse().map_err(|_| Fail(format!("{text:?}")))
    };
    let before = last()?;
    pause(500);
    let after = last()?;
    ensure!(after > before, "it stands still at {after}");
    lively(&own.ctx, &id, &other)?;
    quick("removal", || own.ctx.remove(&id))?;
    drop(sleeping);
    own.done()
}

fn nobody_reads_the_stats(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let (id, other) = (own.ctx.sleeper("c")?, own.ctx.sleeper("other")?);
    let path = format!("/containers/{id}/stats");
    let sleeping: Vec<_> = (0..20)
        .map(|_| follow(&own.engine.socket(), &path))
        .collect::<Outcome<_>>()?;
    let mut awake = follow(&own.engine.socket(), &path)?;
    for _ in 0..4 {
        let line = awake.body_line()?.unwrap_or_default();
        ensure!(line.contains("cpu_stats"), "{line:?}");
    }
    lively(&own.ctx, &id, &other)?;
    quick("removal", || own.ctx.remove(&id))?;
    drop(sleeping);
    own.done()
}

/// The container's own process is stopped: it hears no signal but SIGKILL.
fn stopped_process(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let other = own.ctx.sleeper("other")?;
    let script = "trap 'exit 0' TERM; while :; do usleep 10000; done";
    let stuck = own
        .ctx
        .launch("stuck", &json!({"Cmd": ["sh", "-c", script]}))?;
    let init = pid(&own.ctx, &stuck)?;
    kill(init, Signal::STOP)?;
    let (socket, path) = (own.engine.socket(), format!("/containers/{stuck}/stop?t=2"));
    let stop = thread::spawn(move || engine::call(&socket, "POST", &path, None));
    lively(&own.ctx, &stuck, &other)?;
    let answer = stop.join().map_err(|_| Fail("panic".into()))??;
    same!(answer.status, 204);
    same!(own.ctx.inspect(&stuck)?["State"]["ExitCode"], 137);
    own.done()
}
