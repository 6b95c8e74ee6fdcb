//! Random operations from many clients while the daemon, its shims and the firewall's rules are taken away; after each
//! round the API's story is compared with the kernel's, and the journal of events with both.
//!
//! `E2E_SEED` repeats a run's choices, `E2E_CHAOS_ROUNDS` makes it longer or shorter.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use e2e::{
    check::{Fail, Outcome, until},
    engine, ensure, fail,
    http::Connection,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::own::{Own, kill};
use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("daemon", Daemon;
        quick_restarts, stopped_shim_is_no_obstacle, stopped_shim_at_start_up, random_operations,
    )
    .to_vec()
}

const ROUNDS: u64 = 30;
/// Clients at once.
const CLIENTS: u64 = 8;
/// Names that they fight for.
const NAMES: u64 = 20;
/// A list that takes longer waits for something that it must not wait for. Generous: the machine is busy.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// A small generator: the choices of a run can be repeated, their timing cannot.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn name(&mut self) -> String {
        format!("chaos{}", self.below(NAMES))
    }
}

/// What all threads of a round share.
#[derive(Default)]
struct Notes {
    stop: AtomicBool,
    operations: AtomicU64,
    slowest_list: AtomicU64,
    /// Answers that say that the engine itself failed.
    failures: Mutex<BTreeMap<String, u32>>,
    /// Events that a follower saw: container, action, time.
    heard: Mutex<BTreeSet<(String, String, i64)>>,
}

fn random_operations(ctx: &Ctx) -> Outcome {
    let number = |name: &str| env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let seed = number("E2E_SEED").unwrap_or_else(|| u64::from(clock));
    let rounds = number("E2E_CHAOS_ROUNDS").unwrap_or(ROUNDS);
    println!("     chaos: E2E_SEED={seed}, {rounds} rounds");
    let begin = now();
    let mut own = Own::start(ctx)?;
    let notes = Arc::new(Notes::default());
    let mut dice = Dice(seed);
    for round in 1..=rounds {
        turn(&mut own, &notes, &mut dice)
            .and_then(|()| check(&own, &begin, &notes))
            .map_err(|e| {
                let tail = own.engine.log_tail();
                Fail(format!("seed {seed}, round {round}: {}\n{tail}", e.0))
            })?;
    }
    let slowest = notes.slowest_list.load(Ordering::Relaxed);
    println!(
        "     chaos: {rounds} rounds, {} operations, slowest list {slowest} ms",
        notes.operations.load(Ordering::Relaxed)
    );
    for (text, count) in lock(&notes.failures)?.iter().take(20) {
        println!("     chaos: {count} x {text}");
    }
    if u128::from(slowest) >= LIST_LIMIT.as_millis() {
        let log = fs::read_to_string(own.engine.log())?;
        let (warning, error) = ("level=warning", "level=error");
        let lines = log
            .lines()
            .filter(|l| l.contains(warning) || l.contains(error));
        let lines: Vec<&str> = lines.collect();
        fail!(
            "seed {seed}: a list took {slowest} ms:\n{}",
            lines.join("\n")
        );
    }
    let seen = journal(&own, &begin)?.into_keys().collect();
    own.finish(&seen)
}

fn lock<T>(mutex: &Mutex<T>) -> Outcome<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|e| Fail(e.to_string()))
}

