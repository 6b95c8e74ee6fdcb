//! What is told about what happens.

use std::time::{Duration, Instant};

use e2e::{check::Outcome, ensure, has, lacks, same};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("events", Any;
        order_of_a_life, order_of_stop, order_of_kill_and_remove, order_of_restart, failed_start, exec_events, rename_event, fields,
        filter_by_label, filter_by_image, filter_by_type, filter_by_network, filter_by_several_events, filter_by_name_and_id,
        bad_filter, since_and_until_with_fraction, until_in_the_future_ends, live_after_backlog, volume_and_network_events,
        image_events, resize_and_attach, cli_format, ndjson, legacy_fields_by_version, auto_remove_order,
    )
    .to_vec()
}

/// `type action` of all events that name the container, between two moments.
fn told(ctx: &Ctx, since: &str, id: &str) -> Outcome<Vec<String>> {
    pause(100);
    let events = ctx.events(since, &now(), &json!({}))?;
    Ok(events
        .iter()
        .filter(|e| e["Actor"]["ID"] == id || e["Actor"]["Attributes"]["container"] == id)
        .map(|e| {
            format!(
                "{} {}",
                e["Type"].as_str().unwrap_or_default(),
                e["Action"].as_str().unwrap_or_default()
            )
        })
        .collect())
}

fn order_of_a_life(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.launch("c", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&id)?;
    pause(300);
    ctx.delete(&format!("/containers/{id}"))?.expect(204)?;
    let mut seen = told(ctx, &since, &id)?;
    // die and disconnect come together, in either order
    let place = seen
        .iter()
        .position(|e| e == "network disconnect")
        .unwrap_or(0);
    let disconnect = seen.remove(place);
    same!(disconnect, "network disconnect");
    ensure!(place >= 3, "disconnect before the end");
    same!(
        seen,
        [
            "container create",
            "network connect",
            "container start",
            "container die",
            "container destroy"
        ]
    );
    Ok(())
}

fn order_of_stop(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let since = now();
    ctx.act(&format!("/containers/{id}/stop?t=0"))?
        .expect(204)?;
    pause(200);
    let seen = told(ctx, &since, &id)?;
    let kept: Vec<&str> = seen
        .iter()
        .map(String::as_str)
        .filter(|e| e.starts_with("container"))
        .collect();
    same!(kept.first(), Some(&"container kill"));
    ensure!(
        kept.contains(&"container die") && kept.contains(&"container stop"),
        "{kept:?}"
    );
    lacks!(kept.join(","), "container destroy");
    Ok(())
}

fn order_of_kill_and_remove(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let since = now();
    ctx.remove(&id)?;
    let seen = told(ctx, &since, &id)?;
    let kept: Vec<&str> = seen
        .iter()
        .map(String::as_str)
        .filter(|e| e.starts_with("container"))
        .collect();
    same!(
        kept,
        ["container kill", "container die", "container destroy"]
    );
    Ok(())
}

fn order_of_restart(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let since = now();
    ctx.act(&format!("/containers/{id}/restart?t=0"))?
        .expect(204)?;
    let seen = told(ctx, &since, &id)?;
    let kept: Vec<&str> = seen
        .iter()
        .map(String::as_str)
        .filter(|e| e.starts_with("container"))
        .collect();
    let place = |name: &str| kept.iter().position(|e| *e == name).unwrap_or(usize::MAX);
    ensure!(place("container kill") < place("container die"), "{kept:?}");
    ensure!(
        place("container die") < place("container start"),
        "{kept:?}"
    );
    ensure!(
        place("container stop") < place("container start"),
        "{kept:?}"
    );
    same!(kept.last(), Some(&"container restart"));
    Ok(())
}

fn failed_start(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.create("c", &json!({"Cmd": ["nosuch"]}))?;
    ctx.act(&format!("/containers/{id}/start"))?.expect(400)?;
    let seen = told(ctx, &since, &id)?;
    lacks!(seen.join(","), "container start");
    Ok(())
}

