//! The client role.

use std::process::ExitCode;

/// Runs one verb.
pub fn main(arguments: &[String]) -> ExitCode {
    eprintln!("longshore: unknown command {arguments:?}");
    ExitCode::from(125)
}
