//! Attach over a websocket: binary messages of raw output out, messages of stdin in.

use std::future::Future;

use hyper::HeaderMap;
use longshore_model::{Error, Result};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::hijack::{Hijack, HijackedIo};
use crate::{request::Request, response::Response};

/// A websocket with a client.
pub type Socket = WebSocketStream<HijackedIo>;

/// Completes the handshake and hands the socket to `run`.
///
/// # Errors
/// The request is no websocket handshake (400).
pub fn accept<F, R>(request: &Request, run: F) -> Result<Response>
where
    F: FnOnce(Socket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    accept_with(&request.headers, run)
}

/// [`accept`] with the headers alone.
pub(crate) fn accept_with<F, R>(headers: &HeaderMap, run: F) -> Result<Response>
where
    F: FnOnce(Socket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let get = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let has = |name: &str, word: &str| {
        get(name)
            .split(',')
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let key = get("sec-websocket-key");
    if !has("upgrade", "websocket") || !has("connection", "upgrade") || key.is_empty() {
        return Err(Error::invalid("this is not a websocket handshake"));
    }
    if get("sec-websocket-version") != "13" {
        return Err(Error::invalid("only websocket version 13 is supported"));
    }
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    Ok(Response::hijack(Hijack::with_head(
        head,
        false,
        |io| async move {
            run(WebSocketStream::from_raw_socket(io, Role::Server, None).await).await;
        },
    )))
}
