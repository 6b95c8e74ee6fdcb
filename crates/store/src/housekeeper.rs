//! The background thread for work that nobody waits for: deleting what is in the trash, writing the log back.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool, mpsc::Receiver},
};

use crate::{records::Database, trash};

/// One piece of background work.
pub enum Chore {
    /// Empty the trash directory.
    Trash,
    /// Write SQLite's log back into the database file.
    Checkpoint,
    /// End the thread: the store is being closed.
    Stop,
}

pub struct Housekeeper {
    pub database: Database,
    pub trash: PathBuf,
    /// Set when the store is being closed: what is left in the trash waits for the next start.
    pub stopping: Arc<AtomicBool>,
}

impl Housekeeper {
    /// Runs until it is told to stop.
    pub fn run(self, chores: &Receiver<Chore>) {
        while let Ok(first) = chores.recv() {
            let (mut empty_trash, mut checkpoint) = (false, false);
            for chore in std::iter::once(first).chain(chores.try_iter()) {
                match chore {
                    Chore::Trash => empty_trash = true,
                    Chore::Checkpoint => checkpoint = true,
                    Chore::Stop => return,
                }
            }
            if checkpoint {
                // Tried again after the next few hundred pages.
                let _ = self.database.checkpoint();
            }
            if empty_trash {
                trash::empty(&self.trash, &self.stopping);
            }
        }
    }
}
