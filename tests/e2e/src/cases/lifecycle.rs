//! create, start, wait, stop, kill, restart, remove; exit codes.

use std::{
    thread,
    time::{Duration, Instant},
};

use e2e::{check::Outcome, ensure, has, same};
use serde_json::json;

use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("lifecycle", Any;
        create_start_wait_remove, exit_codes, exit_codes_of_the_cli, exit_127_and_126, entrypoint_and_cmd, image_defaults,
        start_twice, stop_sends_the_signal_then_kills, stop_does_not_wait_in_vain, stop_of_stopped, stop_signal_and_timeout_of_the_container,
        kill_signals, kill_of_stopped, kill_bad_signal, restart_keeps_id_and_log, restart_of_stopped,
        remove_running_refused, remove_forced, remove_by_prefix_and_name, auto_remove, restart_again_after_exit,
        state_after_exit, top, resize_needs_running, started_many_at_once, pid_is_real, long_command_line,
        stdin_open_without_client, exit_while_starting,
    )
    .to_vec()
}

fn create_start_wait_remove(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let made = ctx.inspect(&id)?;
    same!(made["State"]["Status"], "created");
    same!(made["State"]["Running"], false);
    same!(made["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    same!(made["Name"], format!("/{}", ctx.name("c")));
    ctx.start(&id)?;
    same!(ctx.wait(&id)?, 0);
    same!(ctx.inspect(&id)?["State"]["Status"], "exited");
    same!(ctx.delete(&format!("/containers/{id}"))?.status, 204);
    same!(ctx.get(&format!("/containers/{id}/json"))?.status, 404);
    Ok(())
}

fn exit_codes(ctx: &Ctx) -> Outcome {
    for code in [0, 1, 7, 125, 126, 127, 255] {
        let out = ctx.sh("c", json!({}), &format!("exit {code}"))?;
        same!(out.code, code);
    }
    let out = ctx.sh("c", json!({}), "kill -TERM $$; sleep 5")?;
    ensure!(
        out.code == 143 || out.code == 0,
        "TERM to pid 1: {}",
        out.code
    );
    let id = ctx.sleeper("k")?;
    ctx.kill(&id)?;
    same!(ctx.wait(&id)?, 137);
    same!(ctx.inspect(&id)?["State"]["OOMKilled"], false);
    Ok(())
}

fn exit_codes_of_the_cli(ctx: &Ctx) -> Outcome {
    same!(
        ctx.docker(&["run", "--rm", "busybox", "sh", "-c", "exit 7"])?
            .code,
        7
    );
    same!(ctx.docker(&["run", "--rm", "busybox", "true"])?.code, 0);
    let out = ctx.docker(&["run", "--rm", "busybox", "nosuchcommand"])?;
    same!(out.code, 127);
    has!(out.stderr, "executable file not found");
    let out = ctx.docker(&["run", "--rm", "busybox", "/etc/passwd"])?;
    same!(out.code, 126);
    has!(out.stderr, "permission denied");
    same!(ctx.docker(&["run", "--rm", "busybox", "/etc"])?.code, 126);
    same!(
        ctx.docker(&["run", "--rm", "--network", "nosuchnet", "busybox", "true"])?
            .code,
        125
    );
    same!(
        ctx.docker(&["run", "--rm", "busybox", "sh", "-c", "kill -9 $$"])?
            .code,
        0,
        "a signal to pid 1 of its own namespace is ignored"
    );
    Ok(())
}

fn exit_127_and_126(ctx: &Ctx) -> Outcome {
    for (command, code, text) in [
        ("nosuch", 127, "executable file not found"),
        ("/no/such", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, ""),
    ] {
        let id = ctx.create("c", &json!({"Cmd": [command]}))?;
        let answer = ctx.act(&format!("/containers/{id}/start"))?;
        same!(answer.status, 400, "start of {command}");
        has!(answer.message(), text);
        has!(answer.message(), "unable to start container process");
        let state = ctx.inspect(&id)?;
        same!(state["State"]["ExitCode"], code, "exit code of {command}");
        same!(state["State"]["Status"], "created");
        ensure!(
            !state["State"]["Error"]
                .as_str()
                .unwrap_or_default()
                .is_empty(),
            "no State.Error"
        );
        ctx.remove(&id)?;
    }
    Ok(())
}

fn entrypoint_and_cmd(ctx: &Ctx) -> Outcome {
    let out = ctx.run("c", &json!({"Entrypoint": ["echo", "a"], "Cmd": ["b"]}))?;
    same!(out.line(), "a b");
    let out = ctx.run("c", &json!({"Entrypoint": ["echo", "only"]}))?;
    same!(
        out.line(),
        "only",
        "an entrypoint drops the image's command"
    );
    Ok(())
}

fn image_defaults(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let config = &ctx.inspect(&id)?["Config"];
    same!(config["Cmd"], json!(["sh"]));
    has!(config["Env"].to_string(), "PATH=/usr/local/sbin");
    same!(config["Image"], "busybox");
    Ok(())
}

fn start_twice(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let again = ctx.act(&format!("/containers/{id}/start"))?;
    same!(again.status, 304);
    same!(again.body.len(), 0);
    Ok(())
}

fn stop_sends_the_signal_then_kills(ctx: &Ctx) -> Outcome {
    let polite = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let id = ctx.launch("polite", &json!({"Cmd": ["sh", "-c", polite]}))?;
    ctx.log_has(&id, "ready")?;
    same!(ctx.act(&format!("/containers/{id}/stop"))?.status, 204);
    same!(ctx.inspect(&id)?["State"]["ExitCode"], 3);
    same!(ctx.logs(&id, "")?.0, "ready\nbye\n");
    let id = ctx.launch(
        "deaf",
        &json!({"Cmd": ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]}),
    )?;
    ctx.log_has(&id, "ready")?;
    let start = Instant::now();
    same!(ctx.act(&format!("/containers/{id}/stop?t=1"))?.status, 204);
    let took = start.elapsed();
    ensure!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(9),
        "stop?t=1 took {took:?}"
    );
    same!(ctx.inspect(&id)?["State"]["ExitCode"], 137);
    Ok(())
}

