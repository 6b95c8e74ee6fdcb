//! Terminals of containers.

use std::{io, os::fd::AsFd};

use rustix::termios::{Winsize, tcsetwinsize};

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
