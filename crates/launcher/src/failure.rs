//! Building [`LaunchFailure`]s.

use std::{fmt::Display, io};

use crate::plan::{LaunchFailure, LaunchFailureKind};

/// The error text of an errno as C and Go print it, lower case, without Rust's `(os error n)`.
pub(crate) fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.find(" (os error") {
        Some(end) => &text[..end],
        None => &text,
    };
    let mut chars = text.chars();
    match chars.next() {
        // An acronym at the front keeps its case.
        Some(first) if !chars.as_str().starts_with(|c: char| c.is_ascii_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

impl LaunchFailure {
    /// The engine's or the host's fault.
    pub fn system(doing: impl Display, error: impl Into<io::Error>) -> Self {
        Self {
            kind: LaunchFailureKind::System,
            message: format!("{doing}: {}", errno_text(&error.into())),
        }
    }

    /// The user's fault.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: LaunchFailureKind::Invalid,
            message: message.into(),
        }
    }

    /// The program is not there, or cannot be run: the errno tells which.
    pub fn program(doing: impl Display, error: &io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => LaunchFailureKind::NotFound,
            Some(libc::EACCES | libc::EPERM | libc::EISDIR | libc::ENOEXEC) => {
                LaunchFailureKind::NotExecutable
            }
            _ => LaunchFailureKind::System,
        };
        Self {
            kind,
            message: format!("{doing}: {}", errno_text(error)),
        }
    }
}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    fn context(self, doing: impl Display) -> Result<T, LaunchFailure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T, LaunchFailure> {
        self.map_err(|error| LaunchFailure::system(doing, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_text_is_as_go_prints_it() {
        let text = |errno| errno_text(&io::Error::from_raw_os_error(errno));
        assert_eq!(text(libc::ENOENT), "no such file or directory");
        assert_eq!(text(libc::EACCES), "permission denied");
        assert_eq!(text(libc::EISDIR), "is a directory");
        assert_eq!(text(libc::ENOEXEC), "exec format error");
        assert_eq!(text(libc::EIO), "input/output error");
    }
}
