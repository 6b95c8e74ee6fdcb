//! Images: load, list, inspect, history, tag, remove, import.

use std::fs;

use e2e::{check::Outcome, ensure, fail, has, http::escape, same};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::Ctx,
    images::{Entry, image, layer},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("images", Any;
        list_fields, inspect_fields, inspect_by_id_and_prefix, missing_texts, history, tag_and_untag, tag_bad, remove_in_use, remove_forced,
        remove_of_running_refused, load_and_run, load_quiet_and_progress, load_garbage, load_twice, layers_stack_with_whiteouts, import, import_with_changes,
        list_filters, create_with_id, create_with_missing, retag_moves, pull_without_registry, hello_world, cli_images, opaque_whiteout,
    )
    .to_vec()
}

/// `docker load` of an archive; gives what was said.
pub fn load(ctx: &Ctx, archive: &[u8]) -> Outcome<String> {
    let mut connection = ctx.connect()?;
    let answer = connection
        .call(
            "POST",
            "/images/load",
            &[("Content-Type", "application/x-tar")],
            Some(archive),
        )?
        .expect(200)?;
    let text = answer.text();
    if text.contains("errorDetail") {
        fail!("load: {text}");
    }
    Ok(text)
}

/// A small image that has a static busybox and what else is given.
fn small(ctx: &Ctx, name: &str, config: &Value, more: &[Vec<u8>]) -> Outcome<String> {
    let tag = format!("{}:1", ctx.name(name));
    let mut layers = vec![base()?];
    layers.extend_from_slice(more);
    // cases must not share an image by chance
    let mut config = config.clone();
    config["Labels"]["case"] = json!(ctx.prefix);
    load(ctx, &image(&tag, &config, &layers)?)?;
    Ok(tag)
}

fn base() -> Outcome<Vec<u8>> {
    layer(&[
        Entry::Folder("bin", 0o755),
        Entry::File("bin/busybox", &fs::read("/bin/busybox")?, 0o755),
        Entry::Link("bin/sh", "busybox"),
        Entry::Link("bin/cat", "busybox"),
        Entry::Link("bin/ls", "busybox"),
        Entry::Folder("dir", 0o755),
        Entry::File("dir/one", b"1", 0o644),
        Entry::File("dir/two", b"2", 0o644),
    ])
}

fn list_fields(ctx: &Ctx) -> Outcome {
    let list = ctx.json("/images/json")?;
    let Some(row) = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|i| i["RepoTags"].to_string().contains("busybox:latest"))
    else {
        fail!("no busybox in {list}");
    };
    has!(row["Id"].as_str().unwrap_or_default(), "sha256:");
    ensure!(
        row["Size"].as_i64().unwrap_or_default() > 500_000,
        "Size {}",
        row["Size"]
    );
    ensure!(
        row["Created"].as_i64().unwrap_or_default() > 1_500_000_000,
        "Created {}",
        row["Created"]
    );
    let old = ctx.json("/v1.41/images/json")?;
    same!(old[0]["Containers"], -1);
    Ok(())
}

fn inspect_fields(ctx: &Ctx) -> Outcome {
    let got = ctx.json("/images/busybox:latest/json")?;
    same!(got["Os"], "linux");
    same!(got["Architecture"], "amd64");
    same!(got["Config"]["Cmd"], json!(["sh"]));
    same!(got["RootFS"]["Type"], "layers");
    ensure!(
        got["RootFS"]["Layers"]
            .as_array()
            .is_some_and(|l| !l.is_empty()),
        "{}",
        got["RootFS"]
    );
    has!(got["RepoTags"].to_string(), "busybox:latest");
    has!(
        got["Created"].as_str().unwrap_or_default(),
        "2026-01-01T00:00:00Z"
    );
    Ok(())
}

