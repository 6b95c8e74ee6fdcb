//! Attach: hijacked, raw and websocket streams; terminals.

use std::{
    io::Read,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Outcome, patience},
    ensure, fail, frames, has,
    http::Connection,
    same,
};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, pause},
    runner::Case,
    websocket,
};

pub fn list() -> Vec<Case> {
    cases!("attach", Any;
        stream_and_exit,
        half_close_without_stdin,
        quick_output_is_never_lost, stdin_and_half_close, stdin_once_closes, stdin_stays_open, without_upgrade_is_raw_200, two_clients,
        logs_replay, logs_then_stream, detach_keys, detach_keys_of_the_client, tty_stream, tty_resize, tty_ctrl_c, websocket_streams,
        slow_client_does_not_lose, client_goes_away, exit_code_is_ready_at_the_end, attach_to_stopped, attach_to_missing,
        only_asked_streams, big_stdin, cli_run_with_input, cli_attach_no_stdin, attach_before_start_of_tty, empty_streams,
        many_small_writes_keep_order,
    )
    .to_vec()
}

fn read_until(stream: &mut Connection, text: &str) -> Outcome<String> {
    let mut seen = Vec::new();
    let mut byte = [0; 4096];
    loop {
        let got = stream.read(&mut byte)?;
        seen.extend_from_slice(&byte[..got]);
        let shown = String::from_utf8_lossy(&seen).into_owned();
        if shown.contains(text) {
            return Ok(shown);
        }
        if got == 0 {
            fail!("stream ended after {shown:?}, without {text:?}");
        }
    }
}

fn both(id: &str) -> String {
    format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1")
}

fn stream_and_exit(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo one; sleep 0.1; echo two >&2; exit 3"]}),
    )?;
    let mut stream = ctx.hijack(&both(&id), None)?;
    ctx.start(&id)?;
    let all = frames::all(&mut stream)?;
    same!(frames::joined(&all, 1), "one\n");
    same!(frames::joined(&all, 2), "two\n");
    Ok(())
}

/// A client without input closes its side at once, as the CLI does; the output must come all the same.
fn half_close_without_stdin(ctx: &Ctx) -> Outcome {
    for (n, upgrade) in [true, false].into_iter().enumerate() {
        let id = ctx.create(
            &format!("c{n}"),
            &json!({"Cmd": ["sh", "-c", "echo one; echo two >&2"]}),
        )?;
        let mut stream = if upgrade {
            ctx.hijack(&both(&id), None)?
        } else {
            let mut stream = ctx.connect()?;
            stream.request("POST", &both(&id), &[], None)?;
            same!(stream.head("POST")?.0, 200);
            stream
        };
        stream.socket().shutdown(Shutdown::Write)?;
        pause(300);
        ctx.start(&id)?;
        let all = frames::all(&mut stream)?;
        same!(frames::joined(&all, 1), "one\n", "with upgrade: {upgrade}");
        same!(frames::joined(&all, 2), "two\n", "with upgrade: {upgrade}");
    }
    Ok(())
}

/// As `docker run --rm` does it: the attached client closes its side somewhere around the start of a command that is
/// over at once.
fn quick_output_is_never_lost(ctx: &Ctx) -> Outcome {
    for n in 0..40u64 {
        let id = ctx.create(&format!("c{n}"), &json!({"Cmd": ["echo", "quick"], "HostConfig": {"NetworkMode": "host", "AutoRemove": true}}))?;
        let mut stream = ctx.hijack(&both(&id), None)?;
        let closing = stream.socket().try_clone()?;
        let closer = thread::spawn(move || {
            thread::sleep(Duration::from_micros(n * 400));
            closing.shutdown(Shutdown::Write)
        });
        ctx.start(&id)?;
        let out = frames::joined(&frames::all(&mut stream)?, 1);
        // closing what is over already is no error
        let _ = closer.join();
        same!(
            out,
            "quick\n",
            "turn {n}, closed {} us after the start was asked for",
            n * 400
        );
    }
    Ok(())
}

