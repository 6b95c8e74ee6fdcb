//! `images`, `pull`, `load`, and how images are named.

use std::{io::Read, path::Path};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    failure::{Done, Failure, reason},
    http::{Client, escape, query},
    list::{Listing, filters},
    text::{emit, emit_error, short_id},
};
use crate::{flags::Parsed, units};

/// Repository and tag of a reference; a port is no tag, and what has a digest has no tag.
pub fn split_tag(reference: &str) -> (&str, &str) {
    if reference.contains('@') {
        return (reference, "");
    }
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, ""),
    }
}

/// The reference with `:latest` where it has neither tag nor digest.
pub fn with_tag(reference: &str) -> String {
    let (repository, tag) = split_tag(reference);
    if tag.is_empty() && !reference.contains('@') {
        format!("{repository}:latest")
    } else {
        reference.to_owned()
    }
}

/// A reference as part of a path: its slashes stay.
pub fn path(reference: &str) -> String {
    let parts: Vec<String> = reference.split('/').map(escape).collect();
    parts.join("/").replace("%3A", ":").replace("%40", "@")
}

/// Has the daemon pull `reference`, and shows on stderr what it says.
pub async fn pull_image(client: &Client, reference: &str, platform: &str, quiet: bool) -> Done {
    pull_to(client, reference, platform, quiet, &|text| emit_error(text)).await
}

async fn pull_to(
    client: &Client,
    reference: &str,
    platform: &str,
    quiet: bool,
    show: &(dyn Fn(&str) + Sync),
) -> Done {
    let full = with_tag(reference);
    let (name, tag) = match full.split_once('@') {
        Some((name, digest)) => (name, digest),
        None => split_tag(&full),
    };
    let options = query(&[("fromImage", name), ("platform", platform), ("tag", tag)]);
    let auth = super::auth::for_reference(&full);
    let response = client
        .transfer(&format!("/images/create{options}"), &auth)
        .await?;
    progress(response, &|text| {
        if !quiet {
            show(text);
        }
    })
    .await
}

/// `pull`
pub async fn pull(client: &Client, parsed: &Parsed) -> Done {
    let reference = parsed.arguments.first().map_or("", String::as_str);
    let quiet = parsed.on("quiet");
    if split_tag(reference).1.is_empty() && !reference.contains('@') && !quiet {
        emit("Using default tag: latest\n");
    }
    pull_to(
        client,
        reference,
        parsed.text_or_empty("platform"),
        quiet,
        &|text| emit(text),
    )
    .await?;
    emit(format!("{}\n", with_tag(reference)));
    Ok(())
}

/// `push`
pub async fn push(client: &Client, parsed: &Parsed) -> Done {
    let reference = parsed.arguments.first().map_or("", String::as_str);
    let (all, quiet) = (parsed.on("all-tags"), parsed.on("quiet"));
    let (name, tag) = split_tag(reference);
    if all && !tag.is_empty() {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let tag = match tag {
        "" if all => "",
        "" => {
            if !quiet {
                emit("Using default tag: latest\n");
            }
            "latest"
        }
        tag => tag,
    };
    let platform = match parsed
        .text_or_empty("platform")
        .split('/')
        .collect::<Vec<_>>()[..]
    {
        [os, architecture] => json!({"os": os, "architecture": architecture}).to_string(),
        [os, architecture, variant] => {
            json!({"os": os, "architecture": architecture, "variant": variant}).to_string()
        }
        _ => String::new(),
    };
    let options = query(&[("platform", &platform), ("tag", tag)]);
    let auth = super::auth::for_reference(name);
    let response = client
        .transfer(&format!("/images/{}/push{options}", path(name)), &auth)
        .await?;
    progress(response, &|text| {
        if !quiet {
            emit(text);
        }
    })
    .await?;
    if quiet {
        emit(format!("{}\n", with_tag(reference)));
    }
    Ok(())
}

/// Shows a stream of progress messages, one line each; those that only move a bar are passed over.
async fn progress(response: Response<Incoming>, show: &(dyn Fn(&str) + Sync)) -> Done {
    let mut body = response.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Failure::new)?;
        for line in lines.take(frame.data_ref().map_or(&[][..], |data| data)) {
            show_progress(&line, show)?;
        }
    }
    show_progress(&lines.0, show)
}

fn show_progress(line: &[u8], show: &(dyn Fn(&str) + Sync)) -> Done {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let message: Value = serde_json::from_slice(line).map_err(Failure::new)?;
    let error = message["errorDetail"]["message"]
        .as_str()
        .or(message["error"].as_str());
    if let Some(error) = error {
        return Err(Failure::new(error));
    }
    if let Some(text) = message["stream"].as_str() {
        show(text);
    } else if let Some(status) = message["status"].as_str()
        && !message["progressDetail"]["current"].is_number()
    {
        match message["id"].as_str() {
            Some(id) if !id.is_empty() => show(&format!("{id}: {status}\n")),
            _ => show(&format!("{status}\n")),
        }
    }
    Ok(())
}

/// Lines of a stream that comes in pieces.
#[derive(Default)]
pub struct Lines(pub Vec<u8>);

impl Lines {
    /// All lines that are complete now.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.0.split_off(end + 1);
        let complete = std::mem::replace(&mut self.0, rest);
        complete
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }
}

