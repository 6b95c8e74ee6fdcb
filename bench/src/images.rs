//! Images: load and save of large ones, lists and start-up with many.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome},
    engine::{self, Engine},
    fail,
    http::Connection,
};
use serde_json::json;

use crate::{Side, report::Report, stats, stats::Samples};

/// How long a load or save may take.
const PATIENCE: Duration = Duration::from_secs(600);
const BLOCK: usize = 512;
/// What the archive of test images holds, the largest first.
const NAMES: [&str; 8] = [
    "debian:trixie-slim",
    "debian:bookworm-slim",
    "busybox:latest",
    "busybox:glibc",
    "alpine:3.10",
    "hello-world:latest",
    "hello-world:frozen",
    "hello-world:amd64",
];

/// What the processes of an engine used since [`Cost::begin`].
struct Cost {
    pids: Vec<u32>,
    cpu: f64,
}

/// Peak of resident memory in MB, and seconds of processors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub peak: f64,
    pub cpu: f64,
}

impl Cost {
    fn begin(engine: Option<&Engine>) -> Self {
        let pids = engine.map_or_else(Vec::new, |e| processes(e.pid()));
        for pid in &pids {
            // 5: forget the peak.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        let cpu = cpu(&pids);
        Self { pids, cpu }
    }

    fn end(&self) -> Spent {
        let peak: u64 = self.pids.iter().map(|pid| field(*pid, "VmHWM:")).sum();
        Spent {
            peak: peak as f64 / 1024.0,
            cpu: cpu(&self.pids) - self.cpu,
        }
    }
}

/// The daemon and what else lives in its network namespace (containerd, the zygote).
fn processes(daemon: u32) -> Vec<u32> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let home = namespace(&daemon.to_string());
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| home.is_some() && namespace(pid) == home)
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Seconds of the processes and of their children that have ended.
fn cpu(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        after
            .split_whitespace()
            .skip(11)
            .take(4)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum()
    };
    pids.iter().map(ticks).sum::<u64>() as f64 / 100.0
}

