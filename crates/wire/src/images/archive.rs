//! Images that come in a request body: load and import. The body goes through a pipe to the engine, never into memory.

use longshore_engine::ImportRequest;
use longshore_model::{Error, Result, reference::Reference};
use serde::Serialize;
use tokio::sync::mpsc;

use super::platform;
use crate::{
    request::Request,
    response::{BodySender, Gone, JSON, Response},
};

/// One line of a progress stream.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    error_detail: Option<Detail<'a>>,
}

#[derive(Debug, Serialize)]
struct Detail<'a> {
    message: &'a str,
}

impl<'a> Line<'a> {
    fn error(message: &'a str) -> Self {
        Self {
            error: Some(message),
            error_detail: Some(Detail { message }),
            ..Self::default()
        }
    }
}

/// `POST /images/load`: 200 at once, failures are the last line of the stream, as in dockerd.
pub(crate) async fn load(request: Request) -> Result<Response> {
    // Not quiet would be progress of the upload, which dockerd with containerd's store does not tell either.
    let platform = platform::one(&request, 48)?;
    let (archive, feed) = request.body.into_pipe()?;
    let engine = request.engine;
    let (response, sender) = Response::stream(JSON);
    tokio::spawn(async move {
        let (progress, mut lines) = mpsc::channel(16);
        let work = async {
            let load = engine.load_images(archive, platform.as_deref(), progress);
            let (fed, loaded) = tokio::join!(feed, load);
            // A body that broke off is the cause of whatever the reader says about it.
            fed.and(loaded)
        };
        let print = async {
            while let Some(text) = lines.recv().await {
                let mut text: String = text;
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                let line = Line {
                    stream: Some(text),
                    ..Line::default()
                };
                if sender.progress_line(&line).await.is_err() {
                    // The load goes on: nobody is left to tell.
                    lines.close();
                }
            }
        };
        let (done, ()) = tokio::join!(work, print);
        if let Err(error) = done {
            let _: std::result::Result<(), Gone> = fail(&sender, &error).await;
        }
    });
    Ok(response)
}

async fn fail(sender: &BodySender, error: &Error) -> std::result::Result<(), Gone> {
    sender.progress_line(&Line::error(&error.message)).await
}

/// `POST /images/create`: import from the body, or pull.
pub(crate) async fn create(request: Request) -> Result<Response> {
    let query = &request.query;
    let source = query.get("fromSrc");
    if !query.get("fromImage").is_empty() {
        return super::transfer::pull(request).await;
    }
    if source != "-" {
        return Err(Error::not_implemented(
            "importing from a URL is not implemented by longshore yet: send the archive as the request's body (fromSrc=-)",
        ));
    }
    let (repository, tag) = repository(query.get("repo"), query.get("tag"))?;
    let import = ImportRequest {
        repository,
        tag,
        message: match query.get("message") {
            "" => "Imported from -".to_owned(),
            message => message.to_owned(),
        },
        changes: query.all("changes").map(str::to_owned).collect(),
        platform: query
            .opt("platform")
            .filter(|p| !p.is_empty())
            .map(str::to_owned),
    };
    let engine = request.engine.clone();
    let (archive, feed) = request.body.into_pipe()?;
    let (fed, imported) = tokio::join!(feed, engine.import_image(archive, import));
    fed?;
    let id = imported?;
    let (response, sender) = Response::stream(JSON);
    let line = Line {
        status: Some(&id),
        ..Line::default()
    };
    // The channel has room for it: this does not wait for the client.
    let _: std::result::Result<(), Gone> = sender.progress_line(&line).await;
    Ok(response)
}

/// `repo` and `tag` of an import as (repository, tag): a tag may be part of `repo`, no tag means latest.
pub(super) fn repository(repo: &str, tag: &str) -> Result<(String, String)> {
    if repo.is_empty() {
        return Ok((String::new(), String::new()));
    }
    let mut reference = Reference::parse(repo)?;
    if reference.digest.is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    if !tag.is_empty() {
        reference = reference.with_tag(tag)?;
    }
    let reference = reference.or_latest();
    let name = reference.familiar_name();
    Ok((name, reference.tag.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for (repo, tag, want) in [
            ("", "", ("", "")),
            ("imp:1", "", ("imp", "1")),
            ("imp", "2", ("imp", "2")),
            ("imp", "", ("imp", "latest")),
            ("127.0.0.1:5000/a/b", "x", ("127.0.0.1:5000/a/b", "x")),
        ] {
            let (name, tag) = repository(repo, tag).unwrap();
            assert_eq!((name.as_str(), tag.as_str()), want);
        }
        assert!(repository("Bad Name", "").is_err());
    }

    #[test]
    fn lines() {
        let text = |line: &Line<'_>| String::from_utf8(crate::json::to_vec(line)).unwrap();
        assert_eq!(
            text(&Line::error("x")),
            r#"{"error":"x","errorDetail":{"message":"x"}}"#
        );
        let line = Line {
            stream: Some("Loaded image: a\n".to_owned()),
            ..Line::default()
        };
        assert_eq!(text(&line), r#"{"stream":"Loaded image: a\n"}"#);
    }
}
