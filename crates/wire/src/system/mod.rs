//! The engine as a whole: ping, version, info, auth, disk usage.

mod auth;
mod df;
mod info;
mod version;

use hyper::StatusCode;
use longshore_model::Result;

use crate::{request::Request, response::Response};

pub(crate) use {auth::auth, df::disk_usage, info::info, version::version};

/// `GET`, `HEAD /_ping`. There is no `Builder-Version` as long as there is no builder: clients take that for the classic
/// builder, whose endpoint then says what is missing.
pub(crate) async fn ping(request: Request) -> Result<Response> {
    let head = request.method == hyper::Method::HEAD;
    let body = if head { "" } else { "OK" };
    let response = Response::bytes(StatusCode::OK, "text/plain; charset=utf-8", body)
        .with_header("cache-control", "no-cache, no-store, must-revalidate")
        .with_header("pragma", "no-cache")
        .with_header("swarm", "inactive");
    // hyper does not say the length of what HEAD leaves out; dockerd does.
    Ok(if head {
        response.with_header("content-length", "0")
    } else {
        response
    })
}

/// `GET /plugins`: there are none.
/// `POST /build/prune`: without a builder there is no cache, so nothing is the true answer; `docker system prune` needs it.
pub(crate) async fn prune_builds(_: Request) -> Result<Response> {
    Ok(Response::ok(
        &serde_json::json!({"CachesDeleted": null, "SpaceReclaimed": 0}),
    ))
}

/// There are no plugins: `docker inspect` asks here last, and goes on past a 404.
pub(crate) async fn plugin(request: Request) -> Result<Response> {
    let name = request.name();
    Err(longshore_model::Error::not_found(format!(
        "plugin \"{name}\" not found"
    )))
}

pub(crate) async fn plugins(_: Request) -> Result<Response> {
    Ok(Response::ok(&[(); 0]))
}
