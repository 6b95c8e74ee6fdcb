//! What a handler answers with: a whole body, a stream of chunks, or the connection itself.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    body::{Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{connection::InFlight, json, stream::hijack::Hijack};

/// Content type of JSON bodies, without a charset: clients compare it letter for letter.
pub const JSON: &str = "application/json";

/// An answer. Made with one of its constructors, then given more headers if need be.
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    pub(crate) hijack: Option<Hijack>,
    /// The API headers (`Api-Version`, ...) are left out: 404 for an unknown path.
    pub(crate) bare: bool,
}

impl Response {
    fn new(status: StatusCode, body: Body) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body,
            hijack: None,
            bare: false,
        }
    }
    /// JSON as Go prints it, with the newline at its end.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        Self::new(status, Body::full(json::to_line(value))).with(CONTENT_TYPE, JSON)
    }
    /// 200 with JSON.
    pub fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }
    /// A status and no body: no content type, and for 204 and 304 no length either.
    pub fn empty(status: StatusCode) -> Self {
        Self::new(status, Body::full(Bytes::new()))
    }
    /// 204
    pub fn no_content() -> Self {
        Self::empty(StatusCode::NO_CONTENT)
    }
    /// Bytes with a content type.
    pub fn bytes(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(status, Body::full(body.into())).with(CONTENT_TYPE, content_type)
    }
    /// 200 with a chunked body: head and each chunk are flushed at once. The body ends when the sender is dropped.
    pub fn stream(content_type: &str) -> (Self, BodySender) {
        let (sender, receiver) = mpsc::channel(16);
        let body = Body {
            kind: Kind::Chunks(receiver),
            in_flight: None,
        };
        (
            Self::new(StatusCode::OK, body).with(CONTENT_TYPE, content_type),
            BodySender(sender),
        )
    }
    /// The connection itself; see [`Hijack`].
    pub fn hijack(hijack: Hijack) -> Self {
        let mut response = Self::empty(StatusCode::SWITCHING_PROTOCOLS);
        response.hijack = Some(hijack);
        response
    }
    /// Sets a header; a value that no header can have is left out.
    #[must_use]
    pub fn with(mut self, name: impl Into<HeaderName>, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name.into(), value);
        }
        self
    }
    /// Sets a header whose name is written in the code, in lower case.
    #[must_use]
    pub fn with_header(self, name: &'static str, value: &str) -> Self {
        self.with(HeaderName::from_static(name), value)
    }
    pub fn status(&self) -> StatusCode {
        self.status
    }
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
    pub(crate) fn into_hyper(self, in_flight: InFlight) -> hyper::Response<Body> {
        let mut response = hyper::Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response.body_mut().in_flight = Some(in_flight);
        response
    }
}

/// A chunk, or the reason why the body ends before its end.
type Chunk = Result<Bytes, io::Error>;

/// The producing end of a chunked body.
#[derive(Clone)]
pub struct BodySender(mpsc::Sender<Chunk>);

/// The client has gone; nobody reads this body any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

impl BodySender {
    /// One chunk. Waits while the client is slow.
    ///
    /// # Errors
    /// [`Gone`] when the client closed the connection.
    pub async fn send(&self, chunk: impl Into<Bytes>) -> Result<(), Gone> {
        let chunk = chunk.into();
        if chunk.is_empty() {
            return Ok(());
        }
        self.0.send(Ok(chunk)).await.map_err(|_| Gone)
    }
    /// One JSON value and a newline.
    ///
    /// # Errors
    /// [`Gone`] when the client closed the connection.
    pub async fn json_line(&self, value: &impl Serialize) -> Result<(), Gone> {
        self.send(json::to_line(value)).await
    }
    /// One JSON value and `\r\n`, as progress streams have it.
    ///
    /// # Errors
    /// [`Gone`] when the client closed the connection.
    pub async fn progress_line(&self, value: &impl Serialize) -> Result<(), Gone> {
        let mut line = json::to_vec(value);
        line.extend_from_slice(b"\r\n");
        self.send(line).await
    }
    /// Breaks the body off: the client sees a connection that ended too early, not a body that is whole.
    pub async fn abort(&self, reason: &str) {
        let _ = self.0.send(Err(io::Error::other(reason.to_owned()))).await;
    }
    /// For blocking code on a thread of its own: what is written becomes chunks, and waits while the client is slow.
    pub fn into_writer(self) -> BodyWriter {
        BodyWriter {
            sender: self,
            chunk: Vec::new(),
        }
    }
    /// Resolves when the client has gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Bytes of a chunk that a [`BodyWriter`] sends: large enough that the hand-over costs nothing.
const CHUNK: usize = 128 * 1024;

/// A body for code that writes and blocks. What was written is only sure to be sent after `flush`.
pub struct BodyWriter {
    sender: BodySender,
    chunk: Vec<u8>,
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(CHUNK);
        }
        let room = CHUNK - self.chunk.len();
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let sent = self.sender.0.blocking_send(Ok(chunk));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The body type of every response.
pub struct Body {
    kind: Kind,
    in_flight: Option<InFlight>,
}

enum Kind {
    Full(Bytes),
    Chunks(mpsc::Receiver<Chunk>),
}

impl Body {
    fn full(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Full(bytes.into()),
            in_flight: None,
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.kind {
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Chunks(receiver) => receiver
                .poll_recv(cx)
                .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }
    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, Kind::Full(bytes) if bytes.is_empty())
    }
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks(_) => SizeHint::default(),
        }
    }
}
