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

/// Makes /proc/pid/cmdline of the calling process read `line` (arguments, each ended by a zero byte).
///
/// # Errors
/// As prctl(2) with `PR_SET_MM_MAP`; `EINVAL` from a kernel without checkpoint/restore.
pub fn set_command_line(line: &[u8]) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or_else(invalid)?;
    let fields: Vec<u64> = fields
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0))
        .collect();
    // Numbers of proc(5), less the three before the closing parenthesis and what comes with it.
    let field = |number: usize| fields.get(number - 3).copied().ok_or_else(invalid);
    let length = line.len().max(1);
    // SAFETY: a fresh private mapping of our own; it is never unmapped, for the kernel shows it as long as the process lives.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is at least as long as the line, and nothing else refers to it.
    unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), memory.cast::<u8>(), line.len()) };
    // SAFETY: sbrk(0) only tells where the heap ends.
    let brk = unsafe { libc::sbrk(0) } as u64;
    let map = memory_map(&field, memory as u64, length as u64, brk)?;
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    // SAFETY: the map describes the process as it is but for the command line, which is the mapping above; the kernel checks all
    // addresses and uses these fields for /proc and brk only.
    crate::check(
        unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                PR_SET_MM_MAP,
                &raw const map,
                std::mem::size_of::<PrctlMmMap>(),
                0,
            )
        }
        .into(),
    )
    .map(drop)
}

/// `struct prctl_mm_map`.
#[repr(C)]
struct PrctlMmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: *const u64,
    auxv_size: u32,
    exe_fd: u32,
}

fn memory_map(
    field: &impl Fn(usize) -> io::Result<u64>,
    line: u64,
    length: u64,
    brk: u64,
) -> io::Result<PrctlMmMap> {
    Ok(PrctlMmMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk,
        start_stack: field(28)?,
        arg_start: line,
        arg_end: line + length,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: std::ptr::null(),
        auxv_size: 0,
        exe_fd: u32::MAX,
    })
}
