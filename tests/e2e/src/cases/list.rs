//! The list of containers, and inspect.

use e2e::{check::Outcome, ensure, has, http::escape, same};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("list", Any;
            all_or_running, fields, filter_status, filter_name_is_a_pattern, filter_id, filter_label, filter_ancestor, filter_exited,
            filter_volume, filter_network, filter_publish_and_expose, filter_before_and_since, filters_combined, filters_of_old_clients,
            bad_filters, limit, size, cli_table, status_texts, command_text, ports_shown,
        )
        .to_vec(),
    ]
    .concat()
}

/// Short names (without the case's prefix) that a filter finds, sorted.
fn found(ctx: &Ctx, filters: &Value) -> Outcome<Vec<String>> {
    let mut full = filters.clone();
    if full.get("label").is_none() {
        full["label"] = json!([format!("e2e={}", ctx.prefix)]);
    }
    let list = ctx.json(&format!(
        "/containers/json?all=1&filters={}",
        escape(&full.to_string())
    ))?;
    let own = format!("/{}.", ctx.prefix);
    let mut names: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| Some(c["Names"][0].as_str()?.strip_prefix(&own)?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn all_or_running(ctx: &Ctx) -> Outcome {
    ctx.create("made", &json!({}))?;
    ctx.sleeper("up")?;
    same!(found(ctx, &json!({}))?, ["made", "up"]);
    let filter = escape(&json!({"label": [format!("e2e={}", ctx.prefix)]}).to_string());
    let list = ctx.json(&format!("/containers/json?filters={filter}"))?;
    same!(list.as_array().map(Vec::len), Some(1));
    same!(list[0]["State"], "running");
    Ok(())
}

fn one(ctx: &Ctx, id: &str, query: &str) -> Outcome<Value> {
    let filter = escape(&json!({"id": [id]}).to_string());
    let list = ctx.json(&format!("/containers/json?all=1&filters={filter}{query}"))?;
    same!(list.as_array().map(Vec::len), Some(1));
    Ok(list[0].clone())
}

fn fields(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "Labels": {"a": "b"}}))?;
    let row = one(ctx, &id, "")?;
    same!(row["Id"], id.as_str());
    same!(row["Names"], json!([format!("/{}", ctx.name("c"))]));
    same!(row["Image"], "busybox");
    same!(row["Command"], "sleep 600");
    same!(row["State"], "running");
    has!(row["Status"].as_str().unwrap_or_default(), "Up ");
    same!(row["Labels"]["a"], "b");
    ensure!(
        row["Created"].as_i64().unwrap_or_default() > 1_600_000_000,
        "Created {}",
        row["Created"]
    );
    same!(
        row["HostConfig"]["NetworkMode"],
        if ctx.api(44) { "bridge" } else { "default" }
    );
    has!(
        row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            .as_str()
            .unwrap_or_default(),
        "."
    );
    has!(
        row["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
            .as_str()
            .unwrap_or_default(),
        "."
    );
    same!(row["Ports"], json!([]));
    same!(row["Mounts"], json!([]));
    same!(row["SizeRw"], Value::Null);
    Ok(())
}

fn filter_status(ctx: &Ctx) -> Outcome {
    ctx.create("made", &json!({}))?;
    ctx.sleeper("up")?;
    let id = ctx.launch("done", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&id)?;
    same!(found(ctx, &json!({"status": ["created"]}))?, ["made"]);
    same!(found(ctx, &json!({"status": ["running"]}))?, ["up"]);
    same!(found(ctx, &json!({"status": ["exited"]}))?, ["done"]);
    same!(
        found(ctx, &json!({"status": ["exited", "created"]}))?,
        ["done", "made"]
    );
    same!(
        found(ctx, &json!({"status": ["paused"]}))?,
        Vec::<String>::new()
    );
    Ok(())
}

fn filter_name_is_a_pattern(ctx: &Ctx) -> Outcome {
    ctx.create("one", &json!({}))?;
    ctx.create("one2", &json!({}))?;
    let (one, both) = (ctx.name("one"), ["one".to_owned(), "one2".to_owned()]);
    same!(found(ctx, &json!({"name": [one]}))?, both);
    same!(found(ctx, &json!({"name": [format!("^{one}$")]}))?, ["one"]);
    same!(
        found(ctx, &json!({"name": [format!("^/{one}$")]}))?,
        ["one"]
    );
    same!(found(ctx, &json!({"name": [format!("/{one}")]}))?, both);
    same!(found(ctx, &json!({"name": ["absent", one]}))?, both);
    Ok(())
}

fn filter_id(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    ctx.create("d", &json!({}))?;
    same!(found(ctx, &json!({"id": [id]}))?, ["c"]);
    same!(found(ctx, &json!({"id": [id[..12]]}))?, ["c"]);
    Ok(())
}