fn exec_events(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let since = now();
    ctx.exec(&id, &json!({"Cmd": ["sh", "-c", "exit 3"]}))?;
    pause(200);
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(
        actions,
        [
            "exec_create: sh -c exit 3",
            "exec_start: sh -c exit 3",
            "exec_die"
        ]
    );
    let last = &events[2]["Actor"]["Attributes"];
    same!(last["exitCode"], "3");
    // Entry point, blank, arguments: also when there are none.
    same!(exec_told(ctx, &id, &json!(["true"]))?, "exec_create: true ");
    same!(last["execID"].as_str().map(str::len), Some(64));
    Ok(())
}

/// The action of an exec's first event.
fn exec_told(ctx: &Ctx, id: &str, command: &Value) -> Outcome<String> {
    let since = now();
    ctx.exec(id, &json!({"Cmd": command}))?;
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let action = events.first().and_then(|e| e["Action"].as_str());
    Ok(action.unwrap_or_default().to_owned())
}

fn rename_event(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let since = now();
    ctx.act(&format!("/containers/{id}/rename?name={}", ctx.name("d")))?
        .expect(204)?;
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    same!(events.len(), 1);
    same!(events[0]["Action"], "rename");
    same!(
        events[0]["Actor"]["Attributes"]["oldName"],
        format!("/{}", ctx.name("c"))
    );
    same!(events[0]["Actor"]["Attributes"]["name"], ctx.name("d"));
    Ok(())
}

fn fields(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "exit 6"], "Labels": {"my.label": "v"}}),
    )?;
    ctx.wait(&id)?;
    pause(200);
    let events = ctx.events(
        &since,
        &now(),
        &json!({"container": [id], "event": ["die"]}),
    )?;
    same!(events.len(), 1);
    let event = &events[0];
    same!(event["Type"], "container");
    same!(event["scope"], "local");
    same!(event["Actor"]["ID"], id.as_str());
    let attributes = &event["Actor"]["Attributes"];
    same!(attributes["exitCode"], "6");
    same!(attributes["image"], "busybox");
    same!(attributes["name"], ctx.name("c"));
    same!(attributes["my.label"], "v");
    let (seconds, nano) = (
        event["time"].as_i64().unwrap_or_default(),
        event["timeNano"].as_i64().unwrap_or_default(),
    );
    same!(nano / 1_000_000_000, seconds);
    Ok(())
}

fn actions(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|e| e["Action"].as_str()).collect()
}

fn filter_by_label(ctx: &Ctx) -> Outcome {
    let since = now();
    let key = ctx.name("key");
    ctx.create("c", &json!({"Labels": {&key: "1"}}))?;
    ctx.create("d", &json!({"Labels": {&key: "2"}}))?;
    same!(
        ctx.events(&since, &now(), &json!({"label": [key]}))?.len(),
        2
    );
    same!(
        ctx.events(&since, &now(), &json!({"label": [format!("{key}=2")]}))?
            .len(),
        1
    );
    same!(
        ctx.events(&since, &now(), &json!({"label": [format!("{key}=3")]}))?
            .len(),
        0
    );
    same!(
        ctx.events(
            &since,
            &now(),
            &json!({"label": {format!("{key}=2"): true}})
        )?
        .len(),
        1,
        "filters as a map of maps"
    );
    Ok(())
}

fn filter_by_image(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.create("c", &json!({"Image": "busybox:latest"}))?;
    for image in ["busybox", "busybox:latest"] {
        let events = ctx.events(
            &since,
            &now(),
            &json!({"image": [image], "container": [id]}),
        )?;
        same!(actions(&events), ["create"], "image {image}");
    }
    same!(
        ctx.events(
            &since,
            &now(),
            &json!({"image": ["alpine"], "container": [id]})
        )?
        .len(),
        0
    );
    Ok(())
}

