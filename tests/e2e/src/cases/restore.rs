//! Live restore: the daemon is killed and comes back, and the containers have not noticed.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Outcome, until},
    engine::{self},
    ensure, frames, same,
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
    cases!("daemon", Daemon; kill_leaves_containers_and_logs, exit_while_down_is_seen, everything_goes_on_after_a_restart, exec_over_a_restart, auto_remove_while_down, backlog_survives, killed_at_random_moments, names_volumes_and_ports_are_kept, many_containers_adopted,)
    .to_vec()
}

const COUNTER: &str = "i=0; while :; do echo $i; i=$((i+1)); usleep 2000; done";

fn numbers(ctx: &Ctx, id: &str) -> Outcome<Vec<u64>> {
    Ok(ctx
        .logs(id, "")?
        .0
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect())
}

fn kill_leaves_containers_and_logs(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own
        .ctx
        .launch("c", &json!({"Cmd": ["sh", "-c", COUNTER]}))?;
    let before = pid(&own.ctx, &id)?;
    for _ in 0..4 {
        pause(300);
        own.engine.kill()?;
        pause(500);
        ensure!(
            fs::exists(format!("/proc/{before}"))?,
            "the container died with the daemon"
        );
        own.engine.launch()?;
        same!(pid(&own.ctx, &id)?, before);
    }
    let count = numbers(&own.ctx, &id)?.len();
    until(5, "more lines", || {
        Ok((numbers(&own.ctx, &id)?.len() > count).then_some(()))
    })?;
    own.ctx.kill(&id)?;
    same!(own.ctx.wait(&id)?, 137);
    let all = numbers(&own.ctx, &id)?;
    ensure!(
        all.iter().copied().eq(0..all.len() as u64),
        "the log has gaps, {} lines, last {:?}",
        all.len(),
        all.last()
    );
    own.done()
}

fn exit_while_down_is_seen(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let since = now();
    let id = own.ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo first; sleep 1; echo last; exit 7"]}),
    )?;
    own.engine.kill()?;
    pause(1800);
    own.engine.launch()?;
    let state = own.ctx.inspect(&id)?["State"].clone();
    same!(
        (&state["Status"], &state["ExitCode"], &state["Pid"]),
        (&json!("exited"), &json!(7), &json!(0))
    );
    same!(own.ctx.logs(&id, "")?.0, "first\nlast\n");
    same!(own.ctx.wait(&id)?, 7);
    let events = own.ctx.events(
        &since,
        &now(),
        &json!({"container": [id], "event": ["die"]}),
    )?;
    same!(events.len(), 1);
    same!(events[0]["Actor"]["Attributes"]["exitCode"], "7");
    let (started, finished) = (
        state["StartedAt"].as_str().unwrap_or_default(),
        state["FinishedAt"].as_str().unwrap_or_default(),
    );
    let lasted: f64 = crate::context::seconds(finished)?.parse::<f64>()?
        - crate::context::seconds(started)?.parse::<f64>()?;
    ensure!(
        (0.9..1.6).contains(&lasted),
        "FinishedAt is the moment of the restart: it ran {lasted} s"
    );
    own.done()
}

