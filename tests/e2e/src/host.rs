//! Prepares what a run needs: namespaces, the engine, images; and looks afterwards whether anything was left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use e2e::{
    check::{Fail, Outcome},
    engine::{self, Engine, Kind, Setup},
    fail,
    http::Connection,
};
use serde_json::Value;

use crate::{
    Args, cases,
    context::World,
    images, outside,
    runner::{self, Case, Company},
};

/// Does what the command line says; gives whether all cases passed.
pub fn run(args: &Args) -> Outcome<bool> {
    let selected = select(args);
    if args.list {
        selected.iter().for_each(|c| println!("{}", c.full_name()));
        return Ok(true);
    }
    let python =
        |c: &Case| matches!(c.group, "docker_py" | "testcontainers") || c.name == "docker_py";
    if selected.iter().any(python) {
        prepare_python()?;
    }
    let own = match (&args.binary, &args.dockerd) {
        (Some(path), _) => Some((Kind::Longshore, path.canonicalize()?)),
        (_, Some(path)) => Some((Kind::Dockerd, path.canonicalize()?)),
        _ => None,
    };
    match own {
        Some((kind, binary)) if args.inside => with_engine(args, &selected, kind, binary),
        Some(_) => enter(),
        None => {
            let Some(socket) = &args.engine else {
                fail!("one of --engine, --binary, --dockerd is needed");
            };
            let scratch = Scratch(engine::scratch("e2e")?);
            let world = world(args, socket, None, &scratch.0, "")?;
            let cases: Vec<Case> = selected
                .into_iter()
                .filter(|c| c.company != Company::Daemon)
                .collect();
            let passed = runner::run(&cases, &world, args.jobs);
            outside::close();
            Ok(passed)
        }
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn select(args: &Args) -> Vec<Case> {
    let words = |list: &Option<String>| -> Vec<String> {
        list.iter()
            .flat_map(|l| l.split(','))
            .map(str::to_owned)
            .collect()
    };
    let (keep, skip) = (words(&args.filter), words(&args.skip));
    let mut all = cases::all();
    all.retain(|case| {
        let name = case.full_name();
        (keep.is_empty() || keep.iter().any(|w| name.contains(w)))
            && !skip.iter().any(|w| name.contains(w))
    });
    all
}

/// The python that has docker-py: of a virtual environment under `target/`.
pub fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-venv/bin/python")
}

/// Makes that virtual environment, once. Needs a way to PyPI, so it happens before the namespaces are entered.
fn prepare_python() -> Outcome {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-venv");
    if venv.join("testcontainers").exists() {
        return Ok(());
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--quiet", "docker", "testcontainers"]);
    for mut command in [make, install] {
        let output = command.output()?;
        if !output.status.success() {
            fail!(
                "docker-py and testcontainers: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(fs::write(venv.join("testcontainers"), "")?)
}

/// Runs this program again in network and mount namespaces of its own.
fn enter() -> Outcome<bool> {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "--"]);
    command
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--inside");
    let mut child = command.spawn()?;
    let scratch = PathBuf::from(format!("/tmp/longshore-e2e-{}", child.id()));
    let passed = child.wait()?.success();
    // mounts that were still there have gone with the namespace
    let _ = fs::remove_dir_all(scratch);
    Ok(passed)
}

fn world(
    args: &Args,
    socket: &Path,
    binary: Option<PathBuf>,
    scratch: &Path,
    marker: &str,
) -> Outcome<World> {
    let archive = images::archive(args.images.as_deref())?;
    let version = engine::call(socket, "GET", "/version", None)?
        .expect(200)?
        .json()?;
    let text = version["ApiVersion"].as_str().unwrap_or_default();
    let api = text
        .split_once('.')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
        .ok_or_else(|| Fail(format!("no ApiVersion in {version}")))?;
    engine::load(socket, "busybox:latest", &archive)?;
    engine::load(socket, "hello-world:latest", &archive)?;
    Ok(World {
        socket: socket.to_owned(),
        api,
        binary,
        archive,
        scratch: scratch.to_owned(),
        marker: marker.to_owned(),
    })
}

fn with_engine(args: &Args, selected: &[Case], kind: Kind, binary: PathBuf) -> Outcome<bool> {
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    let scratch = Scratch(engine::scratch("e2e")?);
    let marker = format!("e2e-{}", std::process::id());
    let before = Traces::look();
    let mut engine = Engine::start(Setup {
        kind,
        binary: binary.clone(),
        root: scratch.0.join("engine"),
        isolate: false,
        extra: Vec::new(),
        marker: marker.clone(),
    })?;
    let ids = follow_ids(&engine.socket())?;
    let daemons = (kind == Kind::Longshore).then(|| binary.clone());
    let world = world(args, &engine.socket(), daemons, &scratch.0, &marker)?;
    let cases: Vec<Case> = selected
        .iter()
        .filter(|c| c.company != Company::Daemon || kind == Kind::Longshore)
        .copied()
        .collect();
    let mut passed = runner::run(&cases, &world, args.jobs);
    outside::close();
    let ids: BTreeSet<String> = ids.lock().map(|ids| ids.clone()).unwrap_or_default();
    let mut left = in_engine(&engine)?;
    engine.stop()?;
    left.extend(Traces::look().beyond(&before, kind));
    left.extend(named_after(&ids, &scratch.0));
    left.extend(
        engine::processes(&marker, &scratch.0)
            .into_iter()
            .map(|(pid, line)| format!("process {pid} {line}")),
    );
    for thing in &left {
        println!("LEFT {thing}");
        passed = false;
    }
    if !passed {
        println!("end of the engine's log:\n{}", engine.log_tail());
    }
    Ok(passed)
}

/// Collects the ids of all containers that are made, from the engine's events.
fn follow_ids(socket: &Path) -> Outcome<Arc<Mutex<BTreeSet<String>>>> {
    let ids = Arc::new(Mutex::new(BTreeSet::new()));
    let mut connection = Connection::open(socket)?;
    connection.socket().set_read_timeout(None)?;
    connection.request(
        "GET",
        "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D",
        &[],
        None,
    )?;
    connection.head("GET")?;
    let sink = Arc::clone(&ids);
    thread::spawn(move || {
        while let Ok(Some(line)) = connection.body_line() {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if let (Some(id), Ok(mut sink)) = (event["Actor"]["ID"].as_str(), sink.lock())
                && id.len() == 64
            {
                sink.insert(id.to_owned());
            }
        }
    });
    Ok(ids)
}

/// What the engine itself still lists.
fn in_engine(engine: &Engine) -> Outcome<Vec<String>> {
    let mut left = Vec::new();
    for (path, list, name) in [
        ("/containers/json?all=1", "", "Names"),
        ("/volumes", "Volumes", "Name"),
    ] {
        let value = engine.call("GET", path, None)?.expect(200)?.json()?;
        let list = if list.is_empty() {
            &value
        } else {
            &value[list]
        };
        left.extend(
            list.as_array()
                .into_iter()
                .flatten()
                .map(|v| format!("{path}: {}", v[name])),
        );
    }
    Ok(left)
}

/// Folders and files that carry a container's id: control groups, and what lies in the engine's roots.
pub fn named_after(ids: &BTreeSet<String>, root: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup"), root.join("engine")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.contains(id.as_str())) {
                left.push(entry.path().display().to_string());
            } else if entry.file_type().is_ok_and(|t| t.is_dir())
                && folder.components().count() < 12
            {
                folders.push(entry.path());
            }
        }
    }
    left
}

