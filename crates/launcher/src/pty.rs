//! Terminals of containers.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, makedev},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// Tells the terminal its size; the foreground process group gets SIGWINCH.
pub fn set_window_size(master: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}

/// A fresh pair: both ends close-on-exec, nobody's controlling terminal yet.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a terminal of the devpts that is mounted at the directory `pts`.
///
/// # Errors
/// `ENXIO` when its `ptmx` is not the multiplexer: in a running container somebody may have put another file there.
pub(crate) fn open(pts: BorrowedFd<'_>) -> io::Result<Terminal> {
    let path = rustix::fs::openat(
        pts,
        "ptmx",
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&path)?;
    let statfs = rustix::fs::fstatfs(&path)?;
    const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || stat.st_rdev != makedev(5, 2)
        || u64::try_from(statfs.f_type).ok() != Some(DEVPTS_SUPER_MAGIC)
    {
        return Err(io::Error::from_raw_os_error(libc::ENXIO));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty())?;
    let opened = rustix::fs::fstat(&master)?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::ENXIO));
    }
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    Ok(Terminal { master, slave })
}