fn connect(socket: &Path) -> Outcome<Connection> {
    let connection = Connection::open(socket)?;
    connection.socket().set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn load(socket: &Path, archive: &Path) -> Outcome<Duration> {
    let mut connection = connect(socket)?;
    let mut file = File::open(archive).map_err(|e| Fail(format!("{}: {e}", archive.display())))?;
    let length = file.metadata()?.len().to_string();
    let headers = [
        ("Content-Type", "application/x-tar"),
        ("Content-Length", length.as_str()),
    ];
    let start = Instant::now();
    connection.request("POST", "/images/load?quiet=1", &headers, None)?;
    io::copy(&mut file, &mut connection.socket())?;
    let answer = connection.answer("POST")?.expect(200)?;
    if answer.text().contains("errorDetail") {
        fail!("load: {}", answer.text());
    }
    Ok(start.elapsed())
}

/// Reads the archive to its end and throws it away; how long that took, and its bytes.
fn save(socket: &Path, name: &str) -> Outcome<(Duration, u64)> {
    let mut connection = connect(socket)?;
    let start = Instant::now();
    connection.request("GET", &format!("/images/{name}/get"), &[], None)?;
    let (status, _) = connection.head("GET")?;
    if status != 200 {
        fail!("save of {name}: {status}");
    }
    let mut stream = connection.socket();
    let (mut bytes, mut buffer, mut tail) = (0, vec![0u8; 1 << 18], Vec::new());
    loop {
        let got = stream.read(&mut buffer)?;
        bytes += got as u64;
        tail.extend_from_slice(&buffer[got.saturating_sub(5)..got]);
        let last = tail.len().saturating_sub(5);
        tail.drain(..last);
        // The end of a chunked body.
        if got == 0 || tail == b"0\r\n\r\n" {
            return Ok((start.elapsed(), bytes));
        }
    }
}

fn remove(socket: &Path, names: &[&str]) -> Outcome {
    for name in names {
        let answer = engine::call(socket, "DELETE", &format!("/images/{name}?force=1"), None)?;
        if !matches!(answer.status, 200 | 404) {
            fail!("removal of {name}: {}", answer.text());
        }
    }
    Ok(())
}

fn list(socket: &Path, at_least: usize) -> Outcome<Duration> {
    let start = Instant::now();
    let answer = engine::call(socket, "GET", "/v1.41/images/json", None)?.expect(200)?;
    let took = start.elapsed();
    let count = answer.json()?.as_array().map_or(0, Vec::len);
    if count < at_least {
        fail!("the list has {count} images, not {at_least}");
    }
    Ok(took)
}

/// Load and save of the archive's debian, cold each time.
pub fn large(report: &mut Report, sides: &[Side; 2], archive: &Path, samples: usize) -> Outcome {
    // The largest that the archive has; without debian busybox will do.
    let has = engine::call(
        &sides[0].socket,
        "GET",
        "/images/debian:trixie-slim/json",
        None,
    )?;
    let names = if has.status == 200 {
        &NAMES[..]
    } else {
        &NAMES[2..]
    };
    let mut times = [const { [Samples::new(), Samples::new()] }; 2];
    let mut spent = [const { [Vec::new(), Vec::new()] }; 2];
    for turn in 0..samples {
        for place in 0..2 {
            let which = (turn + place) % 2;
            let side = &sides[which];
            remove(&side.socket, names)?;
            stats::quiet();
            let cost = Cost::begin(side.engine.as_ref());
            times[0][which].push(load(&side.socket, archive)?);
            spent[0][which].push(cost.end());
            stats::quiet();
            let cost = Cost::begin(side.engine.as_ref());
            times[1][which].push(save(&side.socket, names[0])?.0);
            spent[1][which].push(cost.end());
        }
    }
    let size = fs::metadata(archive)?.len() >> 20;
    let [load, save] = times;
    report.times(&format!("load of {size} MB of images"), load);
    report.spent("load", &spent[0]);
    report.times(&format!("save of {}", names[0]), save);
    report.spent("save", &spent[1]);
    Ok(())
}

/// Lists and start-up with many images of ten layers, nine of which they share.
pub fn many(
    report: &mut Report,
    sides: &mut [Side; 2],
    folder: &Path,
    count: usize,
    samples: usize,
) -> Outcome {
    let mut empty = [Samples::new(), Samples::new()];
    let mut full = [Samples::new(), Samples::new()];
    let mut lists = [Samples::new(), Samples::new()];
    restart(sides, samples, &mut empty)?;
    let archive = write_many(folder, count)?;
    let mut loads = [Samples::new(), Samples::new()];
    for (side, times) in sides.iter().zip(&mut loads) {
        eprintln!("{count} images into {}", side.name);
        times.push(load(&side.socket, &archive)?);
    }
    report.times(&format!("load of {count} images of 10 layers"), loads);
    for turn in 0..samples * 3 {
        for place in 0..2 {
            let which = (turn + place) % 2;
            stats::quiet();
            lists[which].push(list(&sides[which].socket, count)?);
        }
    }
    report.times(&format!("list of {count} images"), lists);
    restart(sides, samples, &mut full)?;
    report.times("start of the daemon, few images", empty);
    report.times(&format!("start of the daemon, {count} images"), full);
    Ok(())
}

fn restart(sides: &mut [Side; 2], samples: usize, times: &mut [Samples; 2]) -> Outcome {
    for turn in 0..samples {
        for place in 0..2 {
            let which = (turn + place) % 2;
            let Some(engine) = sides[which].engine.as_mut() else {
                continue;
            };
            engine.stop()?;
            stats::quiet();
            let start = Instant::now();
            engine.launch()?;
            times[which].push(start.elapsed());
        }
    }
    Ok(())
}

/// A `docker load` archive of images that differ in their last layer.
fn write_many(folder: &Path, count: usize) -> Outcome<PathBuf> {
    let path = folder.join("many.tar");
    let mut out = io::BufWriter::new(File::create(&path)?);
    let mut diffs = Vec::new();
    let mut shared = Vec::new();
    for n in 0..9 {
        let tar = tar_of(&format!("shared-{n}"), format!("layer {n}").as_bytes());
        let digest = sha256(&tar);
        let name = format!("{digest}/layer.tar");
        out.write_all(&entry(&name, &tar))?;
        diffs.push(format!("sha256:{digest}"));
        shared.push(name);
    }
    let mut manifests = Vec::new();
    for n in 0..count {
        let tar = tar_of("own", format!("image {n}").as_bytes());
        let digest = sha256(&tar);
        let name = format!("{digest}/layer.tar");
        out.write_all(&entry(&name, &tar))?;
        let mut own = diffs.clone();
        own.push(format!("sha256:{digest}"));
        let config = json!({"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["x"], "Labels": {"n": n.to_string()}}, "rootfs": {"type": "layers", "diff_ids": own}})
        .to_string();
        let document = format!("{}.json", sha256(config.as_bytes()));
        out.write_all(&entry(&document, config.as_bytes()))?;
        let layers: Vec<&String> = shared.iter().chain([&name]).collect();
        manifests
            .push(json!({"Config": document, "RepoTags": [format!("many:{n}")], "Layers": layers}));
    }
    let manifest = json!(manifests).to_string();
    out.write_all(&entry("manifest.json", manifest.as_bytes()))?;
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()?;
    Ok(path)
}

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = entry(name, content);
    tar.extend_from_slice(&[0; 2 * BLOCK]);
    tar
}

/// A plain file in a tar archive.
fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; BLOCK];
    header[..name.len()].copy_from_slice(name.as_bytes());
    for (at, text) in [
        (100, "0000644\0".to_owned()),
        (108, "0000000\0".to_owned()),
        (116, "0000000\0".to_owned()),
        (124, format!("{:011o}\0", content.len())),
        (136, "00000000000\0".to_owned()),
        (148, "        0".to_owned()),
        (257, "ustar\x0000".to_owned()),
    ] {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
