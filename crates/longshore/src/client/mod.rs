//! The client role: the docker CLI's everyday verbs over the API, for a machine without a docker CLI. It knows the engine
//! only by its socket.

mod attached;
mod auth;
mod create;
mod create_flags;
mod failure;
mod http;
mod image;
mod lifecycle;
mod list;
mod mounts;
mod networks;
mod ports;
mod run;
mod system;
mod template;
mod terminal;
mod text;
mod verbs;
mod watch;

use std::process::ExitCode;

use self::{
    failure::Failure,
    http::{Client, Endpoint},
    verbs::{VERBS, Verb},
};
use crate::flags::{self, Flag, Order, Parsed, list, switch};

/// Flags before the verb.
const GLOBAL: &[Flag] = &[
    list("host", "Daemon socket to connect to").short('H'),
    switch("debug", "").short('D'),
    switch("version", "Print version information and quit").short('v'),
];

/// Runs `longshore <arguments>`.
pub fn main(arguments: &[String]) -> ExitCode {
    let global = match flags::parse(GLOBAL, arguments, Order::FlagsFirst) {
        Ok(global) => global,
        Err(error) => return complain(&error, "", 125),
    };
    if global.on("version") {
        println!("longshore version {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> = global.arguments.iter().map(String::as_str).collect();
    let Some(name) = words
        .first()
        .filter(|name| **name != "help" && !global.on("help"))
    else {
        text::emit(help());
        return ExitCode::SUCCESS;
    };
    // `container ls` and its like; a group alone is no verb.
    let (verb, rest) = match words[..] {
        [group @ ("container" | "image" | "system"), name, ..] => (
            VERBS.iter().find(|verb| verb.answers_to(group, name)),
            &words[2..],
        ),
        _ => (VERBS.iter().find(|verb| verb.name() == *name), &words[1..]),
    };
    let Some(verb) = verb else {
        text::emit_error(format!(
            "longshore: unknown command: longshore {name}\n\nRun 'longshore --help' for more information\n"
        ));
        return ExitCode::FAILURE;
    };
    let parsed = match flags::parse(verb.flags, rest, verb.order) {
        Ok(parsed) => parsed,
        Err(error) => return complain(&error, verb.usage, 125),
    };
    if parsed.on("help") {
        text::emit(verb.help());
        return ExitCode::SUCCESS;
    }
    if let Some(error) = verb.count_error(parsed.arguments.len()) {
        let text = format!("longshore: {error}");
        if !error.contains("at least") {
            return complain(&text, verb.usage, 1);
        }
        text::emit_error(format!(
            "{text}\n\nUsage:  longshore {}\n\nSee 'longshore {} --help' for more information\n",
            verb.usage,
            verb.name()
        ));
        return ExitCode::FAILURE;
    }
    // Reading stdin may block for ever: the process ends without waiting for that thread.
    match act(&global, verb, &parsed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_bad_flag() {
                return complain(&failure.message, verb.usage, 125);
            }
            if !failure.message.is_empty() {
                text::emit_error(format!("{}\n", failure.message));
            }
            ExitCode::from(failure.status)
        }
    }
}

fn act(global: &Parsed, verb: &Verb, parsed: &Parsed) -> Result<(), Failure> {
    let host = match global.list("host") {
        [] => std::env::var("DOCKER_HOST").unwrap_or_default(),
        [host] => host.clone(),
        _ => return Err(Failure::new("specify only one -H")),
    };
    let client = Client::new(Endpoint::parse(&host).map_err(Failure::new)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on((verb.act)(&client, parsed));
    runtime.shutdown_background();
    result
}

fn complain(error: &str, usage: &str, status: u8) -> ExitCode {
    let mut out = format!("{error}\n\n");
    if usage.is_empty() {
        out.push_str("Run 'longshore --help' for more information\n");
    } else {
        let verb = usage.split(' ').next().unwrap_or_default();
        out.push_str(&format!(
            "Usage:  longshore {usage}\n\nRun 'longshore {verb} --help' for more information\n"
        ));
    }
    text::emit_error(out);
    ExitCode::from(status)
}

fn help() -> String {
    let mut out = String::from(
        "Usage:  longshore [OPTIONS] COMMAND\n\nA container engine in one binary, and a client of it (or of any other Docker API).\n\n\
         The engine:\n  daemon      Serve the Docker Engine API\n\nCommands:\n",
    );
    for verb in VERBS {
        out.push_str(&format!("  {:11} {}\n", verb.name(), verb.about));
    }
    out.push('\n');
    out.push_str(&flags::options_help(GLOBAL));
    out.push_str("\nRun 'longshore COMMAND --help' for more information on a command.\n");
    out
}
