//! The daemon's own life: doubled, drained, hurt, set up. Each case starts an engine of its own beside the one that the
//! other cases use.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Outcome, until},
    engine::{self},
    ensure, fail, has, same,
};
use rustix::process::Signal;
use serde_json::json;

use super::own::{Own, kill, pid};

use crate::{
    cases::cases,
    context::{Ctx, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("daemon", Daemon; second_daemon_refused, stale_socket_taken_over, live_socket_not_stolen, socket_mode_and_inode, sigterm_ends_streams, rules_heal_after_a_flush, shim_killed_is_seen, zygote_killed_is_replaced, tcp_listener, config_file, bad_flags, two_engines_side_by_side, nothing_is_left,)
    .to_vec()
}

fn parent(pid: i64) -> Outcome<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").map_or("", |(_, r)| r);
    Ok(rest.split(' ').nth(1).unwrap_or_default().parse()?)
}

/// Starts the engine's command line once more, as it is or with another socket, and gives how it ended.
fn second(command: &mut Command) -> Outcome<(bool, String)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(15);
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            fail!("the second daemon runs");
        }
        pause(20);
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

fn second_daemon_refused(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let id = own.ctx.sleeper("c")?;
    let (success, text) = second(&mut own.engine.command())?;
    ensure!(!success, "the second daemon ended well: {text}");
    has!(text, own.engine.setup.root.display().to_string());
    same!(own.ctx.inspect(&id)?["State"]["Running"], true);
    own.ctx.remove(&id)?;
    own.done()
}

fn stale_socket_taken_over(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    own.engine.kill()?;
    ensure!(own.engine.socket().exists(), "the socket is gone");
    own.engine.launch()?;
    own.done()
}

fn live_socket_not_stolen(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let root = own.engine.setup.root.clone();
    let mut command = Command::new(&own.engine.setup.binary);
    command.args([
        "daemon",
        "-H",
        &format!("unix://{}", own.engine.socket().display()),
        "--bridge",
        "none",
    ]);
    for (flag, name) in [
        ("--data-root", "data2"),
        ("--exec-root", "exec2"),
        ("--pidfile", "pid2"),
    ] {
        command.arg(flag).arg(root.join(name));
    }
    command.env(engine::MARKER, &own.engine.setup.marker);
    let (success, text) = second(&mut command)?;
    ensure!(!success, "another daemon took the socket: {text}");
    same!(own.ctx.get("/_ping")?.status, 200);
    own.done()
}

fn socket_mode_and_inode(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let before = fs::metadata(own.engine.socket())?;
    same!(before.permissions().mode() & 0o777, 0o660);
    let id = own.ctx.sleeper("c")?;
    own.ctx.remove(&id)?;
    same!(fs::metadata(own.engine.socket())?.ino(), before.ino());
    has!(
        fs::read_to_string(own.engine.setup.root.join("pid"))?,
        own.engine.pid().to_string()
    );
    own.done()
}

fn sigterm_ends_streams(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own
        .ctx
        .launch("c", &json!({"Cmd": ["sh", "-c", "echo up; sleep 600"]}))?;
    own.ctx.log_has(&id, "up")?;
    let mut streams = vec![
        own.ctx
            .hijack(&format!("/containers/{id}/attach?stream=1&stdout=1"), None)?,
    ];
    for path in [
        "/events".to_owned(),
        format!("/containers/{id}/logs?follow=1&stdout=1&tail=0"),
        format!("/containers/{id}/wait"),
    ] {
        let mut stream = own.ctx.connect()?;
        stream.request(
            if path.ends_with("wait") {
                "POST"
            } else {
                "GET"
            },
            &path,
            &[],
            None,
        )?;
        same!(stream.head("GET")?.0, 200);
        streams.push(stream);
    }
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                let mut rest = Vec::new();
                stream
                    .read_to_end(&mut rest)
                    .map(|_| ())
                    .map_err(|e| e.kind())
            })
        })
        .collect();
    pause(200);
    let start = Instant::now();
    let status = own.engine.stop()?;
    ensure!(status.success(), "{status}");
    ensure!(
        start.elapsed() < Duration::from_secs(10),
        "the drain took {:?}",
        start.elapsed()
    );
    for reader in readers {
        let ended = reader.join().unwrap_or(Ok(()));
        ensure!(
            !matches!(
                ended,
                Err(std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::TimedOut
                    | std::io::ErrorKind::WouldBlock)
            ),
            "a stream ended with {ended:?}"
        );
    }
    own.engine.launch()?;
    same!(own.ctx.inspect(&id)?["State"]["Running"], true);
    own.done()
}

fn rules_heal_after_a_flush(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let me = std::env::current_exe()?;
    let id = own.ctx.launch("c", &json!({"Cmd": ["/probe", "serve", "7000"], "ExposedPorts": {"7000/tcp": {}},
        "HostConfig": {"Binds": [format!("{}:/probe:ro", me.display())], "PortBindings": {"7000/tcp": [{"HostPort": "18201"}]}}}))?;
    own.ctx.log_has(&id, "serving")?;
    let reachable = || -> Outcome<Option<()>> {
        let output = crate::outside::probe(&["ask", "tcp", crate::outside::OURS, "18201"])?;
        Ok(output.status.success().then_some(()))
    };
    until(5, "published port", reachable)?;
    Command::new("nft").args(["flush", "ruleset"]).status()?;
    until(10, "published port after the flush", reachable)?;
    own.done()
}

