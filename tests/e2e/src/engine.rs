//! Starts and ends the engine under test: a private socket, data root and exec root, in network and mount
//! namespaces of its own when asked, so that nothing of the host is touched.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    check::{Fail, Outcome, patience, until},
    fail,
    http::{Connection, Response},
};

/// Which program is started; they take the same flags but for the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Longshore,
    Dockerd,
}

/// How to start an engine.
#[derive(Clone, Debug)]
pub struct Setup {
    pub kind: Kind,
    pub binary: PathBuf,
    /// Holds socket, data, state and log; made when missing.
    pub root: PathBuf,
    /// Network and mount namespaces of its own.
    pub isolate: bool,
    /// Flags after the usual ones.
    pub extra: Vec<String>,
    /// Stands in the environment of every process of the engine, so that its leftovers are found.
    pub marker: String,
}

/// A running engine.
pub struct Engine {
    pub setup: Setup,
    child: Option<Child>,
}

/// Name of the environment variable that carries the marker.
pub const MARKER: &str = "LONGSHORE_TEST_RUN";

impl Engine {
    /// Starts the engine and waits until it answers.
    pub fn start(setup: Setup) -> Outcome<Self> {
        fs::create_dir_all(&setup.root)?;
        let mut engine = Self { setup, child: None };
        engine.launch()?;
        Ok(engine)
    }

    pub fn socket(&self) -> PathBuf {
        self.setup.root.join("docker.sock")
    }

    /// The daemon's process id; 0 when it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The command line that starts the engine.
    pub fn command(&self) -> Command {
        let root = self.setup.root.display();
        let mut words = vec![self.setup.binary.display().to_string()];
        if self.setup.kind == Kind::Longshore {
            words.push("daemon".into());
        }
        for (flag, value) in [
            ("-H", format!("unix://{root}/docker.sock")),
            ("--data-root", format!("{root}/data")),
            ("--exec-root", format!("{root}/exec")),
            ("--pidfile", format!("{root}/pid")),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        words.extend(self.setup.extra.iter().cloned());
        let mut command = if self.setup.isolate {
            let mut command = Command::new("unshare");
            command.args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "--",
                "sh",
                "-c",
            ]);
            command
                .arg("ip link set lo up && exec \"$@\"")
                .arg("engine");
            command
        } else {
            Command::new(words.remove(0))
        };
        command
            .args(words)
            .env(MARKER, &self.setup.marker)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Starts the daemon (again) and waits until it answers.
    pub fn launch(&mut self) -> Outcome {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .map_err(|e| Fail(format!("{:?}: {e}", self.setup.binary)))?;
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(60) * patience();
        while self.call("GET", "/_ping", None).map(|r| r.status).ok() != Some(200) {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten())
            {
                fail!("the engine ended with {status}:\n{}", self.log_tail());
            }
            if Instant::now() > end {
                fail!("the engine does not answer:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// One request on a connection of its own.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> io::Result<Response> {
        call(&self.socket(), method, path, body)
    }

    pub fn log(&self) -> PathBuf {
        self.setup.root.join("log")
    }

    /// The end of what the engine wrote.
    pub fn log_tail(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub fn signal(&self, signal: Signal) -> Outcome {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(
            pid.ok_or_else(|| Fail("no engine runs".into()))?,
            signal,
        )?)
    }

    /// Waits for the end of the daemon.
    pub fn wait(&mut self, seconds: u64) -> Outcome<ExitStatus> {
        let Some(child) = self.child.as_mut() else {
            fail!("no engine runs");
        };
        let status = until(seconds, "end of the engine", || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(status)
    }

    /// kill -9 of the daemon process alone.
    pub fn kill(&mut self) -> Outcome {
        self.signal(Signal::KILL)?;
        self.wait(10).map(drop)
    }

    /// SIGTERM, then waits for the end.
    pub fn stop(&mut self) -> Outcome<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(60)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.child.is_some() && self.stop().is_err() {
            let _ = self.kill();
        }
        kill_processes(&self.setup.marker, &self.setup.root);
    }
}

/// Processes of an engine, id and command line: those that carry the marker in their environment, those that hold a
/// file below the root open (a shim has its log), and the children of all of these.
pub fn processes(marker: &str, root: &Path) -> Vec<(i32, String)> {
    let wanted = format!("{MARKER}={marker}");
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if pid == me {
            continue;
        }
        let path = entry.path();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        let marked = environment
            .split(|b| *b == 0)
            .any(|e| e == wanted.as_bytes());
        let holds = || {
            let files = fs::read_dir(path.join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            files
                .filter_map(|f| fs::read_link(f.path()).ok())
                .any(|f| f.starts_with(root))
        };
        if marked || holds() {
            found.push(pid);
        } else {
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            let tail = stat.rsplit_once(") ").map_or("", |(_, tail)| tail);
            if let Some(parent) = tail.split(' ').nth(1).and_then(|p| p.parse::<i32>().ok()) {
                rest.push((pid, parent));
            }
        }
    }
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(
            rest.iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    found
        .into_iter()
        .map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// Kills what an engine left running, shims and with them containers.
pub fn kill_processes(marker: &str, root: &Path) {
    for (pid, _) in processes(marker, root) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// One request on a connection of its own; a body is sent as JSON.
pub fn call(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> io::Result<Response> {
    let mut connection = Connection::open(socket)?;
    let bytes = body.map(|b| b.to_string().into_bytes());
    let json = [
        ("Content-Type", "application/json"),
        ("Connection", "close"),
    ];
    let headers = if bytes.is_some() {
        &json[..]
    } else {
        &json[1..]
    };
    connection.call(method, path, headers, bytes.as_deref())
}

/// Loads an archive unless the engine has the image already.
pub fn load(socket: &Path, image: &str, archive: &Path) -> Outcome {
    if call(socket, "GET", &format!("/images/{image}/json"), None)?.status == 200 {
        return Ok(());
    }
    let mut connection = Connection::open(socket)?;
    connection
        .socket()
        .set_read_timeout(Some(Duration::from_secs(300)))?;
    let mut file = File::open(archive).map_err(|e| Fail(format!("{}: {e}", archive.display())))?;
    let length = file.metadata()?.len().to_string();
    let headers = [
        ("Content-Type", "application/x-tar"),
        ("Content-Length", length.as_str()),
    ];
    connection.request("POST", "/images/load?quiet=1", &headers, None)?;
    let mut socket = connection.socket();
    io::copy(&mut file, &mut socket)?;
    let answer = connection.answer("POST")?.expect(200)?;
    if answer.text().contains("errorDetail") {
        fail!("load: {}", answer.text());
    }
    Ok(())
}

/// A new private folder, below `/tmp` so that socket paths stay short.
pub fn scratch(what: &str) -> Outcome<PathBuf> {
    let path = PathBuf::from(format!("/tmp/longshore-{what}-{}", std::process::id()));
    fs::create_dir(&path).map_err(|e| Fail(format!("{}: {e}", path.display())))?;
    Ok(path)
}
