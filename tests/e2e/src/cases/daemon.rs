//! The daemon's own life: killed, restarted, doubled, drained. Each case starts an engine of its own beside the one
//! that the other cases use; the docker-like ones need live restore always on, so they are longshore's alone.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome, until},
    engine::{self, Engine, Kind, Setup},
    ensure, fail, frames, has, same,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("daemon", Daemon;
            second_daemon_refused, stale_socket_taken_over, live_socket_not_stolen, socket_mode_and_inode, kill_leaves_containers_and_logs,
            exit_while_down_is_seen, everything_goes_on_after_a_restart, exec_over_a_restart, auto_remove_while_down, backlog_survives,
            sigterm_ends_streams, rules_heal_after_a_flush, killed_at_random_moments, names_volumes_and_ports_are_kept, shim_killed_is_seen,
            zygote_killed_is_replaced, tcp_listener, config_file, bad_flags, two_engines_side_by_side, many_containers_adopted,
            nothing_is_left,
        )
        .to_vec(),
        cases!("verbs", Daemon; hello_image, run_and_friends, run_flags).to_vec(),
    ]
    .concat()
}

/// An engine of the case's own, and a context that talks to it.
struct Own {
    engine: Engine,
    ctx: Ctx,
    bridge: String,
}

static COUNT: AtomicU8 = AtomicU8::new(0);

impl Own {
    fn start(ctx: &Ctx) -> Outcome<Self> {
        Self::start_with(ctx, &[])
    }

    fn start_with(ctx: &Ctx, extra: &[String]) -> Outcome<Self> {
        let Some(binary) = ctx.world.binary.clone() else {
            fail!("needs --binary");
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        let bridge = format!("e2ebr{number}");
        let mut flags = vec![
            "--bridge".to_owned(),
            bridge.clone(),
            "--bip".to_owned(),
            format!("172.30.{number}.1/24"),
        ];
        flags.extend_from_slice(extra);
        let root = ctx.world.scratch.join(format!("own{number}"));
        let marker = format!("{}-own{number}", ctx.world.marker);
        let engine = Engine::start(Setup {
            kind: Kind::Longshore,
            binary,
            root,
            isolate: false,
            extra: flags,
            marker,
        })?;
        engine::load(&engine.socket(), "busybox:latest", &ctx.world.archive)?;
        let mut world = ctx.world.clone();
        world.socket = engine.socket();
        let ctx = Ctx {
            world,
            prefix: ctx.prefix.clone(),
            unnamed: std::sync::Mutex::default(),
        };
        Ok(Self {
            engine,
            ctx,
            bridge,
        })
    }

    /// kill -9 and start again.
    fn crash(&mut self) -> Outcome {
        self.engine.kill()?;
        self.engine.launch()
    }

    fn processes(&self) -> Vec<(i32, String)> {
        engine::processes(&self.engine.setup.marker, &self.engine.setup.root)
    }

    fn ids(&self) -> Outcome<Vec<String>> {
        let list = self.ctx.json("/containers/json?all=1")?;
        Ok(list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| Some(c["Id"].as_str()?.to_owned()))
            .collect())
    }

    /// Removes all containers, ends the daemon, and looks whether anything of it is left.
    fn finish(mut self, ids: &BTreeSet<String>) -> Outcome {
        let mut seen = ids.clone();
        for id in self.ids()? {
            self.ctx.remove(&id)?;
            seen.insert(id);
        }
        until(10, "shims gone", || {
            Ok((self.processes().len() <= 2).then_some(()))
        })?;
        let status = self.engine.stop()?;
        ensure!(status.success(), "SIGTERM: the daemon ended with {status}");
        until(5, "processes gone", || {
            Ok(self.processes().is_empty().then_some(()))
        })?;
        let root = self.engine.setup.root.clone();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let left: Vec<&str> = mounts
            .lines()
            .filter(|l| seen.iter().any(|id| l.contains(id.as_str())))
            .collect();
        ensure!(left.is_empty(), "mounts are left: {left:?}");
        let left = crate::host::named_after(&seen, &root);
        ensure!(left.is_empty(), "files or cgroups are left: {left:?}");
        let ports = Command::new("ip")
            .args(["-o", "link", "show", "master", &self.bridge])
            .output()?;
        let ports = String::from_utf8_lossy(&ports.stdout).into_owned();
        ensure!(ports.trim().is_empty(), "links are left: {ports}");
        Command::new("ip")
            .args(["link", "del", &self.bridge])
            .stderr(Stdio::null())
            .status()?;
        Ok(())
    }

    fn done(self) -> Outcome {
        self.finish(&BTreeSet::new())
    }
}

fn kill(pid: i64, signal: Signal) -> Outcome {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Fail(format!("pid {pid}")))?;
    Ok(kill_process(pid, signal)?)
}

fn parent(pid: i64) -> Outcome<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").map_or("", |(_, r)| r);
    Ok(rest.split(' ').nth(1).unwrap_or_default().parse()?)
}

fn pid(ctx: &Ctx, id: &str) -> Outcome<i64> {
    Ok(ctx.inspect(id)?["State"]["Pid"]
        .as_i64()
        .unwrap_or_default())
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
