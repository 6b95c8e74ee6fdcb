//! HTTP/1.1 over own connections: reuse, redirects, proxies, time limits. What authorization means is [`crate::session`]'s.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue, LOCATION, RANGE, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};

use crate::{
    connect::{Address, Refused, connect},
    failure::{Failure, verb},
    proxy::Proxy,
    settings::Settings,
    tls::{self, Trust},
    uri::{host_and_port, join, same_server, shown},
};

const REDIRECTS_MAX: u32 = 10;
/// Idle connections to one server.
const IDLE_MAX: usize = 4;

pub type Body = BoxBody<Bytes, io::Error>;

/// A body that is sent, and how much of it has been: a slow one is not a stalled one.
pub struct Payload {
    pub body: Body,
    pub length: u64,
    pub sent: Arc<AtomicU64>,
}

impl Payload {
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            length: bytes.len() as u64,
            body: Full::new(bytes).map_err(|never| match never {}).boxed(),
            sent: Arc::default(),
        }
    }
}

/// One request.
pub struct Call<'a> {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub payload: Option<Payload>,
    pub trust: &'a Trust,
}

/// An answer whose body has not been read yet.
pub struct Reply {
    pub method: Method,
    /// Where it came from, after redirects.
    pub uri: Uri,
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    stall: Duration,
    back: Option<(Key, SendRequest<Body>)>,
    idle: Arc<Idle>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: Address,
    proxy: Option<Proxy>,
    trust: Trust,
}

type Idle = Mutex<HashMap<Key, Vec<SendRequest<Body>>>>;

/// Connections of one pull or push.
pub struct Client {
    settings: Arc<Settings>,
    configs: Mutex<HashMap<Trust, Arc<ClientConfig>>>,
    idle: Arc<Idle>,
}

impl Client {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            configs: Mutex::default(),
            idle: Arc::default(),
        }
    }

    /// Sends a request without a body and follows where it is sent. Authorization goes to no other server.
    pub async fn get(&self, call: Call<'_>) -> Result<Reply, Failure> {
        let (method, mut uri, mut headers) = (call.method, call.uri, call.headers);
        let mut trust = call.trust.clone();
        for _ in 0..=REDIRECTS_MAX {
            let reply = self
                .send(Call {
                    method: method.clone(),
                    uri: uri.clone(),
                    headers: headers.clone(),
                    payload: None,
                    trust: &trust,
                })
                .await?;
            if !matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(reply);
            }
            let location = reply.header(LOCATION.as_str());
            let Some(next) = join(&uri, location) else {
                return Err(reply.unexpected().await);
            };
            if !same_server(&uri, &next) {
                headers.remove(AUTHORIZATION);
                trust.identities.clear();
            }
            reply.discard().await;
            uri = next;
        }
        Err(Failure::Request {
            method: verb(&method),
            url: shown(&uri),
            cause: format!("stopped after {REDIRECTS_MAX} redirects"),
            again: false,
        })
    }

    /// Sends one request to where it says.
    pub async fn send(&self, mut call: Call<'_>) -> Result<Reply, Failure> {
        let failure = |cause: String, again: bool| Failure::Request {
            method: verb(&call.method),
            url: shown(&call.uri),
            cause,
            again,
        };
        let proxy = self
            .settings
            .proxies
            .for_uri(&call.uri)
            .map_err(|why| failure(why, false))?;
        let (host, port) = host_and_port(&call.uri);
        let key = Key {
            address: Address {
                tls: call.uri.scheme_str() == Some("https"),
                host,
                port,
            },
            proxy,
            trust: call.trust.clone(),
        };
        // A body can be sent once only: no connection for it that the server may just be closing.
        let reused = match &call.payload {
            None => self.take_idle(&key).await,
            Some(_) => None,
        };
        let payload = call.payload.take();
        if let Some(sender) = reused
            && let Ok(reply) = self.exchange(&call, None, &key, sender).await
        {
            return Ok(reply);
        }
        let sender = self
            .open(&key)
            .await
            .map_err(|refused| failure(refused.why, refused.again))?;
        self.exchange(&call, payload, &key, sender)
            .await
            .map_err(|cause| failure(cause, true))
    }

    async fn take_idle(&self, key: &Key) -> Option<SendRequest<Body>> {
        loop {
            let mut sender = lock(&self.idle).get_mut(key)?.pop()?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn open(&self, key: &Key) -> Result<SendRequest<Body>, Refused> {
        let bad = |why| Refused { why, again: false };
        let config = match key.address.tls {
            true => Some(self.config(&key.trust).await.map_err(bad)?),
            false => None,
        };
        let proxy_config = match key.proxy.as_ref().is_some_and(|p| p.tls) {
            true => Some(self.config(&Trust::default()).await.map_err(bad)?),
            false => None,
        };
        let patience = self.settings.limits.connect;
        let proxy = key.proxy.as_ref();
        let stream = connect(&key.address, proxy, config, proxy_config, patience).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| bad(e.to_string()))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn config(&self, trust: &Trust) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = lock(&self.configs).get(trust) {
            return Ok(config.clone());
        }
        let wanted = trust.clone();
        let config = tokio::task::spawn_blocking(move || tls::config(&wanted))
            .await
            .map_err(|e| e.to_string())??;
        lock(&self.configs).insert(trust.clone(), config.clone());
        Ok(config)
    }

    async fn exchange(
        &self,
        call: &Call<'_>,
        payload: Option<Payload>,
        key: &Key,
        mut sender: SendRequest<Body>,
    ) -> Result<Reply, String> {
        let has_body = !matches!(call.method, Method::GET | Method::HEAD);
        let payload = payload.unwrap_or_else(|| Payload::bytes(Bytes::new()));
        let (sent, length) = (payload.sent.clone(), payload.length);
        let through_proxy = key.proxy.is_some() && !key.address.tls;
        let target = if through_proxy {
            call.uri.to_string()
        } else {
            call.uri
                .path_and_query()
                .map_or("/", |p| p.as_str())
                .to_owned()
        };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(target)
            .body(payload.body)
            .map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        *headers = call.headers.clone();
        let authority = call.uri.authority().map_or("", |a| a.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        for (name, value) in [(HOST, host), (USER_AGENT, &self.settings.agent)] {
            let value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
            headers.insert(name, value);
        }
        if has_body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let (true, Some(value)) = (
            through_proxy,
            key.proxy.as_ref().and_then(|p| p.authorization.as_ref()),
        ) {
            let value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
            headers.insert(hyper::header::PROXY_AUTHORIZATION, value);
        }
        let answer = self.answer(sender.send_request(request), &sent).await?;
        let (head, body) = answer.into_parts();
        Ok(Reply {
            method: call.method.clone(),
            uri: call.uri.clone(),
            status: head.status,
            headers: head.headers,
            body,
            stall: self.settings.limits.stall,
            back: Some((key.clone(), sender)),
            idle: self.idle.clone(),
        })
    }

    /// The answer's head. Time counts from the last progress of the request's body.
    async fn answer(
        &self,
        answer: impl Future<Output = hyper::Result<hyper::Response<Incoming>>>,
        sent: &AtomicU64,
    ) -> Result<hyper::Response<Incoming>, String> {
        tokio::pin!(answer);
        let mut before = sent.load(Ordering::Relaxed);
        loop {
            tokio::select! {
                answer = &mut answer => return answer.map_err(|e| explain(&e, "EOF")),
                () = sleep(self.settings.limits.answer) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == before {
                        return Err("net/http: timeout awaiting response headers".to_owned());
                    }
                    before = now;
                }
            }
        }
    }
}

