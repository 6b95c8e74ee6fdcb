//! `run`, `create`, `start` and `exec`.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::{
    attached::{self, End, Session},
    create,
    failure::{Done, Failure, reason},
    http::{Client, Hijacked, escape, query},
    image, terminal,
    text::{emit, emit_error},
};
use crate::flags::Parsed;

/// `run`: create, wait, attach, start, then the exit status is the container's.
pub async fn run(client: &Client, parsed: &Parsed) -> Done {
    let wrap = |failure: Failure| Failure {
        message: if failure.message.is_empty() || failure.is_bad_flag() {
            failure.message
        } else {
            format!(
                "longshore: {}\n\nRun 'longshore run --help' for more information",
                failure.message
            )
        },
        ..failure
    };
    let status = |failure: Failure| {
        let status = if failure.http == 0 && failure.status != 1 {
            failure.status
        } else {
            125
        };
        wrap(failure.with_status(status))
    };
    let detach = parsed.on("detach");
    let mut body = create::body(parsed, detach).map_err(status)?;
    let tty = parsed.on("tty");
    let stdin = body["AttachStdin"] == true;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    if tty && let Some((rows, columns)) = terminal::size() {
        body["HostConfig"]["ConsoleSize"] = json!([rows, columns]);
    }
    let id = create_container(client, parsed, &body)
        .await
        .map_err(status)?;
    if detach {
        let started = client.post(&format!("/containers/{id}/start"), None).await;
        started.map_err(|failure| wrap(start_status(failure)))?;
        emit(format!("{id}\n"));
        return Ok(());
    }
    let condition = if parsed.on("rm") {
        "removed"
    } else {
        "next-exit"
    };
    let code = tokio::spawn(wait(
        client
            .stream(
                Method::POST,
                &format!("/containers/{id}/wait?condition={condition}"),
                None,
            )
            .await
            .map_err(status)?,
    ));
    let streams = attach_query(&body, parsed.text_or_empty("detach-keys"));
    let connection = client
        .hijack(&format!("/containers/{id}/attach{streams}"), None)
        .await
        .map_err(status)?;
    if let Err(failure) = client.post(&format!("/containers/{id}/start"), None).await {
        if parsed.on("rm") {
            // The daemon takes it away; not for ever, should it not.
            let _ = tokio::time::timeout(Duration::from_secs(10), code).await;
        }
        return Err(wrap(start_status(failure)));
    }
    let session = Session {
        tty,
        stdin,
        detach_keys: parsed.text_or_empty("detach-keys").into(),
    };
    let proxy = !tty && parsed.switch("sig-proxy").unwrap_or(true);
    match watch(client, &id, connection, &session, proxy).await? {
        End::Detached => Ok(()),
        End::Closed => finish(code.await.map_err(Failure::new)?.map_err(status)?),
    }
}

/// `create`: prints the id.
pub async fn create_only(client: &Client, parsed: &Parsed) -> Done {
    let body = create::body(parsed, false)?;
    let id = create_container(client, parsed, &body).await?;
    emit(format!("{id}\n"));
    Ok(())
}

/// Creates, pulling the image if it is missing (or as `--pull` says).
async fn create_container(client: &Client, parsed: &Parsed, body: &Value) -> Done<String> {
    let path = format!(
        "/containers/create{}",
        query(&[
            ("name", parsed.text_or_empty("name")),
            ("platform", parsed.text_or_empty("platform")),
        ])
    );
    let image = body["Image"].as_str().unwrap_or_default();
    let policy = parsed.text("pull").unwrap_or("missing");
    if !["always", "missing", "never"].contains(&policy) {
        return Err(Failure::usage(format_args!(
            "invalid pull option: '{policy}': must be one of \"always\", \"missing\" or \"never\""
        )));
    }
    if policy == "always" {
        image::pull_image(
            client,
            image,
            parsed.text_or_empty("platform"),
            parsed.on("quiet"),
        )
        .await?;
    }
    let created = match client.post(&path, Some(body)).await {
        Err(failure)
            if failure.http == 404 && policy == "missing" && !local(client, image).await =>
        {
            if !parsed.on("quiet") {
                emit_error(format!(
                    "Unable to find image '{}' locally\n",
                    image::with_tag(image)
                ));
            }
            image::pull_image(
                client,
                image,
                parsed.text_or_empty("platform"),
                parsed.on("quiet"),
            )
            .await?;
            client.post(&path, Some(body)).await?
        }
        other => other?,
    };
    for warning in created["Warnings"].as_array().into_iter().flatten() {
        emit_error(format!(
            "WARNING: {}\n",
            warning.as_str().unwrap_or_default()
        ));
    }
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(path) = parsed.text("cidfile") {
        std::fs::write(path, &id).map_err(|error| {
            Failure::new(format_args!(
                "failed to write the container ID: {}",
                reason(&error)
            ))
        })?;
    }
    Ok(id)
}

/// Is the image there? (A 404 at create may mean a network as well.)
async fn local(client: &Client, image: &str) -> bool {
    client
        .get(&format!("/images/{}/json", image::path(image)))
        .await
        .is_ok()
}

fn attach_query(body: &Value, keys: &str) -> String {
    let wanted = |key: &str| if body[key] == true { "1" } else { "" };
    query(&[
        ("detachKeys", keys),
        ("stderr", wanted("AttachStderr")),
        ("stdin", wanted("AttachStdin")),
        ("stdout", wanted("AttachStdout")),
        ("stream", "1"),
    ])
}

/// The exit status that Docker gives for a container that could not be started, by the daemon's words.
fn start_status(failure: Failure) -> Failure {
    let text = failure.message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let status = if has(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file",
    ]) {
        127
    } else if has(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    };
    failure.with_status(status)
}

