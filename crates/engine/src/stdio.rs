//! Socket pairs between a client's connection and a shim.

use std::os::fd::OwnedFd;

use longshore_model::{Error, Result};

/// A stream socket pair: our end for tokio, the other to send to the shim.
///
/// # Errors
/// No descriptors left.
pub(crate) fn pair() -> Result<(tokio::net::UnixStream, OwnedFd)> {
    let (ours, theirs) =
        std::os::unix::net::UnixStream::pair().map_err(|e| Error::io("socketpair", e))?;
    ours.set_nonblocking(true)
        .map_err(|e| Error::io("socketpair", e))?;
    theirs
        .set_nonblocking(true)
        .map_err(|e| Error::io("socketpair", e))?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(|e| Error::io("socketpair", e))?;
    Ok((ours, theirs.into()))
}

/// Has a client on a unix socket read all that was sent to it? True when that cannot be known.
pub fn all_read(socket: std::os::fd::BorrowedFd<'_>) -> bool {
    longshore_shim::host::unread(socket).map_or(true, |bytes| bytes == 0)
}
