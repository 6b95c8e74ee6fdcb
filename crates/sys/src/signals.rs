//! Waiting for signals and children, as an init does.

use std::io;

/// A set of blocked signals that can be waited for.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

/// Blocks every signal for the calling thread and returns them all as a set.
pub fn block_all() -> io::Result<SignalSet> {
    // SAFETY: sigfillset initialises the set, and sigprocmask reads it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        crate::check(
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into(),
        )?;
        Ok(SignalSet(set))
    }
}

impl SignalSet {
    /// The next pending signal's number.
    pub fn wait(&self) -> io::Result<i32> {
        // SAFETY: the set lives; no information is asked for.
        crate::check(unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) }.into())
            .map(|signal| signal as i32)
    }
}

/// Sends any signal number to one process.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: passes two numbers.
    crate::check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Reaps one ended child, whichever: (pid, exit code or 128 + signal). `None` when none has ended.
pub fn reap_any() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the kernel writes one int that lives on this stack.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Some((pid, code))
}

/// Ends the process at once: no destructors, no exit handlers. For copies made by fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}
