//! Names, ids and prefixes; rename.

use e2e::{check::Outcome, ensure, has, same};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    cases!("names", Any;
        conflict, conflict_changes_nothing, bad_names, generated_name, rename, rename_conflict, rename_of_running, rename_to_itself,
        rename_bad, by_id_prefix, ambiguous_prefix, slash_in_front, name_is_free_after_removal, no_such_container_texts, race_for_one_name,
    )
    .to_vec()
}

fn conflict(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let name = ctx.name("c");
    let answer = ctx.post(
        &format!("/containers/create?name={name}"),
        &json!({"Image": "busybox"}),
    )?;
    same!(answer.status, 409);
    same!(
        answer.message(),
        format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    Ok(())
}

fn conflict_changes_nothing(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let before = ctx.inspect(&id)?;
    ctx.post(
        &format!("/containers/create?name={}", ctx.name("c")),
        &json!({"Image": "busybox"}),
    )?
    .expect(409)?;
    same!(ctx.inspect(&id)?, before);
    Ok(())
}

fn bad_names(ctx: &Ctx) -> Outcome {
    for (name, shown) in [
        ("bad%2Fname", "bad/name"),
        ("-x", "-x"),
        ("%C3%A4", "ä"),
        ("a%20b", "a b"),
        ("x", "x"),
    ] {
        let answer = ctx.post(
            &format!("/containers/create?name={name}"),
            &json!({"Image": "busybox"}),
        )?;
        same!(answer.status, 400, "name {shown}");
        same!(
            answer.message(),
            format!("Invalid container name ({shown}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        );
    }
    Ok(())
}

fn generated_name(ctx: &Ctx) -> Outcome {
    let id = ctx
        .post("/containers/create", &json!({"Image": "busybox"}))?
        .expect(201)?
        .json()?["Id"]
        .clone();
    let id = id.as_str().unwrap_or_default();
    let name = ctx.inspect(id)?["Name"].clone();
    ctx.remove(id)?;
    let name = name.as_str().unwrap_or_default();
    ensure!(
        name.starts_with('/') && name.contains('_') && name.len() > 5,
        "generated name {name}"
    );
    Ok(())
}

fn rename(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    ctx.act(&format!(
        "/containers/{}/rename?name={}",
        ctx.name("c"),
        ctx.name("d")
    ))?
    .expect(204)?;
    same!(ctx.inspect(&ctx.name("d"))?["Id"], id.as_str());
    same!(
        ctx.get(&format!("/containers/{}/json", ctx.name("c")))?
            .status,
        404
    );
    ctx.create("c", &json!({}))?;
    Ok(())
}

fn rename_conflict(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let other = ctx.create("d", &json!({}))?;
    let answer = ctx.act(&format!("/containers/{id}/rename?name={}", ctx.name("d")))?;
    same!(answer.status, 409);
    has!(answer.message(), "is already in use by container");
    has!(answer.message(), other);
    same!(ctx.inspect(&id)?["Name"], format!("/{}", ctx.name("c")));
    Ok(())
}

fn rename_of_running(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    ctx.act(&format!("/containers/{id}/rename?name={}", ctx.name("d")))?
        .expect(204)?;
    same!(ctx.inspect(&id)?["Name"], format!("/{}", ctx.name("d")));
    same!(ctx.exec_sh(&ctx.name("d"), "echo x")?.line(), "x");
    Ok(())
}

fn rename_to_itself(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let answer = ctx.act(&format!("/containers/{id}/rename?name={}", ctx.name("c")))?;
    ensure!(answer.status >= 400, "renamed to itself: {}", answer.status);
    same!(ctx.inspect(&id)?["Name"], format!("/{}", ctx.name("c")));
    Ok(())
}

fn rename_bad(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    for query in ["name=", "name=bad%2Fname", ""] {
        let answer = ctx.act(&format!("/containers/{id}/rename?{query}"))?;
        ensure!(
            answer.status == 400 || answer.status == 500,
            "rename {query}: {}",
            answer.status
        );
    }
    same!(
        ctx.act("/containers/nosuch/rename?name=whatever")?.status,
        404
    );
    same!(ctx.inspect(&id)?["Name"], format!("/{}", ctx.name("c")));
    Ok(())
}

fn by_id_prefix(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    for length in [12, 20, 63, 64] {
        same!(ctx.inspect(&id[..length])?["Id"], id.as_str());
    }
    Ok(())
}

fn ambiguous_prefix(ctx: &Ctx) -> Outcome {
    // 17 ids share a first digit for certain
    let ids: Vec<String> = (0..17)
        .map(|n| ctx.create(&format!("c{n}"), &json!({})))
        .collect::<Outcome<_>>()?;
    let digit = ids
        .iter()
        .map(|id| &id[..1])
        .find(|d| ids.iter().filter(|id| id.starts_with(d)).count() > 1)
        .unwrap_or("0");
    let answer = ctx.get(&format!("/containers/{digit}/json"))?;
    ensure!(
        answer.status == 400 || answer.status == 404 || answer.status == 500,
        "{}",
        answer.status
    );
    has!(answer.message(), "ultiple IDs found with provided prefix");
    Ok(())
}

fn slash_in_front(ctx: &Ctx) -> Outcome {
    let body = json!({"Image": "busybox"});
    let name = ctx.name("c");
    let id = ctx
        .post(&format!("/containers/create?name=%2F{name}"), &body)?
        .expect(201)?
        .json()?["Id"]
        .clone();
    same!(ctx.inspect(&name)?["Id"], id);
    same!(
        ctx.inspect(id.as_str().unwrap_or_default())?["Name"],
        format!("/{name}")
    );
    Ok(())
}

fn name_is_free_after_removal(ctx: &Ctx) -> Outcome {
    for _ in 0..5 {
        let id = ctx.create("c", &json!({}))?;
        ctx.remove(&id)?;
    }
    Ok(())
}

fn no_such_container_texts(ctx: &Ctx) -> Outcome {
    for (method, path) in [
        ("GET", "/containers/absent/json"),
        ("POST", "/containers/absent/start"),
        ("POST", "/containers/absent/stop"),
        ("POST", "/containers/absent/kill"),
        ("POST", "/containers/absent/restart"),
        ("POST", "/containers/absent/wait"),
        ("GET", "/containers/absent/top"),
        ("DELETE", "/containers/absent"),
        ("POST", "/containers/absent/resize?h=1&w=1"),
        ("GET", "/containers/absent/logs?stdout=1"),
    ] {
        let answer = ctx.call(method, path, None)?;
        same!(answer.status, 404, "{method} {path}");
        ensure!(
            answer.message().ends_with("No such container: absent"),
            "{method} {path}: {}",
            answer.message()
        );
        same!(answer.headers.get("Content-Type"), "application/json");
    }
    Ok(())
}

fn race_for_one_name(ctx: &Ctx) -> Outcome {
    let path = format!("/containers/create?name={}", ctx.name("c"));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    ctx.post(&path, &json!({"Image": "busybox"}))
                        .map(|a| a.status)
                })
            })
            .collect();
        all.into_iter()
            .map(|t| t.join().unwrap_or(Ok(0)))
            .collect::<Outcome<_>>()
    })?;
    same!(
        statuses.iter().filter(|s| **s == 201).count(),
        1,
        "{statuses:?}"
    );
    same!(
        statuses.iter().filter(|s| **s == 409).count(),
        7,
        "{statuses:?}"
    );
    let listed: Value = ctx.json(&format!(
        "/containers/json?all=1&filters={}",
        e2e::http::escape(&json!({"name": [ctx.name("c")]}).to_string())
    ))?;
    same!(listed.as_array().map(Vec::len), Some(1));
    Ok(())
}
