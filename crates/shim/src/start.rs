//! From a forked zygote to a running container.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use longshore_launcher::parent::Launched;
use longshore_sys::{malloc, signal};

use crate::{
    control::send_now,
    frame::{FrameReader, LAUNCH_LIMIT, Received},
    launch, listen,
    logs::{JsonFile, LogSink, Remote, json_file::Rotation},
    poll::Poller,
    protocol::{
        LaunchFailure, LaunchFailureKind, LaunchPlan, LaunchRequest, LogPlan, Message,
        NamespaceMode, RemoteProtocol,
    },
    server::{self, CONTAINER, Container, Foundation, Server},
    stdio::{AttachPolicy, ProcessIo, STALL_LIMIT, StdioEnds},
};

/// The whole life of a shim. `control` is the stream socket on which the launch request comes.
///
/// # Errors
/// When the daemon goes away before the launch, or the launch fails; the daemon has been told.
pub fn shim_main(control: OwnedFd) -> io::Result<()> {
    malloc::map_large_blocks(64 << 10);
    let signals = signal::watch(&[
        libc::SIGCHLD,
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
    ])?;
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let Some((request, clients)) = receive_request(&control)? else {
        return Ok(());
    };
    let run_dir = request.run_dir.clone();
    report_panics(run_dir.join("shim-panic.log"));
    match launched(request, clients, signals, control.as_fd()) {
        Ok(server) => {
            // The server has its own copy; the daemon is to see the end of the stream when the server closes that.
            drop(control);
            malloc::trim();
            server.run()
        }
        Err(failure) => {
            listen::remove(&run_dir);
            send_now(&control, &Message::LaunchFailed(failure), Vec::new())
        }
    }
}

/// A shim has no terminal and no log of its own: its last words go into the run directory.
fn report_panics(path: PathBuf) {
    std::panic::set_hook(Box::new(move |panic| {
        let _ = std::fs::write(&path, format!("{panic}\n"));
    }));
}

/// None when the daemon closed without asking anything.
fn receive_request(control: &OwnedFd) -> io::Result<Option<(LaunchRequest, Vec<OwnedFd>)>> {
    match FrameReader::new(LAUNCH_LIMIT).receive(control)? {
        Received::Frame(frame) => {
            let request = postcard::from_bytes(&frame.body).map_err(io::Error::other)?;
            Ok(Some((request, frame.fds)))
        }
        Received::Pending | Received::Closed => Ok(None),
    }
}

fn launched(
    request: LaunchRequest,
    clients: Vec<OwnedFd>,
    signals: OwnedFd,
    control: std::os::fd::BorrowedFd<'_>,
) -> Result<Server, LaunchFailure> {
    let failed = |doing: &'static str| move |error: io::Error| LaunchFailure::system(doing, error);
    if clients.len() != request.attach.len() {
        return Err(LaunchFailure {
            kind: LaunchFailureKind::System,
            message: format!(
                "{} clients for {} sockets",
                request.attach.len(),
                clients.len()
            ),
        });
    }
    let poller = Poller::new().map_err(failed("epoll"))?;
    let foundation = Foundation {
        signals,
        listener: listen::open(&request.run_dir).map_err(failed("listen on shim.sock"))?,
        control: control.try_clone_to_owned().map_err(failed("connection"))?,
        log: open_log(request.log, &poller)?,
        poller,
        run_dir: request.run_dir,
    };
    let (mut launched, ends) = launch::container(&request.plan)?;
    let mut handed = std::mem::take(&mut launched.process.resolver);
    let undo = (launched.process.pid, launched.cgroup.clone());
    let result = join(
        &foundation,
        &request.plan,
        launched,
        ends,
        request.stdin_once,
    )
    .and_then(|(mut container, mnt_ns)| {
        for (socket, streams) in clients.into_iter().zip(request.attach) {
            container.io.attach(socket, streams)?;
        }
        let started = Message::Started {
            pid: container.pid,
            start_time: container.start_time,
        };
        // A daemon that has died or given up meanwhile counts this run as never made: so it must not be.
        handed.push(container.pidfd.try_clone()?);
        send_now(control, &started, handed)?;
        rustix::io::ioctl_fionbio(control, true)?;
        Ok((container, mnt_ns))
    });
    match result {
        Ok((container, mnt_ns)) => Ok(Server::new(foundation, container, mnt_ns)),
        Err(error) => {
            kill_again(undo.0);
            let _ = undo.1.remove();
            Err(LaunchFailure::system("take over the container", error))
        }
    }
}

fn join(
    foundation: &Foundation,
    plan: &LaunchPlan,
    launched: Launched,
    ends: StdioEnds,
    stdin_once: bool,
) -> io::Result<(Container, OwnedFd)> {
    let policy = AttachPolicy {
        stdin_once,
        stall: Some(STALL_LIMIT),
    };
    let container = Container {
        id: plan.id.clone(),
        pid: launched.process.pid,
        pidfd: launched.process.pidfd,
        start_time: launched.process.start_time,
        cgroup: launched.cgroup,
        shares_pids: plan.namespaces.pid != NamespaceMode::New,
        io: ProcessIo::new(&foundation.poller, CONTAINER, ends, policy)?,
    };
    Ok((container, launched.mnt_ns))
}

/// A container that runs, but that the shim cannot serve.
fn kill_again(pid: i32) {
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    let _ = kill_process(pid, Signal::KILL);
    let _ = waitpid(Some(pid), WaitOptions::empty());
}

fn open_log(plan: LogPlan, poller: &Poller) -> Result<LogSink, LaunchFailure> {
    let failed = |error: io::Error| LaunchFailure {
        kind: LaunchFailureKind::Log,
        message: format!(
            "failed to initialize logging driver: {}",
            longshore_model::error::go_errno(&error)
        ),
    };
    let mut sink = LogSink::default();
    if let Some(file) = plan.file {
        let rotation = Rotation {
            max_size: file.max_size,
            max_file: file.max_file.max(1),
            compress: file.compress,
        };
        let log = JsonFile::open(&file.path, rotation, file.attrs).map_err(failed)?;
        sink.file = Some(Box::new(log));
    }
    if let Some(remote) = plan.remote {
        let address = remote.address.dialled();
        let journal = matches!(remote.protocol, RemoteProtocol::Journald { .. });
        let log = Remote::open(remote, poller, server::LOG_TOKEN).map_err(|error| {
            let text = longshore_model::error::go_errno(&error);
            failed(io::Error::other(if journal {
                "journald is not enabled on this host".to_owned()
            } else {
                format!("dial {address}: connect: {text}")
            }))
        })?;
        sink.remote = Some(Box::new(log));
    }
    Ok(sink)
}
