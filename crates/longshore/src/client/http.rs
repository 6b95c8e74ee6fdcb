//! Requests to the daemon: over a unix or TCP socket, plain, streamed or hijacked.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::OnceCell,
};

use super::failure::{Done, Failure};

/// The newest API version that this client speaks.
const NEWEST: (u32, u32) = (1, 51);

/// Where the daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(String),
    Tcp(String),
}

impl Endpoint {
    /// Reads `-H` or `DOCKER_HOST`.
    ///
    /// # Errors
    /// A scheme that is not spoken.
    pub fn parse(host: &str) -> Result<Endpoint, String> {
        match host.split_once("://") {
            _ if host.is_empty() => Ok(Endpoint::Unix("/var/run/docker.sock".into())),
            Some(("unix", "")) => Ok(Endpoint::Unix("/var/run/docker.sock".into())),
            Some(("unix", path)) => Ok(Endpoint::Unix(path.into())),
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                let address = if address.is_empty() {
                    "127.0.0.1"
                } else {
                    address
                };
                Ok(Endpoint::Tcp(
                    if address
                        .rsplit_once(':')
                        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
                    {
                        address.into()
                    } else {
                        format!("{address}:2375")
                    },
                ))
            }
            Some((scheme, _)) => Err(format!(
                "unable to reach {host}: scheme {scheme} is not supported (unix:// and tcp:// are)"
            )),
            None => Err(format!("unable to parse docker host `{host}`")),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Endpoint::Tcp(address) => {
                // Numbers and localhost: a static program asks no name server.
                let address = match address.strip_prefix("localhost:") {
                    Some(port) => format!("127.0.0.1:{port}"),
                    None => address.clone(),
                };
                let address: std::net::SocketAddr = address.parse().map_err(|_| {
                    io::Error::other(format!("{address}: want an IP address and port"))
                })?;
                TcpStream::connect(address).await.map(Stream::Tcp)
            }
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{path}"),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// A connection's socket.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A hijacked connection: bytes that came with the answer's head, then the socket.
pub struct Hijacked {
    pub early: Bytes,
    pub stream: Stream,
}

type Body = BoxBody<Bytes, io::Error>;

fn whole(bytes: Vec<u8>) -> Body {
    http_body_util::Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed()
}

/// A client of one daemon.
pub struct Client {
    pub endpoint: Endpoint,
    /// `/v1.51`, found out with the first request.
    prefix: OnceCell<String>,
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Client {
        Client {
            endpoint,
            prefix: OnceCell::new(),
        }
    }

    /// `GET path` -> JSON.
    pub async fn get(&self, path: &str) -> Done<Value> {
        let response = self.stream(Method::GET, path, None).await?;
        json(response).await
    }

    /// `GET path` -> the body as it is.
    pub async fn get_bytes(&self, path: &str) -> Done<Vec<u8>> {
        let response = self.stream(Method::GET, path, None).await?;
        read(response).await
    }

    /// `POST path` with a JSON body or none -> JSON (null for an empty answer).
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Done<Value> {
        let response = self.stream(Method::POST, path, body).await?;
        json(response).await
    }

    /// `DELETE path` -> JSON (null for an empty answer).
    pub async fn delete(&self, path: &str) -> Done<Value> {
        let response = self.stream(Method::DELETE, path, None).await?;
        json(response).await
    }

    /// Any request; the answer's body is still to come. Statuses from 400 on are errors.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Done<Response<Incoming>> {
        let path = self.versioned(path).await?;
        let (body, kind) = match body {
            Some(body) => (body.to_string().into_bytes(), Some("application/json")),
            None => (Vec::new(), None),
        };
        let request = self.request(method, &path, kind, whole(body), false)?;
        refuse_errors(self.send(request).await?).await
    }

    /// `POST path` without a body, with credentials for a registry (the value of `X-Registry-Auth`).
    pub async fn transfer(&self, path: &str, auth: &str) -> Done<Response<Incoming>> {
        let path = self.versioned(path).await?;
        let mut request = self.request(Method::POST, &path, None, whole(Vec::new()), false)?;
        let value = header::HeaderValue::from_str(auth).map_err(Failure::new)?;
        request.headers_mut().insert("x-registry-auth", value);
        refuse_errors(self.send(request).await?).await
    }

    /// `POST path` with a body that comes piece by piece.
    pub async fn upload(
        &self,
        path: &str,
        pieces: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
    ) -> Done<Response<Incoming>> {
        let path = self.versioned(path).await?;
        let body = Pieces(pieces).boxed();
        let request = self.request(Method::POST, &path, Some("application/x-tar"), body, false)?;
        refuse_errors(self.send(request).await?).await
    }

    /// `POST path`, asking for the raw connection.
    pub async fn hijack(&self, path: &str, body: Option<&Value>) -> Done<Hijacked> {
        let path = self.versioned(path).await?;
        let (body, kind) = match body {
            Some(body) => (body.to_string().into_bytes(), "application/json"),
            None => (Vec::new(), "text/plain"),
        };
        let request = self.request(Method::POST, &path, Some(kind), whole(body), true)?;
        let response = refuse_errors(self.send(request).await?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::new(format_args!(
                "unable to upgrade to tcp, received {}",
                response.status().as_u16()
            )));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(Failure::new)?;
        let parts = upgraded
            .downcast::<TokioIo<Stream>>()
            .map_err(|_| Failure::new("the connection changed its kind"))?;
        Ok(Hijacked {
            early: parts.read_buf,
            stream: parts.io.into_inner(),
        })
    }

    /// The version that both sides speak: the newest of ours that the daemon has.
    async fn versioned(&self, path: &str) -> Done<String> {
        let prefix = self
            .prefix
            .get_or_try_init(async || {
                let request =
                    self.request(Method::HEAD, "/_ping", None, whole(Vec::new()), false)?;
                let response = self.send(request).await?;
                let theirs = response
                    .headers()
                    .get("Api-Version")
                    .and_then(|version| version.to_str().ok())
                    .and_then(version);
                let (major, minor) = theirs.map_or(NEWEST, |theirs| theirs.min(NEWEST));
                Done::Ok(format!("/v{major}.{minor}"))
            })
            .await?;
        Ok(format!("{prefix}{path}"))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Body,
        upgrade: bool,
    ) -> Done<Request<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "api.longshore")
            .header(
                header::USER_AGENT,
                concat!("longshore-client/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if upgrade {
            request = request
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "tcp");
        }
        request.body(body).map_err(Failure::new)
    }

    async fn send(&self, request: Request<Body>) -> Done<Response<Incoming>> {
        let stream = self.endpoint.connect().await.map_err(|error| {
            Failure::new(match error.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "permission denied while trying to connect to the Docker daemon socket at {}: {error}",
                    self.endpoint
                ),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
                    "Cannot connect to the Docker daemon at {}. Is the docker daemon running?",
                    self.endpoint
                ),
                _ => format!("Cannot connect to the Docker daemon at {}: {error}", self.endpoint),
            })
        })?;
        let lost = |error: hyper::Error| {
            Failure::new(format_args!(
                "error during connect: {}: {error}",
                self.endpoint
            ))
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(lost)
    }
}

