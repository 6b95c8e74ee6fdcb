//! The kernel calls that rustix lacks, as safe functions over owned and borrowed descriptors.
//!
//! This is the only crate that says `unsafe`. Errors are `std::io::Error` carrying the errno.

pub mod activation;
pub mod bpf;
pub mod clone;
pub mod datagram;
pub mod exec;
pub mod malloc;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod process;
pub mod resolve;
pub mod seccomp;
pub mod signal;
pub mod signals;
pub mod socket;
pub mod text;
pub mod title;
pub mod zone;

use std::io;

/// The result of a raw system call: -1 becomes the errno.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
