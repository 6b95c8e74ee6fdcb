//! What the log endpoint gives.

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Outcome, patience},
    ensure, fail, frames, has, same,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    cases::cases,
    context::{Ctx, now, pause, seconds},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("logs", Any;
        one_line_is_one_frame, streams_apart, tail, since_and_until, since_with_fraction, timestamps, follow, follow_of_ended,
        follow_ends_at_exit, follow_with_tail_and_until, unfinished_last_line, no_stream_asked, tty_is_raw, partial_lines_of_a_long_line,
        ten_megabyte_line, hundred_megabytes_are_complete, binary_bytes, details_and_labels, two_followers, log_of_created,
        survives_restart_of_container, rotation_keeps_the_tail, cli_follow, driver_none, bad_values,
    )
    .to_vec()
}

fn done(ctx: &Ctx, script: &str) -> Outcome<String> {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    ctx.wait(&id)?;
    Ok(id)
}

fn one_line_is_one_frame(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "printf 'a\\nb\\n\\nc\\n'; printf 'x\\ny\\n'")?;
    let lines: Vec<String> = ctx
        .log_frames(&id, "")?
        .iter()
        .map(frames::Frame::text)
        .collect();
    same!(lines, ["a\n", "b\n", "\n", "c\n", "x\n", "y\n"]);
    Ok(())
}

fn streams_apart(ctx: &Ctx) -> Outcome {
    let id = done(
        ctx,
        "echo out1; sleep 0.1; echo err1 >&2; sleep 0.1; echo out2",
    )?;
    let all: Vec<(u8, String)> = ctx
        .log_frames(&id, "")?
        .iter()
        .map(|f| (f.stream, f.text()))
        .collect();
    same!(
        all,
        [
            (1, "out1\n".into()),
            (2, "err1\n".into()),
            (1, "out2\n".into())
        ]
    );
    let path = |query: &str| format!("/containers/{id}/logs?{query}");
    let only = frames::all(&mut &ctx.get(&path("stderr=1"))?.body[..])?;
    same!(frames::joined(&only, 2), "err1\n");
    same!(frames::joined(&only, 1), "");
    let only = frames::all(&mut &ctx.get(&path("stdout=true&stderr=0"))?.body[..])?;
    same!(frames::joined(&only, 1), "out1\nout2\n");
    same!(frames::joined(&only, 2), "");
    Ok(())
}

fn tail(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "for i in 1 2 3 4 5; do echo $i; done")?;
    for (tail, wanted) in [
        ("all", "1\n2\n3\n4\n5\n"),
        ("2", "4\n5\n"),
        ("0", ""),
        ("100", "1\n2\n3\n4\n5\n"),
        ("-1", "1\n2\n3\n4\n5\n"),
    ] {
        same!(
            ctx.logs(&id, &format!("&tail={tail}"))?.0,
            wanted,
            "tail={tail}"
        );
    }
    Ok(())
}

fn since_and_until(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "echo a; sleep 1.2; echo b; sleep 1.2; echo c")?;
    let stamped = ctx.logs(&id, "&timestamps=1")?.0;
    let times: Vec<&str> = stamped
        .lines()
        .filter_map(|l| l.split(' ').next())
        .collect();
    same!(times.len(), 3);
    same!(
        ctx.logs(&id, &format!("&since={}", seconds(times[1])?))?.0,
        "b\nc\n",
        "since is inclusive"
    );
    same!(
        ctx.logs(&id, &format!("&until={}", seconds(times[1])?))?.0,
        "a\nb\n",
        "until is inclusive"
    );
    same!(ctx.logs(&id, "&since=1&until=2")?.0, "");
    same!(ctx.logs(&id, "&since=0")?.0, "a\nb\nc\n");
    Ok(())
}

fn since_with_fraction(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo a; sleep 0.6; echo b; sleep 600"]}),
    )?;
    ctx.log_has(&id, "a")?;
    pause(150);
    let middle = now();
    ctx.log_has(&id, "b")?;
    same!(ctx.logs(&id, &format!("&since={middle}"))?.0, "b\n");
    same!(ctx.logs(&id, &format!("&until={middle}"))?.0, "a\n");
    Ok(())
}

fn timestamps(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "echo hello world")?;
    let out = ctx.logs(&id, "&timestamps=1")?.0;
    let Some((time, text)) = out.split_once(' ') else {
        fail!("no time in {out:?}");
    };
    same!(text, "hello world\n");
    ensure!(
        time.len() == 30 && time.ends_with('Z') && time.as_bytes()[19] == b'.',
        "nine digits of nanoseconds: {time}"
    );
    Ok(())
}