fn filter_label(ctx: &Ctx) -> Outcome {
    let mine = format!("e2e={}", ctx.prefix);
    ctx.create("c", &json!({"Labels": {"k": "1", "z": ""}}))?;
    ctx.create("d", &json!({"Labels": {"k": "2"}}))?;
    for (labels, wanted) in [
        (json!([mine, "k"]), vec!["c", "d"]),
        (json!([mine, "k=1"]), vec!["c"]),
        (json!([mine, "k", "z"]), vec!["c"]),
        (json!([mine, "k=1", "k=2"]), vec![]),
        (json!([mine, "z="]), vec!["c"]),
    ] {
        same!(
            found(ctx, &json!({"label": labels}))?,
            wanted,
            "labels {labels}"
        );
    }
    Ok(())
}

fn filter_ancestor(ctx: &Ctx) -> Outcome {
    ctx.create("c", &json!({}))?;
    ctx.create("h", &json!({"Image": "hello-world"}))?;
    let id = ctx.json("/images/busybox/json")?["Id"].clone();
    for image in [json!("busybox"), json!("busybox:latest"), id.clone()] {
        same!(
            found(ctx, &json!({"ancestor": [image]}))?,
            ["c"],
            "ancestor {image}"
        );
    }
    same!(
        found(ctx, &json!({"ancestor": ["busybox", "hello-world"]}))?,
        ["c", "h"]
    );
    Ok(())
}

fn filter_exited(ctx: &Ctx) -> Outcome {
    for code in [0, 3] {
        let id = ctx.launch(
            &format!("c{code}"),
            &json!({"Cmd": ["sh", "-c", format!("exit {code}")]}),
        )?;
        ctx.wait(&id)?;
    }
    same!(found(ctx, &json!({"exited": ["3"]}))?, ["c3"]);
    same!(found(ctx, &json!({"exited": ["0", "3"]}))?, ["c0", "c3"]);
    let bad = ctx.get(&format!(
        "/containers/json?filters={}",
        escape(r#"{"exited":["x"]}"#)
    ))?;
    ensure!(bad.status >= 400, "exited=x: {}", bad.status);
    Ok(())
}

fn filter_volume(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{volume}:/data"), "/tmp:/hosttmp"]}}),
    )?;
    ctx.create("d", &json!({}))?;
    for filter in [volume.as_str(), "/data", "/hosttmp", "/tmp"] {
        same!(
            found(ctx, &json!({"volume": [filter]}))?,
            ["c"],
            "volume {filter}"
        );
    }
    Ok(())
}

fn filter_network(ctx: &Ctx) -> Outcome {
    ctx.launch("b", &json!({"Cmd": ["sleep", "600"]}))?;
    ctx.launch(
        "n",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}}),
    )?;
    same!(found(ctx, &json!({"network": ["bridge"]}))?, ["b"]);
    same!(found(ctx, &json!({"network": ["none"]}))?, ["n"]);
    let id = ctx.json("/networks/bridge")?["Id"].clone();
    same!(found(ctx, &json!({"network": [id]}))?, ["b"]);
    Ok(())
}

fn filter_publish_and_expose(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["sleep", "600"], "ExposedPorts": {"81/tcp": {}, "18482/udp": {}}, "HostConfig": {"PortBindings": {"18482/udp": [{"HostPort": "18482"}]}}});
    ctx.launch("c", &body)?;
    same!(found(ctx, &json!({"expose": ["81/tcp"]}))?, ["c"]);
    same!(found(ctx, &json!({"expose": ["81"]}))?, ["c"]);
    same!(found(ctx, &json!({"expose": ["80-85/tcp"]}))?, ["c"]);
    same!(found(ctx, &json!({"publish": ["18482/udp"]}))?, ["c"]);
    same!(
        found(ctx, &json!({"publish": ["81"]}))?,
        Vec::<String>::new()
    );
    Ok(())
}

