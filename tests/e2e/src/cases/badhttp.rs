//! Connections that are broken, slow, huge or many: an error or a clean close, and nothing changes.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome},
    ensure, has,
    http::Connection,
    same,
};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("bad", Any; unknown_paths, wrong_methods, versions, long_lines, slow_request, half_closed, pipelined, keep_alive, expect_continue, chunked_request, garbage_bytes, client_leaves_mid_body, path_tricks,)
        .to_vec(),
        cases!("bad", Alone; big_bodies, thousand_idle_connections, connection_storm,)
        .to_vec(),
    ]
    .concat()
}

/// Ids of all containers: what a bad request must not change. Only for cases that run alone.
fn census(ctx: &Ctx) -> Outcome<Vec<String>> {
    let list = ctx.json("/containers/json?all=1")?;
    let mut ids: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| Some(c["Id"].as_str()?.to_owned()))
        .collect();
    ids.sort();
    Ok(ids)
}

fn unknown_paths(ctx: &Ctx) -> Outcome {
    for path in [
        "/nosuchpath",
        "/",
        "/containers",
        "/containers/x/y/z",
        "/v1.41",
        "/v1.41/",
        "/v1.41/nosuch",
        "/v1.41/v1.41/info",
        "//containers/json",
    ] {
        let answer = ctx.get(path)?;
        ensure!(
            matches!(answer.status, 404 | 301 | 400),
            "{path}: {}",
            answer.status
        );
    }
    same!(
        ctx.get("/nosuchpath")?.text().trim(),
        r#"{"message":"page not found"}"#
    );
    Ok(())
}

fn wrong_methods(ctx: &Ctx) -> Outcome {
    for (method, path) in [
        ("PUT", "/containers/json"),
        ("GET", "/containers/create"),
        ("DELETE", "/info"),
        ("PATCH", "/version"),
        ("POST", "/containers/json"),
    ] {
        let answer = ctx.call(method, path, None)?;
        ensure!(
            matches!(answer.status, 404 | 405),
            "{method} {path}: {}",
            answer.status
        );
    }
    Ok(())
}

fn versions(ctx: &Ctx) -> Outcome {
    let newest = format!("{}.{}", ctx.world.api.0, ctx.world.api.1);
    let answer = ctx.get("/v1.99/info")?;
    same!(answer.status, 400);
    same!(
        answer.message(),
        format!("client version 1.99 is too new. Maximum supported API version is {newest}")
    );
    for version in ["1.24", "1.30", "1.41", newest.as_str()] {
        same!(
            ctx.get(&format!("/v{version}/info"))?.status,
            200,
            "version {version}"
        );
    }
    if ctx.api(44) {
        let answer = ctx.get("/v1.12/info")?;
        same!(answer.status, 400);
        has!(
            answer.text(),
            "client version 1.12 is too old. Minimum supported API version is"
        );
        has!(
            answer.text(),
            "please upgrade your client to a newer version"
        );
    }
    for version in ["v1", "vx.y", "v1.x", "v-1.40"] {
        let status = ctx.get(&format!("/{version}/info"))?.status;
        ensure!(matches!(status, 400 | 404), "{version}: {status}");
    }
    Ok(())
}

fn long_lines(ctx: &Ctx) -> Outcome {
    for size in [10_000, 2_000_000] {
        let mut connection = ctx.connect()?;
        let path = format!("/containers/{}/json", "a".repeat(size));
        let status = connection
            .call("GET", &path, &[], None)
            .map(|a| a.status)
            .unwrap_or(0);
        ensure!(
            matches!(status, 0 | 400 | 404 | 414 | 431),
            "path of {size}: {status}"
        );
        let mut connection = ctx.connect()?;
        let value = "b".repeat(size);
        let status = connection
            .call("GET", "/_ping", &[("X-Long", &value)], None)
            .map(|a| a.status)
            .unwrap_or(0);
        ensure!(
            matches!(status, 0 | 200 | 400 | 431),
            "header of {size}: {status}"
        );
    }
    same!(ctx.get("/_ping")?.status, 200);
    Ok(())
}

fn slow_request(ctx: &Ctx) -> Outcome {
    let mut stream = UnixStream::connect(&ctx.world.socket)?;
    for byte in b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte])?;
        pause(5);
    }
    let mut text = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.read_to_string(&mut text)?;
    has!(text, "200 OK");
    Ok(())
}

fn half_closed(ctx: &Ctx) -> Outcome {
    // the client has said all it has to say, and still wants its answer
    let mut stream = UnixStream::connect(&ctx.world.socket)?;
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    has!(text, "ApiVersion");
    // and one that closes in the middle of a request
    let mut stream = UnixStream::connect(&ctx.world.socket)?;
    stream.write_all(b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"Image\":")?;
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut text = Vec::new();
    let start = Instant::now();
    let _ = stream.read_to_end(&mut text);
    ensure!(
        start.elapsed() < Duration::from_secs(9),
        "a cut request hangs"
    );
    ensure!(
        !String::from_utf8_lossy(&text).contains("201"),
        "a cut request was obeyed"
    );
    Ok(())
}

fn pipelined(ctx: &Ctx) -> Outcome {
    let mut connection = ctx.connect()?;
    let one = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n";
    connection.send(one.repeat(5).as_bytes())?;
    for _ in 0..5 {
        same!(connection.answer("GET")?.text(), "OK");
    }
    Ok(())
}

