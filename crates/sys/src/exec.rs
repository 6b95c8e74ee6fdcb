//! execve and what must be right just before it.

use std::{ffi::CString, io, os::fd::RawFd};

/// Replaces the process image; returns only on failure. `path` is used as it is: no search in PATH.
pub fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let terminated = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (terminated(args), terminated(env));
    // SAFETY: path is a C string; both arrays end with a null pointer and point at C strings that live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` up close-on-exec, whatever opened it.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: changes flags of descriptors only; no memory is passed.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Default action for every signal and an empty mask: a fresh image inherits ignored signals and the mask otherwise.
pub fn reset_signals() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: installs the default action; numbers that glibc reserves are refused with EINVAL, which does no harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is the empty set on Linux, and sigemptyset initialises it anyway.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}