fn inspect_by_id_and_prefix(ctx: &Ctx) -> Outcome {
    let id = ctx.json("/images/busybox/json")?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let hex = id.trim_start_matches("sha256:").to_owned();
    for name in [
        id.as_str(),
        &hex,
        &hex[..12],
        "busybox:latest",
        "docker.io/library/busybox",
        "library/busybox:latest",
    ] {
        same!(
            ctx.json(&format!("/images/{name}/json"))?["Id"],
            id.as_str(),
            "image {name}"
        );
    }
    Ok(())
}

fn missing_texts(ctx: &Ctx) -> Outcome {
    for (method, path) in [
        ("GET", "/images/absent/json"),
        ("GET", "/images/absent/history"),
        ("DELETE", "/images/absent"),
        ("POST", "/images/absent/tag?repo=x&tag=y"),
    ] {
        let answer = ctx.call(method, path, None)?;
        same!(answer.status, 404, "{method} {path}");
        has!(answer.message().to_lowercase(), "no such image: absent");
    }
    let answer = ctx.get("/images/BAD/json")?;
    ensure!(
        matches!(answer.status, 400 | 404 | 500),
        "{}",
        answer.status
    );
    Ok(())
}

fn history(ctx: &Ctx) -> Outcome {
    let tag = small(
        ctx,
        "img",
        &json!({}),
        &[layer(&[Entry::File("x", b"12345", 0o644)])?],
    )?;
    let rows = ctx.json(&format!("/images/{tag}/history"))?;
    let rows: Vec<Value> = rows.as_array().cloned().unwrap_or_default();
    same!(rows.len(), 2);
    same!(rows[0]["CreatedBy"], "layer 1", "newest first");
    same!(rows[0]["Tags"], json!([tag]));
    same!(rows[1]["Tags"], Value::Null);
    ensure!(
        rows[1]["Size"].as_i64().unwrap_or_default() > 500_000,
        "{}",
        rows[1]["Size"]
    );
    Ok(())
}

fn tag_and_untag(ctx: &Ctx) -> Outcome {
    let repo = ctx.name("img");
    ctx.act(&format!("/images/busybox/tag?repo={repo}&tag=v1"))?
        .expect(201)?;
    ctx.act(&format!("/images/busybox/tag?repo={repo}"))?
        .expect(201)?;
    let id = ctx.json("/images/busybox/json")?["Id"].clone();
    same!(ctx.json(&format!("/images/{repo}:v1/json"))?["Id"], id);
    same!(ctx.json(&format!("/images/{repo}/json"))?["Id"], id);
    let answer = ctx
        .delete(&format!("/images/{repo}:v1"))?
        .expect(200)?
        .json()?;
    same!(answer, json!([{"Untagged": format!("{repo}:v1")}]));
    same!(ctx.get(&format!("/images/{repo}:v1/json"))?.status, 404);
    same!(ctx.json("/images/busybox/json")?["Id"], id);
    Ok(())
}

fn tag_bad(ctx: &Ctx) -> Outcome {
    for query in ["repo=UPPER&tag=x", "repo=x&tag=bad%20tag", "repo=-x&tag=y"] {
        let answer = ctx.act(&format!("/images/busybox/tag?{query}"))?;
        ensure!(ctx.refused(answer.status), "{query}: {}", answer.status);
        has!(answer.message(), "invalid");
    }
    Ok(())
}

fn remove_in_use(ctx: &Ctx) -> Outcome {
    let tag = small(ctx, "img", &json!({"Cmd": ["sh"]}), &[])?;
    let id = ctx.create("c", &json!({"Image": tag}))?;
    let answer = ctx.delete(&format!("/images/{tag}"))?;
    same!(answer.status, 409);
    has!(answer.message(), "conflict: unable to");
    has!(answer.message(), &id[..12]);
    ctx.remove(&id)?;
    let answer = ctx.delete(&format!("/images/{tag}"))?.expect(200)?.text();
    has!(answer, "Deleted");
    Ok(())
}

