//! What a container sees and how it ends.

use std::os::fd::AsFd;

use longshore_launcher::{caps, plan::*};

use super::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    ("exit_code_and_output", exit_code_and_output),
    ("mount_table", mount_table),
    ("device_directory", device_directory),
    ("identity_and_environment", identity_and_environment),
    ("capabilities_and_filter", capabilities_and_filter),
    ("failure_texts", failure_texts),
    ("terminal", terminal),
    ("init", init),
    ("init_failure_and_signals", init_failure_and_signals),
    ("exec", exec),
    ("exec_failures", exec_failures),
    ("exec_with_terminal", exec_with_terminal),
    ("privileged", privileged),
    ("network", network),
    ("host_namespaces", host_namespaces),
    ("namespaces_of_another", namespaces_of_another),
    ("limits_and_score", limits_and_score),
];

const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";
const NO_CAPABILITIES: &str = "0000000000000000";

fn exit_code_and_output() {
    let sandbox = Sandbox::new().script("echo out; echo err >&2; exit 7");
    let outcome = sandbox.run();
    assert_eq!(
        (outcome.out.as_str(), outcome.err.as_str(), outcome.code),
        ("out\n", "err\n", 7)
    );
    // The first process of a pid namespace is spared its own signals.
    assert_eq!(Sandbox::new().script("kill -9 $$").run().code, 0);
}

/// As dockerd 29 shows it, but for the root's own line.
fn mount_table() {
    let sandbox = Sandbox::new().script(
        "mount; ls /proc/acpi /sys/firmware; cat /proc/keys; echo x > /proc/sys/kernel/hostname",
    );
    let outcome = sandbox.run();
    let mut expected = vec![
        "proc on /proc type proc (rw,nosuid,nodev,noexec,relatime)".to_owned(),
        "tmpfs on /dev type tmpfs (rw,nosuid,size=65536k,mode=755)".to_owned(),
        "devpts on /dev/pts type devpts (rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666)"
            .to_owned(),
        "sysfs on /sys type sysfs (ro,nosuid,nodev,noexec,relatime)".to_owned(),
    ];
    let layout = longshore_launcher::cgroup::Layout::host();
    if layout.v1.is_empty() {
        expected.push(
            "cgroup on /sys/fs/cgroup type cgroup2 (ro,nosuid,nodev,noexec,relatime".to_owned(),
        );
    } else {
        expected.push(
            "tmpfs on /sys/fs/cgroup type tmpfs (rw,nosuid,nodev,noexec,relatime,mode=755)"
                .to_owned(),
        );
        for hierarchy in &layout.v1 {
            expected.push(format!(
                "cgroup on /sys/fs/cgroup/{} type cgroup (ro,nosuid,nodev,noexec,relatime,{}",
                hierarchy.name,
                hierarchy.controllers.join(",")
            ));
        }
    }
    expected.push("mqueue on /dev/mqueue type mqueue (rw,nosuid,nodev,noexec,relatime)".to_owned());
    expected.push(
        "shm on /dev/shm type tmpfs (rw,nosuid,nodev,noexec,relatime,size=65536k)".to_owned(),
    );
    for name in ["bus", "fs", "irq", "sys", "sysrq-trigger"] {
        if exists(&format!("/proc/{name}")) {
            expected.push(format!(
                "proc on /proc/{name} type proc (ro,nosuid,nodev,noexec,relatime)"
            ));
        }
    }
    for path in &sandbox.plan.masked_paths {
        let line = if std::path::Path::new(path).is_dir() {
            "(ro,relatime,size=4k,nr_inodes=1)"
        } else {
            "(rw,nosuid,size=65536k,mode=755)"
        };
        if exists(path) {
            expected.push(format!("tmpfs on {path} type tmpfs {line}"));
        }
    }
    let mounts: Vec<&str> = outcome
        .out
        .lines()
        .filter(|line| line.contains(" type "))
        .collect();
    assert!(
        mounts[0].starts_with("overlay on / type overlay (rw,relatime,lowerdir=/"),
        "{}",
        mounts[0]
    );
    assert_eq!(mounts.len(), expected.len() + 1, "{}", outcome.out);
    for (seen, expected) in mounts[1..].iter().zip(&expected) {
        assert!(seen.starts_with(expected.as_str()), "{seen}\n{expected}");
    }
    assert!(
        outcome
            .err
            .contains("/proc/sys/kernel/hostname: Read-only file system"),
        "{}",
        outcome.err
    );
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).symlink_metadata().is_ok()
}

