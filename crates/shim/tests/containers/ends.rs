//! How launches fail and containers end.

use std::time::{Duration, Instant};

use longshore_shim::{client::Polled, protocol::*, zygote::Zygote};

use crate::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    (
        "a_failed_launch_leaves_nothing",
        a_failed_launch_leaves_nothing,
    ),
    ("a_log_that_cannot_be_opened", a_log_that_cannot_be_opened),
    (
        "a_zygote_request_without_words",
        a_zygote_request_without_words,
    ),
    ("killed_by_signal", killed_by_signal),
    ("killed_for_memory", killed_for_memory),
    (
        "a_leftover_process_of_the_host",
        a_leftover_process_of_the_host,
    ),
    ("noise_does_not_end_the_shim", noise_does_not_end_the_shim),
];

fn launch_failure(sandbox: &Sandbox, zygote: &Zygote) -> LaunchFailure {
    let mut connection = zygote.launch(&sandbox.request, Vec::new()).unwrap();
    connection.set_blocking(true).unwrap();
    let Polled::Message(incoming) = connection.try_recv().unwrap() else {
        panic!("nothing came");
    };
    let Message::LaunchFailed(failure) = incoming.message else {
        panic!("{:?}", incoming.message);
    };
    assert!(matches!(connection.try_recv().unwrap(), Polled::Closed));
    sandbox.assert_no_cgroups();
    assert!(!sandbox.request.run_dir.join("shim.sock").exists());
    failure
}

fn a_failed_launch_leaves_nothing(zygote: &Zygote) {
    let sandbox = Sandbox::script("").with(|request| {
        request.plan.process.args = vec!["nosuch".to_owned()];
    });
    let failure = launch_failure(&sandbox, zygote);
    assert_eq!(failure.kind, LaunchFailureKind::NotFound, "{failure:?}");
}

fn a_log_that_cannot_be_opened(zygote: &Zygote) {
    let sandbox = Sandbox::script("").with(|request| {
        if let Some(file) = &mut request.log.file {
            file.path = "/proc/nothing/here".into();
        }
    });
    let failure = launch_failure(&sandbox, zygote);
    assert_eq!(failure.kind, LaunchFailureKind::Log, "{failure:?}");
    assert_eq!(
        failure.message,
        "failed to initialize logging driver: no such file or directory"
    );
}

fn a_zygote_request_without_words(zygote: &Zygote) {
    use std::os::fd::AsFd;
    let (ours, theirs) = Client::pair();
    zygote.fork(theirs.as_fd()).unwrap();
    drop((ours, theirs));
    until(|| shims().is_empty());
}

fn killed_by_signal(zygote: &Zygote) {
    let sandbox = Sandbox::script("kill -9 $$; sleep 1000");
    // Its own signal 9 does not reach pid 1; the container's end does.
    let daemon = sandbox.start(zygote);
    daemon.kill(9);
    let exit = daemon.finish(&sandbox);
    assert_eq!(exit.code, 137, "{exit:?}");
    let sandbox = Sandbox::script("exit 255");
    assert_eq!(sandbox.start(zygote).finish(&sandbox).code, 255);
}

fn killed_for_memory(zygote: &Zygote) {
    let sandbox = Sandbox::script("x=x; while true; do x=$x$x; done").with(|request| {
        request.plan.cgroup.resources.memory = 16 << 20;
        request.plan.cgroup.resources.memory_swap = 16 << 20;
    });
    let exit = sandbox.start(zygote).finish(&sandbox);
    assert_eq!((exit.code, exit.oom_killed), (137, true));
}

/// With the host's pid namespace a process may outlive the first one and hold its pipes: it is killed, the exit does not wait for it.
fn a_leftover_process_of_the_host(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000 & echo started; exit 2").with(|request| {
        request.plan.namespaces.pid = NamespaceMode::Host;
    });
    let begun = Instant::now();
    let daemon = sandbox.start(zygote);
    assert_eq!(daemon.finish(&sandbox).code, 2);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(sandbox.logged(), "started\n");
}

fn noise_does_not_end_the_shim(zygote: &Zygote) {
    use std::io::Write;
    let sandbox = Sandbox::script("sleep 1000").stdin(true);
    drop(sandbox.start(zygote));
    for noise in [
        &b"\xff\xff\xff\xff"[..],
        b"\x02\0\0\0{}",
        b"\x05\0\0\0no",
        b"\0\0\0\0",
        b"",
    ] {
        let (daemon, _) = sandbox.reconnect();
        let mut raw = std::fs::File::from(daemon.raw());
        raw.write_all(noise).unwrap();
        drop((raw, daemon));
    }
    let (mut daemon, hello) = sandbox.reconnect();
    assert!(matches!(hello, Message::Hello { exited: None, .. }));
    let no_socket = RequestBody::Attach {
        stdin: false,
        stdout: true,
        stderr: true,
    };
    assert!(matches!(
        daemon.request(no_socket, Vec::new()),
        Message::Failed { .. }
    ));
    let no_terminal = RequestBody::Resize {
        rows: 1,
        columns: 1,
    };
    assert!(matches!(
        daemon.request(no_terminal, Vec::new()),
        Message::Failed { .. }
    ));
    daemon.kill(9);
    assert_eq!(daemon.finish(&sandbox).code, 137);
}