fn remove_forced(ctx: &Ctx) -> Outcome {
    let tag = small(ctx, "img", &json!({"Cmd": ["sh"]}), &[])?;
    let id = ctx.create("c", &json!({"Image": tag}))?;
    ctx.delete(&format!("/images/{tag}?force=1"))?.expect(200)?;
    same!(ctx.get(&format!("/images/{tag}/json"))?.status, 404);
    // the container is still there and lists what it was made from
    same!(ctx.inspect(&id)?["Config"]["Image"], tag.as_str());
    ctx.docker(&["ps", "-a"])?.ok()?;
    ctx.remove(&id)
}

fn remove_of_running_refused(ctx: &Ctx) -> Outcome {
    let tag = small(ctx, "img", &json!({"Cmd": ["sh"]}), &[])?;
    let image = ctx.json(&format!("/images/{tag}/json"))?["Id"].clone();
    let id = ctx.launch("c", &json!({"Image": tag, "Cmd": ["sh", "-c", "while :; do /bin/busybox sleep 1; done"], "Env": ["PATH=/bin"]}))?;
    let answer = ctx.delete(&format!(
        "/images/{}?force=1",
        image.as_str().unwrap_or_default()
    ))?;
    same!(answer.status, 409);
    has!(answer.message(), "image is being used by running container");
    ctx.remove(&id)
}

fn load_and_run(ctx: &Ctx) -> Outcome {
    let tag = small(
        ctx,
        "img",
        &json!({"Entrypoint": ["cat"], "Cmd": ["/dir/one"], "Env": ["PATH=/bin"], "WorkingDir": "/dir", "User": "7:8", "Labels": {"from": "image"}}),
        &[],
    )?;
    same!(ctx.run("c", &json!({"Image": tag}))?.stdout, "1");
    let out = ctx.run("d", &json!({"Image": tag, "Entrypoint": ["sh", "-c"], "Cmd": ["/bin/busybox pwd; /bin/busybox id -u; /bin/busybox id -g"]}))?;
    same!(out.stdout, "/dir\n7\n8\n");
    let id = ctx.create("e", &json!({"Image": tag, "Env": ["PATH=/other"]}))?;
    let config = ctx.inspect(&id)?["Config"].clone();
    same!(config["Labels"]["from"], "image");
    same!(
        config["Env"],
        json!(["PATH=/other"]),
        "ours wins over the image's"
    );
    Ok(())
}

fn load_quiet_and_progress(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let text = load(ctx, &image(&tag, &json!({}), &[base()?])?)?;
    has!(text, format!("Loaded image: {tag}\\n"));
    for line in text.lines() {
        let value: Value = serde_json::from_str(line)?;
        ensure!(
            value["stream"].is_string() || value["status"].is_string(),
            "{line}"
        );
    }
    Ok(())
}

fn load_garbage(ctx: &Ctx) -> Outcome {
    let before = ctx.json("/images/json?all=1")?.as_array().map(Vec::len);
    for archive in [
        vec![],
        b"this is no archive".to_vec(),
        vec![0; 1024],
        layer(&[Entry::File("x", b"1", 0o644)])?,
    ] {
        let answer = ctx.connect()?.call(
            "POST",
            "/images/load",
            &[("Content-Type", "application/x-tar")],
            Some(&archive),
        )?;
        ensure!(
            answer.status >= 400 || answer.text().contains("error") || archive.len() <= 1024,
            "{} bytes: {} {}",
            archive.len(),
            answer.status,
            answer.text()
        );
    }
    // a manifest that points out of the archive
    let manifest = json!([{"Config": "../../../../etc/passwd", "RepoTags": [format!("{}:1", ctx.name("evil"))], "Layers": ["../../../../etc/passwd"]}]).to_string();
    let answer = ctx.connect()?.call(
        "POST",
        "/images/load",
        &[("Content-Type", "application/x-tar")],
        Some(&layer(&[Entry::File(
            "manifest.json",
            manifest.as_bytes(),
            0o644,
        )])?),
    )?;
    ensure!(
        answer.status >= 400 || answer.text().contains("error"),
        "{} {}",
        answer.status,
        answer.text()
    );
    same!(
        ctx.get(&format!("/images/{}:1/json", ctx.name("evil")))?
            .status,
        404
    );
    ensure!(before.is_some(), "no list");
    Ok(())
}

