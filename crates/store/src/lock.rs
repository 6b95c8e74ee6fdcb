//! The lock on a data root: one daemon at a time.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use longshore_model::{Error, Result};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// Held as long as it lives; the kernel gives it back when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `<data_root>/lock` or says who has it.
    ///
    /// # Errors
    /// `Conflict` with the data root and the pid of the holder when another process has it.
    pub fn take(data_root: &Path) -> Result<Self> {
        let path = data_root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(format_args!("open {}", path.display()), e))?;
        // A process that the last daemon was just starting holds its descriptors up to the exec: a moment's patience.
        let mut tries = 0;
        let taken = loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if tries < 20 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(15));
                }
                taken => break taken,
            }
        };
        match taken {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The pid only helps the reader of the message; without it the message still stands.
                let _ = file.read_to_string(&mut text);
                let holder = match text.trim().parse::<u32>() {
                    Ok(pid) => format!(" (pid {pid})"),
                    Err(_) => String::new(),
                };
                return Err(Error::conflict(format!(
                    "data root {} is in use by another longshore daemon{holder}",
                    data_root.display()
                )));
            }
            Err(error) => return Err(Error::io(format_args!("lock {}", path.display()), error)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|e| Error::io(format_args!("write {}", path.display()), e))?;
        Ok(Self { _file: file })
    }
}
