//! Volumes.

use std::fs;

use e2e::{check::Outcome, ensure, has, same};
use serde_json::{Value, json};

use super::mounts::refused;

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("volumes", Any;
            create_inspect_remove, create_twice, generated_name, labels_and_options, list_filters, remove_in_use, remove_missing,
            named_survives_container, anonymous_goes_with_v, anonymous_stays_without_v, auto_remove_takes_anonymous, copy_up, copy_up_once,
            nocopy, read_only, shared_by_two, volumes_from, image_volumes, bad_names, unknown_driver, force_remove, owner_is_kept, local_bind_options,
        )
        .to_vec(),
    ]
    .concat()
}

fn create_inspect_remove(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let made = ctx
        .post("/volumes/create", &json!({"Name": name}))?
        .expect(201)?
        .json()?;
    same!(
        (&made["Name"], &made["Driver"], &made["Scope"]),
        (&json!(name), &json!("local"), &json!("local"))
    );
    same!(
        made["Options"].is_null() || made["Options"] == json!({}),
        true
    );
    let got = ctx.json(&format!("/volumes/{name}"))?;
    let point = got["Mountpoint"].as_str().unwrap_or_default();
    ensure!(std::path::Path::new(point).is_dir(), "no folder {point}");
    ensure!(
        got["CreatedAt"]
            .as_str()
            .is_some_and(|t| t.len() >= 20 && t.as_bytes()[10] == b'T'),
        "CreatedAt {}",
        got["CreatedAt"]
    );
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    ensure!(
        !std::path::Path::new(point).exists(),
        "{point} is still there"
    );
    same!(ctx.get(&format!("/volumes/{name}"))?.status, 404);
    Ok(())
}

fn create_twice(ctx: &Ctx) -> Outcome {
    let body = json!({"Name": ctx.name("v"), "Labels": {"a": "b"}});
    let first = ctx.post("/volumes/create", &body)?.expect(201)?.json()?;
    same!(
        ctx.post("/volumes/create", &body)?.expect(201)?.json()?,
        first
    );
    Ok(())
}

fn generated_name(ctx: &Ctx) -> Outcome {
    let made = ctx
        .post("/volumes/create", &json!({}))?
        .expect(201)?
        .json()?;
    let name = made["Name"].as_str().unwrap_or_default();
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    same!(name.len(), 64);
    Ok(())
}

fn labels_and_options(ctx: &Ctx) -> Outcome {
    let body = json!({"Name": ctx.name("v"), "Labels": {"k": "v"}, "DriverOpts": {"type": "none", "device": "/tmp", "o": "bind"}});
    ctx.post("/volumes/create", &body)?.expect(201)?;
    let got = ctx.json(&format!("/volumes/{}", ctx.name("v")))?;
    same!(got["Labels"], body["Labels"]);
    same!(got["Options"], body["DriverOpts"]);
    Ok(())
}

fn list_filters(ctx: &Ctx) -> Outcome {
    let key = ctx.name("k");
    for name in ["a", "b"] {
        ctx.post(
            "/volumes/create",
            &json!({"Name": ctx.name(name), "Labels": {&key: name}}),
        )?
        .expect(201)?;
    }
    ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{}:/x", ctx.name("a"))]}}),
    )?;
    let names = |filters: Value| -> Outcome<Vec<String>> {
        let list = ctx.json(&format!(
            "/volumes?filters={}",
            e2e::http::escape(&filters.to_string())
        ))?;
        let mut names: Vec<String> = list["Volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| Some(v["Name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    };
    let (a, b) = (ctx.name("a"), ctx.name("b"));
    same!(names(json!({"label": [key]}))?, [a.clone(), b.clone()]);
    same!(
        names(json!({"label": [format!("{key}=b")]}))?,
        vec![b.clone()]
    );
    same!(names(json!({"name": [a]}))?, vec![a.clone()]);
    same!(names(json!({"dangling": ["true"], "label": [key]}))?, [b]);
    same!(names(json!({"dangling": ["false"], "label": [key]}))?, [a]);
    same!(names(json!({"driver": ["absent"]}))?, Vec::<String>::new());
    let bad = ctx.get(&format!(
        "/volumes?filters={}",
        e2e::http::escape(r#"{"bogus":["x"]}"#)
    ))?;
    ensure!(ctx.refused(bad.status), "bogus filter: {}", bad.status);
    Ok(())
}

fn remove_in_use(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let id = ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{name}:/x")]}}),
    )?;
    for query in ["", "?force=1"] {
        let answer = ctx.delete(&format!("/volumes/{name}{query}"))?;
        same!(answer.status, 409);
        has!(answer.message(), "volume is in use");
        has!(answer.message(), id);
    }
    ctx.remove(&id)?;
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    Ok(())
}

