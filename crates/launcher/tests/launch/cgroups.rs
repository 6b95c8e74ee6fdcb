//! Limits, counters and life of cgroups.

use longshore_launcher::{cgroup::Layout, plan::*};

use super::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    ("membership_and_limits", membership_and_limits),
    ("out_of_memory", out_of_memory),
    ("pids_and_freeze", pids_and_freeze),
    ("update_of_limits", update_of_limits),
    ("bad_limit", bad_limit),
];

fn knob(sandbox: &Sandbox, v1: (&str, &str), v2: &str) -> String {
    let layout = Layout::host();
    let root = match layout
        .v1
        .iter()
        .find(|h| h.controllers.iter().any(|c| c == v1.0))
    {
        Some(hierarchy) => hierarchy.mount.clone(),
        None => layout.unified.clone().unwrap(),
    };
    let name = if layout.v1.is_empty() { v2 } else { v1.1 };
    let path = root.join(&sandbox.plan.cgroup.path).join(name);
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn on_v2() -> bool {
    Layout::host().v1.is_empty()
}

fn membership_and_limits() {
    let mut sandbox = Sandbox::new()
        .script("cat /proc/self/cgroup; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/cpu/x; sleep 100");
    sandbox.plan.cgroup.resources = Resources {
        memory: 64 << 20,
        memory_swap: 128 << 20,
        memory_reservation: 32 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        pids_limit: 50,
        cpuset_cpus: "0".to_owned(),
        ..Resources::default()
    };
    let launched = sandbox.start();
    let pid = launched.process.pid;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in groups.lines() {
        assert!(
            line.ends_with(&format!(":/{}", sandbox.plan.cgroup.path)),
            "{groups}"
        );
    }
    assert_eq!(
        knob(&sandbox, ("memory", "memory.limit_in_bytes"), "memory.max"),
        "67108864"
    );
    assert_eq!(knob(&sandbox, ("pids", "pids.max"), "pids.max"), "50");
    assert_eq!(
        knob(&sandbox, ("cpuset", "cpuset.cpus"), "cpuset.cpus"),
        "0"
    );
    let quota = knob(&sandbox, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota, if on_v2() { "50000 100000" } else { "50000" });
    let shares = knob(&sandbox, ("cpu", "cpu.shares"), "cpu.weight");
    assert_eq!(shares, if on_v2() { "59" } else { "512" });
    sandbox.kill(launched);
}

fn out_of_memory() {
    let mut sandbox = Sandbox::new().script("dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?; head -c 200000000 /dev/zero | tr '\\0' x | sort > /dev/null");
    sandbox.plan.cgroup.resources.memory = 16 << 20;
    sandbox.plan.cgroup.resources.memory_swap = 16 << 20;
    let (stdio, out, err) = pipes();
    let launched = longshore_launcher::parent::launch(&sandbox.plan, stdio).unwrap();
    let _ = (read_all(out), read_all(err));
    wait(&launched.process);
    assert!(launched.cgroup.oom_kills().unwrap() > 0);
    launched.cgroup.remove().unwrap();
    sandbox.assert_no_cgroups();
}

fn pids_and_freeze() {
    let sandbox = Sandbox::new().script("sleep 100 & sleep 100");
    let launched = sandbox.start();
    while launched.cgroup.pids().unwrap().len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(
        launched
            .cgroup
            .pids()
            .unwrap()
            .contains(&launched.process.pid)
    );
    launched.cgroup.freeze(true).unwrap();
    launched.cgroup.freeze(false).unwrap();
    launched.cgroup.kill().unwrap();
    assert_eq!(wait(&launched.process), 128 + libc::SIGKILL);
    launched.cgroup.remove().unwrap();
    // What is gone already is no error.
    launched.cgroup.remove().unwrap();
    sandbox.assert_no_cgroups();
}

fn update_of_limits() {
    let mut sandbox = Sandbox::new().command(&["sleep", "100"]);
    sandbox.plan.cgroup.resources.memory = 32 << 20;
    sandbox.plan.cgroup.resources.memory_swap = 64 << 20;
    let launched = sandbox.start();
    let more = Resources {
        memory: 128 << 20,
        memory_swap: 256 << 20,
        pids_limit: -1,
        ..Resources::default()
    };
    launched.cgroup.update(&more).unwrap();
    assert_eq!(
        knob(&sandbox, ("memory", "memory.limit_in_bytes"), "memory.max"),
        "134217728"
    );
    assert_eq!(knob(&sandbox, ("pids", "pids.max"), "pids.max"), "max");
    sandbox.kill(launched);
}

fn bad_limit() {
    let mut sandbox = Sandbox::new();
    sandbox.plan.cgroup.resources.cpuset_cpus = "99999".to_owned();
    let failure = sandbox.failure();
    assert_eq!(failure.kind, LaunchFailureKind::System);
    assert!(
        failure.message.contains("cpuset.cpus"),
        "{}",
        failure.message
    );
}
