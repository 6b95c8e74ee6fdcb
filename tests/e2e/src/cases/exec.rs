//! Commands in running containers.

use std::{io::Read, net::Shutdown};

use e2e::{
    check::{Outcome, until},
    ensure, fail, frames, has, same,
};
use serde_json::json;

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    cases!("exec", Any;
        output_and_exit_code, exit_code_is_ready_when_the_stream_ends, user_env_cwd, user_by_group_and_id, tty, tty_resize, stdin,
        detached, not_found, not_executable, missing_user, missing_folder, in_stopped_container, in_missing_container, missing_exec,
        start_twice, no_command, inspect_fields, ids_in_container, privileged, keeps_limits_of_container, many_at_once,
        ends_with_container, cli, cli_codes, big_output, detach_keys, environment_of_container, no_leaked_descriptors, not_attached_output,
    )
    .to_vec()
}

fn output_and_exit_code(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let out = ctx.exec_sh(&id, "echo out; echo err >&2; exit 5")?;
    same!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (5, "out\n", "err\n")
    );
    Ok(())
}

fn exit_code_is_ready_when_the_stream_ends(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    for n in 0..20 {
        same!(ctx.exec_sh(&id, &format!("exit {n}"))?.code, n);
    }
    Ok(())
}

fn user_env_cwd(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let body = json!({"Cmd": ["sh", "-c", "id -u; id -g; pwd; echo $Z $HOME"], "User": "nobody", "WorkingDir": "/tmp", "Env": ["Z=1"]});
    same!(
        ctx.exec(&id, &body)?.stdout,
        "65534\n65534\n/tmp\n1 /home\n"
    );
    Ok(())
}

fn user_by_group_and_id(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    for (user, wanted) in [
        ("nobody:users", "65534 100"),
        ("1234", "1234 0"),
        ("1234:4321", "1234 4321"),
        ("root", "0 0"),
        (":users", "0 100"),
    ] {
        let out = ctx.exec(
            &id,
            &json!({"Cmd": ["sh", "-c", "echo $(id -u) $(id -g)"], "User": user}),
        )?;
        same!(out.line(), wanted, "user {user}");
    }
    Ok(())
}