fn remove_missing(ctx: &Ctx) -> Outcome {
    let answer = ctx.delete("/volumes/absent")?;
    same!(answer.status, 404);
    has!(answer.message(), "get absent: no such volume");
    Ok(())
}

fn force_remove(ctx: &Ctx) -> Outcome {
    same!(ctx.delete("/volumes/absent?force=1")?.status, 204);
    Ok(())
}

fn named_survives_container(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/data", ctx.name("v"))]});
    ctx.sh("a", host.clone(), "echo kept > /data/f")?.ok()?;
    same!(ctx.sh("b", host, "cat /data/f")?.line(), "kept");
    Ok(())
}

fn anonymous(ctx: &Ctx, id: &str) -> Outcome<String> {
    Ok(ctx.inspect(id)?["Mounts"][0]["Name"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn anonymous_goes_with_v(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Volumes": {"/data": {}}}))?;
    let volume = anonymous(ctx, &id)?;
    same!(ctx.get(&format!("/volumes/{volume}"))?.status, 200);
    ctx.delete(&format!("/containers/{id}?v=1"))?.expect(204)?;
    same!(ctx.get(&format!("/volumes/{volume}"))?.status, 404);
    Ok(())
}

fn anonymous_stays_without_v(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Volumes": {"/data": {}}}))?;
    let volume = anonymous(ctx, &id)?;
    ctx.delete(&format!("/containers/{id}"))?.expect(204)?;
    same!(ctx.delete(&format!("/volumes/{volume}"))?.status, 204);
    Ok(())
}

fn auto_remove_takes_anonymous(ctx: &Ctx) -> Outcome {
    let named = ctx.name("v");
    let id = ctx.create("c", &json!({"Cmd": ["true"], "Volumes": {"/data": {}}, "HostConfig": {"AutoRemove": true, "Binds": [format!("{named}:/n")]}}))?;
    let mounts = ctx.inspect(&id)?["Mounts"].clone();
    let volume = mounts
        .as_array()
        .into_iter()
        .flatten()
        .find(|m| m["Destination"] == "/data")
        .and_then(|m| m["Name"].as_str().map(str::to_owned));
    ctx.start(&id)?;
    ctx.act(&format!("/containers/{id}/wait?condition=removed"))?;
    same!(
        ctx.get(&format!("/volumes/{}", volume.unwrap_or_default()))?
            .status,
        404
    );
    same!(ctx.get(&format!("/volumes/{named}"))?.status, 200);
    Ok(())
}

fn copy_up(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/etc", ctx.name("v"))]});
    let out = ctx
        .sh(
            "c",
            host,
            "cat /etc/passwd | head -1; stat -c %a /etc; cat /etc/hostname",
        )?
        .ok()?;
    has!(out.stdout, "root:x:0:0:root:/root:/bin/sh\n755\n");
    let out = ctx.sh(
        "d",
        json!({"Binds": [format!("{}:/tmp", ctx.name("t"))]}),
        "stat -c %a /tmp",
    )?;
    same!(out.line(), "1777", "the mode comes along");
    Ok(())
}

fn copy_up_once(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/etc", ctx.name("v"))]});
    ctx.sh("a", host.clone(), "rm /etc/group; echo x > /etc/new")?
        .ok()?;
    same!(
        ctx.sh("b", host, "test -e /etc/group || echo gone; cat /etc/new")?
            .stdout,
        "gone\nx\n"
    );
    Ok(())
}

fn nocopy(ctx: &Ctx) -> Outcome {
    for (name, host) in [
        (
            "a",
            json!({"Binds": [format!("{}:/var:nocopy", ctx.name("v"))]}),
        ),
        (
            "b",
            json!({"Mounts": [{"Type": "volume", "Source": ctx.name("w"), "Target": "/var", "VolumeOptions": {"NoCopy": true}}]}),
        ),
    ] {
        same!(ctx.sh(name, host, "ls -A /var | wc -l")?.line(), "0");
    }
    Ok(())
}

fn read_only(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"Binds": [format!("{}:/data:ro", ctx.name("v"))]}),
        "touch /data/x",
    )?;
    has!(out.stderr, "Read-only file system");
    Ok(())
}

