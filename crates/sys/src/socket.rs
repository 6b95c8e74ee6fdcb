//! What a socket tells about its other end.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Bytes sent that the other end has not taken yet. For a unix socket that means: has not read (unix(7), `SIOCOUTQ`);
/// the kernel counts its bookkeeping in, so only 0 is exact.
///
/// # Errors
/// The descriptor is no socket.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the number of SIOCOUTQ) writes one int to the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    crate::check(result.into())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    #[test]
    fn zero_means_read() {
        let (mut here, mut there) = UnixStream::pair().expect("pair");
        assert_eq!(super::unread(here.as_fd()).expect("unread"), 0);
        here.write_all(b"head").expect("write");
        assert!(super::unread(here.as_fd()).expect("unread") > 0);
        there.read_exact(&mut [0; 4]).expect("read");
        assert_eq!(super::unread(here.as_fd()).expect("unread"), 0);
    }
}
