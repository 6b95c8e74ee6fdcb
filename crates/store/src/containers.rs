//! Containers' directories: made at create, renamed into the trash at remove.

use std::path::{Path, PathBuf};

use longshore_model::{ContainerId, Error, Result};
use rustix::{
    fs::{CWD, Mode},
    io::Errno,
};

use crate::trash::Trash;

/// Paths of one container. Only the directories exist after [`Containers::prepare`]; the files are their owners' to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerDirs {
    pub dir: PathBuf,
    /// Upper directory of the root's overlay.
    pub upper: PathBuf,
    /// Work directory of the root's overlay.
    pub work: PathBuf,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
    /// `<id>-json.log`
    pub log: PathBuf,
}

/// The containers' directories of a data root.
#[derive(Clone)]
pub struct Containers {
    root: PathBuf,
    trash: Trash,
}

impl Containers {
    pub(crate) fn new(data_root: &Path, trash: Trash) -> Self {
        Self {
            root: data_root.join("containers"),
            trash,
        }
    }

    /// Paths of a container, made or not.
    pub fn dirs(&self, id: &ContainerId) -> ContainerDirs {
        let dir = self.root.join(id.as_str());
        ContainerDirs {
            upper: dir.join("upper"),
            work: dir.join("work"),
            hosts: dir.join("hosts"),
            hostname: dir.join("hostname"),
            resolv_conf: dir.join("resolv.conf"),
            log: dir.join(format!("{id}-json.log")),
            dir,
        }
    }

    /// Makes the directories of a new container: three mkdirs, no fsync. A power cut may lose them; the record, which is
    /// durable, has them made again (`prepare` of what exists is no error).
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn prepare(&self, id: &ContainerId) -> Result<ContainerDirs> {
        let dirs = self.dirs(id);
        for (path, mode) in [
            (&dirs.dir, 0o710),
            // Becomes the mode of the container's `/`, whatever the daemon's umask is.
            (&dirs.upper, 0o755),
            (&dirs.work, 0o700),
        ] {
            let mode = Mode::from_raw_mode(mode);
            match rustix::fs::mkdir(path, mode) {
                Ok(()) => rustix::fs::chmodat(CWD, path, mode, rustix::fs::AtFlags::empty())
                    .map_err(|e| Error::io(format_args!("chmod {}", path.display()), e))?,
                Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(Error::io(format_args!("mkdir {}", path.display()), error));
                }
            }
        }
        Ok(dirs)
    }

    /// Takes a container's directory away: one rename now, the deletion later. One that is not there is no error.
    ///
    /// # Errors
    /// When the directory cannot be renamed.
    pub fn discard(&self, id: &ContainerId) -> Result<()> {
        self.trash.take(&self.root.join(id.as_str())).map(drop)
    }

    /// The containers that have a directory, for recovery to compare with the records. What is no container's goes.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn known_on_disk(&self) -> Result<Vec<ContainerId>> {
        let read = std::fs::read_dir(&self.root)
            .map_err(|e| Error::io(format_args!("open {}", self.root.display()), e))?;
        Ok(read
            .flatten()
            .filter_map(|entry| ContainerId::parse(entry.file_name().to_str()?))
            .collect())
    }

    /// Bytes on the disk that the container has changed or added (`SizeRw`), by its upper directory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn size(&self, id: &ContainerId) -> Result<u64> {
        crate::usage::apparent(&self.dirs(id).upper)
    }
}
