//! A container on a root file system of static busybox, and the daemon's side of its shim.

use std::{
    collections::VecDeque,
    fs,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use longshore_launcher::{
    caps,
    cgroup::{Cgroup, Layout},
};
use longshore_shim::{
    client::{Connection, Incoming, Polled, connect},
    logs::{LogReader, ReadOptions},
    protocol::*,
    zygote::Zygote,
};

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a case must leave as it was: mounts, our descriptors, shims.
pub fn host_state() -> (String, usize, usize) {
    let fds = fs::read_dir("/proc/self/fd").unwrap().count();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    (mounts, fds, shims().len())
}

pub fn unchanged(before: &(String, usize, usize)) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        if host_state() == *before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("left behind: {before:?} became {:?}", host_state());
    false
}

/// Shims that our zygote has forked.
pub fn shims() -> Vec<i32> {
    let own = std::process::id().to_string();
    let parent_of = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("PPid:"))?;
        Some(line.trim().to_owned())
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.parse::<i32>().ok()
    });
    pids.filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "longshore-shim"
            && parent_of(&pid.to_string())
                .and_then(|p| parent_of(&p))
                .as_deref()
                == Some(&own)
    })
    .collect()
}

pub fn remove_parent_cgroups() {
    Cgroup::open(&parent_cgroup()).remove().unwrap();
}

fn parent_cgroup() -> String {
    format!("longshore-shim-test-{}", std::process::id())
}

/// A directory of layers, run directory and log.
pub struct Sandbox {
    pub directory: PathBuf,
    pub request: LaunchRequest,
}

