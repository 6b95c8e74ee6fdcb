//! The daemon role: from the command line to a served API, and back to nothing at the end.

pub mod config;
mod listen;
mod log;
mod notify;
pub mod options;
mod pidfile;
pub mod settings;
mod wiring;

use std::{process::ExitCode, time::Duration};

use longshore_model::config::DaemonConfig;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use self::{listen::Listeners, log::LogLevel, pidfile::Pidfile, settings::Settings};
use crate::flags::{self, Order, Parsed};

/// So long after the start its code and memory are not needed any more and go back to the kernel.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(2);

/// Threads that serve requests; what blocks goes to tokio's blocking pool.
const WORKERS: usize = 2;

/// Runs `longshore daemon <arguments>` to its end.
pub fn main(arguments: &[String]) -> ExitCode {
    let parsed = match flags::parse(&options::flags(), arguments, Order::Mixed) {
        Ok(parsed) => parsed,
        Err(error) => return usage_error(&error),
    };
    if parsed.on("help") {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    if parsed.on("version") {
        println!("longshore version {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(extra) = parsed.arguments.first() {
        return usage_error(&format!(
            "\"longshore daemon\" accepts no arguments, got {extra:?}"
        ));
    }
    let loaded =
        Settings::load(&parsed).and_then(|settings| Ok((config::build(&settings)?, settings)));
    let (config, settings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("longshore daemon: {error}");
            return ExitCode::FAILURE;
        }
    };
    if parsed.on("validate") {
        for warning in &settings.warnings {
            eprintln!("warning: {warning}");
        }
        println!("configuration OK");
        return ExitCode::SUCCESS;
    }
    let level = match log::start(&config.log_level) {
        Ok(level) => level,
        Err(error) => {
            eprintln!("longshore daemon: {error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    match run(config, &parsed, &level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("failed to start daemon: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage_error(error: &str) -> ExitCode {
    eprintln!("{error}\nSee 'longshore daemon --help'.");
    ExitCode::from(125)
}

fn help() -> String {
    format!(
        "Usage:  longshore daemon [OPTIONS]\n\nThe container engine: serves the Docker Engine API.\n\n{}\n\
         dockerd's other flags are accepted: those that are not needed are passed over, for those that are not\n\
         there yet the log has a warning.\n",
        flags::options_help(&options::flags())
    )
}

/// Everything that has to be right before the first thread starts, then the daemon itself.
fn run(config: DaemonConfig, parsed: &Parsed, level: &LogLevel) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the daemon needs to be run as root".into());
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Before anything opens descriptors of its own.
    let inherited = listen::inherited()?;
    let _pidfile = config.pidfile.as_deref().map(Pidfile::write).transpose()?;
    let listeners = Listeners::bind(&config.listen, &config.group, inherited)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("longshore")
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let result = runtime.block_on(serve(config, listeners, parsed, level));
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if result.is_ok() {
        tracing::info!("daemon shutdown complete");
    }
    result
}

/// Opens the engine, serves until a signal ends it, drains.
async fn serve(
    config: DaemonConfig,
    mut listeners: Listeners,
    parsed: &Parsed,
    level: &LogLevel,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("signals: {error}");
    let mut end = Ends {
        terminate: signal(SignalKind::terminate()).map_err(failed)?,
        interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
    };
    let mut reload = signal(SignalKind::hangup()).map_err(failed)?;
    let engine = tokio::select! {
        engine = wiring::open_engine(config) => engine?,
        () = end.next() => return Ok(()),
    };
    raise_descriptor_limit();
    let (shutdown, down) = watch::channel(false);
    let bound = std::mem::take(&mut listeners.bound);
    let mut serving = Box::pin(wiring::serve(bound, engine, down)?);
    for name in &listeners.names {
        tracing::info!("API listen on {name}");
    }
    notify::send("READY=1");
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "daemon has completed initialization"
    );
    let mut settled = Box::pin(tokio::time::sleep(SETTLED));
    let mut light = false;
    loop {
        tokio::select! {
            () = end.next() => break,
            () = &mut serving => return Err("the API server has ended".into()),
            _ = reload.recv() => reread(parsed, level),
            () = &mut settled, if !light => {
                light = true;
                longshore_sys::text::let_go();
                longshore_sys::malloc::trim();
            }
        }
    }
    tracing::info!("processing signal, draining streams; containers go on");
    notify::send("STOPPING=1");
    // Its receiver lives in `serving`.
    let _ = shutdown.send(true);
    // From now on a new daemon may take the place; who connects here gets no answer any more.
    drop(listeners);
    tokio::select! {
        // It bounds itself by the shutdown timeout.
        () = serving => {}
        () = end.next() => tracing::warn!("second signal: ending at once"),
    }
    Ok(())
}

/// The signals that end the daemon.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// SIGHUP: reads the file again. Of its keys, those of the log can change while the daemon runs.
fn reread(parsed: &Parsed, level: &LogLevel) {
    let wanted = Settings::load(parsed).and_then(|settings| config::log_level(&settings));
    match wanted {
        Ok(wanted) => {
            level.set(&wanted);
            tracing::info!(
                level = wanted,
                "configuration read again; keys other than debug and log-level need a restart"
            );
        }
        Err(error) => tracing::error!("configuration not changed: {error}"),
    }
}

/// A connection is a descriptor: as many as the hard limit allows. Only after the zygote has started: containers
/// inherit their limits from it, and get those that the daemon was given.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
