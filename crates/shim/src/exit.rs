//! The record of the container's end.

use std::{fs, io, path::Path};

use crate::protocol::Exit;

/// Name of the record in the run directory: an [`Exit`] as JSON.
pub const RECORD: &str = "exit.json";

/// Writes the record under a temporary name, then renames it: a reader sees all of it or nothing.
pub fn record(run_dir: &Path, exit: &Exit) -> io::Result<()> {
    let unfinished = run_dir.join("exit.json.tmp");
    fs::write(&unfinished, serde_json::to_vec(exit)?)?;
    fs::rename(unfinished, run_dir.join(RECORD))
}

/// Reads the record of a container whose shim is gone; None when it left none.
///
/// # Errors
/// What open(2) and read(2) say, `InvalidData` for a damaged record.
pub fn read_record(run_dir: &Path) -> io::Result<Option<Exit>> {
    match fs::read(run_dir.join(RECORD)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
