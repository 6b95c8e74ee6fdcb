//! Signal handlers for a program without a runtime, signals as descriptors, dispositions.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

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

/// Blocks `signals` in this thread and gives a non-blocking, close-on-exec descriptor that becomes readable when one arrives.
/// A process executed later inherits the mask: it has to reset it ([`crate::exec::reset_signals`]).
pub fn watch(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it; sigaddset and sigprocmask get valid pointers to it.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        crate::check(libc::c_long::from(libc::sigprocmask(
            libc::SIG_BLOCK,
            set.as_ptr(),
            std::ptr::null_mut(),
        )))?;
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    let fd = crate::check(libc::c_long::from(fd))?;
    // SAFETY: signalfd returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes all signals that wait in a descriptor made by [`watch`].
pub fn drain(fd: BorrowedFd<'_>) {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = std::mem::size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes into `info`, which is that large; nothing is read from it.
    while unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) } > 0 {}
}

/// Children of this process are reaped by the kernel. A fork inherits it; [`crate::exec::reset_signals`] ends it.
pub fn ignore_child_exits() {
    // SAFETY: installs SIG_IGN; no handler code runs.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// A write to a closed pipe is an error, not a deadly signal.
pub fn ignore_broken_pipes() {
    // SAFETY: installs SIG_IGN; no handler code runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
