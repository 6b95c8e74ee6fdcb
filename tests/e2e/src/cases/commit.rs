//! Commit: a container's changes become an image.

use std::{fs, thread, time::Duration};

use e2e::{
    check::{Outcome, until},
    engine, ensure, has,
    http::escape,
    same,
};
use serde_json::{Value, json};

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, now},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("commit", Any; stopped, running_is_paused, running_without_pause, configuration, body, history_and_parent, no_changes, refused,
            events, cli, removed_with_its_parent)
            .as_slice(),
        cases!("commit", Daemon; killed_meanwhile).as_slice(),
    ]
    .concat()
}

/// Commits; the id, and the name it got.
fn commit(ctx: &Ctx, container: &str, query: &str) -> Outcome<(String, String)> {
    let repo = ctx.name("img");
    let path = format!("/commit?container={container}&repo={repo}&tag=c&{query}");
    let made = ctx.act(&path)?.expect(201)?.json()?;
    let id = made["Id"].as_str().unwrap_or_default().to_owned();
    has!(id, "sha256:");
    Ok((id, format!("{repo}:c")))
}

fn ran(ctx: &Ctx, suffix: &str, script: &str) -> Outcome<String> {
    let id = ctx.launch(suffix, &json!({"Cmd": ["sh", "-c", script]}))?;
    same!(ctx.wait(&id)?, 0);
    Ok(id)
}

fn shell(ctx: &Ctx, image: &str, script: &str) -> Outcome<String> {
    let out = ctx.run(
        "look",
        &json!({"Image": image, "Cmd": ["sh", "-c", script]}),
    )?;
    same!(out.code, 0, "{}{}", out.stdout, out.stderr);
    Ok(out.stdout)
}

fn stopped(ctx: &Ctx) -> Outcome {
    let script = "echo new >/new; rm /etc/group; rm -r /usr/bin 2>/dev/null; mkdir /d; chmod 1777 /d; chown 12:34 /d; ln /new /hard; \
        ln -s new /soft; mkfifo /pipe; mknod /node c 1 3; dd if=/dev/zero of=/sparse bs=1 count=1 seek=67108864 2>/dev/null; \
        touch -d '2001-02-03 04:05:06' /old";
    let id = ran(ctx, "c", script)?;
    let (_, image) = commit(ctx, &id, "")?;
    let look = "cat /new /hard; test -e /etc/group || echo gone; stat -c '%a %u:%g' /d; readlink /soft; stat -c %F /pipe; \
        stat -c '%F %t,%T' /node; stat -c %s /sparse; stat -c %Y /old; test /new -ef /hard && echo same";
    same!(
        shell(ctx, &image, look)?,
        "new\nnew\ngone\n1777 12:34\nnew\nfifo\ncharacter special file 1,3\n67108865\n981173106\nsame\n"
    );
    // the container's own image is as it was
    same!(
        shell(ctx, "busybox", "test -e /etc/group && echo there")?,
        "there\n"
    );
    Ok(())
}

fn running_is_paused(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    ctx.exec_sh(&id, "echo x >/x")?.ok()?;
    let since = now();
    let (_, image) = commit(ctx, &id, "")?;
    same!(ctx.inspect(&id)?["State"]["Status"], "running");
    same!(shell(ctx, &image, "cat /x")?, "x\n");
    let filters = json!({"container": [id], "event": ["pause", "unpause", "commit"]});
    let events = ctx.events(&since, &now(), &filters)?;
    let mut actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(actions.first(), Some(&"pause"));
    // dockerd thaws when all is done, we do when the files have been read
    actions.sort_unstable();
    same!(actions, ["commit", "pause", "unpause"]);
    Ok(())
}

fn running_without_pause(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    ctx.exec_sh(&id, "echo x >/x")?.ok()?;
    let since = now();
    let (_, image) = commit(ctx, &id, "pause=0")?;
    same!(shell(ctx, &image, "cat /x")?, "x\n");
    let filters = json!({"container": [id], "event": ["pause"]});
    same!(ctx.events(&since, &now(), &filters)?.len(), 0);
    // one that is paused stays so
    ctx.act(&format!("/containers/{id}/pause"))?.expect(204)?;
    commit(ctx, &id, "")?;
    same!(ctx.inspect(&id)?["State"]["Status"], "paused");
    ctx.act(&format!("/containers/{id}/unpause"))?.expect(204)?;
    Ok(())
}

