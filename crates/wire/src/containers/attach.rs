//! Attach: a connection becomes the container's stdin, stdout and stderr, as a raw stream or as a websocket.

use hyper::StatusCode;
use longshore_engine::api::{AttachRequest, StdioStream};
use longshore_model::{Error, Result};

use crate::{
    error,
    request::Request,
    response::Response,
    stream::{
        hijack::{Hijack, MULTIPLEXED_STREAM, RAW_STREAM},
        websocket,
    },
};

use super::{detach, pump};

/// `POST /containers/{name}/attach`
pub async fn attach(request: Request) -> Result<Response> {
    let options = match options(&request, false) {
        Ok(options) => options,
        Err(error) => return Ok(plain_error(&error)),
    };
    let keys = pump_keys(&options);
    let stream = match request
        .engine
        .attach_container(request.name(), options)
        .await
    {
        Ok(stream) => stream,
        Err(error) => return Ok(plain_error(&error)),
    };
    let multiplexed = !stream.tty && request.version.since(42);
    let content_type = if multiplexed {
        MULTIPLEXED_STREAM
    } else {
        RAW_STREAM
    };
    Ok(Response::hijack(Hijack::docker(
        &request,
        content_type,
        false,
        move |io| pump::raw(io, stream, keys),
    )))
}

/// What the pump needs of the request: None where stdin is not attached.
fn pump_keys(options: &AttachRequest) -> Option<Vec<u8>> {
    options.stdin.then(|| options.detach_keys.clone())
}

/// The parameters. Over a websocket all streams were attached before API 1.42, whatever the query said.
fn options(request: &Request, websocket: bool) -> Result<AttachRequest> {
    let query = &request.query;
    let all = websocket && request.version.before(42);
    let keys = query.get("detachKeys");
    Ok(AttachRequest {
        stdin: all || query.bool("stdin"),
        stdout: all || query.bool("stdout"),
        stderr: all || query.bool("stderr"),
        logs: query.bool("logs"),
        stream: query.bool("stream"),
        detach_keys: detach::parse(keys)
            .map_err(|_| Error::invalid(format!("Invalid detach keys ({keys}) provided")))?,
    })
}

/// Errors of attach are plain text: dockerd has given the connection up by then.
fn plain_error(error: &Error) -> Response {
    let status = match error::status(error.kind) {
        StatusCode::NOT_MODIFIED => StatusCode::CONFLICT,
        status => status,
    };
    Response::bytes(status, RAW_STREAM, format!("{}\r\n", error.message))
        .with_header("connection", "close")
}

/// `GET /containers/{name}/attach/ws`
pub async fn websocket(request: Request) -> Result<Response> {
    let options = options(&request, true)?;
    let keys = pump_keys(&options);
    let stream: StdioStream = request
        .engine
        .attach_container(request.name(), options)
        .await?;
    let binary = request.version.since(28);
    websocket::accept(&request, move |socket| {
        pump::websocket(socket, stream, keys, binary)
    })
}
