//! Requests whose content is broken: an error of Docker's, and nothing changes.

use e2e::{check::Outcome, ensure, has, same};
use serde_json::json;

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    cases!("bad", Any; malformed_json, wrong_types, content_type, no_body, second_value_after_json, unknown_fields_are_ignored, key_case_is_ignored, start_body_is_ignored, deep_json, invalid_utf8, null_everywhere, query_booleans, huge_numbers,)
        .to_vec()
}

/// Sends a create with this body as it is; the name tells whether something was made.
fn raw_create(ctx: &Ctx, body: &[u8]) -> Outcome<e2e::http::Response> {
    let path = format!("/containers/create?name={}", ctx.name("raw"));
    let answer = ctx.connect()?.call(
        "POST",
        &path,
        &[("Content-Type", "application/json")],
        Some(body),
    )?;
    if answer.status >= 400 {
        same!(
            ctx.get(&format!("/containers/{}/json", ctx.name("raw")))?
                .status,
            404,
            "a refused create left something"
        );
        ensure!(
            !answer.message().is_empty(),
            "no message: {}",
            answer.text()
        );
        same!(answer.headers.get("Content-Type"), "application/json");
    } else {
        ctx.remove(&ctx.name("raw"))?;
    }
    Ok(answer)
}

fn malformed_json(ctx: &Ctx) -> Outcome {
    for body in [
        "{\"Image\":\"busybox\"",
        "{",
        "[",
        "nonsense",
        "{\"Image\":}",
        "{'Image':'busybox'}",
        "{\"Image\":\"busybox\",}",
        "\"",
        "{\"a\":\"\u{1}\"}",
    ] {
        let answer = raw_create(ctx, body.as_bytes())?;
        ensure!(ctx.refused(answer.status), "{body}: {}", answer.status);
        if ctx.api(44) {
            same!(answer.status, 400, "{body}");
            has!(answer.message(), "invalid JSON");
        }
    }
    Ok(())
}

fn wrong_types(ctx: &Ctx) -> Outcome {
    for body in [
        json!([]),
        json!("text"),
        json!(3),
        json!({"Image": 3}),
        json!({"Image": "busybox", "Cmd": 3}),
        json!({"Image": "busybox", "Cmd": [1]}),
        json!({"Image": "busybox", "Env": "A=1"}),
        json!({"Image": "busybox", "HostConfig": "x"}),
        json!({"Image": "busybox", "HostConfig": {"Memory": "much"}}),
        json!({"Image": "busybox", "HostConfig": {"Binds": {"a": 1}}}),
        json!({"Image": "busybox", "Labels": ["a"]}),
        json!({"Image": "busybox", "Tty": "yes"}),
        json!({"Image": "busybox", "HostConfig": {"PortBindings": {"80/tcp": {"HostPort": "1"}}}}),
        json!({"Image": "busybox", "HostConfig": {"Memory": 1.5}}),
        json!({"Image": "busybox", "ExposedPorts": ["80"]}),
        json!({"Image": "busybox", "StopTimeout": "5"}),
    ] {
        let answer = raw_create(ctx, body.to_string().as_bytes())?;
        ensure!(
            ctx.refused(answer.status),
            "{body}: {} {}",
            answer.status,
            answer.text()
        );
    }
    Ok(())
}

fn content_type(ctx: &Ctx) -> Outcome {
    let path = format!("/containers/create?name={}", ctx.name("c"));
    let body = br#"{"Image":"busybox"}"#;
    for kind in [
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/xml",
    ] {
        let answer = ctx
            .connect()?
            .call("POST", &path, &[("Content-Type", kind)], Some(body))?;
        same!(answer.status, 400, "{kind}");
        has!(answer.message(), "must be 'application/json'");
        has!(answer.message(), kind);
    }
    let answer = ctx.connect()?.call(
        "POST",
        &path,
        &[("Content-Type", "application/json; charset=utf-8")],
        Some(body),
    )?;
    same!(answer.status, 201);
    Ok(())
}

fn no_body(ctx: &Ctx) -> Outcome {
    for path in ["/containers/create", "/volumes/create"] {
        let answer = ctx.connect()?.call(
            "POST",
            path,
            &[("Content-Type", "application/json")],
            Some(b""),
        )?;
        if path.starts_with("/volumes") && answer.status == 201 {
            let made = answer.json()?;
            ctx.delete(&format!(
                "/volumes/{}",
                made["Name"].as_str().unwrap_or_default()
            ))?;
        } else {
            ensure!(ctx.refused(answer.status), "{path}: {}", answer.status);
            has!(answer.message(), "EOF");
        }
    }
    let id = ctx.sleeper("c")?;
    let answer = ctx.act(&format!("/containers/{id}/exec"))?;
    ensure!(
        ctx.refused(answer.status),
        "exec without a body: {}",
        answer.status
    );
    Ok(())
}

