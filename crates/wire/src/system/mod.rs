//! The engine as a whole: ping, version, info, auth, disk usage.

use longshore_model::Result;

use crate::{request::Request, response::Response};

/// `GET`, `HEAD /_ping`
pub(crate) async fn ping(request: Request) -> Result<Response> {
    let body = if request.method == hyper::Method::HEAD {
        ""
    } else {
        "OK"
    };
    Ok(Response::bytes(
        hyper::StatusCode::OK,
        "text/plain; charset=utf-8",
        body,
    ))
}
