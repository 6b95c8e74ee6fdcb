//! The background thread for work that nobody waits for: deleting what is in the trash, writing the log back.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
};

use crate::records::Database;

/// One piece of background work.
pub enum Chore {
    /// Empty the trash directory.
    Trash,
    /// Write SQLite's log back into the database file.
    Checkpoint,
}

pub struct Housekeeper {
    pub database: Database,
    pub trash: PathBuf,
    /// Set when the store is being closed: what is left in the trash waits for the next start.
    pub stopping: Arc<AtomicBool>,
}

impl Housekeeper {
    /// Runs until every sender is gone.
    pub fn run(self, chores: &Receiver<Chore>) {
        while let Ok(first) = chores.recv() {
            let (mut trash, mut checkpoint) = (false, false);
            for chore in std::iter::once(first).chain(chores.try_iter()) {
                match chore {
                    Chore::Trash => trash = true,
                    Chore::Checkpoint => checkpoint = true,
                }
            }
            if checkpoint {
                // Tried again after the next few hundred pages.
                let _ = self.database.checkpoint();
            }
            if trash {
                self.empty_trash();
            }
        }
    }

    /// Deletes everything in the trash, as far as it can. What stays is tried again at the next start.
    fn empty_trash(&self) {
        let Ok(entries) = std::fs::read_dir(&self.trash) else {
            return;
        };
        for entry in entries.flatten() {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let _ = std::fs::remove_dir_all(&path);
            } else {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}
