//! The command line that ps shows.

use std::{fs, io};

/// Where the kernel finds the arguments of this process. Found once, written by each fork.
#[derive(Clone, Copy, Debug)]
pub struct Title {
    start: usize,
    length: usize,
}

impl Title {
    /// # Errors
    /// When /proc/self/stat cannot be read or hides the addresses.
    pub fn find() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        // Fields 48 and 49 (arg_start, arg_end) of proc(5); the name in field 2 may hold anything, so count behind it.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_ascii_whitespace().skip(48 - 3);
        let mut address = || fields.next().and_then(|f| f.parse::<usize>().ok());
        match (address(), address()) {
            (Some(start), Some(end)) if start > 0 && end > start => Ok(Self {
                start,
                length: end - start,
            }),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Shows `text` from now on, cut to the room that the first arguments took.
    /// Call it only while nobody else reads the arguments: a process with one thread, after it has parsed them.
    pub fn set(&self, text: &str) {
        let room = self.length - 1;
        let text = &text.as_bytes()[..text.len().min(room)];
        // SAFETY: [start, start + length) is this process's own argument area, mapped and writable for its whole life (the
        // kernel put it on the initial stack). std only reads it through the C pointers of argv, by copying strings, and the
        // last byte stays 0, so such a read still ends inside.
        unsafe {
            let area = self.start as *mut u8;
            std::ptr::write_bytes(area, 0, self.length);
            std::ptr::copy_nonoverlapping(text.as_ptr(), area, text.len());
        }
    }
}
