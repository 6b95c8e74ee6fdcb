//! What a user of the socket types first.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use e2e::{
    check::{Fail, Outcome},
    fail, has, same,
};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, now},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("walkthrough", Any; curl_create_ps_start, events_stream_of_docker_run, socket_inside_a_terminal, run_is_create_attach_wait_start)
        .to_vec()
}

fn curl(ctx: &Ctx, words: &[&str]) -> Outcome<String> {
    let mut command = Command::new("curl");
    command
        .args(["-s", "-w", " %{http_code}", "--unix-socket"])
        .arg(&ctx.world.socket)
        .args(words);
    Ok(ctx.command(command, "")?.ok()?.stdout)
}

fn curl_create_ps_start(ctx: &Ctx) -> Outcome {
    let name = ctx.name("c");
    let url = format!("http://localhost/containers/create?name={name}");
    let body = r#"{"Image":"busybox","Cmd":["sleep","600"]}"#;
    let made = curl(
        ctx,
        &[
            "-XPOST",
            "-d",
            body,
            "-H",
            "Content-Type: application/json",
            &url,
        ],
    )?;
    let Some((answer, status)) = made.rsplit_once(' ') else {
        fail!("no status in {made:?}");
    };
    same!(status, "201");
    let value: Value = serde_json::from_str(answer)?;
    let id = value["Id"].as_str().unwrap_or_default();
    same!(id.len(), 64);
    same!(value["Warnings"], json!([]));
    let listed = ctx.docker(&[
        "ps",
        "-a",
        "--filter",
        &format!("name={name}"),
        "--format",
        "{{.Status}}|{{.Image}}|{{.Names}}",
    ])?;
    same!(listed.ok()?.line(), format!("Created|busybox|{name}"));
    same!(
        ctx.docker(&["ps", "-q", "--filter", &format!("name={name}")])?
            .ok()?
            .line(),
        ""
    );
    let start = format!("http://localhost/containers/{id}/start");
    same!(curl(ctx, &["-XPOST", &start])?, " 204");
    same!(curl(ctx, &["-XPOST", &start])?, " 304");
    has!(
        ctx.docker(&[
            "ps",
            "--filter",
            &format!("name={name}"),
            "--format",
            "{{.Status}}"
        ])?
        .ok()?
        .stdout,
        "Up "
    );
    Ok(())
}

fn events_stream_of_docker_run(ctx: &Ctx) -> Outcome {
    let mut stream = ctx.connect()?;
    stream.request("GET", "/events", &[], None)?;
    let (status, headers) = stream.head("GET")?;
    same!(status, 200);
    same!(headers.get("Transfer-Encoding"), "chunked");
    let name = ctx.name("run");
    ctx.docker(&["run", "-d", "--name", &name, "busybox", "sleep", "600"])?
        .ok()?;
    let mut mine = String::new();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let Some(line) = stream.body_line()? else {
            fail!("the stream of events ended");
        };
        let event: Value = serde_json::from_str(&line)?;
        let attributes = &event["Actor"]["Attributes"];
        if attributes["name"] == name.as_str() {
            mine = event["Actor"]["ID"].as_str().unwrap_or_default().to_owned();
        } else if mine.is_empty() || attributes["container"] != mine.as_str() {
            continue;
        }
        let action = event["Action"].as_str().unwrap_or_default();
        if action != "attach" {
            let what = attributes["name"]
                .as_str()
                .filter(|n| *n == "bridge")
                .unwrap_or("");
            seen.push(format!(
                "{} {action}{}{what}",
                event["Type"].as_str().unwrap_or_default(),
                if what.is_empty() { "" } else { " " }
            ));
        }
    }
    same!(
        seen,
        [
            "container create",
            "network connect bridge",
            "container start"
        ]
    );
    Ok(())
}

/// `docker run -v /var/run/docker.sock:/var/run/docker.sock -ti IMAGE sh`, and the events seen from inside.
fn socket_inside_a_terminal(ctx: &Ctx) -> Outcome {
    let name = ctx.name("inside");
    let me = std::env::current_exe()?;
    let since = now();
    // The stream ends by itself, so that the terminal does; other cases' events stay out of it.
    let filters = format!("%7B%22container%22%3A%5B%22{name}%22%5D%7D");
    let line = format!(
        "docker run --rm -ti --name {name} -v {}:/var/run/docker.sock -v {}:/bin/probe:ro busybox sh -c 'tty; probe get /var/run/docker.sock \"/events?since={since}&until=$(($(date +%s)+3))&filters={filters}\"'",
        ctx.world.socket.display(),
        me.display(),
    );
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // what happens outside while the terminal listens
        let (over, container) = (&over, name.as_str());
        let outside = scope.spawn(move || -> Outcome {
            let exec = json!({"Cmd": ["true"]});
            while !over.load(Ordering::Relaxed) {
                let path = format!("/containers/{container}/exec");
                if ctx.post(&path, &exec)?.status == 201 {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]);
        let out = ctx.command(script, "");
        over.store(true, Ordering::Relaxed);
        outside
            .join()
            .unwrap_or_else(|_| Err(Fail("the outside panicked".into())))?;
        let text = out?.ok()?.stdout;
        has!(text, "/dev/pts/0");
        has!(text, name.as_str());
        has!(text, "\"Action\":\"create\"");
        has!(text, "\"Action\":\"attach\"");
        has!(text, "\"Action\":\"start\"");
        has!(text, "\"Action\":\"exec_create: true");
        Ok(())
    })
}

/// What `docker run` sends, by hand: create, attach, wait, start.
fn run_is_create_attach_wait_start(ctx: &Ctx) -> Outcome {
    let name = ctx.name("by-hand");
    let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", "echo out; echo err >&2; exit 7"], "AttachStdout": true, "AttachStderr": true});
    let made = ctx
        .post(&format!("/containers/create?name={name}"), &body)?
        .expect(201)?
        .json()?;
    let id = made["Id"].as_str().unwrap_or_default();
    let mut attached = ctx.hijack(
        &format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1"),
        None,
    )?;
    let mut waiting = ctx.connect()?;
    waiting.request(
        "POST",
        &format!("/containers/{id}/wait?condition=next-exit"),
        &[],
        None,
    )?;
    // the client starts only after these headers have come
    same!(waiting.head("POST")?.0, 200);
    ctx.start(id)?;
    let frames = e2e::frames::all(&mut attached)?;
    same!(e2e::frames::joined(&frames, 1), "out\n");
    same!(e2e::frames::joined(&frames, 2), "err\n");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut waiting, &mut text)?;
    same!(serde_json::from_str::<Value>(&text)?["StatusCode"], 7);
    Ok(())
}
