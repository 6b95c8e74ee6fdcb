//! The file with the daemon's process id.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A written pidfile; taken away again when dropped, if it is still ours.
pub struct Pidfile(PathBuf);

impl Pidfile {
    /// Writes our process id to `path`, in a folder made if need be.
    ///
    /// # Errors
    /// Another daemon's live process id is in it; it cannot be written.
    pub fn write(path: &Path) -> Result<Pidfile, String> {
        let failed = |error: io::Error| format!("pidfile {}: {error}", path.display());
        if let Some(pid) = read(path)
            && pid != std::process::id()
            && is_daemon(pid)
        {
            return Err(format!(
                "process with PID {pid} is still running: if it is no longshore daemon, remove {}",
                path.display()
            ));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(path, std::process::id().to_string()).map_err(failed)?;
        Ok(Pidfile(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if read(&self.0) == Some(std::process::id()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Process ids are used again: after a reboot or a crash an old one may be anybody's. What runs our program, dockerd, or
/// cannot be looked at, counts as a daemon.
fn is_daemon(pid: u32) -> bool {
    let status = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => line,
        Err(_) => return Path::new(&format!("/proc/{pid}")).exists(),
    };
    let mut words = status.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let name = program
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    name == b"dockerd"
        || (fs::read_link(format!("/proc/{pid}/exe")).ok() == fs::read_link("/proc/self/exe").ok()
            && words.any(|word| word == b"daemon"))
        || (name == b"longshore"
            && status
                .split(|byte| *byte == 0)
                .any(|word| word == b"daemon"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_taken_over_and_removed() {
        let folder = std::env::temp_dir().join(format!("longshore-pidfile-{}", std::process::id()));
        let path = folder.join("sub/pid");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Our parent lives, but is no daemon.
        fs::write(&path, std::os::unix::process::parent_id().to_string()).unwrap();
        let pidfile = Pidfile::write(&path).unwrap();
        assert_eq!(read(&path), Some(std::process::id()));
        drop(pidfile);
        assert!(!path.exists());
        fs::write(&path, "rubbish").unwrap();
        let pidfile = Pidfile::write(&path).unwrap();
        fs::write(&path, "1").unwrap();
        drop(pidfile);
        assert!(path.exists(), "another's file stays");
        fs::remove_dir_all(&folder).unwrap();
    }
}
