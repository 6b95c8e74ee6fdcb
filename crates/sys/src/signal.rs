//! Signal handlers for a program without a runtime.

use std::io;

pub const INT: i32 = libc::SIGINT;
pub const TERM: i32 = libc::SIGTERM;

/// Ends the process with status 128 + signal; nothing else, because little else is sound in a handler.
extern "C" fn exit(signal: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
}

/// Makes each of `signals` end this process at once, also when it is pid 1 of its namespace (for which the kernel drops
/// signals that have no handler).
///
/// # Errors
/// `EINVAL` for a number that is no signal or cannot be caught.
pub fn exit_on(signals: &[i32]) -> io::Result<()> {
    for signal in signals {
        // SAFETY: a zeroed sigaction is a valid one: no flags, no restorer, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = exit as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: `action` is complete and its handler only calls _exit; the old action is not asked for.
        let result = unsafe { libc::sigaction(*signal, &raw const action, std::ptr::null_mut()) };
        crate::check(result.into())?;
    }
    Ok(())
}