/// Clients at work; meanwhile shims die, rules vanish, the daemon is killed and started again.
fn turn(own: &mut Own, notes: &Arc<Notes>, dice: &mut Dice) -> Outcome {
    notes.stop.store(false, Ordering::Relaxed);
    let socket = own.engine.socket();
    let mut threads = Vec::new();
    for _ in 0..CLIENTS {
        let (socket, notes, mut dice) =
            (socket.clone(), Arc::clone(notes), Dice(dice.below(1 << 30)));
        threads.push(thread::spawn(move || {
            while !notes.stop.load(Ordering::Relaxed) {
                if operation(&socket, &notes, &mut dice).is_err() {
                    pause(10);
                }
                notes.operations.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let (to, record) = (socket.clone(), Arc::clone(notes));
    threads.push(thread::spawn(move || follow(&to, &record)));
    pause(200 + dice.below(400));
    if dice.chance(40) {
        kill_a_shim(own, dice)?;
    }
    if dice.chance(30) {
        let flush = Command::new("nft").args(["flush", "ruleset"]).status()?;
        ensure!(flush.success(), "nft: {flush}");
    }
    pause(dice.below(400));
    own.engine.kill()?;
    if dice.chance(30) {
        kill_a_shim(own, dice)?;
    }
    pause(dice.below(150));
    own.engine.launch()?;
    pause(200 + dice.below(300));
    notes.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread
            .join()
            .map_err(|_| Fail("a client panicked".into()))?;
    }
    Ok(())
}

fn parent(pid: i64) -> Outcome<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").map_or("", |(_, r)| r);
    Ok(rest.split(' ').nth(1).unwrap_or_default().parse()?)
}

/// Every shim has one of the containers' first processes as its child.
fn kill_a_shim(own: &Own, dice: &mut Dice) -> Outcome {
    let shims = shims(own);
    if !shims.is_empty() {
        let chosen = usize::try_from(dice.below(1 << 20))? % shims.len();
        // It may have ended meanwhile.
        let _ = kill(i64::from(shims[chosen]), Signal::KILL);
    }
    Ok(())
}

fn shims(own: &Own) -> Vec<i32> {
    let all = own.processes().into_iter().map(|(pid, _)| pid);
    all.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "longshore-shim")
    })
    .collect()
}

