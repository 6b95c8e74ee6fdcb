//! Pull and push: progress lines while content moves, and what a registry says about an image.

use longshore_engine::{Detail, Engine, Line, Lines, PullRequest, PushRequest};
use longshore_model::{Error, Reference, Result};
use serde::Serialize;
use tokio::sync::mpsc;

use super::auth::{AuthConfig, credentials};
use crate::{
    json,
    request::{JSON_LIMIT, Request},
    response::{JSON, Response},
};

/// Lines between the engine and a slow client.
const AHEAD: usize = 64;

/// One line of progress, in dockerd's order of fields.
#[derive(Debug, Default, Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'a str,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    detail: Option<Bar>,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aux: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    error_detail: Option<ErrorDetail<'a>>,
}

#[derive(Debug, Default, Serialize)]
struct Bar {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hidecounts: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    units: &'static str,
}

#[derive(Debug, Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
}

impl<'a> From<&'a Line> for Message<'a> {
    fn from(line: &'a Line) -> Self {
        let mut message = Self {
            status: &line.status,
            id: &line.id,
            ..Self::default()
        };
        let bar = match &line.detail {
            Detail::None => return message,
            Detail::InsteadOfIndex(both) => {
                message.aux = Some(serde_json::json!({
                    "manifestPushedInsteadOfIndex": true,
                    "originalIndex": both.0,
                    "selectedManifest": both.1,
                }));
                return message;
            }
            Detail::Empty => Bar::default(),
            Detail::Done => Bar {
                hidecounts: true,
                ..Bar::default()
            },
            Detail::Bytes { current, total } => Bar {
                // Go leaves a zero out.
                current: (*current > 0).then_some(*current),
                total: (*total > 0).then_some(*total),
                ..Bar::default()
            },
            Detail::Seconds(seconds) => Bar {
                current: Some(*seconds),
                units: "s",
                ..Bar::default()
            },
        };
        message.detail = Some(bar);
        message
    }
}

impl<'a> Message<'a> {
    fn error(text: &'a str) -> Self {
        Self {
            error: Some(text),
            error_detail: Some(ErrorDetail { message: text }),
            ..Self::default()
        }
    }
}

/// Answers with the lines of `work`. An error before the first of them has a status of its own. When the client goes,
/// `work` is dropped.
async fn answer<F>(engine: Engine, work: impl FnOnce(Lines) -> F) -> Result<Response>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (sender, mut lines) = mpsc::channel::<Line>(AHEAD);
    let mut work = Box::pin(work(Lines(sender)));
    let mut done = None;
    let mut next = tokio::select! {
        biased;
        line = lines.recv() => line,
        result = &mut work => {
            done = Some(result);
            lines.try_recv().ok()
        }
    };
    if let (None, Some(Err(error))) = (&next, &done) {
        return Err(error.clone());
    }
    let (response, client) = Response::stream(JSON);
    tokio::spawn(async move {
        loop {
            if let Some(line) = next.take()
                && client.progress_line(&Message::from(&line)).await.is_err()
            {
                return;
            }
            if done.is_some() {
                next = lines.try_recv().ok();
                if next.is_none() {
                    break;
                }
                continue;
            }
            tokio::select! {
                biased;
                line = lines.recv() => next = line,
                result = &mut work => done = Some(result),
                () = client.closed() => return,
                () = engine.closing() => return,
            }
        }
        if let Some(Err(error)) = done {
            // A client that has gone does not need to know.
            let _ = client.progress_line(&Message::error(&error.message)).await;
        }
    });
    Ok(response)
}

/// `POST /images/create?fromImage=`
pub(super) async fn pull(request: Request) -> Result<Response> {
    let reference = named(request.query.get("fromImage"), request.query.get("tag"))?;
    let pull = PullRequest {
        reference,
        platform: request
            .query
            .opt("platform")
            .filter(|p| !p.is_empty())
            .map(str::to_owned),
        // What cannot be read is no reason to refuse: most pulls need none.
        credentials: credentials(request.header("x-registry-auth")).unwrap_or_default(),
    };
    let engine = request.engine;
    let own = engine.clone();
    answer(engine, move |lines| async move {
        own.pull_image(pull, &lines).await
    })
    .await
}

/// `POST /images/{name}/push`
pub(crate) async fn push(mut request: Request) -> Result<Response> {
    let header = request.header("x-registry-auth");
    let credentials = if header.is_empty() {
        // The old way: credentials are the body.
        let body = request.body.collect(JSON_LIMIT).await?;
        let config = match body.trim_ascii() {
            b"" => AuthConfig::default(),
            text => json::from_text(text).map_err(|why| {
                Error::invalid(format!(
                    "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: {why}"
                ))
            })?,
        };
        config.into()
    } else {
        credentials(header).unwrap_or_default()
    };
    let mut reference = Reference::parse(request.name())?;
    let tag = request.query.get("tag");
    if !tag.is_empty() {
        reference = reference.with_tag(tag)?;
    }
    let push = PushRequest {
        reference,
        platform: platform(request.query.get("platform"))?,
        credentials,
    };
    let engine = request.engine;
    let own = engine.clone();
    answer(engine, move |lines| async move {
        own.push_image(push, &lines).await
    })
    .await
}

