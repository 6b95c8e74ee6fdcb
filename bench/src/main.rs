//! Measures longshore beside Debian's dockerd on the same machine in the same run, and prints ratios.
//!
//! The two take turns, sample by sample, in rotating order, and each sample waits for an idle run queue: so both see
//! the same machine. What counts is the ratio of the medians; the figures themselves belong to the machine.

mod cycle;
mod images;
mod memory;
mod report;
mod stats;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use e2e::{
    check::{Fail, Outcome},
    engine::{self, Engine, Kind, Setup},
    fail,
};

use crate::{
    cycle::{Load, Network},
    report::Report,
    stats::Samples,
};

/// Benchmarks of longshore against dockerd, interleaved.
#[derive(Parser, Debug)]
struct Args {
    /// The longshore binary (release). A dockerd here compares dockerd with itself, which proves the harness.
    #[arg(long)]
    longshore: PathBuf,
    /// The peer's binary.
    #[arg(long, default_value = "/usr/sbin/dockerd", conflicts_with = "peer")]
    dockerd: PathBuf,
    /// Socket of a peer that runs already; its memory is then not measured.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Samples of each timed measure.
    #[arg(long, default_value_t = 60)]
    samples: usize,
    /// Seconds of each round of the throughput measures; there are three rounds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Containers that stay alive in the measures with others alive.
    #[arg(long, default_value_t = 100)]
    alive: usize,
    /// Cycles after which the memory of the idle engine is measured again.
    #[arg(long, default_value_t = 1000)]
    cycles: usize,
    /// Images of the measures with many.
    #[arg(long, default_value_t = 1000)]
    many: usize,
    /// Only these of: cycle, cli, flight, alive, memory, images (comma separated).
    #[arg(long)]
    only: Option<String>,
    /// A `docker load` archive with busybox.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Also writes all figures and samples as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One of the two engines.
struct Side {
    name: String,
    socket: PathBuf,
    /// Absent for a peer that was running already.
    engine: Option<Engine>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fail(text)) => {
            eprintln!("bench: {text}");
            ExitCode::FAILURE
        }
    }
}

/// A folder that goes away with the run.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn side(binary: &Path, root: PathBuf) -> Outcome<Side> {
    let binary = binary
        .canonicalize()
        .map_err(|e| Fail(format!("{}: {e}", binary.display())))?;
    let is_dockerd = binary
        .file_name()
        .is_some_and(|n| n.to_string_lossy().contains("dockerd"));
    let kind = if is_dockerd {
        Kind::Dockerd
    } else {
        Kind::Longshore
    };
    let marker = format!("bench-{}", root.display());
    let engine = Engine::start(Setup {
        kind,
        binary,
        root,
        isolate: true,
        extra: Vec::new(),
        marker,
    })?;
    let version = engine.call("GET", "/version", None)?.expect(200)?.json()?;
    let name = if is_dockerd { "dockerd" } else { "longshore" };
    Ok(Side {
        name: format!("{name} {}", version["Version"].as_str().unwrap_or("?")),
        socket: engine.socket(),
        engine: Some(engine),
    })
}

fn run(args: &Args) -> Outcome {
    let scratch = Scratch(engine::scratch("bench")?);
    let peer = match &args.peer {
        Some(socket) => Side {
            name: "peer".into(),
            socket: socket.clone(),
            engine: None,
        },
        None => side(&args.dockerd, scratch.0.join("peer"))?,
    };
    let ours = side(&args.longshore, scratch.0.join("ours"))?;
    let mut sides = [peer, ours];
    let archive = match &args.images {
        Some(path) => path.clone(),
        None => test_images(&scratch.0)?,
    };
    for side in &sides {
        engine::load(&side.socket, "busybox:latest", &archive)?;
        cycle::once(&mut cycle::connect(&side.socket)?, Network::Bridge)?;
    }
    let wanted = |what: &str| {
        args.only
            .as_ref()
            .is_none_or(|o| o.split(',').any(|w| w == what))
    };
    let mut report = Report::new(&sides[0].name, &sides[1].name);
    thread::sleep(Duration::from_secs(2));
    if wanted("memory") {
        report.idle("idle engine, PSS", &memory::both(&sides)?);
    }
    if wanted("cycle") {
        for network in [Network::None, Network::Bridge] {
            eprintln!("cycle, network {network}");
            timed(
                &mut report,
                &format!("create + start + wait + remove, network {network}"),
                args.samples,
                &sides,
                |side| cycle::once(&mut cycle::connect(&side.socket)?, network),
            )?;
        }
    }
    if wanted("cli") {
        eprintln!("docker run --rm");
        timed(
            &mut report,
            "`docker run --rm busybox true`",
            args.samples.div_ceil(2),
            &sides,
            |side| docker_run(&side.socket),
        )?;
    }
    if wanted("flight") {
        for network in [Network::None, Network::Bridge] {
            let mut at = |flight| {
                throughput(
                    &mut report,
                    Load {
                        flight,
                        seconds: args.seconds,
                    },
                    network,
                    &sides,
                )
            };
            let (little, much) = (at(8)?, at(32)?);
            report.held(
                &format!("rate at 32 in flight against 8, network {network}"),
                &little,
                &much,
            );
        }
    }
    if wanted("images") {
        eprintln!("images");
        let samples = args.samples.div_ceil(12).max(3);
        images::large(&mut report, &sides, &archive, samples)?;
        images::many(&mut report, &mut sides, &scratch.0, args.many, samples)?;
    }
    if wanted("alive") || wanted("memory") {
        alive(args, &mut report, &sides, wanted("alive"), wanted("memory"))?;
    }
    if wanted("memory") {
        eprintln!("{} cycles", args.cycles);
        for side in &sides {
            cycle::many(&side.socket, args.cycles, Duration::from_secs(120))?;
        }
        thread::sleep(Duration::from_secs(5));
        report.idle(
            &format!("idle engine after {} cycles more, PSS", args.cycles),
            &memory::both(&sides)?,
        );
    }
    print!("{}", report.markdown());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json().to_string())?;
    }
    Ok(())
}

