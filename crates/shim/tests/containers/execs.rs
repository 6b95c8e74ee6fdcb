//! Further processes in a container.

use std::time::{Duration, Instant};

use longshore_shim::{protocol::*, zygote::Zygote};

use crate::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    ("exec_with_streams", exec_with_streams),
    ("exec_with_terminal", exec_with_terminal),
    ("execs_detached_and_signalled", execs_detached_and_signalled),
    ("exec_that_cannot_run", exec_that_cannot_run),
    ("execs_end_with_the_container", execs_end_with_the_container),
];

fn exec(sandbox: &Sandbox, id: &str, process: ProcessPlan, stdio: bool) -> RequestBody {
    RequestBody::Exec {
        exec_id: id.to_owned(),
        process: Box::new(process),
        stdio,
        stdin: true,
        stdout: true,
        stderr: true,
        cgroup_path: sandbox.request.plan.cgroup.path.clone(),
    }
}

fn exec_exited(daemon: &mut Daemon, id: &str) -> i32 {
    let wanted = |m: &Message| matches!(m, Message::ExecExited { exec_id, .. } if exec_id == id);
    match daemon.wait(wanted).0 {
        Message::ExecExited { code, .. } => code,
        _ => unreachable!(),
    }
}

fn exec_with_streams(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let mut daemon = sandbox.start(zygote);
    let mut clients = Vec::new();
    for id in ["a", "b"] {
        let (mut client, theirs) = Client::pair();
        let process = ProcessPlan {
            stdin: true,
            ..process("echo oops >&2; cat; exit 7")
        };
        let answer = daemon.request(exec(&sandbox, id, process, true), vec![theirs]);
        assert!(
            matches!(answer, Message::ExecStarted { pid, .. } if pid > 1),
            "{answer:?}"
        );
        client.write(id.as_bytes());
        clients.push((id, client));
    }
    for (id, mut client) in clients {
        client.end_input();
        assert_eq!(exec_exited(&mut daemon, id), 7);
        assert_eq!(
            client.frames(),
            [id.to_owned(), "oops\n".to_owned(), String::new()]
        );
    }
    daemon.kill(9);
    assert_eq!(daemon.finish(&sandbox).code, 137);
    assert_eq!(sandbox.logged(), "", "an exec's output is not logged");
}

fn exec_with_terminal(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let mut daemon = sandbox.start(zygote);
    let (mut client, theirs) = Client::pair();
    let process = ProcessPlan {
        stdin: true,
        terminal: true,
        console_size: Some((5, 6)),
        ..process("stty size; read x; stty size; exit 4")
    };
    daemon.request(exec(&sandbox, "t", process, true), vec![theirs]);
    client.expect("5 6\r\n");
    let resize = RequestBody::ExecResize {
        exec_id: "t".to_owned(),
        rows: 7,
        columns: 8,
    };
    assert!(matches!(
        daemon.request(resize, Vec::new()),
        Message::Done { .. }
    ));
    client.write(b"\r");
    assert_eq!(exec_exited(&mut daemon, "t"), 4);
    assert!(client.rest().ends_with("7 8\r\n"));
    daemon.kill(9);
    daemon.finish(&sandbox);
}

fn execs_detached_and_signalled(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let mut daemon = sandbox.start(zygote);
    daemon.request(
        exec(&sandbox, "d", process("exec sleep 1000"), false),
        Vec::new(),
    );
    let terminal = ProcessPlan {
        terminal: true,
        ..process("yes | head -n 100000; exit 5")
    };
    daemon.request(exec(&sandbox, "dt", terminal, false), Vec::new());
    assert_eq!(exec_exited(&mut daemon, "dt"), 5);
    let signal = |id: &str| RequestBody::ExecSignal {
        exec_id: id.to_owned(),
        signal: 15,
    };
    assert!(matches!(
        daemon.request(signal("d"), Vec::new()),
        Message::Done { .. }
    ));
    assert_eq!(exec_exited(&mut daemon, "d"), 143);
    assert!(matches!(
        daemon.request(signal("d"), Vec::new()),
        Message::Failed { .. }
    ));
    daemon.kill(9);
    daemon.finish(&sandbox);
}

fn exec_that_cannot_run(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let mut daemon = sandbox.start(zygote);
    let (mut client, theirs) = Client::pair();
    let nothing = ProcessPlan {
        args: vec!["nosuch".to_owned()],
        ..process("")
    };
    match daemon.request(exec(&sandbox, "n", nothing, true), vec![theirs]) {
        Message::Failed { failure, .. } => {
            assert_eq!(failure.kind, LaunchFailureKind::NotFound, "{failure:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.frame(), None);
    daemon.kill(9);
    let mut daemon = daemon;
    daemon.exited();
    let late = daemon.request(exec(&sandbox, "l", process("true"), false), Vec::new());
    assert!(matches!(late, Message::Failed { .. }), "{late:?}");
    daemon.release();
    gone(&sandbox);
}

fn execs_end_with_the_container(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1000");
    let mut daemon = sandbox.start(zygote);
    let (mut client, theirs) = Client::pair();
    daemon.request(
        exec(&sandbox, "e", process("echo on; exec sleep 1000"), true),
        vec![theirs],
    );
    client.expect_frames("on\n");
    let begun = Instant::now();
    daemon.kill(9);
    assert_eq!(exec_exited(&mut daemon, "e"), 137);
    assert_eq!(daemon.finish(&sandbox).code, 137);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(client.frame(), None);
}