/// A platform as JSON (`{"os":"linux","architecture":"arm64"}`), as this endpoint has it.
fn platform(text: &str) -> Result<Option<String>> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Wanted {
        os: String,
        architecture: String,
        variant: String,
    }
    if text.is_empty() {
        return Ok(None);
    }
    let bad = |why: String| Error::invalid(format!("failed to parse platform: {why}"));
    let wanted: Wanted = json::from_text(text.as_bytes()).map_err(bad)?;
    if wanted.os.is_empty() || wanted.architecture.is_empty() {
        return Err(bad("os and architecture are required".to_owned()));
    }
    let mut text = format!("{}/{}", wanted.os, wanted.architecture);
    if !wanted.variant.is_empty() {
        text.push('/');
        text.push_str(&wanted.variant);
    }
    Ok(Some(text))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    descriptor: serde_json::Value,
    platforms: Option<serde_json::Value>,
}

/// `GET /distribution/{name}/json`
pub(crate) async fn distribution(request: Request) -> Result<Response> {
    let reference = Reference::parse(request.name())?.or_latest();
    let credentials = credentials(request.header("x-registry-auth")).unwrap_or_default();
    let found = request.engine.distribution(&reference, credentials).await?;
    Ok(Response::ok(&Inspected {
        descriptor: serde_json::json!(found.descriptor),
        platforms: found
            .platforms
            .map(|platforms| serde_json::json!(platforms)),
    }))
}

/// A reference of a name and what may be a tag or a digest.
fn named(image: &str, tag: &str) -> Result<Reference> {
    let mut reference = Reference::parse(image)?;
    if tag.is_empty() {
        return Ok(reference);
    }
    if tag.contains(':') {
        longshore_model::reference::check_digest(tag)?;
        reference.tag = None;
        reference.digest = Some(tag.to_owned());
        return Ok(reference);
    }
    reference.with_tag(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_recorded() {
        let text = |line: &Line| {
            let message = Message::from(line);
            String::from_utf8(crate::json::to_vec(&message)).unwrap()
        };
        let digest = "sha256:5efdc9b41c23aa";
        for (line, want) in [
            (
                Line::new("latest", "Pulling from library/busybox"),
                r#"{"status":"Pulling from library/busybox","id":"latest"}"#,
            ),
            (
                Line::layer(digest, "Pulling fs layer", Detail::Empty),
                r#"{"status":"Pulling fs layer","progressDetail":{},"id":"5efdc9b41c23"}"#,
            ),
            (
                Line::layer(
                    digest,
                    "Downloading",
                    Detail::Bytes {
                        current: 14,
                        total: 62,
                    },
                ),
                r#"{"status":"Downloading","progressDetail":{"current":14,"total":62},"id":"5efdc9b41c23"}"#,
            ),
            (
                Line::layer(digest, "Download complete", Detail::Done),
                r#"{"status":"Download complete","progressDetail":{"hidecounts":true},"id":"5efdc9b41c23"}"#,
            ),
            (
                Line::layer(digest, "Extracting", Detail::Seconds(1)),
                r#"{"status":"Extracting","progressDetail":{"current":1,"units":"s"},"id":"5efdc9b41c23"}"#,
            ),
            (
                Line::new("", "Digest: sha256:1"),
                r#"{"status":"Digest: sha256:1"}"#,
            ),
        ] {
            assert_eq!(text(&line), want);
        }
        let error = crate::json::to_vec(&Message::error("x"));
        assert_eq!(error, br#"{"error":"x","errorDetail":{"message":"x"}}"#);
    }

    #[test]
    fn names_and_tags() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, tag, want) in [
            ("busybox", "latest", "docker.io/library/busybox:latest"),
            ("busybox", "", "docker.io/library/busybox"),
            ("busybox:1", "", "docker.io/library/busybox:1"),
            ("r:5000/a/b", "v1", "r:5000/a/b:v1"),
            (
                "busybox:1",
                digest.as_str(),
                &format!("docker.io/library/busybox@{digest}"),
            ),
        ] {
            assert_eq!(named(image, tag).unwrap().canonical(), want);
        }
        for (image, tag) in [("Bad Name", ""), ("x", "a/b"), ("x", "sha256:12")] {
            let error = named(image, tag).unwrap_err();
            assert_eq!(error.kind, longshore_model::ErrorKind::InvalidParameter);
        }
    }
}