fn keep_alive(ctx: &Ctx) -> Outcome {
    let mut connection = ctx.connect()?;
    for _ in 0..20 {
        same!(connection.call("GET", "/_ping", &[], None)?.status, 200);
        same!(
            connection
                .call("GET", "/containers/absent/json", &[], None)?
                .status,
            404
        );
        let answer = connection.call(
            "POST",
            "/containers/create",
            &[("Content-Type", "application/json")],
            Some(br#"{"Image":"absent-image"}"#),
        )?;
        same!(answer.status, 404);
    }
    Ok(())
}

fn expect_continue(ctx: &Ctx) -> Outcome {
    let mut connection = ctx.connect()?;
    let body = br#"{"Image":"absent-image"}"#;
    let length = body.len().to_string();
    connection.request(
        "POST",
        "/containers/create",
        &[
            ("Content-Type", "application/json"),
            ("Expect", "100-continue"),
            ("Content-Length", &length),
        ],
        None,
    )?;
    same!(connection.head("POST")?.0, 100);
    connection.send(body)?;
    same!(connection.answer("POST")?.status, 404);
    Ok(())
}

fn chunked_request(ctx: &Ctx) -> Outcome {
    let mut connection = ctx.connect()?;
    connection.request(
        "POST",
        "/containers/create",
        &[
            ("Content-Type", "application/json"),
            ("Transfer-Encoding", "chunked"),
        ],
        None,
    )?;
    for piece in ["{\"Image\":", "\"absent-image\"}"] {
        connection.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
        pause(20);
    }
    connection.send(b"0\r\n\r\n")?;
    same!(connection.answer("POST")?.status, 404);
    Ok(())
}

fn garbage_bytes(ctx: &Ctx) -> Outcome {
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"hello\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /_ping HTTP/9.9\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nbroken header\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(&ctx.world.socket)?;
        stream.write_all(garbage)?;
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        ensure!(
            ended.is_ok()
                || ended
                    .as_ref()
                    .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
            "{ended:?}"
        );
        ensure!(
            !answer.windows(6).any(|w| w == b"200 OK"),
            "{garbage:?} was answered"
        );
    }
    same!(ctx.get("/_ping")?.status, 200);
    Ok(())
}

fn client_leaves_mid_body(ctx: &Ctx) -> Outcome {
    for _ in 0..20 {
        let mut stream = UnixStream::connect(&ctx.world.socket)?;
        stream.write_all(b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: 100000000\r\n\r\nsome bytes")?;
    }
    for _ in 0..20 {
        let mut stream = UnixStream::connect(&ctx.world.socket)?;
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")?;
    }
    same!(ctx.get("/_ping")?.status, 200);
    Ok(())
}

fn path_tricks(ctx: &Ctx) -> Outcome {
    for name in ["..", "%2e%2e", "..%2f..%2fetc", "%00", ".", "a%0ab"] {
        let answer = ctx.get(&format!("/containers/{name}/json"))?;
        ensure!(
            matches!(answer.status, 301 | 400 | 404),
            "{name}: {}",
            answer.status
        );
        let answer = ctx.get(&format!("/volumes/{name}"))?;
        ensure!(
            matches!(answer.status, 200 | 301 | 400 | 404 | 500),
            "{name}: {}",
            answer.status
        );
        let answer = ctx.post("/volumes/create", &json!({"Name": "../../etc"}))?;
        ensure!(ctx.refused(answer.status), "{}", answer.status);
    }
    Ok(())
}

fn big_bodies(ctx: &Ctx) -> Outcome {
    let before = census(ctx)?;
    let mut connection = ctx.connect()?;
    let length = 100_000_000;
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(b"{\"Image\":\"absent-image\",\"X\":\"");
    body.resize(length - 2, b'a');
    body.extend_from_slice(b"\"}");
    let status = connection
        .call(
            "POST",
            "/containers/create",
            &[("Content-Type", "application/json")],
            Some(&body),
        )
        .map(|a| a.status)
        .unwrap_or(0);
    // refused by size, closed, or read and then refused for its image
    ensure!(matches!(status, 0 | 400 | 404 | 413 | 500), "{status}");
    let mut zip = ctx.connect()?;
    let status = zip
        .call(
            "POST",
            "/volumes/create",
            &[("Content-Type", "application/json")],
            Some(&body),
        )
        .map(|a| a.status)
        .unwrap_or(0);
    ensure!(matches!(status, 0 | 201 | 400 | 413 | 500), "{status}");
    for one in ctx.json("/volumes")?["Volumes"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let name = one["Name"].as_str().unwrap_or_default();
        if status == 201 && name.len() == 64 {
            ctx.delete(&format!("/volumes/{name}"))?;
        }
    }
    same!(census(ctx)?, before);
    same!(ctx.get("/_ping")?.status, 200);
    Ok(())
}

fn thousand_idle_connections(ctx: &Ctx) -> Outcome {
    let before = census(ctx)?;
    let mut idle = Vec::new();
    for n in 0..1000 {
        let mut stream = UnixStream::connect(&ctx.world.socket)
            .map_err(|e| Fail(format!("connection {n}: {e}")))?;
        match n % 3 {
            0 => {}
            1 => stream.write_all(b"GET /_ping HTTP/1.1\r\nHost")?,
            _ => stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")?,
        }
        idle.push(stream);
    }
    let start = Instant::now();
    let out = ctx.run("c", &json!({"Cmd": ["echo", "x"]}))?;
    same!(out.line(), "x");
    ensure!(
        start.elapsed() < Duration::from_secs(15),
        "a run took {:?}",
        start.elapsed()
    );
    drop(idle);
    same!(census(ctx)?, before);
    Ok(())
}

fn connection_storm(ctx: &Ctx) -> Outcome {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    for _ in 0..50 {
                        let mut connection = Connection::open(&ctx.world.socket)?;
                        let value: Value = connection.call("GET", "/version", &[], None)?.json()?;
                        ensure!(value["ApiVersion"].is_string(), "{value}");
                    }
                    Ok(())
                })
            })
            .collect();
        all.into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|_| Err(Fail("panic".into()))))
    })
}