fn device_directory() {
    let outcome = Sandbox::new()
        .script("ls -l /dev | cut -c1-10,57-; echo x > /dev/null; head -c 3 /dev/zero | wc -c; echo x > /dev/full")
        .run();
    let mut expected = "total 0
lrwxrwxrwx fd -> /proc/self/fd
crw-rw-rw- full
drwxrwxrwt mqueue
crw-rw-rw- null
lrwxrwxrwx ptmx -> pts/ptmx
drwxr-xr-x pts
crw-rw-rw- random
drwxrwxrwt shm
lrwxrwxrwx stderr -> /proc/self/fd/2
lrwxrwxrwx stdin -> /proc/self/fd/0
lrwxrwxrwx stdout -> /proc/self/fd/1
crw-rw-rw- tty
crw-rw-rw- urandom
crw-rw-rw- zero
3
"
    .to_owned();
    if exists("/proc/kcore") {
        expected.insert_str("total 0\n".len(), "lrwxrwxrwx core -> /proc/kcore\n");
    }
    let shown: String = outcome
        .out
        .lines()
        .map(|line| format!("{}\n", line.replace("  ", " ")))
        .collect();
    assert_eq!(shown, expected);
    assert!(
        outcome.err.contains("No space left on device"),
        "{}",
        outcome.err
    );
}

fn identity_and_environment() {
    let mut sandbox = Sandbox::new()
        .script("id; pwd; env | sort; hostname; echo again > /dev/stdout; cat /proc/sys/net/ipv4/ip_forward");
    sandbox.plan.process.user = "nobody".to_owned();
    sandbox.plan.process.additional_groups = vec!["7".to_owned()];
    sandbox.plan.process.cwd = "/made/for/me".to_owned();
    sandbox.plan.process.env.push("A=1".to_owned());
    sandbox.plan.sysctls = vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())];
    let outcome = sandbox.run();
    let expected = "uid=65534(nobody) gid=65534(nobody) groups=7,29(audio),65534(nobody)
/made/for/me
A=1
HOME=/home
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PWD=/made/for/me
SHLVL=1
h1
again
1
";
    assert_eq!(outcome.out, expected, "{}", outcome.err);
}

/// (Inh, Prm, Eff, Bnd, Amb), NoNewPrivs, Seccomp of /proc/self/status.
fn security_of(text: &str) -> (Vec<&str>, &str, &str) {
    let value = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or("")
            .trim()
    };
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
        .map(value)
        .to_vec();
    (sets, value("NoNewPrivs:"), value("Seccomp:"))
}

fn capabilities_and_filter() {
    let outcome = Sandbox::new()
        .script("cat /proc/self/status; mount -t tmpfs x /tmp; unshare -m true; mknod /tmp/x b 8 0 && cat /tmp/x")
        .run();
    let (none, some) = (NO_CAPABILITIES, DEFAULT_CAPABILITIES);
    assert_eq!(
        security_of(&outcome.out),
        (vec![none, some, some, some, none], "0", "2")
    );
    for text in [
        "mount: permission denied",
        "unshare(0x20000): Operation not permitted",
        "'/tmp/x': Operation not permitted",
    ] {
        assert!(outcome.err.contains(text), "{}", outcome.err);
    }
    let mut sandbox = Sandbox::new().script("cat /proc/self/status");
    sandbox.plan.process.no_new_privileges = true;
    sandbox.plan.process.user = "1000".to_owned();
    let outcome = sandbox.run();
    assert_eq!(
        security_of(&outcome.out),
        (vec![none, none, none, some, none], "1", "2")
    );
}

