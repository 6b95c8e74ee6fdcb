//! Why a registry did not do what was asked.

use std::{fmt, time::Duration};

use longshore_model::{Error, ErrorKind};

/// A failed request, in the words of the Go client that Docker uses.
#[derive(Clone, Debug)]
pub enum Failure {
    /// No answer: name, connection, TLS, or cut off.
    Request {
        /// `Head`, `Get`: as Go's client writes it.
        method: String,
        url: String,
        cause: String,
        /// May it work the next time?
        again: bool,
    },
    /// An answer that is not the wanted one.
    Status {
        /// `HEAD`
        method: String,
        url: String,
        status: u16,
        /// What the registry says about it, may be empty.
        detail: String,
        retry_after: Option<Duration>,
    },
    /// The registry has no such thing.
    NotFound(String),
    /// Credentials are missing or not good enough.
    Unauthorized(String),
    /// What came is not what it must be.
    Content(Error),
}

impl Failure {
    /// May the same request work later?
    pub fn again(&self) -> bool {
        match self {
            Self::Request { again, .. } => *again,
            Self::Status { status, .. } => {
                matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
            }
            _ => false,
        }
    }

    /// What the registry asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Did the request fail before any HTTP was spoken? Then another scheme or mirror may work.
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Request { .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request {
                method, url, cause, ..
            } => write!(f, "failed to do request: {method} \"{url}\": {cause}"),
            Self::Status {
                method,
                url,
                status,
                detail,
                ..
            } => {
                write!(
                    f,
                    "unexpected status from {method} request to {url}: {}",
                    status_text(*status)
                )?;
                if detail.is_empty() {
                    Ok(())
                } else {
                    write!(f, "\n{detail}")
                }
            }
            Self::NotFound(what) => write!(f, "{what}: not found"),
            Self::Unauthorized(why) => f.write_str(why),
            Self::Content(error) => f.write_str(&error.message),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = match &failure {
            Failure::Content(error) => error.kind,
            Failure::NotFound(_) => ErrorKind::NotFound,
            _ => ErrorKind::System,
        };
        Self::new(kind, failure.to_string())
    }
}

/// `404 Not Found`
pub fn status_text(status: u16) -> String {
    let reason = hyper::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or_default();
    format!("{status} {reason}").trim_end().to_owned()
}

/// `HEAD` as Go's client writes it in its errors: `Head`.
pub fn verb(method: &hyper::Method) -> String {
    let text = method.as_str();
    let (first, rest) = text.split_at(1.min(text.len()));
    format!("{first}{}", rest.to_lowercase())
}