fn follow(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo early; read x; echo got $x; read y"], "OpenStdin": true}),
    )?;
    ctx.log_has(&id, "early")?;
    let mut stream = ctx.connect()?;
    stream.request(
        "GET",
        &format!("/containers/{id}/logs?follow=1&stdout=1&stderr=1"),
        &[],
        None,
    )?;
    same!(stream.head("GET")?.0, 200);
    same!(
        frames::next(&mut stream)?.map(|f| f.text()),
        Some("early\n".into())
    );
    let mut input = ctx.hijack(&format!("/containers/{id}/attach?stream=1&stdin=1"), None)?;
    input.send(b"this\n")?;
    let start = Instant::now();
    same!(
        frames::next(&mut stream)?.map(|f| f.text()),
        Some("got this\n".into())
    );
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "line came after {:?}",
        start.elapsed()
    );
    ctx.kill(&id)?;
    same!(frames::next(&mut stream)?, None);
    Ok(())
}

fn follow_of_ended(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "echo x")?;
    same!(ctx.logs(&id, "&follow=1")?.0, "x\n");
    Ok(())
}

fn follow_ends_at_exit(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"]}),
    )?;
    same!(ctx.logs(&id, "&follow=1")?.0, "1\n2\n3\n");
    Ok(())
}

fn follow_with_tail_and_until(ctx: &Ctx) -> Outcome {
    let pause = 0.7 * f64::from(patience());
    let script = format!("echo a; echo b; sleep {pause}; echo c; sleep 0.3");
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    ctx.log_has(&id, "b")?;
    same!(ctx.logs(&id, "&follow=1&tail=1")?.0, "b\nc\n");
    same!(ctx.logs(&id, "&follow=1&tail=0")?.0, "");
    Ok(())
}

fn unfinished_last_line(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "printf 'no end'")?;
    same!(ctx.logs(&id, "")?.0, "no end");
    Ok(())
}

fn no_stream_asked(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "echo x")?;
    let answer = ctx.get(&format!("/containers/{id}/logs"))?;
    same!(answer.status, 400);
    has!(answer.message(), "you must choose at least one stream");
    same!(ctx.get("/containers/nosuch/logs?stdout=1")?.status, 404);
    Ok(())
}

fn tty_is_raw(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Tty": true, "Cmd": ["echo", "hi"]}))?;
    ctx.wait(&id)?;
    let answer = ctx.get(&format!("/containers/{id}/logs?stdout=1"))?;
    same!(answer.text(), "hi\r\n");
    if ctx.api(42) {
        same!(
            answer.headers.get("Content-Type"),
            "application/vnd.docker.raw-stream"
        );
        let id = done_named(ctx, "d", "echo x")?;
        let answer = ctx.get(&format!("/containers/{id}/logs?stdout=1"))?;
        same!(
            answer.headers.get("Content-Type"),
            "application/vnd.docker.multiplexed-stream"
        );
    }
    Ok(())
}

fn done_named(ctx: &Ctx, name: &str, script: &str) -> Outcome<String> {
    let id = ctx.launch(name, &json!({"Cmd": ["sh", "-c", script]}))?;
    ctx.wait(&id)?;
    Ok(id)
}

fn partial_lines_of_a_long_line(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "head -c 40000 /dev/zero | tr '\\0' a; echo; echo end")?;
    let (out, _) = ctx.logs(&id, "")?;
    same!(out.len(), 40_005);
    ensure!(
        out.ends_with("a\nend\n"),
        "end of the log: {:?}",
        &out[out.len() - 8..]
    );
    same!(out.matches('\n').count(), 2);
    Ok(())
}

fn ten_megabyte_line(ctx: &Ctx) -> Outcome {
    let id = done(
        ctx,
        "head -c 10000000 /dev/zero | tr '\\0' z; echo; echo end",
    )?;
    let (out, _) = ctx.logs(&id, "")?;
    same!(out.len(), 10_000_005);
    same!(out.matches('z').count(), 10_000_000);
    Ok(())
}

fn hundred_megabytes_are_complete(ctx: &Ctx) -> Outcome {
    // 1,250,000 numbered lines of 80 bytes
    let script = "seq 1000001 2250000 | sed 's/$/ abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqr/'";
    let mut expected = Sha256::new();
    for n in 1_000_001..=2_250_000 {
        expected.update(format!(
            "{n} abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqr\n"
        ));
    }
    let expected = expected.finalize();
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", script]}))?;
    let attached = ctx.hijack(
        &format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1"),
        None,
    )?;
    thread::scope(|scope| {
        let live = scope.spawn(move || sum(attached));
        ctx.start(&id)?;
        same!(ctx.wait(&id)?, 0);
        let live = live.join().unwrap_or_else(|_| Ok((Vec::new(), 0)))?;
        same!(live.1, 98_750_000, "bytes by attach");
        same!(live.0, expected.to_vec(), "checksum by attach");
        let mut stream = ctx.connect()?;
        stream.request("GET", &format!("/containers/{id}/logs?stdout=1"), &[], None)?;
        same!(stream.head("GET")?.0, 200);
        let logged = sum(stream)?;
        same!(logged.1, 98_750_000, "bytes in the log");
        same!(logged.0, expected.to_vec(), "checksum of the log");
        Ok(())
    })
}

