//! Files in and out of containers: `archive`, `changes`, `export`. Archives flow through pipes, never into memory.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use longshore_engine::api::{ArchiveStream, PathStat, UnpackRequest};
use longshore_model::{Error, Result};
use serde::Serialize;

use crate::{
    json,
    request::Request,
    response::{BodySender, Response},
};

const STAT_HEADER: &str = "x-docker-container-path-stat";

/// `X-Docker-Container-Path-Stat`, before base64.
#[derive(Serialize)]
struct Stat<'a> {
    name: &'a str,
    size: i64,
    mode: u32,
    mtime: String,
    #[serde(rename = "linkTarget")]
    link_target: &'a str,
}

#[derive(Serialize)]
struct Change<'a> {
    #[serde(rename = "Path")]
    path: &'a str,
    #[serde(rename = "Kind")]
    kind: u8,
}

/// `HEAD /containers/{name}/archive`
pub async fn head(request: Request) -> Result<Response> {
    let path = path(&request)?;
    let stat = request.engine.path_stat(request.name(), path).await?;
    Ok(Response::empty(StatusCode::OK).with_header(STAT_HEADER, &stat_header(&stat)))
}

/// `GET /containers/{name}/archive`
pub async fn get(request: Request) -> Result<Response> {
    let path = path(&request)?;
    let (stat, archive) = request.engine.read_archive(request.name(), path).await?;
    let (response, body) = Response::stream("application/x-tar");
    tokio::spawn(pass_on(archive, body));
    Ok(response.with_header(STAT_HEADER, &stat_header(&stat)))
}

/// `PUT /containers/{name}/archive`
pub async fn put(request: Request) -> Result<Response> {
    let unpack = UnpackRequest {
        path: path(&request)?.to_owned(),
        keep_kinds: request.query.bool("noOverwriteDirNonDir"),
        to_user: request.query.bool("copyUIDGID"),
    };
    let name = request.name().to_owned();
    let (archive, feed) = request.body.into_pipe()?;
    let unpacked = request.engine.write_archive(&name, unpack, archive);
    tokio::pin!(unpacked, feed);
    tokio::select! {
        // Nothing more is read of what cannot be used.
        unpacked = &mut unpacked => unpacked?,
        fed = &mut feed => {
            let unpacked = unpacked.await;
            // A body that broke off is the cause of whatever the reader says about it.
            fed?;
            unpacked?;
        }
    }
    Ok(Response::empty(StatusCode::OK))
}

/// `GET /containers/{name}/changes`
pub async fn changes(request: Request) -> Result<Response> {
    let changes = request.engine.container_changes(request.name()).await?;
    let shown: Vec<Change<'_>> = changes
        .iter()
        .map(|change| Change {
            path: &change.path,
            kind: change.kind as u8,
        })
        .collect();
    // Go's empty list, as dockerd has it.
    Ok(Response::ok(&(!shown.is_empty()).then_some(shown)))
}

/// `GET /containers/{name}/export`
pub async fn export(request: Request) -> Result<Response> {
    let archive = request.engine.export_container(request.name()).await?;
    let (response, body) = Response::stream("application/octet-stream");
    tokio::spawn(pass_on(archive, body));
    Ok(response)
}

fn path(request: &Request) -> Result<&str> {
    match request.query.get("path") {
        "" => Err(Error::invalid("bad parameter: pathcannot be empty")),
        path => Ok(path),
    }
}

/// Until the archive is whole or its client has gone. One that breaks off breaks the connection too: its client must not
/// take what it has for all.
async fn pass_on(mut archive: ArchiveStream, body: BodySender) {
    loop {
        let piece = tokio::select! {
            piece = archive.chunk() => piece,
            () = body.closed() => return,
        };
        match piece {
            Ok(Some(piece)) => {
                if body.send(piece).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "an archive broke off");
                return body.abort(&error.message).await;
            }
        }
    }
}

fn stat_header(stat: &PathStat) -> String {
    let (seconds, nanos) = stat.modified;
    let value = Stat {
        name: &stat.name,
        size: stat.size,
        mode: go_mode(stat.mode),
        mtime: time(seconds, nanos),
        link_target: &stat.link_target,
    };
    STANDARD.encode(json::to_vec(&value))
}

/// RFC 3339 with as many digits as needed; a time that no calendar has is the epoch.
fn time(seconds: i64, nanos: u32) -> String {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    jiff::Timestamp::new(seconds, nanos)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// Go's `os.FileMode` of a mode as stat(2) has it.
fn go_mode(mode: u32) -> u32 {
    const FORMAT: u32 = 0o170_000;
    let kind = match mode & FORMAT {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = bits
        .iter()
        .filter(|(unix, _)| mode & unix != 0)
        .map(|(_, go)| go)
        .sum();
    kind | special | (mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_dockerds() {
        // From the recordings: `docker cp` out of /etc/passwd, and into /tmp/.
        let file = PathStat {
            name: "passwd".to_owned(),
            size: 342,
            mode: 0o100_644,
            modified: (1_795_466_474, 513_759_099),
            link_target: String::new(),
        };
        let text = |stat: &PathStat| {
            String::from_utf8(STANDARD.decode(stat_header(stat)).unwrap()).unwrap()
        };
        assert_eq!(
            text(&file),
            r#"{"name":"passwd","size":342,"mode":420,"mtime":"2026-11-23T20:41:14.513759099Z","linkTarget":""}"#
        );
        assert_eq!(go_mode(0o041_777), 2_148_532_735);
        assert_eq!(go_mode(0o120_777), 134_218_239);
        assert_eq!(go_mode(0o104_755), 8_389_101);
    }
}
