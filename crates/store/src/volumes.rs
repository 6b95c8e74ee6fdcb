//! Local volumes: `<root>/volumes/<name>/_data`. Their records are the engine's.

use std::path::{Path, PathBuf};

use longshore_model::{Error, Result};
use rustix::{fs::Mode, io::Errno};

pub use crate::volume_mount::VolumeMount;
use crate::{trash::Trash, usage, volume_mount};

/// The volumes of a data root.
#[derive(Clone)]
pub struct Volumes {
    root: PathBuf,
    trash: Trash,
}

impl Volumes {
    pub(crate) fn new(data_root: &Path, trash: Trash) -> Self {
        Self {
            root: data_root.join("volumes"),
            trash,
        }
    }

    /// Where a volume's content is (`Mountpoint` in inspect), made or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// Makes a volume's directory and returns its path; one that exists is kept as it is.
    ///
    /// # Errors
    /// A name that is no single file name; a directory that cannot be made.
    pub fn create(&self, name: &str) -> Result<PathBuf> {
        check(name)?;
        let path = self.path(name);
        // Others may pass but not list: the content's own mode says who may read it.
        for (folder, mode) in [(self.root.join(name), 0o701), (path.clone(), 0o755)] {
            let mode = Mode::from_raw_mode(mode);
            match rustix::fs::mkdir(&folder, mode) {
                Ok(()) => rustix::fs::chmod(&folder, mode)
                    .map_err(|e| Error::io(format_args!("chmod {}", folder.display()), e))?,
                Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(Error::io(format_args!("mkdir {}", folder.display()), error));
                }
            }
        }
        Ok(path)
    }

    /// Takes a volume's directory away. One that is not there is no error.
    ///
    /// # Errors
    /// When it cannot be renamed, for example because something is mounted on it.
    pub fn remove(&self, name: &str) -> Result<()> {
        check(name)?;
        self.trash.take(&self.root.join(name)).map(drop)
    }

    /// Removes the directory of a volume that was never used; false when there is something in it.
    pub fn remove_empty(&self, name: &str) -> bool {
        if check(name).is_err() {
            return false;
        }
        let _ = std::fs::remove_dir(self.path(name));
        std::fs::remove_dir(self.root.join(name)).is_ok()
    }

    /// Mounts what a volume's options ask for over its directory; blocks as long as a server does.
    ///
    /// # Errors
    /// In dockerd's words, with the reason of the kernel.
    pub fn mount(&self, name: &str, what: &VolumeMount) -> Result<()> {
        check(name)?;
        what.mount_at(&self.path(name))
    }

    /// Is anything mounted over the volume's directory?
    pub fn is_mounted(&self, name: &str) -> bool {
        check(name).is_ok() && volume_mount::is_mounted(&self.path(name))
    }

    /// Takes away what is mounted over the volume's directory, if anything is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unmount(&self, name: &str) -> Result<()> {
        check(name)?;
        volume_mount::unmount_all(&self.path(name))
    }

    /// Bytes of the volume's files (`UsageData.Size`).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn size(&self, name: &str) -> Result<u64> {
        usage::apparent(&self.path(name))
    }

    /// Names of the volumes that have a directory, for recovery to compare with the records.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn known_on_disk(&self) -> Result<Vec<String>> {
        let read = std::fs::read_dir(&self.root)
            .map_err(|e| Error::io(format_args!("open {}", self.root.display()), e))?;
        Ok(read
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }
}

/// Docker's rule for names is the engine's; this one keeps paths inside the folder.
fn check(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::invalid(format!("invalid volume name {name:?}")));
    }
    Ok(())
}