fn sum(mut stream: impl Read) -> Outcome<(Vec<u8>, usize)> {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffered = std::io::BufReader::with_capacity(1 << 20, &mut stream);
    while let Some(frame) = frames::next(&mut buffered)? {
        hash.update(&frame.data);
        bytes += frame.data.len();
    }
    Ok((hash.finalize().to_vec(), bytes))
}

fn binary_bytes(ctx: &Ctx) -> Outcome {
    let id = done(
        ctx,
        "printf '\\033[1mbold\\033[0m\\ttab \"q\" \\\\ \\303\\244 \\342\\202\\254\\n'",
    )?;
    same!(
        ctx.logs(&id, "")?.0,
        "\u{1b}[1mbold\u{1b}[0m\ttab \"q\" \\ ä €\n"
    );
    Ok(())
}

fn details_and_labels(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["echo", "x"], "Env": ["A=1"], "Labels": {"l": "2"},
        "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"labels": "l", "env": "A"}}}});
    let id = ctx.launch("c", &body)?;
    ctx.wait(&id)?;
    let out = ctx.logs(&id, "&details=1")?.0;
    ensure!(
        out == "A=1,l=2 x\n" || out == "l=2,A=1 x\n",
        "details: {out:?}"
    );
    same!(
        ctx.inspect(&id)?["HostConfig"]["LogConfig"],
        json!({"Type": "json-file", "Config": {"labels": "l", "env": "A"}})
    );
    Ok(())
}

fn two_followers(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "for i in $(seq 1 200); do echo $i; done; sleep 0.3; echo end"]}))?;
    thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| ctx.logs(&id, "&follow=1")))
            .collect();
        for one in all {
            let (out, _) = one.join().unwrap_or_else(|_| Ok(Default::default()))?;
            same!(out.lines().count(), 201);
        }
        Ok(())
    })
}

fn log_of_created(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    same!(ctx.logs(&id, "")?.0, "");
    Ok(())
}

fn survives_restart_of_container(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["echo", "once"]}))?;
    ctx.wait(&id)?;
    ctx.start(&id)?;
    ctx.wait(&id)?;
    same!(ctx.logs(&id, "")?.0, "once\nonce\n");
    Ok(())
}

fn rotation_keeps_the_tail(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["seq", "1", "20000"],
        "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "100k", "max-file": "3"}}}});
    let id = ctx.launch("c", &body)?;
    same!(ctx.wait(&id)?, 0);
    let (out, _) = ctx.logs(&id, "")?;
    let numbers: Vec<u32> = out.lines().filter_map(|l| l.parse().ok()).collect();
    same!(numbers.last(), Some(&20_000));
    ensure!(
        numbers.len() > 1000 && numbers.len() < 10_000,
        "{} lines kept",
        numbers.len()
    );
    ensure!(
        numbers.windows(2).all(|w| w[1] == w[0] + 1),
        "a gap in the log"
    );
    same!(ctx.logs(&id, "&tail=3")?.0, "19998\n19999\n20000\n");
    Ok(())
}

fn cli_follow(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo a; sleep 0.3; echo b >&2; exit 1"]}),
    )?;
    let out = ctx.docker(&["logs", "-f", &id])?.ok()?;
    same!(out.stdout, "a\n");
    same!(out.stderr, "b\n");
    same!(ctx.docker(&["logs", "--tail", "1", &id])?.stderr, "b\n");
    Ok(())
}

fn driver_none(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["echo", "x"], "HostConfig": {"LogConfig": {"Type": "none"}}}),
    )?;
    ctx.wait(&id)?;
    let answer = ctx.get(&format!("/containers/{id}/logs?stdout=1"))?;
    ensure!(
        answer.status >= 400 || answer.text().contains("does not support reading"),
        "{} {}",
        answer.status,
        answer.text()
    );
    has!(
        answer.text(),
        "configured logging driver does not support reading"
    );
    Ok(())
}

fn bad_values(ctx: &Ctx) -> Outcome {
    let id = done(ctx, "echo x")?;
    for query in ["since=yesterday", "until=x"] {
        let answer = ctx.get(&format!("/containers/{id}/logs?stdout=1&{query}"))?;
        ensure!(
            answer.status == 400 || answer.status == 500,
            "{query}: {}",
            answer.status
        );
    }
    // an unreadable tail means all
    same!(ctx.logs(&id, "&tail=many")?.0, "x\n");
    let answer = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "nosuchdriver"}}}),
    )?;
    ensure!(answer.status >= 400, "unknown driver accepted");
    has!(answer.message(), "nosuchdriver");
    Ok(())
}
