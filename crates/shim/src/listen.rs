//! `shim.sock`: where a restarted daemon finds the shim. Paths of sockets end at 108 bytes, so the folder is opened and the socket
//! reached through /proc/self/fd.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, chmodat, openat, unlinkat},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
        connect as connect_to, listen, socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
    process::{Pid, geteuid},
};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "shim.sock";

fn folder(run_dir: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, run_dir, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
    Ok((folder, address))
}

fn stream_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | flags,
        None,
    )?)
}

/// Makes the socket, non-blocking, for root only. One that is there already is replaced: its shim is gone.
pub fn open(run_dir: &Path) -> io::Result<OwnedFd> {
    let (folder, address) = folder(run_dir)?;
    let socket = stream_socket(SocketFlags::NONBLOCK)?;
    let _ = unlinkat(&folder, SOCKET, AtFlags::empty());
    bind(&socket, &address)?;
    chmodat(&folder, SOCKET, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    listen(&socket, 4)?;
    Ok(socket)
}

/// The next daemon that wants to talk, non-blocking; None when there is none. Other users' processes are turned away.
pub fn accept(listener: &impl std::os::fd::AsFd) -> io::Result<Option<OwnedFd>> {
    use rustix::io::Errno;
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => {
            let peer = socket_peercred(&socket)?;
            Ok((peer.uid == geteuid() || peer.uid.is_root()).then_some(socket))
        }
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes the socket.
pub fn remove(run_dir: &Path) {
    let _ = std::fs::remove_file(run_dir.join(SOCKET));
}

/// A shim that does not take connections for so long is stopped.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Connects to the shim of a run directory, blocking (a stopped shim's queue may be full).
///
/// # Errors
/// `ENOENT` or `ECONNREFUSED` when there is no shim, `EAGAIN` when it does not take the connection.
pub fn connect(run_dir: &Path) -> io::Result<OwnedFd> {
    let (_folder, address) = folder(run_dir)?;
    let socket = stream_socket(SocketFlags::empty())?;
    set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_PATIENCE))?;
    connect_to(&socket, &address)?;
    Ok(socket)
}

/// The process that listens in a run directory.
///
/// # Errors
/// As [`connect`].
pub fn owner(run_dir: &Path) -> io::Result<Pid> {
    Ok(socket_peercred(&connect(run_dir)?)?.pid)
}