/// Takes samples in turns; each waits for an idle run queue.
fn timed(
    report: &mut Report,
    what: &str,
    count: usize,
    sides: &[Side; 2],
    mut once: impl FnMut(&Side) -> Outcome<Duration>,
) -> Outcome {
    let mut samples = [Samples::default(), Samples::default()];
    for turn in 0..count {
        for place in 0..2 {
            let which = (turn + place) % 2;
            stats::quiet();
            samples[which].push(once(&sides[which])?);
        }
    }
    report.times(what, samples);
    Ok(())
}

/// Three rounds in turns; gives the middle rate of each engine.
fn throughput(
    report: &mut Report,
    load: Load,
    network: Network,
    sides: &[Side; 2],
) -> Outcome<[f64; 2]> {
    eprintln!("{} in flight, network {network}", load.flight);
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..3 {
        for place in 0..2 {
            let which = (round + place) % 2;
            stats::quiet();
            rates[which].push(cycle::rate(&sides[which].socket, load, network)?);
        }
    }
    let middles = [stats::middle(&rates[0]), stats::middle(&rates[1])];
    report.rates(
        &format!(
            "starts a second, {} in flight, network {network}",
            load.flight
        ),
        rates,
    );
    Ok(middles)
}

/// The measures while many other containers run: time of a cycle, and what such a container costs in memory.
fn alive(args: &Args, report: &mut Report, sides: &[Side; 2], time: bool, weigh: bool) -> Outcome {
    let before = if weigh {
        Some(memory::both(sides)?)
    } else {
        None
    };
    let mut sleepers = Vec::new();
    for side in sides {
        eprintln!("{} containers that stay, {}", args.alive, side.name);
        sleepers.push(cycle::sleepers(&side.socket, args.alive)?);
    }
    thread::sleep(Duration::from_secs(3));
    if let Some(before) = before {
        report.per_container(args.alive, &before, &memory::both(sides)?);
    }
    if time {
        for network in [Network::None, Network::Bridge] {
            let what = format!(
                "create + start + wait + remove, network {network}, {} others alive",
                args.alive
            );
            eprintln!("{what}");
            timed(report, &what, args.samples.div_ceil(2), sides, |side| {
                cycle::once(&mut cycle::connect(&side.socket)?, network)
            })?;
        }
    }
    for (side, ids) in sides.iter().zip(sleepers) {
        cycle::remove_all(&side.socket, &ids)?;
    }
    Ok(())
}

fn docker_run(socket: &Path) -> Outcome<Duration> {
    let start = Instant::now();
    let status = Command::new("docker")
        .args(["run", "--rm", "busybox", "true"])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        fail!("docker run ended with {status}");
    }
    Ok(start.elapsed())
}

/// Makes the archive that holds busybox.
fn test_images(folder: &Path) -> Outcome<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/make-images.sh");
    let path = folder.join("images.tar");
    let status = Command::new("bash")
        .arg(script)
        .arg(&path)
        .env("SMALL", "1")
        .status()?;
    if !status.success() {
        fail!("make-images.sh ended with {status}");
    }
    Ok(path)
}