/// A first process without a handler cannot be ended by SIGTERM; the story is told as if one had waited.
fn stop_does_not_wait_in_vain(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let since = now();
    let start = Instant::now();
    ctx.act(&format!("/containers/{id}/stop"))?.expect(204)?;
    if ctx.world.binary.is_some() {
        ensure!(
            start.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            start.elapsed()
        );
    }
    same!(ctx.inspect(&id)?["State"]["ExitCode"], 137);
    let events = ctx.events(
        &since,
        &now(),
        &json!({"container": [id], "event": ["kill"]}),
    )?;
    let signals: Vec<_> = events
        .iter()
        .filter_map(|e| e["Actor"]["Attributes"]["signal"].as_str())
        .collect();
    same!(signals, ["15", "9"]);
    Ok(())
}

fn stop_of_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    same!(
        ctx.act(&format!("/containers/{id}/stop"))?.status,
        304,
        "stop of a created container"
    );
    ctx.start(&id)?;
    ctx.wait(&id)?;
    same!(ctx.act(&format!("/containers/{id}/stop"))?.status, 304);
    same!(ctx.act("/containers/nosuch/stop")?.status, 404);
    Ok(())
}

fn stop_signal_and_timeout_of_the_container(ctx: &Ctx) -> Outcome {
    let script = "trap 'exit 5' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", script], "StopSignal": "SIGUSR1", "StopTimeout": 5}),
    )?;
    ctx.log_has(&id, "ready")?;
    ctx.act(&format!("/containers/{id}/stop"))?.expect(204)?;
    same!(ctx.inspect(&id)?["State"]["ExitCode"], 5);
    let id = ctx.launch("t", &json!({"Cmd": ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"], "StopTimeout": 0}))?;
    ctx.log_has(&id, "ready")?;
    let start = Instant::now();
    ctx.act(&format!("/containers/{id}/stop"))?.expect(204)?;
    ensure!(
        start.elapsed() < Duration::from_secs(8),
        "StopTimeout was not used"
    );
    Ok(())
}

fn kill_signals(ctx: &Ctx) -> Outcome {
    let script =
        "trap 'echo usr1' USR1; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done";
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    ctx.log_has(&id, "ready")?;
    for signal in ["USR1", "SIGHUP", "10", "1"] {
        same!(
            ctx.act(&format!("/containers/{id}/kill?signal={signal}"))?
                .status,
            204
        );
        pause(150);
    }
    let (out, _) = ctx.logs(&id, "")?;
    same!(
        out.lines().filter(|l| *l == "usr1").count(),
        2,
        "log {out:?}"
    );
    same!(
        out.lines().filter(|l| *l == "hup").count(),
        2,
        "log {out:?}"
    );
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn kill_of_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let answer = ctx.act(&format!("/containers/{id}/kill"))?;
    same!(answer.status, 409);
    has!(answer.message(), "is not running");
    same!(ctx.act("/containers/nosuch/kill")?.status, 404);
    Ok(())
}

fn kill_bad_signal(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    for signal in ["BOGUS", "0x", "99999"] {
        let answer = ctx.act(&format!("/containers/{id}/kill?signal={signal}"))?;
        ensure!(
            answer.status == 400 || answer.status == 500,
            "signal {signal}: {}",
            answer.status
        );
        if signal == "BOGUS" {
            has!(answer.message().to_lowercase(), "invalid signal: bogus");
        }
    }
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn restart_keeps_id_and_log(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo run; exec sleep 600"]}),
    )?;
    ctx.log_has(&id, "run")?;
    let before = ctx.inspect(&id)?;
    same!(
        ctx.act(&format!("/containers/{id}/restart?t=0"))?.status,
        204
    );
    let after = ctx.inspect(&id)?;
    ensure!(
        before["State"]["Pid"] != after["State"]["Pid"],
        "the process is the same"
    );
    ensure!(
        before["State"]["StartedAt"] != after["State"]["StartedAt"],
        "StartedAt stayed"
    );
    same!(after["State"]["Running"], true);
    e2e::check::until(10, "second line", || {
        Ok((ctx.logs(&id, "")?.0 == "run\nrun\n").then_some(()))
    })
}

fn restart_of_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sleep", "600"]}))?;
    same!(ctx.act(&format!("/containers/{id}/restart"))?.status, 204);
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn remove_running_refused(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let answer = ctx.delete(&format!("/containers/{id}"))?;
    same!(answer.status, 409);
    has!(answer.message(), "force remove");
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn remove_forced(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let pid = ctx.inspect(&id)?["State"]["Pid"]
        .as_i64()
        .unwrap_or_default();
    same!(
        ctx.delete(&format!("/containers/{id}?force=true"))?.status,
        204
    );
    ensure!(
        !std::path::Path::new(&format!("/proc/{pid}/ns")).exists() || pid == 0,
        "process {pid} lives on"
    );
    let gone = ctx.delete(&format!("/containers/{id}?force=1"))?;
    same!(gone.status, 404);
    has!(gone.message(), format!("No such container: {id}"));
    Ok(())
}

fn remove_by_prefix_and_name(ctx: &Ctx) -> Outcome {
    let id = ctx.create("a", &json!({}))?;
    same!(
        ctx.delete(&format!("/containers/{}", &id[..12]))?.status,
        204
    );
    ctx.create("b", &json!({}))?;
    same!(
        ctx.delete(&format!("/containers/{}", ctx.name("b")))?
            .status,
        204
    );
    Ok(())
}

fn auto_remove(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "0.3"], "HostConfig": {"AutoRemove": true}}),
    )?;
    let answer = ctx
        .act(&format!("/containers/{id}/wait?condition=removed"))?
        .expect(200)?
        .json()?;
    same!(answer["StatusCode"], 0);
    same!(ctx.get(&format!("/containers/{id}/json"))?.status, 404);
    Ok(())
}