/// `load`: an archive from a file or stdin.
pub async fn load(client: &Client, parsed: &Parsed) -> Done {
    let mut archive: Box<dyn Read + Send> = match parsed.text("input") {
        Some(path) => Box::new(
            std::fs::File::open(Path::new(path))
                .map_err(|error| Failure::new(format_args!("open {path}: {}", reason(&error))))?,
        ),
        None if super::terminal::stdin_is_terminal() => {
            return Err(Failure::new(
                "requested load from stdin, but stdin is empty",
            ));
        }
        None => Box::new(std::io::stdin()),
    };
    let (sender, pieces) = mpsc::channel(4);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; 256 << 10];
            let piece = match archive.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => {
                    piece.truncate(count);
                    Ok(Bytes::from(piece))
                }
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    let quiet = if parsed.on("quiet") { "1" } else { "" };
    let options = query(&[
        ("platform", parsed.text_or_empty("platform")),
        ("quiet", quiet),
    ]);
    let response = client
        .upload(&format!("/images/load{options}"), pieces)
        .await?;
    progress(response, &|text| emit(text)).await
}

/// `images`
pub async fn images(client: &Client, parsed: &Parsed) -> Done {
    let mut wanted = parsed.list("filter").to_vec();
    wanted.extend(
        parsed
            .arguments
            .iter()
            .map(|name| format!("reference={name}")),
    );
    let all = if parsed.on("all") { "1" } else { "" };
    let options = query(&[("all", all), ("filters", &filters(&wanted)?)]);
    let images = client.get(&format!("/images/json{options}")).await?;
    let truncate = !parsed.on("no-trunc");
    let now = jiff::Timestamp::now().as_second();
    let mut rows = Vec::new();
    for image in images.as_array().into_iter().flatten() {
        rows.extend(image_rows(image, truncate, now));
    }
    let mut columns = vec!["Repository", "Tag"];
    if parsed.on("digests") {
        columns.push("Digest");
    }
    columns.extend(["ID", "CreatedSince", "Size"]);
    Listing {
        rows,
        columns,
        titles: &[("ID", "IMAGE ID")],
        quiet: parsed.on("quiet").then_some("ID"),
    }
    .print(parsed.text_or_empty("format"))
}

/// One row a tag; one with `<none>` for an image without.
fn image_rows(image: &Value, truncate: bool, now: i64) -> Vec<Value> {
    let id = image["Id"].as_str().unwrap_or_default();
    let created = image["Created"].as_i64().unwrap_or(0);
    let names = |key: &str| {
        let names = image[key].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        names
            .into_iter()
            .filter(|name| !name.starts_with("<none>"))
            .collect::<Vec<_>>()
    };
    let digests = names("RepoDigests");
    let digest_of = |repository: &str| {
        digests
            .iter()
            .filter_map(|name| name.split_once('@'))
            .find(|(its, _)| *its == repository)
            .map_or("<none>", |(_, digest)| digest)
    };
    let row = |repository: &str, tag: &str| {
        json!({
            "Repository": repository,
            "Tag": tag,
            "Digest": digest_of(repository),
            "ID": if truncate { short_id(id) } else { id },
            "CreatedSince": format!("{} ago", units::human_duration(now - created)),
            "CreatedAt": super::list::go_time(created),
            "Size": units::human_size(image["Size"].as_i64().unwrap_or(0)),
            "Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
            "VirtualSize": units::human_size_fine(image["Size"].as_i64().unwrap_or(0)),
        })
    };
    let tags = names("RepoTags");
    if tags.is_empty() {
        let repository = digests
            .first()
            .and_then(|name| name.split_once('@'))
            .map_or("<none>", |(repository, _)| repository);
        return vec![row(repository, "<none>")];
    }
    tags.iter()
        .map(|name| {
            let (repository, tag) = split_tag(name);
            row(repository, tag)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        assert_eq!(split_tag("a:1"), ("a", "1"));
        assert_eq!(split_tag("host:5000/a"), ("host:5000/a", ""));
        assert_eq!(with_tag("host:5000/a"), "host:5000/a:latest");
        assert_eq!(with_tag("a@sha256:1"), "a@sha256:1");
        assert_eq!(path("host:5000/a b@sha256:1"), "host:5000/a%20b@sha256:1");
    }

    #[test]
    fn rows_of_an_image() {
        let image = json!({"Id": "sha256:0123456789abcdef", "Created": 100, "Size": 1_094_000,
            "RepoTags": ["a:1", "b:2"], "RepoDigests": ["a@sha256:ff"]});
        let rows = image_rows(&image, true, 160);
        assert_eq!(rows[0]["ID"], "0123456789ab");
        assert_eq!(rows[0]["Digest"], "sha256:ff");
        assert_eq!(rows[1]["Tag"], "2");
        assert_eq!(rows[1]["Digest"], "<none>");
        assert_eq!(rows[0]["CreatedSince"], "About a minute ago");
        assert_eq!(rows[0]["Size"], "1.09MB");
        let rows = image_rows(&json!({"Id": "x", "RepoTags": null}), true, 0);
        assert_eq!(rows[0]["Repository"], "<none>");
    }

    #[test]
    fn lines_from_pieces() {
        let mut lines = Lines::default();
        assert!(lines.take(b"{\"a\"").is_empty());
        let taken = lines.take(b":1}\r\n{\"b\":2}\nx");
        assert_eq!(taken[0], b"{\"a\":1}\r");
        assert_eq!(lines.0, b"x");
    }
}