fn second_value_after_json(ctx: &Ctx) -> Outcome {
    let answer = raw_create(ctx, br#"{"Image":"busybox"}{"Image":"busybox"}"#)?;
    ensure!(
        answer.status == 201 || ctx.refused(answer.status),
        "{}",
        answer.status
    );
    if ctx.api(44) {
        same!(answer.status, 400);
        has!(answer.message(), "unexpected content after JSON");
    }
    Ok(())
}

fn unknown_fields_are_ignored(ctx: &Ctx) -> Outcome {
    let answer = raw_create(
        ctx,
        br#"{"Image":"busybox","Bogus":{"a":[1,2]},"HostConfig":{"AlsoBogus":null}}"#,
    )?;
    same!(answer.status, 201);
    Ok(())
}

fn key_case_is_ignored(ctx: &Ctx) -> Outcome {
    let path = format!("/containers/create?name={}", ctx.name("c"));
    let body = br#"{"image":"busybox","CMD":["sleep","1"],"hostConfig":{"memory":16777216,"networkmode":"none"},"labels":{"CaSe":"KeepMe"}}"#;
    ctx.connect()?
        .call(
            "POST",
            &path,
            &[("Content-Type", "application/json")],
            Some(body),
        )?
        .expect(201)?;
    let got = ctx.inspect(&ctx.name("c"))?;
    same!(got["Config"]["Cmd"], json!(["sleep", "1"]));
    same!(
        (
            &got["HostConfig"]["Memory"],
            &got["HostConfig"]["NetworkMode"]
        ),
        (&json!(16_777_216), &json!("none"))
    );
    same!(got["Config"]["Labels"]["CaSe"], "KeepMe");
    Ok(())
}

fn start_body_is_ignored(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let answer = ctx.connect()?.call(
        "POST",
        &format!("/containers/{id}/start"),
        &[("Content-Type", "application/json")],
        Some(b"{}"),
    )?;
    ensure!(
        answer.status == 204 || answer.status == 400,
        "{}",
        answer.status
    );
    Ok(())
}

fn deep_json(ctx: &Ctx) -> Outcome {
    for depth in [200, 20_000, 200_000] {
        let body = format!(
            "{{\"Image\":\"busybox\",\"X\":{}{}}}",
            "[".repeat(depth),
            "]".repeat(depth)
        );
        // an answer, or a clean close
        if let Ok(answer) = raw_create(ctx, body.as_bytes()) {
            ensure!(
                answer.status == 201 || ctx.refused(answer.status),
                "depth {depth}: {}",
                answer.status
            );
        }
    }
    same!(ctx.get("/_ping")?.status, 200);
    Ok(())
}

fn invalid_utf8(ctx: &Ctx) -> Outcome {
    let answer = raw_create(
        ctx,
        b"{\"Image\":\"busybox\",\"Labels\":{\"a\":\"\xff\xfe\"}}",
    )?;
    ensure!(
        answer.status == 201 || ctx.refused(answer.status),
        "{}",
        answer.status
    );
    let answer = ctx.get("/containers/%ff%fe/json")?;
    ensure!(matches!(answer.status, 400 | 404), "{}", answer.status);
    let answer = ctx.get("/containers/json?filters=%ff")?;
    ensure!(ctx.refused(answer.status), "{}", answer.status);
    Ok(())
}

fn null_everywhere(ctx: &Ctx) -> Outcome {
    let body = json!({"Image": "busybox", "Cmd": null, "Env": null, "Labels": null, "HostConfig": null, "NetworkingConfig": null, "ExposedPorts": null, "Volumes": null, "Entrypoint": null, "Healthcheck": null});
    same!(raw_create(ctx, body.to_string().as_bytes())?.status, 201);
    let body = json!({"Image": "busybox", "HostConfig": {"Binds": null, "PortBindings": null, "Memory": null, "RestartPolicy": null, "LogConfig": null, "Mounts": null, "Ulimits": null}});
    same!(raw_create(ctx, body.to_string().as_bytes())?.status, 201);
    Ok(())
}

fn query_booleans(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let filter = e2e::http::escape(&json!({"id": [id]}).to_string());
    for (value, count) in [
        ("1", 1),
        ("true", 1),
        ("True", 1),
        ("yes", 1),
        ("0", 0),
        ("false", 0),
        ("", 0),
        ("no", 0),
        ("none", 0),
    ] {
        let list = ctx.json(&format!("/containers/json?all={value}&filters={filter}"))?;
        same!(list.as_array().map(Vec::len), Some(count), "all={value}");
    }
    Ok(())
}

fn huge_numbers(ctx: &Ctx) -> Outcome {
    for body in [
        r#"{"Image":"busybox","HostConfig":{"Memory":99999999999999999999}}"#,
        r#"{"Image":"busybox","HostConfig":{"Memory":-99999999999999999999}}"#,
        r#"{"Image":"busybox","StopTimeout":1e400}"#,
    ] {
        let answer = raw_create(ctx, body.as_bytes())?;
        ensure!(ctx.refused(answer.status), "{body}: {}", answer.status);
    }
    let id = ctx.sleeper("c")?;
    for query in ["h=-1&w=5", "h=99999999999&w=5", "h=5"] {
        let status = ctx.act(&format!("/containers/{id}/resize?{query}"))?.status;
        ensure!(
            matches!(status, 200 | 400 | 500),
            "resize?{query}: {status}"
        );
    }
    let status = ctx.act(&format!("/containers/{id}/stop?t=abc"))?.status;
    ensure!(status == 204 || ctx.refused(status), "stop?t=abc: {status}");
    Ok(())
}