fn filter_by_type(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.sleeper("c")?;
    let networks = ctx.events(&since, &now(), &json!({"type": ["network"]}))?;
    ensure!(
        networks.iter().all(|e| e["Type"] == "network"),
        "other types"
    );
    ensure!(
        networks
            .iter()
            .any(|e| e["Actor"]["Attributes"]["container"] == id.as_str()),
        "no connect of ours"
    );
    Ok(())
}

fn filter_by_network(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.sleeper("c")?;
    let events = ctx.events(
        &since,
        &now(),
        &json!({"network": ["bridge"], "event": ["connect"]}),
    )?;
    let mine: Vec<_> = events
        .iter()
        .filter(|e| e["Actor"]["Attributes"]["container"] == id.as_str())
        .collect();
    same!(mine.len(), 1);
    same!(mine[0]["Actor"]["Attributes"]["type"], "bridge");
    same!(mine[0]["Actor"]["ID"].as_str().map(str::len), Some(64));
    Ok(())
}

fn filter_by_several_events(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.launch("c", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&id)?;
    pause(200);
    let events = ctx.events(
        &since,
        &now(),
        &json!({"container": [id], "event": ["start", "die"]}),
    )?;
    same!(actions(&events), ["start", "die"]);
    Ok(())
}

fn filter_by_name_and_id(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.create("c", &json!({}))?;
    for container in [id.clone(), ctx.name("c")] {
        same!(
            ctx.events(&since, &now(), &json!({"container": [container]}))?
                .len(),
            1
        );
    }
    Ok(())
}

fn bad_filter(ctx: &Ctx) -> Outcome {
    for filters in ["notjson", "%7B%22type%22%3A3%7D"] {
        let answer = ctx.get(&format!("/events?since=1&until=2&filters={filters}"))?;
        ensure!(
            ctx.refused(answer.status),
            "filters={filters}: {}",
            answer.status
        );
    }
    let answer = ctx.get("/events?since=yesterday&until=2")?;
    ensure!(
        answer.status == 400 || answer.status == 500,
        "bad since: {}",
        answer.status
    );
    Ok(())
}

fn since_and_until_with_fraction(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    pause(30);
    let first = now();
    pause(30);
    ctx.act(&format!("/containers/{id}/rename?name={}", ctx.name("d")))?;
    pause(30);
    let second = now();
    pause(30);
    ctx.act(&format!("/containers/{id}/rename?name={}", ctx.name("e")))?;
    let filters = json!({"container": [id], "event": ["rename"]});
    let events = ctx.events(&first, &second, &filters)?;
    same!(events.len(), 1);
    same!(events[0]["Actor"]["Attributes"]["name"], ctx.name("d"));
    same!(ctx.events(&second, &now(), &filters)?.len(), 1);
    same!(ctx.events(&first, &now(), &filters)?.len(), 2);
    Ok(())
}

fn until_in_the_future_ends(ctx: &Ctx) -> Outcome {
    let till = std::time::SystemTime::now() + Duration::from_millis(1500);
    let till = till
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let start = Instant::now();
    ctx.get(&format!("/events?until={till:.3}"))?.expect(200)?;
    let took = start.elapsed();
    ensure!(
        took > Duration::from_millis(1000) && took < Duration::from_secs(5),
        "ended after {took:?}"
    );
    Ok(())
}

fn live_after_backlog(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.create("c", &json!({}))?;
    let mut stream = ctx.connect()?;
    let filters = e2e::http::escape(&json!({"container": [id]}).to_string());
    stream.request(
        "GET",
        &format!("/events?since={since}&filters={filters}"),
        &[],
        None,
    )?;
    same!(stream.head("GET")?.0, 200);
    let mut next = || -> Outcome<Value> {
        Ok(serde_json::from_str(
            &stream.body_line()?.unwrap_or_default(),
        )?)
    };
    same!(next()?["Action"], "create");
    ctx.start(&id)?;
    same!(next()?["Action"], "start");
    Ok(())
}