fn shared_by_two(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/data", ctx.name("v"))]});
    let id = ctx.launch("a", &json!({"Cmd": ["sh", "-c", "while ! test -e /data/f; do sleep 0.05; done; echo seen"], "HostConfig": host}))?;
    ctx.sh("b", host, "touch /data/f")?.ok()?;
    same!(ctx.wait(&id)?, 0);
    Ok(())
}

fn volumes_from(ctx: &Ctx) -> Outcome {
    ctx.create("a", &json!({"Volumes": {"/anon": {}}, "HostConfig": {"Binds": [format!("{}:/data", ctx.name("v")), "/usr:/hostusr"]}}))?;
    ctx.sh(
        "w",
        json!({"VolumesFrom": [ctx.name("a")]}),
        "echo 1 > /data/f; echo 2 > /anon/f",
    )?
    .ok()?;
    let out = ctx.sh(
        "r",
        json!({"VolumesFrom": [format!("{}:ro", ctx.name("a"))]}),
        "cat /data/f /anon/f; test -d /hostusr/bin && echo usr; touch /data/x",
    )?;
    same!(out.stdout, "1\n2\nusr\n");
    has!(out.stderr, "Read-only file system");
    has!(
        refused(ctx, &json!({"VolumesFrom": ["absent"]}))?,
        "No such container: absent"
    );
    Ok(())
}

fn image_volumes(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let base = crate::images::layer(&[
        crate::images::Entry::Folder("bin", 0o755),
        crate::images::Entry::File("bin/busybox", &fs::read("/bin/busybox")?, 0o755),
        crate::images::Entry::Link("bin/cat", "busybox"),
        crate::images::Entry::File("data/seed", b"seeded", 0o644),
    ])?;
    crate::cases::images::load(
        ctx,
        &crate::images::image(
            &tag,
            &json!({"Cmd": ["cat", "/data/seed"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}}),
            &[base],
        )?,
    )?;
    let id = ctx.launch("c", &json!({"Image": tag}))?;
    ctx.wait(&id)?;
    same!(ctx.logs(&id, "")?.0, "seeded");
    let mount = ctx.inspect(&id)?["Mounts"][0].clone();
    same!(
        (&mount["Destination"], &mount["Type"]),
        (&json!("/data"), &json!("volume"))
    );
    Ok(())
}

fn bad_names(ctx: &Ctx) -> Outcome {
    for name in ["bad/name", "a", ".x", "sp ace"] {
        let answer = ctx.post("/volumes/create", &json!({"Name": name}))?;
        ensure!(ctx.refused(answer.status), "{name}: {}", answer.status);
        ensure!(
            answer.message().contains("includes invalid characters")
                || answer.message().contains("too short"),
            "{name}: {}",
            answer.message()
        );
    }
    Ok(())
}

fn unknown_driver(ctx: &Ctx) -> Outcome {
    let answer = ctx.post(
        "/volumes/create",
        &json!({"Name": ctx.name("v"), "Driver": "absentdriver"}),
    )?;
    ensure!(answer.status >= 400, "an unknown driver was accepted");
    has!(answer.message(), "absentdriver");
    Ok(())
}

fn owner_is_kept(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let made = ctx.launch("m", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&made)?;
    let out = ctx.sh(
        "c",
        json!({"Binds": [format!("{}:/home", ctx.name("v"))]}),
        "chown 33:33 /home; touch /home/f; stat -c %u:%g /home",
    )?;
    same!(out.line(), "33:33", "{tag}");
    let out = ctx.sh(
        "d",
        json!({"Binds": [format!("{}:/home", ctx.name("v"))]}),
        "stat -c %u:%g /home",
    )?;
    same!(out.line(), "33:33");
    Ok(())
}

/// A volume may stand for a directory of the host.
fn local_bind_options(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let dir = ctx.world.scratch.join(&name);
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("there"), "content")?;
    let options = json!({"type": "none", "device": dir, "o": "bind"});
    ctx.post(
        "/volumes/create",
        &json!({"Name": name, "DriverOpts": options}),
    )?
    .expect(201)?;
    let out = ctx
        .sh(
            "c",
            json!({"Binds": [format!("{name}:/data")]}),
            "cat /data/there; echo back > /data/from-inside",
        )?
        .ok()?;
    same!(out.line(), "content");
    same!(std::fs::read_to_string(dir.join("from-inside"))?, "back\n");
    let bad = ctx.post(
        "/volumes/create",
        &json!({"Name": ctx.name("w"), "DriverOpts": {"bogus": "x"}}),
    )?;
    ensure!(ctx.refused(bad.status), "a bogus option: {}", bad.status);
    Ok(())
}
