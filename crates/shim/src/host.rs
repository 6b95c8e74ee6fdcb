//! What the engine needs of the host besides shims: the launcher's pure parts and signals, under one roof, so that the engine
//! has one neighbour for everything about processes.

use std::io;

pub use longshore_launcher::{
    cgroup::{Cgroup, usage},
    seccomp,
    user::{Identity, resolve as resolve_user},
};
pub use longshore_sys::{process::send_signal, resolve, socket::unread};

/// Gives code that is not in use just now, and free memory, back to the kernel; for the end of work that is rare and large.
pub fn slim() {
    longshore_sys::text::let_go();
    longshore_sys::malloc::trim();
}

/// When a process started, in clock ticks after boot (field 22 of /proc/pid/stat): tells it from a later one of the
/// same pid.
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, so count from its end.
    let after = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest)
        .unwrap_or_default();
    after
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
