//! Error kind to status and body: the only place where that is decided.

use hyper::StatusCode;
use longshore_model::{Error, ErrorKind};
use serde::Serialize;

use crate::response::Response;

/// Body of every error answer.
#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// The status of a kind of error.
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidParameter => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::System => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error as a client sees it: `{"message":"..."}`, or nothing at all for 304.
pub fn response(error: &Error) -> Response {
    match error.kind {
        ErrorKind::NotModified => Response::empty(StatusCode::NOT_MODIFIED),
        kind => message(status(kind), &error.message),
    }
}

/// `{"message":"..."}` with a status.
pub(crate) fn message(status: StatusCode, text: &str) -> Response {
    Response::json(status, &Message { message: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (error, want) in [
            (Error::invalid("x"), 400),
            (Error::not_found("x"), 404),
            (Error::conflict("x"), 409),
            (Error::not_modified(), 304),
            (Error::not_implemented("x"), 501),
            (Error::unavailable("x"), 503),
            (Error::system("x"), 500),
        ] {
            assert_eq!(response(&error).status().as_u16(), want);
        }
    }
}