fn configuration(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["a", "b c"], "Env": ["A=1"], "WorkingDir": "/w", "User": "7", "Labels": {"l": "v"}, "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGUSR1", "Volumes": {"/v": {}},
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1_000_000_000u64}}),
    )?;
    let changes = format!(
        "author=me&comment=say&changes={}&changes={}",
        escape("ENV B=2"),
        escape("EXPOSE 81\nLABEL m=n")
    );
    let (id, image) = commit(ctx, &id, &changes)?;
    let got = ctx.json(&format!("/images/{image}/json"))?;
    same!(got["Id"], id);
    same!(got["Author"], "me");
    same!(got["Comment"], "say");
    let config = &got["Config"];
    same!(config["Cmd"], json!(["a", "b c"]));
    let env: Vec<&str> = config["Env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(
        env.contains(&"A=1") && env.contains(&"B=2") && env.iter().any(|e| e.starts_with("PATH=")),
        "{env:?}"
    );
    same!(config["WorkingDir"], "/w");
    same!(config["User"], "7");
    same!(config["Labels"]["l"], "v");
    same!(config["Labels"]["m"], "n");
    same!(config["ExposedPorts"], json!({"80/tcp": {}, "81/tcp": {}}));
    same!(config["Volumes"], json!({"/v": {}}));
    same!(config["StopSignal"], "SIGUSR1");
    same!(config["Healthcheck"]["Test"], json!(["CMD", "x"]));
    Ok(())
}

fn body(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"], "Env": ["A=1"], "User": "7"}))?;
    let path = format!("/commit?container={id}&repo={}&tag=b", ctx.name("img"));
    ctx.post(
        &path,
        &json!({"Cmd": ["echo", "body"], "Env": ["A=2", "C=3"]}),
    )?
    .expect(201)?;
    let got = ctx.json(&format!("/images/{}:b/json", ctx.name("img")))?;
    same!(got["Config"]["Cmd"], json!(["echo", "body"]));
    same!(got["Config"]["User"], "7");
    let env = got["Config"]["Env"].to_string();
    has!(env, "A=2");
    has!(env, "C=3");
    ensure!(!env.contains("A=1"), "{env}");
    Ok(())
}

fn history_and_parent(ctx: &Ctx) -> Outcome {
    let id = ran(ctx, "c", "echo 1 >/1")?;
    let (first, image) = commit(ctx, &id, "comment=one")?;
    let rows = ctx.json(&format!("/images/{image}/history"))?;
    same!(rows[0]["Id"], first);
    same!(rows[0]["Comment"], "one");
    same!(rows[0]["CreatedBy"], "sh -c echo 1 >/1");
    same!(rows[0]["Tags"], json!([image]));
    if ctx.api(44) {
        let base = ctx.json("/images/busybox/json")?["Id"].clone();
        same!(rows[1]["Id"], base, "the parent is known");
        has!(rows[1]["Tags"].to_string(), "busybox:latest");
        same!(ctx.json(&format!("/images/{image}/json"))?["Parent"], base);
    }
    Ok(())
}

fn no_changes(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let (_, image) = commit(ctx, &id, "")?;
    same!(shell(ctx, &image, "echo ok")?, "ok\n");
    Ok(())
}

fn refused(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let answer = ctx.act("/commit?container=absent")?;
    same!(answer.status, 404);
    has!(answer.message(), "No such container: absent");
    for query in [
        "repo=UPPER".to_owned(),
        format!("changes={}", escape("RUN x")),
        format!("changes={}", escape("EXPOSE x")),
    ] {
        let answer = ctx.act(&format!("/commit?container={id}&{query}"))?;
        ensure!(ctx.refused(answer.status), "{query}: {}", answer.status);
    }
    let answer = ctx.connect()?.call(
        "POST",
        &format!("/commit?container={id}"),
        &[("Content-Type", "application/json")],
        Some(b"{\"Cmd\": 1}"),
    )?;
    ensure!(ctx.refused(answer.status), "bad body: {}", answer.status);
    Ok(())
}