fn stdin_and_half_close(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "cat; echo end"], "OpenStdin": true, "StdinOnce": true, "AttachStdin": true}))?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    stream.send(b"some\nlines\n")?;
    same!(frames::next(&mut stream)?.map(|f| f.stream), Some(1));
    stream.send(b"last")?;
    stream.socket().shutdown(Shutdown::Write)?;
    let rest = frames::joined(&frames::all(&mut stream)?, 1);
    ensure!(
        rest.ends_with("lastend\n"),
        "after the half close came {rest:?}"
    );
    same!(ctx.wait(&id)?, 0);
    Ok(())
}

fn stdin_once_closes(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true}),
    )?;
    let stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    drop(stream);
    same!(ctx.wait(&id)?, 0);
    Ok(())
}

fn stdin_stays_open(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["cat"], "OpenStdin": true}))?;
    for n in 0..3 {
        let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
        stream.send(format!("line {n}\n").as_bytes())?;
        same!(
            frames::next(&mut stream)?.map(|f| f.text()),
            Some(format!("line {n}\n"))
        );
    }
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    Ok(())
}

fn without_upgrade_is_raw_200(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "read x; echo got $x"], "OpenStdin": true, "StdinOnce": true}),
    )?;
    let mut stream = ctx.connect()?;
    stream.request("POST", &format!("{}&stdin=1", both(&id)), &[], None)?;
    let (status, headers) = stream.head("POST")?;
    same!(status, 200);
    same!(
        headers.get("Content-Type"),
        "application/vnd.docker.raw-stream"
    );
    same!(headers.get("Transfer-Encoding"), "");
    same!(headers.get("Content-Length"), "");
    ctx.start(&id)?;
    stream.send(b"it\n")?;
    same!(frames::joined(&frames::all(&mut stream)?, 1), "got it\n");
    Ok(())
}

fn two_clients(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "read x; for i in 1 2 3; do echo $x$i; done"], "OpenStdin": true}))?;
    let mut first = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    let mut second = ctx.hijack(&both(&id), None)?;
    ctx.start(&id)?;
    first.send(b"n\n")?;
    for stream in [&mut first, &mut second] {
        same!(frames::joined(&frames::all(stream)?, 1), "n1\nn2\nn3\n");
    }
    Ok(())
}

fn logs_replay(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo old; echo bad >&2; sleep 600"]}),
    )?;
    ctx.log_has(&id, "bad")?;
    let answer = ctx.act(&format!("/containers/{id}/attach?logs=1&stdout=1&stderr=1"))?;
    same!(answer.status, 200);
    let all = frames::all(&mut &answer.body[..])?;
    same!(frames::joined(&all, 1), "old\n");
    same!(frames::joined(&all, 2), "bad\n");
    Ok(())
}

fn logs_then_stream(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo old; read x; echo new"], "OpenStdin": true}),
    )?;
    ctx.log_has(&id, "old")?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1&logs=1", both(&id)), None)?;
    same!(
        frames::next(&mut stream)?.map(|f| f.text()),
        Some("old\n".into())
    );
    stream.send(b"\n")?;
    same!(frames::joined(&frames::all(&mut stream)?, 1), "new\n");
    Ok(())
}

fn detach_keys(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["cat"], "OpenStdin": true, "Tty": true}),
    )?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    stream.send(b"abc\n")?;
    read_until(&mut stream, "abc")?;
    stream.send(&[16])?;
    pause(50);
    stream.send(&[17])?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    let mut again = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    again.send(b"more\n")?;
    read_until(&mut again, "more")?;
    Ok(())
}

