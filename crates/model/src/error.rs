//! The one error that crosses crate borders: a kind (what the client did, or what failed) and the text it is shown.

use std::fmt;

/// What class of failure this is. `wire::error` maps it to an HTTP status, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong (400).
    InvalidParameter,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// A policy refuses it (403).
    Forbidden,
    /// The object does not exist (404).
    NotFound,
    /// The object's state forbids it (409).
    Conflict,
    /// The object is already in the wanted state (304, no body).
    NotModified,
    /// Not built yet, or not possible for this object (501).
    NotImplemented,
    /// Cannot be served now; try again later (503).
    Unavailable,
    /// The engine failed (500).
    System,
}

/// An error with the text that a Docker client shows; the text is part of the interface.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }
    pub fn not_modified() -> Self {
        Self::new(ErrorKind::NotModified, "")
    }
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotImplemented, message)
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, message)
    }
    /// A failed system call: `what` says what was tried, the errno's text follows, as Go prints it.
    pub fn io(what: impl fmt::Display, error: impl Into<std::io::Error>) -> Self {
        Self::system(format!("{what}: {}", go_errno(&error.into())))
    }
    /// The same kind with `context: ` in front of the text.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

/// The text of an OS error as Go's syscall package prints it: lower case, no errno in brackets.
pub fn go_errno(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_reads_as_in_go() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(go_errno(&error), "no such file or directory");
    }
}
