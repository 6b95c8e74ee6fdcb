//! From hyper's request to the handler and back: what every answer has in common.

use std::sync::Arc;

use hyper::{StatusCode, body::Incoming, header::HeaderValue};
use longshore_engine::Engine;
use longshore_model::Result;
use tokio::sync::{mpsc, watch};

use crate::{
    error,
    query::{Query, decode},
    request::{Request, RequestBody},
    response::Response,
    route::{self, Found},
    version::ApiVersion,
};

/// Answers requests: the daemon does, and small fakes in tests of what lies below.
pub(crate) trait Answer: Send + Sync + 'static {
    fn answer(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Response> + Send;
}

/// What requests share.
pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Answer for Daemon {
    async fn answer(self: Arc<Self>, request: hyper::Request<Incoming>) -> Response {
        handle(request, self).await
    }
}

/// `Server:` of every answer.
pub(crate) const SERVER: &str = concat!("Longshore/", env!("CARGO_PKG_VERSION"), " (linux)");

/// Answers one request, in a task of its own: a client that goes away does not stop what it began, and a panic ends this
/// request only. `alive` is held until then; see [`crate::server`].
pub(crate) async fn dispatch(
    request: hyper::Request<Incoming>,
    answer: Arc<impl Answer>,
    alive: mpsc::Sender<()>,
) -> Response {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let task = tokio::spawn(async move {
        let response = answer.answer(request).await;
        drop(alive);
        response
    });
    let mut response = task.await.unwrap_or_else(|panic| {
        tracing::error!(%method, path = uri.path(), %panic, "a request's handler panicked");
        finish(error::message(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error: the request could not be completed",
        ))
    });
    if let Some(hijack) = &mut response.hijack {
        hijack.api_headers(&api_headers());
    }
    let status = response.status().as_u16();
    tracing::debug!(%method, path = uri.path(), status, "request");
    response
}

async fn handle(request: hyper::Request<Incoming>, daemon: Arc<Daemon>) -> Response {
    let (parts, incoming) = request.into_parts();
    let Ok(path) = decode(parts.uri.path(), false) else {
        return error::message(StatusCode::BAD_REQUEST, "invalid URL escape in the path");
    };
    if let Some(clean) = route::cleaned(&path) {
        return route::moved(&clean, parts.uri.query());
    }
    let (route, args, version, path) = match route::find(parts.method.as_str(), &path) {
        Found::Route {
            route,
            args,
            version,
            path,
        } => (route, args, version, path),
        Found::BadVersion(response) => {
            return response
                .with_header("api-version", &ApiVersion::MAX.to_string())
                .with_header("ostype", "linux")
                .with_header("server", SERVER);
        }
        Found::Nothing => return route::page_not_found(),
    };
    let answer = async {
        let query = Query::parse(parts.uri.query().unwrap_or_default())?;
        let body = RequestBody::new(incoming, &parts.headers);
        let request = Request {
            engine: daemon.engine.clone(),
            version,
            method: parts.method,
            path,
            args,
            query,
            headers: parts.headers,
            body,
            route,
            shutdown: daemon.shutdown.clone(),
        };
        (route.handler)(request).await
    };
    finish(into_response(answer.await))
}

fn into_response(answer: Result<Response>) -> Response {
    answer.unwrap_or_else(|error| {
        if error.kind == longshore_model::ErrorKind::System {
            tracing::error!(%error, "request failed");
        }
        error::response(&error)
    })
}

/// Adds the headers that every API answer has.
fn finish(mut response: Response) -> Response {
    if !response.bare {
        for (name, value) in api_headers() {
            response = response.with_header(name, value.to_str().unwrap_or_default());
        }
    }
    response
}

/// `Api-Version` and its companions.
fn api_headers() -> [(&'static str, HeaderValue); 4] {
    let version = HeaderValue::from_str(&ApiVersion::MAX.to_string());
    [
        (
            "api-version",
            version.unwrap_or(HeaderValue::from_static("1.55")),
        ),
        ("docker-experimental", HeaderValue::from_static("false")),
        ("ostype", HeaderValue::from_static("linux")),
        ("server", HeaderValue::from_static(SERVER)),
    ]
}