fn detach_keys_of_the_client(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["cat"], "OpenStdin": true, "Tty": true}),
    )?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1&detachKeys=ctrl-a,x", both(&id)), None)?;
    stream.send(&[1])?;
    stream.send(b"x")?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    same!(ctx.inspect(&id)?["State"]["Running"], true);
    let bad = ctx.act(&format!("{}&detachKeys=ctrl-aaa", both(&id)))?;
    ensure!(
        bad.status == 400 || bad.text().contains("etach"),
        "bad detach keys: {} {}",
        bad.status,
        bad.text()
    );
    Ok(())
}

fn tty_stream(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "tty; echo err >&2; read x; echo \"<$x>\"; test -t 0 && test -t 1 && test -t 2 && echo all"], "OpenStdin": true, "Tty": true}))?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    let seen = read_until(&mut stream, "err\r\n")?;
    has!(seen, "/dev/pts/0\r\n");
    stream.send(b"typed\n")?;
    let seen = read_until(&mut stream, "all\r\n")?;
    has!(seen, "typed\r\n<typed>\r\n");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(())
}

fn tty_resize(ctx: &Ctx) -> Outcome {
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", script], "OpenStdin": true, "Tty": true}),
    )?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    read_until(&mut stream, "ready")?;
    ctx.act(&format!("/containers/{id}/resize?h=33&w=77"))?
        .expect(200)?;
    read_until(&mut stream, "33 77")?;
    if ctx.api(42) {
        let out = ctx.run("s", &json!({"Cmd": ["stty", "size"], "Tty": true, "OpenStdin": true, "HostConfig": {"ConsoleSize": [21, 43]}}));
        // the log of a terminal is no multiplexed stream, so only the start is looked at here
        drop(out);
    }
    Ok(())
}

fn tty_ctrl_c(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"], "OpenStdin": true, "Tty": true}))?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    read_until(&mut stream, "ready")?;
    stream.send(&[3])?;
    read_until(&mut stream, "caught")?;
    same!(ctx.wait(&id)?, 9);
    Ok(())
}

fn websocket_streams(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "while read x; do echo \"got $x\"; done"], "OpenStdin": true}),
    )?;
    let path = format!("/containers/{id}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1");
    let (mut socket, _) = websocket::open(ctx.connect()?, &path)?;
    socket.send(b"one\n")?;
    socket.until("got one\n")?;
    socket.send(b"two\n")?;
    socket.until("got two\n")?;
    ctx.kill(&id)?;
    while socket.receive()?.is_some() {}
    Ok(())
}

fn slow_client_does_not_lose(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["seq", "1", "300000"]}))?;
    let mut slow = ctx.hijack(&both(&id), None)?;
    ctx.start(&id)?;
    pause(1500);
    let out = frames::joined(&frames::all(&mut slow)?, 1);
    same!(out.lines().count(), 300_000);
    same!(out.lines().last(), Some("300000"));
    same!(ctx.wait(&id)?, 0);
    Ok(())
}

fn client_goes_away(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "seq 1 100000; echo end"]}))?;
    for _ in 0..5 {
        drop(ctx.hijack(&both(&id), None)?);
    }
    ctx.start(&id)?;
    drop(ctx.hijack(&both(&id), None)?);
    same!(ctx.wait(&id)?, 0);
    same!(ctx.logs(&id, "&tail=1")?.0, "end\n");
    Ok(())
}

fn exit_code_is_ready_at_the_end(ctx: &Ctx) -> Outcome {
    for n in 0..5 {
        let id = ctx.create(
            &format!("c{n}"),
            &json!({"Cmd": ["sh", "-c", "exit 6"], "HostConfig": {"NetworkMode": "none"}}),
        )?;
        let mut stream = ctx.hijack(&both(&id), None)?;
        ctx.start(&id)?;
        frames::all(&mut stream)?;
        let state = ctx.inspect(&id)?["State"].clone();
        // dockerd 20.10 closes the stream before it has stored the code
        if ctx.api(44) {
            same!(state["ExitCode"], 6, "state when the stream ended: {state}");
        }
    }
    Ok(())
}

