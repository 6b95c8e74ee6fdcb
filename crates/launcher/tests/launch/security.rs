//! Ways out of a container that others had to close, tried on ours.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use longshore_launcher::plan::*;

use super::{Case, mounts::bind, sandbox::*};

pub const CASES: &[Case] = &[
    (
        "cve_2019_5736_our_binary_cannot_be_reached",
        our_binary_cannot_be_reached,
    ),
    ("cve_2024_21626_no_descriptor_leaks", no_descriptor_leaks),
    (
        "cve_2024_21626_working_directory",
        working_directory_outside,
    ),
    ("cve_2025_31133_masks_and_links", masks_and_links),
    ("cve_2025_52565_console_link", console_link),
    ("cve_2025_52881_proc_links", proc_links),
    ("mount_targets_behind_links", mount_targets_behind_links),
    ("volume_with_hostile_links", volume_with_hostile_links),
    ("passwd_is_a_device_or_link", passwd_is_a_device_or_link),
    ("exec_into_hostile_dev", exec_into_hostile_dev),
    ("devices_are_denied", devices_are_denied),
];

/// A file of the host that no container may see or change.
fn secret(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.directory.join("secret");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("file"), "host secret\n").unwrap();
    path
}

fn assert_secret_untouched(path: &Path) {
    let names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"], "something was made on the host");
    assert_eq!(
        fs::read_to_string(path.join("file")).unwrap(),
        "host secret\n"
    );
}

/// `/proc/self/exe` as program: it must be the image's own shell, never the launcher.
fn our_binary_cannot_be_reached() {
    let sandbox = Sandbox::new().command(&["/proc/self/exe", "--help"]);
    let own = fs::read("/proc/self/exe").unwrap();
    let (stdio, out, err) = pipes();
    // While it is executed by name the link still is our binary. It would run with the container's privileges only, and cannot be opened for
    // writing as long as it runs, here and there.
    match longshore_launcher::parent::launch(&sandbox.plan, stdio) {
        Ok(launched) => drop(sandbox.finish(launched, out, err)),
        Err(_) => sandbox.assert_no_cgroups(),
    }
    assert_eq!(own, fs::read("/proc/self/exe").unwrap());
    // From inside, neither init nor an exec's first moments can be looked into.
    let mut sandbox = Sandbox::new().script("sleep 0.05; ls -l /proc/1/ 2>&1 | grep exe; cat /proc/1/exe | wc -c; ls /proc/1/fd; cat /proc/1/mem; echo x > /proc/1/exe; echo x > /proc/1/mem");
    sandbox.plan.init = true;
    sandbox.plan.process.user = "nobody".to_owned();
    let outcome = sandbox.run();
    assert!(
        outcome.out.contains("\n0\n") || outcome.out.starts_with("0\n"),
        "{outcome:?}"
    );
    for file in ["/proc/1/fd", "/proc/1/mem", "/proc/1/exe"] {
        assert!(
            outcome.err.contains(&format!("{file}: Permission denied"))
                || outcome
                    .err
                    .contains(&format!("'{file}': Permission denied")),
            "{file}: {outcome:?}"
        );
    }
    assert_eq!(own, fs::read("/proc/self/exe").unwrap());
}

/// Whatever the launching process has open, the program has three descriptors (and the one that ls itself opens).
fn no_descriptor_leaks() {
    let leaked = fs::File::open("/sys/fs/cgroup").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    for init in [false, true] {
        let mut sandbox = Sandbox::new().command(&["ls", "/proc/self/fd"]);
        sandbox.plan.init = init;
        let (stdio, out, err) = pipes();
        rustix::io::fcntl_setfd(stdio.stdout.as_ref().unwrap(), rustix::io::FdFlags::empty())
            .unwrap();
        let launched = longshore_launcher::parent::launch(&sandbox.plan, stdio).unwrap();
        assert_eq!(sandbox.finish(launched, out, err).out, "0\n1\n2\n3\n");
    }
    let sandbox = Sandbox::new().command(&["sleep", "100"]);
    let launched = sandbox.start();
    let outcome = sandbox
        .exec(&launched, &process(&["ls", "/proc/self/fd"]))
        .unwrap();
    assert_eq!(outcome.out, "0\n1\n2\n3\n");
    sandbox.kill(launched);
}

fn working_directory_outside() {
    let _leaked = fs::File::open("/").unwrap();
    for fd in 3..40 {
        let mut sandbox = Sandbox::new().script("ls; cat ../../../etc/hostname");
        sandbox.plan.process.cwd = format!("/proc/self/fd/{fd}");
        match longshore_launcher::parent::launch(&sandbox.plan, Default::default()) {
            Err(_) => sandbox.assert_no_cgroups(),
            Ok(launched) => {
                // A descriptor of the container's own root is harmless; the host's is not.
                let root = format!("/proc/{}/root", launched.process.pid);
                let cwd = fs::read_link(format!("/proc/{}/cwd", launched.process.pid));
                assert!(cwd.is_err() || fs::metadata(root).is_ok());
                sandbox.kill(launched);
            }
        }
    }
}