/// The pieces of an upload as frames.
struct Pieces(tokio::sync::mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Answers from 400 on become failures with the daemon's words.
async fn refuse_errors(response: Response<Incoming>) -> Done<Response<Incoming>> {
    let status = response.status();
    if status.as_u16() < 400 {
        return Ok(response);
    }
    let body = read(response).await?;
    let message = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| body["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    Err(Failure::answer(status.as_u16(), &message))
}

async fn read(response: Response<Incoming>) -> Done<Vec<u8>> {
    let body = response.into_body().collect().await.map_err(Failure::new)?;
    Ok(body.to_bytes().to_vec())
}

async fn json(response: Response<Incoming>) -> Done<Value> {
    let body = read(response).await?;
    if body.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body)
        .map_err(|error| Failure::new(format_args!("cannot read the daemon's answer: {error}")))
}

/// One path segment or query value, percent-encoded.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `?a=b&c=d` of the pairs whose value is not empty; nothing at all without any.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    if pairs.is_empty() {
        return String::new();
    }
    format!("?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let unix = |path: &str| Ok(Endpoint::Unix(path.into()));
        let tcp = |address: &str| Ok(Endpoint::Tcp(address.into()));
        assert_eq!(Endpoint::parse(""), unix("/var/run/docker.sock"));
        assert_eq!(Endpoint::parse("unix:///x"), unix("/x"));
        assert_eq!(Endpoint::parse("tcp://1.2.3.4"), tcp("1.2.3.4:2375"));
        assert_eq!(Endpoint::parse("tcp://1.2.3.4:1/"), tcp("1.2.3.4:1"));
        assert!(Endpoint::parse("ssh://x").is_err());
        assert!(Endpoint::parse("x").is_err());
    }

    #[test]
    fn queries() {
        assert_eq!(
            query(&[("a", ""), ("b", "x y"), ("c", "{\"n\"}")]),
            "?b=x%20y&c=%7B%22n%22%7D"
        );
        assert_eq!(query(&[]), "");
    }
}
