//! Docker's rules for images: what may be removed, what is pruned, what lists show.

use std::{collections::BTreeSet, thread};

use e2e::{check::Outcome, engine, ensure, has, http::escape, same};
use serde_json::{Value, json};

use super::images::load;
use crate::{
    cases::cases,
    context::Ctx,
    images::{Entry, image, layer},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("rules", Any; remove_by_id_with_several_names, remove_by_digest, remove_used_by_stopped, remove_forced_leaves_it_nameless,
            base_of_others_stays, list_by_time, list_hides_nothing_twice, manifests, inspect_platform, shared_sizes, search, attestations, tag_against_remove)
            .as_slice(),
        cases!("rules", Alone; prune_dangling, prune_all_and_filters).as_slice(),
    ]
    .concat()
}

/// An image of its own; `labels` go into its configuration.
fn make(ctx: &Ctx, tag: &str, labels: Value) -> Outcome<(String, String)> {
    let name = format!("{}:{tag}", ctx.name("img"));
    let own = layer(&[Entry::File(
        "f",
        format!("{}{tag}", ctx.prefix).as_bytes(),
        0o644,
    )])?;
    load(
        ctx,
        &image(&name, &json!({"Cmd": ["x"], "Labels": labels}), &[own])?,
    )?;
    let id = ctx.json(&format!("/images/{name}/json"))?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    Ok((name, id))
}

fn there(ctx: &Ctx, name: &str) -> Outcome<bool> {
    Ok(ctx.get(&format!("/images/{name}/json"))?.status == 200)
}