fn failure_texts() {
    let failure = |args: &[&str], change: fn(&mut LaunchPlan)| {
        let mut sandbox = Sandbox::new().command(args);
        change(&mut sandbox.plan);
        let failure = sandbox.failure();
        (failure.kind, failure.message)
    };
    let same = |_: &mut LaunchPlan| {};
    let init = "error during container init: ";
    use LaunchFailureKind::*;
    assert_eq!(
        failure(&["nosuchcmd"], same),
        (
            NotFound,
            format!("{init}exec: \"nosuchcmd\": executable file not found in $PATH")
        )
    );
    assert_eq!(
        failure(&["/etc/passwd"], same),
        (
            NotExecutable,
            format!("{init}exec: \"/etc/passwd\": permission denied")
        )
    );
    assert_eq!(
        failure(&["/tmp"], same),
        (
            NotExecutable,
            format!("{init}exec: \"/tmp\": is a directory")
        )
    );
    assert_eq!(
        failure(&["/nosuch"], same),
        (
            NotFound,
            format!("{init}exec: \"/nosuch\": stat /nosuch: no such file or directory")
        )
    );
    assert_eq!(
        failure(&["true"], |plan| plan.process.user =
            "nosuchuser".to_owned()),
        (
            Invalid,
            "unable to find user nosuchuser: no matching entries in passwd file".to_owned()
        )
    );
    assert_eq!(
        failure(&["true"], |plan| plan.process.cwd =
            "/etc/passwd".to_owned())
        .1,
        format!("{init}chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory")
    );
    let sandbox = Sandbox::new().command(&["/bin/garbage"]);
    std::fs::write(sandbox.lower().join("bin/garbage"), "\x01\x02").unwrap();
    rustix::fs::chmod(
        sandbox.lower().join("bin/garbage"),
        rustix::fs::Mode::from_raw_mode(0o755),
    )
    .unwrap();
    let failure = sandbox.failure();
    assert_eq!(failure.kind, NotExecutable);
    assert_eq!(
        failure.message,
        format!("{init}exec /bin/garbage: exec format error")
    );
}

fn terminal() {
    let mut sandbox = Sandbox::new().script(
        "tty; stty size; mount | grep console; read line; echo got $line; echo x > /dev/console",
    );
    sandbox.plan.process.terminal = true;
    sandbox.plan.process.console_size = Some((30, 100));
    let mut launched = sandbox.start();
    let master = launched.process.terminal.take().unwrap();
    write_all(&master, b"hello\n");
    let (_, _, err) = pipes();
    let outcome = sandbox.finish(launched, master, err);
    // The terminal's echo comes before or after the program's first words.
    let expected = "/dev/pts/0\n30 100\ndevpts on /dev/console type devpts (rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666)\ngot hello\nx\n";
    let said = outcome.out.replace('\r', "");
    assert_eq!(said.replacen("hello\n", "", 1), expected);
}

fn init() {
    let mut sandbox = Sandbox::new()
        .script("ps; cat /proc/1/comm; (sleep 0.1 &) ; sleep 0.3; ps | wc -l; exit 9");
    sandbox.plan.init = true;
    sandbox.plan.process.user = "nobody".to_owned();
    let outcome = sandbox.run();
    let first = outcome.out.lines().nth(1).unwrap();
    assert!(
        first.contains("1 nobody   /sbin/docker-init -- sh -c ps; cat"),
        "{}",
        outcome.out
    );
    // After the orphan has gone: heading, init, sh, ps, wc.
    assert!(
        outcome.out.ends_with("\ndocker-init\n5\n"),
        "{}",
        outcome.out
    );
    assert_eq!(outcome.code, 9);
}

fn init_failure_and_signals() {
    let mut sandbox = Sandbox::new().command(&["nosuchcmd"]);
    sandbox.plan.init = true;
    assert_eq!(sandbox.failure().kind, LaunchFailureKind::NotFound);
    for signal in [libc::SIGTERM, libc::SIGUSR1, 34] {
        let mut sandbox = Sandbox::new().command(&["sleep", "100"]);
        sandbox.plan.init = true;
        let launched = sandbox.start();
        longshore_sys::process::send_signal(launched.process.pidfd.as_fd(), signal).unwrap();
        let (out, err) = (pipes().1, pipes().1);
        assert_eq!(sandbox.finish(launched, out, err).code, 128 + signal);
    }
}

