//! clone3(2) as a fork with extra flags.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `struct clone_args` of the kernel, version 2 (88 bytes).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A child made by [`clone_process`].
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    /// Close-on-exec, as every pidfd.
    pub pidfd: OwnedFd,
}

/// What a clone may add to a plain fork.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneOptions<'a> {
    /// `CLONE_NEW*` flags; flags that share memory, files or handlers with the parent are refused.
    pub namespaces: u64,
    /// The child is born in this cgroup2 directory.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Descriptors of the parent that the child closes first of all.
    pub close_in_child: &'a [BorrowedFd<'a>],
}

const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// True when the calling process has one thread only.
pub fn single_threaded() -> bool {
    // SAFETY: unshare with CLONE_THREAD alone changes nothing: the kernel only checks that the thread group is empty.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return true;
    }
    // A system call filter may refuse unshare; procfs counts the threads as well.
    io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) && one_task_in_proc()
}

fn one_task_in_proc() -> bool {
    std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| {
        // Field 20; the command name in parentheses may hold anything.
        stat.rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(17))
            .is_some_and(|threads| threads == "1")
    })
}

/// Forks with the given additions and runs `child` in the copy; what it returns becomes the copy's exit code.
/// A panic in the copy exits with 101 and never unwinds into the caller's frames.
///
/// # Errors
/// `EINVAL` when the process has more than one thread (the copy would inherit locks that nobody releases) or when a flag
/// is no namespace; else what clone3(2) says.
pub fn clone_process(options: &CloneOptions<'_>, child: impl FnOnce() -> i32) -> io::Result<Child> {
    if options.namespaces & !NAMESPACES != 0 || !single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: options.namespaces | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a whole clone_args whose pidfd points at a live int; no CLONE_VM, so the child runs on its own copy
    // of this stack, and the process has one thread, so no lock of the allocator is held in the copy.
    let pid = crate::check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            std::mem::size_of::<CloneArgs>(),
        )
    })?;
    if pid == 0 {
        for fd in options.close_in_child {
            // SAFETY: the copy never returns into the frames that own the descriptor, so nobody uses or closes it again here.
            unsafe { libc::close(fd.as_raw_fd()) };
        }
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
        // SAFETY: _exit ends the copy without running the caller's destructors and atexit handlers.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD: the kernel stored a fresh descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid: pid as i32,
        pidfd,
    })
}

/// A plain fork by the old call, for a process under a filter that knows no clone3. Runs `child` in the copy, as
/// [`clone_process`] does; the parent gets the pid.
///
/// # Errors
/// `EINVAL` when the process has more than one thread; else what fork(2) says.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    if !single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: one thread only, so no lock is held by another in the copy; the copy leaves by _exit below.
    let pid = crate::check(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
        // SAFETY: _exit ends the copy without running the caller's destructors and atexit handlers.
        unsafe { libc::_exit(code) }
    }
    Ok(pid as i32)
}