/// The answer of a wait request: the exit status.
async fn wait(response: hyper::Response<hyper::body::Incoming>) -> Done<i64> {
    use http_body_util::BodyExt;
    let body = response.into_body().collect().await.map_err(Failure::new)?;
    let answer: Value = serde_json::from_slice(&body.to_bytes()).map_err(Failure::new)?;
    match answer["Error"]["Message"].as_str() {
        Some(message) if !message.is_empty() => Err(Failure::new(message).with_status(125)),
        _ => Ok(answer["StatusCode"].as_i64().unwrap_or(0)),
    }
}

fn finish(code: i64) -> Done {
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::status(code)),
        Err(_) => Err(Failure::status(125)),
    }
}

/// An attached session with the container's size and signals looked after.
async fn watch(
    client: &Client,
    id: &str,
    connection: Hijacked,
    session: &Session,
    proxy: bool,
) -> Done<End> {
    let resize = format!("/containers/{id}/resize");
    tokio::select! {
        end = attached::pump(connection, session) => end,
        () = async {
            if session.tty {
                attached::follow_size(client, &resize).await;
            }
            std::future::pending().await
        } => Ok(End::Closed),
        () = async {
            if proxy {
                attached::forward_signals(client, id).await;
            }
            std::future::pending().await
        } => Ok(End::Closed),
    }
}

/// `start`, with `-a` or `-i` attached to one container.
pub async fn start(client: &Client, parsed: &Parsed) -> Done {
    if !parsed.on("attach") && !parsed.on("interactive") {
        return super::lifecycle::each(&parsed.arguments, async |name: &str| {
            client
                .post(&format!("/containers/{}/start", escape(name)), None)
                .await?;
            Ok(format!("{name}\n"))
        })
        .await
        .map_err(|failed| {
            Failure::new(format_args!(
                "Error: failed to start containers: {}",
                failed.join(", ")
            ))
        });
    }
    let [name] = &parsed.arguments[..] else {
        return Err(Failure::new(
            "you cannot start and attach multiple containers at once",
        ));
    };
    let inspect = client
        .get(&format!("/containers/{}/json", escape(name)))
        .await?;
    let id = inspect["Id"].as_str().unwrap_or_default().to_owned();
    let tty = inspect["Config"]["Tty"] == true;
    let stdin = parsed.on("interactive") && inspect["Config"]["OpenStdin"] == true;
    let keys = parsed.text_or_empty("detach-keys");
    let streams = json!({"AttachStdin": stdin, "AttachStdout": true, "AttachStderr": true});
    let connection = client
        .hijack(
            &format!("/containers/{id}/attach{}", attach_query(&streams, keys)),
            None,
        )
        .await?;
    let condition = if inspect["HostConfig"]["AutoRemove"] == true {
        "removed"
    } else {
        "next-exit"
    };
    let code = tokio::spawn(wait(
        client
            .stream(
                Method::POST,
                &format!("/containers/{id}/wait?condition={condition}"),
                None,
            )
            .await?,
    ));
    client
        .post(&format!("/containers/{id}/start"), None)
        .await?;
    let session = Session {
        tty,
        stdin,
        detach_keys: keys.into(),
    };
    match watch(client, &id, connection, &session, !tty).await? {
        End::Detached => Ok(()),
        End::Closed => finish(code.await.map_err(Failure::new)??),
    }
}

/// `exec`: the exit status is the process's.
pub async fn exec(client: &Client, parsed: &Parsed) -> Done {
    let (name, command) = parsed
        .arguments
        .split_first()
        .ok_or_else(|| Failure::usage("no container"))?;
    let (tty, detach) = (parsed.on("tty"), parsed.on("detach"));
    let stdin = parsed.on("interactive") && !detach;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let mut body = json!({
        "AttachStdin": stdin,
        "AttachStdout": !detach,
        "AttachStderr": !detach,
        "Cmd": command,
        "DetachKeys": parsed.text_or_empty("detach-keys"),
        "Env": create::environment(parsed)?,
        "Privileged": parsed.on("privileged"),
        "Tty": tty,
        "User": parsed.text_or_empty("user"),
        "WorkingDir": parsed.text_or_empty("workdir"),
    });
    let size = tty.then(terminal::size).flatten();
    if let Some((rows, columns)) = size {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    let created = client
        .post(&format!("/containers/{}/exec", escape(name)), Some(&body))
        .await?;
    let id = created["Id"]
        .as_str()
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::new("exec ID empty"))?;
    let mut start = json!({"Detach": detach, "Tty": tty});
    if let Some((rows, columns)) = size {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    let path = format!("/exec/{id}/start");
    if detach {
        client.post(&path, Some(&start)).await?;
        return Ok(());
    }
    let connection = client.hijack(&path, Some(&start)).await?;
    let session = Session {
        tty,
        stdin,
        detach_keys: parsed.text_or_empty("detach-keys").into(),
    };
    let resize = format!("/exec/{id}/resize");
    let end = tokio::select! {
        end = attached::pump(connection, &session) => end?,
        () = async {
            if tty {
                attached::follow_size(client, &resize).await;
            }
            std::future::pending().await
        } => End::Closed,
    };
    if end == End::Detached {
        return Ok(());
    }
    let state = client.get(&format!("/exec/{id}/json")).await?;
    finish(state["ExitCode"].as_i64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_have_dockers_statuses() {
        let status = |text: &str| start_status(Failure::answer(400, text)).status;
        assert_eq!(
            status("exec: \"x\": executable file not found in $PATH"),
            127
        );
        assert_eq!(status("exec: \"/etc/passwd\": permission denied"), 126);
        assert_eq!(status("port is already allocated"), 125);
    }
}