fn load_twice(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let archive = image(&tag, &json!({}), &[base()?])?;
    load(ctx, &archive)?;
    let id = ctx.json(&format!("/images/{tag}/json"))?["Id"].clone();
    load(ctx, &archive)?;
    same!(ctx.json(&format!("/images/{tag}/json"))?["Id"], id);
    Ok(())
}

fn layers_stack_with_whiteouts(ctx: &Ctx) -> Outcome {
    let more = [
        layer(&[
            Entry::File("dir/.wh.one", b"", 0o644),
            Entry::File("dir/two", b"new", 0o644),
        ])?,
        layer(&[Entry::File("dir/three", b"3", 0o644)])?,
    ];
    let tag = small(ctx, "img", &json!({"Env": ["PATH=/bin"]}), &more)?;
    let out = ctx.run(
        "c",
        &json!({"Image": tag, "Cmd": ["sh", "-c", "ls /dir; cat /dir/two"]}),
    )?;
    same!(out.stdout, "three\ntwo\nnew");
    Ok(())
}

fn opaque_whiteout(ctx: &Ctx) -> Outcome {
    let more = [layer(&[
        Entry::Folder("dir", 0o755),
        Entry::File("dir/.wh..wh..opq", b"", 0o644),
        Entry::File("dir/only", b"x", 0o644),
    ])?];
    let tag = small(ctx, "img", &json!({"Env": ["PATH=/bin"]}), &more)?;
    same!(
        ctx.run("c", &json!({"Image": tag, "Cmd": ["ls", "/dir"]}))?
            .stdout,
        "only\n"
    );
    Ok(())
}

fn import(ctx: &Ctx) -> Outcome {
    let repo = ctx.name("img");
    let answer = ctx
        .connect()?
        .call(
            "POST",
            &format!("/images/create?fromSrc=-&repo={repo}&tag=t"),
            &[("Content-Type", "application/x-tar")],
            Some(&base()?),
        )?
        .expect(200)?;
    has!(answer.text(), "\"status\":\"sha256:");
    same!(
        ctx.run(
            "c",
            &json!({"Image": format!("{repo}:t"), "Cmd": ["/bin/cat", "/dir/two"]})
        )?
        .stdout,
        "2"
    );
    Ok(())
}

fn import_with_changes(ctx: &Ctx) -> Outcome {
    let repo = ctx.name("img");
    let changes = format!(
        "changes={}&changes={}",
        escape("CMD [\"/bin/cat\", \"/dir/one\"]"),
        escape("ENV A=b")
    );
    ctx.connect()?
        .call(
            "POST",
            &format!("/images/create?fromSrc=-&repo={repo}&message=hi&{changes}"),
            &[("Content-Type", "application/x-tar")],
            Some(&base()?),
        )?
        .expect(200)?;
    let got = ctx.json(&format!("/images/{repo}/json"))?;
    same!(got["Config"]["Cmd"], json!(["/bin/cat", "/dir/one"]));
    same!(got["Config"]["Env"], json!(["A=b"]));
    same!(got["Comment"], "hi");
    same!(ctx.run("c", &json!({"Image": repo}))?.stdout, "1");
    Ok(())
}

