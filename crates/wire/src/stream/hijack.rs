//! A connection taken out of HTTP: attach, exec, websockets.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{connection::Stream, request::Request};

/// Content type of a hijacked stream with a tty, and of all that are not upgraded.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
/// Content type of an upgraded stream with 8-byte frame headers, from API 1.42 on.
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";

type Run = Box<dyn FnOnce(HijackedIo) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What to do with the connection: the head that is sent on it, then the code that owns it. When that code ends the
/// connection is closed so that the client gets all bytes and then EOF.
pub struct Hijack {
    head: String,
    wants_api_headers: bool,
    run: Run,
}

impl Hijack {
    /// Docker's hijack: `101 UPGRADED` with `content_type` when the client asked for an upgrade, a bare
    /// `200 OK` with the raw-stream type when it did not. Exec start repeats the API's headers, attach does not.
    ///
    /// Return `Ok(Response::hijack(Hijack::docker(..)))` from the handler once nothing can fail any more.
    pub fn docker<F, R>(request: &Request, content_type: &str, api_headers: bool, run: F) -> Self
    where
        F: FnOnce(HijackedIo) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let head = docker_head(request.wants_upgrade(), content_type);
        Self::with_head(head, api_headers, run)
    }
    /// Any head: status line and headers, each with its `\r\n`, without the empty line at the end.
    pub(crate) fn with_head<F, R>(head: String, api_headers: bool, run: F) -> Self
    where
        F: FnOnce(HijackedIo) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self {
            head,
            wants_api_headers: api_headers,
            run: Box::new(|io| Box::pin(run(io))),
        }
    }
    /// Adds the API's headers if this hijack wants them.
    pub(crate) fn api_headers(&mut self, headers: &[(&str, HeaderValue)]) {
        if !self.wants_api_headers {
            return;
        }
        for (name, value) in headers {
            let name = canonical(name);
            let value = value.to_str().unwrap_or_default();
            self.head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    /// Sends the head and lets the handler's code run to its end.
    pub(crate) async fn run(self, mut io: HijackedIo) {
        let head = self.head + "\r\n";
        if io.write_all(head.as_bytes()).await.is_ok() {
            io.writer.0.until_read().await;
            (self.run)(io).await;
        }
    }
}

/// Status line and headers of Docker's hijack.
pub(crate) fn docker_head(upgrade: bool, content_type: &str) -> String {
    if upgrade {
        format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        )
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n")
    }
}

/// `api-version` -> `Api-Version`
fn canonical(name: &str) -> String {
    let mut up = true;
    name.chars()
        .map(|c| {
            let out = if up { c.to_ascii_uppercase() } else { c };
            up = c == '-';
            out
        })
        .collect()
}

/// The raw connection; what the client sent right behind its request is read first. End of the client's sending side is
/// EOF here; shutdown ends ours.
pub struct HijackedIo {
    reader: HijackReader,
    writer: HijackWriter,
}

/// The reading half: the client's stdin.
pub struct HijackReader {
    prefix: Bytes,
    stream: Arc<Stream>,
}

/// The writing half: output to the client.
pub struct HijackWriter(Arc<Stream>);

impl HijackedIo {
    pub(crate) fn new(stream: Arc<Stream>, prefix: Bytes) -> Self {
        Self {
            reader: HijackReader {
                prefix,
                stream: Arc::clone(&stream),
            },
            writer: HijackWriter(stream),
        }
    }
    /// Both halves, for two tasks.
    pub fn into_split(self) -> (HijackReader, HijackWriter) {
        (self.reader, self.writer)
    }
}

impl AsyncRead for HijackReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return self.stream.poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HijackWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for HijackedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for HijackedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
