//! The daemon comes and goes; memory.

use std::{fs, time::Instant};

use longshore_shim::{
    protocol::*,
    zygote::{Zygote, spawn_zygote},
};

use crate::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    ("a_new_daemon_takes_over", a_new_daemon_takes_over),
    ("the_newer_daemon_wins", the_newer_daemon_wins),
    ("an_end_while_nobody_looks", an_end_while_nobody_looks),
    ("input_survives_the_daemon", input_survives_the_daemon),
    ("shims_outlive_their_zygote", shims_outlive_their_zygote),
    ("the_binary_is_out_of_reach", the_binary_is_out_of_reach),
    (
        "descriptors_are_not_inherited",
        descriptors_are_not_inherited,
    ),
    ("memory_of_fifty", memory_of_fifty),
    ("time_of_a_cycle", time_of_a_cycle),
];

fn a_new_daemon_takes_over(zygote: &Zygote) {
    let sandbox = Sandbox::script("echo one; read x; echo two $x; exit 9").stdin(false);
    let mut old = sandbox.start(zygote);
    let mut old_client = old.attach(ALL);
    let pid = old.pid;
    drop(old);
    until(|| sandbox.logged() == "one\n");
    let (mut daemon, hello) = sandbox.reconnect();
    let Message::Hello {
        protocol,
        container,
        pid: told,
        start_time,
        exited,
        execs,
        ooms: _,
    } = hello
    else {
        unreachable!()
    };
    assert_eq!(
        (protocol, container, told),
        (PROTOCOL, sandbox.request.plan.id.clone(), pid)
    );
    assert!(start_time > 0 && exited.is_none() && execs.is_empty());
    assert!(daemon.pidfd.is_some());
    let mut client = daemon.attach(ALL);
    client.write(b"x\n");
    client.expect_frames("two x\n");
    assert_eq!(daemon.finish(&sandbox).code, 9);
    old_client.frames();
    assert_eq!(sandbox.logged(), "one\ntwo x\n");
}

fn the_newer_daemon_wins(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let older = sandbox.start(zygote);
    let (newer, _) = sandbox.reconnect();
    newer.kill(9);
    assert_eq!(newer.finish(&sandbox).code, 137);
    drop(older);
}

fn an_end_while_nobody_looks(zygote: &Zygote) {
    let sandbox = Sandbox::script("read x; echo bye; exit 6").stdin(true);
    let mut daemon = sandbox.start(zygote);
    let mut client = daemon.attach(ALL);
    drop(daemon);
    client.write(b"go\n");
    client.expect_frames("bye\n");
    // No daemon, no order to keep: the stream ends, the mounts and cgroups go.
    assert_eq!(client.frame(), None);
    until(|| {
        let path = &sandbox.request.plan.cgroup.path;
        !longshore_launcher::cgroup::Layout::host()
            .v1
            .iter()
            .any(|h| h.mount.join(path).exists())
    });
    let record = longshore_shim::client::read_record(&sandbox.request.run_dir)
        .unwrap()
        .unwrap();
    assert_eq!(record.code, 6);
    for _ in 0..2 {
        let (daemon, hello) = sandbox.reconnect();
        assert!(matches!(hello, Message::Hello { exited: Some(exit), .. } if exit == record));
        assert!(daemon.pidfd.is_none());
    }
    sandbox.reconnect().0.release();
    gone(&sandbox);
    assert_eq!(sandbox.logged(), "bye\n");
}

/// A killed daemon's connections all close at once: that is not the end of the container's input.
fn input_survives_the_daemon(zygote: &Zygote) {
    let sandbox = Sandbox::script("cat").stdin(true);
    let mut daemon = sandbox.start(zygote);
    let client = daemon.attach(ALL);
    drop(client);
    drop(daemon);
    std::thread::sleep(std::time::Duration::from_millis(400));
    let (mut daemon, hello) = sandbox.reconnect();
    assert!(matches!(hello, Message::Hello { exited: None, .. }));
    let mut client = daemon.attach(ALL);
    client.write(b"still here\n");
    client.end_input();
    client.expect_frames("still here\n");
    assert_eq!(daemon.finish(&sandbox).code, 0);
}