fn restart_again_after_exit(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "test -e /mark && exit 4; touch /mark; exit 3"]}),
    )?;
    ctx.start(&id)?;
    same!(ctx.wait(&id)?, 3);
    ctx.start(&id)?;
    same!(
        ctx.wait(&id)?,
        4,
        "the file system stays from start to start"
    );
    Ok(())
}

fn state_after_exit(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["false"]}))?;
    same!(ctx.wait(&id)?, 1);
    let state = ctx.inspect(&id)?["State"].clone();
    same!(state["Status"], "exited");
    same!(state["Pid"], 0);
    same!(state["Running"], false);
    same!(state["Paused"], false);
    same!(state["Restarting"], false);
    same!(state["Dead"], false);
    same!(state["ExitCode"], 1);
    let (start, end) = (
        state["StartedAt"].as_str().unwrap_or_default(),
        state["FinishedAt"].as_str().unwrap_or_default(),
    );
    // dockerd 20.10 can note the start of a short run after its end
    ensure!(
        start.ends_with('Z')
            && (start.trim_end_matches('Z') < end.trim_end_matches('Z') || !ctx.api(44)),
        "times {start} {end}"
    );
    Ok(())
}

fn top(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "sleep 601 & sleep 602"]}))?;
    e2e::check::until(5, "both sleeps in top", || {
        let top = ctx.json(&format!("/containers/{id}/top"))?;
        same!(
            top["Titles"],
            json!(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"])
        );
        let text = top["Processes"].to_string();
        Ok((text.contains("sleep 601") && text.contains("sleep 602")).then_some(()))
    })?;
    let top = ctx.json(&format!("/containers/{id}/top?ps_args=-o%20pid,args"))?;
    same!(top["Titles"][0], "PID");
    same!(top["Titles"][1], "COMMAND");
    let done = ctx.create("d", &json!({}))?;
    let answer = ctx.get(&format!("/containers/{done}/top"))?;
    same!(answer.status, 409);
    has!(answer.message(), "is not running");
    Ok(())
}