fn list_filters(ctx: &Ctx) -> Outcome {
    let tag = small(
        ctx,
        "img",
        &json!({"Labels": {"only-here": ctx.prefix}}),
        &[],
    )?;
    let tags = |filters: Value| -> Outcome<String> {
        Ok(ctx
            .get(&format!(
                "/images/json?filters={}",
                escape(&filters.to_string())
            ))?
            .expect(200)?
            .text())
    };
    has!(tags(json!({"reference": [ctx.name("img")]}))?, tag);
    has!(
        tags(json!({"reference": [format!("{}:*", ctx.name("img"))]}))?,
        tag
    );
    same!(tags(json!({"reference": ["absent*"]}))?.trim(), "[]");
    has!(
        tags(json!({"label": [format!("only-here={}", ctx.prefix)]}))?,
        tag
    );
    same!(tags(json!({"label": ["only-here=other"]}))?.trim(), "[]");
    let dangling = tags(json!({"dangling": ["true"]}))?;
    ensure!(
        !dangling.contains(&tag),
        "a tagged image is called dangling"
    );
    let bad = ctx.get(&format!(
        "/images/json?filters={}",
        escape(r#"{"bogus":["x"]}"#)
    ))?;
    ensure!(ctx.refused(bad.status), "bogus filter: {}", bad.status);
    Ok(())
}

fn create_with_id(ctx: &Ctx) -> Outcome {
    let id = ctx.json("/images/busybox/json")?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    for name in [
        id.clone(),
        id.trim_start_matches("sha256:")[..12].to_owned(),
    ] {
        let made = ctx.create("c", &json!({"Image": name, "Cmd": ["true"]}))?;
        let got = ctx.inspect(&made)?;
        same!(got["Image"], id.as_str());
        same!(got["Config"]["Image"], name.as_str(), "echoed as given");
        ctx.remove(&made)?;
    }
    Ok(())
}

fn create_with_missing(ctx: &Ctx) -> Outcome {
    let answer = ctx.post("/containers/create", &json!({"Image": "nosuch"}))?;
    same!(answer.status, 404);
    same!(answer.message(), "No such image: nosuch:latest");
    let answer = ctx.post("/containers/create", &json!({"Image": "nosuch:tag"}))?;
    same!(answer.message(), "No such image: nosuch:tag");
    for image in ["", "BAD", "a b"] {
        let answer = ctx.post("/containers/create", &json!({"Image": image}))?;
        ensure!(
            matches!(answer.status, 400 | 404) || ctx.refused(answer.status),
            "image {image:?}: {}",
            answer.status
        );
    }
    Ok(())
}

fn retag_moves(ctx: &Ctx) -> Outcome {
    let repo = ctx.name("img");
    ctx.act(&format!("/images/busybox/tag?repo={repo}&tag=t"))?
        .expect(201)?;
    ctx.act(&format!("/images/hello-world/tag?repo={repo}&tag=t"))?
        .expect(201)?;
    same!(
        ctx.json(&format!("/images/{repo}:t/json"))?["Id"],
        ctx.json("/images/hello-world/json")?["Id"]
    );
    Ok(())
}

fn pull_without_registry(ctx: &Ctx) -> Outcome {
    let answer = ctx.act("/images/create?fromImage=127.0.0.1:1/absent&tag=latest")?;
    ensure!(
        answer.status >= 400 || answer.text().contains("error"),
        "{} {}",
        answer.status,
        answer.text()
    );
    let out = ctx.docker(&["run", "--rm", "127.0.0.1:1/absent", "true"])?;
    same!(out.code, 125);
    Ok(())
}

fn hello_world(ctx: &Ctx) -> Outcome {
    has!(
        ctx.docker(&["run", "--rm", "hello-world"])?.ok()?.stdout,
        "Hello from Docker!"
    );
    Ok(())
}

fn cli_images(ctx: &Ctx) -> Outcome {
    has!(ctx.docker(&["images"])?.ok()?.stdout, "busybox");
    has!(
        ctx.docker(&["image", "inspect", "busybox", "-f", "{{.Os}}"])?
            .ok()?
            .stdout,
        "linux"
    );
    has!(
        ctx.docker(&["history", "busybox"])?.ok()?.stdout,
        "make-images.sh"
    );
    Ok(())
}
