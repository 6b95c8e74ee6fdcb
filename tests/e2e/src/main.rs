//! `e2e`: runs the cases against an engine and says which of them failed.

#![recursion_limit = "512"]

mod cases;
mod context;
mod dns;
mod host;
mod images;
mod outside;
mod probe;
mod registry;
mod runner;
mod websocket;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// End-to-end cases for a Docker Engine API server.
#[derive(Parser, Debug, Clone)]
pub struct Args {
    /// Socket of a running engine. Its network namespace must be ours.
    #[arg(long, conflicts_with_all = ["binary", "dockerd"])]
    engine: Option<PathBuf>,
    /// The longshore binary: started on private paths in namespaces of its own, and used by the cases that kill daemons.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A dockerd binary to start on private paths in namespaces of its own.
    #[arg(long, conflicts_with = "binary")]
    dockerd: Option<PathBuf>,
    /// Runs only cases whose `group.name` contains one of these (comma separated).
    #[arg(long)]
    filter: Option<String>,
    /// Skips cases whose `group.name` contains one of these (comma separated).
    #[arg(long)]
    skip: Option<String>,
    /// Prints the names of the cases.
    #[arg(long)]
    list: bool,
    /// How many cases run at once.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// A `docker load` archive with busybox and hello-world; made under `target/` when not given.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Set by the program itself after it has entered its namespaces.
    #[arg(long, hide = true)]
    inside: bool,
    #[command(subcommand)]
    probe: Option<Probe>,
}

/// What this program does inside containers, where no other tool can.
#[derive(Subcommand, Debug, Clone)]
enum Probe {
    /// GET over a unix socket; prints the body line by line as it comes.
    Get { socket: PathBuf, path: String },
    /// Answers on a TCP and UDP port with the address of who asks, until it is killed.
    Serve { port: u16 },
    /// Asks such a server: `tcp` or `udp`, an address, a port.
    Ask {
        protocol: String,
        address: String,
        port: u16,
    },
    /// Prints the user ids that this process has.
    Ids,
    /// Asks a name server.
    Dns {
        name: String,
        #[arg(default_value = "A")]
        kind: String,
        #[arg(long, default_value = "127.0.0.11:53")]
        server: SocketAddr,
        #[arg(long)]
        tcp: bool,
    },
    /// Is a name server that gives every name the same address.
    DnsServe { answer: Ipv4Addr },
    /// Asks a name server as often as it can; prints how many were answered a second, and how many were not.
    DnsLoad {
        name: String,
        #[arg(long, default_value = "127.0.0.11:53")]
        server: SocketAddr,
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        #[arg(long, default_value_t = 4)]
        threads: usize,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.probe {
        Some(Probe::Get { socket, path }) => probe::get(socket, path),
        Some(Probe::Serve { port }) => probe::serve(*port),
        Some(Probe::Ask {
            protocol,
            address,
            port,
        }) => probe::ask(protocol, address, *port),
        Some(Probe::Ids) => probe::ids(),
        Some(Probe::Dns {
            name,
            kind,
            server,
            tcp,
        }) => dns::ask(name, kind, *server, *tcp),
        Some(Probe::DnsServe { answer }) => dns::serve(*answer),
        Some(Probe::DnsLoad {
            name,
            server,
            seconds,
            threads,
        }) => dns::load(name, *server, *seconds, *threads),
        None => host::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {}", error.0);
            ExitCode::from(2)
        }
    }
}
