//! Attributes of a process: limits, visible command line, liveness.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Sets one `RLIMIT_*` of the calling process; `u64::MAX` is infinity.
///
/// # Errors
/// `EPERM` when the hard limit rises without CAP_SYS_RESOURCE, `EINVAL` for an unknown number or soft above hard.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: prlimit64 on ourselves reads one whole rlimit64 and writes nothing.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}

/// (soft, hard) of one `RLIMIT_*` of the calling process.
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills one whole rlimit64 that lives on this stack.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// False when the process behind the pidfd has been reaped.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: signal 0 only checks; no siginfo is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    result == 0
}

/// Sends any signal number (real-time ones too) through a pidfd.
///
/// # Errors
/// `ESRCH` when the process is gone, `EINVAL` for a number out of range.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no siginfo is passed: the kernel fills its own.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}
