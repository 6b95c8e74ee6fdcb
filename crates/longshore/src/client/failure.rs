//! Why a verb ended without success.

use std::fmt;

/// A message for stderr and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// Empty when everything has been said.
    pub message: String,
    pub status: u8,
    /// HTTP status of the daemon's answer, 0 when it did not come from there.
    pub http: u16,
}

impl Failure {
    /// A failure of the client, exit status 1.
    pub fn new(message: impl fmt::Display) -> Failure {
        Failure {
            message: message.to_string(),
            status: 1,
            http: 0,
        }
    }

    /// The daemon's answer was an error.
    pub fn answer(http: u16, message: &str) -> Failure {
        Failure {
            http,
            ..Failure::new(format_args!("Error response from daemon: {message}"))
        }
    }

    /// A wrong command line, exit status 125 as Docker's.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure {
            status: 125,
            ..Failure::new(message)
        }
    }

    /// Is it about the value of a flag? Such failures come with the verb's usage.
    pub fn is_bad_flag(&self) -> bool {
        self.message.starts_with("invalid argument ")
    }

    /// Nothing more to say, only an exit status.
    pub fn status(status: u8) -> Failure {
        Failure {
            status,
            ..Failure::new("")
        }
    }

    /// The same with another exit status.
    pub fn with_status(self, status: u8) -> Failure {
        Failure { status, ..self }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(reason(&error))
    }
}

/// An operating system's reason in Go's words: `no such file or directory`.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

/// What verbs return.
pub type Done<T = ()> = Result<T, Failure>;