fn exec() {
    let sandbox = Sandbox::new().command(&["sleep", "100"]);
    let launched = sandbox.start();
    let mut more = process(&[
        "sh",
        "-c",
        "id -u; hostname; readlink /proc/self/fd/0; cat /proc/self/cgroup; cat /proc/1/cgroup; cat /proc/self/status; exit 5",
    ]);
    more.user = "nobody".to_owned();
    let outcome = sandbox.exec(&launched, &more).unwrap();
    assert_eq!(outcome.code, 5);
    assert!(
        outcome.out.starts_with("65534\nh1\n/dev/null\n"),
        "{}",
        outcome.out
    );
    let groups: Vec<&str> = outcome
        .out
        .lines()
        .filter(|line| line.contains(&sandbox.plan.id))
        .collect();
    let (own, first) = groups.split_at(groups.len() / 2);
    assert!(!own.is_empty() && own == first, "{}", outcome.out);
    let (sets, _, seccomp) = security_of(&outcome.out);
    assert_eq!(
        (sets[2], sets[3], seccomp),
        (NO_CAPABILITIES, DEFAULT_CAPABILITIES, "2")
    );
    // The launching process forks into its own pid namespace again.
    let status = std::process::Command::new("readlink")
        .arg("/proc/self/ns/pid")
        .output()
        .unwrap();
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(
        String::from_utf8(status.stdout).unwrap().trim(),
        own.to_str().unwrap()
    );
    sandbox.kill(launched);
}

fn exec_failures() {
    let sandbox = Sandbox::new().command(&["sleep", "100"]);
    let launched = sandbox.start();
    let failure = |change: fn(&mut ProcessPlan)| {
        let mut process = process(&["true"]);
        change(&mut process);
        let failure = sandbox.exec(&launched, &process).unwrap_err();
        (failure.kind, failure.message)
    };
    use LaunchFailureKind::*;
    assert_eq!(
        failure(|p| p.args = vec!["nosuch".to_owned()]),
        (
            NotFound,
            "exec: \"nosuch\": executable file not found in $PATH".to_owned()
        )
    );
    assert_eq!(
        failure(|p| p.cwd = "/nosuch".to_owned()),
        (
            NotFound,
            "chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory"
                .to_owned()
        )
    );
    assert_eq!(
        failure(|p| p.user = "nosuchuser".to_owned()),
        (
            Invalid,
            "unable to find user nosuchuser: no matching entries in passwd file".to_owned()
        )
    );
    sandbox.kill(launched);
}

fn exec_with_terminal() {
    let sandbox = Sandbox::new().command(&["sleep", "100"]);
    let launched = sandbox.start();
    let mut more = process(&["sh", "-c", "tty; stty size"]);
    more.terminal = true;
    more.console_size = Some((11, 22));
    let target = longshore_launcher::exec::ExecTarget {
        pid: launched.process.pid,
        pidfd: launched.process.pidfd.as_fd(),
        cgroup_path: &sandbox.plan.cgroup.path,
    };
    let process = longshore_launcher::exec::exec_in(&target, &more, Default::default()).unwrap();
    let master = process.terminal.as_ref().unwrap().try_clone().unwrap();
    assert_eq!(read_all(master), "/dev/pts/0\r\n11 22\r\n");
    assert_eq!(wait(&process), 0);
    sandbox.kill(launched);
}

fn make_privileged(plan: &mut LaunchPlan) {
    plan.privileged = true;
    plan.masked_paths.clear();
    plan.readonly_paths.clear();
    plan.devices.all = true;
    plan.cgroup.allow_all_devices = true;
    plan.process.capabilities = caps::available();
    plan.process.seccomp = None;
}

fn privileged() {
    let mut sandbox = Sandbox::new().script(
        "cat /proc/self/status; mount; ls /dev | wc -l; mount -t tmpfs x /tmp && echo mounted",
    );
    make_privileged(&mut sandbox.plan);
    let outcome = sandbox.run();
    let (sets, _, seccomp) = security_of(&outcome.out);
    assert_eq!(
        (sets[2], seccomp),
        (format!("{:016x}", caps::available()).as_str(), "0")
    );
    let read_only = outcome
        .out
        .lines()
        .find(|line| line.contains(" type ") && line.contains("(ro"));
    assert_eq!(read_only, None);
    assert!(outcome.out.ends_with("mounted\n"), "{}", outcome.err);
    let devices: usize = outcome.out.lines().rev().nth(1).unwrap().parse().unwrap();
    assert!(devices > 20, "{devices}");
}

