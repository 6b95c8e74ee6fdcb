//! The one binary. It picks its role before any thread exists:
//!
//! | called as | role |
//! |---|---|
//! | `longshore daemon ...`, or by the name `dockerd` | the engine behind the API |
//! | `longshore shim-zygote ...` (by the daemon only) | forks one shim a container |
//! | `longshore fsck DATA_ROOT` (hidden; no daemon may run on it) | opens the store as a daemon does, and checks all of it |
//! | by the name `hello` | payload of the image `longshore/hello` |
//! | anything else | a client of the API with the docker CLI's verbs |

mod client;
mod daemon;
mod flags;
mod fsck;
mod hello;
mod units;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = Vec::new();
    for argument in std::env::args_os() {
        match argument.into_string() {
            Ok(argument) => arguments.push(argument),
            Err(argument) => {
                eprintln!("longshore: argument {argument:?} is not UTF-8");
                return ExitCode::from(125);
            }
        }
    }
    let program = arguments.first().cloned().unwrap_or_default();
    let program = Path::new(&program)
        .file_name()
        .and_then(|name| name.to_str());
    let rest = arguments.get(1..).unwrap_or_default();
    match (program, rest.first().map(String::as_str)) {
        (Some("hello"), _) => hello::main(rest),
        (Some("dockerd"), _) => daemon(rest),
        (_, Some("daemon")) => daemon(&rest[1..]),
        (_, Some("fsck")) => fsck::main(&rest[1..]),
        (_, Some(longshore_shim::zygote::ROLE)) => longshore_shim::zygote::zygote_main(),
        _ => client::main(rest),
    }
}

fn daemon(arguments: &[String]) -> ExitCode {
    // A refusal costs memory, nothing else.
    longshore_sys::malloc::limit_arenas(2);
    daemon::main(arguments)
}