fn tty(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let made = ctx.post(&format!("/containers/{id}/exec"), &json!({"Cmd": ["sh", "-c", "tty; read x; echo \"<$x>\""], "Tty": true, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true}))?;
    let exec = made.expect(201)?.json()?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut stream = ctx.hijack(&format!("/exec/{exec}/start"), Some(&json!({"Tty": true})))?;
    stream.send(b"word\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    has!(text, "/dev/pts/");
    has!(text, "<word>\r\n");
    Ok(())
}

fn tty_resize(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done";
    let made = ctx.post(&format!("/containers/{id}/exec"), &json!({"Cmd": ["sh", "-c", script], "Tty": true, "AttachStdin": true, "AttachStdout": true}))?;
    let exec = made.expect(201)?.json()?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut stream = ctx.hijack(&format!("/exec/{exec}/start"), Some(&json!({"Tty": true})))?;
    let mut seen = [0; 5];
    stream.read_exact(&mut seen)?;
    let answer = ctx.act(&format!("/exec/{exec}/resize?h=12&w=34"))?;
    ensure!(
        answer.status == 200 || answer.status == 201,
        "resize: {}",
        answer.status
    );
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    has!(text, "12 34");
    Ok(())
}

fn stdin(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let made = ctx.post(&format!("/containers/{id}/exec"), &json!({"Cmd": ["sh", "-c", "cat; echo end"], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true}))?;
    let exec = made.expect(201)?.json()?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut stream = ctx.hijack(&format!("/exec/{exec}/start"), Some(&json!({})))?;
    stream.send(b"in\n")?;
    stream.socket().shutdown(Shutdown::Write)?;
    same!(frames::joined(&frames::all(&mut stream)?, 1), "in\nend\n");
    Ok(())
}

fn detached(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let made = ctx
        .post(
            &format!("/containers/{id}/exec"),
            &json!({"Cmd": ["sh", "-c", "sleep 0.3; touch /mark; exit 9"]}),
        )?
        .expect(201)?;
    let exec = made.json()?["Id"].as_str().unwrap_or_default().to_owned();
    let answer = ctx.post(&format!("/exec/{exec}/start"), &json!({"Detach": true}))?;
    same!(answer.status, 200);
    same!(answer.body.len(), 0);
    let state = ctx.json(&format!("/exec/{exec}/json"))?;
    same!(state["Running"], true);
    until(10, "end of the detached command", || {
        Ok((ctx.json(&format!("/exec/{exec}/json"))?["Running"] == false).then_some(()))
    })?;
    same!(ctx.json(&format!("/exec/{exec}/json"))?["ExitCode"], 9);
    same!(ctx.exec_sh(&id, "test -e /mark")?.code, 0);
    Ok(())
}

fn start_of(
    ctx: &Ctx,
    id: &str,
    body: &serde_json::Value,
) -> Outcome<(String, e2e::http::Response)> {
    let made = ctx
        .post(&format!("/containers/{id}/exec"), body)?
        .expect(201)?
        .json()?;
    let exec = made["Id"].as_str().unwrap_or_default().to_owned();
    let answer = ctx.post(&format!("/exec/{exec}/start"), &json!({}))?;
    Ok((exec, answer))
}

fn not_found(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let (exec, answer) = start_of(ctx, &id, &json!({"Cmd": ["nosuch"], "AttachStdout": true}))?;
    has!(answer.text(), "executable file not found");
    let code = ctx.json(&format!("/exec/{exec}/json"))?["ExitCode"].clone();
    ensure!(code == 126 || code == 127, "exit code {code}");
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn not_executable(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let (exec, answer) = start_of(
        ctx,
        &id,
        &json!({"Cmd": ["/etc/passwd"], "AttachStdout": true}),
    )?;
    has!(answer.text(), "permission denied");
    same!(ctx.json(&format!("/exec/{exec}/json"))?["ExitCode"], 126);
    Ok(())
}

fn missing_user(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let out = ctx.docker(&["exec", "-u", "nosuchuser", &id, "true"])?;
    ensure!(out.code != 0, "a missing user was accepted");
    has!(out.stderr + &out.stdout, "unable to find user nosuchuser");
    Ok(())
}

fn missing_folder(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let out = ctx.docker(&["exec", "-w", "/nosuch", &id, "true"])?;
    ensure!(out.code == 126 || out.code == 127, "exit code {}", out.code);
    has!(out.stderr + &out.stdout, "chdir to cwd (\"/nosuch\")");
    Ok(())
}

fn in_stopped_container(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let answer = ctx.post(&format!("/containers/{id}/exec"), &json!({"Cmd": ["true"]}))?;
    same!(answer.status, 409);
    has!(answer.message(), "is not running");
    has!(
        answer.message().to_lowercase(),
        format!("container {id} is not running")
    );
    Ok(())
}

fn in_missing_container(ctx: &Ctx) -> Outcome {
    let answer = ctx.post("/containers/nosuch/exec", &json!({"Cmd": ["true"]}))?;
    same!(answer.status, 404);
    same!(answer.message(), "No such container: nosuch");
    Ok(())
}

fn missing_exec(ctx: &Ctx) -> Outcome {
    for (method, path) in [("GET", "json"), ("POST", "start")] {
        let body = json!({});
        let answer = ctx.call(
            method,
            &format!("/exec/nosuch/{path}"),
            (method == "POST").then_some(&body),
        )?;
        same!(answer.status, 404, "{path}");
        has!(answer.message(), "No such exec instance: nosuch");
    }
    Ok(())
}

fn start_twice(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let (exec, _) = start_of(ctx, &id, &json!({"Cmd": ["true"], "AttachStdout": true}))?;
    let answer = ctx.post(&format!("/exec/{exec}/start"), &json!({}))?;
    ensure!(
        matches!(answer.status, 404 | 409) || answer.text().contains("has already run"),
        "a second start: {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn no_command(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let answer = ctx.post(&format!("/containers/{id}/exec"), &json!({"Cmd": []}))?;
    same!(answer.status, 400);
    has!(answer.message().to_lowercase(), "no exec command specified");
    Ok(())
}

fn inspect_fields(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let made = ctx
        .post(
            &format!("/containers/{id}/exec"),
            &json!({"Cmd": ["sleep", "9"], "User": "nobody", "AttachStdout": true}),
        )?
        .expect(201)?
        .json()?;
    let exec = made["Id"].as_str().unwrap_or_default().to_owned();
    same!(exec.len(), 64);
    let state = ctx.json(&format!("/exec/{exec}/json"))?;
    same!(state["ID"], exec.as_str());
    same!(state["ContainerID"], id.as_str());
    same!(state["Running"], false);
    same!(state["ExitCode"], serde_json::Value::Null);
    same!(state["OpenStdout"], true);
    same!(state["OpenStdin"], false);
    same!(state["ProcessConfig"]["entrypoint"], "sleep");
    same!(state["ProcessConfig"]["arguments"], json!(["9"]));
    same!(state["ProcessConfig"]["user"], "nobody");
    Ok(())
}

fn ids_in_container(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    same!(ctx.inspect(&id)?["ExecIDs"], serde_json::Value::Null);
    let made = ctx
        .post(
            &format!("/containers/{id}/exec"),
            &json!({"Cmd": ["sleep", "9"]}),
        )?
        .expect(201)?
        .json()?;
    let exec = made["Id"].clone();
    ctx.post(
        &format!("/exec/{}/start", exec.as_str().unwrap_or_default()),
        &json!({"Detach": true}),
    )?
    .expect(200)?;
    same!(ctx.inspect(&id)?["ExecIDs"], json!([exec]));
    Ok(())
}

fn privileged(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let caps = |body| -> Outcome<u64> {
        let out = ctx.exec(&id, &body)?;
        Ok(u64::from_str_radix(
            out.line().split_whitespace().last().unwrap_or(""),
            16,
        )?)
    };
    let command = json!(["grep", "CapEff", "/proc/self/status"]);
    same!(format!("{:x}", caps(json!({"Cmd": command}))?), "a80425fb");
    // runc 1.1 cannot raise the capabilities of an exec on new kernels
    if ctx.api(44) {
        ensure!(
            caps(json!({"Cmd": command, "Privileged": true}))? > 0x1_ffff_ffff,
            "a privileged exec has too few capabilities"
        );
    }
    Ok(())
}

fn keeps_limits_of_container(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "HostConfig": {"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
        "Ulimits": [{"Name": "nofile", "Soft": 99, "Hard": 100}], "ReadonlyRootfs": true}}))?;
    let out = ctx.exec_sh(&id, "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ulimit -n; touch /x || echo ro; cat /proc/self/cgroup | grep -c docker/; hostname")?;
    has!(out.stdout, "CapEff:\t0000000000000000");
    has!(out.stdout, "NoNewPrivs:\t1");
    has!(out.stdout, "Seccomp:\t2");
    // runc 1.1 raises the soft limit of open files to the hard one in an exec
    let soft = if ctx.api(44) { "99" } else { "" };
    has!(out.stdout, format!("\n{soft}"));
    has!(out.stdout, "\nro\n");
    has!(out.stdout, &id[..12]);
    Ok(())
}

