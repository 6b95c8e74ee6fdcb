//! A root file system of static busybox, and plans for it.

use std::{
    fs,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use longshore_launcher::{
    caps,
    exec::{ExecTarget, exec_in},
    parent::{Launched, LaunchedProcess, StdioFds, launch},
    plan::*,
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, waitid},
};

/// Static busybox of the host.
const BUSYBOX: &str = "/bin/busybox";

/// What a launch must leave as it was.
pub fn host_state() -> (String, Vec<String>, usize) {
    let links = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut links: Vec<String> = links.filter(|name| name.starts_with("lt")).collect();
    links.sort();
    let fds = fs::read_dir("/proc/self/fd").unwrap().count();
    (mounts_of_ours(), links, fds)
}

/// Others mount things at the same time.
fn mounts_of_ours() -> String {
    let ours = format!("longshore-launch-{}-", std::process::id());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(&ours)).collect()
}

pub fn unchanged(before: &(String, Vec<String>, usize)) -> bool {
    let mut after = host_state();
    // A network namespace dies some milliseconds after its last process.
    for _ in 0..100 {
        if after == *before {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        after = host_state();
    }
    eprintln!("left behind: {before:?} became {after:?}");
    false
}

/// The directory above all containers of this run.
pub fn remove_parent_cgroups() {
    longshore_launcher::cgroup::Cgroup::open(&format!("longshore-test-{}", std::process::id()))
        .remove()
        .unwrap();
}

/// A directory of layers, removed on drop together with what the plan's container may have left in cgroups.
pub struct Sandbox {
    pub directory: PathBuf,
    pub plan: LaunchPlan,
}

/// What a process left.
#[derive(Debug)]
pub struct Outcome {
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl Sandbox {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!(
            "{:064x}",
            u64::from(std::process::id()) << 16 | u64::from(number)
        );
        let directory =
            std::env::temp_dir().join(format!("longshore-launch-{}-{number}", std::process::id()));
        let lower = directory.join("lower");
        make_image(&lower);
        for name in ["upper", "work"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        let plan = plan(&id, &directory);
        Self { directory, plan }
    }

    pub fn lower(&self) -> PathBuf {
        self.directory.join("lower")
    }

    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    pub fn command(mut self, args: &[&str]) -> Self {
        self.plan.process.args = args.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// `sh -c SCRIPT`.
    pub fn script(self, script: &str) -> Self {
        self.command(&["sh", "-c", script])
    }

    /// Launches, lets it run, and takes all of it away.
    pub fn run(&self) -> Outcome {
        let (stdio, out, err) = pipes();
        let launched = launch(&self.plan, stdio).unwrap();
        self.finish(launched, out, err)
    }

    pub fn start(&self) -> Launched {
        launch(&self.plan, StdioFds::default()).unwrap()
    }

    pub fn failure(&self) -> LaunchFailure {
        let failure = launch(&self.plan, StdioFds::default()).unwrap_err();
        self.assert_no_cgroups();
        failure
    }

    pub fn finish(&self, launched: Launched, out: OwnedFd, err: OwnedFd) -> Outcome {
        let (out, err) = (read_all(out), read_all(err));
        let code = wait(&launched.process);
        self.clean(launched);
        Outcome { out, err, code }
    }

    pub fn kill(&self, launched: Launched) {
        let _ = longshore_sys::process::send_signal(launched.process.pidfd.as_fd(), libc::SIGKILL);
        wait(&launched.process);
        self.clean(launched);
    }

    fn clean(&self, launched: Launched) {
        launched.cgroup.remove().unwrap();
        self.assert_no_cgroups();
    }

    pub fn assert_no_cgroups(&self) {
        let layout = longshore_launcher::cgroup::Layout::host();
        for mount in layout.v1.iter().map(|h| &h.mount).chain(&layout.unified) {
            let group = mount.join(&self.plan.cgroup.path);
            assert!(!group.exists(), "{} is left", group.display());
        }
    }

    /// Runs one more process in the container.
    pub fn exec(
        &self,
        launched: &Launched,
        process: &ProcessPlan,
    ) -> Result<Outcome, LaunchFailure> {
        let (stdio, out, err) = pipes();
        let target = ExecTarget {
            pid: launched.process.pid,
            pidfd: launched.process.pidfd.as_fd(),
            cgroup_path: &self.plan.cgroup.path,
        };
        let process = exec_in(&target, process, stdio)?;
        let (out, err) = (read_all(out), read_all(err));
        Ok(Outcome {
            out,
            err,
            code: wait(&process),
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        if std::thread::panicking() {
            let cgroup = longshore_launcher::cgroup::Cgroup::open(&self.plan.cgroup.path);
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
    }
}

/// Streams for a process (stdin is /dev/null) and our ends of stdout and stderr.
pub fn pipes() -> (StdioFds, OwnedFd, OwnedFd) {
    let (out, out_child) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (err, err_child) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stdio = StdioFds {
        stdin: None,
        stdout: Some(out_child),
        stderr: Some(err_child),
    };
    (stdio, out, err)
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    // A terminal's master ends with EIO.
    let _ = fs::File::from(fd).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn write_all(fd: &OwnedFd, bytes: &[u8]) {
    fs::File::from(fd.try_clone().unwrap())
        .write_all(bytes)
        .unwrap();
}

/// Exit code, 128 + n for signal n.
pub fn wait(process: &LaunchedProcess) -> i32 {
    let status = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

fn make_image(lower: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "dev", "sys", "root", "home"] {
        fs::create_dir_all(lower.join(name)).unwrap();
    }
    fs::copy(BUSYBOX, lower.join("bin/busybox")).expect("busybox-static must be installed");
    let applets = [
        "sh", "cat", "echo", "ls", "mount", "umount", "id", "env", "grep", "sleep", "true",
        "touch", "stty", "tty", "ps", "hostname", "mknod", "mkdir", "dd", "unshare", "chroot",
        "kill", "wc", "head", "pwd", "stat", "ip", "readlink", "ping", "cut", "printf", "sort",
        "tr", "date", "ln", "rm", "cp", "chmod", "test", "du",
    ];
    for applet in applets {
        symlink("busybox", lower.join("bin").join(applet)).unwrap();
    }
    fs::write(
        lower.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    )
    .unwrap();
    fs::write(
        lower.join("etc/group"),
        "root:x:0:\nnobody:x:65534:\naudio:x:29:nobody\n",
    )
    .unwrap();
}

pub fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        cwd: "/".to_owned(),
        user: String::new(),
        additional_groups: Vec::new(),
        capabilities: caps::DEFAULT,
        no_new_privileges: false,
        seccomp: Some(longshore_launcher::seccomp::default_filter(caps::DEFAULT)),
        rlimits: Vec::new(),
        oom_score_adj: Some(0),
        terminal: false,
        console_size: None,
        stdin: false,
    }
}

fn plan(id: &str, directory: &Path) -> LaunchPlan {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
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
        masked_paths: strings(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ]),
        readonly_paths: strings(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]),
        devices: DevicePlan::default(),
        shm_size: 64 << 20,
        no_shm: false,
        writable_cgroups: false,
        cgroup: CgroupPlan {
            path: format!("longshore-test-{}/{id}", std::process::id()),
            resources: Resources::default(),
            device_rules: strings(&[
                "c *:* m",
                "b *:* m",
                "c 1:3 rwm",
                "c 1:5 rwm",
                "c 1:7 rwm",
                "c 1:8 rwm",
                "c 1:9 rwm",
                "c 5:0 rwm",
                "c 5:1 rwm",
                "c 5:2 rwm",
                "c 136:* rwm",
            ]),
            allow_all_devices: false,
        },
        process: process(&["true"]),
        init: false,
        privileged: false,
    }
}