/// Reads events as they come, until the daemon goes; then from the next one.
fn follow(socket: &Path, notes: &Notes) {
    while !notes.stop.load(Ordering::Relaxed) {
        let listen = || -> std::io::Result<()> {
            let mut connection = Connection::open(socket)?;
            let patience = Some(Duration::from_millis(500));
            connection.socket().set_read_timeout(patience)?;
            connection.request("GET", "/events", &[], None)?;
            connection.head("GET")?;
            while let Some(line) = connection.body_line()? {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if let (Some(seen), Ok(mut heard)) = (told(&event), notes.heard.lock()) {
                    heard.insert(seen);
                }
                if notes.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        };
        let _ = listen();
        pause(5);
    }
}

/// Container, action and time of a container's event.
fn told(event: &Value) -> Option<(String, String, i64)> {
    let id = event["Actor"]["ID"].as_str().filter(|id| id.len() == 64)?;
    (event["Type"] == "container").then_some(())?;
    let action = event["Action"].as_str()?;
    Some((
        id.to_owned(),
        action.to_owned(),
        event["timeNano"].as_i64()?,
    ))
}

/// Its log shows what was lost.
const COUNTER: &str = "i=0; while :; do echo $i; i=$((i+1)); usleep 5000; done";

fn wish(dice: &mut Dice) -> Value {
    let command = match dice.below(4) {
        0 => "exit 3",
        1 => "echo hi; usleep 30000; exit 0",
        2 => COUNTER,
        _ => "exec sleep 600",
    };
    let mut host = json!({"AutoRemove": dice.chance(30)});
    match dice.below(8) {
        0 => host["NetworkMode"] = json!("none"),
        1 => host["NetworkMode"] = json!("host"),
        2 => host["NetworkMode"] = json!(format!("container:{}", dice.name())),
        3 | 4 => host["PortBindings"] = json!({"80/tcp": [{"HostPort": ""}]}),
        _ => {}
    }
    if dice.chance(30) {
        host["Binds"] = json!([format!("data{}:/data", dice.below(4))]);
    }
    let mut wish = json!({"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": host});
    if dice.chance(20) {
        wish["HostConfig"]["AutoRemove"] = json!(false);
        let name = if dice.chance(50) {
            "always"
        } else {
            "on-failure"
        };
        wish["HostConfig"]["RestartPolicy"] = json!({"Name": name});
    }
    if dice.chance(20) {
        let probe = json!({"Test": ["CMD", "true"], "Interval": 300_000_000});
        wish["Healthcheck"] = probe;
    }
    if dice.chance(30) {
        wish["Volumes"] = json!({"/anonymous": {}});
    }
    wish
}

/// One thing that a client does.
fn operation(socket: &Path, notes: &Notes, dice: &mut Dice) -> Outcome {
    let name = dice.name();
    let post = |path: &str, body: Option<&Value>| -> Outcome<Value> {
        let answer = engine::call(socket, "POST", path, body)?;
        note(notes, path, answer.status, &answer.message())?;
        Ok(answer.json().unwrap_or_default())
    };
    match dice.below(22) {
        0..=3 => {
            let made = post(
                &format!("/containers/create?name={name}"),
                Some(&wish(dice)),
            )?;
            if let Some(id) = made["Id"].as_str() {
                post(&format!("/containers/{id}/start"), None)?;
            }
        }
        4 | 5 => drop(post(&format!("/containers/{name}/start"), None)?),
        6 => drop(post(&format!("/containers/{name}/stop?t=0"), None)?),
        7 => drop(post(&format!("/containers/{name}/kill"), None)?),
        8 => drop(post(&format!("/containers/{name}/restart?t=0"), None)?),
        9 => drop(post(
            &format!("/containers/{name}/rename?name={}", dice.name()),
            None,
        )?),
        10 | 11 => {
            let path = format!("/containers/{name}?v=1&force={}", u8::from(dice.chance(70)));
            let answer = engine::call(socket, "DELETE", &path, None)?;
            note(notes, "remove", answer.status, &answer.message())?;
        }
        12 => {
            let body = json!({"Cmd": ["sh", "-c", "echo in; usleep 20000"], "AttachStdout": true});
            let made = post(&format!("/containers/{name}/exec"), Some(&body))?;
            if let Some(id) = made["Id"].as_str() {
                post(&format!("/exec/{id}/start"), Some(&json!({"Detach": true})))?;
            }
        }
        13 => peep(
            socket,
            "GET",
            &format!("/containers/{name}/logs?stdout=1&follow=1"),
        )?,
        14 => peep(
            socket,
            "POST",
            &format!("/containers/{name}/attach?stream=1&stdout=1"),
        )?,
        15 | 16 => drop(post(&format!("/containers/{name}/pause"), None)?),
        17 | 18 => drop(post(&format!("/containers/{name}/unpause"), None)?),
        19 => {
            let limits =
                json!({"PidsLimit": 40 + dice.below(40), "CpuShares": 100 + dice.below(900)});
            post(&format!("/containers/{name}/update"), Some(&limits))?;
        }
        20 => peep(socket, "GET", &format!("/containers/{name}/stats"))?,
        _ => {
            let start = Instant::now();
            let answer = engine::call(socket, "GET", "/containers/json?all=1", None)?;
            note(notes, "list", answer.status, &answer.message())?;
            let took = u64::try_from(start.elapsed().as_millis())?;
            notes.slowest_list.fetch_max(took, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Reads a stream for a moment and leaves.
fn peep(socket: &Path, method: &str, path: &str) -> Outcome {
    let mut connection = Connection::open(socket)?;
    let patience = Some(Duration::from_millis(60));
    connection.socket().set_read_timeout(patience)?;
    connection.request(method, path, &[], None)?;
    let (status, _) = connection.head(method)?;
    ensure!(status < 500, "{path}: {status}");
    let mut some = [0; 512];
    let _ = connection.read(&mut some);
    Ok(())
}

fn note(notes: &Notes, path: &str, status: u16, message: &str) -> Outcome {
    if status >= 500 {
        // Ids and numbers differ from case to case.
        let what = |text: &str| -> String {
            let words = text.split([' ', '/', '?', ':', '"']);
            let plain = words.filter(|w| !w.bytes().any(|b| b.is_ascii_digit()));
            plain.collect::<Vec<_>>().join(" ")
        };
        let text = format!("{} {status} {}", what(path), what(message));
        *lock(&notes.failures)?.entry(text).or_default() += 1;
    }
    Ok(())
}

/// How the journal tells a container's life.
#[derive(Default)]
struct Life {
    runs: bool,
    paused: bool,
    gone: bool,
    events: BTreeSet<(String, i64)>,
}

/// Reads the journal, checks that each life makes sense.
fn journal(own: &Own, begin: &str) -> Outcome<BTreeMap<String, Life>> {
    let mut lives: BTreeMap<String, Life> = BTreeMap::new();
    let filter = json!({"type": ["container"]});
    let mut last = 0;
    for event in own.ctx.events(begin, &now(), &filter)? {
        let Some((id, action, time)) = told(&event) else {
            continue;
        };
        ensure!(time >= last, "time goes back at {event}");
        last = time;
        let first = !lives.contains_key(&id);
        let life = lives.entry(id.clone()).or_default();
        ensure!(
            first == (action == "create"),
            "{id}: begins with {action}, or is made twice"
        );
        ensure!(!life.gone, "{id}: {action} after destroy");
        match action.as_str() {
            "start" => {
                ensure!(!life.runs, "{id}: started twice");
                life.runs = true;
            }
            "die" => {
                ensure!(life.runs, "{id}: died twice");
                life.runs = false;
                life.paused = false;
            }
            "pause" | "unpause" => {
                let paused = action == "pause";
                ensure!(life.runs, "{id}: {action}, but it does not run");
                ensure!(life.paused != paused, "{id}: {action} twice");
                life.paused = paused;
            }
            "destroy" => {
                ensure!(!life.runs, "{id}: destroyed while it ran");
                life.gone = true;
            }
            _ => {}
        }
        life.events.insert((action, time));
    }
    Ok(lives)
}

/// Names of folders in a folder.
fn folders(path: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Control groups of containers, wherever a hierarchy is mounted.
fn cgroups() -> BTreeSet<String> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut found = folders(&root.join("docker"));
    for hierarchy in folders(&root) {
        found.extend(folders(&root.join(hierarchy).join("docker")));
    }
    found
}

/// The API's story against the kernel's. Things settle within some seconds.
fn check(own: &Own, begin: &str, notes: &Notes) -> Outcome {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        match compare(own, begin, notes) {
            Err(_) if Instant::now() < end => pause(100),
            other => return other,
        }
    }
}

fn compare(own: &Own, begin: &str, notes: &Notes) -> Outcome {
    let list = own.ctx.json("/containers/json?all=1")?;
    let lives = journal(own, begin)?;
    let (mut all, mut running, mut bridged) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut published = Vec::new();
    for entry in list.as_array().into_iter().flatten() {
        let id = entry["Id"].as_str().unwrap_or_default().to_owned();
        let inspect = own.ctx.inspect(&id)?;
        let status = inspect["State"]["Status"].as_str().unwrap_or_default();
        let Some(life) = lives.get(&id) else {
            fail!("{id} is in no event");
        };
        ensure!(!life.gone, "{id} is {status}, destroyed by the journal");
        let up = matches!(status, "running" | "paused");
        ensure!(
            life.runs == up && life.paused == (status == "paused"),
            "{id} is {status}, by the journal it is not"
        );
        story_of_the_log(own, &id, &inspect)?;
        let rm = inspect["HostConfig"]["AutoRemove"] == true;
        ensure!(!(rm && status == "exited"), "{id}: --rm, but still there");
        match status {
            "running" | "paused" => {
                limits_hold(&id, &inspect)?;
                let pid = inspect["State"]["Pid"].as_i64().unwrap_or_default();
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
                ensure!(
                    groups.is_ok_and(|g| g.contains(&id)),
                    "{id}: pid {pid} is not its own"
                );
                let shim = i32::try_from(parent(pid)?)?;
                ensure!(shims(own).contains(&shim), "{id}: no shim");
                if let Some(ip) = inspect["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
                    .as_str()
                    .filter(|ip| !ip.is_empty())
                {
                    bridged += 1;
                    if !inspect["HostConfig"]["PortBindings"]["80/tcp"].is_null() {
                        published.push(ip.to_owned());
                    }
                }
                running.insert(id.clone());
            }
            "created" | "exited" | "restarting" => {}
            other => fail!("{id} is {other}"),
        }
        all.insert(id);
    }
    let alive = lives.iter().filter(|(_, l)| !l.gone);
    let alive: BTreeSet<String> = alive.map(|(id, _)| id.clone()).collect();
    ensure!(alive == all, "journal and list differ: {alive:?} {all:?}");
    let shims = shims(own).len();
    ensure!(
        shims == running.len(),
        "{shims} shims for {} containers",
        running.len()
    );
    let groups: BTreeSet<String> = cgroups()
        .into_iter()
        .filter(|g| lives.contains_key(g))
        .collect();
    if let Some(id) = groups.symmetric_difference(&running).next() {
        let log = fs::read_to_string(own.engine.log())?;
        let told: Vec<&str> = log.lines().filter(|l| l.contains(id.as_str())).collect();
        let events = lives.get(id).map(|life| &life.events);
        fail!("{id}: control group or process missing: {told:#?}\n{events:?}");
    }
    on_disk(own, &all)?;
    on_the_network(own, bridged, &published)?;
    for (id, action, time) in lock(&notes.heard)?.iter() {
        let known = lives
            .get(id)
            .is_some_and(|l| l.events.contains(&(action.clone(), *time)));
        ensure!(known, "{id}: {action} was sent but is not in the journal");
    }
    Ok(())
}

/// Freezer and limits of a container are as inspect says.
fn limits_hold(id: &str, inspect: &Value) -> Outcome {
    let frozen =
        match fs::read_to_string(format!("/sys/fs/cgroup/freezer/docker/{id}/freezer.state")) {
            Ok(state) => state.trim() != "THAWED",
            Err(_) => {
                fs::read_to_string(format!("/sys/fs/cgroup/docker/{id}/cgroup.freeze"))?.trim()
                    == "1"
            }
        };
    let paused = inspect["State"]["Paused"] == true;
    ensure!(
        frozen == paused,
        "{id}: paused {paused}, but frozen {frozen}"
    );
    let pids = super::resources::control(id, ("pids", "pids.max"), "pids.max")?;
    let wanted = match inspect["HostConfig"]["PidsLimit"].as_i64() {
        Some(limit) if limit > 0 => limit.to_string(),
        _ => "max".to_owned(),
    };
    ensure!(pids == wanted, "{id}: pids.max {pids}, wanted {wanted}");
    Ok(())
}

/// Every run of the counter wrote its numbers without a gap; the exit code of one that ends by itself is its own.
fn story_of_the_log(own: &Own, id: &str, inspect: &Value) -> Outcome {
    let script = inspect["Args"][1].as_str().unwrap_or_default();
    let state = &inspect["State"];
    if script == "exit 3" && state["Status"] == "exited" && state["Error"] == "" {
        let code = state["ExitCode"].as_i64();
        // 137: killed, by a client or with its shim.
        ensure!(
            matches!(code, Some(3 | 137)),
            "{id}: exit code {code:?} instead of 3"
        );
    }
    if script != COUNTER {
        return Ok(());
    }
    let (text, _) = own.ctx.logs(id, "")?;
    let mut next = 0;
    for line in text.lines() {
        let number: u64 = line
            .parse()
            .map_err(|_| Fail(format!("{id}: log line {line:?}")))?;
        ensure!(
            number == next || number == 0,
            "{id}: {number} in the log after {next} lines"
        );
        next = number + 1;
    }
    Ok(())
}

fn on_disk(own: &Own, all: &BTreeSet<String>) -> Outcome {
    let root = &own.engine.setup.root;
    let have = folders(&root.join("data/containers"));
    ensure!(have == *all, "directories {have:?} for {all:?}");
    let runs = folders(&root.join("exec/containers"));
    ensure!(runs.is_subset(all), "run directories {runs:?} for {all:?}");
    let listed = own.ctx.json("/volumes")?;
    let listed = listed["Volumes"].as_array().into_iter().flatten();
    let listed: BTreeSet<String> = listed
        .filter_map(|v| Some(v["Name"].as_str()?.to_owned()))
        .collect();
    let volumes = folders(&root.join("data/volumes"));
    ensure!(volumes == listed, "volumes {volumes:?}, listed {listed:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let left: Vec<&str> = mounts
        .lines()
        .filter(|l| all.iter().any(|id| l.contains(id.as_str())))
        .collect();
    ensure!(
        left.is_empty(),
        "mounts of containers are visible: {left:?}"
    );
    Ok(())
}

fn on_the_network(own: &Own, bridged: usize, published: &[String]) -> Outcome {
    let output = |program: &str, words: &[&str]| -> Outcome<String> {
        let output = Command::new(program)
            .args(words)
            .stderr(Stdio::null())
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let links = output("ip", &["-o", "link", "show", "master", &own.bridge])?;
    let links = links.lines().count();
    ensure!(links == bridged, "{links} links for {bridged} containers");
    let table = format!("longshore-{}", own.bridge);
    let rules = output("nft", &["list", "table", "inet", &table])?;
    for ip in published {
        ensure!(
            rules.contains(ip.as_str()),
            "{ip} is not published:\n{rules}"
        );
    }
    Ok(())
}

/// A shim that does not answer holds up nobody, and its container can be removed by force.
fn stopped_shim_is_no_obstacle(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let (stuck, other) = (own.ctx.sleeper("stuck")?, own.ctx.sleeper("other")?);
    let init = own.ctx.inspect(&stuck)?["State"]["Pid"]
        .as_i64()
        .unwrap_or_default();
    let shim = parent(init)?;
    kill(shim, Signal::STOP)?;
    // More requests than its socket takes.
    let socket = own.engine.socket();
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let path = format!("/containers/{stuck}/resize?h=20&w=80");
            let socket = socket.clone();
            thread::spawn(move || {
                for _ in 0..150 {
                    if let Ok(mut asked) = Connection::open(&socket) {
                        let _ = asked.request("POST", &path, &[], Some(b""));
                    }
                }
            })
        })
        .collect();
    for thread in asking {
        thread.join().map_err(|_| Fail("panic".into()))?;
    }
    let start = Instant::now();
    own.ctx.json("/containers/json?all=1")?;
    own.ctx.inspect(&stuck)?;
    own.ctx.kill(&other)?;
    own.ctx.start(&other)?;
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "others waited {:?}",
        start.elapsed()
    );
    own.ctx
        .delete(&format!("/containers/{stuck}?force=1"))?
        .expect(204)?;
    until(5, "end of shim and process", || {
        let gone = |pid: i64| !Path::new(&format!("/proc/{pid}")).exists();
        Ok((gone(shim) && gone(init)).then_some(()))
    })?;
    own.finish(&BTreeSet::from([stuck, other]))
}

/// The same over a restart of the daemon, which does not wait for ever either.
fn stopped_shim_at_start_up(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let (stuck, other) = (own.ctx.sleeper("stuck")?, own.ctx.sleeper("other")?);
    let init = own.ctx.inspect(&stuck)?["State"]["Pid"]
        .as_i64()
        .unwrap_or_default();
    let shim = parent(init)?;
    kill(shim, Signal::STOP)?;
    own.crash()?;
    own.ctx.status(&stuck, "exited")?;
    own.ctx.status(&other, "running")?;
    until(5, "end of the shim", || {
        Ok((!Path::new(&format!("/proc/{shim}")).exists()).then_some(()))
    })?;
    own.ctx.start(&stuck)?;
    own.finish(&BTreeSet::from([stuck, other]))
}

/// A run that follows at once on another: the first one's shim must not take anything of the second's away.
fn quick_restarts(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let ids: Vec<String> = (0..4)
        .map(|n| own.ctx.sleeper(&format!("c{n}")))
        .collect::<Outcome<_>>()?;
    let socket = own.engine.socket();
    let work: Vec<_> = ids
        .iter()
        .map(|id| {
            let (id, socket) = (id.clone(), socket.clone());
            thread::spawn(move || -> Outcome {
                for _ in 0..15 {
                    let path = format!("/containers/{id}/restart?t=0");
                    engine::call(&socket, "POST", &path, None)?.expect(204)?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in work {
        thread.join().map_err(|_| Fail("panic".into()))??;
    }
    own.crash()?;
    for id in &ids {
        own.ctx.status(id, "running")?;
        own.ctx.exec_sh(id, "true")?.ok()?;
    }
    own.finish(&ids.into_iter().collect())
}