fn resize_needs_running(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Tty": true, "Cmd": ["sleep", "600"]}))?;
    let early = ctx.act(&format!("/containers/{id}/resize?h=10&w=20"))?;
    same!(early.status, 409);
    has!(early.message(), "is not running");
    ctx.start(&id)?;
    same!(
        ctx.act(&format!("/containers/{id}/resize?h=10&w=20"))?
            .status,
        200
    );
    same!(
        ctx.exec(
            &id,
            &json!({"Cmd": ["sh", "-c", "stty size < /proc/1/fd/0"]})
        )?
        .line(),
        "10 20"
    );
    same!(
        ctx.act(&format!("/containers/{id}/resize?h=x&w=20"))?
            .status,
        400
    );
    Ok(())
}

fn started_many_at_once(ctx: &Ctx) -> Outcome {
    thread::scope(|scope| {
        let all: Vec<_> = (0..12)
            .map(|n| {
                scope.spawn(move || {
                    let out =
                        ctx.sh(&format!("c{n}"), json!({}), &format!("echo {n}; exit {n}"))?;
                    same!(out.code, n);
                    same!(out.line(), n.to_string());
                    Ok(())
                })
            })
            .collect();
        all.into_iter().try_for_each(|t| t.join().unwrap_or(Ok(())))
    })
}

fn pid_is_real(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let pid = ctx.inspect(&id)?["State"]["Pid"]
        .as_i64()
        .unwrap_or_default();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    same!(line.replace(char::from(0), " "), "sleep 600 ");
    Ok(())
}

fn long_command_line(ctx: &Ctx) -> Outcome {
    let long = "x".repeat(100_000);
    let env: Vec<String> = (0..500)
        .map(|n| format!("V{n}={}", "y".repeat(200)))
        .collect();
    let out = ctx.run(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo ${#1} ${#V499}", "sh", long], "Env": env}),
    )?;
    same!(out.line(), "100000 200");
    Ok(())
}

fn stdin_open_without_client(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["cat"], "OpenStdin": true}))?;
    pause(300);
    same!(
        ctx.inspect(&id)?["State"]["Running"],
        true,
        "an open stdin has no end"
    );
    let out = ctx.run("d", &json!({"Cmd": ["cat"]}))?;
    same!(out.code, 0, "a closed stdin ends at once");
    Ok(())
}

fn exit_while_starting(ctx: &Ctx) -> Outcome {
    for n in 0..10 {
        let id = ctx.create(
            &format!("c{n}"),
            &json!({"Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}),
        )?;
        ctx.start(&id)?;
        same!(ctx.wait(&id)?, 0);
        same!(
            ctx.delete(&format!("/containers/{id}"))?.status,
            204,
            "remove right after wait"
        );
    }
    Ok(())
}
