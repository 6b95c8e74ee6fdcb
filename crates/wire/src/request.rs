//! A request as a handler gets it.

use std::{os::fd::OwnedFd, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{HeaderMap, body::Incoming, header::CONTENT_LENGTH};
use longshore_engine::Engine;
use longshore_model::{Error, Result};
use tokio::{io::AsyncWriteExt, net::unix::pipe, sync::watch, time::timeout};

use crate::{query::Query, route::Route, version::ApiVersion};

/// The largest JSON body that is read, in bytes.
pub const JSON_LIMIT: usize = 8 << 20;

/// How long a JSON body may make no progress.
const STALL: Duration = Duration::from_secs(60);

/// A request that a route matched.
pub struct Request {
    pub engine: Engine,
    /// What the path asked for, or the newest.
    pub version: ApiVersion,
    pub method: hyper::Method,
    /// The path without the version, percent-decoded.
    pub path: String,
    /// What the route's wildcards matched, in order.
    pub args: Vec<String>,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: RequestBody,
    /// The route that matched.
    pub route: &'static Route,
    /// Turns true when the daemon shuts down: streams end then.
    pub shutdown: watch::Receiver<bool>,
}

impl Request {
    /// The route's first wildcard: mostly a name or an id.
    pub fn name(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }
    /// A header as text, empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
    /// True when the client sent an `Upgrade` header, whatever its value.
    pub fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(hyper::header::UPGRADE)
    }
}

/// The body of a request, unread.
pub struct RequestBody {
    incoming: Option<Incoming>,
    length: Option<u64>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, headers: &HeaderMap) -> Self {
        let length = match headers.get(CONTENT_LENGTH) {
            Some(value) => value.to_str().ok().and_then(|v| v.parse().ok()),
            // Neither a length nor chunks: there is no body.
            None => hyper::body::Body::size_hint(&incoming).exact(),
        };
        Self {
            incoming: Some(incoming),
            length,
        }
    }
    /// True when the head says that nothing follows.
    pub fn is_empty(&self) -> bool {
        self.length == Some(0) || self.incoming.is_none()
    }
    /// `Content-Length`; None for a chunked body.
    pub fn length(&self) -> Option<u64> {
        self.length
    }
    /// The next piece; None at the end.
    ///
    /// # Errors
    /// The client broke off or sent bad framing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(incoming) = &mut self.incoming else {
            return Ok(None);
        };
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| {
                Error::invalid(format!("error reading the request body: {error}"))
            })?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        self.incoming = None;
        Ok(None)
    }
    /// The whole body. A declared length beyond `limit` is refused before anything is read.
    ///
    /// # Errors
    /// Too large, too slow, or broken off (400).
    pub async fn collect(&mut self, limit: usize) -> Result<Bytes> {
        let too_large = || {
            Error::invalid(format!(
                "request body is too large: the limit is {limit} bytes"
            ))
        };
        if self.length.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        loop {
            let chunk = timeout(STALL, self.chunk())
                .await
                .map_err(|_| Error::invalid("timed out while reading the request body"))??;
            match chunk {
                None => return Ok(whole.freeze()),
                Some(chunk) if whole.len() + chunk.len() > limit => return Err(too_large()),
                Some(chunk) => whole.extend_from_slice(&chunk),
            }
        }
    }
    /// Feeds the body into a pipe whose reading end a blocking reader takes: nothing is kept in memory but what the
    /// pipe holds. The future ends when all is written, or when the reader has closed its end.
    ///
    /// # Errors
    /// The pipe cannot be made.
    pub fn into_pipe(mut self) -> Result<(OwnedFd, impl Future<Output = Result<()>> + Send)> {
        let (mut writer, reader) = pipe::pipe().map_err(|e| Error::io("pipe", e))?;
        let reader = reader
            .into_blocking_fd()
            .map_err(|e| Error::io("pipe", e))?;
        let feed = async move {
            while let Some(chunk) = self.chunk().await? {
                if writer.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        Ok((reader, feed))
    }
}