fn remove_by_id_with_several_names(ctx: &Ctx) -> Outcome {
    let (name, id) = make(ctx, "1", json!({}))?;
    let repo = ctx.name("img");
    ctx.act(&format!("/images/{name}/tag?repo={repo}&tag=2"))?
        .expect(201)?;
    let answer = ctx.delete(&format!("/images/{id}"))?;
    same!(answer.status, 409);
    let short = &id["sha256:".len()..][..12];
    same!(
        answer.message(),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    let gone = ctx
        .delete(&format!("/images/{id}?force=1"))?
        .expect(200)?
        .json()?;
    let gone: Vec<Value> = gone.as_array().cloned().unwrap_or_default();
    same!(gone.len() >= 3, true, "{gone:?}");
    has!(json!(gone[..2]).to_string(), format!("{repo}:1"));
    has!(json!(gone[..2]).to_string(), format!("{repo}:2"));
    same!(gone[2], json!({"Deleted": id}));
    ensure!(!there(ctx, &name)?, "still there");
    Ok(())
}

fn remove_by_digest(ctx: &Ctx) -> Outcome {
    if !ctx.api(44) {
        return Ok(()); // a loaded image has no digest there
    }
    let (name, id) = make(ctx, "1", json!({}))?;
    let (repo, other) = (ctx.name("img"), ctx.name("other"));
    ctx.act(&format!("/images/{name}/tag?repo={repo}&tag=2"))?
        .expect(201)?;
    ctx.act(&format!("/images/{name}/tag?repo={other}&tag=1"))?
        .expect(201)?;
    let gone = ctx
        .delete(&format!("/images/{repo}@{id}"))?
        .expect(200)?
        .json()?;
    same!(
        gone,
        json!([{"Untagged": format!("{repo}:1")}, {"Untagged": format!("{repo}:2")}])
    );
    let gone = ctx
        .delete(&format!("/images/{other}@{id}"))?
        .expect(200)?
        .json()?;
    same!(
        gone,
        json!([{"Untagged": format!("{other}:1")}, {"Deleted": id}])
    );
    same!(ctx.delete(&format!("/images/{other}@{id}"))?.status, 404);
    Ok(())
}

fn remove_used_by_stopped(ctx: &Ctx) -> Outcome {
    let (name, id) = make(ctx, "1", json!({}))?;
    let container = ctx.create("c", &json!({"Image": name}))?;
    let (image, user) = (&id["sha256:".len()..][..12], &container[..12]);
    let answer = ctx.delete(&format!("/images/{id}"))?;
    same!(answer.status, 409);
    same!(
        answer.message(),
        format!(
            "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {user}"
        )
    );
    // with a second name one of them can go
    let repo = ctx.name("img");
    ctx.act(&format!("/images/{name}/tag?repo={repo}&tag=2"))?
        .expect(201)?;
    let gone = ctx
        .delete(&format!("/images/{repo}:2"))?
        .expect(200)?
        .json()?;
    same!(gone, json!([{"Untagged": format!("{repo}:2")}]));
    let answer = ctx.delete(&format!("/images/{name}"))?;
    same!(answer.status, 409);
    has!(answer.message(), "is using its referenced image");
    ctx.remove(&container)
}

fn remove_forced_leaves_it_nameless(ctx: &Ctx) -> Outcome {
    let (name, id) = make(ctx, "1", json!({}))?;
    let container = ctx.create("c", &json!({"Image": name}))?;
    let gone = ctx
        .delete(&format!("/images/{name}?force=1"))?
        .expect(200)?
        .json()?;
    same!(gone[0], json!({"Untagged": name}));
    let dangling = ctx
        .get(&format!(
            "/images/json?filters={}",
            escape(r#"{"dangling":["true"]}"#)
        ))?
        .expect(200)?
        .text();
    if ctx.api(44) {
        same!(gone.as_array().map(Vec::len), Some(1));
        has!(dangling, id);
        same!(ctx.inspect(&container)?["Image"], id);
    }
    ctx.remove(&container)?;
    ctx.delete(&format!("/images/{id}"))?;
    ensure!(!there(ctx, &id)?, "still there");
    Ok(())
}

fn base_of_others_stays(ctx: &Ctx) -> Outcome {
    let (name, id) = make(ctx, "1", json!({}))?;
    let container = ctx.create("c", &json!({"Image": name}))?;
    let child = format!("{}:child", ctx.name("img"));
    ctx.act(&format!(
        "/commit?container={container}&repo={}&tag=child&comment=x",
        ctx.name("img")
    ))?
    .expect(201)?;
    ctx.remove(&container)?;
    let gone = ctx
        .delete(&format!("/images/{name}"))?
        .expect(200)?
        .json()?;
    same!(gone[0], json!({"Untagged": name}));
    // nameless, hidden from the list unless all are asked for
    let listed = |query: &str| -> Outcome<bool> {
        Ok(ctx
            .get(&format!("/images/json{query}"))?
            .expect(200)?
            .text()
            .contains(&format!("\"Id\":\"{id}\"")))
    };
    ensure!(!listed("")?, "an intermediate image is listed");
    ensure!(listed("?all=1")?, "an intermediate image is lost");
    let gone = ctx.delete(&format!("/images/{child}"))?.expect(200)?.text();
    has!(gone, id);
    ensure!(!there(ctx, &id)?, "the nameless parent stayed");
    Ok(())
}

fn listed(ctx: &Ctx, filters: &Value) -> Outcome<BTreeSet<String>> {
    let path = format!("/images/json?filters={}", escape(&filters.to_string()));
    let list = ctx.get(&path)?.expect(200)?.json()?;
    Ok(list
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|i| i["RepoTags"].as_array().cloned().unwrap_or_default())
        .filter_map(|t| t.as_str().map(str::to_owned))
        .collect())
}

fn list_by_time(ctx: &Ctx) -> Outcome {
    // imports have the present time, loaded images 2026-01-01
    let (old, _) = make(ctx, "old", json!({}))?;
    let body = layer(&[Entry::File("x", ctx.prefix.as_bytes(), 0o644)])?;
    let repo = ctx.name("img");
    ctx.connect()?
        .call(
            "POST",
            &format!("/images/create?fromSrc=-&repo={repo}&tag=new"),
            &[("Content-Type", "application/x-tar")],
            Some(&body),
        )?
        .expect(200)?;
    let new = format!("{repo}:new");
    for (filters, has_old, has_new) in [
        (json!({"before": [new]}), true, false),
        (json!({"since": [old]}), false, true),
        (json!({"until": ["2026-02-01"]}), true, false),
        (json!({"until": ["0s"]}), true, true),
        (
            json!({"reference": [format!("{repo}:*")], "since": [old]}),
            false,
            true,
        ),
        (
            json!({"reference": [format!("{repo}:o*"), "nothing"]}),
            true,
            false,
        ),
    ] {
        if filters.get("until").is_some() && !ctx.api(44) {
            continue;
        }
        let found = listed(ctx, &filters)?;
        same!(
            (found.contains(&old), found.contains(&new)),
            (has_old, has_new),
            "{filters}"
        );
    }
    let answer = ctx.get(&format!(
        "/images/json?filters={}",
        escape(r#"{"before":["nosuch"]}"#)
    ))?;
    ensure!(answer.status >= 400, "{}", answer.status);
    has!(answer.message().to_lowercase(), "no such image: nosuch");
    Ok(())
}

fn list_hides_nothing_twice(ctx: &Ctx) -> Outcome {
    let (name, id) = make(ctx, "1", json!({"a": "b"}))?;
    let repo = ctx.name("z");
    ctx.act(&format!("/images/{name}/tag?repo={repo}&tag=2"))?
        .expect(201)?;
    let list = ctx.json("/images/json")?;
    let rows: Vec<&Value> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter(|i| i["Id"] == id.as_str())
        .collect();
    same!(rows.len(), 1);
    let mut tags: Vec<&str> = rows[0]["RepoTags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    tags.sort_unstable();
    let last = format!("{repo}:2");
    same!(tags, [name.as_str(), &last]);
    same!(rows[0]["Labels"]["a"], "b");
    if ctx.api(44) {
        same!(rows[0]["RepoDigests"], json!([format!("{repo}@{id}")]));
        let all = ctx.json(&format!("/images/{name}/json"))?["RepoDigests"].clone();
        same!(all.as_array().map(Vec::len), Some(2));
    }
    Ok(())
}

fn manifests(ctx: &Ctx) -> Outcome {
    if !ctx.api(48) {
        return Ok(());
    }
    let (name, id) = make(ctx, "1", json!({}))?;
    let container = ctx.create("c", &json!({"Image": name}))?;
    let got = ctx.json(&format!("/images/{name}/json?manifests=1"))?;
    let one = &got["Manifests"][0];
    same!(one["ID"], id);
    same!(one["Kind"], "image");
    same!(one["Available"], true);
    same!(one["ImageData"]["Platform"]["architecture"], "amd64");
    same!(one["ImageData"]["Containers"], json!([container]));
    same!(
        got["Descriptor"]["annotations"]["io.containerd.image.name"],
        format!("docker.io/library/{name}")
    );
    let bare = ctx.json(&format!("/images/{name}/json"))?;
    same!(bare["Manifests"], Value::Null);
    ctx.remove(&container)
}

fn inspect_platform(ctx: &Ctx) -> Outcome {
    if !ctx.api(49) {
        return Ok(());
    }
    let (name, id) = make(ctx, "1", json!({}))?;
    let platform = |text: &str| escape(&format!(r#"{{"os":"linux","architecture":"{text}"}}"#));
    let got = ctx.json(&format!(
        "/images/{name}/json?platform={}",
        platform("amd64")
    ))?;
    same!(got["Id"], id);
    let path = format!("/images/{name}/json?platform={}", platform("s390x"));
    let answer = ctx.get(&path)?;
    same!(answer.status, 404);
    has!(answer.message(), "does not provide the specified platform");
    same!(ctx.get(&format!("{path}&manifests=1"))?.status, 400);
    let path = format!("/images/{name}/history?platform={}", platform("s390x"));
    same!(ctx.get(&path)?.status, 404);
    Ok(())
}

fn shared_sizes(ctx: &Ctx) -> Outcome {
    let shared = layer(&[Entry::File("big", &vec![7; 300_000], 0o644)])?;
    let mut ids = Vec::new();
    for tag in ["a", "b"] {
        let name = format!("{}:{tag}", ctx.name("img"));
        let own = layer(&[Entry::File("own", tag.as_bytes(), 0o644)])?;
        load(
            ctx,
            &image(
                &name,
                &json!({"Labels": {"t": tag}}),
                &[shared.clone(), own],
            )?,
        )?;
        ids.push(ctx.json(&format!("/images/{name}/json"))?["Id"].clone());
    }
    let usage = ctx.json("/v1.41/system/df")?;
    let row = |id: &Value| -> Value {
        let rows = usage["Images"].as_array().into_iter().flatten();
        rows.into_iter()
            .find(|i| i["Id"] == *id)
            .cloned()
            .unwrap_or_default()
    };
    let (a, b) = (row(&ids[0]), row(&ids[1]));
    let number = |v: &Value, key: &str| v[key].as_i64().unwrap_or(-1);
    ensure!(number(&a, "SharedSize") >= 300_000, "{a}");
    same!(a["SharedSize"], b["SharedSize"]);
    ensure!(number(&a, "Size") > number(&a, "SharedSize"), "{a}");
    let sum: i64 = usage["Images"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| number(i, "Size"))
        .sum();
    let total = usage["LayersSize"].as_i64().unwrap_or_default();
    ensure!(
        total > 0 && total < sum,
        "shared parts are counted twice: {total} of {sum}"
    );
    has!(
        ctx.docker(&["system", "df", "-v"])?.ok()?.stdout,
        "SHARED SIZE"
    );
    let listed = ctx.json("/images/json?shared-size=1")?.to_string();
    ensure!(
        !ctx.api(42) || listed.contains("\"SharedSize\":"),
        "{listed}"
    );
    Ok(())
}

fn search(ctx: &Ctx) -> Outcome {
    // there is no index that could be reached
    let answer = ctx.get("/images/search?term=127.0.0.1:1/busybox")?;
    ensure!(matches!(answer.status, 404 | 500), "{}", answer.status);
    ensure!(!answer.message().is_empty(), "no message");
    let answer = ctx.get("/images/search?term=busybox&limit=1000")?;
    ensure!(
        ctx.refused(answer.status) || answer.status == 500,
        "{}",
        answer.status
    );
    let out = ctx.docker(&["search", "busybox"])?;
    ensure!(out.code != 0 || !out.stdout.is_empty(), "{out:?}");
    Ok(())
}

fn attestations(ctx: &Ctx) -> Outcome {
    if !ctx.api(53) {
        return Ok(());
    }
    let (name, _) = make(ctx, "1", json!({}))?;
    same!(
        ctx.json(&format!("/images/{name}/attestations"))?,
        json!([])
    );
    same!(ctx.get("/images/absent/attestations")?.status, 404);
    let answer = ctx.get(&format!("/images/{name}/attestations?platform=bad"))?;
    same!(answer.status, 400);
    Ok(())
}

/// A name that is given while the last other one is taken away is never lost.
fn tag_against_remove(ctx: &Ctx) -> Outcome {
    for round in 0..15 {
        let (name, id) = make(ctx, &format!("r{round}"), json!({}))?;
        let kept = format!("{}:k{round}", ctx.name("img"));
        let (socket, path) = (
            ctx.world.socket.clone(),
            format!("/images/{id}/tag?repo={}&tag=k{round}", ctx.name("img")),
        );
        let tagging = thread::spawn(move || engine::call(&socket, "POST", &path, None));
        let removed = ctx.delete(&format!("/images/{name}"))?.expect(200)?.text();
        let tagged = tagging
            .join()
            .map_err(|_| e2e::check::Fail("panic".into()))??
            .status;
        same!(
            there(ctx, &kept)?,
            tagged == 201,
            "round {round}: tag answered {tagged}, removal {removed}"
        );
    }
    Ok(())
}

fn prune_dangling(ctx: &Ctx) -> Outcome {
    let (name, kept) = make(ctx, "named", json!({}))?;
    let (gone, id) = make(ctx, "x", json!({}))?;
    // its name moves to another image
    ctx.act(&format!(
        "/images/{name}/tag?repo={}&tag=x",
        ctx.name("img")
    ))?
    .expect(201)?;
    ensure!(there(ctx, &id)?, "{gone} went with its name");
    let filters = escape(r#"{"dangling":["true"]}"#);
    let report = ctx
        .act(&format!("/images/prune?filters={filters}"))?
        .expect(200)?
        .json()?;
    has!(
        report["ImagesDeleted"].to_string(),
        format!("{{\"Deleted\":\"{id}\"}}")
    );
    ensure!(
        report["SpaceReclaimed"].as_i64().unwrap_or_default() > 0,
        "{report}"
    );
    ensure!(
        !there(ctx, &id)? && there(ctx, &kept)?,
        "wrong ones were pruned"
    );
    let report = ctx
        .act(&format!("/images/prune?filters={filters}"))?
        .expect(200)?
        .json()?;
    same!(report, json!({"ImagesDeleted": null, "SpaceReclaimed": 0}));
    Ok(())
}

fn prune_all_and_filters(ctx: &Ctx) -> Outcome {
    let label = |value: &str| json!({"prune": value, "case": ctx.prefix});
    let (a, _) = make(ctx, "a", label("yes"))?;
    let (b, _) = make(ctx, "b", label("no"))?;
    let (used, _) = make(ctx, "used", label("yes"))?;
    let container = ctx.create("c", &json!({"Image": used}))?;
    let repo = ctx.name("img");
    ctx.act(&format!("/images/{used}/tag?repo={repo}&tag=extra"))?
        .expect(201)?;
    let prune = |filters: Value| -> Outcome<String> {
        let path = format!("/images/prune?filters={}", escape(&filters.to_string()));
        Ok(ctx.act(&path)?.expect(200)?.text())
    };
    let own = format!("case={}", ctx.prefix);
    prune(json!({"dangling": ["true"], "label": [own]}))?;
    ensure!(there(ctx, &a)? && there(ctx, &b)?, "named ones were pruned");
    prune(json!({"dangling": ["false"], "label": [own], "until": ["2025-01-01"]}))?;
    ensure!(there(ctx, &a)?, "a newer one was pruned");
    let report =
        prune(json!({"dangling": ["false"], "label": [own, "prune=yes"], "label!": ["prune=no"]}))?;
    has!(report, format!("{{\"Untagged\":\"{a}\"}}"));
    ensure!(!there(ctx, &a)? && there(ctx, &b)?, "{report}");
    ensure!(there(ctx, &used)?, "one in use was pruned: {report}");
    ensure!(
        !there(ctx, &format!("{repo}:extra"))?,
        "a name that no container uses stayed: {report}"
    );
    let bad = ctx.act(&format!(
        "/images/prune?filters={}",
        escape(r#"{"dangling":["maybe"]}"#)
    ))?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    let bad = ctx.act(&format!(
        "/images/prune?filters={}",
        escape(r#"{"bogus":["x"]}"#)
    ))?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    ctx.remove(&container)
}