fn shims_outlive_their_zygote(_: &Zygote) {
    let sandbox = Sandbox::script("read x; echo $x").stdin(true);
    let zygote = spawn_zygote().unwrap();
    let mut daemon = sandbox.start(&zygote);
    drop(zygote);
    let mut client = daemon.attach(ALL);
    client.write(b"alive\n");
    client.expect_frames("alive\n");
    assert_eq!(daemon.finish(&sandbox).code, 0);
}

fn the_binary_is_out_of_reach(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let daemon = sandbox.start(zygote);
    for pid in [i32::try_from(zygote.pid()).unwrap(), shims()[0]] {
        let exe = format!("/proc/{pid}/exe");
        let flags = rustix::fs::statvfs(&exe).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        assert!(fs::File::options().append(true).open(exe).is_err());
    }
    let line = fs::read_to_string(format!("/proc/{}/cmdline", shims()[0])).unwrap();
    assert_eq!(line.trim_end_matches('\0'), "longshore-shim");
    daemon.kill(9);
    daemon.finish(&sandbox);
}

fn descriptors_are_not_inherited(_: &Zygote) {
    // Without close-on-exec, as a careless parent of the daemon leaves it.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let zygote = spawn_zygote().unwrap();
    let sandbox = Sandbox::script("sleep 1000");
    let before = shims();
    let daemon = sandbox.start(&zygote);
    assert!(before.is_empty());
    drop(writer);
    assert_eq!(
        rustix::io::read(&reader, &mut [0]),
        Ok(0),
        "somebody still holds the pipe"
    );
    daemon.kill(9);
    daemon.finish(&sandbox);
}

fn memory_of_fifty(zygote: &Zygote) {
    let sandboxes: Vec<Sandbox> = (0..50)
        .map(|_| Sandbox::script("echo x; exec sleep 1000"))
        .collect();
    let daemons: Vec<Daemon> = sandboxes
        .iter()
        .map(|sandbox| sandbox.start(zygote))
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let pss = |pid: i32, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let pids = shims();
    assert_eq!(pids.len(), 50);
    let mean = |key: &str| pids.iter().map(|&pid| pss(pid, key)).sum::<u64>() / 50;
    let figure = mean("Pss:");
    println!(
        "  a shim of 50: PSS {figure} kB (anonymous {}), private dirty {} kB; zygote {} kB",
        mean("Pss_Anon:"),
        mean("Private_Dirty:"),
        pss(i32::try_from(zygote.pid()).unwrap(), "Pss:")
    );
    for (daemon, sandbox) in daemons.into_iter().zip(&sandboxes) {
        daemon.kill(9);
        assert_eq!(daemon.finish(sandbox).code, 137);
    }
    assert!(figure < 256, "{figure} kB");
}

/// Prints, asserts nothing but success: the machine may be busy.
fn time_of_a_cycle(zygote: &Zygote) {
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..40 {
        let sandbox = Sandbox::script("").with(|request| {
            request.plan.process.args = vec!["true".to_owned()];
        });
        let begun = Instant::now();
        let mut daemon = sandbox.start(zygote);
        let started = begun.elapsed();
        assert_eq!(daemon.exited().code, 0);
        let exited = begun.elapsed();
        daemon.release();
        for (list, time) in times.iter_mut().zip([started, exited, begun.elapsed()]) {
            list.push(time);
        }
        gone(&sandbox);
    }
    let [started, exited, released] = times.map(|mut list| {
        list.sort();
        list[list.len() / 2]
    });
    println!("  medians: started {started:?}, exited {exited:?}, released {released:?}");
}
