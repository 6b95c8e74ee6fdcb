//! The only writer of durable files: a temporary file, fsync, rename, fsync of the folder.
//! A reader sees the old content or the new, never half of it.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use longshore_model::{Error, Result, id};

/// How much a file must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlive {
    /// A power cut.
    PowerCut,
    /// The daemon. For files that are made anew after a reboot anyway (a container's hosts, hostname, resolv.conf).
    Daemon,
}

/// Puts a file with this content in place of `path`.
///
/// # Errors
/// The failed step; the old file is then still there.
pub fn replace(path: &Path, content: &[u8], mode: u32, outlive: Outlive) -> Result<()> {
    let folder = path
        .parent()
        .ok_or_else(|| Error::system(format!("{} has no folder", path.display())))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", &id::random_hex()[..12]));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
        if outlive == Outlive::PowerCut {
            file.sync_data()?;
        }
        std::fs::rename(&temporary, path)?;
        if outlive == Outlive::PowerCut {
            sync_folder(folder)?;
        }
        Ok(())
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(format_args!("write {}", path.display()), e)
    })
}

/// Renames to a name that must be free. File systems that cannot promise that (NFS) get a plain rename.
pub(crate) fn rename_new(from: &Path, to: &Path) -> rustix::io::Result<()> {
    use rustix::{
        fs::{CWD, RenameFlags, rename, renameat_with},
        io::Errno,
    };
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL) => rename(from, to),
        done => done,
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Up to so many files are synced one by one.
const ONE_BY_ONE: u64 = 256;

/// Makes new files and trees durable. A few are synced each; for the ten thousand files of a base image one call syncs the
/// whole file system below `root`, which also waits for what others have written there.
pub(crate) fn sync_trees(root: &Path, trees: &[(PathBuf, u64)]) -> Result<()> {
    let sync = || -> std::io::Result<()> {
        if trees.iter().map(|(_, inodes)| inodes).sum::<u64>() > ONE_BY_ONE {
            return Ok(rustix::fs::syncfs(File::open(root)?)?);
        }
        let mut folders = BTreeSet::new();
        for (path, _) in trees {
            sync_tree(path)?;
            folders.extend(path.parent());
        }
        folders.into_iter().try_for_each(sync_folder)
    };
    sync().map_err(|e| Error::io(format_args!("sync {}", root.display()), e))
}

fn sync_tree(path: &Path) -> std::io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if kind.is_file() {
        return File::open(path)?.sync_all();
    }
    // Links and devices are all in their folder.
    if kind.is_dir() {
        for entry in std::fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
        sync_folder(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let folder = std::env::temp_dir().join(format!("durable-{}", id::random_hex()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("f");
        for (content, outlive) in [("one", Outlive::PowerCut), ("2", Outlive::Daemon)] {
            replace(&path, content.as_bytes(), 0o640, outlive).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        assert!(replace(&folder.join("no/f"), b"", 0o600, Outlive::Daemon).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