fn everything_goes_on_after_a_restart(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let me = std::env::current_exe()?;
    let id = own.ctx.launch("c", &json!({"Cmd": ["sh", "-c", "/probe serve 7000 & while read x; do echo \"<$x>\"; done; exit 3"], "OpenStdin": true,
        "ExposedPorts": {"7000/tcp": {}}, "HostConfig": {"Binds": [format!("{}:/probe:ro", me.display())], "PortBindings": {"7000/tcp": [{"HostPort": "18200"}]}}}))?;
    own.ctx.log_has(&id, "serving")?;
    let tty = own.ctx.launch(
        "t",
        &json!({"Cmd": ["cat"], "OpenStdin": true, "Tty": true}),
    )?;
    let before = own.ctx.inspect(&id)?;
    own.crash()?;
    let after = own.ctx.inspect(&id)?;
    for part in ["Config", "HostConfig", "NetworkSettings", "Mounts", "State"] {
        same!(after[part], before[part], "{part}");
    }
    // exec
    same!(own.ctx.exec_sh(&id, "echo in; exit 4")?.code, 4);
    // attach, with input
    let mut stream = own.ctx.hijack(
        &format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1"),
        None,
    )?;
    stream.send(b"word\n")?;
    same!(
        frames::next(&mut stream)?.map(|f| f.text()),
        Some("<word>\n".into())
    );
    // a terminal
    let mut terminal = own.ctx.hijack(
        &format!("/containers/{tty}/attach?stream=1&stdin=1&stdout=1"),
        None,
    )?;
    terminal.send(b"typed\n")?;
    let mut seen = [0; 5];
    terminal.read_exact(&mut seen)?;
    same!(&seen, b"typed");
    own.ctx
        .act(&format!("/containers/{tty}/resize?h=9&w=8"))?
        .expect(200)?;
    // ports
    let answer = Command::new(&me)
        .args(["ask", "tcp", "127.0.0.1", "18200"])
        .output()?;
    ensure!(
        answer.status.success(),
        "the published port is dead: {}",
        String::from_utf8_lossy(&answer.stderr)
    );
    // wait and events
    let mut waiting = own.ctx.connect()?;
    waiting.request(
        "POST",
        &format!("/containers/{id}/wait?condition=next-exit"),
        &[],
        None,
    )?;
    same!(waiting.head("POST")?.0, 200);
    let since = now();
    own.ctx
        .act(&format!("/containers/{id}/stop?t=0"))?
        .expect(204)?;
    let mut text = String::new();
    waiting.read_to_string(&mut text)?;
    same!(serde_json::from_str::<Value>(&text)?["StatusCode"], 137);
    ensure!(
        !own.ctx
            .events(
                &since,
                &now(),
                &json!({"container": [id], "event": ["die"]})
            )?
            .is_empty(),
        "no die"
    );
    // and it can be started again
    own.ctx.start(&id)?;
    own.done()
}

fn exec_over_a_restart(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own.ctx.sleeper("c")?;
    let made = own
        .ctx
        .post(
            &format!("/containers/{id}/exec"),
            &json!({"Cmd": ["sh", "-c", "sleep 1.5; echo x > /mark; exit 6"]}),
        )?
        .expect(201)?
        .json()?;
    let exec = made["Id"].as_str().unwrap_or_default().to_owned();
    own.ctx
        .post(&format!("/exec/{exec}/start"), &json!({"Detach": true}))?
        .expect(200)?;
    own.crash()?;
    until(8, "mark of the exec", || {
        Ok((own.ctx.exec_sh(&id, "test -e /mark")?.code == 0).then_some(()))
    })?;
    until(5, "end of the exec", || {
        let answer = own.ctx.get(&format!("/exec/{exec}/json"))?;
        Ok((answer.status == 200 && answer.json()?["ExitCode"] == 6).then_some(()))
    })?;
    own.done()
}

fn auto_remove_while_down(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own.ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "0.5"], "HostConfig": {"AutoRemove": true}}),
    )?;
    own.engine.kill()?;
    pause(1000);
    own.engine.launch()?;
    until(5, "removal", || {
        Ok((own.ctx.get(&format!("/containers/{id}/json"))?.status == 404).then_some(()))
    })?;
    own.finish(&BTreeSet::from([id]))
}

fn backlog_survives(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let since = now();
    let id = own.ctx.launch("c", &json!({"Cmd": ["true"]}))?;
    own.ctx.wait(&id)?;
    pause(100);
    own.crash()?;
    own.ctx.remove(&id)?;
    let events = own
        .ctx
        .events(&since, &now(), &json!({"container": [id]}))?;
    let actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(actions, ["create", "start", "die", "destroy"]);
    own.finish(&BTreeSet::from([id]))
}