fn many_at_once(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..16)
            .map(|n| {
                let id = &id;
                scope.spawn(move || {
                    let out = ctx.exec_sh(id, &format!("echo {n}; exit {n}"))?;
                    same!((out.code, out.line()), (n, n.to_string().as_str()));
                    Ok(())
                })
            })
            .collect();
        all.into_iter().try_for_each(|t| t.join().unwrap_or(Ok(())))
    })
}

fn ends_with_container(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let made = ctx
        .post(
            &format!("/containers/{id}/exec"),
            &json!({"Cmd": ["sh", "-c", "echo up; sleep 600"], "AttachStdout": true}),
        )?
        .expect(201)?
        .json()?;
    let exec = made["Id"].as_str().unwrap_or_default().to_owned();
    let mut stream = ctx.hijack(&format!("/exec/{exec}/start"), Some(&json!({})))?;
    same!(
        frames::next(&mut stream)?.map(|f| f.text()),
        Some("up\n".into())
    );
    ctx.kill(&id)?;
    same!(frames::next(&mut stream)?, None);
    ctx.wait(&id)?;
    Ok(())
}

fn cli(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    same!(
        ctx.docker(&["exec", &id, "echo", "hi"])?.ok()?.stdout,
        "hi\n"
    );
    same!(
        ctx.docker_with(&["exec", "-i", &id, "cat"], "in\n")?
            .ok()?
            .stdout,
        "in\n"
    );
    let out = ctx.docker(&[
        "exec",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "-e",
        "Z=1",
        &id,
        "sh",
        "-c",
        "id -un; pwd; echo $Z",
    ])?;
    same!(out.ok()?.stdout, "nobody\n/tmp\n1\n");
    ctx.docker(&["exec", "-d", &id, "touch", "/mark"])?.ok()?;
    until(5, "the mark", || {
        Ok((ctx.exec_sh(&id, "test -e /mark")?.code == 0).then_some(()))
    })
}

