//! Entering and making namespaces.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// setns(2): `fd` is a /proc/pid/ns file, or a pidfd with several `CLONE_NEW*` in `kinds`.
///
/// # Errors
/// As setns(2). A mount namespace needs a process that shares its working directory with nobody.
pub fn enter(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags; namespaces do not affect memory safety.
    crate::check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into()).map(drop)
}

/// unshare(2) for namespaces; other flags are refused with `EINVAL`, for they could split a process's descriptor table or memory.
pub fn unshare(kinds: i32) -> io::Result<()> {
    const ALLOWED: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    if kinds & !ALLOWED != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: only namespaces are unshared, which does not affect memory safety.
    crate::check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

/// The mount namespace of the process behind a pidfd, by ioctl (Linux 6.11) and else through /proc.
///
/// # Errors
/// `ESRCH` and the like when the process is gone.
pub fn mount_namespace(pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PIDFD_GET_MNT_NAMESPACE: libc::c_ulong = 0xff03;
    // SAFETY: the request takes no argument and returns a fresh descriptor.
    let fd = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_MNT_NAMESPACE, 0) };
    if fd >= 0 {
        // SAFETY: the ioctl returned a descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        return Ok(fd);
    }
    let file = std::fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
    // The pid still means our process only if the pidfd is still alive after the open.
    if !crate::process::is_alive(pidfd) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(file.into())
}

/// The network namespace that a socket is in.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN there, `ENOTTY` for what is no socket.
pub fn network_namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    // SAFETY: the request takes no argument and returns a fresh descriptor.
    let fd = crate::check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }.into())?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the ioctl returned a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Leaves the caller's session keyring for a new one of this name.
pub fn join_session_keyring(name: &str) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the operation reads one C string.
    crate::check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })
    .map(drop)
}
