//! Descriptors that a service manager passed at exec (the protocol of sd_listen_fds(3)).

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// First descriptor passed, by the protocol.
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the `count` descriptors from 3 on and marks them close-on-exec. To be called before anything else opens
/// descriptors, and once: a second call is refused.
///
/// # Errors
/// `EBADF` when one of them is not open, `EALREADY` at the second call.
pub fn take_descriptors(count: i32) -> io::Result<Vec<OwnedFd>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::from_raw_os_error(libc::EALREADY));
    }
    (FIRST..FIRST.saturating_add(count.max(0)))
        .map(|fd| {
            // SAFETY: F_SETFD on any number is sound: a closed one answers EBADF.
            crate::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
            // SAFETY: the descriptor is open (fcntl has just said so), was given to this process by its parent for
            // it to own, and is taken at most once.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}