impl Sandbox {
    /// `sh -c SCRIPT`.
    pub fn script(script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!(
            "{:064x}",
            u64::from(std::process::id()) << 16 | u64::from(number)
        );
        // Long enough that the path of the socket does not fit into a socket address.
        let directory = std::env::temp_dir().join(format!(
            "longshore-shim-{}-{number}{}",
            std::process::id(),
            "x".repeat(100)
        ));
        make_image(&directory.join("lower"));
        for name in ["upper", "work", "run"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        let request = LaunchRequest {
            plan: plan(&id, &directory, script),
            run_dir: directory.join("run"),
            log: LogPlan {
                file: Some(FilePlan {
                    path: directory.join("log"),
                    max_size: 0,
                    max_file: 1,
                    compress: false,
                    attrs: String::new(),
                }),
                remote: None,
            },
            stdin_once: false,
            attach: Vec::new(),
        };
        Self { directory, request }
    }

    pub fn with(mut self, change: impl FnOnce(&mut LaunchRequest)) -> Self {
        change(&mut self.request);
        self
    }

    pub fn stdin(self, once: bool) -> Self {
        self.with(|request| {
            request.plan.process.stdin = true;
            request.stdin_once = once;
        })
    }

    pub fn terminal(self) -> Self {
        self.with(|request| {
            request.plan.process.terminal = true;
            request.plan.process.stdin = true;
            request.plan.process.console_size = Some((24, 80));
        })
    }

    pub fn start(&self, zygote: &Zygote) -> Daemon {
        self.start_attached(zygote, Vec::new())
    }

    pub fn start_attached(&self, zygote: &Zygote, clients: Vec<OwnedFd>) -> Daemon {
        let mut daemon = Daemon::new(zygote.launch(&self.request, clients).unwrap());
        let (message, mut fds) =
            daemon.wait(|m| matches!(m, Message::Started { .. } | Message::LaunchFailed(_)));
        let Message::Started { pid, .. } = message else {
            panic!("{message:?}");
        };
        daemon.pid = pid;
        daemon.pidfd = fds.pop();
        daemon
    }

    pub fn reconnect(&self) -> (Daemon, Message) {
        let mut daemon = Daemon::new(connect(&self.request.run_dir).unwrap());
        let (hello, mut fds) = daemon.wait(|m| matches!(m, Message::Hello { .. }));
        if let Message::Hello { pid, .. } = &hello {
            daemon.pid = *pid;
        }
        daemon.pidfd = fds.pop();
        (daemon, hello)
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub fn logged(&self) -> String {
        let mut reader = LogReader::open(&self.log_path(), ReadOptions::default()).unwrap();
        let mut text = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            text.extend_from_slice(&entry.line);
        }
        assert_eq!(reader.damaged(), 0);
        String::from_utf8(text).unwrap()
    }

    pub fn assert_no_cgroups(&self) {
        let layout = Layout::host();
        for mount in layout.v1.iter().map(|h| &h.mount).chain(&layout.unified) {
            let group = mount.join(&self.request.plan.cgroup.path);
            assert!(!group.exists(), "{} is left", group.display());
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cgroup = Cgroup::open(&self.request.plan.cgroup.path);
            let _ = cgroup.kill();
            std::thread::sleep(Duration::from_millis(300));
            if let Ok(mut connection) = connect(&self.request.run_dir) {
                let release = Request {
                    id: 0,
                    body: RequestBody::Release,
                };
                let _ = connection.send(&release, Vec::new());
                std::thread::sleep(Duration::from_millis(300));
            }
            let _ = cgroup.remove();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The daemon's side of one shim. Blocks, with limits.
pub struct Daemon {
    connection: Connection,
    seen: VecDeque<(Message, Vec<OwnedFd>)>,
    next_id: u64,
    pub pid: i32,
    pub pidfd: Option<OwnedFd>,
}

impl Daemon {
    fn new(connection: Connection) -> Self {
        connection.set_blocking(true).unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &connection,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .unwrap();
        Self {
            connection,
            seen: VecDeque::new(),
            next_id: 1,
            pid: 0,
            pidfd: None,
        }
    }

    /// The first message that `wanted` accepts; others are kept.
    pub fn wait(&mut self, wanted: impl Fn(&Message) -> bool) -> (Message, Vec<OwnedFd>) {
        if let Some(at) = self.seen.iter().position(|(message, _)| wanted(message)) {
            return self.seen.remove(at).unwrap();
        }
        loop {
            match self.connection.try_recv().unwrap() {
                Polled::Message(incoming) => {
                    let Incoming { message, fds } = *incoming;
                    if wanted(&message) {
                        return (message, fds);
                    }
                    self.seen.push_back((message, fds));
                }
                Polled::Pending => panic!("nothing came; before: {:?}", self.seen),
                Polled::Closed => panic!("the shim is gone; before: {:?}", self.seen),
            }
        }
    }

    pub fn request(&mut self, body: RequestBody, fds: Vec<OwnedFd>) -> Message {
        let id = self.next_id;
        self.next_id += 1;
        self.connection.send(&Request { id, body }, fds).unwrap();
        let answers = |m: &Message| match m {
            Message::Done { id: n }
            | Message::Failed { id: n, .. }
            | Message::ExecStarted { id: n, .. } => *n == id,
            _ => false,
        };
        self.wait(answers).0
    }

    pub fn attach(&mut self, streams: AttachStreams) -> Client {
        let (client, theirs) = Client::pair();
        let AttachStreams {
            stdin,
            stdout,
            stderr,
        } = streams;
        let answer = self.request(
            RequestBody::Attach {
                stdin,
                stdout,
                stderr,
            },
            vec![theirs],
        );
        assert!(matches!(answer, Message::Done { .. }), "{answer:?}");
        client
    }

    pub fn exited(&mut self) -> Exit {
        match self.wait(|m| matches!(m, Message::Exited(_))).0 {
            Message::Exited(exit) => exit,
            _ => unreachable!(),
        }
    }

    /// The bare socket, for noise.
    pub fn raw(&self) -> OwnedFd {
        use std::os::fd::AsFd;
        self.connection.as_fd().try_clone_to_owned().unwrap()
    }

    pub fn kill(&self, signal: i32) {
        use std::os::fd::AsFd;
        longshore_sys::process::send_signal(self.pidfd.as_ref().unwrap().as_fd(), signal).unwrap();
    }

    /// Says Release and waits for the shim to go.
    pub fn release(mut self) {
        let release = Request {
            id: 0,
            body: RequestBody::Release,
        };
        self.connection.send(&release, Vec::new()).unwrap();
        loop {
            match self.connection.try_recv() {
                Ok(Polled::Closed) => return,
                Ok(Polled::Message(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Exit, release, and a look at what is left.
    pub fn finish(mut self, sandbox: &Sandbox) -> Exit {
        let exit = self.exited();
        self.release();
        gone(sandbox);
        exit
    }
}

/// The shim removes cgroups and socket after it has closed the connection.
pub fn gone(sandbox: &Sandbox) {
    until(|| {
        let layout = Layout::host();
        !sandbox.request.run_dir.join("shim.sock").exists()
            && layout
                .v1
                .iter()
                .map(|h| &h.mount)
                .chain(&layout.unified)
                .all(|mount| !mount.join(&sandbox.request.plan.cgroup.path).exists())
    });
}

/// Waits for something to become true.
pub fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub const ALL: AttachStreams = AttachStreams {
    stdin: true,
    stdout: true,
    stderr: true,
};
pub const OUTPUT: AttachStreams = AttachStreams {
    stdin: false,
    stdout: true,
    stderr: true,
};

/// An attached client.
pub struct Client(pub UnixStream);

impl Client {
    pub fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        (Self(ours), theirs.into())
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn end_input(&self) {
        self.0.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// One of Docker's frames; None at the end of the stream.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 8];
        match self.0.read(&mut header[..1]).unwrap() {
            0 => return None,
            _ => self.0.read_exact(&mut header[1..]).unwrap(),
        }
        assert_eq!(header[1..4], [0, 0, 0]);
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).unwrap();
        Some((header[0], body))
    }

    /// All frames to the end of the stream, joined by stream.
    pub fn frames(&mut self) -> [String; 3] {
        let mut texts = [const { Vec::new() }; 3];
        while let Some((stream, body)) = self.frame() {
            texts[usize::from(stream) - 1].extend(body);
        }
        texts.map(|text| String::from_utf8(text).unwrap())
    }

    /// Frames until stdout has given `text`.
    pub fn expect_frames(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let (_, body) = self
                .frame()
                .unwrap_or_else(|| panic!("ended after {seen:?}"));
            seen.push_str(std::str::from_utf8(&body).unwrap());
        }
    }

    /// Raw bytes (terminal) until `text` has come.
    pub fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        while !seen.contains(text) {
            let count = self.0.read(&mut buffer).unwrap();
            assert!(count > 0, "ended after {seen:?}");
            seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        seen
    }

    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

fn make_image(lower: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "dev", "sys", "root"] {
        fs::create_dir_all(lower.join(name)).unwrap();
    }
    fs::hard_link(BUSYBOX, lower.join("bin/busybox"))
        .or_else(|_| fs::copy(BUSYBOX, lower.join("bin/busybox")).map(drop))
        .expect("busybox-static must be installed");
    for applet in [
        "sh", "cat", "echo", "sleep", "true", "stty", "head", "kill", "printf", "dd", "yes", "seq",
        "wc",
    ] {
        symlink("busybox", lower.join("bin").join(applet)).unwrap();
    }
    fs::write(lower.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(lower.join("etc/group"), "root:x:0:\n").unwrap();
}

/// `sh -c SCRIPT` with default privileges.
pub fn process(script: &str) -> ProcessPlan {
    ProcessPlan {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        user: String::new(),
        additional_groups: Vec::new(),
        capabilities: caps::DEFAULT,
        no_new_privileges: false,
        seccomp: None,
        rlimits: Vec::new(),
        oom_score_adj: Some(0),
        terminal: false,
        console_size: None,
        stdin: false,
    }
}

fn plan(id: &str, directory: &Path, script: &str) -> LaunchPlan {
    let rules = [
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:1 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    ];
    LaunchPlan {
        id: id.to_owned(),
        rootfs: RootfsPlan {
            lower: vec![directory.join("lower")],
            upper: directory.join("upper"),
            work: directory.join("work"),
            read_only: false,
            shared_propagation: false,
        },
        mounts: Vec::new(),
        namespaces: NamespacePlan {
            pid: NamespaceMode::New,
            net: NamespaceMode::New,
            ipc: NamespaceMode::New,
            uts: NamespaceMode::New,
            cgroup: NamespaceMode::Host,
            shm_from: None,
        },
        hostname: Some("h1".to_owned()),
        domainname: None,
        interfaces: Vec::new(),
        resolver: None,
        sysctls: Vec::new(),
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        devices: DevicePlan::default(),
        shm_size: 64 << 20,
        no_shm: false,
        writable_cgroups: false,
        cgroup: CgroupPlan {
            path: format!("{}/{id}", parent_cgroup()),
            resources: Resources::default(),
            device_rules: rules.map(str::to_owned).to_vec(),
            allow_all_devices: false,
        },
        process: process(script),
        init: false,
        privileged: false,
    }
}