fn cli_codes(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    same!(ctx.docker(&["exec", &id, "sh", "-c", "exit 5"])?.code, 5);
    let out = ctx.docker(&["exec", &id, "nosuch"])?;
    same!(out.code, if ctx.api(44) { 127 } else { 126 });
    has!(out.stderr + &out.stdout, "executable file not found");
    let out = ctx.docker(&["exec", "nosuchcontainer", "true"])?;
    same!(out.code, 1);
    has!(out.stderr, "No such container: nosuchcontainer");
    Ok(())
}

fn big_output(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let out = ctx.exec_sh(&id, "seq 1 200000; echo end >&2")?;
    same!(out.stdout.lines().count(), 200_000);
    same!(out.stdout.lines().last(), Some("200000"));
    same!(out.stderr, "end\n");
    Ok(())
}

fn detach_keys(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let made = ctx.post(&format!("/containers/{id}/exec"), &json!({"Cmd": ["sh", "-c", "cat; sleep 600"], "Tty": true, "AttachStdin": true, "AttachStdout": true}))?.expect(201)?.json()?;
    let exec = made["Id"].as_str().unwrap_or_default().to_owned();
    let mut stream = ctx.hijack(&format!("/exec/{exec}/start"), Some(&json!({"Tty": true})))?;
    stream.send(b"x\n")?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.send(&[16])?;
    stream.send(&[17])?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn environment_of_container(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "Env": ["FROM=container"], "User": "33", "WorkingDir": "/var"}))?;
    let out = ctx.exec_sh(&id, "echo $FROM; id -u; pwd; echo $HOSTNAME")?;
    same!(out.stdout, format!("container\n33\n/var\n{}\n", &id[..12]));
    Ok(())
}

fn no_leaked_descriptors(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    for out in [
        ctx.exec_sh(&id, "ls -l /proc/self/fd /proc/1/fd")?,
        ctx.sh("d", json!({}), "ls -l /proc/self/fd")?,
    ] {
        let foreign: Vec<&str> = out
            .stdout
            .lines()
            .filter(|l| l.contains(" -> "))
            .filter(|l| {
                !["pipe:", "/dev/null", "/proc/", "/dev/pts", "socket:"]
                    .iter()
                    .any(|known| l.contains(known))
            })
            .collect();
        if !foreign.is_empty() {
            fail!("descriptors of the engine in a container: {foreign:?}");
        }
    }
    Ok(())
}

fn not_attached_output(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let (exec, answer) = start_of(
        ctx,
        &id,
        &json!({"Cmd": ["sh", "-c", "echo out; echo err >&2; exit 2"], "AttachStderr": true}),
    )?;
    let all = frames::all(&mut &answer.body[..])?;
    same!(frames::joined(&all, 1), "");
    same!(frames::joined(&all, 2), "err\n");
    same!(ctx.json(&format!("/exec/{exec}/json"))?["ExitCode"], 2);
    Ok(())
}