/// The mask's source is /dev/null of our own making, whatever the image holds at /dev.
fn masks_and_links() {
    let sandbox = Sandbox::new()
        .script("cat /proc/keys /proc/timer_list | wc -c; ls -l /dev/null | cut -c1-10");
    let secret = secret(&sandbox);
    fs::remove_dir(sandbox.lower().join("dev")).unwrap();
    fs::create_dir(sandbox.lower().join("dev")).unwrap();
    symlink(secret.join("file"), sandbox.lower().join("dev/null")).unwrap();
    assert_eq!(sandbox.run().out, "0\ncrw-rw-rw-\n");
    assert_secret_untouched(&secret);

    // A masked or read-only path that the image makes a link stays inside the root.
    let mut sandbox =
        Sandbox::new().script("cat /proc/sys/kernel/core_pattern > /dev/null && echo fine");
    symlink("/../../../../..", sandbox.lower().join("way")).unwrap();
    sandbox
        .plan
        .masked_paths
        .push(format!("/way{}", secret.display()));
    sandbox
        .plan
        .readonly_paths
        .push(format!("/way{}", secret.display()));
    assert_eq!(sandbox.run().out, "fine\n");
    assert_secret_untouched(&secret);

    // /dev itself as a link is refused.
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.lower().join("dev")).unwrap();
    symlink(&secret, sandbox.lower().join("dev")).unwrap();
    assert!(
        sandbox
            .failure()
            .message
            .contains("must be a plain directory")
    );
    assert_secret_untouched(&secret);
}

fn console_link() {
    let mut sandbox =
        Sandbox::new().script("ls -l /dev/console | cut -c1-10; cat /proc/sys/kernel/ostype");
    let secret = secret(&sandbox);
    symlink(secret.join("file"), sandbox.lower().join("dev/console")).unwrap();
    fs::create_dir(sandbox.lower().join("dev/pts")).unwrap();
    symlink(secret.join("file"), sandbox.lower().join("dev/pts/0")).unwrap();
    symlink("/proc/sysrq-trigger", sandbox.lower().join("dev/ptmx")).unwrap();
    sandbox.plan.process.terminal = true;
    let mut launched = sandbox.start();
    let master = launched.process.terminal.take().unwrap();
    let (_, _, err) = pipes();
    let outcome = sandbox.finish(launched, master, err);
    assert_eq!(outcome.out, "crw--w----\r\nLinux\r\n");
    assert_secret_untouched(&secret);
}

/// Writes of sysctls and the like go to a procfs that we mounted ourselves.
fn proc_links() {
    let sandbox = Sandbox::new();
    let secret = secret(&sandbox);
    fs::remove_dir(sandbox.lower().join("proc")).unwrap();
    symlink(&secret, sandbox.lower().join("proc")).unwrap();
    assert!(
        sandbox
            .failure()
            .message
            .contains("must be a plain directory")
    );
    assert_secret_untouched(&secret);
    // Files of the image below /proc are covered; a volume cannot be put there either.
    let mut sandbox = Sandbox::new().script("cat /proc/sys/net/ipv4/ip_forward");
    fs::create_dir_all(sandbox.lower().join("proc/sys/net/ipv4")).unwrap();
    symlink(
        secret.join("file"),
        sandbox.lower().join("proc/sys/net/ipv4/ip_forward"),
    )
    .unwrap();
    sandbox.plan.sysctls = vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())];
    assert_eq!(sandbox.run().out, "1\n");
    symlink("/proc", sandbox.lower().join("alias")).unwrap();
    for target in ["/proc", "/proc/self/attr", "/alias/sys", "/../proc/sys"] {
        sandbox.plan.mounts = vec![bind(secret.clone(), target)];
        assert!(
            sandbox.failure().message.contains("inside /proc"),
            "{target}"
        );
    }
    for name in ["../../tmp/x", "net/../../1/oom_score_adj", "/etc/x"] {
        sandbox.plan.mounts.clear();
        sandbox.plan.sysctls = vec![(name.to_owned(), "1".to_owned())];
        sandbox.failure();
    }
    assert_secret_untouched(&secret);
}

