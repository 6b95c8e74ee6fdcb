//! Work folders: where content lies until it is whole and known.

use std::path::{Path, PathBuf};

use longshore_model::{Error, Result, id};

use crate::trash::Trash;

/// Makes work folders below `tmp/`.
pub struct Works {
    tmp: PathBuf,
    trash: Trash,
}

/// A folder that goes to the trash with the value; after a crash, at the next start.
pub struct Work {
    path: PathBuf,
    trash: Trash,
}

impl Works {
    pub fn new(data_root: &Path, trash: Trash) -> Self {
        Self {
            tmp: data_root.join("tmp"),
            trash,
        }
    }

    pub fn make(&self) -> Result<Work> {
        let path = self.tmp.join(&id::random_hex()[..16]);
        std::fs::create_dir(&path)
            .map_err(|e| Error::io(format_args!("mkdir {}", path.display()), e))?;
        Ok(Work {
            path,
            trash: self.trash.clone(),
        })
    }
}

impl Work {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Fails only when the folder is gone or the disk is broken; the next start clears it then.
        let _ = self.trash.take(&self.path);
    }
}