fn killed_at_random_moments(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let mut seen = BTreeSet::new();
    // any spread of moments does; a simple generator keeps the run repeatable
    let mut seed = 12345u64;
    for turn in 0..15 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let moment = 3 + (seed >> 33) % 120;
        let (socket, prefix) = (own.engine.socket(), format!("{}.{turn}", ctx.prefix));
        let worker = thread::spawn(move || {
            let mut ids = Vec::new();
            for n in 0..200 {
                let body = json!({"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"Binds": ["data:/data"]}});
                let Ok(made) = engine::call(
                    &socket,
                    "POST",
                    &format!("/containers/create?name={prefix}.{n}"),
                    Some(&body),
                ) else {
                    break;
                };
                let Some(id) = made
                    .json()
                    .ok()
                    .and_then(|v| Some(v["Id"].as_str()?.to_owned()))
                else {
                    break;
                };
                ids.push(id.clone());
                if engine::call(&socket, "POST", &format!("/containers/{id}/start"), None).is_err()
                {
                    break;
                }
                if n % 2 == 0
                    && engine::call(
                        &socket,
                        "DELETE",
                        &format!("/containers/{id}?force=1"),
                        None,
                    )
                    .is_err()
                {
                    break;
                }
            }
            ids
        });
        pause(moment);
        own.engine.kill()?;
        seen.extend(worker.join().unwrap_or_default());
        own.engine.launch()?;
        for id in own.ids()? {
            let state = own.ctx.inspect(&id)?["State"].clone();
            let status = state["Status"].as_str().unwrap_or_default();
            ensure!(
                matches!(status, "created" | "running" | "exited"),
                "turn {turn}: {state}"
            );
            if status == "running" {
                same!(
                    own.ctx.exec_sh(&id, "echo alive")?.line(),
                    "alive",
                    "turn {turn}"
                );
            }
            seen.insert(id);
        }
    }
    own.finish(&seen)
}

fn names_volumes_and_ports_are_kept(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let volume = ctx.name("v");
    let binds = json!({"Binds": [format!("{volume}:/data")]});
    own.ctx
        .sh("w", binds.clone(), "echo kept > /data/f")?
        .ok()?;
    let id = own.ctx.create(
        "c",
        &json!({"Cmd": ["cat", "/data/f"], "HostConfig": binds}),
    )?;
    own.crash()?;
    let answer = own.ctx.post(
        &format!("/containers/create?name={}", ctx.name("c")),
        &json!({"Image": "busybox"}),
    )?;
    same!(answer.status, 409);
    own.ctx.start(&id)?;
    own.ctx.wait(&id)?;
    same!(own.ctx.logs(&id, "")?.0, "kept\n");
    same!(own.ctx.get(&format!("/volumes/{volume}"))?.status, 200);
    same!(own.ctx.get("/images/busybox/json")?.status, 200);
    own.done()
}

fn many_containers_adopted(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let ids: Vec<String> = (0..20)
        .map(|n| own.ctx.sleeper(&format!("c{n}")))
        .collect::<Outcome<_>>()?;
    let before: Vec<i64> = ids
        .iter()
        .map(|id| pid(&own.ctx, id))
        .collect::<Outcome<_>>()?;
    own.engine.kill()?;
    kill(before[3], Signal::KILL)?;
    let start = Instant::now();
    own.engine.launch()?;
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "the restart took {:?}",
        start.elapsed()
    );
    for (n, (id, before)) in ids.iter().zip(before).enumerate() {
        if n == 3 {
            own.ctx.status(id, "exited")?;
            same!(own.ctx.inspect(id)?["State"]["ExitCode"], 137);
        } else {
            same!(pid(&own.ctx, id)?, before);
        }
    }
    own.done()
}