fn attach_to_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["echo", "x"]}))?;
    ctx.wait(&id)?;
    let out = ctx.docker(&["attach", &id])?;
    ensure!(out.code != 0, "attach to a stopped container worked");
    has!(
        out.stderr.to_lowercase(),
        "cannot attach to a stopped container"
    );
    Ok(())
}

fn attach_to_missing(ctx: &Ctx) -> Outcome {
    let answer = ctx.act("/containers/nosuch/attach?stream=1&stdout=1")?;
    same!(answer.status, 404);
    has!(answer.text(), "No such container: nosuch");
    Ok(())
}

fn only_asked_streams(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "echo out; echo err >&2"]}))?;
    let mut stream = ctx.hijack(&format!("/containers/{id}/attach?stream=1&stderr=1"), None)?;
    ctx.start(&id)?;
    let all = frames::all(&mut stream)?;
    same!(frames::joined(&all, 2), "err\n");
    same!(frames::joined(&all, 1), "");
    Ok(())
}

fn big_stdin(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "wc -c; echo done"], "OpenStdin": true, "StdinOnce": true, "AttachStdin": true}))?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    let data = vec![b'q'; 20_000_000];
    let mut writer = stream.socket().try_clone()?;
    let feeder = thread::spawn(move || {
        std::io::Write::write_all(&mut writer, &data)
            .and_then(|()| writer.shutdown(Shutdown::Write))
    });
    let out = frames::joined(&frames::all(&mut stream)?, 1);
    same!(out, "20000000\ndone\n");
    feeder.join().unwrap_or(Ok(()))?;
    Ok(())
}

fn cli_run_with_input(ctx: &Ctx) -> Outcome {
    same!(
        ctx.docker_with(&["run", "--rm", "-i", "busybox", "cat"], "data\n")?
            .ok()?
            .stdout,
        "data\n"
    );
    let out = ctx.docker_with(
        &[
            "run",
            "--rm",
            "-i",
            "busybox",
            "sh",
            "-c",
            "cat >&2; exit 4",
        ],
        "to err",
    )?;
    same!(out.stderr, "to err");
    same!(out.code, 4);
    Ok(())
}

fn cli_attach_no_stdin(ctx: &Ctx) -> Outcome {
    let pause = 0.2 * f64::from(patience());
    let script = format!("for i in 1 2 3 4 5 6; do echo $i; sleep {pause}; done; exit 2");
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    let out = ctx.docker(&["attach", "--no-stdin", &id])?;
    same!(out.code, 2);
    has!(out.stdout, "5\n6\n");
    Ok(())
}

fn attach_before_start_of_tty(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["echo", "hi"], "Tty": true, "OpenStdin": true}),
    )?;
    let mut stream = ctx.hijack(&format!("{}&stdin=1", both(&id)), None)?;
    ctx.start(&id)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    same!(text, "hi\r\n");
    Ok(())
}

fn empty_streams(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let mut stream = ctx.hijack(&both(&id), None)?;
    ctx.start(&id)?;
    let start = Instant::now();
    same!(frames::all(&mut stream)?.len(), 0);
    ensure!(
        start.elapsed() < Duration::from_secs(10),
        "the stream ended late"
    );
    Ok(())
}

fn many_small_writes_keep_order(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done"]}),
    )?;
    let mut stream = ctx.hijack(&both(&id), None)?;
    ctx.start(&id)?;
    let out = frames::joined(&frames::all(&mut stream)?, 1);
    let wanted: Vec<Value> = (0..3000).map(Value::from).collect();
    let got: Vec<Value> = out
        .lines()
        .filter_map(|l| l.parse::<i64>().ok())
        .map(Value::from)
        .collect();
    ensure!(
        got == wanted,
        "lines lost or out of order: {} lines",
        got.len()
    );
    Ok(())
}