fn shim_killed_is_seen(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let id = own.ctx.sleeper("c")?;
    let init = pid(&own.ctx, &id)?;
    kill(parent(init)?, Signal::KILL)?;
    own.ctx.status(&id, "exited")?;
    until(5, "end of the container's process", || {
        Ok((!fs::exists(format!("/proc/{init}"))?).then_some(()))
    })?;
    own.ctx.start(&id)?;
    same!(own.ctx.exec_sh(&id, "echo again")?.line(), "again");
    own.finish(&BTreeSet::from([id]))
}

fn zygote_killed_is_replaced(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let daemon = i64::from(own.engine.pid());
    let mut killed = 0;
    for (process, _) in own.processes() {
        let process = i64::from(process);
        if process != daemon && parent(process).is_ok_and(|p| p == daemon) {
            kill(process, Signal::KILL)?;
            killed += 1;
        }
    }
    ensure!(killed > 0, "the daemon has no helper process");
    pause(100);
    until(10, "a container starts again", || {
        let out = own.ctx.sh("c", json!({}), "echo up");
        if out.is_err() {
            own.ctx.clean()?;
        }
        Ok(out.ok().filter(|o| o.line() == "up"))
    })?;
    own.done()
}

fn tcp_listener(ctx: &Ctx) -> Outcome {
    let own = Own::start_with(ctx, &["-H".into(), "tcp://127.0.0.1:18990".into()])?;
    let output = Command::new("curl")
        .args(["-s", "http://127.0.0.1:18990/_ping"])
        .output()?;
    same!(String::from_utf8_lossy(&output.stdout), "OK");
    own.done()
}

fn config_file(ctx: &Ctx) -> Outcome {
    let path = ctx.world.scratch.join("daemon.json");
    fs::write(
        &path,
        r#"{"labels": ["site=test"], "debug": true, "dns": ["9.9.9.9"]}"#,
    )?;
    let own = Own::start_with(ctx, &["--config-file".into(), path.display().to_string()])?;
    has!(own.ctx.json("/info")?["Labels"].to_string(), "site=test");
    has!(
        own.ctx.sh("c", json!({}), "cat /etc/resolv.conf")?.stdout,
        "nameserver 9.9.9.9"
    );
    fs::write(&path, "{broken")?;
    let (success, text) = second(&mut own.engine.command())?;
    ensure!(!success, "a broken file was accepted");
    has!(text, "daemon.json");
    fs::write(&path, r#"{"labels": []}"#)?;
    own.done()
}

fn bad_flags(ctx: &Ctx) -> Outcome {
    let Some(binary) = &ctx.world.binary else {
        fail!("needs --binary");
    };
    for words in [
        vec!["daemon", "--bogus"],
        vec!["daemon", "-H", "bogus://x"],
        vec!["daemon", "--bip", "nonsense"],
        vec!["boguscommand"],
    ] {
        let mut command = Command::new(binary);
        command.args(&words).args(
            ["--data-root", "/nonexistent/x"]
                .iter()
                .take(if words[0] == "daemon" { 2 } else { 0 }),
        );
        let (success, text) = second(&mut command)?;
        ensure!(!success && !text.trim().is_empty(), "{words:?}: {text}");
        ensure!(!text.contains("panicked"), "{text}");
    }
    Ok(())
}

fn two_engines_side_by_side(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let me = std::env::current_exe()?;
    let body = |port: &str| {
        json!({"Cmd": ["/probe", "serve", "7000"], "ExposedPorts": {"7000/tcp": {}}, "HostConfig": {"Binds": [format!("{}:/probe:ro", me.display())],
            "PortBindings": {"7000/tcp": [{"HostPort": port}]}}})
    };
    let first = ctx.launch("c", &body("18202"))?;
    let second = own.ctx.launch("c", &body("18203"))?;
    for (id, port, context) in [(&first, "18202", ctx), (&second, "18203", &own.ctx)] {
        context.log_has(id, "serving")?;
        let answer = Command::new(&me)
            .args(["ask", "tcp", "127.0.0.1", port])
            .output()?;
        has!(String::from_utf8_lossy(&answer.stdout), id[..12]);
    }
    same!(ctx.get(&format!("/containers/{second}/json"))?.status, 404);
    let result = own.done();
    let answer = Command::new(&me)
        .args(["ask", "tcp", "127.0.0.1", "18202"])
        .output()?;
    ensure!(
        answer.status.success(),
        "the other engine's end took our port away"
    );
    ctx.remove(&first)?;
    result
}

fn nothing_is_left(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let mut seen = BTreeSet::new();
    for n in 0..10 {
        let id = own.ctx.launch(
            &format!("c{n}"),
            &json!({"Cmd": ["true"], "Volumes": {"/v": {}}, "HostConfig": {"Init": n % 2 == 0}}),
        )?;
        own.ctx.wait(&id)?;
        own.ctx.remove(&id)?;
        seen.insert(id);
    }
    same!(own.ids()?, Vec::<String>::new());
    own.finish(&seen)
}