fn volume_and_network_events(ctx: &Ctx) -> Outcome {
    let since = now();
    let name = ctx.name("v");
    ctx.post("/volumes/create", &json!({"Name": name}))?
        .expect(201)?;
    ctx.run(
        "c",
        &json!({"Cmd": ["true"], "HostConfig": {"Binds": [format!("{name}:/data")]}}),
    )?;
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    pause(100);
    let events = ctx.events(
        &since,
        &now(),
        &json!({"type": ["volume"], "volume": [name]}),
    )?;
    let mut told = actions(&events);
    // dockerd tells of the creation again when a container names the volume
    told.dedup();
    same!(told, ["create", "mount", "unmount", "destroy"]);
    let mount = events
        .iter()
        .find(|e| e["Action"] == "mount")
        .cloned()
        .unwrap_or_default();
    same!(mount["Actor"]["Attributes"]["destination"], "/data");
    same!(mount["Actor"]["Attributes"]["read/write"], "true");
    Ok(())
}

fn image_events(ctx: &Ctx) -> Outcome {
    let since = now();
    let repo = ctx.name("img");
    ctx.act(&format!("/images/busybox/tag?repo={repo}&tag=t"))?
        .expect(201)?;
    ctx.delete(&format!("/images/{repo}:t"))?.expect(200)?;
    let events = ctx.events(&since, &now(), &json!({"type": ["image"]}))?;
    let text: Vec<String> = events.iter().map(Value::to_string).collect();
    has!(text.join("\n"), repo.as_str());
    let known = actions(&events);
    ensure!(
        known.contains(&"tag") && known.contains(&"untag"),
        "{known:?}"
    );
    Ok(())
}

fn resize_and_attach(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "Tty": true}))?;
    let since = now();
    ctx.act(&format!("/containers/{id}/resize?h=11&w=22"))?
        .expect(200)?;
    drop(ctx.hijack(&format!("/containers/{id}/attach?stream=1&stdout=1"), None)?);
    pause(100);
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let known = actions(&events);
    ensure!(
        known.contains(&"resize") && known.contains(&"attach"),
        "{known:?}"
    );
    let resize = events
        .iter()
        .find(|e| e["Action"] == "resize")
        .map(|e| e["Actor"]["Attributes"].clone())
        .unwrap_or_default();
    same!(
        (resize["height"].as_str(), resize["width"].as_str()),
        (Some("11"), Some("22"))
    );
    Ok(())
}

fn cli_format(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.create("c", &json!({}))?;
    let till = now();
    let out = ctx.docker(&[
        "events",
        "--since",
        &since,
        "--until",
        &till,
        "--filter",
        &format!("container={id}"),
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.ID}}",
    ])?;
    same!(out.ok()?.line(), format!("container create {id}"));
    Ok(())
}

fn ndjson(ctx: &Ctx) -> Outcome {
    let answer = ctx.get("/v1.41/events?since=1&until=2")?;
    same!(answer.headers.get("Content-Type"), "application/json");
    same!(
        answer.headers.get("Transfer-Encoding").is_empty() && !answer.body.is_empty(),
        false
    );
    Ok(())
}

fn legacy_fields_by_version(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.create("c", &json!({}))?;
    let till = now();
    let filters = e2e::http::escape(&json!({"container": [id]}).to_string());
    let old: Value = serde_json::from_str(
        &ctx.get(&format!(
            "/v1.41/events?since={since}&until={till}&filters={filters}"
        ))?
        .text(),
    )?;
    same!(old["id"], id.as_str());
    same!(old["status"], "create");
    same!(old["from"], "busybox");
    if ctx.api(52) {
        let new = &ctx.events(&since, &till, &json!({"container": [id]}))?[0];
        same!(new["id"], Value::Null);
        same!(new["status"], Value::Null);
    }
    Ok(())
}

fn auto_remove_order(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "0.2"], "HostConfig": {"AutoRemove": true}}),
    )?;
    ctx.act(&format!("/containers/{id}/wait?condition=removed"))?;
    pause(200);
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    same!(actions(&events), ["create", "start", "die", "destroy"]);
    Ok(())
}