fn mount_targets_behind_links() {
    let mut sandbox = Sandbox::new().script("cat /inside/dir/x; ls /jail");
    let secret = secret(&sandbox);
    let host = sandbox.directory.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("x"), "bound\n").unwrap();
    fs::create_dir_all(sandbox.lower().join("inside/dir")).unwrap();
    symlink("/inside/dir", sandbox.lower().join("link")).unwrap();
    symlink("../../../../../../..", sandbox.lower().join("up")).unwrap();
    fs::create_dir(sandbox.lower().join("jail")).unwrap();
    sandbox.plan.mounts = vec![
        bind(host.clone(), "/link"),
        // Both lead to places inside the container that are made there.
        bind(host.clone(), &format!("/up{}/new", secret.display())),
        bind(host.join("x"), &format!("/up{}/newfile", secret.display())),
    ];
    let outcome = sandbox.run();
    assert_eq!(outcome.out, "bound\n", "{}", outcome.err);
    assert_secret_untouched(&secret);
    // An absolute link to the host's directory names nothing inside.
    symlink(&secret, sandbox.lower().join("abs")).unwrap();
    sandbox.plan.mounts = vec![bind(host, "/abs")];
    let _ = longshore_launcher::parent::launch(&sandbox.plan, Default::default())
        .map(|l| sandbox.kill(l));
    assert_secret_untouched(&secret);
    sandbox.plan.mounts.clear();
    sandbox.plan.process.cwd = "/abs/cwd".to_owned();
    sandbox.run();
    assert_secret_untouched(&secret);
    let working = format!("/up{}/cwd", secret.display());
    sandbox.plan.process.cwd = working;
    sandbox.run();
    assert_secret_untouched(&secret);
}

fn volume_with_hostile_links() {
    let mut sandbox = Sandbox::new().script("cat /v/leak; ls -ld /v/dir | cut -c1-1");
    let secret = secret(&sandbox);
    let image = sandbox.lower().join("v");
    fs::create_dir(&image).unwrap();
    symlink(secret.join("file"), image.join("leak")).unwrap();
    symlink(&secret, image.join("dir")).unwrap();
    let volume = sandbox.directory.join("volume");
    fs::create_dir(&volume).unwrap();
    let mut mount = bind(volume.clone(), "/v");
    if let MountKind::Bind { copy_up, .. } = &mut mount.kind {
        *copy_up = true;
    }
    sandbox.plan.mounts = vec![mount];
    assert_eq!(sandbox.run().out, "l\n");
    assert!(volume.join("leak").is_symlink());
    assert_secret_untouched(&secret);
}

fn passwd_is_a_device_or_link() {
    let mut sandbox = Sandbox::new().script("id -u");
    fs::remove_file(sandbox.lower().join("etc/passwd")).unwrap();
    symlink(
        "/etc/../../../../../etc/passwd",
        sandbox.lower().join("etc/passwd"),
    )
    .unwrap();
    sandbox.plan.process.user = "daemon".to_owned();
    assert_eq!(sandbox.failure().kind, LaunchFailureKind::Invalid);
    // A pipe would block for ever.
    fs::remove_file(sandbox.lower().join("etc/passwd")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        sandbox.lower().join("etc/passwd"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    assert_eq!(sandbox.failure().kind, LaunchFailureKind::Invalid);
    sandbox.plan.process.user = "5".to_owned();
    // A program that looks nobody up.
    sandbox.plan.process.args = vec!["printf".to_owned(), "runs".to_owned()];
    assert_eq!(sandbox.run().out, "runs");
}

/// A container may put what it likes at /dev/null and /dev/pts before somebody executes something in it.
fn exec_into_hostile_dev() {
    let mut sandbox = Sandbox::new().script("rm /dev/null; echo evil > /dev/null; umount /dev/pts; ln -s /etc /tmp/x; echo ready > /ready; sleep 100");
    sandbox.plan.process.capabilities |= 1 << 21;
    sandbox.plan.process.seccomp = None;
    let launched = sandbox.start();
    while !sandbox.upper().join("ready").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let outcome = sandbox
        .exec(&launched, &process(&["sh", "-c", "cat; echo done"]))
        .unwrap();
    assert_eq!(outcome.out, "done\n");
    let mut terminal = process(&["true"]);
    terminal.terminal = true;
    assert_eq!(
        sandbox.exec(&launched, &terminal).unwrap_err().kind,
        LaunchFailureKind::System
    );
    sandbox.kill(launched);
}

fn devices_are_denied() {
    let mut sandbox = Sandbox::new().script("mknod /tmp/mem c 1 1; head -c 1 /tmp/mem; head -c 1 /dev/mine | wc -c; ls -l /dev/mine | cut -c1-10");
    sandbox.plan.devices.nodes = vec![DeviceNode {
        path: "/dev/mine".to_owned(),
        block: false,
        major: 1,
        minor: 9,
        mode: 0o640,
        uid: 0,
        gid: 0,
    }];
    let outcome = sandbox.run();
    assert_eq!(outcome.out, "1\ncrw-r-----\n", "{}", outcome.err);
    assert!(
        outcome.err.contains("/tmp/mem: Operation not permitted"),
        "{}",
        outcome.err
    );
}