/// What an engine could leave behind in these namespaces.
struct Traces(BTreeMap<&'static str, BTreeSet<String>>);

impl Traces {
    fn look() -> Self {
        let lines = |program: &str, words: &[&str]| -> BTreeSet<String> {
            let output = Command::new(program).args(words).output();
            let text = output
                .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
                .unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let links = lines("ip", &["-o", "link"]);
        Self(BTreeMap::from([
            (
                "mount",
                mounts
                    .lines()
                    .filter_map(|l| l.split(' ').nth(4))
                    .map(str::to_owned)
                    .collect(),
            ),
            (
                "link",
                links
                    .iter()
                    .filter_map(|l| l.split(": ").nth(1))
                    .map(str::to_owned)
                    .collect(),
            ),
            ("nft table", lines("nft", &["list", "tables"])),
        ]))
    }

    /// What is here and was not before. The default bridge stays, as dockerd's does; so do dockerd's own tables.
    fn beyond(&self, before: &Self, kind: Kind) -> Vec<String> {
        let mut left = Vec::new();
        for (what, now) in &self.0 {
            for thing in now.difference(&before.0[what]) {
                let stays = match *what {
                    "link" => thing == "docker0",
                    "nft table" => kind == Kind::Dockerd,
                    _ => {
                        kind == Kind::Dockerd
                            && (thing.ends_with("/netns")
                                || thing.ends_with("/netns/default")
                                || thing.contains("/overlay2"))
                    }
                };
                if !stays {
                    left.push(format!("{what} {thing}"));
                }
            }
        }
        left
    }
}