fn filter_before_and_since(ctx: &Ctx) -> Outcome {
    for name in ["a", "b", "c"] {
        ctx.create(name, &json!({}))?;
    }
    same!(found(ctx, &json!({"before": [ctx.name("b")]}))?, ["a"]);
    same!(found(ctx, &json!({"since": [ctx.name("b")]}))?, ["c"]);
    let bad = ctx.get(&format!(
        "/containers/json?filters={}",
        escape(r#"{"before":["absent"]}"#)
    ))?;
    same!(bad.status, if ctx.api(44) { 404 } else { 500 });
    Ok(())
}

fn filters_combined(ctx: &Ctx) -> Outcome {
    ctx.sleeper("up")?;
    ctx.create("made", &json!({}))?;
    same!(
        found(
            ctx,
            &json!({"name": [ctx.name("")], "status": ["running"], "ancestor": ["busybox"]})
        )?,
        ["up"]
    );
    same!(
        found(
            ctx,
            &json!({"name": [ctx.name("made")], "status": ["running"]})
        )?,
        Vec::<String>::new()
    );
    Ok(())
}

fn filters_of_old_clients(ctx: &Ctx) -> Outcome {
    ctx.create("c", &json!({}))?;
    let filter = escape(&json!({"label": {format!("e2e={}", ctx.prefix): true}}).to_string());
    same!(
        ctx.json(&format!("/containers/json?all=1&filters={filter}"))?
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    Ok(())
}

fn bad_filters(ctx: &Ctx) -> Outcome {
    for filters in [
        "notjson",
        "[]",
        "{\"name\":3}",
        "{\"bogus\":[\"x\"]}",
        "{\"status\":[\"flying\"]}",
        "{\"is-task\":[\"maybe\"]}",
    ] {
        let answer = ctx.get(&format!("/containers/json?filters={}", escape(filters)))?;
        ensure!(
            answer.status == 400 || (answer.status == 500 && !ctx.api(44)),
            "{filters}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(!answer.message().is_empty(), "{filters}: no message");
    }
    Ok(())
}

fn limit(ctx: &Ctx) -> Outcome {
    for name in ["a", "b", "c"] {
        ctx.create(name, &json!({}))?;
    }
    let filter = escape(&json!({"label": [format!("e2e={}", ctx.prefix)]}).to_string());
    let list = ctx.json(&format!("/containers/json?limit=2&filters={filter}"))?;
    let names: Vec<&Value> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| &c["Names"][0])
        .collect();
    same!(
        names,
        [
            &json!(format!("/{}", ctx.name("c"))),
            &json!(format!("/{}", ctx.name("b")))
        ],
        "newest first, also those that do not run"
    );
    let bad = ctx.get("/containers/json?limit=x")?.status;
    ensure!(ctx.refused(bad), "limit=x: {bad}");
    Ok(())
}

fn size(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "head -c 5000 /dev/zero > /f; sleep 600"]}),
    )?;
    e2e::check::until(10, "the file", || {
        Ok((ctx.exec_sh(&id, "wc -c < /f")?.line() == "5000").then_some(()))
    })?;
    let row = one(ctx, &id, "&size=1")?;
    let (rw, root) = (
        row["SizeRw"].as_i64().unwrap_or_default(),
        row["SizeRootFs"].as_i64().unwrap_or_default(),
    );
    ensure!((5000..100_000).contains(&rw), "SizeRw {rw}");
    ensure!(root > 1_000_000, "SizeRootFs {root}");
    Ok(())
}

fn cli_table(ctx: &Ctx) -> Outcome {
    ctx.sleeper("c")?;
    let out = ctx
        .docker(&["ps", "--filter", &format!("name={}", ctx.name("c"))])?
        .ok()?;
    has!(out.stdout, "CONTAINER ID");
    has!(out.stdout, "\"sleep 600\"");
    has!(out.stdout, "Up ");
    Ok(())
}

fn status_texts(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "exit 3"]}))?;
    same!(one(ctx, &id, "")?["Status"], "Created");
    ctx.start(&id)?;
    ctx.wait(&id)?;
    let status = one(ctx, &id, "")?["Status"].clone();
    ensure!(
        status
            .as_str()
            .is_some_and(|s| s.starts_with("Exited (3) ") && s.ends_with(" ago")),
        "{status}"
    );
    Ok(())
}

fn command_text(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo a b"], "Entrypoint": ["env"]}),
    )?;
    let command = one(ctx, &id, "")?["Command"].clone();
    ensure!(
        command == "env sh -c 'echo a b'" || command == "env sh -c echo a b",
        "{command}"
    );
    Ok(())
}

fn ports_shown(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["sleep", "600"], "ExposedPorts": {"90/tcp": {}, "91/tcp": {}}, "HostConfig": {"PortBindings": {"91/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}});
    let id = ctx.launch("c", &body)?;
    let row = one(ctx, &id, "")?;
    let ports: Vec<&Value> = row["Ports"].as_array().into_iter().flatten().collect();
    same!(ports.len(), 2, "{ports:?}");
    let exposed = ports
        .iter()
        .find(|p| p["PrivatePort"] == 90)
        .ok_or_else(|| e2e::check::Fail("no 90".into()))?;
    same!(exposed["PublicPort"], Value::Null);
    let published = ports
        .iter()
        .find(|p| p["PrivatePort"] == 91)
        .ok_or_else(|| e2e::check::Fail("no 91".into()))?;
    same!(
        (&published["IP"], &published["Type"]),
        (&json!("127.0.0.1"), &json!("tcp"))
    );
    ensure!(
        published["PublicPort"].as_u64().unwrap_or_default() > 1024,
        "{published}"
    );
    Ok(())
}