fn network() {
    let mut sandbox = Sandbox::new().script(
        "ip a show eth0; ip r; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip a show lo",
    );
    sandbox.plan.interfaces = vec![InterfacePlan {
        stacked: None,
        host_name: format!("lt{}", std::process::id()),
        bridge_index: 0,
        name: "eth0".to_owned(),
        mac: [2, 66, 10, 99, 0, 2],
        mtu: 1400,
        addresses: vec![("10.99.0.2".parse().unwrap(), 24)],
        gateways: vec!["10.99.0.1".parse().unwrap()],
        ipv6: false,
        isolated: false,
    }];
    let outcome = sandbox.run();
    for text in [
        "2: eth0@if",
        "<BROADCAST,MULTICAST,UP,LOWER_UP,M-DOWN> mtu 1400 qdisc noqueue \n",
        "link/ether 02:42:0a:63:00:02",
        "inet 10.99.0.2/24 brd 10.99.0.255 scope global eth0",
        "default via 10.99.0.1 dev eth0",
        "\n1\n1: lo: <LOOPBACK,UP,LOWER_UP>",
        "inet6 ::1/128",
    ] {
        assert!(outcome.out.contains(text), "{text}: {}", outcome.out);
    }
    assert!(!outcome.out.contains("fe80"), "{}", outcome.out);
}

fn host_namespaces() {
    let mut sandbox = Sandbox::new().script(
        "for n in pid net ipc uts cgroup; do ls -l /proc/self/ns/$n; done; mount | grep -c /proc",
    );
    let host = NamespaceMode::Host;
    sandbox.plan.namespaces = NamespacePlan {
        pid: host.clone(),
        net: host.clone(),
        ipc: host.clone(),
        uts: host.clone(),
        cgroup: host,
        shm_from: Some("/dev/shm".into()),
    };
    sandbox.plan.hostname = None;
    let outcome = sandbox.run();
    for name in ["pid", "net", "ipc", "uts", "cgroup"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(
            outcome.out.contains(own.to_str().unwrap()),
            "{name}: {}",
            outcome.out
        );
    }
    let mut sandbox = Sandbox::new().script("cat /proc/self/cgroup");
    sandbox.plan.namespaces.cgroup = NamespaceMode::New;
    let outcome = sandbox.run();
    assert!(
        outcome.out.lines().all(|line| line.ends_with(":/")),
        "{}",
        outcome.out
    );
}

fn namespaces_of_another() {
    let one = Sandbox::new().command(&["sleep", "100"]);
    let first = one.start();
    let join = NamespaceMode::JoinPid {
        pid: first.process.pid,
        start_time: first.process.start_time,
    };
    let mut two = Sandbox::new()
        .script("ps; hostname; ls -l /proc/1/ns/net /proc/self/ns/net | cut -d'>' -f2");
    two.plan.process.capabilities |= 1 << 19;
    two.plan.namespaces.net = join.clone();
    two.plan.namespaces.pid = join.clone();
    two.plan.namespaces.uts = join.clone();
    two.plan.hostname = None;
    let outcome = two.run();
    assert!(
        outcome.out.contains("1 root     sleep 100\n"),
        "{}",
        outcome.out
    );
    let mut ends = outcome.out.lines().rev();
    assert_eq!(ends.next(), ends.next(), "{}", outcome.out);
    two.plan.namespaces.net = NamespaceMode::JoinPid {
        pid: first.process.pid,
        start_time: 1,
    };
    assert_eq!(two.failure().kind, LaunchFailureKind::Invalid);
    one.kill(first);
}

fn limits_and_score() {
    let mut sandbox = Sandbox::new().script("ulimit -n; cat /proc/self/oom_score_adj");
    sandbox.plan.process.rlimits = vec![(libc::RLIMIT_NOFILE, 100, u64::MAX)];
    sandbox.plan.process.oom_score_adj = Some(500);
    let outcome = sandbox.run();
    assert_eq!(outcome.out, "100\n500\n");
}