fn events(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    let since = now();
    let (made, image) = commit(ctx, &id, "comment=why")?;
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let event = &events[0];
    same!(event["Action"], "commit");
    let attributes = &event["Actor"]["Attributes"];
    same!(attributes["comment"], "why");
    same!(attributes["imageID"], made);
    has!(attributes["imageRef"].as_str().unwrap_or_default(), image);
    let tags = ctx.events(
        &since,
        &now(),
        &json!({"type": ["image"], "event": ["tag"]}),
    )?;
    ensure!(
        tags.iter().any(|e| e["Actor"]["ID"] == made.as_str()),
        "{tags:?}"
    );
    Ok(())
}

fn cli(ctx: &Ctx) -> Outcome {
    let name = ctx.name("c");
    ctx.docker(&[
        "run",
        "--name",
        &name,
        "busybox",
        "sh",
        "-c",
        "echo cli >/cli",
    ])?
    .ok()?;
    let tag = format!("{}:cli", ctx.name("img"));
    let made = ctx
        .docker(&[
            "commit",
            "-m",
            "msg",
            "-a",
            "me",
            "-c",
            "CMD [\"cat\", \"/cli\"]",
            &name,
            &tag,
        ])?
        .ok()?;
    has!(made.line(), "sha256:");
    same!(ctx.docker(&["run", "--rm", &tag])?.ok()?.stdout, "cli\n");
    has!(ctx.docker(&["history", &tag])?.ok()?.stdout, "msg");
    let untagged = ctx.docker(&["commit", &name])?.ok()?;
    let dangling = ctx
        .docker(&["images", "-q", "--no-trunc", "-f", "dangling=true"])?
        .ok()?
        .stdout;
    has!(dangling, untagged.line());
    ctx.docker(&["rmi", untagged.line()])?.ok().map(drop)
}

fn removed_with_its_parent(ctx: &Ctx) -> Outcome {
    // an image without a name, and one that is made of it
    let id = ran(ctx, "c", "echo 1 >/1")?;
    let parent = ctx
        .act(&format!("/commit?container={id}"))?
        .expect(201)?
        .json()?;
    let parent = parent["Id"].as_str().unwrap_or_default().to_owned();
    let on_top = ctx.launch(
        "d",
        &json!({"Image": parent, "Cmd": ["sh", "-c", "echo 2 >/2"]}),
    )?;
    ctx.wait(&on_top)?;
    let (child, image) = commit(ctx, &on_top, "")?;
    ctx.remove(&on_top)?;
    same!(shell(ctx, &image, "cat /1 /2")?, "1\n2\n");
    let gone = ctx
        .delete(&format!("/images/{image}"))?
        .expect(200)?
        .json()?;
    let gone: Vec<Value> = gone.as_array().cloned().unwrap_or_default();
    has!(
        json!(gone).to_string(),
        format!("{{\"Deleted\":\"{child}\"}}")
    );
    has!(
        json!(gone).to_string(),
        format!("{{\"Deleted\":\"{parent}\"}}")
    );
    same!(ctx.get(&format!("/images/{parent}/json"))?.status, 404);
    Ok(())
}

/// A daemon that is killed in the middle of a commit does not leave the container frozen.
fn killed_meanwhile(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own.ctx.sleeper("c")?;
    own.ctx
        .exec_sh(
            &id,
            "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null",
        )?
        .ok()?;
    let images = own.ctx.json("/images/json?all=1")?.as_array().map(Vec::len);
    let socket = own.engine.socket();
    let path = format!("/commit?container={id}&repo=e2e-killed");
    let asked = thread::spawn(move || engine::call(&socket, "POST", &path, None).map(|r| r.status));
    own.ctx.status(&id, "paused")?;
    thread::sleep(Duration::from_millis(50));
    own.engine.kill()?;
    ensure!(
        asked.join().is_ok_and(|answer| answer.is_err()),
        "the commit was answered"
    );
    own.engine.launch()?;
    own.ctx.status(&id, "running")?;
    own.ctx.exec_sh(&id, "echo alive")?.ok()?;
    same!(
        own.ctx.json("/images/json?all=1")?.as_array().map(Vec::len),
        images
    );
    until(5, "the work is cleared", || {
        let tmp = own.engine.setup.root.join("data/tmp");
        Ok((fs::read_dir(tmp)?.count() == 0).then_some(()))
    })?;
    own.done()
}