impl Reply {
    /// A header's text; empty when it is missing or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(self.stall, self.body.frame())
                .await
                .map_err(|_| self.broken(format!("no data for {} s", self.stall.as_secs())))?;
            match frame {
                None => {
                    self.give_back();
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(self.broken(explain(&error, "unexpected EOF"))),
            }
        }
    }

    fn broken(&self, cause: String) -> Failure {
        Failure::Request {
            method: verb(&self.method),
            url: shown(&self.uri),
            cause,
            again: true,
        }
    }

    /// The whole body, of at most `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(Failure::Content(longshore_model::Error::invalid(format!(
                    "{}: the answer is larger than {limit} bytes",
                    shown(&self.uri)
                ))));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads a short body to its end, so that the connection can be used again.
    pub async fn discard(self) {
        let _ = self.collect(64 << 10).await;
    }

    fn give_back(&mut self) {
        if let Some((key, sender)) = self.back.take()
            && !sender.is_closed()
        {
            let mut idle = lock(&self.idle);
            let senders = idle.entry(key).or_default();
            if senders.len() < IDLE_MAX {
                senders.push(sender);
            }
        }
    }

    /// This answer as a failure, with what the registry says about it.
    pub async fn unexpected(self) -> Failure {
        let (method, url) = (self.method.to_string(), shown(&self.uri));
        let status = self.status.as_u16();
        let retry_after = retry_after(self.header("retry-after"));
        let body = self.collect(64 << 10).await.unwrap_or_default();
        Failure::Status {
            method,
            url,
            status,
            detail: detail(&body),
            retry_after,
        }
    }

    /// Did the server start at the byte that was asked for?
    pub fn is_partial(&self) -> bool {
        self.status == StatusCode::PARTIAL_CONTENT
    }
}

/// `Range` from a byte on.
pub fn range(headers: &mut HeaderMap, offset: u64) {
    if let Ok(value) = HeaderValue::from_str(&format!("bytes={offset}-")) {
        headers.insert(RANGE, value);
    }
}

/// Seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()?;
    let wait = date.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

/// `code: message` of the first error in a registry's error document.
pub fn detail(body: &[u8]) -> String {
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else {
        return String::new();
    };
    let text = |value: &serde_json::Value, key: &str| {
        let text = value.get(key).and_then(|v| v.as_str());
        text.unwrap_or_default().to_owned()
    };
    let Some(first) = document.get("errors").and_then(|e| e.get(0)) else {
        return text(&document, "details");
    };
    let (code, message) = (text(first, "code"), text(first, "message"));
    match (code.as_str(), message.as_str()) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_lowercase(),
        (code, message) => format!("{}: {message}", code.to_lowercase().replace('_', " ")),
    }
}

fn explain(error: &hyper::Error, cut: &str) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return cut.to_owned();
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::UnexpectedEof => cut.to_owned(),
                _ => tls::explain(io),
            };
        }
        source = cause.source();
    }
    error.to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_forms() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(""), None);
        assert_eq!(retry_after("soon"), None);
        let past = retry_after("Fri, 31 Dec 1999 23:59:59 GMT");
        assert_eq!(past, Some(Duration::ZERO));
    }

    #[test]
    fn details() {
        for (body, want) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                "manifest unknown: manifest unknown",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, "denied"),
            (
                r#"{"details":"incorrect username or password"}"#,
                "incorrect username or password",
            ),
            ("<html>", ""),
            ("{}", ""),
        ] {
            assert_eq!(detail(body.as_bytes()), want);
        }
    }
}
